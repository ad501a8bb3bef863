"""What a tokenizer's tokens are, as bytes and in a text; pure, knows no library."""

import re
from bisect import bisect_left
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from lsp_server.sampling import BoolArray

# A byte that is not ASCII may be a part of a letter.
_IN_NAME = re.compile(rb"[A-Za-z0-9_\x80-\xff]")
_WORD = re.compile(rb" ?[A-Za-z0-9_\x80-\xff]")
_CLOSER = re.compile(rb"[)\]}]")
# What comes after a quote or a number sign is perhaps no code.
_CODE = re.compile(rb"[^\"'#]*")
_OPENED_BY = {b")": b"(", b"]": b"[", b"}": b"{"}


@dataclass(frozen=True)
class Encoded:
    """Token ids with, for each, its span of code points and its pre-token's number.

    Merges never cross pre-tokens, so where one starts is a safe boundary.
    """

    token_ids: list[int]
    spans: list[tuple[int, int]]
    pre_tokens: list[int]


class Vocabulary:
    """The tokens' bytes, sorted, so that a prefix is a range."""

    def __init__(self, token_bytes: Mapping[int, bytes]) -> None:
        """Take bytes by token id; empty ones and absent ids are never allowed."""
        pairs = sorted((text, i) for i, text in token_bytes.items() if text)
        self._texts = [text for text, _ in pairs]
        self._places = {text: place for place, text in reversed(list(enumerate(self._texts)))}
        """Where each text stands first."""
        self._ids = np.array([i for _, i in pairs], np.int64)
        self._words = np.array([i for text, i in pairs if _WORD.match(text)], np.int64)
        self._outside = np.array([i for text, i in pairs if not _IN_NAME.match(text)], np.int64)

        self._closing: dict[bytes | None, list[int]] = {}
        for text, i in pairs:
            if _CLOSER.search(text):
                self._closing.setdefault(_needed(text), []).append(i)
        self._closers: dict[bytes, BoolArray] = {}

    def allowed(self, required: bytes, not_after: bytes, size: int) -> BoolArray:
        """Return a mask (size,) of the tokens that agree with ``required``.

        They are a part of it, or it and more, where what comes after it does not begin
        with a byte of ``not_after``. With nothing required only the latter counts.
        """
        mask = np.zeros(size, np.bool_)
        for length in range(1, len(required)):
            mask[self._exactly(required[:length])] = True
        mask[self._starting_with(required)] = True
        for byte in not_after:
            mask[self._starting_with(required + bytes([byte]))] = False
        return mask

    def only(self, token_id: int, size: int) -> BoolArray:
        """Return a mask (size,) of one token."""
        mask: BoolArray = np.arange(size) == token_id
        return mask

    def naming(self, endings: Collection[bytes], size: int) -> BoolArray:
        """Return a mask (size,) of the tokens that go on to one of the endings of a name.

        They are a part of one, or the whole of one and then what is no part of a name.
        """
        mask = np.zeros(size, np.bool_)
        parts = {ending[:n] for ending in endings for n in range(1, len(ending) + 1)}
        for part in parts & self._places.keys():
            mask[self._exactly(part)] = True
        for ending in endings:
            if not ending:
                mask[self._outside] = True
            for place in self._range(ending) if ending else ():
                if not _IN_NAME.match(self._texts[place], len(ending)):
                    mask[self._ids[place]] = True
        return mask

    def closing(self, due: bytes, size: int) -> BoolArray:
        """Return a mask (size,), not to be changed, of the tokens that close what is open.

        ``due`` are the closing brackets that are due, the innermost first; tokens that
        close nothing are allowed.
        """
        due = due[: max(map(len, filter(None, self._closing)), default=0)]
        if due not in self._closers:
            mask = np.ones(size, np.bool_)
            for needed, ids in self._closing.items():
                mask[ids] = needed is not None and due.startswith(needed)
            self._closers[due] = mask
        return self._closers[due]

    def no_word(self, size: int) -> BoolArray:
        """Return a mask (size,) of the tokens that begin no word, not after a space either."""
        mask = np.ones(size, np.bool_)
        mask[self._words] = False
        return mask

    def without(self, prefix: bytes, but: bytes, size: int) -> BoolArray:
        """Return a mask (size,) of the tokens without a prefix, or with the other one."""
        mask = np.ones(size, np.bool_)
        mask[self._starting_with(prefix)] = False
        mask[self._starting_with(but)] = True
        return mask

    def _exactly(self, text: bytes) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
        start = end = self._places.get(text, len(self._texts))
        while self._texts[end : end + 1] == [text]:
            end += 1
        return self._ids[start:end]

    def _starting_with(self, prefix: bytes) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
        places = self._range(prefix)
        return self._ids[places.start : places.stop]

    def _range(self, prefix: bytes) -> range:
        start = bisect_left(self._texts, prefix)
        past = prefix.rstrip(b"\xff")
        if not past:
            return range(start, len(self._texts))
        past = past[:-1] + bytes([past[-1] + 1])
        return range(start, bisect_left(self._texts, past, lo=start))


def _needed(token: bytes) -> bytes | None:
    """Return what a token closes that others opened, None where it closes wrongly itself."""
    code = _CODE.match(token)
    opened, needed = b"", b""
    for bracket in re.findall(rb"[()\[\]{}]", code[0] if code else b""):
        if bracket not in _OPENED_BY:
            opened += bracket
        elif not opened:
            needed += bracket
        elif opened.endswith(_OPENED_BY[bracket]):
            opened = opened[:-1]
        else:
            return None
    return needed
