"""Neovim in a terminal, as a person has it: what they type, and what is on the screen."""

from pathlib import Path

import pytest

from lsp_server.errors import ModelNotFoundError
from lsp_server.models import exported_folder
from tests.editors.installed import installed
from tests.editors.neovim import NEOVIM, environment, set_up, wait_for, write_init
from tests.editors.terminal import Terminal, take_picture

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(
    ("model", "comment"),
    [
        ("tiny", "# Count the words of a text."),
        ("smollm2-135m", "# Return the mean of a list of numbers."),
    ],
)
def test_a_person_types_a_comment_and_presses_tab(
    model: str, comment: str, tmp_path: Path
) -> None:
    """Ghost text shows dimmed below the comment; Tab and :w put it into the file."""
    try:
        exported_folder(model)
    except ModelNotFoundError as error:
        pytest.skip(str(error))
    project, home = tmp_path / "project", tmp_path / "home"
    project.mkdir()
    settings = {"model": model, "suggest": "eager", "deadlineMs": 60_000, "checkDeadlineMs": 0}
    init = write_init(
        home,
        "vim.opt.termguicolors = true\n"
        "vim.opt.laststatus = 2\n"
        "vim.opt.statusline = \"%f %=%{v:lua.require'codegen_lsp'.status()} \"\n"
        + set_up(settings=settings),
    )
    command = [str(installed(NEOVIM)), "--clean", "-n", "-u", str(init), "words.py"]
    terminal = Terminal(tmp_path / "tmux", command, project, environment(home))
    try:
        wait_for(lambda: is_ready(terminal))
        terminal.type(f"i{comment}")
        terminal.press("Enter")
        wait_for(lambda: ghost(terminal, comment))
        shown = ghost(terminal, comment)
        assert not (project / "words.py").exists()
        take_picture(terminal, f"neovim-{model}")
        terminal.press("Tab")
        terminal.press("Escape")
        terminal.type(":w")
        terminal.press("Enter")
        file = project / "words.py"
        written = wait_for(lambda: file.exists() and file.read_text(encoding="utf-8"))
        assert isinstance(written, str)
        assert written.startswith(f"{comment}\n{shown[0]}")
    finally:
        terminal.close()


def is_ready(terminal: Terminal) -> bool:
    """Tell whether the statusline has a file and a model, and nothing that it does."""
    words = [line.split() for line in terminal.screen.splitlines() if "words.py" in line]
    return bool(words) and len(words[0]) == 2


def ghost(terminal: Terminal, comment: str) -> list[str]:
    """Return the lines below the comment."""
    lines = terminal.screen.splitlines()
    below = lines[lines.index(comment) + 1 :] if comment in lines else []
    return [line.rstrip() for line in below[:-2] if line.strip() not in ("", "~")]
