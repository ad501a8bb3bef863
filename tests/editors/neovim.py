"""A real Neovim with our plug-in, driven as a person drives it: by keys."""

import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from subprocess import DEVNULL
from typing import Any, TypeVar

import psutil
import pynvim

from tests.editors.installed import EDITORS, ROOT, installed

PLUGIN = ROOT / "editor_clients" / "neovim"
NEOVIM = EDITORS / "neovim" / "root" / "usr" / "bin" / "nvim"
SERVER = (sys.executable, "-m", "lsp_server", "serve")
FAKE_SERVER = (sys.executable, str(ROOT / "tests" / "e2e" / "fake_server.py"))
DEBOUNCE_MS = 200
"""How long Neovim itself waits after a key before it asks."""
DEADLINE_S = 60.0
Found = TypeVar("Found")

_NUMBERS = count()
_QUIETLY = ("--headless", "--clean", "-n")
_GHOST = """
local namespace = vim.api.nvim_create_namespace("nvim.lsp.inline_completion")
local marks = vim.api.nvim_buf_get_extmarks(0, namespace, 0, -1, { details = true })
if not marks[1] then return "" end
local lines = { marks[1][4].virt_text[1][1] }
for _, line in ipairs(marks[1][4].virt_lines or {}) do
  table.insert(lines, line[1][1])
end
return table.concat(lines, "\\n")
"""
_INIT = """
-- What was said, for the tests to read.
_G.said = {}
vim.notify = function(message) table.insert(_G.said, message) end
vim.opt.runtimepath:prepend(%(plugin)s)
vim.opt.swapfile = false
-- How many questions were answered, by buffer.
_G.answered = {}
vim.api.nvim_create_autocmd("LspRequest", {
  callback = function(event)
    local request = event.data.request
    if request.method == "textDocument/inlineCompletion" and request.type == "complete" then
      -- Once the answer is shown.
      local bufnr = request.bufnr
      vim.schedule(function() _G.answered[bufnr] = (_G.answered[bufnr] or 0) + 1 end)
    end
  end,
})
%(lines)s
"""


def lua(value: object) -> str:
    """Return a value as Lua writes it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"[{lua(k)}] = {lua(v)}" for k, v in value.items()) + "}"
    if isinstance(value, str | Path):
        return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, Sequence):
        return "{" + ", ".join(map(lua, value)) + "}"
    return str(value).lower()


def set_up(command: Sequence[str] | None = SERVER, **options: object) -> str:
    """Return the line of a person's configuration that starts the plug-in."""
    if command is not None:
        options = {"cmd": list(command), **options}
    return f'require("codegen_lsp").setup({lua(options)})'


def environment(home: Path, **variables: str) -> dict[str, str]:
    """Return the variables of an editor that has a home of its own.

    What was exported before is used again: it is what a person has after the first start.
    """
    caches = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folders = {
        f"XDG_{kind}_HOME": str(home / kind.lower()) for kind in ("CONFIG", "DATA", "STATE")
    }
    return {
        **os.environ,
        **folders,
        "HOME": str(home),
        "XDG_CACHE_HOME": caches,
        "PYTHONPATH": str(ROOT),
        **variables,
    }


def write_init(home: Path, lines: str) -> Path:
    """Write a person's configuration."""
    home.mkdir(exist_ok=True)
    init = home / "init.lua"
    init.write_text(_INIT % {"plugin": lua(PLUGIN), "lines": lines}, encoding="utf-8")
    return init


def is_listening(address: str) -> bool:
    """Tell whether somebody listens at a socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        return connection.connect_ex(address) == 0


def is_alive(process: psutil.Process) -> bool:
    """Tell whether a process runs; one that has ended may be waited for, or gone."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def wait_for(found: Callable[[], Found | None]) -> Found:
    """Return what ``found`` finds, as soon as it is something.

    Raises:
        TimeoutError: it found nothing for too long.
    """
    until = time.monotonic() + DEADLINE_S
    while not (value := found()):
        if time.monotonic() > until:
            raise TimeoutError("waited in vain")
        time.sleep(0.003)
    return value


class Neovim:
    """What the tests do at the keyboard, and see on the screen."""

    def __init__(self, home: Path, lines: str, *, folder: Path, **variables: str) -> None:
        """Start Neovim in a folder, with a configuration."""
        init, address = write_init(home, lines), str(home / f"socket{next(_NUMBERS)}")
        self.folder = folder
        self._process = psutil.Popen(
            [str(installed(NEOVIM)), *_QUIETLY, "-u", str(init), "--listen", address],
            cwd=folder,
            env=environment(home, **variables),
            stdin=DEVNULL,
        )
        wait_for(lambda: is_listening(address))
        self._nvim = pynvim.attach("socket", path=address)
        # Without a screen, Neovim answers its own questions. This one shows messages
        # beside the text, so that no key is asked for to read on.
        self._nvim.ui_attach(100, 30, ext_messages=True)

    def kill(self) -> None:
        """Kill Neovim."""
        self._process.kill()
        self._process.wait(DEADLINE_S)

    def close(self) -> None:
        """End Neovim, and wait until its servers are gone too."""
        is_running = self._process.poll() is None
        servers = self._process.children(recursive=True) if is_running else []
        # The answer is that the connection ends.
        with suppress(OSError, EOFError):
            self._nvim.command("qall!")
        self._nvim.close()
        self._process.wait(DEADLINE_S)
        _, alive = psutil.wait_procs(servers, timeout=DEADLINE_S)
        assert not alive, f"left over: {alive}"

    def lua(self, code: str, *arguments: object) -> Any:
        """Return what Lua code returns."""
        return self._nvim.exec_lua(code, *arguments)

    def call(self, name: str, *arguments: object) -> Any:
        """Return what a function of Vimscript returns."""
        return self._nvim.call(name, *arguments)

    def command(self, command: str) -> None:
        """Run a command."""
        self._nvim.command(command)

    def output(self, command: str) -> str:
        """Return what a command prints."""
        return str(self._nvim.command_output(command))

    def edit(self, name: str, text: str = "") -> Path:
        """Open a file of the folder that holds a text; the cursor is at its end."""
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        self.command(f"edit {path}")
        self.type("<Esc>G$")
        return path

    def type(self, keys: str) -> None:
        """Type keys, in Neovim's notation."""
        while keys:
            keys = keys.encode()[self._nvim.input(keys) :].decode()

    def begin(self, name: str, text: str) -> Path:
        """Open a file, wait for the model, and go on at the file's end in insert mode."""
        path = self.edit(name, text)
        self.ready()
        self.type("A")
        return path

    def write(self) -> None:
        """Leave insert mode and write the file."""
        self.type("<Esc>:silent write<CR>")
        self.until(lambda: not self.lua("return vim.bo.modified"))

    @property
    def ghost(self) -> str:
        """The suggestion on the screen, nothing where there is none."""
        return str(self.lua(_GHOST))

    @property
    def seen(self) -> tuple[str, str]:
        """The text before the cursor and the suggestion, of one moment."""
        text, ghost = self.lua(
            'local text = vim.api.nvim_get_current_line():sub(1, vim.fn.col(".") - 1) '
            f"return {{ text, (function() {_GHOST} end)() }}"
        )
        return text, ghost

    @property
    def text(self) -> str:
        """The buffer's text."""
        return "\n".join(self._nvim.current.buffer[:])

    @property
    def before_cursor(self) -> str:
        """The text of the cursor's line before it."""
        return str(
            self.lua('return vim.api.nvim_get_current_line():sub(1, vim.fn.col(".") - 1)')
        )

    @property
    def n_answers(self) -> int:
        """How many questions for suggestions in this buffer were answered until now."""
        return int(self.lua("return _G.answered[vim.api.nvim_get_current_buf()] or 0"))

    @property
    def status(self) -> str:
        """What the statusline says."""
        return str(self.lua('return require("codegen_lsp").status()'))

    @property
    def is_writing(self) -> bool:
        """Whether turns are being written."""
        return "writing turns" in self.status

    @property
    def is_asking(self) -> bool:
        """Whether Neovim waits for a person to say yes or no."""
        return bool(self._nvim.api.get_mode()["mode"] == "r?")

    def program_of(self, turn: str) -> str:
        """Return the lines below a comment, up to a blank line."""
        return self.text.partition(f"{turn}\n")[2].partition("\n\n")[0].strip()

    @property
    def said(self) -> list[str]:
        """What a person was told."""
        return list(self.lua("return _G.said"))

    def was_told(self, part: str) -> str:
        """Return the message that holds some words, once it is there."""
        return self.until(lambda: next((said for said in self.said if part in said), None))

    def until(self, found: Callable[[], Found | None]) -> Found:
        """Return what ``found`` finds, as soon as it is something."""
        try:
            return wait_for(found)
        except TimeoutError:
            seen = f"{self.text!r}, ghost {self.ghost!r}, said {self.said!r}"
            raise AssertionError(f"waited in vain; the text is {seen}") from None

    def until_text(self, text: str) -> None:
        """Wait until the buffer has a text."""
        self.until(lambda: self.text == text)

    def until_typed(self, text: str) -> None:
        """Wait until a text stands before the cursor in its line."""
        self.until(lambda: self.before_cursor == text)

    def until_answered(self, n_answers: int) -> None:
        """Wait until more than so many questions were answered."""
        self.until(lambda: self.n_answers > n_answers)

    def until_ended(self, server: psutil.Process) -> None:
        """Wait until a server is no longer there."""
        self.until(lambda: server not in self.servers)

    def until_written(self, turn: str) -> str:
        """Return the program of a comment, once there is one."""
        return self.until(lambda: self.program_of(turn))

    def until_ghost(self, is_so: Callable[[str], bool] = bool) -> str:
        """Return the suggestion once it is as wanted."""
        return self.until(lambda: ghost if is_so(ghost := self.ghost) else None)

    def ready(self) -> None:
        """Wait until the model answers in this buffer."""
        self.until(lambda: self.state == "ready")

    @property
    def state(self) -> str:
        """What the server of this buffer said last; nothing where there is none."""
        return str(
            self.lua(
                'local c = vim.lsp.get_clients({ bufnr = 0, name = "codegen_lsp" })[1] '
                'return c and require("codegen_lsp.status").of(c.id).state or ""'
            )
        )

    @property
    def servers(self) -> list[psutil.Process]:
        """The servers that Neovim started."""
        return [child for child in self._process.children() if is_alive(child)]
