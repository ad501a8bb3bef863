"""Writes one candidate, token by token, until its end is known.

The model writes freely within what the place, the names that exist and a loop that it fell
into leave it; what turns out wrong is written anew. It knows neither how the prompt was made
nor how a candidate fits what follows it.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lsp_server.drafting import PromptLookup
from lsp_server.indentation import with_tabs
from lsp_server.plan import Plan, Rule, unix
from lsp_server.prompt import Prompt
from lsp_server.repetition import Loop
from lsp_server.serving_model import CodeTokenizer, Model
from lsp_server.steering import Steering
from lsp_server.truncation import cut_line, cut_statement, cut_turn, is_talk, whole_statements

if TYPE_CHECKING:
    # The server answers ``initialize`` before numpy is loaded.
    from lsp_server.sampling import BoolArray

_MOST_DETOURS = 4
"""Loops that are left for another way to go on, in one candidate."""
_SAMPLED_TEMPERATURE = 0.6
_SAMPLED_TOP_P = 0.95


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


class Writing:
    """One candidate in the making."""

    def __init__(
        self,
        model: Model,
        prompt: Prompt,
        plan: Plan,
        draft: Draft,
        *,
        max_new_tokens: int,
        index: int,
        lookup: Callable[[], PromptLookup],
        steering: Steering | None,
        stop: threading.Event | None,
        filters: bool,
    ) -> None:
        """Begin nothing yet; the candidate with index 0 is the greedy one."""
        self._model = model
        self._plan = plan
        self._draft = draft
        self._n_left = max_new_tokens
        self._index = index
        self._lookup = lookup
        self._steering = steering
        self._stop = stop
        self._filters = filters
        self._beginning = _Beginning(model, prompt, plan, filters=filters)
        self._n_typed = n_typed(plan, prompt)
        self._written = ""
        """What stands of it, with what was typed before the cursor."""
        self._n_kept = 0
        """Tokens that stood when the model was last asked to go on."""
        self._not_next: int | None = None
        """The token that it may not go on with."""
        self._loop = Loop(model.tokenizer)
        self._n_detours = 0
        self._unsure: dict[str, int] = {}
        """By what was written, the tokens that were there when names were not known yet."""

    def write(self) -> Iterator[None]:
        """Write into the draft until its text is known; yields after each token."""
        if self._steering is not None:
            # So that the names are known by the time that the prompt is read.
            self._steering.look(self._beginning.required.decode())
        tokens = self._go_on()
        while True:
            step = next(tokens, None)
            if step is None:
                wrong = self._first_wrong(at_end=True)
                if wrong is None:
                    break
                tokens = self._back_to(wrong)
                continue
            tokens = self._take(*step) or tokens
            yield
            if self._draft.text is not None:
                return
        self._draft.text = self._ended()

    def _take(
        self, token_id: int, log_probability: float
    ) -> Iterator[tuple[int, float]] | None:
        """Take a token; returns what goes on instead where something is written anew."""
        draft = self._draft
        self._n_left -= 1
        draft.token_ids.append(token_id)
        data = self._data(len(draft.token_ids))
        self._write_down(data)
        if self._steering is not None:
            self._steering.look(self._written)
        left = self._loop.left_by(token_id) if self._filters else None
        if len(data) <= len(self._beginning.required):
            return None
        draft.free_log_probabilities.append(log_probability)
        end = self._end(left)
        wrong = self._first_wrong(at_end=end is not None)
        if wrong is not None:
            return self._back_to(wrong)
        if left is not None and (self._loop.is_in_line or not end) and self._may_leave_loop():
            # From the end of its first round on, the text goes on in another way.
            self._n_detours += 1
            n_once = self._loop.n_once
            return self._back_to(n_once, not_next=draft.token_ids[n_once])
        draft.text = end
        return None

    def _end(self, left: str | None) -> str | None:
        """Return what is to be inserted, None while it is not whole; ``left`` by a loop."""
        if left is None:
            return _cut(self._plan, self._written, self._n_typed)
        if self._plan.rule is Rule.LINE:
            return ""
        text = _styled(self._plan, self._beginning.lead + left.encode(), self._n_typed)
        return whole_part(self._plan, text[self._n_typed :])

    def _may_leave_loop(self) -> bool:
        is_left = min(self._n_left, _MOST_DETOURS - self._n_detours) > 0
        # The model did not choose what has to stand.
        return is_left and len(self._data(self._loop.n_once)) > len(self._beginning.required)

    def _ended(self) -> str | None:
        """Return what is to be inserted where the model, its limit or ``stop`` ended it."""
        # Where the model ended the text, its last line is whole.
        written = self._written + "\n" if self._n_left > 0 else self._written
        end = _cut(self._plan, written, self._n_typed) if self._n_left > 0 else None
        if end is not None:
            return end
        if not self._filters or self._is_stopped():
            return self._written[self._n_typed :]
        if self._plan.rule is Rule.LINE:
            return None
        return whole_part(self._plan, written[self._n_typed :])

    def _go_on(self) -> Iterator[tuple[int, float]]:
        """Return the tokens that come after those that stand, with their log-probabilities."""
        return self._model.engine.generate(
            [*self._beginning.prompt_ids, *self._draft.token_ids],
            max_new_tokens=self._n_left,
            temperature=_SAMPLED_TEMPERATURE if self._index else 0.0,
            top_p=_SAMPLED_TOP_P,
            seed=self._index,
            stop=self._stop,
            allowed=self._allowed,
            draft=self._lookup(),
        )

    def _back_to(
        self, n_kept: int, *, not_next: int | None = None
    ) -> Iterator[tuple[int, float]]:
        """Take all but the first tokens back; returns what comes after these instead."""
        draft = self._draft
        n_dropped = len(draft.token_ids) - n_kept
        draft.token_ids[n_kept:] = []
        draft.free_log_probabilities[-n_dropped:] = []
        self._n_kept, self._not_next = n_kept, not_next
        self._write_down(self._data(n_kept))
        self._loop = Loop(self._model.tokenizer)
        for token_id in draft.token_ids:
            self._loop.left_by(token_id)
        self._unsure = {text: n for text, n in self._unsure.items() if n < n_kept}
        return self._go_on()

    def _first_wrong(self, *, at_end: bool) -> int | None:
        """Return the tokens before a name that is known by now not to exist, if there is one.

        At the end the names that are not known yet are waited for.
        """
        steering, token_ids = self._steering, self._draft.token_ids
        if steering is None or not self._unsure or self._is_stopped():
            return None
        if at_end:
            steering.wait(self._unsure)
        wrong = []
        for text in steering.settled():
            n_tokens = self._unsure.pop(text, len(token_ids))
            named = steering.allowed(text) if n_tokens < len(token_ids) else None
            if named is not None and not named[token_ids[n_tokens]]:
                wrong.append(n_tokens)
        if not wrong:
            return None
        self._n_left += len(token_ids) - min(wrong)
        return min(wrong)

    def _allowed(self, generated: list[int]) -> "BoolArray | None":
        """Return a mask of the tokens that may come next, None for any."""
        token_ids = [*self._draft.token_ids[: self._n_kept], *generated]
        data = self._beginning.lead + self._model.tokenizer.decode_bytes(token_ids)
        mask = self._beginning.allowed(len(token_ids), data)
        if self._not_next is not None and not generated:
            mask = self._beginning.all_but(self._not_next)
        if self._steering is None:
            return mask
        text = unix(data.decode("utf-8", "ignore"))
        named = self._steering.allowed(text)
        if self._steering.is_unsure(text) and len(data) >= len(self._beginning.required):
            self._unsure[text] = len(token_ids)
        if mask is None or named is None:
            return named if mask is None else mask
        # A word that was typed and that nothing knows stands all the same.
        return mask & named if (mask & named).any() else mask

    def _write_down(self, data: bytes) -> None:
        self._written = _styled(self._plan, data, self._n_typed)
        if self._plan.rule is Rule.TURN and not self._filters:
            # Nothing made the model begin with what was typed.
            typed = self._plan.line_before
            self._n_typed = len(typed) if self._written.startswith(typed) else 0
        self._draft.written = self._written[self._n_typed :]

    def _data(self, n_tokens: int) -> bytes:
        """Return the text of the first tokens, with what the prompt's last one holds of it."""
        token_ids = self._draft.token_ids[:n_tokens]
        return self._beginning.lead + self._model.tokenizer.decode_bytes(token_ids)

    def _is_stopped(self) -> bool:
        return self._stop is not None and self._stop.is_set()


class _Beginning:
    """What a candidate begins with, whatever the model wants."""

    def __init__(self, model: Model, prompt: Prompt, plan: Plan, *, filters: bool) -> None:
        indent = plan.indent if filters else ""
        self.prompt_ids = prompt.token_ids
        self.lead = b""
        """What the last token of the prompt holds of it."""
        self.required = prompt.required
        self._forced: list[int] = []
        self._not_first = plan.not_first if filters else b""
        if plan.rule is Rule.TURN:
            # Any spelling of a half-typed word may become a word; indentation has its own.
            self.required = indent.encode()
            self.prompt_ids, self.lead, self._forced = _indented(
                model.tokenizer, self.prompt_ids, indent
            )
        self._model = model

    def allowed(self, n_tokens: int, data: bytes) -> "BoolArray | None":
        """Return a mask of the tokens that may come after so many, which are this text."""
        vocabulary, size = self._model.tokenizer.vocabulary, self._model.engine.vocab_size
        if n_tokens < len(self._forced):
            return vocabulary.only(self._forced[n_tokens], size)
        if len(data) > len(self.required):
            return None
        if len(data) == len(self.required) and not self._not_first:
            return None
        return vocabulary.allowed(self.required[len(data) :], self._not_first, size)

    def all_but(self, token_id: int) -> "BoolArray":
        """Return a mask of all tokens but one."""
        vocabulary, size = self._model.tokenizer.vocabulary, self._model.engine.vocab_size
        return ~vocabulary.only(token_id, size)


def n_typed(plan: Plan, prompt: Prompt) -> int:
    """Return how much of what is written stands before the cursor already."""
    if plan.rule is Rule.TURN:
        return len(plan.line_before)
    return len(prompt.required.decode())


def whole_part(plan: Plan, written: str) -> str:
    """Return what is written of an unfinished text up to its last whole statement.

    Between brackets that is the rest of the line.
    """
    whole = whole_statements(plan.begun + written, plan.language_id)[len(plan.begun) :]
    return whole or (cut_line(written) or "" if plan.open_brackets else "")


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
