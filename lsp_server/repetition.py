"""Watches what a model writes for loops; small models fall into them and never leave."""

from typing import Protocol

from lsp_server.plan import unix

_LONGEST_PERIOD = 64
_LOOP_OF_LINES = 3
_LOOP_IN_LINE = 4
_LOOP_IN_LINE_TOKENS = 16
"""Fewer tokens in a line may be a list of equal numbers or a row of marks."""


class _Decoder(Protocol):
    def decode_bytes(self, token_ids: list[int]) -> bytes: ...


class Loop:
    """Notices that the same tokens come over and over."""

    def __init__(self, tokenizer: _Decoder) -> None:
        self._tokenizer = tokenizer
        self.n_once = 0
        """Tokens up to the end of the first round of the loop that was noticed last."""
        self.is_in_line = False
        """Whether that loop has no end of a line in it."""
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
            self.n_once, self.is_in_line = start + period, is_in_line
            text = self._tokenizer.decode_bytes(self._token_ids[:start])
            if not is_in_line:
                # A loop that begins inside a line is counted from the next line on.
                begins_inside = text and not text.endswith(b"\n")
                text += once + (once[: once.index(b"\n") + 1] if begins_inside else b"")
            return unix(text.decode("utf-8", "ignore"))
        return None
