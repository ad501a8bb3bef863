"""Asks the real server about each hole of a project, and records what came of it.

What a project's tests say is asked for on request only: it runs what was written.
"""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from model_eval.editor import Item
from model_eval.hole_scores import PARSES, TESTS, FileJudge
from model_eval.holes import LINE, Hole
from model_eval.project import ProjectTests
from model_eval.records import Record

SERVER_SETTINGS: dict[str, Any] = {
    "candidates": 1,
    "checkDeadlineMs": 0,
    "deadlineMs": 60_000,
    "flagged": "last",
    "latencyBudgetMs": 60_000,
    "maxNewTokens": 256,
    "statistics": False,
    "steering": False,
    "suggest": "eager",
    "unloadAfterMinutes": 0,
}
"""Evaluation mode: nothing is steered, checked, repaired, hidden or cut short by the clock."""
_REPEATED = 20
_TRIED = 3


class Asked(Protocol):
    """What a run needs of ``model_eval.editor.Editor``."""

    def complete(self, path: Path, text: str, offset: int) -> Item:
        """Open a text, ask at the cursor, and return the first item."""


@dataclass(frozen=True)
class Answer:
    """An answer as it is judged."""

    inserted: str
    filled: str
    seconds: float
    is_late: bool


def serve_command(folder: Path) -> list[str]:
    """Return what starts the server with an exported folder."""
    return [sys.executable, "-m", "lsp_server", "serve", "--model", str(folder)]


def ask(editor: Asked, folder: Path, text: str, hole: Hole) -> Answer:
    """Return what a server gives for a hole.

    Of the rest of a line the item's first line counts, as where a person accepts a line.
    """
    item = editor.complete(folder / hole.file, hole.filled(text, ""), hole.start)
    if hole.kind == LINE:
        line = item.insert_text.replace("\r", "\n").partition("\n")[0]
        item = replace(item, insert_text=line)
    filled = item.applied(hole.filled(text, ""))
    return Answer(item.insert_text, filled, item.seconds, item.is_late)


def run_holes(
    editor: Asked,
    folder: Path,
    texts: Mapping[str, str],
    holes: Sequence[Hole],
    record: Record,
    tests: ProjectTests | None,
) -> Iterator[None]:
    """Write what the record lacks; yields after each hole.

    At the end some holes are asked about again, which tells how often an answer depends on
    more than the text.
    """
    done = {line["hole"] for line in record.lines if "hole" in line}
    for hole in holes:
        if hole.name not in done:
            text = texts[hole.file]
            answer = ask(editor, folder, text, hole)
            record.add(_judged(hole, text, answer, tests))
        yield
    answers = {line["hole"]: line["inserted"] for line in record.lines if "hole" in line}
    repeated = {line["repeated"] for line in record.lines if "repeated" in line}
    for hole in chosen_again(holes):
        if hole.name not in repeated:
            answer = ask(editor, folder, texts[hole.file], hole)
            is_same = answer.inserted == answers[hole.name]
            record.add({"repeated": hole.name, "is_same": is_same})
        yield


def chosen_again(holes: Sequence[Hole]) -> Sequence[Hole]:
    """Return the holes that are asked about twice."""
    return holes[:: max(1, len(holes) // _REPEATED)][:_REPEATED]


def estimated_seconds(
    editor: Asked,
    folder: Path,
    texts: Mapping[str, str],
    holes: Sequence[Hole],
    tests: ProjectTests | None,
) -> float:
    """Return about how long all holes take, from a few of them."""
    tried = holes[:: max(1, len(holes) // _TRIED)][:_TRIED]
    started = time.perf_counter()
    for hole in tried:
        ask(editor, folder, texts[hole.file], hole)
    asking_s = (time.perf_counter() - started) / max(1, len(tried))
    n_asked = len(holes) + len(chosen_again(holes))
    # Of a hole that the tests notice, they run for nothing, for ``pass`` and for the answer.
    return n_asked * asking_s + len(holes) * 3 * (tests.seconds if tests else 0.0)


def _judged(
    hole: Hole, text: str, answer: Answer, tests: ProjectTests | None
) -> dict[str, Any]:
    judge = FileJudge(text)
    empty, stub = hole.filled(text, ""), hole.filled(text, hole.stub)
    is_empty = not answer.inserted.strip()
    on_empty, on_stub = judge.judge(empty), judge.judge(stub)
    scores = dict.fromkeys(on_empty, False) if is_empty else judge.judge(answer.filled)
    if tests is not None:
        # What does not parse need not be run.
        on_empty[TESTS] = on_empty[PARSES] and tests.pass_with(hole.file, empty)
        if not on_empty[TESTS]:
            on_stub[TESTS] = on_stub[PARSES] and tests.pass_with(hole.file, stub)
            filled = answer.filled
            scores[TESTS] = scores[PARSES] and tests.pass_with(hole.file, filled)
    return {
        "hole": hole.name,
        "file": hole.file,
        "kind": hole.kind,
        "inserted": answer.inserted,
        "seconds": answer.seconds,
        "is_late": answer.is_late,
        **judge.match(hole, answer.inserted, answer.filled),
        **scores,
        "empty": on_empty,
        "stub": on_stub,
    }
