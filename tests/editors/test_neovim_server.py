"""What Neovim does with the server: finding, starting, losing it, and what may not run."""

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from tests.editors.neovim import FAKE_SERVER, Neovim, lua, set_up

pytestmark = pytest.mark.e2e

Start = Callable[..., Neovim]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start Neovim in a folder of its own; it ends with the test."""
    project = tmp_path / "project"
    project.mkdir()
    with ExitStack() as stack:

        def started(lines: str, **variables: str) -> Neovim:
            neovim = Neovim(tmp_path / "home", lines, folder=project, **variables)
            stack.callback(neovim.close)
            return neovim

        yield started


@pytest.fixture
def fake(tmp_path: Path) -> Sequence[str]:
    """Return the command of a server whose answers say how long the text was."""
    return (*FAKE_SERVER, str(tmp_path / "engine.log"))


def log(tmp_path: Path) -> list[list[object]]:
    """Return what the fake engine did."""
    path = tmp_path / "engine.log"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def said_of(text: str) -> str:
    """Return what the fake engine says of a text; a model is not asked for spaces."""
    return f'"{len(text.rstrip())}"'


def put_on_path(folder: Path, command: Sequence[str]) -> str:
    """Make a program ``codegen-lsp`` that runs a command; return a PATH with its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "codegen-lsp"
    words = " ".join(f"'{word}'" for word in command)
    program.write_text(f'#!/bin/sh\nexec {words} "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def path_without_server(folder: Path) -> str:
    """Return a PATH that has what an editor needs and no server."""
    folder.mkdir()
    for name in ("sh", "env", "git"):
        if found := shutil.which(name):
            (folder / name).symlink_to(found)
    return str(folder)


def test_enabling_it_is_enough(start: Start, tmp_path: Path) -> None:
    """Neovim's own means, and codegen-lsp on PATH, give ghost text and Tab takes it."""
    command = (sys.executable, "-m", "lsp_server")
    path = put_on_path(tmp_path / "bin", command)
    # However busy the machine is.
    settings = lua({"settings": {"codegen": {"deadlineMs": 60_000}}})
    lines = f'vim.lsp.config("codegen_lsp", {settings}) vim.lsp.enable("codegen_lsp")'
    neovim = start(lines, PATH=path)
    file = neovim.begin("enabled.py", "# Count the words of a text.")
    neovim.type("<CR>")
    neovim.until_ghost()
    neovim.type("<Tab>")
    neovim.until(lambda: len(neovim.text.splitlines()) > 1)
    neovim.write()
    assert "def" in file.read_text(encoding="utf-8").splitlines()[1]


def test_what_follows_non_ascii_text(start: Start, fake: Sequence[str]) -> None:
    """Positions are right behind characters of several bytes and of two UTF-16 units."""
    neovim = start(set_up(fake))
    before = 'größe = "😀ä"; breite = é + '
    neovim.begin("größe 😀.py", before)
    ghost = neovim.until_ghost()
    assert ghost == said_of(before)
    neovim.type(f"{ghost[:2]}<Tab>")
    neovim.until_text(f"{before}{ghost}")


def test_a_slow_model_shows_no_stale_text(
    start: Start, fake: Sequence[str], tmp_path: Path
) -> None:
    """Whatever is on the screen was said of the text that is there, however slow it comes."""
    neovim = start(set_up(fake))
    neovim.begin("slow.py", "a = ")
    assert neovim.until_ghost() == said_of("a = ")
    # The engine goes on until it is stopped.
    neovim.type('"SLOW" + ')
    neovim.until(lambda: ["slow"] in log(tmp_path))
    assert not neovim.ghost
    neovim.type("1 + ")
    neovim.until(lambda: log(tmp_path).count(["slow"]) > 1)
    assert not neovim.ghost
    neovim.type("<C-u>bc = ")
    neovim.until_text("a = bc = ")
    assert neovim.until_ghost() == said_of("a = bc = ")


def test_each_answer_is_that_of_the_text_on_the_screen(
    start: Start, fake: Sequence[str]
) -> None:
    """While a person types on, no answer to an older text is seen for a moment."""
    neovim = start(set_up(fake))
    neovim.begin("typing.py", "x = ")
    neovim.until_ghost()
    for character in "1 + 2 + 3 + 4 + 5 + ":
        neovim.type(character)
        answered = neovim.n_answers
        while neovim.n_answers == answered and not neovim.ghost:
            continue
        text, ghost = neovim.seen
        # Inside a number another text is asked for.
        if text.endswith(" "):
            assert re.findall(r"\d+", ghost) in ([], re.findall(r"\d+", said_of(text)))


def test_a_server_that_was_killed_comes_back(start: Start, fake: Sequence[str]) -> None:
    """It is started again twice; the third time it is left alone, until a person wants it."""
    neovim = start(set_up(fake))
    neovim.begin("killed.py", "a = ")
    for _ in range(2):
        assert neovim.until_ghost() == said_of("a = ")
        neovim.type("<Esc>")
        server = neovim.until(lambda: neovim.servers)[0]
        server.kill()
        neovim.until_ended(server)
        neovim.until(lambda: neovim.servers)
        neovim.ready()
        neovim.type("A")
    assert neovim.until_ghost() == said_of("a = ")
    neovim.servers[0].kill()
    message = neovim.was_told("3 times in a row")
    assert ":CodegenLog" in message
    assert not neovim.servers
    assert not neovim.ghost
    neovim.type("<Esc>:CodegenRestart<CR>")
    neovim.ready()
    neovim.type("A")
    assert neovim.until_ghost() == said_of("a = ")


def test_restarting(start: Start, fake: Sequence[str]) -> None:
    """A person may start the server again; the old one is gone, and no end is complained of."""
    neovim = start(set_up(fake))
    neovim.begin("again.py", "a = ")
    neovim.until_ghost()
    [server] = neovim.servers
    neovim.type("<Esc>:CodegenRestart<CR>")
    neovim.until(lambda: server not in neovim.servers and neovim.servers)
    neovim.ready()
    neovim.type("A")
    assert neovim.until_ghost() == said_of("a = ")
    assert not [said for said in neovim.said if "ended" in said]


def test_a_server_that_does_not_start_is_said_once(start: Start) -> None:
    """A program that ends at once is tried three times, and :checkhealth says what it said."""
    failing = (sys.executable, "-c", "import sys; sys.exit('no such thing')", "serve")
    neovim = start(set_up(failing))
    neovim.edit("failing.py")
    neovim.was_told("3 times in a row")
    neovim.command("checkhealth codegen_lsp")
    assert "does not start: no such thing" in neovim.text
    assert "pipx install" in neovim.text


def test_a_missing_server_is_said_once_with_its_cure(start: Start, tmp_path: Path) -> None:
    """Two files, one message; it says what to install, and so does :checkhealth."""
    neovim = start(set_up(None), PATH=path_without_server(tmp_path / "bin"))
    neovim.edit("one.py")
    message = neovim.was_told("codegen-lsp is not on PATH")
    assert "pipx install codegen-lsp" in message
    neovim.edit("two.py")
    neovim.type("ia = 1")
    neovim.until_text("a = 1")
    assert neovim.said == [message]
    neovim.type("<Esc>:CodegenWhy<CR>")
    neovim.was_told("no server is attached")
    neovim.command("checkhealth codegen_lsp")
    assert "ERROR codegen-lsp is not on PATH" in neovim.text


def test_a_missing_model_is_said_once_with_its_cure(start: Start) -> None:
    """The message names the command that gets the model; another one answers meanwhile."""
    name = "codegen-6b-mono"
    neovim = start(set_up(settings={"model": name, "deadlineMs": 60_000}))
    neovim.begin("model.py", "# Count the words of a text.")
    message = neovim.was_told(f"the model {name} is not on this machine")
    assert f"codegen-lsp pull {name}" in message
    neovim.type("<CR>")
    neovim.until_ghost()
    neovim.type("<Esc>")
    assert len([said for said in neovim.said if name in said]) == 1
    neovim.command("checkhealth codegen_lsp")
    assert f"Run `codegen-lsp pull {name}`" in neovim.text


def test_no_model_at_all_is_said(start: Start, fake: Sequence[str]) -> None:
    """Where nothing can answer, the statusline says so, and :checkhealth what to do."""
    neovim = start(set_up(fake), NO_MODEL="1")
    neovim.edit("none.py")
    neovim.was_told("no model is loaded")
    neovim.until(lambda: neovim.status == "codegen: failed")
    neovim.command("checkhealth codegen_lsp")
    assert "ERROR no model answers" in neovim.text


def test_an_old_neovim_is_said(start: Start, fake: Sequence[str]) -> None:
    """Without inline completion nothing is started, and the message says what is needed."""
    old = """
        local has = vim.fn.has
        vim.fn.has = function(what) return what == "nvim-0.12" and 0 or has(what) end
    """
    neovim = start(old + set_up(fake))
    neovim.edit("old.py")
    neovim.was_told("Neovim 0.12 or newer is needed")
    neovim.command("checkhealth codegen_lsp")
    assert "ERROR Neovim 0.12 or newer is needed" in neovim.text
    assert not neovim.servers


def test_settings_reach_the_server(start: Start, fake: Sequence[str]) -> None:
    """What is set at the start holds, and what is set later too."""
    neovim = start(set_up(fake, settings={"languages": {"python": False}}))
    neovim.begin("off.py", "a = ")
    neovim.until(lambda: neovim.n_answers)
    assert not neovim.ghost
    neovim.type("<Esc>")
    neovim.lua(set_up(fake, settings={"languages": {"python": True}}))
    neovim.type("A")
    assert neovim.until_ghost() == said_of("a = ")
    neovim.type("<Esc>")
    with pytest.raises(Exception, match="there is no option model"):
        neovim.lua(set_up(fake, model="tiny"))


def test_keys_can_be_chosen(start: Start, fake: Sequence[str]) -> None:
    """Another key accepts, and one that is switched off stays what it was."""
    neovim = start(set_up(fake, keys={"accept": "<C-j>", "accept_word": False}))
    neovim.begin("keys.py", "a = ")
    ghost = neovim.until_ghost()
    neovim.type("<C-j>")
    neovim.until_text(f"a = {ghost}")
    assert neovim.call("maparg", "<M-w>", "i") == ""
    assert "codegen-lsp" not in str(neovim.call("maparg", "<Tab>", "i", False, True))


def test_a_hostile_folder_starts_nothing(start: Start, tmp_path: Path) -> None:
    """A server in the folder, on PATH or not, and files that name programs run nothing."""
    project = tmp_path / "project"
    was_run = tmp_path / "was run"
    touch = ("touch", str(was_run))
    path = put_on_path(project / ".venv" / "bin", touch)
    put_on_path(project / "bin", touch)
    for name in (".nvim.lua", ".exrc", ".codegen", ".codegen.lua", "codegen.toml"):
        (project / name).write_text(
            f'vim.lsp.config("codegen_lsp", {{ cmd = {{ "touch", "{was_run}" }} }})\n'
        )
    (project / ".vscode").mkdir()
    (project / ".vscode" / "settings.json").write_text('{"codegen.server": "bin/codegen-lsp"}')
    clean = path_without_server(tmp_path / "clean")
    for folders in (path, f".venv/bin:{clean}", f"./bin:{clean}", clean):
        neovim = start(set_up(None), PATH=folders)
        neovim.edit("opened.py")
        message = neovim.was_told("codegen-lsp")
        is_named = "so it is not started" in message
        assert is_named or "codegen-lsp is not on PATH" in message
        neovim.type("ia = ")
        neovim.until_text("a = ")
        neovim.type("<Esc>")
        assert not neovim.servers
        neovim.command("checkhealth codegen_lsp")
        assert "ERROR" in neovim.text
        assert not was_run.exists()


def test_a_trusted_program_of_the_folder_starts(
    start: Start, fake: Sequence[str], tmp_path: Path
) -> None:
    """What a person trusts is started, until it changes."""
    folder = tmp_path / "project" / ".venv" / "bin"
    path = put_on_path(folder, fake)
    neovim = start(set_up(None), PATH=path)
    neovim.edit("trusted.py", "a = ")
    message = neovim.was_told("so it is not started")
    assert f"{folder}/codegen-lsp" in message
    assert ":view it, then :trust, then :CodegenRestart" in message
    neovim.type(f":view {folder}/codegen-lsp<CR>:trust<CR>:buffer trusted.py<CR>")
    neovim.type(":CodegenRestart<CR>")
    neovim.ready()
    neovim.type("A")
    assert neovim.until_ghost() == said_of("a = ")
    neovim.type("<Esc>")
    put_on_path(folder, ("env", *fake))
    [server] = neovim.servers
    neovim.type(":CodegenRestart<CR>")
    neovim.until_ended(server)
    neovim.was_told("so it is not started")
    assert not neovim.servers


def test_the_server_ends_with_neovim(start: Start, fake: Sequence[str]) -> None:
    """Even a Neovim that is killed leaves no server behind."""
    neovim = start(set_up(fake))
    neovim.edit("end.py")
    neovim.ready()
    [server] = neovim.servers
    neovim.kill()
    psutil.wait_procs([server], timeout=60)
    assert not server.is_running()
