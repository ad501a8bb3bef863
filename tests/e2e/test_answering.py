"""Answers in time, and what explains and counts them, on the real server."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from lsprotocol import types

from lsp_server.acceptance import read_counts
from tests.e2e.clients import (
    DEADLINE_S,
    FAKE_SERVER,
    URI,
    Client,
    answered,
    capabilities,
    connected,
)

pytestmark = pytest.mark.e2e

_PARTS = "PARTS = 1\n\n# Do it.\n"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Return the file that the fake engine logs to."""
    return tmp_path / "engine.log"


def _has_event(log: Path, name: str) -> bool | None:
    lines = log.read_text().splitlines() if log.exists() else []
    return any(json.loads(line)[0] == name for line in lines) or None


def _text(items: list[types.InlineCompletionItem]) -> str:
    return "".join(str(item.insert_text) for item in items)


async def _command(client: Client, name: str, *arguments: Any) -> Any:
    params = types.ExecuteCommandParams(name, list(arguments))
    asked = client.lsp.workspace_execute_command_async(params)
    return await asyncio.wait_for(asked, DEADLINE_S)


async def _why(client: Client, *uri: str) -> str:
    reason = await _command(client, "codegen.whyNoSuggestion", *uri)
    assert isinstance(reason, str)
    return reason


async def test_names_are_asked_for_as_soon_as_a_dot_is_typed(log: Path) -> None:
    """The analyser works in the time that an editor waits before it asks for a completion."""
    async with connected([*FAKE_SERVER, str(log)]) as client:
        client.open("import os\nos\n")
        client.insert(1, 2, ".")
        await client.until(lambda: _has_event(log, "names"))


async def test_tab_tab_tab(log: Path) -> None:
    """The deadline is answered with whole lines while the model writes; the rest follows."""
    async with connected([*FAKE_SERVER, str(log)], options={"deadlineMs": 50}) as client:
        await client.status("ready")
        client.open(_PARTS)
        await client.items(3, 0, invoked=False)
        await client.until(lambda: _has_event(log, "first part"))
        # The model is held, and the answer is there.
        assert _text(await client.items(3, 0, invoked=False)) == "a = 1"
        client.insert(3, 0, "a = 1")
        assert await client.items(3, 5, invoked=False) == []
        assert "still being written" in await _why(client)
        log.with_suffix(".release").touch()
        async with asyncio.timeout(DEADLINE_S):
            while not (rest := await client.items(3, 5, invoked=False)):
                pass
        assert _text(rest) == "\nb = 2"
        assert len(log.read_text().splitlines()) == 1


async def test_one_line_at_a_time(log: Path) -> None:
    """Where that is wanted, the next line comes once the first is accepted, and is known."""
    options = {"lines": "single"}
    log.with_suffix(".release").touch()
    async with connected([*FAKE_SERVER, str(log)], options=options) as client:
        await client.status("ready")
        client.open(_PARTS)
        assert _text(await client.items(3, 0, invoked=False)) == "a = 1"
        client.insert(3, 0, "a = 1")
        assert _text(await client.items(3, 5, invoked=False)) == "\nb = 2"
        assert len(log.read_text().splitlines()) == 1
        client.open(_PARTS, "file:///other.py")
        items = await client.items(3, 0, uri="file:///other.py")
        assert _text(items) == "a = 1\nb = 2"


@pytest.mark.parametrize("invoked", [True, False])
async def test_comments_are_completed_where_that_is_asked_for(log: Path, invoked: bool) -> None:
    """The setting holds for both kinds of requests, from the next one on."""
    async with connected([*FAKE_SERVER, str(log)]) as client:
        await client.status("ready")
        client.open("# Do\n")
        assert await client.items(0, 4, invoked=invoked) == []
        assert "in a comment" in await _why(client)
        client.lsp.workspace_did_change_configuration(
            types.DidChangeConfigurationParams({"codegen": {"inComments": True}})
        )
        assert await client.items(0, 4, invoked=invoked) != []


async def test_a_setting_that_is_taken_back_is_the_default_again(log: Path) -> None:
    """A client that tells of no settings any more has none."""
    off = {"languages": {"python": False}}
    async with connected([*FAKE_SERVER, str(log)], configuration=off) as client:
        await client.status("ready")
        client.open("# Step.\n")
        assert await client.items(1, 0) == []
        client.lsp.set_configuration({"codegen": {}})
        client.lsp.workspace_did_change_configuration(types.DidChangeConfigurationParams(None))
        async with asyncio.timeout(DEADLINE_S):
            while not await client.items(1, 0):
                pass


async def test_another_edit_stops_what_goes_on(log: Path) -> None:
    """The rest of an answer that nobody can want any more is not written."""
    async with connected([*FAKE_SERVER, str(log)], options={"deadlineMs": 50}) as client:
        await client.status("ready")
        client.open(_PARTS)
        await client.items(3, 0, invoked=False)
        await client.until(lambda: _has_event(log, "first part"))
        client.insert(3, 0, "b")
        assert await client.until(lambda: _has_event(log, "stopped"))


async def test_a_model_that_takes_long_is_seen_to_think(log: Path) -> None:
    """A slow answer gives a sign of life, and its end another."""
    async with connected([*FAKE_SERVER, str(log)]) as client:
        await client.status("ready")
        client.open(_PARTS)
        pending = client.request(3, 0)
        await client.until(lambda: client.is_thinking or None)
        log.with_suffix(".release").touch()
        assert await answered(pending) != []
        await client.until(lambda: None if client.is_thinking else True)
        assert client.n_thoughts == 1


async def test_an_explicit_request_waits_for_the_whole_text(log: Path) -> None:
    """Who asks explicitly is not answered in part, whatever the deadline."""
    async with connected([*FAKE_SERVER, str(log)], options={"deadlineMs": 50}) as client:
        await client.status("ready")
        client.open(_PARTS)
        pending = client.request(3, 0)
        await client.until(lambda: _has_event(log, "first part"))
        log.with_suffix(".release").touch()
        assert _text(await answered(pending)) == "a = 1\nb = 2"


async def test_an_explicit_request_is_not_waited_for_for_ever(log: Path) -> None:
    """A model that is slow beyond all patience is answered for by what stands."""
    env = {"INVOKED_S": "0.1"}
    async with connected([*FAKE_SERVER, str(log)], env=env) as client:
        await client.status("ready")
        client.open(_PARTS)
        assert _text(await client.items(3, 0)) in ("", "a = 1")
        await client.until(lambda: _has_event(log, "first part"))
        assert _has_event(log, "stopped") is None
        log.with_suffix(".release").touch()
        async with asyncio.timeout(DEADLINE_S):
            while not (rest := await client.items(3, 0, invoked=False)):
                pass
        assert _text(rest).startswith("a = 1")


async def test_the_item_that_is_selected_in_the_menu_is_gone_on_with(log: Path) -> None:
    """What is suggested begins with the selected text, and takes the place of its range."""
    async with connected([*FAKE_SERVER, str(log)]) as client:
        await client.status("ready")
        client.open("x = val")
        selected = types.Range(types.Position(0, 4), types.Position(0, 7))
        params = types.InlineCompletionParams(
            types.InlineCompletionContext(
                types.InlineCompletionTriggerKind.Automatic,
                types.SelectedCompletionInfo(selected, "values + "),
            ),
            types.TextDocumentIdentifier(URI),
            types.Position(0, 7),
        )
        asked = client.lsp.text_document_inline_completion_async(params)
        answer = await asyncio.wait_for(asked, DEADLINE_S)
        assert isinstance(answer, types.InlineCompletionList)
        (item,) = answer.items
        assert item.range == selected
        assert item.insert_text == f'values + "{len("x = values +")}"'


async def test_why_there_is_no_suggestion(log: Path) -> None:
    """The rule that gave the last empty answer is named, for each document by itself."""
    other = "file:///other.py"
    async with connected([*FAKE_SERVER, str(log)]) as client:
        await client.status("ready")
        assert client.server.execute_command_provider is not None
        assert "codegen.whyNoSuggestion" in client.server.execute_command_provider.commands
        client.open("val = 1\n", uri=other)
        client.open("x = ")
        assert "nothing was asked" in await _why(client, URI)
        assert await client.items(0, 2, uri=other) == []
        assert await client.items(0, 4)
        assert "inside a word" in await _why(client, other)
        assert "not empty" in await _why(client)
        assert "inside a word" in client.lsp.messages[1].message


async def test_a_flagged_completion_is_named_by_its_code() -> None:
    """Whoever misses a suggestion learns what the check says, without the text."""
    text = (
        "class Account:\n    def __init__(self, owner, balance):\n        # Store the owner.\n"
    )
    options = {"checkDeadlineMs": 10_000, "deadlineMs": 60_000, "candidates": 1}
    async with connected(options=options) as client:
        client.open(text)
        await client.status("ready")
        assert await client.items(3, 0)
        assert await client.items(3, 0, invoked=False) == []
        assert "(undefined-name)" in await _why(client)


async def test_what_the_model_is_unsure_of_is_for_those_who_ask() -> None:
    """Unasked it is hidden, and the reason is named; asked for it stays as it is typed."""
    options = {"checkDeadlineMs": 0, "deadlineMs": 60_000, "candidates": 1, "suggest": "quiet"}
    async with connected(options=options) as client:
        client.open("x = ")
        await client.status("ready")
        assert await client.items(0, 4, invoked=False) == []
        assert "below what the setting suggest asks for" in await _why(client)
        (item,) = await client.items(0, 4)
        text = str(item.insert_text)
        client.insert(0, 4, text[0])
        assert _text(await client.items(0, 5, invoked=False)) == text[1:]


@pytest.mark.parametrize(
    ("text", "options", "reason"),
    [
        ("x = ", {"languages": {"python": False}}, "the setting languages turns python off"),
        ("#!/bin/sh\n# codegen: off\nx = ", {}, "codegen: off"),
    ],
)
async def test_languages_and_files_are_switched_off(
    text: str, options: dict[str, Any], reason: str, log: Path
) -> None:
    """Where nothing is wanted nothing is written, and the switch is named."""
    async with connected([*FAKE_SERVER, str(log)], options=options) as client:
        await client.status("ready")
        client.open(text)
        line = text.count("\n")
        assert await client.items(line, 4) == []
        assert reason in await _why(client)


async def test_what_is_imported_from_open_files_is_read(log: Path) -> None:
    """Where that is asked for, and from a file that is open and Python."""
    other = "def load(path):\n    return path\n"
    lengths = []
    for are_read, language in ((False, "python"), (True, "plaintext"), (True, "python")):
        options = {"openFiles": are_read}
        async with connected([*FAKE_SERVER, str(log)], options=options) as client:
            await client.status("ready")
            client.open(other, "file:///project/files.py", language)
            client.open("from files import load\nx = ")
            # The number is the length of the prompt.
            items = await client.items(1, 4)
            lengths.append(int(_text(items[:1]).strip().strip('"')))
    assert [n - lengths[0] for n in lengths] == [0, 0, len("# files.py\n" + other)]


async def test_a_mark_far_below_switches_nothing_off(log: Path) -> None:
    """Only the first five lines speak of the file, and other settings leave it alone."""
    options = {"languages": {"c": False, "python": True}}
    async with connected([*FAKE_SERVER, str(log)], options=options) as client:
        await client.status("ready")
        client.open("\n" * 5 + "# codegen: off\nx = ")
        assert await client.items(6, 4)


async def test_clients_without_inline_completion_get_an_item_in_the_menu(log: Path) -> None:
    """One item, which begins with the word before the cursor, so that menus keep it."""
    async with connected([*FAKE_SERVER, str(log)], can=types.ClientCapabilities()) as client:
        assert client.server.completion_provider is not None
        await client.status("ready")
        client.open("x = va")
        params = types.CompletionParams(types.TextDocumentIdentifier(URI), types.Position(0, 6))
        asked = client.lsp.text_document_completion_async(params)
        answer = await asyncio.wait_for(asked, DEADLINE_S)
        assert isinstance(answer, types.CompletionList)
        (item,) = answer.items
        assert isinstance(item.text_edit, types.TextEdit)
        assert item.text_edit.new_text.startswith("va")
        assert item.label == item.text_edit.new_text
        place = types.Range(types.Position(0, 4), types.Position(0, 6))
        assert (item.text_edit.range, item.kind) == (place, types.CompletionItemKind.Text)


@pytest.mark.parametrize("editor", ["neovim", "vscode"])
async def test_clients_with_inline_completion_get_no_menu_items(editor: str, log: Path) -> None:
    """Nobody is shown the same text twice."""
    can = capabilities(editor)
    async with connected([*FAKE_SERVER, str(log)], can=can) as client:
        assert client.server.completion_provider is None


async def test_what_is_shown_and_accepted_is_counted(log: Path, tmp_path: Path) -> None:
    """An item's command tells of its acceptance, once; numbers are all that is kept."""
    file = tmp_path / "state" / "statistics"
    async with connected([*FAKE_SERVER, str(log), str(file)]) as client:
        await client.status("ready")
        client.open("canary = ")
        (item,) = await client.items(0, 9, invoked=False)
        client.insert(0, 9, str(item.insert_text)[:1])
        # Typing along shows the same suggestion, and no other.
        (rest,) = await client.items(0, 10, invoked=False)
        assert rest.command == item.command
        assert item.command is not None
        for arguments in (
            item.command.arguments or [],
            item.command.arguments or [],
            ["x"],
            [],
        ):
            await _command(client, item.command.command, *arguments)
        process = client.process
    await asyncio.wait_for(process.wait(), DEADLINE_S)
    counts = read_counts(file)
    assert counts.pop("shown") == counts.pop("accepted") == 1
    assert counts.pop("shown statement") == counts.pop("accepted statement") == 1
    assert [name.partition(" ")[0] for name in counts] == ["ms"]
    assert b"canary" not in file.read_bytes()


async def test_nothing_is_counted_where_that_is_not_wanted(log: Path, tmp_path: Path) -> None:
    """With the setting off there is no file, and items carry no command."""
    file = tmp_path / "statistics"
    options = {"statistics": False}
    async with connected([*FAKE_SERVER, str(log), str(file)], options=options) as client:
        await client.status("ready")
        client.open("x = ")
        (item,) = await client.items(0, 4)
        assert item.command is None
        process = client.process
    await asyncio.wait_for(process.wait(), DEADLINE_S)
    assert not file.exists()


async def test_an_item_begins_where_typing_ended(log: Path) -> None:
    """Its range is empty and at the cursor, and its text has nothing of what is typed."""
    async with connected([*FAKE_SERVER, str(log)]) as client:
        await client.status("ready")
        client.open("x = ")
        (item,) = await client.items(0, 4, invoked=False)
        text = str(item.insert_text)
        for n_typed, character in enumerate(text):
            (item,) = await client.items(0, 4 + n_typed, invoked=False)
            cursor = types.Position(0, 4 + n_typed)
            assert item.range == types.Range(cursor, cursor)
            assert item.insert_text == text[n_typed:]
            client.insert(0, 4 + n_typed, character)


async def test_progress_ends_where_there_is_no_model(log: Path) -> None:
    """What cannot be loaded leaves no progress that goes on for ever."""
    command, env = [*FAKE_SERVER, str(log)], {"NO_MODEL": "1"}
    async with connected(command, editor="vscode", env=env) as client:
        await client.status("failed")
        assert isinstance(client.progress[0], types.WorkDoneProgressBegin)
        assert isinstance(client.progress[-1], types.WorkDoneProgressEnd)
