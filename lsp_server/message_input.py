"""Finds the messages in what a client sends, whatever stands before, between or in them.

A header that tells a wrong length costs the message that it belongs to, and no other: no
JSON holds a line break in a string, so a header line is one wherever it stands. It knows
LSP's framing and nothing of what messages say.
"""

import logging
import re
from io import BufferedIOBase

_HEADER = re.compile(
    rb"(?i:Content-Length): *(\d{1,12})\r\n"
    rb"(?:(?![^\r\n]*(?i:Content-Length))[^\r\n]+:[^\r\n]*\r\n)*\r\n"
)
_LONGEST_HEADER = 1024
"""Bytes of what may become a header that are kept while more is to come."""
_CHUNK = 1 << 16

log = logging.getLogger(__name__)


class MessageInput:
    """A client's bytes as pygls reads them: a length, an empty line, a body, and again."""

    def __init__(self, raw: BufferedIOBase) -> None:
        """Read nothing yet."""
        self._raw = raw
        self._unread = bytearray()
        self._body: bytes | None = None

    def readline(self) -> bytes:
        """Return the next message's header, a line at a time; nothing at the input's end."""
        if self._body is not None:
            return b"\r\n"
        self._body = self._next_body()
        return b"" if self._body is None else b"Content-Length: %d\r\n" % len(self._body)

    def read(self, _size: int) -> bytes:
        """Return the body of the message whose header was read."""
        body, self._body = self._body or b"", None
        return body

    def _next_body(self) -> bytes | None:
        while (size := self._next_size()) is not None:
            if self._arrives(size) and self._unread[:size].rstrip().endswith((b"}", b"]")):
                body = bytes(self._unread[:size])
                del self._unread[:size]
                return body
        return None

    def _next_size(self) -> int | None:
        """Return what the next header says, None where there is none; it is read then."""
        n_skipped = 0
        while not (header := _HEADER.search(self._unread)):
            n_useless = max(0, len(self._unread) - _LONGEST_HEADER)
            del self._unread[:n_useless]
            n_skipped += n_useless
            if not self._read_more():
                return None
        if n_skipped := n_skipped + header.start():
            log.warning("skipped %d bytes that are no message", n_skipped)
        size = int(header.group(1))
        del self._unread[: header.end()]
        return size

    def _arrives(self, size: int) -> bool:
        """Wait for a body; False where the next header or the end comes before its end."""
        searched = 0
        while not _HEADER.search(self._unread, searched, size):
            if len(self._unread) >= size:
                return True
            searched = max(0, len(self._unread) - _LONGEST_HEADER)
            if not self._read_more():
                return False
        return False

    def _read_more(self) -> bool:
        try:
            data = self._raw.read1(_CHUNK)
        except ConnectionError:
            return False
        self._unread += data
        return bool(data)
