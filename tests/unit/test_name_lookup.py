"""Which names are certain, as a table of code with ``$0`` where one is due."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsp_server.known_names import (
    KnownNames,
    NameKind,
    NamesRequest,
    Receiver,
    imported_modules,
)
from lsp_server.name_lookup import known_names

_CLASS = """
class Point:
    x = 1

    def __init__(self):
        self.y = 2

    def move(self, by):
        {0}
"""


def _known(
    marked: str, kind: NameKind = NameKind.ATTRIBUTE, path: str | None = None
) -> KnownNames | None:
    text, offset = marked.replace("$0", ""), marked.index("$0")
    return known_names(NamesRequest(text, offset, kind, path))


@pytest.mark.parametrize(
    ("marked", "names", "receiver"),
    [
        ("import os\nos.$0", {"path", "getcwd"}, Receiver.MODULE),
        ("import os\nx = os.path.$0 + 1", {"join"}, Receiver.MODULE),
        ("x = 'a'\nx.$0", {"join", "upper"}, Receiver.INSTANCE),
        ("x = [1]\nfor y in x: x.$0", {"append"}, Receiver.INSTANCE),
        ("'a'.$0", {"join"}, Receiver.INSTANCE),
        ("open('a').read().$0", {"splitlines"}, Receiver.INSTANCE),
        ("from pathlib import Path\nPath.$0", {"cwd", "exists"}, Receiver.CLASS),
        ("from pathlib import Path\nPath('a').$0", {"exists"}, Receiver.INSTANCE),
        ("def f(x: str):\n    return x.$0", {"join"}, Receiver.INSTANCE),
        ("def f(x: str | None):\n    return x.$0", {"join"}, Receiver.INSTANCE),
        (_CLASS.format("return self.$0"), {"x", "y", "move"}, Receiver.OWN),
        (_CLASS.format("return self.$0mo"), {"x", "y", "move"}, Receiver.OWN),
        (_CLASS.format("pass") + "Point().$0", {"x", "y"}, Receiver.PROJECT_INSTANCE),
        (_CLASS.format("pass") + "Point.$0", {"x", "move"}, Receiver.PROJECT_CLASS),
        ("class A:\n    __slots__ = ('x', 'y')\nA().$0", {"x", "y"}, Receiver.PROJECT_INSTANCE),
        ("import os\nif True:\n  (os.$0\ndef f(:\n", {"path"}, Receiver.MODULE),
    ],
)
def test_what_is_certain(marked: str, names: set[str], receiver: Receiver) -> None:
    """Modules, classes and instances of known classes have the names of their code."""
    known = _known(marked)
    assert known is not None
    assert names <= set(known.names)
    assert known.receivers == (receiver,)


@pytest.mark.parametrize(
    "marked",
    [
        "x = None\nx.$0",
        "def f(x=None):\n    return x.$0",
        "class Empty: pass\nEmpty().$0",
        _CLASS.format("return self.other, self.$0"),
        _CLASS.format("return self.other") + "Point().$0",
        "class C:\n  x = 1\n  @classmethod\n  def f(cls):\n    cls.set\n    cls.$0\n",
        "def f(x):\n    return x.$0",
        "unknown.$0",
        "from no_such_package_at_all import thing\nthing.$0",
        "class A(Unknown): pass\nA().$0",
        "class A:\n    def __getattr__(self, name): return 1\nA().$0",
        "class B:\n    def __getattr__(self, name): return 1\nclass A(B): pass\nA().$0",
        "class A:\n    def f(self, n):\n        setattr(self, n, 1)\nA().$0",
        "class A:\n    def f(self, d):\n        self.__dict__.update(d)\nA().$0",
        "from typing import Any\ndef f(x: Any):\n    return x.$0",
        "def f(x: object):\n    return x.$0",
        "def f(): pass\nf.$0",
        "class A: x = 1\nif unknown:\n    a = A()\nelse:\n    a = unknown()\na.$0",
        "class A(metaclass=Unknown): x = 1\nA.$0",
        "class M(type):\n    def __getattr__(cls, n): return 1\n"
        "class A(metaclass=M): x = 1\nA.$0",
        "@unknown\nclass A: x = 1\nA().$0",
        "class A: x = 1\nsetattr(A, n, 1)\nA().$0",
        "class A:\n    __slots__ = NAMES\nA().$0",
        "class A:\n    __slots__ = ('x', *NAMES)\nA().$0",
        "import enum\nE = enum.Enum('E', 'RED BLUE')\nE.$0",
        "import sys\nsys.$0",
        # Without the package it is something else.
        "try:\n    from no_such_package import Base\nexcept ImportError:\n    Base = object\n"
        "class A(Base): x = 1\nA().$0",
        # What is written of each stands before the loop.
        "import typing as t\nx = [t for t in y]\nz = [t.$0]",
        "from .$0",
        "$0",
        "x$0",
    ],
)
def test_what_is_open(marked: str) -> None:
    """What may have any names, or what nobody can infer, has no certain ones."""
    assert _known(marked) is None


def test_what_the_file_gives_is_known() -> None:
    """An attribute that the file assigns to anything may be this object's."""
    known = _known("class A: x = 1\na = A()\na.extra = 2\na.$0")
    assert known is not None
    assert {"x", "extra"} <= set(known.names)


def test_a_project_of_its_own_is_told_apart(tmp_path: Path) -> None:
    """A class of the project may be given attributes by the code that is being written."""
    (tmp_path / "shapes.py").write_text(_CLASS.format("pass"))
    known = _known("import shapes\nshapes.Point().$0", path=str(tmp_path / "main.py"))
    assert known is not None
    assert known.receivers == (Receiver.PROJECT_INSTANCE,)


def test_an_import_names_what_the_module_has() -> None:
    """What a module can be asked for is what it defines, and its submodules."""
    text = "from importlib import $0"
    known = _known(text.replace(" import $0", "$0 import "), NameKind.IMPORT)
    assert known is not None
    assert {"import_module", "util", "abc"} <= set(known.names)


def test_the_modules_that_a_file_imports() -> None:
    """Each module is told with its end, from broken code too."""
    text = "import os.path as p\n  from ..a import (b\nfrom . import c\nimport \nx import y\n"
    assert [(name, text[:end].split()[-1]) for name, end in imported_modules(text)] == [
        ("os.path", "os.path"),
        ("..a", "..a"),
    ]


@pytest.mark.parametrize("module", ["no_such_package_at_all", ".", ".sibling"])
def test_an_unknown_module_names_nothing(module: str) -> None:
    """What is imported from a module that is not there is not known."""
    assert _known(f"from {module}$0 import x", NameKind.IMPORT) is None


@pytest.mark.parametrize(
    ("marked", "names"),
    [
        ("def f(a, /, b, *, c): pass\nf($0", {"b", "c"}),
        ("def f(a, b): pass\nf(1, $0)", {"a", "b"}),
        ("class A:\n    def __init__(self, size): pass\nA($0", {"size"}),
        ("def f(a, **rest): pass\nf($0", None),
        ("@unknown\ndef f(a): pass\nf($0", None),
        ("def f(a): pass\nif unknown:\n    f = unknown.f\nf($0", None),
        ("unknown($0", None),
        ("import attrs\n@attrs.define\nclass A:\n    _b: int\n    c: int\nA($0", None),
    ],
)
def test_keywords_of_known_calls(marked: str, names: set[str] | None) -> None:
    """A call takes the keywords of its signature; one that takes any has none to tell."""
    known = _known(marked, NameKind.KEYWORD)
    assert (known and set(known.names)) == names


@pytest.mark.parametrize(
    ("called", "names"),
    [
        ("print(", {"sep", "end", "file", "flush"}),
        ("open(", {"file", "mode", "encoding", "opener"}),
        ("sorted([1], ", {"key", "reverse"}),
        ("max(1, ", {"key", "default"}),
        ("import re\nre.sub('a', ", {"pattern", "repl", "string", "count", "flags"}),
        ("import subprocess\nsubprocess.run([], ", {"args", "check", "capture_output"}),
        ("'a'.split(", {"sep", "maxsplit"}),
        ("class A:\n  @classmethod\n  def f(cls, a): pass\nA.f(", {"a"}),
    ],
)
def test_keywords_of_overloaded_functions(called: str, names: set[str]) -> None:
    """A call takes the keywords of all signatures of its function."""
    known = _known(called + "$0", NameKind.KEYWORD)
    assert known is not None
    assert names <= set(known.names)


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("os", {"path", "getcwd", "environ"}),
        ("typing", {"Any", "TYPE_CHECKING"}),
        ("collections", {"Counter", "abc"}),
        ("signal", {"SIGTERM", "signal"}),
        ("unittest", {"TestCase", "mock"}),
    ],
)
def test_imports_from_modules_that_a_stub_describes(module: str, names: set[str]) -> None:
    """What a module makes by a computation is known from its stub."""
    known = _known(f"from {module}$0 import ", NameKind.IMPORT)
    assert known is not None
    assert names <= set(known.names)


@settings(max_examples=60, deadline=None)
@given(st.text("aos.(),=: \n'#[]{}", max_size=40), st.sampled_from(NameKind), st.data())
def test_broken_code_has_an_answer_or_an_error_of_its_own(
    text: str, kind: NameKind, data: st.DataObject
) -> None:
    """No text ends the interpreter, and what is known of any are names."""
    offset = data.draw(st.integers(0, len(text)))
    try:
        known = known_names(NamesRequest(text, offset, kind))
    # jedi asserts much that broken code does not keep; the worker answers nothing then.
    except Exception:  # noqa: BLE001
        return
    assert known is None or all(isinstance(name, str) for name in known.names)
