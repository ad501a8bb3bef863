"""VS Code as code-server in a headless Chromium, driven as a person would."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote
from urllib.request import urlopen

import psutil

from tests.editors.installed import EDITORS, ROOT, installed

DEADLINE_S = 60.0
_STOPPING_S = 10.0
_EXTENSION = "codegen-lsp.codegen-lsp"
_INSTALLED = EDITORS / "vscode"
_MODULES = _INSTALLED / "node_modules"
_ENTRY = _MODULES / "code-server" / "out" / "node" / "entry.js"
_DRIVER = Path(__file__).parent / "vscode" / "driver.mjs"
_SETTINGS = {
    # The embedded model knows little: what it writes is shown, whatever it is.
    "codegen.checkDeadlineMs": 0,
    "codegen.suggest": "eager",
    # And a busy machine is no failure.
    "codegen.deadlineMs": 20_000,
    # Measuring what a cache may be takes longer than a test.
    "codegen.kvCache": "float",
    "chat.disableAIFeatures": True,
    "extensions.autoCheckUpdates": False,
    "extensions.autoUpdate": False,
    "extensions.ignoreRecommendations": True,
    "git.enabled": False,
    "security.workspace.trust.banner": "never",
    "security.workspace.trust.startupPrompt": "never",
    "telemetry.telemetryLevel": "off",
    "workbench.secondarySideBar.defaultVisibility": "hidden",
    "workbench.startupEditor": "none",
    "workbench.tips.enabled": False,
}
_KEYS = [
    {"key": "ctrl+alt+l", "command": "editor.action.inlineSuggest.acceptNextLine"},
    {"key": "ctrl+alt+t", "command": "editor.action.inlineSuggest.trigger"},
]
"""VS Code has no keys of its own for these."""
Found = TypeVar("Found")


def wait_for(find: Callable[[], Found | None], what: str) -> Found:
    """Return what is found as soon as it is."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if found := find():
            return found
        time.sleep(0.02)
    raise AssertionError(f"after {DEADLINE_S} s there was no {what}")


class CodeServer:
    """A code-server with the extension, everything of it in one folder.

    No folder is trusted, as in any window that a person has not been asked about yet.
    """

    def __init__(self, folder: Path, path: Sequence[str] = ()) -> None:
        """Prepare the folder; ``path`` is what the PATH has before the system's programs."""
        node = next(installed(_MODULES).glob("node-linux-*/bin/node"))
        self.folder = folder
        self.path = path
        self.home = folder / "home"
        self.data = folder / "data"
        for part in (self.home, self.data / "User", self.data / "Machine"):
            part.mkdir(parents=True)
        (self.data / "User" / "settings.json").write_text(json.dumps(_SETTINGS))
        (self.data / "User" / "keybindings.json").write_text(json.dumps(_KEYS))
        self._command = [
            str(node),
            str(installed(_ENTRY)),
            *("--user-data-dir", str(self.data)),
            *("--extensions-dir", str(folder / "extensions")),
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()

    @property
    def environment(self) -> dict[str, str]:
        """Return what code-server and all that it starts know of the machine."""
        return {
            "PATH": os.pathsep.join((*self.path, "/usr/local/bin", "/usr/bin", "/bin")),
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(self.home),
            # No look-ups of other extensions.
            "EXTENSIONS_GALLERY": "{}",
            # Whoever would reach for a network notices.
            "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
            "PIP_NO_COMPILE": "1",
        }

    def install(self, extension: Path) -> None:
        """Install an extension from a file."""
        command = [*self._command, "--install-extension", str(extension)]
        subprocess.run(command, env=self.environment, capture_output=True, check=True)

    def start(self) -> None:
        """Start, and wait until it answers."""
        options = (
            *("--bind-addr", f"127.0.0.1:{self.port}", "--auth", "none"),
            *("--disable-telemetry", "--disable-update-check"),
            "--disable-getting-started-override",
        )
        with (self.folder / "code-server.log").open("wb") as log:
            self._process = subprocess.Popen(
                [*self._command, *options],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Its children are ended with it.
                start_new_session=True,
            )
        wait_for(self._is_up, "code-server")

    def stop(self) -> None:
        """End it, and whatever it started."""
        if self._process is None:
            return
        for kind in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, kind)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOPPING_S)

    @property
    def servers(self) -> list[psutil.Process]:
        """Return the language servers that it started."""
        if self._process is None:
            return []
        children = psutil.Process(self._process.pid).children(recursive=True)
        return [child for child in children if _is_server(child)]

    def set_machine(self, **settings: Any) -> None:
        """Set what a person sets for this machine alone; in a keyword ``_`` is a dot."""
        named = {f"codegen.{key.replace('_', '.')}": value for key, value in settings.items()}
        file = self.data / "Machine" / "settings.json"
        written = file.with_suffix(".new")
        written.write_text(json.dumps(named))
        # Nobody reads half of it.
        written.rename(file)

    def url(self, folder: Path, file: Path) -> str:
        """Return where a folder is open, and a file in it."""
        uri = f"vscode-remote://127.0.0.1:{self.port}{quote(str(file))}"
        payload = quote(json.dumps([["openFile", uri]]))
        return f"http://127.0.0.1:{self.port}/?folder={quote(str(folder))}&payload={payload}"

    def _is_up(self) -> bool:
        with suppress(OSError), urlopen(f"http://127.0.0.1:{self.port}/healthz") as answer:
            return bool(answer.status == 200)
        return False


class Window:
    """A window of VS Code, seen and typed into."""

    def __init__(self, server: CodeServer) -> None:
        """Start the browser."""
        self._server = server
        self._n_failures = 0
        self._process = subprocess.Popen(
            ["node", str(_DRIVER), str(_INSTALLED), str(server.home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        """End the browser."""
        with self._process as process:
            assert process.stdin is not None
            process.stdin.close()

    def call(self, method: str, *args: object) -> Any:
        """Have the driver do something and return its answer."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"method": method, "args": args}) + "\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        if "error" in answer:
            self._n_failures += 1
            self.screenshot(f"failure{self._n_failures}")
            raise AssertionError(f"{method} {args}: {answer['error']}")
        return answer["result"]

    def open(self, folder: Path, file: Path) -> None:
        """Open a folder and a file of it, in place of what is open."""
        self.call("open", self._server.url(folder, file))
        self.wait(f"seen.editor({_js(file.name)}) !== null")

    def show(self, file: Path) -> None:
        """Show a file and put the cursor at its end."""
        self.open_quickly(file)
        self.wait(f"seen.isTypingIn({_js(file.name)})")
        self.press("Control+End")

    def open_quickly(self, file: Path) -> None:
        """Open a file by its path."""
        self._choose("Control+P", str(file), file.name)

    def run(self, title: str) -> None:
        """Run a command of the palette by its title."""
        self._choose("F1", title, title)

    def _choose(self, key: str, typed: str, shown: str) -> None:
        self.press(key)
        self.wait("seen.isListOpen()")
        self.call("insert", typed)
        self.wait(f"seen.isFocusedInList({_js(shown)})")
        self.press("Enter")
        self.wait("!seen.isListOpen()")

    def choose_in_menu(self, *labels: str) -> None:
        """Open the context menu and choose an entry, through its submenus."""
        self.press("Shift+F10")
        for n, label in enumerate(labels):
            self.wait(f"seen.menus().length > {n}")
            while label not in self.evaluate(f"seen.focusedInMenu({n})"):
                self.press("ArrowDown")
            self.press("Enter")
        self.wait("seen.menus().length === 0")

    def type(self, text: str) -> None:
        """Type, a key at a time."""
        self.call("type", text)

    def press(self, *keys: str) -> None:
        """Press keys, named as playwright does."""
        for key in keys:
            self.call("press", key)

    def click(self, selector: str, text: str | None = None) -> None:
        """Click on the first element that matches, and has a text."""
        self.call("click", selector, text)

    def wait(self, expression: str) -> Any:
        """Return what an expression is in the page as soon as it is true."""
        return self.call("wait", expression, 1000 * DEADLINE_S)

    def evaluate(self, expression: str) -> Any:
        """Return what an expression is in the page now."""
        return self.call("evaluate", expression)

    @property
    def ghost(self) -> str:
        """Return the ghost text on the screen."""
        return str(self.evaluate("seen.ghost()"))

    def wait_for_ghost(self, text: str = "") -> str:
        """Return the ghost text as soon as there is one that holds a text, and stays."""
        return self._wait_for_ghost(lambda ghost: text in ghost)

    def wait_for_rest(self, of: str) -> str:
        """Return the ghost text as soon as it is the end of one."""
        return self._wait_for_ghost(lambda ghost: ghost != of and of.endswith(ghost))

    def _wait_for_ghost(self, is_it: Callable[[str], bool]) -> str:
        def settled() -> str | None:
            ghost = str(self.evaluate("seen.settledGhost()"))
            return ghost if ghost and is_it(ghost) else None

        return wait_for(settled, "such ghost text")

    def press_and_look(self, key: str) -> str:
        """Press a key, as a person does again who sees no change; return what is there then."""
        before = self.evaluate("seen.settledGhost()")
        self.press(key)
        return str(self.evaluate(f"seen.otherGhost({_js(before)})"))

    def wait_for_no_ghost(self) -> None:
        """Wait until there is none."""
        self.wait("seen.ghost() === ''")

    @property
    def text(self) -> str:
        """Return what can be seen of the file."""
        return str(self.evaluate("seen.text()"))

    def wait_for_status(self, *words: str, but_not: str = "\0") -> str:
        """Return what the status bar says of us as soon as it holds all words."""
        found = f"{_js(words)}.every((word) => seen.status().includes(word))"
        self.wait(f"!seen.status().includes({_js(but_not)}) && {found}")
        return str(self.evaluate("seen.status()"))

    @property
    def messages(self) -> list[str]:
        """Return the notifications on the screen."""
        return list(self.evaluate("seen.messages()"))

    def wait_for_message(self, text: str) -> None:
        """Wait for a notification that holds a text."""
        self.wait(f"seen.messages().some((message) => message.includes({_js(text)}))")

    def clear_messages(self) -> None:
        """Take all notifications away."""
        self.run("Notifications: Clear All Notifications")
        self.wait("seen.messages().length === 0")

    def answer_message(self, button: str) -> None:
        """Press a button of a notification."""
        self.click(".notification-list-item-buttons-container .monaco-button", button)

    def save(self, file: Path, holds: str) -> str:
        """Save, and return the file as soon as it holds a text."""
        self.press("Control+S")

        def saved() -> str | None:
            text = file.read_text(encoding="utf-8")
            return text if holds in text else None

        return wait_for(saved, f"{holds!r} in {file.name}")

    def screenshot(self, name: str) -> None:
        """Keep a picture of the window."""
        folder = EDITORS / "screenshots"
        folder.mkdir(parents=True, exist_ok=True)
        self.call("screenshot", str(folder / f"vscode-{name}.png"))

    @property
    def outside(self) -> list[str]:
        """Return the places beyond this machine that the page asked for."""
        return list(self.call("outside"))


@contextmanager
def windows(server: CodeServer) -> Iterator[Window]:
    """Yield a window, and end the browser after it."""
    window = Window(server)
    try:
        yield window
    finally:
        window.close()


def vsix() -> Path:
    """Return the extension, built where it is not built yet."""
    subprocess.run(
        ["make", "--silent", "vsix"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
    )
    return ROOT / "dist" / "codegen-lsp.vsix"


def _js(value: object) -> str:
    return json.dumps(value)


def _is_server(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return {"lsp_server", "serve"} <= set(process.cmdline())
    return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])
