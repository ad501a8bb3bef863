"""From one snapshot of a buffer to candidates for what to insert at the cursor.

It decides what kind of completion the place calls for, lets the engine write it, and
ends it where it should end. It knows neither LSP nor any checker.
"""

import math
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Protocol

import numpy as np

from lsp_server.drafting import PromptLookup
from lsp_server.positions import line_of
from lsp_server.prompt import Prompt, TextTokenizer, build_prompt, prompt_start
from lsp_server.python_lines import LineKind, Place, read_lines, scan
from lsp_server.sampling import BoolArray
from lsp_server.truncation import (
    cut_line,
    cut_overlap,
    cut_statement,
    cut_turn,
    whole_statements,
)
from lsp_server.turns import Turn, read_turns, turn_at
from lsp_server.vocabulary import Vocabulary

_BEFORE_WINDOW = 1 << 18
_AFTER_WINDOW = 1 << 16
_WINDOW_STEP = 1 << 16
"""Characters around the cursor that are looked at, so that work has a bound; the window
moves in steps, because a prompt that starts elsewhere has nothing in the cache."""
_DRAFT_CHARACTERS = 4096
"""So much of what follows the cursor is looked at for what may be repeated."""
_LONGEST_LINE = 1000
"""Characters; in a longer line only the rest of it is completed."""
_MAX_LINE_TOKENS = 96
_SAMPLED_TEMPERATURE = 0.6
_SAMPLED_TOP_P = 0.95
_LONGEST_PERIOD = 64
_LOOP_OF_LINES = 3
_LOOP_IN_LINE = 4
_LOOP_IN_LINE_TOKENS = 16
"""Fewer tokens in a line may be a list of equal numbers or a row of marks."""
_NOT_AT_LINE_START = b" \t\f\r\n#"
# A program that begins with a string would be cut to nothing by ``truncate``.
_NOT_AT_TURN_START = _NOT_AT_LINE_START + b"\"'"


class TokenEngine(Protocol):
    """What a completion needs of ``lsp_server.engine.Engine``."""

    eos_token_id: int
    vocab_size: int
    context_length: int
    reused_tokens: int

    def generate(
        self,
        token_ids: Sequence[int],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: threading.Event | None = None,
        allowed: Callable[[list[int]], BoolArray | None] | None = None,
        draft: Callable[[list[int]], list[int]] | None = None,
    ) -> Iterator[tuple[int, float]]:
        """Yield token ids and their log-probabilities."""

    def log_probabilities(
        self, token_ids: Sequence[int], start: int
    ) -> "np.ndarray[Any, np.dtype[np.float32]]":
        """Return the log-probability of each id from ``start`` on."""


class CodeTokenizer(TextTokenizer, Protocol):
    """What a completion needs of ``lsp_server.tokenizer.Tokenizer``."""

    @property
    def vocabulary(self) -> Vocabulary:
        """The bytes of every token that stands for text."""


@dataclass(frozen=True)
class Model:
    """An engine and the tokenizer that belongs to it."""

    name: str
    engine: TokenEngine
    tokenizer: CodeTokenizer


@dataclass(frozen=True)
class Snapshot:
    """A buffer as it was when somebody asked; ``offset`` is the cursor."""

    text: str
    offset: int
    language_id: str = "python"
    uri: str = ""


class Rule(Enum):
    """What a completion is at a place."""

    TURN = "turn"
    """The whole program of the comment above, which has none."""
    STATEMENT = "statement"
    """The statement at the cursor, with its block if it opens one."""
    LINE = "line"
    """The rest of the line."""


@dataclass(frozen=True)
class Candidate:
    """Text to insert at the cursor."""

    insert_text: str
    mean_log_probability: float
    """Natural, over the tokens that the model chose freely."""


@dataclass(frozen=True)
class Completion:
    """The answer to one snapshot; times are milliseconds from when it was asked."""

    candidates: tuple[Candidate, ...] = ()
    rule: Rule | None = None
    silence: str = ""
    """Why there is no candidate."""
    prompt_tokens: int = 0
    reused_tokens: int = 0
    generated_tokens: int = 0
    first_token_ms: float = 0.0
    total_ms: float = 0.0


@dataclass(frozen=True)
class _Plan:
    rule: Rule
    before: str
    """The text that the model goes on from, newlines as ``\\n``."""
    turn_starts: list[int]
    line_before: str
    line_after: str
    text_after: str
    heal: bool
    indent: str = ""
    """The indentation that a turn's program must have."""
    not_first: bytes = b""
    """Bytes that the free part of the completion must not begin with."""


class _Loop:
    """Watches for the same tokens coming over and over.

    Small models fall into such loops and never leave them.
    """

    def __init__(self, tokenizer: CodeTokenizer) -> None:
        self._tokenizer = tokenizer
        self._token_ids: list[int] = []
        # By period, how many of the newest tokens are equal to those a period before.
        self._n_equal = [0] * (_LONGEST_PERIOD + 1)

    def left_by(self, token_id: int) -> str | None:
        """Return the text without the loop that this token closes, None without one.

        Of a loop of whole lines one round stays, of one inside a line nothing.
        """
        self._token_ids.append(token_id)
        end = len(self._token_ids)
        for period in range(1, min(_LONGEST_PERIOD + 1, end)):
            if token_id != self._token_ids[-1 - period]:
                self._n_equal[period] = 0
                continue
            self._n_equal[period] += 1
            n_tokens = self._n_equal[period] + period
            if n_tokens < _LOOP_OF_LINES * period:
                continue
            start = end - n_tokens
            once = self._tokenizer.decode_bytes(self._token_ids[start : start + period])
            is_in_line = b"\n" not in once
            if is_in_line and n_tokens < max(_LOOP_IN_LINE * period, _LOOP_IN_LINE_TOKENS):
                continue
            if not once.strip():
                continue
            text = self._tokenizer.decode_bytes(self._token_ids[:start])
            if not is_in_line:
                # A loop that begins inside a line is counted from the next line on.
                begins_inside = text and not text.endswith(b"\n")
                text += once + (once[: once.index(b"\n") + 1] if begins_inside else b"")
            return _unix(text.decode("utf-8", "ignore"))
        return None


@dataclass
class _Draft:
    """One generation in the making."""

    token_ids: list[int] = field(default_factory=list)
    free_log_probabilities: list[float] = field(default_factory=list)
    text: str | None = None


def complete(
    model: Model,
    snapshot: Snapshot,
    *,
    max_new_tokens: int,
    n_candidates: int = 1,
    stop: threading.Event | None = None,
) -> Completion:
    """Return candidates for the cursor of a snapshot, the greedy one first.

    ``stop`` ends it within one token, with what stands by then thrown away.
    """
    started = time.perf_counter()
    plan = _plan(snapshot)
    if isinstance(plan, str):
        return Completion(silence=plan)
    limit = max(1, min(max_new_tokens, model.engine.context_length // 2))
    prompt = build_prompt(
        model.tokenizer,
        plan.before,
        plan.turn_starts,
        # The same for each rule, so that prompts go on sharing their beginning.
        n_tokens=model.engine.context_length - limit,
        heal=plan.heal,
        eos_token_id=model.engine.eos_token_id,
    )
    if plan.rule is Rule.LINE:
        limit = min(limit, _MAX_LINE_TOKENS)
    first_token_ms = 0.0
    reused_tokens = generated_tokens = 0
    candidates: dict[str, Candidate] = {}
    for index in range(n_candidates):
        draft = _Draft()
        for _ in _generate(model, prompt, plan, draft, limit, index, stop):
            if not generated_tokens:
                first_token_ms = 1e3 * (time.perf_counter() - started)
                reused_tokens = model.engine.reused_tokens
            generated_tokens += 1
        if stop is not None and stop.is_set():
            return Completion(rule=plan.rule, silence="a newer request took its place")
        insert_text = _with_newlines_of(snapshot.text, _fitted(plan, draft.text or ""))
        if insert_text and insert_text not in candidates:
            free = draft.free_log_probabilities or [0.0]
            candidates[insert_text] = Candidate(insert_text, sum(free) / len(free))
    return Completion(
        candidates=tuple(candidates.values()),
        rule=plan.rule,
        silence="" if candidates else "the model has nothing to add",
        prompt_tokens=len(prompt.token_ids),
        reused_tokens=reused_tokens,
        generated_tokens=generated_tokens,
        first_token_ms=first_token_ms,
        total_ms=1e3 * (time.perf_counter() - started),
    )


def prompt_perplexity(model: Model, snapshot: Snapshot) -> float | None:
    """Return the perplexity of the prompt of the turn at the cursor, None without one.

    It is over the prompt's own tokens, without comment marks and newlines, each given
    all text before it (Nijkamp et al., 2022, section 4.3).
    """
    text, offset = _window(snapshot)
    turn = turn_at(read_turns(text), offset)
    if turn is None:
        return None
    n_tokens = model.engine.context_length
    start = prompt_start(model.tokenizer, text[: turn.prompt_end], [], n_tokens)
    encoded = model.tokenizer.encode(text[start : turn.prompt_end])
    # Merges across the start can make it a token more.
    first = max(0, len(encoded.token_ids) - n_tokens)
    own = [
        index
        for index, span in enumerate(encoded.spans)
        if index > first and _lies_in(span, turn, start)
    ]
    if not own:
        return None
    token_ids = encoded.token_ids[first : own[-1] + 1]
    values = model.engine.log_probabilities(token_ids, own[0] - first)
    chosen = [float(values[index - own[0]]) for index in own]
    return math.exp(-sum(chosen) / len(chosen))


def _lies_in(span: tuple[int, int], turn: Turn, start: int) -> bool:
    # A token may begin with the space between the comment mark and the word.
    return any(
        first - 1 <= span[0] + start and first < span[1] + start <= end
        for first, end in turn.prompt_spans
    )


def _window(snapshot: Snapshot) -> tuple[str, int]:
    """Return the text around the cursor, with Unix line ends, and the cursor in it."""
    start = max(0, snapshot.offset - _BEFORE_WINDOW)
    start -= start % _WINDOW_STEP
    if start > 0:
        newline = snapshot.text.find("\n", start, snapshot.offset)
        start = newline + 1 if newline >= 0 else start
    before = _unix(snapshot.text[start : snapshot.offset])
    after = _unix(snapshot.text[snapshot.offset : snapshot.offset + _AFTER_WINDOW])
    return before + after, len(before)


def _plan(snapshot: Snapshot) -> _Plan | str:
    """Return what to complete at the cursor, or why nothing."""
    text, offset = _window(snapshot)
    if not text.strip():
        return "the file is empty"
    line_start, line_end = line_of(text, offset)
    line_before, line_after = text[line_start:offset], text[offset:line_end]
    plan = _Plan(
        rule=Rule.LINE,
        before=text[:offset],
        turn_starts=[],
        line_before=line_before,
        line_after=line_after,
        text_after=text[offset:],
        heal=bool(line_before),
    )
    if re.search(r"\w$", line_before) and re.match(r"\w", line_after):
        return "the cursor is inside a word"
    if snapshot.language_id != "python":
        return plan
    here = scan(text[:offset])
    if here.place is not Place.CODE:
        return f"the cursor is in a {here.place.value}"
    turns = read_turns(text)
    starts = [turn.start for turn in turns if not turn.indent]
    plan = replace(plan, turn_starts=starts)
    if line_after.strip() or here.n_open_brackets or len(line_before) > _LONGEST_LINE:
        return plan
    turn = turn_at(turns, offset)
    if turn and not turn.has_program and not line_before.strip():
        indent = turn.indent if turn.indent.startswith(line_before) else line_before
        return replace(
            plan,
            rule=Rule.TURN,
            before=text[: turn.prompt_end],
            heal=False,
            indent=indent,
            not_first=_NOT_AT_TURN_START,
        )
    not_first = b""
    if not line_before.strip():
        not_first = _NOT_AT_LINE_START if line_before else b"\r\n#"
    return replace(plan, rule=Rule.STATEMENT, not_first=not_first)


def _generate(
    model: Model,
    prompt: Prompt,
    plan: _Plan,
    draft: _Draft,
    limit: int,
    index: int,
    stop: threading.Event | None,
) -> Iterator[None]:
    """Write one candidate into ``draft``; yields after each token."""
    tokenizer, engine = model.tokenizer, model.engine
    is_turn = plan.rule is Rule.TURN
    required = plan.indent.encode() if is_turn else prompt.required
    n_typed = len(plan.line_before) if is_turn else len(required.decode())
    # Any spelling of a half-typed word may become a word; indentation has only its own.
    forced = tokenizer.encode(plan.indent).token_ids if is_turn else []
    loop = _Loop(tokenizer)

    def allowed(generated: list[int]) -> BoolArray | None:
        if len(generated) < len(forced):
            mask: BoolArray = np.arange(engine.vocab_size) == forced[len(generated)]
            return mask
        written = tokenizer.decode_bytes(generated)
        if len(written) > len(required):
            return None
        if len(written) == len(required) and not plan.not_first:
            return None
        rest = required[len(written) :]
        return tokenizer.vocabulary.allowed(rest, plan.not_first, engine.vocab_size)

    after = tokenizer.encode(plan.text_after[:_DRAFT_CHARACTERS]).token_ids
    tokens = engine.generate(
        prompt.token_ids,
        max_new_tokens=limit,
        temperature=_SAMPLED_TEMPERATURE if index else 0.0,
        top_p=_SAMPLED_TOP_P,
        seed=index,
        stop=stop,
        allowed=allowed,
        draft=PromptLookup([after]),
    )
    written = ""
    for token_id, log_probability in tokens:
        draft.token_ids.append(token_id)
        data = tokenizer.decode_bytes(draft.token_ids)
        written = _unix(data.decode("utf-8", "ignore"))
        left = loop.left_by(token_id)
        if len(data) > len(required):
            draft.free_log_probabilities.append(log_probability)
            if left is None:
                end = _cut(plan, written, n_typed)
            else:
                end = "" if plan.rule is Rule.LINE else whole_statements(left[n_typed:])
            if end is not None:
                draft.text = end
                yield
                return
        yield
    if len(draft.token_ids) < limit:
        # The model ended the text, and so whatever it was writing.
        end = _cut(plan, written + "\n", n_typed)
        draft.text = written[n_typed:] if end is None else end
    elif plan.rule is not Rule.LINE:
        draft.text = whole_statements(written[n_typed:])


def _cut(plan: _Plan, written: str, n_typed: int) -> str | None:
    """Return what is to be inserted of the text that was written, once it is whole."""
    match plan.rule:
        case Rule.TURN:
            program = cut_turn(written, plan.indent)
            return None if program is None else program[n_typed:]
        case Rule.STATEMENT:
            return cut_statement(plan.line_before, written[n_typed:])
        case Rule.LINE:
            return cut_line(written[n_typed:])


def _fitted(plan: _Plan, generated: str) -> str:
    """Return the text without what the buffer holds already after the cursor."""
    text, follows = generated.rstrip(), plan.text_after.lstrip()
    if plan.rule is Rule.LINE:
        after = plan.line_after.strip()
        if not after and follows[:1] in ")]}":
            after = follows[:1]
        text = cut_overlap(text, after)
    if not plan.text_after[:1].strip():
        text = text.rstrip()
    if plan.rule is not Rule.LINE and not _has_code(text):
        return ""
    lines = text.strip()
    rest = follows[len(lines) :].partition("\n")[0]
    is_there = follows.startswith(lines) and not rest.strip()
    return text if lines and not is_there else ""


def _has_code(text: str) -> bool:
    return any(line.kind is LineKind.CODE for line in read_lines(text))


def line_end_of(text: str) -> str:
    """Return what ends the lines of a text."""
    if "\r\n" in text:
        return "\r\n"
    return "\r" if "\r" in text and "\n" not in text else "\n"


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _with_newlines_of(text: str, inserted: str) -> str:
    return inserted.replace("\n", line_end_of(text))
