"""One completion from one snapshot, written by an engine that recites."""

import math
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lsp_server.completion import (
    UNFINISHED,
    Completion,
    complete,
    line_end_of,
    standing,
    suggestion_source,
    warm_up,
)
from lsp_server.known_names import KnownNames, NameKind, NamesRequest, Receiver
from lsp_server.perplexity import prompt_perplexity, turn_perplexity
from lsp_server.plan import Rule, Snapshot
from lsp_server.serving_model import Model
from lsp_server.steering import NameSource
from lsp_server.turns import read_turns
from lsp_server.vocabulary import Encoded, Vocabulary
from lsp_server.writing import Draft
from tests.fakes import ByteTokenizer, Script, ScriptedEngine, fake_model, log_probability

CURSOR = "$0"
FILE = "".join(f"# Compute {n}.\nvalue_{n} = {n}\n\n" for n in range(300))


def snapshot_of(marked: str, language_id: str = "python") -> Snapshot:
    """Return the snapshot of a text that holds the cursor's mark."""
    before, _, after = marked.partition(CURSOR)
    return Snapshot(before + after, len(before), language_id)


def asked(
    marked: str,
    script: Script = "",
    *,
    language_id: str = "python",
    max_new_tokens: int = 256,
    n_candidates: int = 1,
    context_length: int = 2048,
) -> tuple[Completion, ScriptedEngine]:
    """Return the completion at the mark, and the engine that wrote it."""
    model = fake_model(script, context_length)
    completion = complete(
        model,
        snapshot_of(marked, language_id),
        max_new_tokens=max_new_tokens,
        n_candidates=n_candidates,
    )
    assert isinstance(model.engine, ScriptedEngine)
    return completion, model.engine


def inserted(marked: str, script: Script, max_new_tokens: int = 256) -> str:
    """Return the text of the only candidate, or nothing."""
    completion, _ = asked(marked, script, max_new_tokens=max_new_tokens)
    return "".join(candidate.insert_text for candidate in completion.candidates)


@pytest.mark.parametrize(
    ("marked", "rule"),
    [
        ("# Do it.\n$0", Rule.TURN),
        ("# Do it.\n\n\n$0\n\n", Rule.TURN),
        ("# Do it.\n$0\n\n# Next.\nx = 1\n", Rule.TURN),
        ("# Do it.\n\n    $0", Rule.TURN),
        ("def f():\n    # Do it.\n    $0", Rule.TURN),
        ("def f():\n    # Do it.\n$0\n\nx = 1\n", Rule.TURN),
        ("if x:\n    # A\n    y\n# B\n$0", Rule.TURN),
        ("# Do it.\nx = 1\n$0", Rule.STATEMENT),
        ("# Do it.\n$0\nx = 1\n", Rule.STATEMENT),
        ("# Do it.\nx$0", Rule.STATEMENT),
        ("# type: ignore\n$0", Rule.STATEMENT),
        ("x = $0", Rule.STATEMENT),
        ("x = $0  \n", Rule.STATEMENT),
        ("def f():$0\n", Rule.STATEMENT),
        ("x = f(\n)\n$0", Rule.STATEMENT),
        ("f($0)", Rule.LINE),
        ("f(\n    $0\n)", Rule.LINE),
        ("x = [$0", Rule.STATEMENT),
        ("x = [$0\n\ny = 1\n", Rule.STATEMENT),
        ("x = [$0\n    1]\n", Rule.LINE),
        ("x = $0 + 1", Rule.LINE),
        ("x = " + "1 + " * 500 + "$0", Rule.LINE),
    ],
)
def test_rule_of_a_place(marked: str, rule: Rule) -> None:
    """A whole program is written only where a comment above has none."""
    assert asked(marked)[0].rule is rule


def known(*names: str) -> NameSource:
    """Return an analyser that always knows the same names."""

    def ask(_request: NamesRequest) -> "Future[KnownNames | None]":
        answer: Future[KnownNames | None] = Future()
        answer.set_result(KnownNames(names, (Receiver.INSTANCE,)))
        return answer

    return NameSource(ask)


@pytest.mark.parametrize(
    ("marked", "script", "plain", "steered"),
    [
        ("x = y.$0", "zappend(1)\n", "zappend(1)", "append(1)"),
        ("x = y.ap$0", "apzpend(1)\n", "zpend(1)", "pend(1)"),
        ("x = f(y[$0", "0)])\n", "", "0])"),
        ("x = '$0", "", "", ""),
    ],
)
def test_what_is_known_steers_what_is_written(
    marked: str, script: str, plain: str, steered: str
) -> None:
    """A completion keeps to known names and open brackets; without an analyser it does not."""
    texts = []
    for names in (None, known("append", "pop")):
        found = complete(
            fake_model(script), snapshot_of(marked), max_new_tokens=64, names=names
        )
        texts.append("".join(candidate.insert_text for candidate in found.candidates))
    assert texts == [plain, steered]


class Later(Future[KnownNames | None]):
    """An answer that is there when it was looked for so often."""

    def __init__(self, n_looks: int, *names: str) -> None:
        super().__init__()
        self.set_result(KnownNames(names, (Receiver.INSTANCE,)))
        self.n_looks = n_looks

    def done(self) -> bool:
        """Tell whether it was looked for often enough."""
        self.n_looks -= 1
        return self.n_looks < 0

    def is_waited_for(self) -> None:
        """Be there."""
        self.n_looks = 0


@pytest.mark.parametrize("n_looks", [*range(16), 1000])
def test_names_that_come_late_steer_what_was_written_meanwhile(
    n_looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever an answer comes, the text is as if it had been there, and costs no tokens."""
    asked: list[str] = []

    def waited(answers: Iterable[Later], _timeout: float) -> tuple[set[Later], set[Later]]:
        for answer in answers:
            answer.is_waited_for()
        return set(answers), set()

    monkeypatch.setattr("lsp_server.steering.wait", waited)

    def ask(request: NamesRequest) -> "Future[KnownNames | None]":
        before = request.text[: request.offset]
        asked.append(before)
        return Later(n_looks, *{"y.": ["append"], "a.": ["get"]}.get(before[-2:], []))

    def script(prompt: str) -> str:
        written = "zappend(b.c, a.zget)\n"
        done = prompt.rpartition("y.")[2]
        return written[len(done) + ("append" in done) + ("a.g" in done) :]

    found = complete(
        fake_model(script),
        snapshot_of("x = y.$0"),
        max_new_tokens=22,
        names=NameSource(ask, kinds=frozenset({NameKind.ATTRIBUTE})),
    )
    assert [candidate.insert_text for candidate in found.candidates] == ["append(b.c, a.get)"]
    assert asked[0] == "x = y."


def test_an_answer_that_never_comes_steers_nothing() -> None:
    """At the end the completion waits for the deadline and no longer."""
    names = NameSource(lambda _request: Future(), deadline_s=0.0)
    found = complete(
        fake_model("zappend(1)\n"), snapshot_of("x = y.$0"), max_new_tokens=64, names=names
    )
    assert [candidate.insert_text for candidate in found.candidates] == ["zappend(1)"]


@pytest.mark.parametrize("language_id", ["php", "ruby", "plaintext"])
def test_other_languages_get_lines(language_id: str) -> None:
    """Where nobody reads comments, strings and blocks, the rest of the line is all."""
    completion, _ = asked("# Do 'it.\n$0\n", "a = 1\nb = 2\n", language_id=language_id)
    assert completion.rule is Rule.LINE
    assert [candidate.insert_text for candidate in completion.candidates] == ["a = 1"]


@pytest.mark.parametrize(
    ("marked", "silence"),
    [
        ("$0", "the file is empty"),
        (" \n\t\n$0\n", "the file is empty"),
        ("# Do i$0", "the cursor is in a comment"),
        ("# Do it.$0\n", "the cursor is in a comment"),
        ("x = 1  # why$0\n", "the cursor is in a comment"),
        ("x = 'a$0'", "the cursor is in a string"),
        ("x = 'a\\'$0", "the cursor is in a string"),
        ('"""A\n$0\n"""\n', "the cursor is in a string"),
        ("val$0ue = 1", "the cursor is inside a word"),
    ],
)
def test_silence(marked: str, silence: str) -> None:
    """Where nothing is wanted the engine is not even asked."""
    completion, engine = asked(marked, "x = 1\n")
    assert (completion.candidates, completion.silence) == ((), silence)
    assert engine.calls == []


@pytest.mark.parametrize(
    ("marked", "expected"),
    [
        ("# Do it.\n$0", "x = 1\nif x:\n    y = 2"),
        ("def f():\n    # Do it.\n$0", "    x = 1\n    if x:\n        y = 2"),
        ("def f():\n    # Do it.\n    $0", "x = 1\n    if x:\n        y = 2"),
        ("def f():\n    # Do it.\n\n\n    $0\n\ny = 1\n", "x = 1\n    if x:\n        y = 2"),
        ("def f():\n\t# Do it.\n\t$0", "x = 1\n\tif x:\n\t\ty = 2"),
        ("def f():\n\t# Do it.\n$0", "\tx = 1\n\tif x:\n\t\ty = 2"),
        ("# Do it.\n    $0", "x = 1\n    if x:\n        y = 2"),
    ],
)
def test_a_program_has_the_indentation_of_its_place(marked: str, expected: str) -> None:
    """The comment's indentation is written where it is missing, and never twice."""
    comment = marked.partition("#")[0].rpartition("\n")[2]
    typed = marked.partition(CURSOR)[0].rpartition("\n")[2]
    indent = comment if comment.startswith(typed) else typed
    script = f"{indent}x = 1\n{indent}if x:\n{indent}    y = 2\n{indent}# Next.\n"
    assert inserted(marked, script) == expected
    # A model that forgets the indentation of the first line gets it all the same.
    assert inserted(marked, script.removeprefix(indent)) == expected


@pytest.mark.parametrize(
    "history",
    ["", "# Import libraries.\n\nimport numpy as np\n\n", "é = '😀'\n\n# A\nx = 1\n\n\n"],
)
def test_the_prompt_of_a_turn_is_the_papers(history: str) -> None:
    """The model gets the text up to and with the comment's newline, and nothing else."""
    for below in ("$0", "\n\n$0\n", "$0\n\n# Later.\ny = 1\n"):
        _, engine = asked(f"{history}# Do it.\n{below}", "x = 1\n")
        expected = ByteTokenizer().encode(f"{history}# Do it.\n").token_ids
        assert list(engine.calls[0].token_ids) == expected
    _, engine = asked(f"{history}if x:\n    # Do it.\n    $0", "x = 1\n")
    assert engine.calls[0].prompt == f"{history}if x:\n    # Do it.\n"


@pytest.mark.parametrize(
    ("marked", "script", "expected"),
    [
        ("x = $0", "1\ny = 2\n", "1"),
        ("x = $0", "1", "1"),
        ("x = f($0", "(a)\n", "a)"),
        ("    retu$0\n", " return 1\n", "rn 1"),
        ("def f(x):$0\n", ":\n    return x\n\n\ny", "\n    return x"),
        ("if x:\n    $0", "\n    a = 1\n    b = 2\n", "a = 1\n    b = 2"),
        ("if x:\n    $0\n    c = 3\n", "\n    a = 1\n    b = 2\n", "a = 1"),
        ("if x:\n    c = 3\n    $0\n", "\n    a = 1\n    b = 2\n", "a = 1"),
        ("def f(a):\n    $0\n", "x = a\n    return x\n\n\nq", "x = a\n    return x"),
        ("def f(a):\n$0\ny = 1\n", "    x = a\n    return x\ny", "    x = a\n    return x"),
        ("def f(\n    a,\n):\n    $0\n", "x = a\n    return x\nq", "x = a\n    return x"),
        (
            "def f(a):\n    $0\n",
            "x = a\n    # Then.\n    return x\nq",
            "x = a\n    # Then.\n    return x",
        ),
        ("if x:\n    y\nelse:\n    $0\n", "a = 1\n    b = 2\nc\n", "a = 1\n    b = 2"),
        ("foo($0\n\ny = 1\n", "\n    a,\n)\ny\n", "\n    a,\n)"),
        ("x = {$0\n", "\n    'a': 1,\n}\ny\n", "\n    'a': 1,\n}"),
        ("x = [1,$0\ny = 2\n", "\n     2]\ny\n", "\n     2]"),
        ("x = [\n    1,\n    $0\n", "2,\n]\ny\n", "2,\n]"),
        ("def f($0\n", "(a):\n    return a\n\n\nq", "a):\n    return a"),
        ("x = 1 + \\\n    $0\n", "2\ny = 3\n", "2"),
        (
            "x = {$0\n",
            "{'a': 1,\n" + "".join(f"     {n}: {n},\n" for n in range(99)),
            "'a': 1,",
        ),
        ("x = 1\n$0", "if x:\n    a\nelse:\n    b\nc = 1\n", "if x:\n    a\nelse:\n    b"),
        ("x = 1\n$0", "#\ny = 1\n", "y = 1"),
        ("x = 1\n    $0", "\n    \t # y = 1\n", "y = 1"),
        ("# Do it.\n$0", "'''y = 1\n", "y = 1"),
        ("# Do it.\n$0", "x = 1\n\n\n\ny = 2", "x = 1"),
        ("# Do it.\n$0", "print(1)\nprint(2)\n", "print(1)"),
        ("# Do it.\n$0", "x = 1\n# Next.\n", "x = 1"),
        ("# Do it.\n$0", "x = 1", "x = 1"),
        ("# Do it.\n$0", "x = 1\n" * 9, "x = 1"),
        ("# Do it.\n$0", "", ""),
        ("x = 1\n$0", "y = [\n" + "    1,\n" * 9 + "]\n", ""),
        ("é = 1\né$0", "é = '😀'\n", " = '😀'"),
    ],
)
def test_what_is_inserted(marked: str, script: str, expected: str) -> None:
    """A program, a statement or a line ends where it is whole."""
    assert inserted(marked, script) == expected


@pytest.mark.parametrize(
    ("marked", "script", "expected"),
    [
        ("f($0)", "(a, b))\n", "a, b"),
        ("f($0)", "(len(a))\n", "len(a)"),
        ("f($0)", "(len(a)\n", "len(a)"),
        ("x = [$0]", "[1, 2]\n", "1, 2"),
        ("if f($0):", "(a):\n", "a"),
        ("x = $0 + 1", " y + 1\n", "y"),
        ("x = f(a, $0, b)", " c, b)\n", "c"),
        ("f(\n    a$0\n)", " a, b)\n", ", b"),
        ("f(\n    a,$0\n    b\n)", ", b\n", ""),
        ("x = 1\n$0\ny = 2\n", "y = 2\n", ""),
        ("x = 1\n$0\n\n\ny = 2\n", "y = 2\n", ""),
        ("x$0\ny = 2\n", "x = 1\ny = 2\n", " = 1"),
        ("x = $0\ny = 2\n", " y\n", "y"),
        ("x = $0+ 1", " y + 1\n", "y "),
        ("f($0)", "()\n", ""),
        ("x = foo(\n    bar(b$0\n)\n", ", c),\n)\n", ", c),"),
        ("x = [foo(b$0]\n", ", c)]\n", ", c)"),
        ("x = {'a': foo(b$0\n}\n", ", c)}\n", ", c)"),
        ("x = (foo(b$0)\n", ", c))\n", ", c)"),
        ("x = (foo(b$0))\n", ", c))\n", ", c"),
        ("s.filter(partial$0))\n", "(a, b)))\n", "(a, b"),
        ("def f(x):\n    return $0x\n", "foo\n", ""),
        ("def f(s):\n    return $0s.value\n", "int(s.value)\n", "int("),
        ("x = foo$0, b)\n", "(a, b)\n", "(a"),
        ("x = foo$0, b)\n", ".bar(a)(a, b)\n", ".bar(a)(a"),
        ("x = $0  # comment\n", "1  # other\n", "1"),
        ("x = $0 + 1\n", "y  # other\n", "y"),
        ("x = f($0)  # :)\n", "a)\n", "a"),
        ("print($0x)\n", '"the x is", x)\n', '"the x is", '),
        ("if x:$0\n    b = 2\n", ":\n    a = 1\n    b = 2\n\n\n", ""),
        ("if $0\n    do()\nelse:\n    x\n", "a > 0:\n    f()\nelse:\n    y\n\nx", "a > 0:"),
        ("if $0\n    # Do it.\n\ny = 1\n", "a:\n    f()\n\nx", "a:\n    f()"),
        ("# Do it.\n$0\n\nx = 1\n", "y = 1\nx = 1\n#", "y = 1"),
        ("if x:\n    $0\nreturn\n", "return\n", "return"),
        ("if x:\n    $0\n    return\n", "return\n", ""),
    ],
)
def test_what_follows_is_not_written_again(marked: str, script: str, expected: str) -> None:
    """Brackets and text that stand after the cursor are left to stand there."""
    assert inserted(marked, script) == expected


@pytest.mark.parametrize(
    ("marked", "script", "expected"),
    [
        ("# Do it.\n$0", "x = 1\n```\n\nThis code sets x.\n", "x = 1"),
        ("# Do it.\n$0", "x = 1\n\nThis code sets x.\n", "x = 1"),
        ("if x:\n    # Do it.\n    $0", "    x = 1\n    ```\n\nThis", "x = 1"),
        ("x = $0", "1\n```\n", "1"),
        ("x = 1\n$0", "if x:\n    y\n```\nThis", "if x:\n    y"),
        ("x = 1\n$0", "The code is whole.\n", ""),
        ("x = 1\n$0", "```\ny = 2\n", "y = 2"),
        ("# Do it.\n$0", "```y = 2\n# Next.", "y = 2"),
        ("x = [\n$0\n]", "    ```\n\nThis", ""),
        ("x = [\n$0\n]", "This is a list.\n", ""),
        ("x = [$0]", "```\n", ""),
    ],
)
def test_instruct_models_do_not_talk(marked: str, script: str, expected: str) -> None:
    """A fence ends the code and never begins it, and no sentence is offered as code."""
    assert inserted(marked, script) == expected


@pytest.mark.parametrize(
    ("language_id", "marked", "script", "expected"),
    [
        ("javascript", "function f() {\n  foo(a$0\n}\n", ", b);\n}\n", ", b);"),
        ("javascript", "it(() => {\n  foo(a$0\n});\n", ", b);\n});\n", ", b);"),
        ("javascript", "foo(a$0); // :)\n", ", b); // x\n", ", b"),
        ("go", "func f() {\n\treturn x(a$0\n}\n", ", b)\n}\n", ", b)"),
        ("ruby", "f do\n  puts(a$0)\nend\n", ", b)\n", ", b"),
        ("ruby", "f {\n  puts(a$0\n}\n", ", b)\n", ", b)"),
    ],
)
def test_brackets_of_other_languages(
    language_id: str, marked: str, script: str, expected: str
) -> None:
    """A block's brace below closes no bracket of the line."""
    completion, _ = asked(marked, script, language_id=language_id)
    assert [candidate.insert_text for candidate in completion.candidates] == [expected]


@pytest.mark.parametrize(
    ("language_id", "marked", "script", "expected"),
    [
        ("javascript", "x = foo($0\n", "\n  a,\n);\ny\n", "\n  a,\n);"),
        ("cpp", "int x[] = {$0\n\nint y;\n", "\n  1,\n};\n\nint", "\n  1,\n};"),
        ("go", "func f() {\n\tfoo($0\n}\n", "\n\t\ta,\n\t)\n}\n", "\n\t\ta,\n\t)"),
    ],
)
def test_open_brackets_are_filled(
    language_id: str, marked: str, script: str, expected: str
) -> None:
    """Where nothing closes them, a statement goes on over lines in other languages too."""
    completion, _ = asked(marked, script, language_id=language_id)
    assert [candidate.insert_text for candidate in completion.candidates] == [expected]


@pytest.mark.parametrize(
    ("language_id", "marked", "script", "expected"),
    [
        (
            "go",
            "func f() {\n\tx()\n\tif a {$0\n}\n",
            "\n        b()\n    }\n}\n",
            "\n\t\tb()\n\t}",
        ),
        (
            "go",
            "func f() {\n\tx()\n\t// Do.\n\t$0\n}\n",
            "\tif a {\n        b()\n    }\n}\n",
            "if a {\n\t\tb()\n\t}",
        ),
        (
            "python",
            "def f():\n\tx = 1\n\ty = 2\n\tif x:$0\n",
            ":\n        z = 1\n    w\n",
            "\n\t\tz = 1",
        ),
        ("python", "def f():\n\tx = 1\n$0\n", "    y = 2\nz", "\ty = 2"),
        (
            "python",
            "def f():\n\tx = 1\n\t# Do.\n\t$0\n",
            "\tif x:\n        y = 2\n    z = 3\nw",
            "if x:\n\t\ty = 2\n\tz = 3",
        ),
    ],
)
def test_files_of_tabs_get_tabs(
    language_id: str, marked: str, script: str, expected: str
) -> None:
    """What the model indents by spaces is read as tabs before anything is cut."""
    completion, _ = asked(marked, script, language_id=language_id)
    assert [candidate.insert_text for candidate in completion.candidates] == [expected]


def test_markdown_keeps_its_fences() -> None:
    """What is talk in Python is text where it belongs."""
    completion, _ = asked("```\nx = 1\n$0\n", "```\n", language_id="markdown")
    assert [candidate.insert_text for candidate in completion.candidates] == ["```"]


def test_a_half_typed_word_is_left_to_the_model() -> None:
    """The prompt ends before the word, and the answer must begin with what is typed."""
    completion, engine = asked("def f(x):\n    retu$0", "retx return x\n")
    assert engine.calls[0].prompt == "def f(x):\n   "
    assert completion.candidates[0].insert_text == "x return x"


@pytest.mark.parametrize(
    "script", ["x = 1\nif x:\n    y\n\n\n", "x = 1\r\nif x:\r\n    y\r\n#"]
)
def test_line_ends_are_the_files(script: str) -> None:
    """A file with CR LF gets them, the model sees none, and its own are not doubled."""
    completion, engine = asked("a = 1\r\n# Do it.\r\n$0", script)
    assert completion.candidates[0].insert_text == "x = 1\r\nif x:\r\n    y"
    assert engine.calls[0].prompt == "a = 1\n# Do it.\n"


def test_a_file_of_carriage_returns_keeps_them() -> None:
    """Line ends that no editor writes today still are not mixed with others."""
    completion, _ = asked("a = 1\r# Do it.\r$0", "x = 1\nif x:\n    y\n\n\n")
    assert completion.candidates[0].insert_text == "x = 1\rif x:\r    y"


class StopLater(threading.Event):
    """Is set once somebody has looked at it so often."""

    def __init__(self, n_looks: int = 5) -> None:
        super().__init__()
        self.n_looks = n_looks

    def is_set(self) -> bool:
        """Count the look."""
        self.n_looks -= 1
        return self.n_looks < 0


def test_stop_ends_it_within_one_token() -> None:
    """A newer request waits for one token at most, and what was written is thrown away."""
    model = fake_model("x = 1\n# Next.\n")
    engine = model.engine
    assert isinstance(engine, ScriptedEngine)
    completion = complete(
        model, snapshot_of("# Do it.\n$0"), max_new_tokens=256, n_candidates=3, stop=StopLater()
    )
    assert engine.n_generated == 5
    assert len(engine.calls) == 1
    assert completion.candidates == ()
    assert "newer request" in completion.silence


def test_a_held_generation_ends_when_it_is_stopped() -> None:
    """Stopping needs no further token, however long the engine takes for one."""
    model = fake_model("x = 1\n")
    engine = model.engine
    assert isinstance(engine, ScriptedEngine)
    engine.gate.clear()
    stop = threading.Event()
    snapshot = snapshot_of("# Do it.\n$0")
    with ThreadPoolExecutor() as executor:
        future = executor.submit(complete, model, snapshot, max_new_tokens=9, stop=stop)
        assert engine.is_waiting.wait(30)
        assert not future.done()
        stop.set()
        assert future.result(30).candidates == ()
    assert engine.n_generated == 0


def test_an_engine_that_fails_is_the_callers_to_tell_of() -> None:
    """A broken model is no silence."""
    model = fake_model("x = 1\n")
    assert isinstance(model.engine, ScriptedEngine)
    model.engine.error = RuntimeError("broken")
    with pytest.raises(RuntimeError, match="broken"):
        complete(model, snapshot_of("# Do it.\n$0"), max_new_tokens=9)


def test_candidates_differ_and_the_greedy_one_is_first() -> None:
    """Several candidates are drawn with seeds of their own; equal ones count once."""
    scripts = iter(["x = 1\n", "x = 2\n", "x = 1\n", "", "x = 3\n"])
    completion, engine = asked("# Do it.\n$0", lambda _: next(scripts), n_candidates=5)
    texts = [candidate.insert_text for candidate in completion.candidates]
    assert texts == ["x = 1", "x = 2", "x = 3"]
    assert [call.temperature > 0 for call in engine.calls] == [False, True, True, True, True]
    assert len({call.seed for call in engine.calls}) == 5


def test_candidates_differ_in_their_first_line() -> None:
    """Who looks at several has a choice; one that begins like another is not finished."""
    scripts = iter(["f(1)\nx = 1\n", "f(1)\nx = 2\n", "f(2)\nx = 1\n"])
    completion, engine = asked("# Do it.\n$0", lambda _: next(scripts), n_candidates=3)
    texts = [candidate.insert_text for candidate in completion.candidates]
    assert texts == ["f(1)\nx = 1", "f(2)\nx = 1"]
    assert engine.n_generated == len("f(1)\nx = 1\nf(1)\nf(2)\nx = 1\n")


@pytest.mark.parametrize("marked", ["# Do it.\n$0", "if x:\n    # Do it.\n    $0\n\ny = 2\n"])
def test_whole_lines_stand_while_more_is_written(marked: str) -> None:
    """At any moment what stands is whole lines, and the end goes on after them."""
    snapshot = snapshot_of(marked)
    indent = " " * (4 if "    #" in marked else 0)
    lines = ["a = 1", "for b in a:", "    c = b(", "        1)", "d = 2", "# Next."]
    script = "".join(f"{indent}{line}\n" for line in lines)
    draft, stands = Draft(), []

    class Watched(ScriptedEngine):
        def generate(self, *arguments: Any, **options: Any) -> Iterator[tuple[int, float]]:
            for pair in super().generate(*arguments, **options):
                stands.append(standing(snapshot, draft))
                yield pair

    assert standing(snapshot, draft).candidates == ()
    model = Model("fake", Watched(script), ByteTokenizer())
    whole = complete(model, snapshot, max_new_tokens=256, draft=draft).candidates[0]
    texts = ["".join(c.insert_text for c in stand.candidates) for stand in stands]
    loop = f"a = 1\n{indent}for b in a:\n{indent}    c = b(\n{indent}        1)"
    assert list(dict.fromkeys(texts)) == ["", "a = 1", loop, whole.insert_text]
    assert not any(stand.is_whole for stand in stands)
    assert {stand.silence for stand in stands if not stand.candidates} == {UNFINISHED}


@pytest.mark.parametrize(
    ("marked", "script"),
    [("f($0)", "a, b, c\n"), ("# Do it.\n$0\nx = 1\n", "x = 1\n\n")],
    ids=["half a line", "what follows"],
)
def test_nothing_stands_that_would_not_be_answered(marked: str, script: str) -> None:
    """Half a line is no answer, nor is what stands after the cursor already."""
    snapshot, draft = snapshot_of(marked), Draft()
    complete(fake_model(script), snapshot, max_new_tokens=256, draft=draft)
    assert draft.written
    assert standing(snapshot, draft).candidates == ()


def test_what_stands_has_the_files_line_ends() -> None:
    """Lines of a file for Windows are answered as such, done or not."""
    snapshot, draft = snapshot_of("# Do it.\r\n$0"), Draft()
    complete(fake_model("a = 1\nb = 2\n"), snapshot, max_new_tokens=256, draft=draft)
    assert standing(snapshot, draft).candidates[0].insert_text == "a = 1\r\nb = 2"


@pytest.mark.parametrize(
    ("marked", "script", "limit", "expected"),
    [
        ("# Do it.\n$0", "x = 1\ny = 2\nz = 3\n", 15, "x = 1\ny = 2"),
        ("# Do it.\n$0", "x = 1\nif y:\n    z = 1\n", 17, "x = 1"),
        ("# Do it.\n$0", "x = 1\nf(\n  a,\n  b)\n", 17, "x = 1"),
        ("# Do it.\n$0", "value = compute(1)\n", 9, ""),
        ("if x:$0", ":\n    a = 1\n    b = 2\n", 18, "\n    a = 1"),
        ("x = $0", "compute(1)\n", 5, ""),
        ("f($0)", "(a, b, c)\n", 5, ""),
        ("f($0)", "(" + "a" * 200 + ")\n", 256, ""),
    ],
)
def test_the_limit_leaves_whole_statements(
    marked: str, script: str, limit: int, expected: str
) -> None:
    """What the limit cuts off is never offered in part."""
    assert inserted(marked, script, limit) == expected


@pytest.mark.parametrize(
    ("language_id", "marked", "script", "expected"),
    [
        ("python", "x = $0\n", "foo(1\ny = 2\n", ""),
        ("python", "x = 1\n$0\n", "if x:\n    y = 1\n    z = f(", "if x:\n    y = 1"),
        ("python", "x = 1\n$0\n", "try:\n    y", ""),
        ("python", "# Do it.\n$0", "try:\n    x()\n# Next\n", ""),
        ("python", "# Do it.\n$0", "y = 1\nx = f(\n\n\n", "y = 1"),
        ("python", "# Do it.\n$0", "y = 1\nif x:\n", "y = 1"),
        ("python", "# Do it.\n$0", "y = 1\nif x:\n# Next\n", "y = 1"),
        ("python", "f($0\n", "(x", "x"),
        ("c", "x = $0\n", "1", ""),
        ("c", "if (x) {$0\n", "{\n    y;\n}\n", "\n    y;\n}"),
        ("c", "} else {$0\n", "{\n    y;\n}\n", "\n    y;\n}"),
        (
            "java",
            "class A {\n    // Get.\n    $0\n}\n",
            "    int x() {\n        return 1;\n    }\n\n    int y() {\n",
            "int x() {\n        return 1;\n    }",
        ),
    ],
)
def test_what_the_model_leaves_unfinished_is_not_inserted(
    language_id: str, marked: str, script: str, expected: str
) -> None:
    """Where it ends its text, or its turn, only whole statements are offered."""
    completion, _ = asked(marked, script, language_id=language_id)
    assert "".join(c.insert_text for c in completion.candidates) == expected


@pytest.mark.parametrize(
    ("marked", "script", "n_tokens", "expected"),
    [
        ("# Do it.\n$0", "if a:\n b\nelse:\n c\nd\n" * 8, 60, "if a:\n b\nelse:\n c\nd"),
        ("# Do it.\n$0", "y = b\n" + "x = b\n" * 9, 24, "y = b\nx = b"),
        ("# Do it.\n$0", "ĩ\n" + "é\n" * 9, 12, "ĩ\né"),
        ("if x:$0", ":\n" + "    a\n" * 9, 20, "\n    a"),
        ("if x:\n    # Do it.\n$0", "    a\n" * 9, 18, "    a"),
    ],
)
def test_a_loop_ends_the_generation(
    marked: str, script: str, n_tokens: int, expected: str
) -> None:
    """Of lines that come over and over one round stays."""
    completion, _ = asked(marked, script)
    assert "".join(c.insert_text for c in completion.candidates) == expected
    assert completion.generated_tokens <= n_tokens + 1


@pytest.mark.parametrize(
    ("marked", "begun", "round_", "rest", "expected"),
    [
        ("f($0", "(a", ", b", ")\n", "a, b)"),
        ("f($0", "(a", ", b", "", "a, b"),
        ("# Do it.\n$0", "x = 1\ny = 1", " + x", "\n# End", "x = 1\ny = 1 + x"),
        ("# Do it.\n$0", "x = f(\n    1", ",\n    2", ")\n# End", "x = f(\n    1,\n    2)"),
    ],
    ids=["a line", "the end of the text", "a line of a program", "lines inside brackets"],
)
def test_text_goes_on_after_a_loop_inside_a_statement(
    marked: str, begun: str, round_: str, rest: str, expected: str
) -> None:
    """After one round of it the model may not begin another, and finds the end."""

    def script(prompt: str) -> str:
        return rest if prompt.endswith(begun + round_) else begun + 30 * round_

    assert inserted(marked, script) == expected


@pytest.mark.parametrize(
    ("marked", "script", "expected"),
    [
        ("f($0)", "(" + "len(" * 99, ""),
        ("# Do it.\n$0", "x = 1\ny = " + "x + " * 99, "x = 1"),
        ("# Do it.\n$0", "x = 1\ny = 'A" + " of points" * 99, "x = 1"),
    ],
)
def test_a_model_that_only_loops_is_stopped(marked: str, script: str, expected: str) -> None:
    """After a few other ways the text ends before the line that is never done."""
    completion, engine = asked(marked, script)
    assert "".join(c.insert_text for c in completion.candidates) == expected
    assert len(engine.calls) <= 5


@pytest.mark.parametrize(
    ("marked", "script", "limit", "expected"),
    [
        ("# Do it.\n$0", "\n\nx = 1\n#", 99, "\n\nx = 1"),
        ("# Do it.\n$0", "", 99, ""),
        ("def f():\n    # Do it.\n    $0", "    x = 1\ny\n", 99, "x = 1"),
        ("def f():\n    # Do it.\n    $0", "x = 1\n", 99, ""),
        ("f($0)", "(x)\n", 99, "x)"),
        ("x = 1\n$0\ny = 2\n", "y = 2\n\n\nz", 99, "y = 2"),
        ("# Do it.\n$0", "x = " + "1 + " * 99, 40, "x = " + "1 + " * 8 + "1 +"),
    ],
)
def test_without_filters_the_model_writes_what_it_wants(
    marked: str, script: str, limit: int, expected: str
) -> None:
    """Only the end of a turn, statement or line is looked for, and the limit."""
    snapshot = snapshot_of(marked)
    completion = complete(fake_model(script), snapshot, max_new_tokens=limit, filters=False)
    assert "".join(c.insert_text for c in completion.candidates) == expected


@pytest.mark.parametrize(
    ("marked", "script", "expected"),
    [
        ("def f():\n    x = 1\n    $0\n    y = 2\n", "    if x:\n    z\n", ""),
        ("x = 1\n$0\ny = 2\n", "    z = 1\nw\n", ""),
        ("if $0\ny = 2\n", "x:\nz\n", "x"),
        ("def f(\n    a$0\n\ny = 2\n", ", b):\n", ", b)"),
        ("if $0\n    y = 2\n", "x:\nz\n", "x:"),
        ("if $0\nfor y in x:\n\tz\n", "x:\n    z\n\n", "x:\n\tz"),
    ],
)
def test_indentation_fits_what_is_there(marked: str, script: str, expected: str) -> None:
    """No line is indented in another way than the blocks around it, before it and after it."""
    assert inserted(marked, script) == expected


def test_a_line_that_is_indented_is_not_indented_again() -> None:
    """What the model puts before the rest of a line goes."""
    assert inserted("if x:\n    $0[0] = 1\n", "        y\n") == "y"


@pytest.mark.parametrize(
    ("marked", "script", "expected"),
    [
        ("x = [$0]", "[0, 0, 0, 0, 0]\n", "0, 0, 0, 0, 0"),
        ("# Do it.\n$0", "if x:\n" + " " * 40 + "y\n#", "if x:\n" + " " * 40 + "y"),
        ("# Do it.\n$0", "a = 1\nb = 2\n" * 2 + "#", "a = 1\nb = 2\na = 1\nb = 2"),
        ("# Do it.\n$0", "x(1)\nx(2)\nx(3)\nx(4)\n#", "x(1)\nx(2)\nx(3)\nx(4)"),
    ],
)
def test_what_only_resembles_a_loop_is_written(marked: str, script: str, expected: str) -> None:
    """Short lists of equal numbers, deep indentation and tables are code like any."""
    assert inserted(marked, script) == expected


@pytest.mark.parametrize(
    ("marked", "script"),
    [
        ("x = 1$0", " 1  # why\n"),
        ("if x:$0", ":\n    # why\n"),
        ("x = 1 $0\n", " # why\ny = 2\n"),
    ],
)
def test_a_comment_is_no_statement(marked: str, script: str) -> None:
    """A candidate without a line of code is not offered, since no check can judge it."""
    completion, engine = asked(marked, script)
    assert completion.rule is Rule.STATEMENT
    assert completion.candidates == ()
    assert engine.n_generated


class SpacesTokenizer(ByteTokenizer):
    """Has one token, number 1, for four spaces."""

    def __init__(self) -> None:
        self.vocabulary = Vocabulary({i: self.decode_bytes([i]) for i in range(256)})

    def encode(self, text: str) -> Encoded:
        """Return the token of four spaces wherever it fits."""
        return super().encode(text.replace("    ", "\1"))

    def decode_bytes(self, token_ids: list[int]) -> bytes:
        """Return the bytes of the tokens."""
        return super().decode_bytes(token_ids).replace(b"\1", b"    ")


def test_indentation_is_written_in_its_own_tokens() -> None:
    """A model that is trained on one token for it never meets four for the same."""
    engine = ScriptedEngine("    x = 1\n#")
    model = Model("fake", engine, SpacesTokenizer())
    completion = complete(model, snapshot_of("if x:\n    # Do it.\n$0"), max_new_tokens=99)
    assert [c.insert_text for c in completion.candidates] == ["    x = 1"]
    assert completion.generated_tokens == 1 + len("x = 1\n#")


class LineEndTokenizer(ByteTokenizer):
    """Has one token, number 1, for a newline and three spaces, as GPT-2's pre-tokens do."""

    def __init__(self) -> None:
        self.vocabulary = Vocabulary({i: self.decode_bytes([i]) for i in range(256)})

    def encode(self, text: str) -> Encoded:
        """Return the token wherever it fits."""
        return super().encode(text.replace("\n   ", "\1"))

    def decode_bytes(self, token_ids: list[int]) -> bytes:
        """Return the bytes of the tokens."""
        return super().decode_bytes(token_ids).replace(b"\1", b"\n   ")


@pytest.mark.parametrize("marked", ["if x:\n    # Do it.\n$0", "if x:\n    # Do it.\n    $0"])
def test_a_newline_and_indentation_in_one_token_stay_together(marked: str) -> None:
    """A model that never met a newline and four spaces apart writes as it was trained."""
    engine = ScriptedEngine(" x = 1\n#")
    model = Model("fake", engine, LineEndTokenizer())
    completion = complete(model, snapshot_of(marked), max_new_tokens=99)
    (candidate,) = completion.candidates
    assert candidate.insert_text == ("    x = 1" if marked.endswith("\n$0") else "x = 1")
    assert engine.calls[0].token_ids[-2:] == (ord("."), 1)
    assert completion.generated_tokens == len(" x = 1\n#")


@pytest.mark.parametrize("context_length", [64, 128, 2048])
@pytest.mark.parametrize("max_new_tokens", [1, 50, 256, 10**6])
def test_prompt_and_answer_fit_the_context(context_length: int, max_new_tokens: int) -> None:
    """At least half of the context is the prompt's, and no rule asks for more than is left."""
    for below in ("# Do it.\n$0", "x = f($0)", "x = $0"):
        _, engine = asked(
            FILE + below,
            "y\n",
            max_new_tokens=max_new_tokens,
            context_length=context_length,
        )
        (call,) = engine.calls
        assert 1 <= call.max_new_tokens <= max_new_tokens
        assert len(call.token_ids) + call.max_new_tokens <= context_length
        assert len(call.token_ids) >= context_length // 8


@pytest.mark.parametrize("history", [FILE, FILE * 50])
def test_prompts_of_all_rules_start_alike(history: str) -> None:
    """Going from one kind of place to another, or typing on, keeps the cached prefix."""
    prompts = []
    for below in ("x = f($0)", "x = $0", "x = valu$0", "# Do it.\n$0", "y\nz\nx$0"):
        _, engine = asked(history + below, "1\n")
        prompts.append(engine.calls[0].prompt)
    assert len({prompt[:200] for prompt in prompts}) == 1
    assert prompts[0].startswith("# Compute")


def test_tokens_are_counted() -> None:
    """The counts are those of the engine, reuse that of the first candidate."""
    scripts = iter(["x = 1\n\n\n", "x = 1\n\n\n", "y = 1\n\n\n"])
    model = fake_model(lambda _: next(scripts))
    snapshot = snapshot_of("# Do it.\n$0")
    first = complete(model, snapshot, max_new_tokens=99)
    again = complete(model, snapshot, max_new_tokens=99, n_candidates=2)
    assert (first.prompt_tokens, first.reused_tokens, first.generated_tokens) == (9, 0, 8)
    assert (again.prompt_tokens, again.reused_tokens, again.generated_tokens) == (9, 8, 16)
    assert 0 <= again.first_token_ms <= again.total_ms


def test_the_mean_is_over_what_the_model_chose() -> None:
    """What was typed already says nothing about how sure the model is."""
    completion, _ = asked("x = valu$0", " value\n")
    values = [log_probability(byte) for byte in b"e\n"]
    mean = completion.candidates[0].mean_log_probability
    assert mean == pytest.approx(sum(values) / len(values))
    assert completion.candidates[0].first_log_probability == values[0]


@pytest.mark.parametrize(
    ("marked", "script", "expected"),
    [
        ("# $0\nx = 1\n", " Sort all of them.\ny = 2\n", "Sort all of them."),
        ('print("$0")\n', 'Hello there World")\n', "Hello there World"),
        ('def f():\n    """$0\n    """\n', "Here Is Code.\n", "Here Is Code."),
        ("# Then.$0\n", "\nx = 1\n", None),
    ],
)
def test_the_rest_of_a_line_of_words(marked: str, script: str, expected: str | None) -> None:
    """Where that is asked for, a comment or string goes on in words, up to its line's end."""
    model = fake_model(script)
    snapshot = snapshot_of(marked)
    assert complete(model, snapshot, max_new_tokens=64).candidates == ()
    completion = complete(model, snapshot, max_new_tokens=64, in_comments=True)
    texts = [candidate.insert_text for candidate in completion.candidates]
    assert texts == ([] if expected is None else [expected])


@pytest.mark.parametrize(
    ("marked", "own"),
    [
        ("# ab\n$0", "ab"),
        ("x = 1\n\n## ab cd  \n#  é\n\n$0", "ab cd é"),
        ("# one\nx = 1\n$0", "one"),
        ("if x:\n    # in\n    y\n$0", "in"),
        ("# one\n# two\r\n$0", "onetwo"),
        ("x = 1\n$0", None),
        ("# %%\n$0", None),
    ],
)
def test_prompt_perplexity(marked: str, own: str | None) -> None:
    """It is that of the comment's own tokens, and there is none without a turn."""
    value = prompt_perplexity(fake_model(""), snapshot_of(marked))
    if own is None:
        assert value is None
        return
    values = [log_probability(byte) for byte in own.encode()]
    assert value == pytest.approx(math.exp(-sum(values) / len(values)), rel=1e-5)


@pytest.mark.parametrize("word", ["a ", "é", "😀"])
def test_prompt_perplexity_of_more_than_the_context(word: str) -> None:
    """A comment that the context cannot hold is judged by its end."""
    marked = f"{FILE}# {word * 900}\n$0"
    assert prompt_perplexity(fake_model("", 512), snapshot_of(marked)) is not None


def test_prompt_perplexity_ends_when_it_is_told_to() -> None:
    """A request waits for no more than a few tokens of a long comment."""
    text = "# " + "word " * 40 + "\n"
    model = fake_model("")
    (turn,) = read_turns(text)
    stop = threading.Event()
    seen = []
    log_probabilities = model.engine.log_probabilities

    def watched(token_ids: Sequence[int], start: int) -> Any:
        seen.append(len(token_ids) - start)
        stop.set()
        return log_probabilities(token_ids, start)

    whole = turn_perplexity(model, text, turn, stop)
    assert whole is not None
    model.engine.log_probabilities = watched  # type: ignore[method-assign]
    assert turn_perplexity(model, text, turn, stop) is None
    assert len(seen) == 1
    assert seen[0] <= 32


@pytest.mark.parametrize(
    "marked",
    [
        FILE * 600 + "# Do it.\n$0\n" + FILE * 20,
        "x = '" + "a" * (1 << 20) + "'\ny = $0",
        "# Do it.\nx = " + "1 + " * (1 << 18) + "$0",
        "x = f(" + "(" * (1 << 20) + "$0",
        "😀" * (1 << 20) + " = $0\n",
        " " * (1 << 20) + "$0 + x",
    ],
    ids=["5 MB", "string", "long line", "brackets", "emoji", "spaces"],
)
def test_huge_texts_get_an_answer(marked: str) -> None:
    """A text of any size costs no more than its surroundings."""
    completion, engine = asked(marked, "y = 1\n")
    assert completion.candidates
    assert len(engine.calls[0].token_ids) <= 2048 - 256


PIECES = (
    *("# Do it.\n", "    # Do it.\n", "x = 1\n", "def f():\n", "    return 1\n", "\n", "\r\n"),
    *("    ", "\t", "f(", ")", "'", '"""', "\\", "é", "😀", "x", "valu", " ", ":", "\ud800"),
    *("# c", "if x:\n", "else:", "\r", "\f", "0, ", "[", "]", "# ----\n", "x" * 40),
)
texts = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


@given(
    before=texts,
    after=texts,
    script=texts,
    language_id=st.sampled_from(["python", "plaintext"]),
    max_new_tokens=st.integers(1, 60),
    context_length=st.sampled_from([16, 100, 2048]),
)
def test_any_place_has_an_answer(
    before: str,
    after: str,
    script: str,
    language_id: str,
    max_new_tokens: int,
    context_length: int,
) -> None:
    """Whatever the text, the cursor and the model, there are candidates or a reason."""
    snapshot = Snapshot(before + after, len(before), language_id)
    model = fake_model(script, context_length)
    completion = complete(model, snapshot, max_new_tokens=max_new_tokens, n_candidates=2)
    found = [candidate.insert_text for candidate in completion.candidates]
    assert bool(found) is not bool(completion.silence)
    assert len(set(found)) == len(found)
    for text in found:
        assert text.strip()
        assert not set("\r\n") & set(text.replace(line_end_of(snapshot.text), ""))
    assert (prompt_perplexity(model, snapshot) or 1.0) >= 1.0


@given(before=texts, after=texts)
def test_what_follows_is_never_the_completion(before: str, after: str) -> None:
    """Of a model that recites the text after the cursor only brackets that are open get in."""
    after = after.replace("\ud800", "").lstrip("\r\n\t\f #")
    text = before + "\n" + after
    recited = after.replace("\r\n", "\n").replace("\r", "\n")
    # After a loop the model may not recite any more.
    assume(not re.search(r"(?s)(.+?)\1\1", recited))
    completion = complete(
        fake_model(recited), Snapshot(text, len(before) + 1), max_new_tokens=200
    )
    for candidate in completion.candidates:
        closers = candidate.insert_text
        assert not closers.strip(")]}")
        assert sum(map(before.count, "([{")) >= len(closers) + 1


def within(model: Model, marked: str, budget_ms: float) -> Completion:
    """Return the completion at the mark within a budget; the fake reads a token in 1 ms."""
    return complete(model, snapshot_of(marked), max_new_tokens=64, budget_ms=budget_ms)


PLACES = ("# Do it.\n$0", "f(a, $0)", "value_7 = $0", "value_7 = valu$0", "if x:\n    y$0\nz\n")


@pytest.mark.parametrize("below", PLACES)
@pytest.mark.parametrize("budget_ms", [128, 200, 700, 1500])
def test_a_prompt_over_the_budget_is_what_is_nearest(below: str, budget_ms: int) -> None:
    """The answer comes from the text before the cursor, and all of it is named to be read."""
    whole, _ = asked(FILE + below, "1\n", max_new_tokens=64)
    model = fake_model("1\n")
    assert isinstance(model.engine, ScriptedEngine)
    completion = within(model, FILE + below, budget_ms)
    used = model.engine.calls[0].token_ids
    assert completion.prompt_tokens == len(used) <= budget_ms
    assert len(used) >= budget_ms // 4
    assert completion.unread[-len(used) :] == used
    assert len(completion.unread) == whole.prompt_tokens
    assert completion.candidates == whole.candidates
    assert completion.rule is whole.rule
    # Once the rest is read, the next completion there has all of it.
    model.engine.prefill(completion.unread, threading.Event())
    again = within(model, FILE + below, budget_ms)
    assert (again.prompt_tokens, again.unread) == (whole.prompt_tokens, ())
    assert again.reused_tokens == again.prompt_tokens - 1


@pytest.mark.parametrize("below", PLACES)
def test_under_the_budget_nothing_changes(below: str) -> None:
    """Whoever has the time gets the answer from the whole prompt."""
    _, engine = asked(FILE + below, "1\n", max_new_tokens=64)
    (whole,) = engine.calls
    for budget_ms in (len(whole.token_ids), math.inf):
        model = fake_model("1\n")
        assert isinstance(model.engine, ScriptedEngine)
        completion = within(model, FILE + below, budget_ms)
        assert completion.unread == ()
        assert model.engine.calls == [whole]


def test_a_prompt_is_not_shortened_where_that_gains_nothing() -> None:
    """Without a second cache to read the rest in, the whole prompt is read now."""

    class OneCache(ScriptedEngine):
        def n_tokens_within(self, budget_ms: float) -> int:
            return self.context_length

    model = Model("fake", OneCache("1\n"), ByteTokenizer())
    completion = within(model, FILE + "x = $0", 100)
    assert completion.prompt_tokens > 1000
    assert completion.unread == ()


def test_what_is_in_the_cache_is_free() -> None:
    """The budget is for what has to be read, so typing on keeps the whole prompt."""
    model = fake_model("1\n")
    typed = FILE + "value_7 = "
    assert within(model, typed + "$0", math.inf).unread == ()
    for n_typed in range(1, 9):
        completion = within(model, typed + "value_12"[:n_typed] + "$0", 10)
        assert completion.unread == ()
        assert completion.reused_tokens >= completion.prompt_tokens - 10


@pytest.mark.parametrize("history", ["", "x = 1\n", FILE[:1500]])
@pytest.mark.parametrize("below", PLACES)
def test_warming_up_reads_what_completing_reads(history: str, below: str) -> None:
    """After it, a completion has nothing left to read but the prompt's last token."""
    model = fake_model("1\n")
    snapshot = snapshot_of(history + below)
    warm_up(model, snapshot, max_new_tokens=64, stop=threading.Event())
    assert isinstance(model.engine, ScriptedEngine)
    assert model.engine.calls == []
    completion = complete(model, snapshot, max_new_tokens=64, budget_ms=0)
    assert completion.unread == ()
    assert completion.prompt_tokens > 1
    assert completion.reused_tokens == completion.prompt_tokens - 1


@pytest.mark.parametrize("marked", ["$0", "# Do i$0", "x = 'a$0'", FILE + "x = $0"])
def test_where_nothing_is_known_to_be_wanted_nothing_is_read(marked: str) -> None:
    """No idle work for places without completions, nor for files that the context cuts."""
    model = fake_model("1\n")
    warm_up(model, snapshot_of(marked), max_new_tokens=64, stop=threading.Event())
    assert isinstance(model.engine, ScriptedEngine)
    assert model.engine._cached == []


class DraftSpy(ScriptedEngine):
    """Keeps the guesser of each generation."""

    def __init__(self, script: Script) -> None:
        super().__init__(script)
        self.drafts: list[Callable[[list[int]], list[int]] | None] = []

    def generate(
        self,
        token_ids: Sequence[int],
        *,
        draft: Callable[[list[int]], list[int]] | None = None,
        **options: Any,
    ) -> Iterator[tuple[int, float]]:
        """Keep the guesser, and go on as without it."""
        self.drafts.append(draft)
        return super().generate(token_ids, draft=draft, **options)


@pytest.mark.parametrize(
    ("marked", "nearby", "expected"),
    [
        ("x = $0\n", [], b""),
        ("x = $0\n", ["call(alpha, beta)"], b", be"),
        ("x = $0\n", ["call(alpha, beta)", "call(alpha + 1)"], b", be"),
        ("x = $0\n", ["nothing of it", "call(alpha + 1)"], b" + 1"),
        ("x = $0\ny = alpha * 7\n", ["call(alpha, beta)"], b" * 7"),
        ("y = alpha[1:]\nx = $0\n", ["call(alpha, beta)"], b"[1:]"),
    ],
    ids=["nothing", "nearby", "the likeliest", "another", "text after", "text before"],
)
def test_guesses_come_from_what_is_nearby(
    marked: str, nearby: list[str], expected: bytes
) -> None:
    """Before the cursor first, then after it, then the other texts in their order."""
    engine = DraftSpy("1\n")
    model = Model("fake", engine, ByteTokenizer())
    complete(model, snapshot_of(marked), max_new_tokens=64, n_candidates=2, nearby=nearby)
    assert len(engine.drafts) == 2
    for call, draft in zip(engine.calls, engine.drafts, strict=True):
        assert draft is not None
        assert bytes(draft([*call.token_ids, *b" alpha"])) == expected


def test_each_candidate_guesses_anew() -> None:
    """What one candidate taught the guesser is not true of the next."""
    engine = DraftSpy("1\n")
    model = Model("fake", engine, ByteTokenizer())
    complete(model, snapshot_of("x = $0"), max_new_tokens=64, n_candidates=3)
    assert len({id(draft) for draft in engine.drafts}) == 3


def test_a_suggestion_is_found_again() -> None:
    """Where it begins a guesser finds all of it, Windows line ends or not."""
    marked = "a = 1\r\nif alpha:\r\n    $0\r\n"
    source = suggestion_source(snapshot_of(marked), "beta = 2\r\n    gamma = 3")
    assert source == "a = 1\nif alpha:\n    beta = 2\n    gamma = 3"
    long = "x" * 100 + "$0"
    assert suggestion_source(snapshot_of(long), " = 1").endswith("xxx = 1")
    assert len(suggestion_source(snapshot_of(long), " = 1")) < 100


@pytest.mark.parametrize(
    ("marked", "script", "written"),
    [
        ("# Do it.\n$0", "alpha = 1\n# Next.\n", "alpha"),
        ("if x:\n    # Do it.\n    $0", "    alpha = 1\n#", "a"),
        ("x = alp$0", " alpha + 1\n", "h"),
    ],
    ids=["turn", "indented turn", "half-typed word"],
)
def test_what_was_written_by_the_stop_is_left(marked: str, script: str, written: str) -> None:
    """It is no answer, but a guess of what would be inserted, from the cursor on."""
    snapshot = snapshot_of(marked)
    stopped = complete(fake_model(script), snapshot, max_new_tokens=64, stop=StopLater())
    assert stopped.candidates == ()
    assert stopped.written == written
    (candidate,) = complete(fake_model(script), snapshot, max_new_tokens=64).candidates
    assert candidate.insert_text.startswith(written)


def test_of_several_candidates_the_greedy_one_is_left() -> None:
    """A stop among the sampled ones leaves what is likeliest, and no answer either."""
    scripts = iter(["alpha = 1\n#", "beta = 2\n#"])
    stopped = complete(
        fake_model(lambda _: next(scripts)),
        snapshot_of("# Do it.\n$0"),
        max_new_tokens=64,
        n_candidates=2,
        stop=StopLater(16),
    )
    assert stopped.candidates == ()
    assert next(scripts, None) is None
    assert stopped.written.strip() == "alpha = 1"


def test_what_was_written_is_left_where_nothing_is_suggested() -> None:
    """What stands after the cursor already is no suggestion, but it still was written."""
    completion, _ = asked("x = 1\n$0\ny = 2\n", "y = 2\n")
    assert completion.candidates == ()
    assert completion.written == "y = 2"
