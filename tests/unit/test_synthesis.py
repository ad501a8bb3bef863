"""Programs of a file's turns, each written on top of those before it."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsp_server.synthesis import WrittenTurn, synthesize
from lsp_server.turns import read_turns
from lsp_server.verdict import UNCHECKED, CheckRequest, Cut, Problem, Verdict, VerdictKind
from tests.fakes import Script, ScriptedEngine, fake_model


def unchecked(_request: CheckRequest) -> Verdict:
    """Say nothing of any program."""
    return UNCHECKED


def synthesized(
    text: str,
    script: Script,
    *,
    check: Callable[[CheckRequest], Verdict] = unchecked,
    stale_from: int | None = None,
    language_id: str = "python",
) -> tuple[list[WrittenTurn], list[str]]:
    """Return the turns that were written, and the prompts that the engine got."""
    model = fake_model(script)
    assert isinstance(model.engine, ScriptedEngine)
    turns = synthesize(
        model,
        text,
        max_new_tokens=99,
        check=check,
        stale_from=stale_from,
        language_id=language_id,
    )
    return list(turns), [call.prompt for call in model.engine.calls]


def named(prompt: str) -> str:
    """Write a line that uses the last word of the comment, indented as that is."""
    comment = prompt.rstrip("\n").rpartition("\n")[2]
    indent = comment[: len(comment) - len(comment.lstrip())]
    word = comment.split()[-1].strip("#'(") or "_"
    return f"{indent}{word} = 1\n# End.\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# a\n", "# a\na = 1\n"),
        ("# a", "# a\na = 1\n"),
        ("# a\n\n# b\n\n", "# a\na = 1\n\n# b\nb = 1\n"),
        ("# a\n\n\n\n\n# b\nx\n", "# a\na = 1\n\n\n# b\nx\n"),
        ("# a\n# %%\nx\n", "# a\na = 1\n\n# %%\nx\n"),
        ("# a\nx\n# b\n# c\n\n# d\ny", "# a\nx\n# b\n# c\nc = 1\n\n# d\ny"),
        ("# a\r\n\r\n# b\r\n", "# a\r\na = 1\r\n\r\n# b\r\nb = 1\r\n"),
        ("# a\r\r# b\r", "# a\ra = 1\r\r# b\rb = 1\r"),
        ("def f():\n    # a\n", "def f():\n    # a\n    a = 1\n"),
        ("def f():\n    # a\n\n\nx\n", "def f():\n    # a\n    a = 1\n\n\nx\n"),
        ("# a\ndef f():\n\t# b\n\n# c\n", "# a\ndef f():\n\t# b\n\tb = 1\n\n# c\nc = 1\n"),
        ("# a\n  \n\t\n", "# a\na = 1\n"),
        ("x = 1\n", "x = 1\n"),
        ("if x:\n    # a\nelse:\n    y\n", "if x:\n    # a\n    a = 1\nelse:\n    y\n"),
        (
            'class E(Exception):\n    """Raised."""\n',
            'class E(Exception):\n    """Raised."""\n',
        ),
        ("", ""),
    ],
)
def test_each_empty_turn_gets_its_program(text: str, expected: str) -> None:
    """A program stands below its comment, and one or two blank lines before what follows."""
    turns, _ = synthesized(text, named)
    assert (turns[-1].text if turns else text) == expected
    # Once written, nothing is left to write.
    assert synthesized(expected, named) == ([], [])


def called(prompt: str) -> str:
    """Write a call of the last word of the comment, indented as that is."""
    comment = prompt.rstrip("\n").rpartition("\n")[2]
    indent = comment[: len(comment) - len(comment.lstrip())]
    return f"{indent}{comment.split()[-1]}();\n// End.\n"


@pytest.mark.parametrize("language_id", ["c", "cpp", "go", "java", "javascript", "typescript"])
@pytest.mark.parametrize(
    ("text", "stale_from", "expected"),
    [
        ("// a\n\n// b\n", None, "// a\na();\n\n// b\nb();\n"),
        ("x {\n\t// a\n}\n", None, "x {\n\t// a\n\ta();\n}\n"),
        ("x {\n\t// a\n\n\t// b\n\n}\n", None, "x {\n\t// a\n\ta();\n\n\t// b\n\tb();\n}\n"),
        ("// a\nx();\n\n// b\ny();\n", 2, "// a\nx();\n\n// b\nb();\n"),
        ("// a\nx();\n", None, "// a\nx();\n"),
        ("x {\n  // a\n  y();\n\n}\n", 0, "x {\n  // a\n  a();\n}\n"),
    ],
)
def test_other_languages_have_turns_too(
    language_id: str, text: str, stale_from: int | None, expected: str
) -> None:
    """A program stands below its comment, and no blank line before the brace that follows."""

    def check(_request: CheckRequest) -> Verdict:
        raise AssertionError("the check knows Python only")

    turns, _ = synthesized(
        text, called, check=check, stale_from=stale_from, language_id=language_id
    )
    assert (turns[-1].text if turns else text) == expected
    assert {turn.verdict for turn in turns} <= {UNCHECKED}


def test_a_turn_is_built_on_those_before_it() -> None:
    """The model sees the file above each comment with the programs it wrote there."""
    turns, prompts = synthesized("import os\n\n# a\n\n# b\n\n# c\nx\n\n# d\n", named)
    assert prompts == [
        "import os\n\n# a\n",
        "import os\n\n# a\na = 1\n\n# b\n",
        "import os\n\n# a\na = 1\n\n# b\nb = 1\n\n# c\nx\n\n# d\n",
    ]
    assert [(turn.line, turn.prompt, turn.program) for turn in turns] == [
        (2, "a", "a = 1"),
        (5, "b", "b = 1"),
        (11, "d", "d = 1"),
    ]
    assert turns[0].text == "import os\n\n# a\na = 1\n\n# b\n\n# c\nx\n\n# d\n"


def test_each_program_is_checked_in_its_place() -> None:
    """The check gets the file as it was and the program with its offset."""
    requests = []
    good = Verdict(VerdictKind.OK)

    def check(request: CheckRequest) -> Verdict:
        requests.append(request)
        return good

    (turn,), _ = synthesized("# a\n\n# b\nx\n", named, check=check)
    (request,) = requests
    with_program = (
        request.text[: request.offset] + request.insert_text + request.text[request.offset :]
    )
    assert request.insert_text == turn.program == "a = 1"
    assert with_program == turn.text
    assert turn.verdict == good


@pytest.mark.parametrize(
    ("text", "stale_from"),
    [("# a\n\n# b\n\n# c\n", None), ("# a\n\n# b\nx\n\n# c\ny\n", 0)],
)
def test_a_flagged_program_is_shown_and_not_built_upon(
    text: str, stale_from: int | None
) -> None:
    """The text stays as it was at that turn, and the next turns never see the program."""
    flagged = Verdict(VerdictKind.FLAGGED, (Problem(1, 0, "F821", "undefined"),))

    def check(request: CheckRequest) -> Verdict:
        return flagged if request.insert_text == "b = 1" else UNCHECKED

    turns, prompts = synthesized(text, named, check=check, stale_from=stale_from)
    assert [turn.program for turn in turns] == ["a = 1", "b = 1", "c = 1"]
    assert [turn.verdict for turn in turns] == [UNCHECKED, flagged, UNCHECKED]
    assert turns[1].text == turns[0].text
    old = "" if stale_from is None else "x\n"
    assert turns[2].text == f"# a\na = 1\n\n# b\n{old}\n# c\nc = 1\n"
    assert not any("b = 1" in prompt for prompt in prompts)


def test_of_a_repaired_program_what_holds_is_written() -> None:
    """A program may be cut between its outer statements, and is built upon as it is left."""
    repaired = Verdict(VerdictKind.REPAIRED, (Problem(1, 0, "syntax", "bad"),), n_kept=1)

    def check(request: CheckRequest) -> Verdict:
        return repaired if request.cut is Cut.OUTER else UNCHECKED

    turns, _ = synthesized("# a\n", named, check=check)
    assert [(turn.program, turn.text) for turn in turns] == [("a", "# a\na\n")]


@pytest.mark.parametrize("text", ["# a", "# a\n\n\n\n# b\r\n", "def f():\n    # a\nx\n"])
def test_a_model_with_nothing_to_say_changes_nothing(text: str) -> None:
    """The text stays as it was to the last blank line, and each turn is told of."""
    turns, prompts = synthesized(text, "")
    assert [turn.program for turn in turns] == [""] * text.count("#")
    assert len(prompts) == len(turns)
    assert {turn.text for turn in turns} == {text}


@pytest.mark.parametrize(
    ("text", "stale_from", "expected"),
    [
        ("# a\nx\n\n# b\ny\n", 0, "# a\na = 1\n\n# b\nb = 1\n"),
        ("# a\nx\n\n# b\ny\n", 1, "# a\nx\n\n# b\nb = 1\n"),
        ("# a\nx\n# b\ny\n", 0, "# a\na = 1\n\n# b\nb = 1\n"),
        ("# a\nx\n\n# b\ny\n", 9, "# a\nx\n\n# b\ny\n"),
        ("# a\r\nx\r\n# b\r\ny", 0, "# a\r\na = 1\r\n\r\n# b\r\nb = 1\r\n"),
        (
            "# a\ndef f():\n    # b\n    x\n\n# c\ny\n\n# %%\nz\n",
            0,
            "# a\na = 1\n\n# c\nc = 1\n\n# %%\nz\n",
        ),
        (
            "# a\ndef f():\n    # b\n    x\n\n# c\ny\n",
            1,
            "# a\ndef f():\n    # b\n    b = 1\n\n# c\nc = 1\n",
        ),
    ],
)
def test_stale_programs_are_written_anew(text: str, stale_from: int, expected: str) -> None:
    """From a line on each turn's program goes, and no comment or other code with it."""
    turns, prompts = synthesized(text, named, stale_from=stale_from)
    assert (turns[-1].text if turns else text) == expected
    assert not any("x" in prompt for prompt in prompts if stale_from == 0)


@pytest.mark.parametrize(
    "text", ["x = 1\n# Print x\n\ny = 2\n", "# a\nx\n\n\n\n# b\n\n\ny", "# a\r\n  \r\nx\r\n"]
)
def test_a_stale_program_without_a_better_one_stays(text: str) -> None:
    """No code of a person is lost where the model has nothing to say."""
    turns, _ = synthesized(text, "", stale_from=0)
    assert [turn.program for turn in turns] == [""] * text.count("#")
    assert {turn.text for turn in turns} == {text}


def test_a_turn_inside_a_stale_program_that_stays_is_stale_itself() -> None:
    """It is asked for on its own, because nothing that was written holds it."""
    turns, _ = synthesized(
        "# a\ndef f():\n    # b\n    x\n",
        lambda prompt: "" if prompt.endswith("# a\n") else named(prompt),
        stale_from=0,
    )
    assert [turn.program for turn in turns] == ["", "    b = 1"]
    assert turns[-1].text == "# a\ndef f():\n    # b\n    b = 1\n"


def test_a_turn_inside_a_new_program_is_not_stale() -> None:
    """What was just written is not written again."""
    program = "def f():\n    # b\n    x = 2\n"
    turns, _ = synthesized("# a\ny\n\n# %%\n", program + "# End.\n", stale_from=0)
    assert [turn.text for turn in turns] == [f"# a\n{program}\n# %%\n"]


PIECES = ("# a\n", "# b", "    # c\n", "x = 1\n", "def f():\n", "    y\n", "\n", "\r\n", "  ")


@given(
    text=st.lists(st.sampled_from((*PIECES, "'''", "(", "# %%\n")), max_size=10).map("".join),
    stale_from=st.none() | st.integers(0, 9),
)
def test_comments_are_never_lost(text: str, stale_from: int | None) -> None:
    """In any file each turn is written at most once, and those outside others stay."""
    outer = [turn.prompt for turn in read_turns(text) if not turn.indent]
    turns, _ = synthesized(text, named, stale_from=stale_from)
    assert len(turns) <= len(read_turns(text))
    if turns:
        left = [turn.prompt for turn in read_turns(turns[-1].text) if not turn.indent]
        assert left == outer
