"""From one snapshot of a buffer to candidates for what to insert at the cursor.

It decides what kind of completion the place calls for, lets the engine write it, and
ends it where it should end. It knows neither LSP nor any checker.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from lsp_server.drafting import DraftSources, PromptLookup
from lsp_server.indentation import cut_misplaced, with_tabs
from lsp_server.infill import InfillTokens, build_infill_prompt, n_prefix_tokens
from lsp_server.language_lines import read_lines
from lsp_server.overlap import (
    cut_overlap,
    cut_repeated_lines,
    cut_surplus_closers,
    cut_unclosed_string,
    cut_words,
)
from lsp_server.plan import Plan, Rule, Snapshot, plan_completion, unix, window_of
from lsp_server.prompt import Prompt, TextTokenizer, build_prompt, prompt_start
from lsp_server.python_lines import LineKind
from lsp_server.repetition import Loop
from lsp_server.steering import NameSource, Steering
from lsp_server.truncation import (
    cut_line,
    cut_statement,
    cut_turn,
    is_talk,
    whole_statements,
)
from lsp_server.turns import Turn, read_turns, turn_at

if TYPE_CHECKING:
    # The server answers ``initialize`` before numpy is loaded.
    from lsp_server.sampling import BoolArray, FloatArray
    from lsp_server.vocabulary import Vocabulary

_DRAFT_CHARACTERS = 4096
"""So much of what follows the cursor is looked at for what may be repeated."""
_SUGGESTION_CONTEXT = 64
"""Characters before a suggestion, by which its beginning is found again."""
_MAX_LINE_TOKENS = 96
_MOST_DETOURS = 4
"""Loops that are left for another way to go on, in one candidate."""
_INDENTATION_CHARACTERS = 2048
"""So much of what follows the cursor is looked at for where the next line of code begins."""
_PERPLEXITY_CHUNK = 32
"""Tokens after which a request that came meanwhile is seen."""
_SAMPLED_TEMPERATURE = 0.6
_SAMPLED_TOP_P = 0.95


SUPERSEDED = "an edit or a newer request took its place"
UNFINISHED = "it is still being written"


class TokenEngine(Protocol):
    """What a completion needs of ``lsp_server.engine.Engine``."""

    eos_token_id: int
    vocab_size: int
    context_length: int
    reused_tokens: int
    cache_type: str

    def forget(self) -> None:
        """Empty the caches."""

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
        allowed: "Callable[[list[int]], BoolArray | None] | None" = None,
        draft: Callable[[list[int]], list[int]] | None = None,
    ) -> Iterator[tuple[int, float]]:
        """Yield token ids and their log-probabilities."""

    def log_probabilities(self, token_ids: Sequence[int], start: int) -> "FloatArray":
        """Return the log-probability of each id from ``start`` on."""

    def prefill(self, token_ids: Sequence[int], stop: threading.Event) -> None:
        """Read a prompt into a cache."""

    def prefill_ms(self, token_ids: Sequence[int]) -> float:
        """Return how long reading what is in no cache would take."""

    def n_tokens_within(self, budget_ms: float) -> int:
        """Return how many tokens of a prompt can be read within the budget."""


class CodeTokenizer(TextTokenizer, Protocol):
    """What a completion needs of ``lsp_server.tokenizer.Tokenizer``."""

    def decode(self, token_ids: list[int]) -> str:
        """Return the text of tokens."""

    @property
    def vocabulary(self) -> "Vocabulary":
        """The bytes of every token that stands for text."""


@dataclass(frozen=True)
class Model:
    """An engine and the tokenizer that belongs to it."""

    name: str
    engine: TokenEngine
    tokenizer: CodeTokenizer
    notice: str = ""
    """What a person should know of how it runs."""
    draft_sources: DraftSources = field(default_factory=DraftSources)
    infill_tokens: InfillTokens | None = None
    """None where the model was not trained to infill."""
    perplexity_threshold: float | None = None
    """Of a prompt, from which on it is unclear to this model; None: nobody knows."""


@dataclass(frozen=True)
class Candidate:
    """Text to insert at the cursor."""

    insert_text: str
    mean_log_probability: float
    """Natural, over the tokens that the model chose freely."""
    first_log_probability: float
    """Of the first of them."""
    rule: Rule | None = None
    """What chose the kind of completion that it is."""


@dataclass(frozen=True)
class Completion:
    """The answer to one snapshot; times are milliseconds from when it was asked."""

    candidates: tuple[Candidate, ...] = ()
    rule: Rule | None = None
    silence: str = ""
    """Why there is no candidate."""
    is_whole: bool = True
    """False while more is being written."""
    prompt_tokens: int = 0
    reused_tokens: int = 0
    generated_tokens: int = 0
    written: str = ""
    """What the greedy candidate was when it ended or was stopped, for guesses."""
    unread: tuple[int, ...] = ()
    """The prompt that was too long for the budget; to be read into a cache next."""
    first_token_ms: float = 0.0
    total_ms: float = 0.0


@dataclass
class Draft:
    """One generation in the making; another thread may ask what ``standing`` it has."""

    plan: Plan | None = None
    token_ids: list[int] = field(default_factory=list)
    free_log_probabilities: list[float] = field(default_factory=list)
    written: str = ""
    """All of it, without what was typed before the cursor."""
    text: str | None = None
    """What is to be inserted of it, once its end is known."""


def complete(
    model: Model,
    snapshot: Snapshot,
    *,
    max_new_tokens: int,
    n_candidates: int = 1,
    stop: threading.Event | None = None,
    budget_ms: float = math.inf,
    nearby: Sequence[str] = (),
    draft: Draft | None = None,
    names: NameSource | None = None,
    in_comments: bool = False,
    filters: bool = True,
) -> Completion:
    """Return candidates for the cursor of a snapshot, the greedy one first.

    The others begin with lines that differ from its first and each other's.

    ``stop`` ends it within one token, with what stands by then thrown away. Where reading
    the prompt would take more than the budget, it does without what follows the cursor,
    and if need be is shortened to what is nearest. ``nearby`` are texts that may be
    repeated, the likeliest first. The greedy one is written into ``draft``. What Python
    code may name is steered by ``names``. For ``in_comments`` see ``plan_completion``.

    Without ``filters`` the model may begin with whatever it wants, loops stay, what follows
    the cursor may come twice, and the text at the limit ends where it ends; only to measure.
    """
    started = time.perf_counter()
    plan = plan_completion(snapshot, in_comments=in_comments)
    if isinstance(plan, str):
        return Completion(silence=plan)
    limit = _token_limit(model, max_new_tokens)
    n_tokens = model.engine.context_length - limit
    whole = _prompt(model, plan, n_tokens)
    prompt = _within(model, plan, whole, n_tokens, budget_ms)
    unread = whole.token_ids if prompt is not whole else []
    if plan.rule is Rule.LINE:
        limit = min(limit, _MAX_LINE_TOKENS)
    first_token_ms = 0.0
    reused_tokens = generated_tokens = 0
    written = ""
    candidates: dict[str, Candidate] = {}
    lookup = _lookup(model, plan, nearby)
    for index in range(n_candidates):
        draft = draft if draft is not None and index == 0 else Draft()
        draft.plan = plan
        steering = _steering(model, prompt, plan, snapshot, names)
        written_tokens = _generate(
            model, prompt, plan, draft, limit, index, stop, lookup, steering, filters=filters
        )
        for _ in written_tokens:
            if not generated_tokens:
                first_token_ms = 1e3 * (time.perf_counter() - started)
                reused_tokens = model.engine.reused_tokens
            generated_tokens += 1
            if "\n" in draft.written.lstrip() and _first_line(draft.written) in candidates:
                break
        if index == 0:
            written = draft.text or model.tokenizer.decode(draft.token_ids)
        if stop is not None and stop.is_set():
            return Completion(
                rule=plan.rule,
                silence=SUPERSEDED,
                written=written,
                unread=tuple(unread),
            )
        text = draft.text or ""
        text = _fitted(plan, text) if filters else text.rstrip()
        insert_text = _with_newlines_of(snapshot.text, text)
        if insert_text:
            candidates.setdefault(
                _first_line(unix(insert_text)), _candidate(insert_text, draft, plan.rule)
            )
    return Completion(
        candidates=tuple(candidates.values()),
        rule=plan.rule,
        silence="" if candidates else "the model has nothing to add",
        prompt_tokens=len(prompt.token_ids),
        reused_tokens=reused_tokens,
        generated_tokens=generated_tokens,
        written=written,
        unread=tuple(unread),
        first_token_ms=first_token_ms,
        total_ms=1e3 * (time.perf_counter() - started),
    )


def standing(snapshot: Snapshot, draft: Draft) -> Completion:
    """Return the whole lines that stand by now of what another thread writes.

    What is written later goes on after them. The rest of a line stands when it is whole.
    """
    plan = draft.plan
    text = ""
    if plan is not None and plan.rule is not Rule.LINE:
        text = _fitted(plan, _whole(plan, draft.written))
    if plan is None or not text:
        rule = plan.rule if plan is not None else None
        return Completion(rule=rule, silence=UNFINISHED, is_whole=False)
    insert_text = _with_newlines_of(snapshot.text, text)
    return Completion(
        (_candidate(insert_text, draft, plan.rule),),
        rule=plan.rule,
        is_whole=False,
        generated_tokens=len(draft.token_ids),
    )


def _candidate(insert_text: str, draft: Draft, rule: Rule) -> Candidate:
    # Copied, because another thread may be writing more of it.
    free = list(draft.free_log_probabilities) or [0.0]
    return Candidate(insert_text, sum(free) / len(free), free[0], rule)


def warm_up(
    model: Model, snapshot: Snapshot, *, max_new_tokens: int, stop: threading.Event
) -> None:
    """Read what ``complete`` would read, so that it need not.

    Where the text does not fit the context, the cursor decides what is read; wherever it
    goes, that is something else, so nothing is read yet.
    """
    plan = plan_completion(snapshot)
    if isinstance(plan, str):
        return
    n_tokens = model.engine.context_length - _token_limit(model, max_new_tokens)
    n_before = _n_before(model, n_tokens)
    if prompt_start(model.tokenizer, plan.before, (), n_before) == 0:
        model.engine.prefill(_prompt(model, plan, n_tokens).token_ids, stop)


def suggestion_source(snapshot: Snapshot, insert_text: str) -> str:
    """Return what ``complete`` takes as ``nearby`` to find a suggestion again."""
    start = max(0, snapshot.offset - _SUGGESTION_CONTEXT)
    return unix(snapshot.text[start : snapshot.offset] + insert_text)


def _token_limit(model: Model, max_new_tokens: int) -> int:
    return max(1, min(max_new_tokens, model.engine.context_length // 2))


def _prompt(model: Model, plan: Plan, n_tokens: int) -> Prompt:
    """Return all that the model should read of the text, in at most ``n_tokens`` tokens."""
    infill_tokens = _infill_tokens(model, plan)
    if infill_tokens is None:
        return _prompt_before(model, plan, _n_before(model, n_tokens))
    return build_infill_prompt(
        model.tokenizer,
        infill_tokens,
        plan.before,
        plan.text_after,
        plan.turns,
        n_tokens=n_tokens,
        heal=plan.heal,
        condense=plan.is_python,
        above=plan.above,
    )


def _infill_tokens(model: Model, plan: Plan) -> InfillTokens | None:
    """Return the tokens to infill with, None where the prompt ends at the cursor.

    A turn's prompt is the paper's, and what follows it are later turns. Anywhere else,
    whatever follows says how the text has to go on: the block that the cursor is in, the
    names that are used below, or the comment of the next step.
    """
    if plan.rule is Rule.TURN or not plan.text_after.strip():
        return None
    return model.infill_tokens


def _within(model: Model, plan: Plan, whole: Prompt, n_tokens: int, budget_ms: float) -> Prompt:
    """Return the whole prompt, or as much of it as can be read within the budget."""
    engine = model.engine
    if engine.prefill_ms(whole.token_ids) <= budget_ms:
        return whole
    prompt = whole
    if _infill_tokens(model, plan) is not None:
        # On a new line what follows has to be read again, what stands before has not.
        prompt = _prompt_before(model, plan, _n_before(model, n_tokens))
    if engine.prefill_ms(prompt.token_ids) > budget_ms:
        n_nearest = engine.n_tokens_within(budget_ms)
        if n_nearest < len(prompt.token_ids):
            return _prompt_before(model, replace(plan, above=""), n_nearest, condense=False)
    return prompt


def _n_before(model: Model, n_tokens: int) -> int:
    # As many tokens for each rule, so that prompts go on sharing their beginning.
    return n_tokens if model.infill_tokens is None else n_prefix_tokens(n_tokens)


def _prompt_before(model: Model, plan: Plan, n_tokens: int, *, condense: bool = True) -> Prompt:
    return build_prompt(
        model.tokenizer,
        plan.before,
        plan.turns,
        n_tokens=n_tokens,
        heal=plan.heal,
        condense=condense and plan.is_python,
        above=plan.above,
        eos_token_id=model.engine.eos_token_id,
    )


def _lookup(model: Model, plan: Plan, nearby: Sequence[str]) -> Callable[[], PromptLookup]:
    """Return what makes a fresh lookup for each candidate."""
    texts = [plan.text_after[:_DRAFT_CHARACTERS], *nearby]
    sources = [
        model.draft_sources.of(text, lambda text: model.tokenizer.encode(text).token_ids)
        for text in texts
    ]
    return lambda: PromptLookup(sources)


def prompt_perplexity(model: Model, snapshot: Snapshot) -> float | None:
    """Return the perplexity of the prompt of the turn at the cursor, None without one."""
    text, offset = window_of(snapshot)
    turn = turn_at(read_turns(text, snapshot.language_id), offset)
    return None if turn is None else turn_perplexity(model, text, turn, threading.Event())


def turn_perplexity(model: Model, text: str, turn: Turn, stop: threading.Event) -> float | None:
    """Return the perplexity of a turn's prompt, None where it has no tokens.

    It is over the prompt's own tokens, without comment marks and newlines, each given
    all text before it (Nijkamp et al., 2022, section 4.3). ``stop`` ends it soon, also
    with None.
    """
    values = prompt_log_probabilities(model, text, turn, stop)
    return math.exp(-sum(values) / len(values)) if values else None


def prompt_log_probabilities(
    model: Model, text: str, turn: Turn, stop: threading.Event
) -> list[float]:
    """Return the natural log-probability of each of a prompt's own tokens; none on ``stop``."""
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
        return []
    token_ids = encoded.token_ids[first : own[-1] + 1]
    model.engine.prefill(token_ids[: own[0] - first], stop)
    values: list[float] = []
    for start in range(own[0] - first, len(token_ids), _PERPLEXITY_CHUNK):
        if stop.is_set():
            return []
        part = token_ids[: start + _PERPLEXITY_CHUNK]
        values += map(float, model.engine.log_probabilities(part, start))
    return [values[index - own[0]] for index in own]


def _lies_in(span: tuple[int, int], turn: Turn, start: int) -> bool:
    # A token may begin with the space between the comment mark and the word.
    return any(
        first - 1 <= span[0] + start and first < span[1] + start <= end
        for first, end in turn.prompt_spans
    )


def _generate(
    model: Model,
    prompt: Prompt,
    plan: Plan,
    draft: Draft,
    limit: int,
    index: int,
    stop: threading.Event | None,
    lookup: Callable[[], PromptLookup],
    steering: Steering | None,
    *,
    filters: bool,
) -> Iterator[None]:
    """Write one candidate into ``draft``; yields after each token."""
    tokenizer, engine = model.tokenizer, model.engine
    is_turn = plan.rule is Rule.TURN
    indent = plan.indent if filters else ""
    not_first = plan.not_first if filters else b""
    required = indent.encode() if is_turn else prompt.required
    n_typed = _n_typed(plan, prompt)
    prompt_ids, lead, forced = prompt.token_ids, b"", list[int]()
    if is_turn:
        # Any spelling of a half-typed word may become a word; indentation has only its own.
        prompt_ids, lead, forced = _indented(tokenizer, prompt_ids, indent)
    loop = Loop(tokenizer)
    kept: list[int] = []
    barred: int | None = None

    n_left, n_detours = limit, 0
    written = ""
    writing: Iterator[tuple[int, float]] = iter(())
    unsure: dict[str, int] = {}
    """By what was written, the tokens that were there when names were not known yet."""

    def fitting(generated: list[int]) -> "BoolArray | None":
        if barred is not None and not generated:
            return ~tokenizer.vocabulary.only(barred, engine.vocab_size)
        n_tokens = len(kept) + len(generated)
        if n_tokens < len(forced):
            return tokenizer.vocabulary.only(forced[n_tokens], engine.vocab_size)
        written = lead + tokenizer.decode_bytes([*kept, *generated])
        if len(written) > len(required):
            return None
        if len(written) == len(required) and not not_first:
            return None
        rest = required[len(written) :]
        return tokenizer.vocabulary.allowed(rest, not_first, engine.vocab_size)

    def allowed(generated: list[int]) -> "BoolArray | None":
        mask = fitting(generated)
        if steering is None:
            return mask
        data = lead + tokenizer.decode_bytes([*kept, *generated])
        text = unix(data.decode("utf-8", "ignore"))
        named = steering.allowed(text)
        if steering.is_unsure(text) and len(data) >= len(required):
            unsure[text] = len(kept) + len(generated)
        if mask is None or named is None:
            return named if mask is None else mask
        # A word that was typed and that nothing knows stands all the same.
        return mask & named if (mask & named).any() else mask

    def tokens() -> Iterator[tuple[int, float]]:
        return engine.generate(
            [*prompt_ids, *kept],
            max_new_tokens=n_left,
            temperature=_SAMPLED_TEMPERATURE if index else 0.0,
            top_p=_SAMPLED_TOP_P,
            seed=index,
            stop=stop,
            allowed=allowed,
            draft=lookup(),
        )

    def go_back(n_kept: int, not_next: int | None) -> None:
        nonlocal kept, barred, loop, writing, written
        kept, barred = draft.token_ids[:n_kept], not_next
        n_dropped = len(draft.token_ids) - n_kept
        draft.token_ids[n_kept:] = []
        draft.free_log_probabilities[-n_dropped:] = []
        written = _styled(plan, lead + tokenizer.decode_bytes(kept), n_typed)
        draft.written = written[n_typed:]
        loop = Loop(tokenizer)
        for known in kept:
            loop.left_by(known)
        for text in [text for text, n_tokens in unsure.items() if n_tokens >= n_kept]:
            del unsure[text]
        writing = tokens()

    def is_anew(*, at_end: bool = False) -> bool:
        """Go back to where a name was written that is now known not to exist, if to any."""
        nonlocal n_left
        if steering is None or not unsure or (stop is not None and stop.is_set()):
            return False
        if at_end:
            steering.wait(unsure)
        wrong = []
        for text in steering.settled():
            n_tokens = unsure.pop(text, len(draft.token_ids))
            named = steering.allowed(text) if n_tokens < len(draft.token_ids) else None
            if named is not None and not named[draft.token_ids[n_tokens]]:
                wrong.append(n_tokens)
        if wrong:
            n_left += len(draft.token_ids) - min(wrong)
            go_back(min(wrong), None)
        return bool(wrong)

    if steering is not None:
        # So that the names are known by the time that the prompt is read.
        steering.look(required.decode())
    writing = tokens()
    while True:
        step = next(writing, None)
        if step is None:
            if is_anew(at_end=True):
                continue
            break
        token_id, log_probability = step
        n_left -= 1
        draft.token_ids.append(token_id)
        data = lead + tokenizer.decode_bytes(draft.token_ids)
        written = _styled(plan, data, n_typed)
        if is_turn and not filters:
            n_typed = len(plan.line_before) if written.startswith(plan.line_before) else 0
        if steering is not None:
            steering.look(written)
        draft.written = written[n_typed:]
        left = loop.left_by(token_id) if filters else None
        if len(data) > len(required):
            draft.free_log_probabilities.append(log_probability)
            end = _cut(plan, written, n_typed) if left is None else ""
            if left is not None and plan.rule is not Rule.LINE:
                end = _whole(plan, _styled(plan, lead + left.encode(), n_typed)[n_typed:])
            if is_anew(at_end=end is not None):
                yield
                continue
            once = draft.token_ids[: loop.n_once]
            if (
                left is not None
                and (loop.is_in_line or not end)
                and min(n_left, _MOST_DETOURS - n_detours) > 0
                and len(lead + tokenizer.decode_bytes(once)) > len(required)
            ):
                # From the end of its first round on, the text goes on in another way.
                n_detours += 1
                go_back(len(once), draft.token_ids[loop.n_once])
            elif end is not None:
                draft.text = end
                yield
                return
        yield
    # Where the model ended the text, its last line is whole.
    ended = written + "\n" if n_left > 0 else written
    end = _cut(plan, ended, n_typed) if n_left > 0 else None
    if end is not None:
        draft.text = end
    elif not filters or (stop is not None and stop.is_set()):
        draft.text = written[n_typed:]
    elif plan.rule is not Rule.LINE:
        draft.text = _whole(plan, ended[n_typed:])


def _indented(
    tokenizer: CodeTokenizer, token_ids: list[int], indent: str
) -> tuple[list[int], bytes, list[int]]:
    """Return a prompt, the indentation that it ends with then, and the next tokens.

    Some tokenizers have the newline and most of the indentation in one token, and the last
    space in that of the word after it; what is spelled otherwise no model has seen.
    """
    spelled: list[int] = []
    for token_id in tokenizer.encode(f"\n{indent}x").token_ids:
        if len(tokenizer.decode_bytes([*spelled, token_id])) > 1 + len(indent):
            break
        spelled.append(token_id)
    if not indent or not spelled or token_ids[-1:] != tokenizer.encode("\n").token_ids:
        return token_ids, b"", tokenizer.encode(indent).token_ids
    return [*token_ids[:-1], spelled[0]], tokenizer.decode_bytes(spelled[:1])[1:], spelled[1:]


def _styled(plan: Plan, data: bytes, n_typed: int) -> str:
    """Return the text that was written, with newlines and indentation as the file has them.

    The first characters were typed before the cursor, so they stay.
    """
    text = unix(data.decode("utf-8", "ignore"))
    if not plan.is_tabbed:
        return text
    is_first = not plan.line_before.strip()
    return text[:n_typed] + with_tabs(text[n_typed:], starts_line=is_first)


def _n_typed(plan: Plan, prompt: Prompt) -> int:
    """Return how much of what is written stands before the cursor already."""
    if plan.rule is Rule.TURN:
        return len(plan.line_before)
    return len(prompt.required.decode())


def _steering(
    model: Model, prompt: Prompt, plan: Plan, snapshot: Snapshot, names: NameSource | None
) -> Steering | None:
    if names is None or not plan.is_python:
        return None
    text, offset = snapshot.text, snapshot.offset
    before = text[: offset - _n_typed(plan, prompt)]
    vocabulary, size = model.tokenizer.vocabulary, model.engine.vocab_size
    return Steering(names, before, text[offset:], vocabulary, size)


def _cut(plan: Plan, written: str, n_typed: int) -> str | None:
    """Return what is to be inserted of the text that was written, once it is whole."""
    match plan.rule:
        case Rule.TURN:
            program = cut_turn(written, plan.indent, plan.language_id)
            return None if program is None else program[n_typed:]
        case Rule.STATEMENT:
            rest = written[n_typed:]
            return cut_statement(plan.begun, rest, plan.language_id, below=plan.below)
        case Rule.LINE:
            line = cut_line(written[n_typed:])
            return "" if line and plan.is_python and is_talk(line.lstrip()) else line


def _whole(plan: Plan, written: str) -> str:
    """Return what is written of an unfinished text up to its last whole statement.

    Between brackets that is the rest of the line.
    """
    whole = whole_statements(plan.begun + written, plan.language_id)[len(plan.begun) :]
    return whole or (cut_line(written) or "" if plan.open_brackets else "")


def _fitted(plan: Plan, generated: str) -> str:
    """Return the text without what the buffer holds already after the cursor."""
    text = generated.rstrip()
    if plan.rule is Rule.LINE:
        if plan.open_brackets is None:
            text = cut_words(text, plan.line_after)
        else:
            text = cut_overlap(text, plan.text_after, plan.open_brackets, plan.language_id)
        if not plan.line_before.strip() and (plan.line_before or plan.line_after.strip()):
            # The line has its indentation.
            text = text.lstrip(" \t")
    elif plan.is_python:
        closed = cut_unclosed_string(plan.begun, text)
        text = text if closed == text else _whole(plan, closed).rstrip()
        text = cut_surplus_closers(text, plan.open_brackets or "", plan.language_id)
    if plan.rule is Rule.TURN:
        text = _whole(plan, text + "\n").rstrip()
    text = _without_repeated(plan, text)
    if plan.is_python and not plan.line_after.strip():
        before = plan.before + (plan.line_before if plan.rule is Rule.TURN else "")
        after = plan.text_after[:_INDENTATION_CHARACTERS]
        top = plan.statement_start
        text = cut_misplaced(before, text, after, tabbed=plan.is_tabbed, top=top)
        # Its end may now be what stands below.
        text = _without_repeated(plan, text)
    if not plan.text_after[:1].strip():
        text = text.rstrip()
    if plan.rule is not Rule.LINE and not _has_code(text, plan.language_id):
        return ""
    return text if text.strip() else ""


def _without_repeated(plan: Plan, text: str) -> str:
    is_first = not plan.line_before.strip()
    typed = plan.line_before if is_first else ""
    kept = cut_repeated_lines(typed + text, plan.text_after, starts_line=is_first)
    return kept[len(typed) :]


def _first_line(text: str) -> str:
    return text.lstrip().partition("\n")[0].rstrip()


def _has_code(text: str, language_id: str) -> bool:
    return any(line.kind is LineKind.CODE for line in read_lines(text, language_id))


def line_end_of(text: str) -> str:
    """Return what ends the lines of a text."""
    if "\r\n" in text:
        return "\r\n"
    return "\r" if "\r" in text and "\n" not in text else "\n"


def _with_newlines_of(text: str, inserted: str) -> str:
    return inserted.replace("\n", line_end_of(text))
