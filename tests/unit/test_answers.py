"""Answers that are known before they are asked for, and never one for another text."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsp_server.answers import Answer, Answers
from lsp_server.completion import Candidate
from lsp_server.plan import Snapshot
from lsp_server.verdict import Verdict, VerdictKind

THEN = Snapshot("a = 1\nb = \nc = 3\n", 10, "python", "file:///a.py")
CHECKED = Verdict(VerdictKind.OK)


def answer(inserted: str, then: Snapshot = THEN, verdict: Verdict | None = CHECKED) -> Answer:
    """Return an answer of one candidate."""
    return Answer(then, Candidate(inserted, -0.5, -0.4), verdict)


def known(*answers: Answer) -> Answers:
    """Return a memory that was given these, in this order."""
    memory = Answers()
    for one in answers:
        memory.remember(one)
    return memory


def typed(text: str, then: Snapshot = THEN) -> Snapshot:
    """Return the snapshot after a text was typed at the cursor."""
    return replace(
        then,
        text=then.text[: then.offset] + text + then.text[then.offset :],
        offset=then.offset + len(text),
    )


def rest(memory: Answers, snapshot: Snapshot) -> str | None:
    """Return what would be inserted."""
    found = memory.find(snapshot)
    return found.candidate.insert_text if found else None


def test_typing_along_leaves_the_rest() -> None:
    """Whoever types what was suggested goes on seeing what is left of it, to its end."""
    memory = known(answer("foo(1)"))
    for n_typed in range(6):
        assert rest(memory, typed("foo(1)"[:n_typed])) == "foo(1)"[n_typed:]
    assert rest(memory, typed("foo(1)")) is None


def test_what_is_found_is_an_answer_to_what_was_asked() -> None:
    """It carries the asked snapshot, and the verdict, which is of the same whole text."""
    found = known(answer("foo(1)")).find(typed("fo"))
    assert found == Answer(typed("fo"), Candidate("o(1)", -0.5, -0.4), CHECKED)


@pytest.mark.parametrize("verdict", [None, CHECKED])
def test_a_verdict_that_is_missing_stays_missing(verdict: Verdict | None) -> None:
    """Nobody takes an answer that was never checked for a clean one."""
    found = known(answer("foo(1)", verdict=verdict)).find(typed("f"))
    assert found is not None
    assert found.verdict is verdict


def test_deleting_back_shows_the_suggestion_again() -> None:
    """What was typed and taken back leaves the text that was answered."""
    memory = known(answer("foo(1)"))
    assert rest(memory, typed("fob")) is None
    assert rest(memory, typed("fo")) == "o(1)"
    assert rest(memory, THEN) == "foo(1)"


def test_accepting_leads_to_a_continuation_that_is_written() -> None:
    """After the key that accepts, the next suggestion is there without a model."""
    first = answer("foo(1)")
    assert first.accepted == typed("foo(1)")
    memory = known(first, answer(" + 2", first.accepted))
    assert rest(memory, typed("foo(1)")) == " + 2"
    assert rest(memory, typed("foo(1) +")) == " 2"


def test_accepting_at_the_end_of_the_file() -> None:
    """Text of several lines goes in where the cursor is, and the cursor after it."""
    then = Snapshot("if x:\n    ", 10)
    accepted = answer("y\n    z", then).accepted
    assert accepted == Snapshot("if x:\n    y\n    z", 17)


ELSEWHERE: dict[str, Snapshot] = {
    "another document": replace(typed("f"), uri="file:///b.py"),
    "another language": replace(typed("f"), language_id="plaintext"),
    "another letter": typed("g"),
    "edited before": replace(typed("f"), text=typed("f").text.replace("a = 1", "a = 2")),
    "edited after": replace(typed("f"), text=typed("f").text.replace("c = 3", "c = 4")),
    "longer after": replace(typed("f"), text=typed("f").text + "\n"),
    "shorter after": replace(typed("f"), text=typed("f").text[:-1]),
    "another bracket after the cursor": replace(
        typed("foo("), text=typed("foo(]").text, offset=typed("foo(").offset
    ),
    "a bracket that nobody opened": replace(
        typed("fo"), text=typed("fo)").text, offset=typed("fo").offset
    ),
    "more after the cursor": replace(
        typed("foo("), text=typed("foo(1)").text, offset=typed("foo(").offset
    ),
    "cursor before": replace(THEN, offset=9),
    "cursor after what was typed": replace(typed("f"), offset=12),
    "cursor before what was typed": replace(typed("f"), offset=10),
    "typed before": replace(THEN, text="f" + THEN.text, offset=11),
    "cursor moved only": replace(THEN, offset=11),
}


@pytest.mark.parametrize("snapshot", ELSEWHERE.values(), ids=ELSEWHERE)
def test_another_text_has_no_answer(snapshot: Snapshot) -> None:
    """An answer is for its document, its language and its text, to the letter."""
    assert known(answer("foo(1)")).find(snapshot) is None


@pytest.mark.parametrize(
    ("inserted", "before", "after", "expected"),
    [
        ('foo("a", 1)', "foo(", ")", '"a", 1'),
        ('foo("a", 1)', 'foo("', '")', "a"),
        ('foo("a", 1)', 'foo("', ")", 'a", 1'),
        ('foo("a", 1)', 'foo("a"', ")", ", 1"),
        ('foo("a", 1) + 2', "foo(", ")", '"a", 1'),
        ('foo("a", 1) + 2', 'foo("a", 1)', "", " + 2"),
        ("foo(a[0], b)", "foo(a[", "])", "0"),
        ("foo(a[0], b)", "foo(a[0]", ")", ", b"),
        ("f(x):\n    return [x]", "f(", ")", "x"),
        ("f(x):\n    return [x]", "f(x):\n    return [", "]", "x"),
        ("x = {\n    1: 2,\n}", "x = {\n    ", "\n}", "1: 2,"),
        ("x = {\n    1: 2,\n}", "x = {", "}", "\n    1: 2,\n"),
        ("foo(')', 1)", "foo(", ")", "')', 1"),
        (r"foo('\'', 1)", "foo('", "')", r"\'"),
        ("foo(a,", "foo(", ")", "a,"),
        ("foo(a[0", "foo(a[", "])", "0"),
    ],
)
def test_what_an_editor_closes_by_itself_is_typed_along_too(
    inserted: str, before: str, after: str, expected: str
) -> None:
    """A bracket that is typed is two in most editors; the rest ends before the second."""
    full = typed(before + after)
    now = replace(full, offset=full.offset - len(after))
    found = known(answer(inserted)).find(now)
    assert found is not None
    assert found.candidate.insert_text == expected
    # What is accepted is a beginning of what was answered, and what the editor closed.
    whole = answer(inserted).accepted.text
    kept = found.accepted.text[: found.accepted.offset]
    assert whole.startswith(kept.rstrip())


def test_what_is_found_is_kept_longer() -> None:
    """An answer that somebody types along is not forgotten for those that nobody sees."""
    memory = known(answer("foo(1)"))
    for number in range(100):
        memory.remember(answer("x", replace(THEN, uri=f"file:///{number}.py")))
        assert rest(memory, typed("fo")) == "o(1)"


@pytest.mark.parametrize("inserted", ["f ", "f\n", "f\n    \t", "f\r\n"])
def test_a_rest_of_whitespace_is_nothing(inserted: str) -> None:
    """Nobody is shown a suggestion that cannot be seen."""
    assert rest(known(answer(inserted)), THEN) == inserted
    assert known(answer(inserted)).find(typed("f")) is None


def test_a_rest_of_whitespace_does_not_hide_an_older_answer() -> None:
    """Where the newest has nothing left to show, an older one may have."""
    memory = known(answer("foo"), answer("f \n"))
    assert rest(memory, typed("f")) == "oo"


def test_the_newest_answer_wins() -> None:
    """Of two that fit, the one that was written later is shown; else the one that fits."""
    memory = known(answer("foo(1)"), answer("foo(2)"), answer("bar"))
    assert rest(memory, typed("foo(")) == "2)"
    assert rest(memory, typed("b")) == "ar"
    assert memory.latest(THEN.uri) == answer("bar")


def test_the_latest_is_of_its_document() -> None:
    """What was suggested in one document is no guess for another."""
    other = replace(THEN, uri="file:///b.py")
    memory = known(answer("foo", other), answer("bar"))
    assert memory.latest(other.uri) == answer("foo", other)
    assert memory.latest("file:///c.py") is None


def test_the_oldest_are_forgotten() -> None:
    """However long somebody types, few texts are held."""
    memory = Answers()
    for number in range(200):
        memory.remember(answer("x", replace(THEN, uri=f"file:///{number}.py")))
    held = [n for n in range(200) if memory.latest(f"file:///{n}.py")]
    assert held == list(range(200 - len(held), 200))
    assert 0 < len(held) < 100


def test_what_is_cleared_is_not_found() -> None:
    """Another model's or setting's answers are never shown."""
    memory = known(answer("foo"))
    memory.clear()
    assert memory.find(THEN) is None
    assert memory.latest(THEN.uri) is None


# Few letters, so that texts that differ are often alike.
letters = st.text("ab\n ", max_size=6)
snapshots = st.builds(
    lambda before, after, language, uri: Snapshot(before + after, len(before), language, uri),
    letters,
    letters,
    st.sampled_from(["python", "plaintext"]),
    st.sampled_from(["file:///a.py", "file:///b.py"]),
)


@given(
    answered=st.lists(st.tuples(snapshots, letters), min_size=1, max_size=4),
    asked=snapshots,
    n_typed=st.integers(0, 8),
    is_along=st.booleans(),
)
def test_inserting_what_is_found_gives_what_was_answered(
    answered: list[tuple[Snapshot, str]], asked: Snapshot, n_typed: int, is_along: bool
) -> None:
    """Whatever was edited, the text after accepting is one that some answer led to."""
    answers = [answer(inserted, then) for then, inserted in answered]
    if is_along:
        then, inserted = answered[0]
        asked = typed(inserted[:n_typed], then)
    found = known(*answers).find(asked)
    if found is not None:
        assert found.snapshot == asked
        assert found.accepted in [one.accepted for one in answers]
        assert found.candidate.insert_text.strip()
    elif is_along:
        # Only what is typed to its end, or has nothing left to see, is not found.
        assert not inserted[n_typed:].strip()
