"""A client's messages, found among whatever else it sends."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsp_server.message_input import MessageInput

BODIES = st.dictionaries(st.text(max_size=8), st.text(max_size=40), max_size=3).map(
    lambda body: json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")
)
SPOILS = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [
            b"\r\n",
            b"Content-Length: 3\r\n\r\n{}",
            b"Content-Length: 900000\r\n\r\n{}",
            b"Content-Length: 0\r\n\r\n",
            b"Content-Length: -1\r\n\r\n{}",
            b"Content-Length: 99999999999999999999\r\n\r\n{}",
            b"Content-Length: 12\r\n\r\nno json here",
            b"Content-Length: 7\r\nContent-Le",
            b"Content-Length:\r\n" * 100,
            b"-" * 3000,
        ]
    ),
)


class Trickle(io.BytesIO):
    """Gives so many bytes at once, as a pipe does."""

    def __init__(self, data: bytes, n_at_once: int) -> None:
        super().__init__(data)
        self._n_at_once = n_at_once

    def read1(self, size: int | None = -1, /) -> bytes:
        """Return a few of the bytes that were asked for."""
        return super().read1(self._n_at_once)


def framed(body: bytes, other_headers: bytes = b"") -> bytes:
    """Return a message as a client sends it."""
    return b"Content-Length: %d\r\n%s\r\n%s" % (len(body), other_headers, body)


def read(data: bytes, n_at_once: int = 1 << 16) -> list[bytes]:
    """Return the bodies that pygls reads."""
    messages = MessageInput(Trickle(data, n_at_once))
    found = []
    while header := messages.readline():
        assert messages.readline() == b"\r\n"
        size = int(header.removeprefix(b"Content-Length: "))
        found.append(messages.read(size))
        assert len(found[-1]) == size
    return found


@given(
    st.lists(st.tuples(BODIES, st.sampled_from([b"", b"Content-Type: a; charset=utf-8\r\n"]))),
    st.integers(1, 100),
)
def test_what_is_framed_is_read(messages: list[tuple[bytes, bytes]], n_at_once: int) -> None:
    """Every message comes as it was sent, in whatever pieces it arrives."""
    data = b"".join(framed(*message) for message in messages)
    assert read(data, n_at_once) == [body for body, _ in messages]


@given(st.lists(st.tuples(SPOILS, BODIES), min_size=1), st.integers(1, 100))
def test_what_is_no_message_costs_no_message(
    parts: list[tuple[bytes, bytes]], n_at_once: int
) -> None:
    """Garbage and wrong lengths are skipped, and all that is framed well is read."""
    data = b"".join(spoilt + framed(body) for spoilt, body in parts)
    found = read(data, n_at_once)
    assert [body for body in found if body in {body for _, body in parts}] == [
        body for _, body in parts
    ]


@pytest.mark.parametrize("error", range(-9, 40))
def test_a_wrong_length_costs_one_message(error: int) -> None:
    """Whether too short or too long, the messages before and after it are read."""
    body = b'{"method": "wrong"}'
    wrong = b"Content-Length: %d\r\n\r\n%s" % (len(body) + error, body)
    before, after = b'{"id": 1}', b'{"id": 2}'
    found = read(framed(before) + wrong + framed(after))
    assert (found[0], found[-1]) == (before, after)


def test_headers_have_no_case() -> None:
    """A client may write the names of headers as it likes."""
    message = MessageInput(Trickle(b"content-LENGTH: 2\r\n\r\n{}", 7))
    assert message.readline() == b"Content-Length: 2\r\n"
    assert message.readline() == b"\r\n"
    assert message.read(2) == b"{}"


def test_a_message_waits_for_nothing_after_it() -> None:
    """A body that is there is read without another byte, which may never come."""

    class Silent(Trickle):
        def read1(self, size: int | None = -1, /) -> bytes:
            data = super().read1(size)
            assert data, "it would wait for ever"
            return data

    messages = MessageInput(Silent(framed(b"{}"), 7))
    assert messages.readline() == b"Content-Length: 2\r\n"
    assert messages.readline() == b"\r\n"
    assert messages.read(2) == b"{}"


def test_a_body_may_speak_of_headers() -> None:
    """A file that holds a header is a string in JSON, and ends no message."""
    body = json.dumps({"text": "Content-Length: 5\r\n\r\nhello"}).encode()
    assert read(framed(body) * 2) == [body, body]


def test_what_is_skipped_is_counted_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    """The log says that bytes were skipped, and not which."""
    assert read(b"secret" + framed(b"{}")) == [b"{}"]
    assert "skipped 6 bytes" in caplog.text
    assert "secret" not in caplog.text


def test_a_connection_that_breaks_is_an_end() -> None:
    """A client that dies leaves no error."""

    class Broken(io.BytesIO):
        def read1(self, _size: int | None = -1, /) -> bytes:
            raise ConnectionResetError

    assert MessageInput(Broken()).readline() == b""
