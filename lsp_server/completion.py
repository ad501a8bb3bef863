"""From one snapshot of a buffer to candidates for what to insert at the cursor.

It decides what kind of completion the place calls for, lets the engine write it, and
ends it where it should end. It knows neither LSP nor any checker.
"""

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from lsp_server.drafting import PromptLookup
from lsp_server.indentation import cut_misplaced
from lsp_server.infill import InfillTokens, build_infill_prompt, n_prefix_tokens
from lsp_server.language_lines import read_lines
from lsp_server.overlap import (
    cut_overlap,
    cut_repeated_lines,
    cut_surplus_closers,
    cut_unclosed_string,
    cut_words,
)
from lsp_server.plan import Plan, Rule, Snapshot, plan_completion, unix
from lsp_server.prompt import Prompt, build_prompt, prompt_start
from lsp_server.python_lines import LineKind
from lsp_server.serving_model import Model
from lsp_server.steering import NameSource, Steering
from lsp_server.writing import Draft, Writing, n_typed, whole_part

_DRAFT_CHARACTERS = 4096
"""So much of what follows the cursor is looked at for what may be repeated."""
_SUGGESTION_CONTEXT = 64
"""Characters before a suggestion, by which its beginning is found again."""
_MAX_LINE_TOKENS = 96
_INDENTATION_CHARACTERS = 2048
"""So much of what follows the cursor is looked at for where the next line of code begins."""

SUPERSEDED = "an edit or a newer request took its place"
UNFINISHED = "it is still being written"


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
        writing = Writing(
            model,
            prompt,
            plan,
            draft,
            max_new_tokens=limit,
            index=index,
            lookup=lookup,
            steering=steering,
            stop=stop,
            filters=filters,
        )
        for _ in writing.write():
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
        text = _fitted(plan, whole_part(plan, draft.written))
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


def _steering(
    model: Model, prompt: Prompt, plan: Plan, snapshot: Snapshot, names: NameSource | None
) -> Steering | None:
    if names is None or not plan.is_python:
        return None
    text, offset = snapshot.text, snapshot.offset
    before = text[: offset - n_typed(plan, prompt)]
    vocabulary, size = model.tokenizer.vocabulary, model.engine.vocab_size
    return Steering(names, before, text[offset:], vocabulary, size)


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
        text = text if closed == text else whole_part(plan, closed).rstrip()
        text = cut_surplus_closers(text, plan.open_brackets or "", plan.language_id)
    if plan.rule is Rule.TURN:
        text = whole_part(plan, text + "\n").rstrip()
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
