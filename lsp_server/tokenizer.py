"""Text to token ids and back, exactly; the only module with tokenizers."""

import os
import re
from functools import cached_property
from pathlib import Path
from typing import Self

import tokenizers

from lsp_server.errors import ModelLoadError
from lsp_server.infill import InfillTokens
from lsp_server.vocabulary import Encoded, Vocabulary

_SURROGATE = re.compile("[\ud800-\udfff]")
# A batch of one text needs no thread pool of the library's own.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


class Tokenizer:
    """A byte-level BPE tokenizer of an exported folder."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._special = _specials(tokenizer)
        # A file that speaks of such a token holds its characters, and not the token,
        # whether or not the folder says that the token is special.
        tokenizer.add_special_tokens(
            [tokenizers.AddedToken(text, special=True) for text in self._special]
        )
        tokenizer.encode_special_tokens = True
        self._bytes = _token_bytes(tokenizer)

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Load a ``tokenizer.json``.

        Raises:
            ModelLoadError: the file holds no byte-level tokenizer.
        """
        try:
            return cls(tokenizers.Tokenizer.from_file(str(path)))
        except (KeyboardInterrupt, SystemExit):
            raise
        # The library raises bare exceptions, and a panic of it is not even one.
        except BaseException as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise ModelLoadError(f"{path} is no byte-level tokenizer: {reason}") from error

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The bytes of every token that stands for text."""
        special = set(self._special.values())
        return Vocabulary({i: text for i, text in self._bytes.items() if i not in special})

    @property
    def infill_tokens(self) -> InfillTokens | None:
        """The tokens of an infill prompt; None where the vocabulary lacks one."""
        mask, separator = self._special.get("<mask_1>"), self._special.get("<sep>")
        end_of_text = self._special.get("<|endoftext|>")
        if mask is None or separator is None or end_of_text is None:
            return None
        return InfillTokens(mask, separator, end_of_text)

    def encode(self, text: str) -> Encoded:
        """Return the tokens of a text; lone surrogates, which no model has, are U+FFFD."""
        # Unlike ``encode`` it lets other threads run meanwhile.
        (encoding,) = self._tokenizer.encode_batch(
            [_SURROGATE.sub("\ufffd", text)], add_special_tokens=False
        )
        return Encoded(encoding.ids, encoding.offsets, encoding.word_ids)

    def decode_bytes(self, token_ids: list[int]) -> bytes:
        """Return the UTF-8 bytes of the tokens; the last character may be cut short."""
        return b"".join(self._bytes.get(token_id, b"") for token_id in token_ids)

    def decode(self, token_ids: list[int]) -> str:
        """Return the text of the tokens; what is no UTF-8 becomes U+FFFD."""
        return self.decode_bytes(token_ids).decode("utf-8", "replace")


def _specials(tokenizer: tokenizers.Tokenizer) -> dict[str, int]:
    """Return the added tokens that stand for no text: all but runs of whitespace."""
    added = tokenizer.get_added_tokens_decoder()
    return {t.content: token_id for token_id, t in added.items() if t.content.strip()}


def _token_bytes(tokenizer: tokenizers.Tokenizer) -> dict[int, bytes]:
    added = tokenizer.get_added_tokens_decoder()
    to_byte = _byte_alphabet()
    return {
        token_id: token.encode()
        if token_id in added
        else bytes(map(to_byte.__getitem__, token))
        for token, token_id in tokenizer.get_vocab(with_added_tokens=True).items()
    }


def _byte_alphabet() -> dict[str, int]:
    """Return GPT-2's printable stand-ins for the 256 bytes (openai/gpt-2, encoder.py)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(256 + i): byte for i, byte in enumerate(others)}
