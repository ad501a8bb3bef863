"""Packing: what of old text stays where a context is full, and that it rarely changes."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsp_server.completion import complete
from lsp_server.packing import OpenFile, condensed, imported
from lsp_server.plan import Snapshot
from lsp_server.prompt import beginning, build_prompt
from lsp_server.turns import read_turns
from tests.fakes import ByteTokenizer, ScriptedEngine, fake_model

KEPT = "$KEPT\n"
"""Where the text begins that is kept as it is."""
STEP = 128
FILLING = "".join(f"# Step {n}.\nprint('step {n}')\n" for n in range(100))

texts = st.lists(
    st.sampled_from(
        [
            *("import os\n", "from a import (\n    b,\n)\n", "LIMIT = 3\n", "x, y = 1, 2\n"),
            *("def f(a):\n", "async def g():\n", "class C:\n", "@wraps\n", "    @property\n"),
            *("    def m(self):\n", "        return self\n", "    field: int = 0\n"),
            *("    return f(a)\n", "# Use f and LIMIT.\n", "\n", "C().m()\n", "    pass\n"),
            *('"""\n', "(\n", ")\n", "\\\n", "\t", "é😀", "\ud800", "if x:\n", "x" * 90),
        ]
    ),
    max_size=40,
).map("".join)


def head_of(marked: str, n_characters: int = 10_000, step: int = 1) -> str:
    """Return what stands for the text before the mark."""
    old, _, kept = marked.partition(KEPT)
    text = old + kept
    turns = read_turns(text)
    return condensed(text, len(old), turns, step=step, n_characters=n_characters)


@pytest.mark.parametrize(
    ("old", "kept", "expected"),
    [
        ("import os\nx = 1\n", "print(2)\n", "import os\n"),
        ("LIMIT = 3\nOTHER = 4\n", "print(LIMIT)\n", "LIMIT = 3\n"),
        ("LIMIT = 3\n", "LIMIT = 4\nprint(LIMIT)\n", ""),
        ("LIMIT = 3\n", "LIMIT = LIMIT + 1\n", "LIMIT = 3\n"),
        ("a, b = 1, 2\n", "print(b)\n", "a, b = 1, 2\n"),
        ("# Say so.\nprint('so')\n\n# Again.\nprint('again')\n", "print(3)\n", ""),
        ("def f(a):\n    return a\n", "print(3)\n", "def f(a):\n    ...\n"),
        ("def f(a):\n    return a\n", "print(f(3))\n", "def f(a):\n    return a\n"),
        (
            "def f(\n    a,\n):\n    return a\n",
            "print(3)\n",
            "def f(\n    a,\n):\n    ...\n",
        ),
        (
            "class C:\n    size: int\n\n    @property\n    def one(self):\n        return 1\n",
            "print(3)\n",
            "class C:\n    ...\n",
        ),
        (
            "class C:\n    size: int\n\n    @property\n    def one(self):\n        return 1\n",
            "print(C())\n",
            "class C:\n    size: int\n    @property\n    def one(self):\n        ...\n",
        ),
        (
            "class C:\n    def one(self):\n        return 1\n    def two(self):\n        a\n",
            "print(C().two())\n",
            "class C:\n    def one(self):\n        ...\n    def two(self):\n        a\n",
        ),
        (
            "class C:\n    def one(self):\n        return 1\n\n    def two(self):\n",
            "        return 2\n",
            "class C:\n    def one(self):\n        ...\n    def two(self):\n",
        ),
        ("def f():\n    a\n\n\n# Aside.\n", "    b\n", "def f():\n"),
    ],
)
def test_what_stays(old: str, kept: str, expected: str) -> None:
    """Imports, signatures, what is in use, and what the kept text begins inside of."""
    assert head_of(old + KEPT + kept + "\n") == expected


def test_what_a_turn_names_stays_first() -> None:
    """Where there is no room for all, a definition named by the turn being written wins."""
    old = "def near(a):\n    return a\n"
    old = "class Far:\n    def m(self):\n        return 1\n" + old
    kept = "print(near(1))\n\n# Use Far for it.\n"
    assert head_of(old + KEPT + kept, n_characters=60) == (
        "class Far:\n    def m(self):\n        return 1\n"
    )


def test_broken_code_has_a_head() -> None:
    """A bracket or a string that was never closed costs nothing but what is inside of it."""
    old = "import os\ndef f(a:\n    x = (1,\ndef g():\n    return 1\n"
    assert head_of(old + KEPT + "g()\n") == (
        "import os\ndef f(a:\n    x = (1,\ndef g():\n    return 1\n"
    )


@given(old=texts, kept=texts, n_characters=st.integers(0, 400), step=st.sampled_from([1, STEP]))
def test_any_text_has_a_head_of_its_own_lines(
    old: str, kept: str, n_characters: int, step: int
) -> None:
    """The lines are the text's, in its order, but for what stands for a body; it fits."""
    old = old + "\n" if old else ""
    head = head_of(old + KEPT + kept, n_characters, step)
    assert len(head) <= n_characters
    assert not head or head.endswith("\n")
    lines = iter(old.split("\n"))
    for line in head.split("\n")[:-1]:
        assert line.strip() == "..." or line in lines


@given(
    old=texts, kept=texts, n_tokens=st.integers(1, 400), typed=st.text("ab (.\n", max_size=9)
)
def test_a_text_that_fits_is_the_prompt(old: str, kept: str, n_tokens: int, typed: str) -> None:
    """Nothing is condensed unless it has to be; then all of it fits the budget."""
    text = old + kept + typed
    prompt = build_prompt(
        ByteTokenizer(),
        text,
        read_turns(text),
        n_tokens=n_tokens,
        heal=False,
        eos_token_id=256,
        condense=True,
    )
    expected = ByteTokenizer().encode(text).token_ids or [256]
    assert len(prompt.token_ids) <= n_tokens
    if len(expected) <= n_tokens:
        assert prompt.token_ids == expected


@pytest.mark.parametrize("n_tokens", [300, 1792])
def test_the_head_stands_while_one_types(n_tokens: int) -> None:
    """Nearly all keys leave the beginning of the prompt, head and start, as it was."""
    old = "".join(
        f"def compute_{n}(value):\n    total = value + {n}\n    return total\n\n\n"
        for n in range(100)
    )
    typed = "".join(f"result = compute_{n}(result)\n" for n in range(0, 80, 2))
    text = old + "# Compute it from compute_3.\n"
    beginnings = []
    for end in range(0, len(typed), 12):
        now = text + typed[:end]
        beginnings.append(
            beginning(ByteTokenizer(), now, read_turns(now), n_tokens, condense=True)
        )
    assert beginnings[0].head
    assert any(a != b for a, b in pairwise(beginnings))
    assert sum(a != b for a, b in pairwise(beginnings)) <= len(typed) // 40


def test_a_prompt_begins_with_what_its_turn_names() -> None:
    """A definition that left with the old text is there when a comment speaks of it."""
    text = "def wanted(a):\n    return a\n\n\n" + FILLING + "# Use wanted.\n"
    prompt = build_prompt(
        ByteTokenizer(),
        text,
        read_turns(text),
        n_tokens=500,
        heal=False,
        eos_token_id=256,
        condense=True,
    )
    written = ByteTokenizer().decode(prompt.token_ids)
    assert written.startswith("def wanted(a):\n    return a\n# Step ")
    assert written.endswith("# Use wanted.\n")


IO = OpenFile(
    "file:///project/tools/io.py",
    "import os\n\n\ndef load(path):\n    return path\n\n\nclass Store:\n    size: int\n",
)
FAR_IO = OpenFile("file:///elsewhere/tools/io.py", "def load(far):\n    return far\n")
PACKAGE = OpenFile("file:///project/tools/__init__.py", "LIMIT = 3\n")
FILES = (FAR_IO, IO, PACKAGE)
LOAD = "# io.py\ndef load(path):\n    return path\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from tools.io import load\n", LOAD),
        ("from .io import load as read\n", LOAD),
        ("from ..tools.io import load\n", LOAD),
        ("from tools.io import (  # both\n    load,\n    Store,\n)\n", LOAD + "class Store:\n"),
        ("from . import LIMIT\n", "# __init__.py\nLIMIT = 3\n"),
        ("from tools import LIMIT\n", "# __init__.py\nLIMIT = 3\n"),
        ("import tools.io\n" + "tools.io.load(1)\n" * 40, LOAD),
        ("import tools.io as files\n" + "files.load(1)\n" * 40, LOAD),
        ("import tools.io\n" + "print(1)\n" * 99, ""),
        ("from tools.io import other\n", ""),
        ("from .other import load\n", ""),
        ("from tools.io import load", ""),
        ("load = 1\n", ""),
    ],
)
def test_what_is_imported_from_open_files(text: str, expected: str) -> None:
    """The definition of each imported name, from the module's file that lies nearest."""
    above = imported(text, "file:///project/tools/main.py", FILES)
    assert above.startswith(expected)
    assert bool(above) is bool(expected)


def test_open_files_stand_above_the_text() -> None:
    """They are read where the snapshot has them, of Python only, in at most an eighth."""
    text = "from tools.io import load\n" + FILLING
    for language_id in ("python", "javascript"):
        model = fake_model("1\n")
        snapshot = Snapshot(
            text + "x = ", len(text) + 4, language_id, "file:///project/main.py", FILES
        )
        complete(model, snapshot, max_new_tokens=16)
        assert isinstance(model.engine, ScriptedEngine)
        prompt = model.engine.calls[0].prompt
        assert prompt.startswith(LOAD) is (language_id == "python")
    long = "from tools.io import load\n" + FILLING * 2
    head, _ = beginning(ByteTokenizer(), long, (), 64, condense=True, above=LOAD)
    assert ByteTokenizer().decode(head[:8]) == "# io.py\n"


@given(text=texts, other=texts, uri=st.sampled_from(["", "x", "file:///project/tools/x.py"]))
def test_any_text_may_import(text: str, other: str, uri: str) -> None:
    """Imports of any text from any other give some text or none."""
    files = (OpenFile("file:///project/a.py", other), OpenFile("os.py", other))
    above = imported(text, uri, files)
    assert not above or above.startswith("# a.py\n")
