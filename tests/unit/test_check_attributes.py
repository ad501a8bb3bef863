"""Unknown attributes, as tables of code with ``$0`` where the completion goes."""

from pathlib import Path

import pytest

from lsp_server.check import check
from lsp_server.verdict import CheckRequest, Fault

_CLASS = """
class Point:
    far = False

    def __init__(self, x, log=None):
        self.x = []
        self.log = None
        self.made = x
        self.log = {{}}

    @property
    def text(self) -> str:
        return "text"

    @classmethod
    def make(cls):
        return cls(1)

    def plain(self):
        return "plain"

    def move(self, other: "Point", name: str = ""):
        {0}
"""


_NAMED = """
from typing import NamedTuple
class N(NamedTuple):
    a: int
n = N(1)
"""
_TEMPLATE = """
class Base:
    def run(self):
        {0}
    def stop(self):
        {1}
class Sub(Base):
    size = 1
    def step(self): ...
"""


def _unknown(marked: str, insert_text: str) -> list[str]:
    """Return what the check says of attributes."""
    offset = marked.index("$0")
    verdict = check(CheckRequest(marked.replace("$0", ""), offset, insert_text))
    return [p.message for p in verdict.problems if p.code == Fault.ATTRIBUTE]


@pytest.mark.parametrize(
    ("marked", "insert_text"),
    [
        ("import os\n$0", "os.path.jion('a')"),
        ("import os\nos.pa$0", "ht"),
        ("from os import path as p\n$0", "p.jion('a')"),
        ("$0", "'a'.uper()"),
        ("$0", "print(f'{1}', [1].apend(2))"),
        ("x = []\n$0", "x.apend(1)"),
        ("x = '%s' % y\n$0", "x.uper()"),
        ("x = open('a')\n$0", "x.reed()"),
        ("$0", "with open('a') as f:\n    f.reed()"),
        ("$0", "for line in open('a'):\n    line.striip()"),
        ("from pathlib import Path\n$0", "Path('a').exist()"),
        ("from pathlib import Path\n$0", "(Path('a') / 'b').parent.exist()"),
        ("from pathlib import Path\nfor p in Path.cwd().glob('*'):\n    $0", "p.raed_text()"),
        ("import re\n$0", "m = re.match('a', 'b')\nm.gruop()"),
        ("import logging\nlog = logging.getLogger()\n$0", "log.wran('a')"),
        ("import datetime\n$0", "datetime.datetime.now().yaer"),
        ("import subprocess\np = subprocess.Popen(['a'])\n$0", "p.stdout.reed()"),
        ("import collections\nx = collections.OrderedDict()\n$0", "x.itms()"),
        ("import enum\nclass C(enum.Enum):\n    A = 1\n$0", "C.B"),
        ("def f(x: str | None):\n    $0", "x.uper()"),
        ("from typing import List\ndef f(x: List[str]):\n    $0", "x.apend('a')"),
        ("def f(x: list[str]):\n    for y in x:\n        $0", "y.uper()"),
        ("def f(x: list[str]):\n    $0", "return [y.uper() for y in x]"),
        ("def f(x: dict[str, list[int]]):\n    $0", "x['a'].apend(1)"),
        ("def f(*a, **k):\n    $0", "k.itms()"),
        ("try:\n    import json\nexcept ImportError:\n    json = None\n$0", "json.lods('1')"),
        (_CLASS.format("$0"), "self.absent"),
        (_CLASS.format("$0"), "self.x.apend(1)"),
        (_CLASS.format("$0"), "self.log.itms()"),
        (_CLASS.format("$0"), "self.text.uper()"),
        (_CLASS.format("$0"), "self.plain().uper()"),
        (_CLASS.format("$0"), "other.absent"),
        (_CLASS.format("$0"), "name.uper()"),
        (_CLASS.format("pass") + "$0", "Point(1).absent"),
        ("class A: x = 1\nclass B(A):\n    def f(self):\n        $0", "super().absent()"),
        ("async def f(x: str):\n    $0", "await x.uper()"),
    ],
)  # fmt: skip
def test_what_certainly_lacks_an_attribute_is_flagged(marked: str, insert_text: str) -> None:
    """Modules, classes and instances whose code is all known have the names of that code."""
    assert len(_unknown(marked, insert_text)) == 1


@pytest.mark.parametrize(
    ("marked", "insert_text"),
    [
        ("import os\n$0", "os.path.join('a').upper()"),
        ("import os\nos.pa$0", "th"),
        ("import os.path\n$0", "os.getcwd"),
        ("def f(x):\n    $0", "x.anything"),
        ("def f(x=''):\n    $0", "x.anything"),
        ("def f(x=None):\n    $0", "x.anything"),
        ("def f(x: 'Unknown'):\n    $0", "x.anything"),
        ("from typing import Any\ndef f(x: Any):\n    $0", "x.anything"),
        ("def f(x: object):\n    $0", "x.anything"),
        ("def f(x: list['Unknown | str']):\n    $0", "x[0].anything"),
        ("def f(x: list):\n    $0", "x[0].anything"),
        ("def f(x: list[str]):\n    x = unknown(x)\n    $0", "x[0].anything"),
        ("def f(*x: list[str]):\n    $0", "x[0][0].anything, x[0].append"),
        ("x = unknown() or 'a'\n$0", "x.anything"),
        ("x = 'a' if unknown() else unknown()\n$0", "x.anything"),
        ("x = 'a'\nx = unknown()\n$0", "x.anything"),
        ("def f():\n    global x\n    x = unknown()\nx = 'a'\n$0", "x.anything"),
        ("d = {}\nx = d.get('a', '')\n$0", "x.anything"),
        ("x = [1]\nx.append(unknown())\n$0", "x[0].anything"),
        ("def f(a):\n    return a\nx = f('a')\n$0", "x.anything"),
        ("a, b = unknown(), 'a'\n$0", "a.anything"),
        ("from unknown import x\n$0", "x.anything"),
        ("def f(): pass\n$0", "f.anything"),
        ("def f(): pass\n$0", "f.anything = 1"),
        ("class A: pass\na = A()\n$0", "a.anything = 1"),
        ("class A: pass\na = A()\na.late = 1\n$0", "a.late"),
        ("class A:\n    def __getattr__(self, n): return 1\n$0", "A().anything"),
        ("class A(unknown.B): pass\n$0", "A().anything"),
        ("class A:\n    def f(self, n):\n        setattr(self, n, 1)\n$0", "A().anything"),
        ("import m\nclass A(m.B):\n    def f(self):\n        $0", "super().anything()"),
        ("def f(x: str):\n    if isinstance(x, Other):\n        $0", "x.anything"),
        ("def f(x: str):\n    if hasattr(x, 'late'):\n        $0", "return x.late"),
        ("x = 'a'\ntry:\n    $0\nexcept AttributeError:\n    pass\n", "x.anything"),
        ("import typing\nT = typing.TypeVar('T')\ndef f(x: T) -> T: ...\n$0", "f('').anything"),
        ("x = 'a'\nx.known_to_be\n$0", "x.known_to_be"),
        ("$0", "(1).__class__.__name__"),
        (_CLASS.format("$0"), "self.far, self.x, self.made.anything, self.move(self)"),
        (_CLASS.format("$0"), "self.later = 1"),
        (_CLASS.format("$0"), "self.text.upper(), self.plain().upper()"),
        ("x = 'a'\n$0", "# x.anything\ny = 'x.anything'"),
        ("import os\nos.anything\n$0", "os.getcwd()"),
        ("from abc import ABC\nclass A(ABC): x = 1\n$0", "A.register(int)"),
        ("import enum\nclass C(enum.Enum):\n    A = 1\n$0", "C._member_map_, C.__members__"),
        (_NAMED + "$0", "n.count(1), n._replace(a=2).index(1), N._make([1]).count(2)"),
        ("$0", "with open('a', 'rb') as f:\n    f.peek(1), f.raw.read(), f.readinto(b'')"),
        ("import sys, os\n$0", "if sys.platform == 'vms':\n    os.anything()"),
        ("import os\nif os.name == 'vms':\n    $0", "os.anything()"),
        (_TEMPLATE.format("$0", "pass"), "self.step(), self.size"),
        (_TEMPLATE.format("self.log()", "$0"), "self.anything()"),
        ("class JsonMixin:\n    def dump(self):\n        $0", "self.data"),
        ("import unknown\nclass A:\n    @unknown.made\n    def x(self): pass\n$0", "A().x.b"),
    ],
)  # fmt: skip
def test_what_may_have_an_attribute_is_not_flagged(marked: str, insert_text: str) -> None:
    """Where anything is open, guarded, or not of the new text, the check is silent."""
    assert _unknown(marked, insert_text) == []


_FLUENT = """
from pathlib import Path
from typing import Self
class Query:
    def where(self) -> Self:
        return self
    def every(self) -> list[Self]: ...
class Special(Query):
    def extra(self): return 1
here = Path(__file__)
for part in here.parent.iterdir():
    {0}
for query in Special().every():
    {1}
"""


@pytest.mark.parametrize(
    "insert_text",
    [
        "(here / 'a').read_text(), here.parent.exists(), Path.cwd().with_name('a').unlink()",
        "Path('a').resolve().relative_to('b').exists(), here.with_suffix('.x').open()",
        "part.read_text(), part.parent.mkdir(), part.is_dir()",
        "query.extra(), query.where().where().extra(), Special().where().extra()",
    ],
)
def test_self_is_the_class_that_is_asked(insert_text: str) -> None:
    """What a method of a base returns as Self has the names of the class below."""
    marked = _FLUENT.format(*(("$0", "pass") if "part." in insert_text else ("pass", "$0")))
    assert _unknown(marked, insert_text) == []


def test_what_jedi_cannot_take_costs_its_own_verdict_only() -> None:
    """Where jedi raises, that name is not judged, and all others are."""
    enum = (
        "from enum import Enum\nclass C(Enum):\n    A = 1\n"
        "    @property\n    def made(self): return hex(self.value)\n"
    )
    verdict = check(CheckRequest(enum, len(enum), "C.A.made.upper()\n''.uper()\nlen(1, 2)\n"))
    assert [p.line for p in verdict.problems] == [6, 7]


def test_a_name_that_a_star_import_leaves_out_is_not_taken(tmp_path: Path) -> None:
    """What a module keeps out of its ``__all__`` is not what another module has."""
    (tmp_path / "own.py").write_text("__all__ = ['here']\nimport json as tool\nhere = 1\n")
    (tmp_path / "other.py").write_text("class tool:\n    def use(self): ...\n    x = 1\n")
    (tmp_path / "both.py").write_text("from other import *\nfrom own import *\n")
    path, text = str(tmp_path / "a.py"), "import both\n"
    verdict = check(CheckRequest(text, len(text), "both.tool.use, both.tool.x", path))
    assert verdict.problems == ()


def test_a_problem_is_at_the_attribute() -> None:
    """An editor underlines the name after the dot, in UTF-16."""
    (problem,) = check(CheckRequest("import os\n", 10, "x = '😀', os.jion")).problems
    assert (problem.line, problem.character) == (1, 13)
    assert problem.message == "'os' has no attribute 'jion'"
