"""A terminal with a program in it: typed into as a person does, read as they see it."""

import io
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import run

import psutil
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from tests.editors.installed import EDITORS, installed

TMUX = EDITORS / "neovim" / "root" / "usr" / "bin" / "tmux"
SCREENSHOTS = EDITORS / "screenshots"
"""Where the tests leave what they saw."""
_WIDTH, _HEIGHT = 76, 14
_ENDING_S = 10.0
_THEME = TerminalTheme((20, 22, 27), (224, 226, 234), [(0, 0, 0)] * 8)
"""The background and the foreground of Neovim's own colours."""


class Terminal:
    """A tmux of its own, with one program."""

    def __init__(
        self, socket: Path, command: Sequence[str], folder: Path, variables: Mapping[str, str]
    ) -> None:
        """Start a program in a folder."""
        self._tmux = (str(installed(TMUX)), "-S", str(socket), "-f", os.devnull)
        self._environment = {**variables, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
        size = ("-x", str(_WIDTH), "-y", str(_HEIGHT))
        shown = ("-P", "-F", "#{pane_pid}")
        pid = self._run("new-session", "-d", *shown, *size, "-c", str(folder), *command)
        self._program = psutil.Process(int(pid))

    def close(self) -> None:
        """End the program, and what it started: Neovim's own server may outlive its screen."""
        started = [self._program]
        with suppress(psutil.NoSuchProcess):
            started += self._program.children(recursive=True)
        run([*self._tmux, "kill-server"], env=self._environment, check=False)
        _, alive = psutil.wait_procs(started, timeout=_ENDING_S)
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def type(self, text: str) -> None:
        """Type a text, a character after the other."""
        self._run("send-keys", "-l", "--", text)

    def press(self, *keys: str) -> None:
        """Press keys, by tmux's names."""
        self._run("send-keys", *keys)

    @property
    def screen(self) -> str:
        """What stands on the screen."""
        return self._run("capture-pane", "-p")

    @property
    def coloured_screen(self) -> str:
        """The same with its colours, as escape sequences."""
        return self._run("capture-pane", "-p", "-e")

    def _run(self, *arguments: str) -> str:
        return run(
            [*self._tmux, *arguments],
            env=self._environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout


def take_picture(terminal: Terminal, name: str) -> Path:
    """Keep what is on a screen as a picture, and return its file."""
    console = Console(record=True, width=_WIDTH, file=io.StringIO(), legacy_windows=False)
    console.print(Text.from_ansi(terminal.coloured_screen.rstrip()))
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    path = SCREENSHOTS / f"{name}.svg"
    picture = console.export_svg(title=name, theme=_THEME, unique_id=name)
    # A picture fetches nothing, fonts included.
    path.write_text(re.sub(r"@font-face \{.*?\}", "", picture, flags=re.S), encoding="utf-8")
    return path
