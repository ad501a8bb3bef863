"""Typing in a real Neovim, with the real server and the embedded model."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.editors import figures
from tests.editors.neovim import DEBOUNCE_MS, Neovim, set_up

pytestmark = pytest.mark.e2e

PROGRAM = "# Count the words of a text."
"""The embedded model's program for it has several lines."""
LINES = (
    "import ",
    "from os import ",
    "for name in os.",
    "def read(path",
    "class Reader(",
    "with open(",
    "path = os.path.",
    "if os.path.",
    "names = [n for n in ",
    "print(os.",
)
"""What is suggested after the last character of each is timed."""
# What is shown depends on no clock.
SETTINGS = {
    "suggest": "eager",
    "checkDeadlineMs": 0,
    "deadlineMs": 60_000,
    "maxNewTokens": 64,
}


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Neovim]:
    """One Neovim for all tests here, as a person has one for all files."""
    folder = tmp_path_factory.mktemp("neovim")
    project = folder / "project"
    project.mkdir()
    neovim = Neovim(folder / "home", set_up(settings=SETTINGS), folder=project)
    try:
        yield neovim
    finally:
        neovim.close()


@pytest.fixture
def neovim(started: Neovim) -> Iterator[Neovim]:
    """Neovim without files and messages; what a test leaves is thrown away."""
    started.lua("_G.said = {}")
    yield started
    started.type("<Esc>")
    started.command("silent %bwipeout!")


def test_a_comment_brings_its_program_and_tab_takes_it(neovim: Neovim) -> None:
    """Ghost text is on the screen alone until Tab; then the file on disk holds it."""
    path = neovim.begin("tab.py", PROGRAM)
    neovim.type("<CR>")
    ghost = neovim.until_ghost()
    assert "\n" in ghost
    assert neovim.text == f"{PROGRAM}\n"
    neovim.type("<Tab>")
    neovim.until_text(f"{PROGRAM}\n{ghost}")
    neovim.write()
    assert path.read_text(encoding="utf-8") == f"{PROGRAM}\n{ghost}\n"


def test_words_are_taken_one_by_one(neovim: Neovim) -> None:
    """Each press takes a word, the rest stays on the screen, and all words are the whole."""
    neovim.begin("words.py", PROGRAM)
    neovim.type("<CR>")
    whole = neovim.until_ghost()
    taken = ""
    for word in ("def", " _get_text_text", "(", "text", ":", " str"):
        neovim.type("<M-w>")
        taken += word
        neovim.until_text(f"{PROGRAM}\n{taken}")
        assert neovim.ghost == whole.removeprefix(taken)


def test_lines_are_taken_one_by_one(neovim: Neovim) -> None:
    """Each press takes the rest of a line, or the line below."""
    neovim.begin("lines.py", PROGRAM)
    neovim.type("<CR>")
    whole = neovim.until_ghost()
    first, second, *_ = whole.split("\n")
    neovim.type("<M-l>")
    neovim.until_text(f"{PROGRAM}\n{first}")
    assert neovim.ghost == whole.removeprefix(first)
    neovim.type("<M-l>")
    neovim.until_text(f"{PROGRAM}\n{first}\n{second}")
    assert neovim.ghost == whole.removeprefix(f"{first}\n{second}")
    neovim.type("<Tab>")
    neovim.until_text(f"{PROGRAM}\n{whole}")


def test_typing_along_keeps_the_rest(neovim: Neovim) -> None:
    """Whoever types what is suggested sees the rest of it after each key, and no blink."""
    neovim.begin("along.py", PROGRAM)
    neovim.type("<CR>")
    whole = neovim.until_ghost()
    for end in range(1, 12):
        neovim.type(whole[end - 1])
        neovim.until_typed(whole[:end])
        assert neovim.ghost == whole[end:]
    asked = neovim.n_answers
    neovim.until_answered(asked)
    assert neovim.ghost == whole[11:]
    neovim.type("<Tab>")
    neovim.until_text(f"{PROGRAM}\n{whole}")


def test_tab_right_after_typing_writes_nothing_twice(neovim: Neovim) -> None:
    """Keys that come faster than Neovim draws are taken off the suggestion all the same."""
    neovim.begin("fast.py", PROGRAM)
    neovim.type("<CR>")
    whole = neovim.until_ghost()
    neovim.type(f"{whole[:5]}<Tab>")
    neovim.until_text(f"{PROGRAM}\n{whole}")


def test_typing_something_else_takes_it_away_at_once(neovim: Neovim) -> None:
    """Text that no longer fits is gone with the key, not with the next answer."""
    neovim.begin("else.py", PROGRAM)
    neovim.type("<CR>")
    neovim.until_ghost()
    neovim.type("~")
    neovim.until_typed("~")
    assert not neovim.ghost


def test_escape_hides_it(neovim: Neovim) -> None:
    """Leaving insert mode takes the suggestion away, and entering it brings it back."""
    neovim.begin("escape.py", PROGRAM)
    neovim.type("<CR>")
    ghost = neovim.until_ghost()
    neovim.type("<Esc>")
    neovim.until(lambda: not neovim.ghost)
    assert neovim.text == f"{PROGRAM}\n"
    neovim.type("A")
    assert neovim.until_ghost() == ghost


def test_it_can_be_dismissed(neovim: Neovim) -> None:
    """What was dismissed is gone while insert mode goes on, and typing asks anew."""
    neovim.begin("dismissed.py", PROGRAM)
    neovim.type("<CR>")
    ghost = neovim.until_ghost()
    neovim.type("<M-d>")
    neovim.until(lambda: not neovim.ghost)
    assert neovim.call("mode") == "i"
    neovim.type(ghost[0])
    assert neovim.until_ghost() == ghost[1:]


def test_candidates_cycle(neovim: Neovim) -> None:
    """One key asks for more than one and goes on to the next, another goes back."""
    text = "# Add two numbers."
    neovim.begin("candidates.py", text)
    neovim.type("<CR>")
    first = neovim.until_ghost()
    neovim.type("<M-n>")
    second = neovim.until_ghost(lambda ghost: ghost != first)
    neovim.type("<M-p>")
    neovim.until_ghost(lambda ghost: ghost == first)
    neovim.type("<M-p>")
    neovim.until_ghost(lambda ghost: ghost != first)
    neovim.type("<M-n>")
    neovim.until_ghost(lambda ghost: ghost == first)
    neovim.type("<M-n><Tab>")
    neovim.until_text(f"{text}\n{second}")


def test_asking_needs_no_suggestion_before(neovim: Neovim) -> None:
    """The key for the next candidate asks where nothing is shown."""
    neovim.begin("asked.py", PROGRAM)
    neovim.type("<CR>")
    ghost = neovim.until_ghost()
    neovim.type("<M-d>")
    neovim.until(lambda: not neovim.ghost)
    neovim.type("<M-n>")
    assert neovim.until_ghost() == ghost


def test_all_turns_are_written(neovim: Neovim) -> None:
    """One command fills a file, and undo takes back what it wrote."""
    turns = ["# Import os.", "# Print the names of the files.", "# Print hello."]
    path = neovim.edit("turns.py", "\n\n".join(turns) + "\n")
    neovim.ready()
    neovim.type("gg:CodegenWriteAllTurns<CR>")
    for turn in turns:
        neovim.until_written(turn)
    neovim.until(lambda: not neovim.is_writing)
    neovim.write()
    written = path.read_text(encoding="utf-8")
    assert [line for line in written.splitlines() if line.startswith("#")] == turns
    compile(written, str(path), "exec")


def test_a_turn_is_written_and_written_anew(neovim: Neovim) -> None:
    """A program is another one's place only after a person said yes."""
    turn = "# Print hello."
    neovim.edit("turn.py", f"{turn}\n")
    neovim.ready()
    neovim.type("gg:CodegenWriteTurn<CR>")
    first = neovim.until_written(turn)
    neovim.until(lambda: not neovim.is_writing)
    neovim.type(":CodegenRewriteTurn<CR>")
    neovim.until(lambda: neovim.is_asking)
    neovim.type("y")
    neovim.until(lambda: neovim.program_of(turn) not in ("", first))


def test_two_files_have_one_server(neovim: Neovim) -> None:
    """Files of two projects are completed, each its own, by one model in one process."""
    other = neovim.folder.parent / "other"
    (other / ".git").mkdir(parents=True)
    (neovim.folder / ".git").mkdir(exist_ok=True)
    neovim.begin("one.py", PROGRAM)
    neovim.type("<CR>")
    ghost = neovim.until_ghost()
    neovim.type("<Esc>")
    neovim.begin("../other/two.py", "# Add two numbers.")
    neovim.type("<CR>")
    assert neovim.until_ghost() != ghost
    neovim.type("<Esc>")
    neovim.command("buffer one.py")
    neovim.type("GA")
    assert neovim.until_ghost() == ghost
    assert len(neovim.servers) == 1
    folders = neovim.lua("return vim.lsp.get_clients()[1].workspace_folders")
    assert {Path(folder["name"]) for folder in folders} >= {neovim.folder, other}


def test_off_and_on(neovim: Neovim) -> None:
    """Off means that nobody is asked; on brings suggestions back, in new files too."""
    neovim.begin("off.py", PROGRAM)
    neovim.type("<CR>")
    ghost = neovim.until_ghost()
    neovim.type("<Esc>:CodegenToggle<CR>")
    neovim.was_told("suggestions are off")
    assert neovim.status == "codegen: off"
    neovim.edit("off too.py", PROGRAM)
    neovim.type("A<CR>")
    is_asking = "return vim.lsp.inline_completion.is_enabled({ bufnr = 0, client_id = ... })"
    client = neovim.lua("return vim.lsp.get_clients({ bufnr = 0 })[1].id")
    assert not neovim.lua(is_asking, client)
    assert not neovim.ghost
    neovim.type("<Esc>:CodegenToggle<CR>")
    neovim.was_told("suggestions are on")
    neovim.type("A")
    assert neovim.until_ghost() == ghost


def test_keys_do_what_they_did_where_there_is_no_suggestion(neovim: Neovim) -> None:
    """Tab is a tab, a person's mapping, or the menu's, unless there is something to take."""
    neovim.edit("keys.txt")
    neovim.command("setfiletype python")
    neovim.command("setlocal noexpandtab")
    neovim.ready()
    neovim.type("i<Tab>")
    neovim.until_text("\t")
    neovim.command("inoremap <Tab> mapped")
    neovim.type("<Tab>")
    neovim.until_text("\tmapped")
    neovim.lua('vim.keymap.set("i", "<Tab>", function() return "<BS>+" end, { expr = true })')
    neovim.type("<Tab>")
    neovim.until_text("\tmappe+")
    neovim.command("iunmap <Tab>")
    neovim.type("<C-u>alpha<CR>alpine<CR>al<C-x><C-n>")
    neovim.until(lambda: neovim.call("pumvisible"))
    chosen = neovim.before_cursor
    neovim.type("<Tab>")
    neovim.until_typed(f"{chosen}\t")


def test_undo_takes_back_what_was_accepted(neovim: Neovim) -> None:
    """One u after an accepted suggestion leaves what was typed before it."""
    neovim.begin("undo.py", PROGRAM)
    neovim.type("<CR>")
    ghost = neovim.until_ghost()
    neovim.type("<Tab>")
    neovim.until_text(f"{PROGRAM}\n{ghost}")
    neovim.type("<Esc>u")
    neovim.until_text(f"{PROGRAM}\n")


def test_what_the_server_says_of_itself(neovim: Neovim) -> None:
    """The statusline names the model, Why a reason, and the log what was done, without text."""
    neovim.begin("said.py", "# secret\n\n")
    answered = neovim.n_answers
    neovim.type('"in a string')
    neovim.until_answered(answered)
    assert "codegen-tiny" in neovim.status
    neovim.type("<Esc>:CodegenWhy<CR>")
    neovim.was_told("no suggestion, because")
    neovim.command("CodegenLog")
    assert "model codegen-tiny is ready" in neovim.text
    assert "secret" not in neovim.text
    neovim.command("close")


def test_the_doctor_finds_nothing_wrong(neovim: Neovim) -> None:
    """:checkhealth has no warning where all is well."""
    neovim.begin("health.py", PROGRAM)
    neovim.type("<Esc>")
    neovim.command("checkhealth codegen_lsp")
    report = neovim.text
    assert "codegen-tiny answers" in report
    assert "WARNING" not in report
    assert "ERROR" not in report
    neovim.command("bwipeout")


def test_from_a_key_to_ghost_text(
    neovim: Neovim, record_property: figures.RecordProperty
) -> None:
    """How long a suggestion takes above Neovim's own wait is reported, and never asserted."""
    above = []
    for number, line in enumerate(LINES):
        neovim.begin(f"latency{number}.py", f"import os\n\n{line[:-1]}")
        answered = neovim.n_answers
        neovim.until_answered(answered)
        neovim.type("<M-d>")
        neovim.until(lambda: not neovim.ghost)
        answered, started = neovim.n_answers, time.perf_counter()
        neovim.type(line[-1])
        neovim.until_answered(answered)
        if neovim.ghost:
            above.append(1e3 * (time.perf_counter() - started) - DEBOUNCE_MS)
        neovim.type("<Esc>")
    assert above
    what = "Neovim: from a key to ghost text, above its own 200 ms"
    figures.record(record_property, what, above)
