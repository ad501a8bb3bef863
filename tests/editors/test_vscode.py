"""The extension in a real VS Code, with the real server and the embedded model.

One code-server and one browser serve all tests; each test has files of its own.
"""

import json
import shlex
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.editors.code_server import CodeServer, Window, vsix, wait_for, windows
from tests.editors.installed import ROOT

STACK = "class Stack:\n    def __init__(self):\n"
COMMENT = "# An empty list of items."
READ = "import json\n\n\ndef read(path):\n    # Open the file and parse it."
INDENT = 8 * " "


class Editor:
    """A VS Code with a folder that is open, and the programs that it may start."""

    def __init__(self, server: CodeServer, window: Window, folder: Path) -> None:
        """Write the programs."""
        self.server = server
        self.window = window
        self.folder = folder
        self.log = server.folder / "fake.log"
        fake = ROOT / "tests" / "e2e" / "fake_server.py"
        self.real = self._program("real", "-m", "lsp_server")
        self.fake = self._program("fake", str(fake), str(self.log))
        self.ends = self._program("ends", "-c", "raise SystemExit(1)")

    def _program(self, name: str, *arguments: str) -> str:
        program = self.server.folder / name
        python = shlex.join((sys.executable, *arguments))
        environment = f"PYTHONPATH={shlex.quote(str(ROOT))}"
        program.write_text(f'#!/bin/sh\n{environment} exec {python} "$@"\n')
        program.chmod(0o755)
        return str(program)

    def file(self, name: str, text: str) -> Path:
        """Write a file into the folder, and show it with the cursor at its end."""
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        self.window.show(path)
        return path

    def use(self, program: str, **settings: Any) -> None:
        """Set the server, and wait until it has a model."""
        self.server.set_machine(server_path=program, **settings)
        self.window.wait_for_status("ready", "fake" if program == self.fake else "codegen-tiny")

    @property
    def events(self) -> list[Any]:
        """Return what the fake engine logged."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [json.loads(line)[0] for line in lines]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that tries to have its programs started."""
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def vscode(tmp_path_factory: pytest.TempPathFactory, hostile: Path) -> Iterator[Editor]:
    """Return a VS Code with the real server, ready in an empty folder."""
    # As in a terminal where the environment of a folder was activated.
    path = (".", "", str(hostile / ".venv" / "bin"))
    server = CodeServer(tmp_path_factory.mktemp("vscode"), path)
    folder = tmp_path_factory.mktemp("project")
    server.install(vsix())
    server.start()
    try:
        with windows(server) as window:
            editor = Editor(server, window, folder)
            first = folder / "first.py"
            first.write_text("x = 1\n")
            server.set_machine(server_path=editor.real)
            window.open(folder, first)
            window.wait_for_status("ready")
            yield editor
    finally:
        server.stop()


def test_ghost_text_appears_after_a_comment_and_tab_takes_it(vscode: Editor) -> None:
    """What stands on the disk is what was typed and what was grey."""
    window = vscode.window
    file = vscode.file("stack.py", STACK)
    window.type(INDENT + COMMENT + "\n")
    ghost = window.wait_for_ghost()
    window.screenshot("comment")
    window.press("Tab")
    window.wait_for_no_ghost()
    text = window.save(file, ghost)
    assert text.startswith(STACK + INDENT + COMMENT + "\n" + INDENT + ghost)


def test_a_word_and_a_line_are_taken(vscode: Editor) -> None:
    """VS Code's own keys take part of a suggestion, and the rest of it stays."""
    window = vscode.window
    file = vscode.file("read.py", READ)
    window.type("\n")
    whole = window.wait_for_ghost("\n" if False else "")
    window.press("Control+ArrowRight")
    rest = window.wait_for_ghost()
    assert whole.endswith(rest)
    assert rest != whole
    window.press("Control+Alt+L")
    window.save(file, "    " + whole.split(" ")[0])
