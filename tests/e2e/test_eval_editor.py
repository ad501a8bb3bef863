"""The editor of evaluations, on the real server over a fake engine."""

import sys
from pathlib import Path

import pytest

from model_eval.editor import Editor
from model_eval.errors import ServerError
from model_eval.hole_run import SERVER_SETTINGS
from tests.e2e.clients import FAKE_SERVER

pytestmark = pytest.mark.e2e

TEXT = "x = 1\n"


def fake_editor(folder: Path, model: str = "fake") -> Editor:
    """Return an editor whose server logs what its engine does."""
    command = [*FAKE_SERVER, str(folder / "log")]
    return Editor(command, SERVER_SETTINGS, model, folder)


def test_the_first_item_at_the_cursor(tmp_path: Path) -> None:
    """The whole text is sent, characters are counted as LSP does, and an item is put in."""
    before = f"# ä𝄞\n{TEXT}y = '𝄞' + "
    with fake_editor(tmp_path) as editor:
        item = editor.complete(tmp_path / "é.py", f"{before}\nz = 2\n", len(before))
        again = editor.complete(tmp_path / "é.py", f"{before}\n", len(before))
    # The engine answers with the length of what it goes on from, which ends before the space.
    assert item.insert_text == f'"{len(before) - 1}"'
    assert item.applied(f"{before}\nz = 2\n") == f"{before}{item.insert_text}\nz = 2\n"
    assert again.insert_text == item.insert_text
    assert not item.is_late


def test_what_the_clock_cut_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A late answer is asked for again a few times, and then says that it is one."""
    monkeypatch.setattr("model_eval.editor._LATE_S", 0.0)
    monkeypatch.setattr("model_eval.editor._OTHER_TEXTS", ())
    with fake_editor(tmp_path) as editor:
        item = editor.complete(tmp_path / "a.py", f"{TEXT}y = \n", len(f"{TEXT}y = "))
    assert item.insert_text
    assert item.is_late


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ((sys.executable, "-c", "raise SystemExit(3)"), "code: 3|status 3"),
        (("no-such-server",), "no-such-server"),
    ],
)
def test_a_server_that_does_not_start(
    tmp_path: Path, command: tuple[str, ...], reason: str
) -> None:
    """It is one error that names the command, and nothing is left running."""
    editor = Editor(command, SERVER_SETTINGS, "fake", tmp_path)
    with pytest.raises(ServerError, match=reason), editor:
        pass


def test_another_model_is_not_measured(tmp_path: Path) -> None:
    """While a model cannot be had another answers, whose answers say nothing of it."""
    with (
        pytest.raises(ServerError, match="not ready with other"),
        fake_editor(tmp_path, "other"),
    ):
        pass
