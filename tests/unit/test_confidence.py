"""What is sure enough to be shown unasked, and what becomes of what is not."""

import math
import time
import tomllib
from dataclasses import dataclass, field, replace
from importlib.resources import files
from typing import Any, get_args, get_type_hints

import pytest

from lsp_server import answering, confidence
from lsp_server.answering import Answering, Request
from lsp_server.answers import Answer
from lsp_server.completion import Candidate
from lsp_server.confidence import EAGER, FILE, Thresholds, is_worth_showing, thresholds
from lsp_server.documents import Document
from lsp_server.model_host import ModelHost
from lsp_server.plan import Rule, Snapshot
from lsp_server.settings import Settings, read_settings
from lsp_server.verdict import UNCHECKED, CheckRequest
from tests.hosting import SNAPSHOT, Source, loaded

LEVELS = get_args(get_type_hints(Settings)["suggest"])
CALIBRATED = tomllib.loads((files("lsp_server") / FILE).read_text(encoding="utf-8"))
SURE, UNSURE = -0.1, -9.0


def candidate(
    mean: float, first: float, rule: Rule | None = Rule.STATEMENT, text: str = "2 + 3"
) -> Candidate:
    """Return a candidate that a model is so sure of."""
    return Candidate(text, mean, first, rule)


@pytest.mark.parametrize("mean", [-0.5, -0.6])
@pytest.mark.parametrize("first", [-1.0, -1.1])
def test_both_thresholds_are_asked_for(mean: float, first: float) -> None:
    """What is as sure as they say is let through, and what is below either is not."""
    is_let_through = Thresholds(-0.5, -1.0).let_through(candidate(mean, first))
    assert is_let_through == (mean == -0.5 and first == -1.0)


@pytest.mark.parametrize("model", CALIBRATED)
@pytest.mark.parametrize("rule", [Rule.LINE, Rule.STATEMENT])
def test_a_calibrated_model_has_thresholds(model: str, rule: Rule) -> None:
    """What is certain passes each level, and what is most unlikely passes eager alone."""
    for level in LEVELS:
        assert is_worth_showing(candidate(0.0, 0.0, rule), model, level)
    unsure = candidate(UNSURE, UNSURE, rule)
    assert is_worth_showing(unsure, model, EAGER)
    assert not is_worth_showing(unsure, model, "quiet")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("model", "rule"),
    [(min(CALIBRATED), Rule.TURN), (min(CALIBRATED), None), ("another", Rule.STATEMENT)],
)
def test_what_has_no_thresholds_is_shown(model: str, rule: Rule | None, level: str) -> None:
    """A comment asks for its program, and of other models nobody knows how sure they are."""
    assert is_worth_showing(candidate(UNSURE, UNSURE, rule), model, level)


@pytest.mark.parametrize("model", CALIBRATED)
def test_the_thresholds_say_where_they_come_from(model: str) -> None:
    """Each has its command, and a quieter level asks for more of what it shows."""
    record = CALIBRATED[model]
    assert record.keys() == {"precision", "command", *LEVELS} - {EAGER}
    assert record["command"].startswith("python -m benchmarks.confidence")
    assert 0 < record["balanced"]["right"] < record["quiet"]["right"] < 1
    for level in set(LEVELS) - {EAGER}:
        assert record[level].keys() == {"right", "line", "statement"}
        for rule in (Rule.LINE, Rule.STATEMENT):
            found = thresholds(model, level, rule)
            assert -math.inf <= min(found.mean, found.first) <= 0.0


@dataclass
class Keeper:
    """Documents, settings and a host, and no checks."""

    host: ModelHost
    settings: Settings = field(default_factory=lambda: Settings(check_deadline_ms=0))
    documents: dict[str, Document] = field(default_factory=dict)

    def wake(self) -> None:
        """Have a model."""

    def check_request(self, snapshot: Snapshot, insert_text: str) -> CheckRequest:
        """Have nothing checked."""
        raise AssertionError

    def tell_model_failed(self, error: Exception) -> None:
        """Take no failure."""
        raise error

    def tell_model_answered(self) -> None:
        """Forget it."""


@pytest.fixture
def asks_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let only what is sure be worth showing."""
    is_sure = lambda candidate, _model, _level: candidate.mean_log_probability >= SURE  # noqa: E731
    monkeypatch.setattr(answering, "is_worth_showing", is_sure)


async def shown(
    answering: Answering, snapshot: Snapshot, *, is_invoked: bool = False
) -> list[str]:
    """Return the texts of an answer."""
    request = Request(snapshot, is_invoked, time.monotonic())
    return [answer.candidate.insert_text for answer in await answering.answer(request)]


def typed(text: str) -> Snapshot:
    """Return the snapshot after a text was typed."""
    whole = SNAPSHOT.text[: SNAPSHOT.offset] + text + SNAPSHOT.text[SNAPSHOT.offset :]
    return replace(SNAPSHOT, text=whole, offset=SNAPSHOT.offset + len(text))


@pytest.mark.usefixtures("asks_for_more")
async def test_what_is_hidden_stays_hidden_and_is_not_followed(
    host: ModelHost, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Typing along it asks no model again, and nothing is written ahead after it."""
    source.script = "2 + 3\n"
    engine = await loaded(host)
    followed: list[Any] = []
    monkeypatch.setattr(host, "go_on", lambda _completion, answer, _: followed.append(answer))
    answers = Answering(Keeper(host), checker=None)  # type: ignore[arg-type]
    for beginning in ("", "2", "2 +"):
        assert await shown(answers, typed(beginning)) == []
        assert "below what the setting suggest" in str(answers.why_empty(SNAPSHOT.uri))
    assert (len(engine.calls), followed) == (1, [None])


@pytest.mark.usefixtures("asks_for_more")
async def test_who_asks_is_always_answered(host: ModelHost, source: Source) -> None:
    """However unsure it is, it comes, and stays as it is typed."""
    source.script = "2 + 3\n"
    await loaded(host)
    answers = Answering(Keeper(host), checker=None)  # type: ignore[arg-type]
    assert await shown(answers, SNAPSHOT) == []
    assert await shown(answers, SNAPSHOT, is_invoked=True) == ["2 + 3"]
    assert answers.why_empty(SNAPSHOT.uri) == ""
    assert await shown(answers, typed("2")) == [" + 3"]


@pytest.mark.usefixtures("asks_for_more")
async def test_what_was_shown_does_not_vanish(host: ModelHost) -> None:
    """A part that was sure stays, though the whole that came later is not."""
    await loaded(host)
    whole = candidate(UNSURE, UNSURE, text="2 + 3\nc = 4")
    host.answers.remember(Answer(SNAPSHOT, candidate(SURE, SURE), UNCHECKED))
    host.answers.remember(Answer(SNAPSHOT, whole, UNCHECKED))
    answers = Answering(Keeper(host), checker=None)  # type: ignore[arg-type]
    assert await shown(answers, typed("2")) == [" + 3"]
    # It was accepted, and what comes next is not sure.
    assert await shown(answers, typed("2 + 3")) == []


async def test_the_level_is_that_of_the_settings(
    host: ModelHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one level hides another shows, by the thresholds of the model that answers."""
    quiet = {"quiet": {"statement": {"mean": -0.01, "first": -0.01}}}
    monkeypatch.setattr(confidence, "_calibrated", lambda: {"model": quiet})
    await loaded(host)
    keeper = Keeper(host)
    answers = Answering(keeper, checker=None)  # type: ignore[arg-type]
    for level, expected in (("eager", ["2"]), ("quiet", []), ("balanced", ["2"])):
        keeper.settings, _ = read_settings({"suggest": level}, keeper.settings)
        host.forget_answers()
        assert await shown(answers, SNAPSHOT) == expected
