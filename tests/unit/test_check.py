"""The check, as a table of code with ``$0`` where the completion goes."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsp_server.check import check
from lsp_server.verdict import CheckRequest, Cut, Fault, Verdict, VerdictKind

_PIECES = (
    "class A(A):\n    x = 1\n",
    "class B(C): pass\n",
    "class C(B): pass\n",
    "def f(a=f(), *b, **c): return f(a.b.c)\n",
    "x = x.y(x)\n",
    "x: A = A(1, b=2).x[0].y\n",
    "for x in x.y(): x.z\n",
    "with A() as x: x.y(*x, **x)\n",
    "async def g(self): await self.x().y\n",
    "import os; os.path = os; os.path.path.nope(1)\n",
    "f = lambda self: self.x()\n",
    "(x := A()).y(x := x)\n",
    "'a'.b(c=1) + -1 .d\n",
    "x.\n",
    "f(\n",
)
OK, UNCHECKED, FLAGGED = VerdictKind.OK, VerdictKind.UNCHECKED, VerdictKind.FLAGGED


def _check(marked: str, insert_text: str, **options: object) -> Verdict:
    offset = marked.index("$0")
    text = marked.replace("$0", "")
    return check(CheckRequest(text, offset, insert_text, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("marked", "insert_text", "verdict"),
    [
        ("x = 1\n$0", "y = x", OK),
        ("x = 1\n$0", "y = z", FLAGGED),
        ("x = so$0", "rted([])", OK),
        ("x = so$0", "rtid([])", FLAGGED),
        ("def f():\n    return later()$0\n\ndef later(): ...\n", " + 1", OK),
        ("x = undefined_before\ny = $0\n", "1", OK),
        ("x = 1\n$0", "y = (", FLAGGED),
        ("def f(:\n$0\n", "x = 1", UNCHECKED),
        ("x = 1\n$0\n\ndef empty():\n    # to be written\n", "y = x", OK),
        ("x = 1\n$0\n\ndef empty():\n    # to be written\n", "y = z", FLAGGED),
        ("$0\n\ndef later():\n    # to be written\n", "y = later", OK),
        ("if x\n$0", "y = 1", UNCHECKED),
        ("$0", "import os, sys", OK),
        ("$0", "from os import path, nothing_there", FLAGGED),
        ("$0", "import os.nothing_there", FLAGGED),
        ("$0", "import no_such_package_at_all", UNCHECKED),
        ("$0", "try:\n    from os import gone\nexcept ImportError: pass", UNCHECKED),
        ("$0", "try:\n    import os\nexcept OSError:\n    from os import gone", FLAGGED),
        ("import sys\nif sys.version_info > (9,):\n    $0", "from os import gone", UNCHECKED),
        ("$0", "from no_such_package_at_all import x", UNCHECKED),
        ("from os.path import *\n$0", "join('a')", OK),
        ("from os.path import *\n$0", "jion('a')", FLAGGED),
        ("from no_such_package_at_all import *\n$0", "jion('a')", UNCHECKED),
        ("x = 1\n$0", "", OK),
        ("def f(x):\n    $0", "return x x x )( ]", FLAGGED),
        ("x = $0", "foo bar baz", FLAGGED),
        ("import $0", "importlib import importlib", FLAGGED),
        ("def f(x):$0", "\n        return 1\n\n    return f(x)", FLAGGED),
        ("if $0\n", "x y z:", FLAGGED),
        ("def f(x):$0", "", UNCHECKED),
        ("foo(a,\n  $0", "b", UNCHECKED),
        ("class A:\n    @$0", "property", UNCHECKED),
        ("def f(:\n    pass\n$0", "x = 1", UNCHECKED),
        ("x = '\0'\n$0", "y = 1", UNCHECKED),
        ("x = " + "(" * 300 + "1" + ")" * 300 + "\n$0", "y = 1", UNCHECKED),
        ("x = 1\r\n$0", "y = x\r\nz = y", OK),
        ("def f(:\n\nif x:\n    y\n  $0\nz", "pass", FLAGGED),
        ("if 1:\n    x = 1\n $0\nz = (", "y = x", FLAGGED),
        ("import abc\n\n$0\ndef f(x):\n    pass\n\ny = (\n", "@abc.abstractmethod", UNCHECKED),
        ("if x:\n    y\nel$0\nbroken = = 1\n", "se:\n    z = 1", OK),
    ],
)  # fmt: skip
def test_verdicts(marked: str, insert_text: str, verdict: VerdictKind) -> None:
    """A completion is flagged for what it brings and for nothing else."""
    assert _check(marked, insert_text).verdict is verdict


@pytest.mark.parametrize(
    ("marked", "insert_text", "line", "character", "code"),
    [
        ("x = 1\n$0", "y = z", 1, 4, "undefined-name"),
        ("é = '😀'; $0", "p = '😀', q", 0, 20, "undefined-name"),
        ("a = '\f'\n$0", "b = c", 1, 4, "undefined-name"),
        ("a = '\x85\u2028'\n$0", "b = c", 1, 4, "undefined-name"),
        ("a\r\nb = $0".replace("a\r", "a = 1\r"), "c", 1, 4, "undefined-name"),
        ("$0", "from os import path, nope", 0, 21, "unresolved-import"),
        ("x = 1\n$0", "y = (", 1, 0, "syntax"),
    ],
)  # fmt: skip
def test_problems_are_where_an_editor_shows_them(
    marked: str, insert_text: str, line: int, character: int, code: str
) -> None:
    """Positions are UTF-16, in LSP's lines, in the buffer with the completion in it."""
    (problem,) = _check(marked, insert_text).problems
    assert (problem.line, problem.character, problem.code) == (line, character, code)


@pytest.mark.parametrize(
    ("text", "insert_text", "fault"),
    [
        ("x = 1\n", "y = (", Fault.SYNTAX),
        ("x = 1\n", "y = z", Fault.NAME),
        ("x = 1\n", "from os import nope", Fault.IMPORT),
        ("x = 1\n", "x.nope", Fault.ATTRIBUTE),
        ("x = 1\n", "len(x, x)", Fault.ARGUMENT),
    ],
)
def test_each_fault_can_be_switched_off(text: str, insert_text: str, fault: Fault) -> None:
    """What is switched off is not looked for, and all else is."""
    request = CheckRequest(text, len(text), insert_text)
    (problem,) = check(request).problems
    assert problem.code == fault
    assert check(replace(request, off=(fault.value,))).problems == ()
    others = tuple(other.value for other in Fault if other is not fault)
    assert check(replace(request, off=others)).problems == (problem,)


def test_a_name_is_named_once() -> None:
    """A program that uses one undefined name everywhere has one problem."""
    (problem,) = _check("$0", "a = z\nb = z\nc = z").problems
    assert (problem.line, problem.character) == (0, 4)


def test_a_package_has_a_path() -> None:
    """Only the file of a package knows ``__path__``."""
    assert _check("$0", "print(__path__)", path="/a/__init__.py").verdict is OK
    assert _check("$0", "print(__path__)", path="/a/b.py").verdict is FLAGGED


def test_stubs_may_use_names_before_they_are_defined() -> None:
    """In a .pyi file a forward reference is no undefined name."""
    text = "$0\n\nclass Later: ...\n"
    insert_text = "def f(x: Later) -> Later: ..."
    assert _check(text, insert_text, path="/a.pyi").verdict is OK
    assert _check(text, insert_text, path="/a.py").verdict is FLAGGED


def _packages(project: Path) -> Path:
    """Make an environment in a project's folder and return where its packages lie."""
    packages = project / ".venv/lib/python3.11/site-packages"
    packages.mkdir(parents=True)
    (project / ".venv/pyvenv.cfg").touch()
    return packages


def test_packages_of_the_project_are_read_as_paths(tmp_path: Path) -> None:
    """A package of the project's environment resolves, and what it lacks is flagged."""
    (_packages(tmp_path) / "only_here.py").write_text("there = 1\n")
    project = {"project": str(tmp_path)}
    assert _check("$0", "from only_here import there", **project).verdict is OK
    assert _check("$0", "from only_here import absent", **project).verdict is FLAGGED
    assert _check("$0", "from only_here import there").verdict is UNCHECKED


def test_a_named_environment_is_read(tmp_path: Path) -> None:
    """A person may say which environment's packages count."""
    packages = tmp_path / "elsewhere/lib/python3.11/site-packages"
    packages.mkdir(parents=True)
    (packages / "only_there.py").write_text("there = 1\n")
    named = {"project": str(tmp_path), "environment": str(tmp_path / "elsewhere")}
    assert _check("$0", "from only_there import there", **named).verdict is OK
    assert _check("$0", "from only_there import gone", **named).verdict is FLAGGED


@pytest.mark.parametrize(
    ("version", "insert_text", "verdict"),
    [
        ("3.14", "from warnings import deprecated", OK),
        ("3.14", "import itertools\nitertools.batched([1], 2)", OK),
        ("3.14", "from pathlib import Path\nPath('a').walk().close, Path('a').nope", FLAGGED),
        ("3.14", "x = f(a b)", UNCHECKED),
        ("3.99", "import itertools\nitertools.batched([1], 2)", OK),
        ("3.8", "x = f(a b)", FLAGGED),
        ("3.8", "import os\nos.nope", FLAGGED),
    ],
)
def test_the_version_of_the_project_counts(
    tmp_path: Path, version: str, insert_text: str, verdict: VerdictKind
) -> None:
    """What a newer Python has is there, and what only it can parse is not judged."""
    _packages(tmp_path)
    (tmp_path / ".venv/pyvenv.cfg").write_text(f"home = /x\nversion = {version}.0\n")
    assert _check("f = a = 1\n$0", insert_text, project=str(tmp_path)).verdict is verdict


def test_a_module_that_makes_names_up_is_not_judged(tmp_path: Path) -> None:
    """Any name may be imported from a module with __getattr__."""
    (_packages(tmp_path) / "lazy.py").write_text("def __getattr__(name): ...\n")
    verdict = _check("$0", "from lazy import anything", project=str(tmp_path))
    assert verdict.verdict is UNCHECKED


def test_names_of_the_project_resolve(tmp_path: Path) -> None:
    """A file imports from its neighbours, absolutely and relatively."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "neighbour.py").write_text("def known(): ...\n")
    path = str(package / "module.py")
    project = {"path": path, "project": str(tmp_path)}
    for text in (
        "from package.neighbour import known",
        "from .neighbour import known",
        "from . import neighbour",
        "import package.neighbour",
    ):
        assert _check("$0", text, **project).verdict is OK, text
    assert _check("$0", "from package.neighbour import gone", **project).verdict is FLAGGED


def test_real_code_put_back_into_its_file_is_not_flagged() -> None:
    """Cutting a statement out of a good file and inserting it again raises no alarm."""
    chooser = random.Random(16)
    flagged = []
    for path in sorted(Path(random.__file__).parent.glob("[a-d]*.py")):
        text = path.read_text(encoding="utf-8")
        lines = text.splitlines(keepends=True)
        if not lines or len(lines) > 1500:
            continue
        line = chooser.randrange(len(lines))
        offset = sum(map(len, lines[:line]))
        request = CheckRequest(text.replace(lines[line], "", 1), offset, lines[line])
        if "".join(lines).find(lines[line]) != offset:
            continue
        verdict = check(request)
        if verdict.verdict is FLAGGED:
            flagged.append((path.name, line, verdict))
    assert flagged == []


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60), st.text(max_size=30), st.integers(0, 60))
def test_any_input_has_a_verdict(text: str, insert_text: str, offset: int) -> None:
    """However broken the code, the check answers and does not raise."""
    request = CheckRequest(text, min(offset, len(text)), insert_text)
    assert isinstance(check(request), Verdict)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_broken_real_code_has_a_verdict(data: st.DataObject) -> None:
    """Cuts of real code anywhere, with any part of it inserted, have verdicts."""
    text = Path(check.__code__.co_filename).read_text(encoding="utf-8")[:3000]
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    insert_text = text[start : data.draw(st.integers(start, len(text)))]
    request = CheckRequest(text[:start] + text[end:], start, insert_text)
    assert isinstance(check(request), Verdict)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(_PIECES), max_size=12), st.data())
def test_any_call_or_attribute_has_a_verdict(pieces: list[str], data: st.DataObject) -> None:
    """No mixture of classes, calls and attributes makes the check raise."""
    text = "".join(pieces)
    start = data.draw(st.integers(0, len(text)))
    request = CheckRequest(text[:start], start, text[start:], cut=Cut.ANYWHERE)
    assert isinstance(check(request), Verdict)
