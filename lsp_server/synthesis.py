"""Writes the programs of a file's turns, each on top of those before it.

This is CodeGen's multi-turn synthesis with the file as its history.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from lsp_server.completion import Completion, complete, line_end_of
from lsp_server.plan import Rule, Snapshot
from lsp_server.positions import position_at, split_lines
from lsp_server.repair import kept_text
from lsp_server.serving_model import Model
from lsp_server.steering import NameSource
from lsp_server.turns import Turn, begins_clause, read_turns
from lsp_server.verdict import UNCHECKED, CheckRequest, Cut, Verdict, VerdictKind

Check = Callable[[CheckRequest], Verdict]


@dataclass(frozen=True)
class Opening:
    """A text with room for a turn's program."""

    start: int
    end: int
    """From ``start`` to here the text as it was goes."""
    text: str
    """With an empty line for the program at ``offset``."""
    offset: int
    n_after: int
    """Characters of the text that come after what goes."""

    def written(self, program: str) -> str:
        """Return the whole text with the program in it."""
        return self.text[: self.offset] + program + self.text[self.offset :]

    def replacement(self, program: str) -> str:
        """Return what takes the place of what goes."""
        text = self.written(program)
        return text[self.start : len(text) - self.n_after]


@dataclass(frozen=True)
class WrittenTurn:
    """One turn that the model was asked for; ``program`` is empty where it had none.

    A flagged program is shown here and stands in no text.
    """

    line: int
    prompt: str
    program: str
    verdict: Verdict
    total_ms: float
    text: str
    """The whole file after this turn."""

    @property
    def stands(self) -> bool:
        """Tell whether the program stands in the text."""
        return bool(self.program) and self.verdict.verdict is not VerdictKind.FLAGGED


def synthesize(
    model: Model,
    text: str,
    *,
    max_new_tokens: int,
    check: Check,
    language_id: str = "python",
    path: str | None = None,
    stale_from: int | None = None,
    names: NameSource | None = None,
    filters: bool = True,
) -> Iterator[WrittenTurn]:
    """Yield each turn without a program as ``write_turn`` writes it, from the first on.

    With ``stale_from``, a zero-based line, the programs of the turns from that line on
    are written anew, in the same way. ``names`` and ``filters`` are those of ``complete``.
    """
    # Characters from that line on; counted from the end, what is written above is no matter.
    n_stale = 0 if stale_from is None else sum(map(len, split_lines(text)[stale_from:]))
    passed = 0
    while turn := _next_turn(text, language_id, passed, n_stale):
        n_below = len(text) - turn.end
        written = write_turn(
            model,
            text,
            turn,
            max_new_tokens=max_new_tokens,
            check=check,
            language_id=language_id,
            path=path,
            names=names,
            filters=filters,
        )
        if written.stands:
            # What was just written is not stale.
            n_stale = min(n_stale, n_below)
        text = written.text
        passed = turn.start + 1
        yield written


def write_turn(
    model: Model,
    text: str,
    turn: Turn,
    *,
    max_new_tokens: int,
    check: Check,
    language_id: str = "python",
    path: str | None = None,
    names: NameSource | None = None,
    filters: bool = True,
) -> WrittenTurn:
    """Write the program of one turn, in the place of the one it has.

    A program that the check, which knows Python only, flags is not built upon: the text
    stays as it was, as it does where the model has no program.
    """
    started = time.perf_counter()
    opening = open_turn(text, turn, is_python=language_id == "python")
    snapshot = Snapshot(opening.text, opening.offset, language_id)
    completion = complete(
        model, snapshot, max_new_tokens=max_new_tokens, names=names, filters=filters
    )
    program = next(iter(programs_of(completion)), "")
    verdict = UNCHECKED
    if program and language_id == "python":
        request = CheckRequest(
            snapshot.text, snapshot.offset, program, path=path, cut=Cut.OUTER
        )
        verdict = check(request)
        program = kept_text(program, verdict)
    written = WrittenTurn(
        line=position_at(text, turn.start).line,
        prompt=turn.prompt,
        program=program,
        verdict=verdict,
        total_ms=1e3 * (time.perf_counter() - started),
        text=text,
    )
    return replace(written, text=opening.written(program)) if written.stands else written


def _next_turn(text: str, language_id: str, passed: int, n_stale: int) -> Turn | None:
    for turn in read_turns(text, language_id):
        is_stale = turn.has_program and len(text) - turn.start <= n_stale
        if turn.start >= passed and (is_stale or turn.wants_program):
            return turn
    return None


def open_turn(text: str, turn: Turn, *, is_python: bool = True) -> Opening:
    """Return the text with an empty line for the turn's program.

    What was there goes. One blank line comes before what follows, or two where there were,
    or none where that is a brace or a clause.
    """
    line_end = line_end_of(text)
    head = text[: turn.prompt_end]
    if not head.endswith(("\n", "\r")):
        head += line_end
    body, rest = text[turn.prompt_end : turn.end], text[turn.end :]
    n_blank = sum(not line.strip() for line in split_lines(body[len(body.rstrip()) :])[:-1])
    # The first line end after a program is the program's own.
    n_blank = min(max(1, n_blank - bool(body.strip())), 2)
    if rest.lstrip().startswith("}") or begins_clause(rest, is_python=is_python):
        n_blank = 0
    if not rest.strip():
        n_blank, rest = 0, ""
    return Opening(
        start=turn.prompt_end,
        end=len(text) - len(rest),
        text=head + line_end + n_blank * line_end + rest,
        offset=len(head),
        n_after=len(rest),
    )


def programs_of(completion: Completion) -> list[str]:
    """Return the candidates for a turn's program, none where the place is no turn's."""
    if completion.rule is not Rule.TURN:
        return []
    return [candidate.insert_text for candidate in completion.candidates]
