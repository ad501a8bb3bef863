"""Guesses the next tokens from text that is there already; pure, knows no model.

Code repeats itself, and its edits repeat what is around them. A guess costs the model
little to verify, and each token of it that holds saves a step (prompt lookup decoding;
Saxena, 2023).
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable

_NGRAM = 3
_FIRST_LENGTH = 4
_LONGEST = 16
_N_SOURCES = 16


class Source:
    """Token ids of a text that may be repeated, found by what stands before them."""

    def __init__(self, token_ids: list[int]) -> None:
        """Index the text; of equal places the first counts, it is nearer to the cursor."""
        self.token_ids = token_ids
        self.places = {
            tuple(token_ids[end - _NGRAM : end]): end
            for end in range(len(token_ids) - 1, _NGRAM - 1, -1)
        }


class DraftSources:
    """The texts that were used lately, indexed.

    A buffer rarely changes while another is typed in.
    """

    def __init__(self) -> None:
        self._sources: OrderedDict[str, Source] = OrderedDict()

    def of(self, text: str, encode: Callable[[str], list[int]]) -> Source:
        """Return the source of a text."""
        source = self._sources.pop(text, None) or Source(encode(text))
        self._sources[text] = source
        while len(self._sources) > _N_SOURCES:
            self._sources.popitem(last=False)
        return source


class PromptLookup:
    """Continues the last tokens as they went on where they stood before.

    The newest place is tried first: the context itself from its end, then the sources in
    order. Guesses grow while they hold, shrink when they do not, and stop at nothing;
    then they are only compared with what came, until one would have held.
    """

    def __init__(self, sources: Iterable[Source] = ()) -> None:
        """Take other texts: what follows the cursor, the last suggestion, other buffers."""
        self._sources = list(sources)
        self._places: dict[tuple[int, ...], int] = {}
        self._n_indexed = _NGRAM - 1
        self._length = _FIRST_LENGTH
        self._guess: list[int] = []
        self._n_before = 0
        self._was_offered = False

    def __call__(self, context: list[int]) -> list[int]:
        """Return what may follow the context, which grows from call to call."""
        self._learn(context)
        self._index(context)
        self._guess = self._continuation(context)[:_LONGEST]
        self._n_before = len(context)
        offered = self._guess[: self._length]
        self._was_offered = bool(offered)
        return offered

    def _learn(self, context: list[int]) -> None:
        """Fit the length of guesses to how the last one fared."""
        if not self._guess:
            return
        came = context[self._n_before :]
        n_held = 0
        for guessed, token_id in zip(self._guess, came, strict=False):
            if guessed != token_id:
                break
            n_held += 1
        if not self._was_offered:
            self._length = 1 if n_held else 0
        elif n_held >= self._length:
            self._length = min(_LONGEST, 2 * self._length)
        else:
            self._length = n_held if n_held else self._length // 2

    def _index(self, context: list[int]) -> None:
        # What ends with the context's last token has no continuation yet.
        for end in range(self._n_indexed + 1, len(context)):
            self._places[tuple(context[end - _NGRAM : end])] = end
        self._n_indexed = max(self._n_indexed, len(context) - 1)

    def _continuation(self, context: list[int]) -> list[int]:
        ngram = tuple(context[-_NGRAM:])
        if (end := self._places.get(ngram)) is not None:
            return context[end : end + _LONGEST]
        for source in self._sources:
            if (end := source.places.get(ngram)) is not None:
                return source.token_ids[end : end + _LONGEST]
        return []
