"""Masks of tokens against their definition, one token at a time."""

import re

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lsp_server.vocabulary import Vocabulary

# Few bytes, so that prefixes are common; 0xff has no byte after it.
texts = st.lists(st.sampled_from(b"ab \n\xfe\xff"), max_size=4).map(bytes)
vocabularies = st.dictionaries(st.integers(0, 30), texts, max_size=20)


def may_come(token: bytes, required: bytes, not_after: bytes) -> bool:
    """Tell whether a token may begin a text that begins with ``required``."""
    if not token:
        return False
    if len(token) < len(required):
        return required.startswith(token)
    free = token[len(required) :]
    return token.startswith(required) and not (free and free[0] in not_after)


@given(tokens=vocabularies, required=texts, not_after=st.sets(st.sampled_from(b"a \n\xff")))
@example(tokens={0: b"\xff", 1: b"\xff\xff", 2: b"a"}, required=b"\xff", not_after={0xFF})
@example(tokens={3: b"a", 4: b"a", 5: b"ab"}, required=b"a", not_after=set())
def test_allowed_agrees_with_its_definition(
    tokens: dict[int, bytes], required: bytes, not_after: set[int]
) -> None:
    """A mask holds just the tokens that agree with what is required and what is not."""
    mask = Vocabulary(tokens).allowed(required, bytes(not_after), 32)
    assert mask.shape == (32,)
    assert set(np.flatnonzero(mask)) == {
        token_id
        for token_id, token in tokens.items()
        if may_come(token, required, bytes(not_after))
    }


_NAME = re.compile(rb"[A-Za-z0-9_\x80-\xff]")


@given(
    tokens=st.dictionaries(
        st.integers(0, 30), st.lists(st.sampled_from(b"ab_ (\xc3")).map(bytes), max_size=20
    ),
    endings=st.sets(st.lists(st.sampled_from(b"ab_\xc3"), max_size=4).map(bytes), max_size=4),
)
def test_naming_agrees_with_its_definition(
    tokens: dict[int, bytes], endings: set[bytes]
) -> None:
    """A token is a part of a name's ending, or all of it and then what is no name."""

    def may_come(token: bytes) -> bool:
        return token != b"" and any(
            ending.startswith(token)
            or (token.startswith(ending) and not _NAME.match(token, len(ending)))
            for ending in endings
        )

    mask = Vocabulary(tokens).naming(endings, 32)
    assert set(np.flatnonzero(mask)) == {i for i, token in tokens.items() if may_come(token)}


@pytest.mark.parametrize(
    ("due", "allowed"),
    [
        (b"", {b"x", b"(", b"()", b"a[0]", b'")', b"#)", b"(x"}),
        (b")", {b"x", b"(", b"()", b"a[0]", b'")', b"#)", b"(x", b")", b"x)", b")("}),
        (b")]", {b"x", b"(", b"()", b"a[0]", b'")', b"#)", b"(x", b")", b"x)", b")(", b")]"}),
        (b"]", {b"x", b"(", b"()", b"a[0]", b'")', b"#)", b"(x"}),
    ],
)
def test_only_what_is_open_is_closed(due: bytes, allowed: set[bytes]) -> None:
    """A token is judged whole: what it opens itself, and what is perhaps a string, is free."""
    tokens = [*allowed, b")", b"x)", b")(", b")]", b"))", b"(]", b"})"]
    tokens = sorted(set(tokens))
    vocabulary = Vocabulary(dict(enumerate(tokens)))
    mask = vocabulary.closing(due, len(tokens))
    assert {tokens[i] for i in np.flatnonzero(mask)} == allowed
