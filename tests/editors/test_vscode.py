"""The extension in a real VS Code, with the real server and the embedded model.

One code-server and one browser serve all tests; each test has files of its own. No folder
is trusted.
"""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.editors import figures
from tests.editors.code_server import CodeServer, Window, vsix, wait_for, windows
from tests.editors.installed import EDITORS, ROOT
from tests.editors.wheels import make_wheels

INDENT = 8 * " "
STACK = f"class Stack:\n    def __init__(self):\n{INDENT}# An empty list of items."
READ = "import json\n\n\ndef read(path):\n    # Open the file and parse it."

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(600),
]


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
        command = shlex.join(("env", f"PYTHONPATH={ROOT}", sys.executable, *arguments))
        program.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        program.chmod(0o755)
        return str(program)

    def file(self, name: str, text: str) -> Path:
        """Write a file into the folder, and show it with the cursor at its end."""
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        self.window.show(path)
        return path

    def use(self, program: str, **settings: Any) -> None:
        """Have it start a program, and wait for that one's model."""
        self.server.set_machine(server_path=program, **settings)
        model = "fake" if program == self.fake else "codegen-tiny"
        self.window.wait_for_status("ready", model)

    def fake_events(self) -> list[Any]:
        """Return what the fake engine logged."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [json.loads(line)[0] for line in lines]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that tries to have its programs started; they leave a mark in it."""
    folder = tmp_path_factory.mktemp("hostile")
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    for place in (folder, programs):
        for name in ("codegen-lsp", "python", "python3", "pip"):
            program = place / name
            program.write_text(f"#!/bin/sh\ntouch {folder / 'started'}\n")
            program.chmod(0o755)
    (folder / "model").mkdir()
    settings = {
        "codegen.server.path": str(folder / "codegen-lsp"),
        "codegen.server.python": str(folder / "python3"),
        "codegen.server.wheels": str(folder),
        "codegen.model": str(folder / "model"),
    }
    (folder / ".vscode").mkdir()
    (folder / ".vscode" / "settings.json").write_text(json.dumps(settings))
    (folder / "main.py").write_text("x = 1\n")
    return folder


@pytest.fixture(scope="module")
def vscode(tmp_path_factory: pytest.TempPathFactory, hostile: Path) -> Iterator[Editor]:
    """Return a VS Code with the real server, ready."""
    # As in a terminal where the hostile folder's environment was activated.
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


@pytest.fixture
def window(vscode: Editor) -> Window:
    """Return its window, with no notification of another test."""
    vscode.window.clear_messages()
    return vscode.window


def test_ghost_text_appears_after_a_comment_and_tab_takes_it(
    vscode: Editor, window: Window
) -> None:
    """What is on the disk is what was typed and what was grey, and nothing twice."""
    file = vscode.file("stack.py", STACK)
    window.type("\n")
    ghost = window.wait_for_ghost()
    window.screenshot("comment")
    window.press("Tab")
    assert window.save(file, ghost) == f"{STACK}\n{INDENT}{ghost}"


def test_a_word_and_a_line_are_taken(vscode: Editor, window: Window) -> None:
    """Part of a suggestion goes into the file, and the rest of it stays grey."""
    file = vscode.file("read.py", READ)
    window.type("\n")
    whole = window.wait_for_ghost("\n")
    window.press("Control+ArrowRight")
    after_word = window.wait_for_rest(whole)
    assert "\n" in after_word
    window.press("Control+Alt+L")
    window.wait_for_rest(after_word)
    text = window.save(file, whole.split("\n")[0])
    assert f"{READ}\n    {whole}".startswith(text.rstrip())


def test_typing_along_keeps_a_suggestion(vscode: Editor, window: Window) -> None:
    """Each key that agrees with the suggestion takes one letter of it, and shows no other."""
    file = vscode.file("along.py", STACK)
    window.type("\n")
    ghost = window.wait_for_ghost()
    window.evaluate("seen.recordGhosts()")
    for n in range(1, 5):
        window.type(ghost[n - 1])
        assert window.wait_for_rest(ghost[n - 1 :]) == ghost[n:]
    assert set(window.evaluate("seen.ghosts")) <= {"", *(ghost[n:] for n in range(5))}
    window.press("Tab")
    assert window.save(file, ghost) == f"{STACK}\n{INDENT}{ghost}"


def test_escape_hides_a_suggestion(vscode: Editor, window: Window) -> None:
    """What was hidden is not written."""
    file = vscode.file("escape.py", STACK)
    window.type("\n")
    window.wait_for_ghost()
    window.press("Escape")
    window.wait_for_no_ghost()
    window.type("pass")
    assert window.save(file, "pass") == f"{STACK}\n{INDENT}pass"


def test_candidates_cycle(vscode: Editor, window: Window) -> None:
    """Who asks gets several, one after the other, and the first comes again."""
    vscode.file("cycle.py", READ)
    window.type("\n")
    first = window.wait_for_ghost()
    found = {first}

    def is_other() -> bool:
        ghost = window.press_and_look("Alt+]")
        found.add(ghost)
        return ghost != first

    def is_first() -> bool:
        return window.press_and_look("Alt+[") == first

    wait_for(is_other, "other candidate")
    wait_for(is_first, "first candidate again")
    assert "" not in found


def test_all_turns_are_written(vscode: Editor, window: Window) -> None:
    """The command fills a file, each comment after the one before it."""
    second = f"{INDENT}# No items yet."
    file = vscode.file("turns.py", f"{STACK}\n\n{second}\n\n")
    window.press("Control+Home")
    window.run("CodeGen: Write All Turns Below")
    wait_for(lambda: "=" in window.text.partition(second)[2], "second program")
    first, _, last = window.save(file, "=").partition(second)
    assert "=" in first
    assert "=" in last


def test_a_turn_is_written_from_the_context_menu(vscode: Editor, window: Window) -> None:
    """The cursor's turn is meant, whose line the menu does not tell."""
    file = vscode.file("menu.py", f"{STACK}\n\n")
    window.press("Control+Home", "ArrowDown", "ArrowDown")
    window.choose_in_menu("CodeGen", "Write This Turn")
    wait_for(lambda: "=" in window.text, "program")
    assert window.save(file, "=").startswith(f"{STACK}\n{INDENT}")


def test_a_turn_is_a_code_action(vscode: Editor, window: Window) -> None:
    """The light bulb offers it where the comment is."""
    vscode.file("bulb.py", f"{STACK}\n\n")
    # Before a line's first letter VS Code shows none.
    window.press("Control+Home", "ArrowDown", "ArrowDown", "End")
    # The list of whoever asks before it is there closes when it comes.
    window.wait("seen.hasBulbAtCursor()")
    window.press("Control+.")
    window.wait("seen.texts('.action-widget .monaco-list-row').length > 0")
    window.screenshot("light-bulb")
    window.click(".action-widget .monaco-list-row", "Write this turn")
    wait_for(lambda: "=" in window.text, "program")


def test_a_notebook_is_one_text(vscode: Editor, window: Window) -> None:
    """A cell gets what the cell above it asks for, and the file has it."""
    file = vscode.folder / "book.ipynb"
    cells = [
        {"cell_type": "markdown", "id": "a", "metadata": {}, "source": "Count from zero."},
        {"cell_type": "code", "id": "b", "metadata": {}, "outputs": [], "source": STACK}
        | {"execution_count": None},
    ]
    metadata = {"language_info": {"name": "python"}}
    book = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    file.write_text(json.dumps(book))
    window.open_quickly(file)
    window.click(".notebook-editor .code-cell-row .view-lines")
    window.press("Control+End")
    window.type("\n")
    ghost = window.wait_for_ghost()
    window.screenshot("notebook")
    window.press("Tab")
    text = window.save(file, json.dumps(ghost.split("\n")[0])[1:-1])
    assert "".join(json.loads(text)["cells"][1]["source"]) == f"{STACK}\n{INDENT}{ghost}"


def test_off_and_on(vscode: Editor, window: Window) -> None:
    """A language that is off gets nothing, even if it is asked for, until it is on again."""
    toggle = "CodeGen: Turn Completion of This Language On or Off"
    vscode.file("off.py", STACK)
    window.run(toggle)
    window.wait_for_status("off for python")
    window.type("\n")

    def why() -> list[str]:
        # Right after a setting has changed VS Code does not ask.
        window.press("Control+Alt+T")
        window.run("CodeGen: Why No Suggestion?")
        return [message for message in window.messages if "turns python off" in message]

    wait_for(why, "word of the setting")
    assert window.ghost == ""
    window.run(toggle)
    window.wait_for_status("ready", but_not="off")
    wait_for(lambda: window.press_and_look("Control+Alt+T"), "ghost text")


def test_how_soon_ghost_text_follows_a_key(
    vscode: Editor, window: Window, record_property: figures.RecordProperty
) -> None:
    """Measured in the page, of keys whose answer the model has to write."""
    vscode.file("soon.py", "class Stack:\n    def __init__(self):")
    window.evaluate("seen.timeGhosts()")
    for what in ("names", "numbers", "lines", "words", "files", "users", "keys", "paths"):
        window.press("Control+End", "Control+Enter")
        window.call("insert", f"# An empty list of {what}.")
        window.press("Escape", "Enter")
        window.wait("seen.time")
        # The line and the comment go again.
        window.press("Escape", "Control+Shift+K", "Control+Shift+K")
    debounce = 50
    times = [time - debounce for time in window.evaluate("seen.times")][1:]
    what = f"VS Code, key to ghost text, above its own debounce of {debounce} ms"
    figures.record(record_property, what, times)


def test_how_long_activation_takes(
    vscode: Editor, window: Window, record_property: figures.RecordProperty
) -> None:
    """Measured by VS Code itself; the server is started beside it."""
    window.run("Developer: Show Running Extensions")
    row = ".runtime-extensions-editor .monaco-list-row"
    text = window.wait(
        f"seen.texts('{row}').find((text) => /CodeGen.*Activation: \\d+ms/s.test(text))"
    )
    milliseconds = int(text.split("Activation: ")[1].split("ms")[0])
    figures.record(record_property, "VS Code, activation of the extension", [milliseconds])
    window.press("Escape")
    window.wait(f"seen.texts('{row}').length === 0")


def test_a_server_that_was_killed_comes_back(vscode: Editor, window: Window) -> None:
    """Nobody has to do anything for the next suggestion."""
    vscode.file("killed.py", STACK)
    (killed,) = vscode.server.servers
    killed.kill()
    wait_for(lambda: [s for s in vscode.server.servers if s != killed], "new server")
    window.wait_for_status("ready")
    window.type("\n")
    window.wait_for_ghost()
    assert window.messages == []


def test_a_slow_model_shows_no_stale_text(vscode: Editor, window: Window) -> None:
    """What was asked for a text that is no more is never on the screen."""
    vscode.use(vscode.fake)
    vscode.file("slow.py", "y = 1\n")
    window.evaluate("seen.recordGhosts()")
    window.type("# SLOW\n")
    wait_for(lambda: "slow" in vscode.fake_events(), "slow answer")
    window.press("Control+A")
    window.type("z = ")
    wait_for(lambda: "stopped" in vscode.fake_events(), "end of the slow answer")
    # What it says after fewer letters was wanted too, for a moment.
    window.wait_for_ghost('"3"')
    assert not [ghost for ghost in window.evaluate("seen.ghosts") if "xx" in ghost]


def test_characters_outside_ascii_before_the_cursor(vscode: Editor, window: Window) -> None:
    """What is taken stands where the cursor was, though an emoji counts twice."""
    vscode.use(vscode.fake)
    file = vscode.file("emoji.py", 'größe = "🎉é",')
    window.type(" ")
    ghost = window.wait_for_ghost()
    window.press("Tab")
    assert window.save(file, ghost) == f'größe = "🎉é", {ghost}'


def test_two_files(vscode: Editor, window: Window) -> None:
    """Each has the suggestion of its own text."""
    vscode.use(vscode.fake)
    vscode.file("one.py", "a =")
    window.type(" ")
    window.wait_for_ghost('"3"')
    vscode.file("two.py", "longer =")
    window.type(" ")
    window.wait_for_ghost('"8"')
    window.show(vscode.folder / "one.py")
    window.press("Backspace")
    window.type(" ")
    window.wait_for_ghost('"3"')


def test_a_server_that_always_ends_is_told_after_the_third_time(
    vscode: Editor, window: Window
) -> None:
    """One message, with what can be done; a better setting is enough to go on."""
    vscode.server.set_machine(server_path=vscode.ends)
    window.wait_for_message("the server ended 3 times in a row and is not started again")
    window.wait_for_status("failed")
    assert len(window.messages) == 1
    vscode.use(vscode.real)


def test_a_missing_model_is_told(vscode: Editor, window: Window) -> None:
    """The message names it and the cure, and the embedded model answers."""
    vscode.server.set_machine(server_path=vscode.real, model="codegen-350m-mono")
    window.wait_for_message("`codegen-lsp pull codegen-350m-mono` gets it")
    window.wait_for_status("ready", "codegen-tiny answers instead")


def test_a_setting_that_names_no_program_is_told(vscode: Editor, window: Window) -> None:
    """The message names the setting and what it says."""
    vscode.server.set_machine(server_path="/nowhere/codegen-lsp")
    window.wait_for_message("codegen.server.path names /nowhere/codegen-lsp")
    window.wait_for_status("failed")


def test_a_hostile_folder_starts_nothing(vscode: Editor, window: Window, hostile: Path) -> None:
    """Neither its settings nor its programs count, though they are first on the PATH."""
    vscode.server.set_machine()
    window.open(hostile, hostile / "main.py")
    window.wait_for_status("missing")
    window.wait_for_message("CodeGen needs its language server")
    vscode.use(vscode.real)
    # A model that the folder named would be missed.
    assert "instead" not in window.wait_for_status("ready")
    assert not (hostile / "started").exists()
    window.screenshot("hostile")


def test_the_server_is_installed_with_one_click(
    vscode: Editor, window: Window, tmp_path: Path
) -> None:
    """Out of the extension and a folder of wheels, without a network."""
    make_wheels("codegen-lsp", tmp_path)
    # That of the environment of the tests would be no test.
    python = str(Path(sys.executable).resolve())
    vscode.server.set_machine(server_wheels=str(tmp_path), server_python=python)
    first = vscode.folder / "first.py"
    window.open(vscode.folder, first)
    window.wait_for_message("CodeGen needs its language server")
    window.answer_message("Install the Server")
    window.wait_for_status("ready", "codegen-tiny")
    (server,) = vscode.server.servers
    assert Path(server.cmdline()[0]).is_relative_to(vscode.server.data)
    vscode.file("installed.py", STACK)
    window.type("\n")
    window.wait_for_ghost()


def test_a_model_that_was_fetched(vscode: Editor, window: Window) -> None:
    """SmolLM2-135M writes a whole function below a comment."""
    model = fetched("smollm2-135m")
    vscode.server.set_machine(server_path=vscode.real, model=str(model))
    window.wait_for_status("ready", "smollm2")
    text = 'import json\n\n\ndef read_names(path):\n    """Return the names in a JSON file."""'
    file = vscode.file("names.py", text)
    window.type("\n")
    ghost = window.wait_for_ghost()
    window.screenshot("smollm2")
    window.press("Tab")
    assert window.save(file, ghost).startswith(f"{text}\n    {ghost}")


def test_nothing_outside_was_asked_for(window: Window) -> None:
    """Neither we nor what the tests use reached for the network."""
    assert window.outside == []


def fetched(name: str) -> Path:
    """Return the folder of a model, fetched into the folder of the editors; skips where not."""
    command = [sys.executable, "-m", "lsp_server", "pull", name, "--json"]
    environment = os.environ | {
        "XDG_CACHE_HOME": str(EDITORS / "cache"),
        "PYTHONPATH": str(ROOT),
    }
    pulled = subprocess.run(command, env=environment, capture_output=True, text=True)
    if pulled.returncode:
        pytest.skip(f"{name} cannot be fetched: {pulled.stderr.strip()}")
    return Path(json.loads(pulled.stdout)["folder"])
