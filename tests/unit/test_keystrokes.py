"""The pure parts of the keystroke benchmark, and its person at a fake editor."""

import asyncio
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from lsprotocol import types

from benchmarks import keystrokes
from benchmarks.guesses import Compared, gather, renamed, renamed_function, wrong_guesses
from benchmarks.keystrokes import Asked, Times, Typist, summarize
from benchmarks.typist import Edit, Passage, Script
from lsp_server.documents import Document
from lsp_server.documents import Edit as DocumentEdit
from lsp_server.drafting import PromptLookup, Source
from lsp_server.positions import Position

URI = "file:///typed.py"
TEXT = "value = compute(value)\nprint(value)\n"


class Editor:
    """A client whose server knows the file, keeps the document and answers when told."""

    def __init__(self, answers: Callable[[Document, int], str | None]) -> None:
        self.version = 0
        self.lsp = self
        self.cancelled: list[str] = []
        self._answers = answers
        self.document = Document.opened(URI, "python", 1, "")

    def open(self, text: str, uri: str) -> None:
        """Take the text."""
        self.version = 1
        self.document = Document.opened(uri, "python", 1, text)

    def text_document_did_change(self, params: types.DidChangeTextDocumentParams) -> None:
        """Keep the document."""
        for change in params.content_changes:
            assert isinstance(change, types.TextDocumentContentChangePartial)
            start, end = (
                Position(at.line, at.character) for at in (change.range.start, change.range.end)
            )
            edit = DocumentEdit(change.text, start, end)
            version = params.text_document.version
            self.document = self.document.edited(version, [edit], "utf-16")

    def cancel_request(self, params: types.CancelParams) -> None:
        """Remember what was cancelled."""
        self.cancelled.append(str(params.id))

    def request(self, line: int, character: int, **_: Any) -> "asyncio.Future[Any]":
        """Answer at once, or never."""
        future = asyncio.get_running_loop().create_future()
        offset = self.document.offset(Position(line, character), "utf-16")
        text = self._answers(self.document, offset)
        if text is not None:
            here = types.Position(line, character)
            item = types.InlineCompletionItem(text, range=types.Range(here, here))
            future.set_result(SimpleNamespace(items=[item] if text else []))
        return future


def script(text: str = TEXT, pause_s: float = 0.001) -> Script:
    """Return a script that types the text, character by character."""
    edits = tuple(Edit(pause_s, at, 0, character) for at, character in enumerate(text))
    return Script("", (Passage(0, text, edits),))


async def typed(editor: Editor, what: Script) -> Typist:
    """Type a script."""
    typist = Typist(editor, URI, what)  # type: ignore[arg-type]
    await typist.type_all(lambda _: None)
    return typist


async def test_right_suggestions_are_accepted_and_save_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever accepts gets the same file with fewer keys."""
    monkeypatch.setattr(keystrokes, "_REACTION_S", 0.0)
    editor = Editor(lambda document, offset: TEXT[offset:].partition("\n")[0])
    typist = await typed(editor, script())
    assert editor.document.text == TEXT
    assert typist.n_accepted > len(TEXT) / 2
    assert typist.n_accepted + typist.n_typed == len(TEXT)
    assert editor.cancelled == []


async def test_wrong_suggestions_are_typed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A suggestion that is not what comes next is never accepted."""
    monkeypatch.setattr(keystrokes, "_REACTION_S", 0.0)
    editor = Editor(lambda *_: "nothing of the kind")
    typist = await typed(editor, script())
    assert editor.document.text == TEXT
    assert typist.n_accepted == 0


async def test_a_key_cancels_what_was_asked_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request without an answer is cancelled, and counts as superseded."""
    monkeypatch.setattr(keystrokes, "_LAST_ANSWER_S", 0.0)
    editor = Editor(lambda *_: None)
    typist = await typed(editor, script("abc"))
    assert editor.cancelled == [f"{URI} 2", f"{URI} 3"]
    assert [one.is_superseded for one in typist.asked] == [True, True, False]
    assert not any(one.is_answered for one in typist.asked)


def asked(version: int, n_steps: int, n_items: int, *, superseded: bool = False) -> Asked:
    """Return a request for which the model ran so many steps."""
    completion = {"first_token_ms": 2.0, "total_ms": 4.0, "silence": ""}
    run = {"n_rows": 1, "is_whole": not superseded}
    return Asked(
        *(URI, version, version == 3, version <= 2, 0.0),
        ms=None if superseded else 10.0 * version,
        n_items=n_items,
        is_superseded=superseded,
        task={"runs": [run] * n_steps, "completion": completion, "generated": 2 * n_steps}
        | {"waited_ms": 0.0}
        if n_steps
        else {},
    )


def test_steps_are_counted_by_what_became_of_them() -> None:
    """Wasted is what was superseded, empty, or idle work without use."""
    requests = [
        asked(1, 4, 1),
        asked(2, 0, 1),
        asked(3, 2, 0),
        asked(4, 3, 0, superseded=True),
    ]
    run = {"n_rows": 1, "is_whole": True}
    record: list[dict[str, Any]] = [
        {"kind": "idle", "number": 1, "runs": [run] * 5, "generated": 0},
        {"kind": "idle", "number": 2, "runs": [run] * 6, "generated": 0},
        {"kind": "used", "number": 2},
    ]
    typist = SimpleNamespace(n_typed=4, n_accepted=10, n_acceptances=1)
    figures = summarize(requests, record, [typist])  # type: ignore[list-item]
    assert figures.steps == {
        "shown": 4, "empty": 2, "superseded": 3, "idle, used": 6, "idle, not used": 5,
    }  # fmt: skip
    assert figures.wasted_share == pytest.approx(10 / 20)
    assert figures.steps_per_accepted == pytest.approx(2.0)
    assert figures.ended_steps == 3
    assert figures.superseded_share == pytest.approx(1 / 4)
    assert figures.keys_without_answer == 1
    assert figures.without_model_share == pytest.approx(1 / 3)
    assert figures.known_share == pytest.approx(1 / 2)
    assert figures.shown_share == pytest.approx(2 / 3)
    assert (figures.along, figures.along_without_model) == (2, 1)
    assert figures.after_acceptance.most == 30.0
    assert figures.answer.most == 30.0
    assert figures.stale == 0


def test_an_answer_for_a_passed_version_or_another_place_is_stale() -> None:
    """It must never happen, so it must not go unseen."""
    late, misplaced = asked(1, 1, 1), asked(2, 1, 1)
    late.server = {"is_stale": True}
    misplaced.is_misplaced = True
    assert summarize([late, misplaced, asked(3, 1, 1)], [], []).stale == 2


def test_percentiles_of_nothing_are_no_numbers() -> None:
    """A run without such an answer has no time, rather than a good one."""
    assert math.isnan(Times.of([]).p50)
    assert Times.of([1.0, 2.0, 3.0]) == Times(2.0, 2.9, 3.0)


def test_ratios_are_medians_over_the_cases() -> None:
    """One case that is far off changes little; the worst is told beside it."""
    cases = [
        Compared("a", (4.0, 2.0), 2.0, True, 0.0),
        Compared("a", (3.0, 1.0), 3.0, False, 0.1),
        Compared("a", (1.0, 2.0), 1.0, True, 0.0),
        Compared("b", (1.0, 1.0), 1.0, True, 0.0),
    ]
    found = gather("of a", cases, ("a",))
    assert (found.ratio, found.least_ratio, found.cases) == (2.0, 0.5, 3)
    assert found.equal_share == pytest.approx(2 / 3)
    assert found.largest_gap == 0.1


def test_renaming_changes_the_commonest_name_everywhere() -> None:
    """An edit elsewhere is one that the model sees."""
    assert renamed("value = value + other") == "new_value = new_value + other"
    assert renamed("x = 1") == "x = 1"
    assert renamed_function("def run(a):\n    run(a)") == "def new_run(a):\n    run(a)"


def test_wrong_guesses_are_offered_and_wrong() -> None:
    """The worst case is one: each time something is guessed, and it never comes."""
    token_ids = list(range(100, 140))
    source = Source(wrong_guesses(token_ids))
    for n_known in range(3, len(token_ids)):
        guess = PromptLookup([source])(token_ids[:n_known])
        assert guess
        assert guess[0] != token_ids[n_known]
