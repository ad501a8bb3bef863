"""Writes the programs of a file's turns, each on top of those before it.

This is CodeGen's multi-turn synthesis with the file as its history.
"""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lsp_server.completion import Model, Rule, Snapshot, complete
from lsp_server.positions import position_at
from lsp_server.turns import Turn, read_turns
from lsp_server.verdict import UNCHECKED, CheckRequest, Verdict

_BLANK_LINES = re.compile(r"\A(?:[ \t\f]*(?:\r\n|\n|\r))+")

Check = Callable[[CheckRequest], Verdict]


@dataclass(frozen=True)
class WrittenTurn:
    """One turn that was written; ``program`` is empty where the model had none."""

    line: int
    prompt: str
    program: str
    verdict: Verdict
    total_ms: float
    text: str
    """The whole file after this turn."""


def synthesize(
    model: Model,
    text: str,
    *,
    max_new_tokens: int,
    check: Check,
    path: str | None = None,
    stale_from: int | None = None,
) -> Iterator[WrittenTurn]:
    """Yield each turn without a program as it is written, from the first on.

    With ``stale_from``, a zero-based line, the programs of the turns from that line on
    are written anew, in the same way.
    """
    if stale_from is not None:
        text = _without_programs(text, stale_from)
    passed = 0
    while turn := _next_empty(text, passed):
        started = time.perf_counter()
        opened, offset = _with_room(text, turn)
        completion = complete(model, Snapshot(opened, offset), max_new_tokens=max_new_tokens)
        program = ""
        if completion.rule is Rule.TURN and completion.candidates:
            program = completion.candidates[0].insert_text
        verdict = UNCHECKED
        if program:
            verdict = check(CheckRequest(opened, offset, program, path=path))
            text = opened[:offset] + program + opened[offset:]
        passed = turn.start + 1
        yield WrittenTurn(
            line=position_at(text, turn.start).line,
            prompt=turn.prompt,
            program=program,
            verdict=verdict,
            total_ms=1e3 * (time.perf_counter() - started),
            text=text,
        )


def _next_empty(text: str, passed: int) -> Turn | None:
    turns = read_turns(text)
    return next((t for t in turns if t.start >= passed and not t.has_program), None)


def _with_room(text: str, turn: Turn) -> tuple[str, int]:
    """Return the text with a line for the program, a blank one after it, and its offset."""
    newline = "\r\n" if "\r\n" in text else "\n"
    head = text[: turn.prompt_end]
    if not head.endswith(("\n", "\r")):
        head += newline
    rest = _BLANK_LINES.sub("", text[turn.prompt_end :])
    return head + newline + (newline + rest if rest.strip() else ""), len(head)


def _without_programs(text: str, line: int) -> str:
    newline = "\r\n" if "\r\n" in text else "\n"
    kept = []
    end = 0
    for turn in read_turns(text):
        # A turn inside a program that goes, goes with it.
        is_kept = turn.start >= end
        if is_kept and turn.has_program and position_at(text, turn.start).line >= line:
            # The blank line keeps the next turn's comment apart from this one's.
            kept += [text[end : turn.prompt_end], newline]
            end = turn.end
    return "".join(kept) + text[end:]
