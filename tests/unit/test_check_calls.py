"""Wrong arguments, as tables of code with ``$0`` where the completion goes."""

import pytest

from lsp_server.check import check
from lsp_server.verdict import CheckRequest, Fault

_CODE = """
import contextlib, dataclasses, enum, functools, json, os, subprocess, threading, unknown
from collections import namedtuple
from typing import NamedTuple, overload
def f(a, b=1): pass
def only(a, /, *, key): pass
def rest(*args, **kwargs): pass
@contextlib.contextmanager
def managed(a): yield
@unknown.decorator
def wrapped(a): pass
@functools.lru_cache
def cached(a): pass
partial = functools.partial(f, 1)
@overload
def both(a: int) -> int: ...
@overload
def both(a: str, b: str) -> str: ...
def both(a, b=None): pass
class A:
    def __init__(self, a): pass
    def m(self, x, *, key=None):
        {0}
        pass
    @staticmethod
    def s(x): pass
    @classmethod
    def c(cls, x): return cls(x)
class Child(A): pass
class Open(unknown.Base): pass
class Made:
    def __new__(cls, *args): return 1
class Meta(metaclass=unknown.Meta):
    def __init__(self): pass
class Callable:
    def __call__(self, x): pass
@dataclasses.dataclass
class Data:
    x: int
@dataclasses.dataclass(frozen=True)
class MoreData(Data):
    y: int
    z: list = dataclasses.field(default_factory=list)
@dataclasses.dataclass
class OddData:
    x: dataclasses.InitVar[int]
    y: int = dataclasses.field(init=False)
@dataclasses.dataclass
class KeywordData:
    x: int
    _: dataclasses.KW_ONLY
    y: int = 2
@dataclasses.dataclass
class ChildOfKeywordData(KeywordData):
    z: int
class Named(NamedTuple):
    x: int
Pair = namedtuple("Pair", "x y")
class Color(enum.Enum):
    RED = 1
class Wrong(Exception): pass
def outer(given, maybe=f):
    {1}
    pass
{2}
"""
_OUTSIDE = _CODE.format("pass", "pass", "$0")
_IN_METHOD = _CODE.format("$0", "pass", "")
_IN_FUNCTION = _CODE.format("pass", "$0", "")


def _wrong(marked: str, insert_text: str) -> list[str]:
    """Return what the check says of arguments."""
    offset = marked.index("$0")
    verdict = check(CheckRequest(marked.replace("$0", ""), offset, insert_text))
    return [p.message for p in verdict.problems if p.code == Fault.ARGUMENT]


@pytest.mark.parametrize(
    ("marked", "insert_text", "message"),
    [
        (_OUTSIDE, "f()", "f() lacks the argument 'a'"),
        (_OUTSIDE, "f(1, 2, 3)", "f() takes 2 positional arguments, not 3"),
        (_OUTSIDE, "f(1, c=2)", "f() takes no keyword 'c'"),
        (_OUTSIDE, "f(1, a=2)", "f() takes no keyword 'a'"),
        (_OUTSIDE, "only(a=1, key=2)", "only() takes no keyword 'a'"),
        (_OUTSIDE, "only(1)", "only() lacks the argument 'key'"),
        (_OUTSIDE, "A()", "A() lacks the argument 'a'"),
        (_OUTSIDE, "Child(1, 2)", "Child() takes 1 positional arguments, not 2"),
        (_OUTSIDE, "A(1).m()", "A(1).m() lacks the argument 'x'"),
        (_OUTSIDE, "A.s(1, 2)", "A.s() takes 1 positional arguments, not 2"),
        (_OUTSIDE, "A.c()", "A.c() lacks the argument 'x'"),
        (_OUTSIDE, "Data(1, 2)", "Data() takes 1 positional arguments, not 2"),
        (_OUTSIDE, "MoreData(1)", "MoreData() lacks the argument 'y'"),
        (_OUTSIDE, "Pair(1, z=2)", "Pair() takes no keyword 'z'"),
        (_OUTSIDE, "len([], 1)", "len() takes 1 positional arguments, not 2"),
        (_OUTSIDE, "sorted([], kye=len)", "sorted() takes no keyword 'kye'"),
        (_OUTSIDE, "'a'.join('b', 'c')", "'a'.join() takes 1 positional arguments, not 2"),
        (_OUTSIDE, "json.dump(1)", "json.dump() lacks the argument 'fp'"),
        (_OUTSIDE, "os.mkdir('a', mdoe=1)", "os.mkdir() takes no keyword 'mdoe'"),
        (_OUTSIDE, "threading.Thread(f=f)", "threading.Thread() takes no keyword 'f'"),
        (_IN_METHOD, "self.m()", "self.m() lacks the argument 'x'"),
        (_IN_METHOD, "self.m(1, kye=2)", "self.m() takes no keyword 'kye'"),
        (_IN_METHOD, "cls = self.c(1, 2)", "self.c() takes 1 positional arguments, not 2"),
    ],
)  # fmt: skip
def test_what_no_signature_takes_is_flagged(
    marked: str, insert_text: str, message: str
) -> None:
    """A call must fit the signature that is certain, and is told how it does not."""
    assert _wrong(marked, insert_text) == [message]


@pytest.mark.parametrize(
    ("marked", "insert_text"),
    [
        (_OUTSIDE, "f(1), f(1, 2), f(a=1), f(1, b=2), f(*x), f(**x), f(*x, b=1)"),
        (_OUTSIDE, "only(1, key=2), rest(1, 2, three=3)"),
        (_OUTSIDE, "wrapped(1, 2, 3), partial(1, 2, 3), managed(1), cached(1)"),
        (_OUTSIDE, "both(1), both('a', 'b')"),
        (_OUTSIDE, "A(1), A(a=1), Child(1), A(1).m(1, key=2), A.m(A(1), 1)"),
        (_OUTSIDE, "Open(1, 2, 3), Made(1, 2, 3), Meta(1, 2, 3)"),
        (_OUTSIDE, "Callable()(1), Data(1), Named(1), Pair(1, 2), Color(1)"),
        (_OUTSIDE, "ChildOfKeywordData(1, 2, y=3)"),
        (_OUTSIDE, "MoreData(1, 2), MoreData(1, y=2, z=[]), OddData(1), Pair(x=1)"),
        (_OUTSIDE, "Wrong(1, 2), ValueError(1, 2), Wrong()"),
        (_OUTSIDE, "print(1, 2, sep=''), range(1), range(1, 2), max(1, 2, key=len)"),
        (_OUTSIDE, "dict(a=1), dict({}), dict({}, a=1), bytes(1), super(A, A(1))"),
        (_OUTSIDE, "str(1), int('1', 2), type('A', (), {}), list([1]), set(), zip([], [])"),
        (_OUTSIDE, "os.path.join('a', 'b', 'c'), open('a', encoding='utf-8')"),
        (_OUTSIDE, "unknown(1, 2), unknown.f(1, 2, c=3)"),
        (_OUTSIDE, "'{a}'.format(a=1), 'a'.split(), 'a'.split('b', 1)"),
        (_IN_METHOD, "self.m(1), self.s(1), self.c(1), super().__init__()"),
        (_IN_METHOD, "A.__new__(A), super().__new__(A, 1)"),
        (_IN_FUNCTION, "given(1, 2, 3), maybe(1, 2, 3)"),
        (_OUTSIDE.replace("$0", "f($0)"), "b=1"),
        (_OUTSIDE.replace("$0", "f(1, 2, 3)\n$0"), "f(1)"),
        (_OUTSIDE.replace("$0", "f = unknown.f\n$0"), "f(1, 2, 3)"),
    ],
)  # fmt: skip
def test_what_may_be_taken_is_not_flagged(marked: str, insert_text: str) -> None:
    """Where a signature is open, made elsewhere, or the call unfinished, it is silent."""
    assert _wrong(marked, insert_text) == []
