"""The real server with the embedded model, asked as editors ask."""

import ast
from pathlib import Path

import pytest
from lsprotocol import types

from lsp_server.models import EMBEDDED_MODEL
from tests.e2e.clients import SERVER, Client, connected

pytestmark = pytest.mark.e2e

_COMMENT = "class Point:\n    def __init__(self, x, y):\n        # Store the coordinates.\n"


@pytest.mark.parametrize("editor", ["neovim", "vscode"])
async def test_an_editor_gets_a_program_below_a_comment(editor: str) -> None:
    """Both editors see the provider advertised and get checked code with a range."""
    async with connected(editor=editor) as client:
        assert client.server.inline_completion_provider is not None
        client.open(_COMMENT + "        ")
        await client.status("ready")
        items = await client.items(3, 8)
        assert items
        text = items[0].insert_text
        assert isinstance(text, str)
        ast.parse(_COMMENT + "        " + text)
        cursor = types.Position(3, 8)
        assert items[0].range == types.Range(cursor, cursor)


async def test_loading_is_shown_as_progress() -> None:
    """An editor that shows progress sees the model load, from beginning to end."""
    async with connected(editor="vscode") as client:
        await client.status("ready")
        last = await client.until(lambda: _progress(client, types.WorkDoneProgressEnd))
        assert last
        assert _progress(client, types.WorkDoneProgressBegin)


def _progress(client: Client, kind: type[object]) -> bool | None:
    reports = [r for values in client.lsp.progress_reports.values() for r in values]
    return any(isinstance(report, kind) for report in reports) or None


async def test_a_request_before_the_model_is_there_waits_for_it() -> None:
    """Who asks while the model loads gets an answer, not silence."""
    async with connected() as client:
        client.open(_COMMENT + "        ")
        assert await client.items(3, 8)


async def test_automatic_requests_hide_what_the_check_flags() -> None:
    """A completion with an undefined name is hidden when nobody asked, and last if so."""
    text = (
        "class Account:\n    def __init__(self, owner, balance):\n        # Store the owner.\n"
    )
    async with connected(options={"checkDeadlineMs": 10_000, "candidates": 1}) as client:
        client.open(text)
        await client.status("ready")
        (invoked,) = await client.items(3, 0)
        assert "key" in str(invoked.insert_text), "the example no longer invents a name"
        assert await client.items(3, 0, invoked=False) == []


@pytest.mark.parametrize(
    ("text", "line", "character"),
    [
        ("", 0, 0),
        ("x = 1\n", 99, 0),
        ("x = 1\n", 0, 99),
        ("x = 1\n" * 850_000, 850_000, 0),
        ("x = " + "1 + " * 260_000, 0, 1_040_004),
    ],
    ids=["empty file", "line past the end", "character past the end", "5 MB", "1 MB line"],
)
async def test_odd_documents_cost_no_more_than_their_own_answer(
    text: str, line: int, character: int
) -> None:
    """Whatever the document and position, there is one answer, and the next one works."""
    async with connected() as client:
        client.open(text, uri="file:///odd.py")
        client.open(_COMMENT)
        await client.status("ready")
        await client.items(line, character, uri="file:///odd.py")
        assert await client.items(3, 0)


async def test_a_document_that_is_not_open_gets_an_empty_list() -> None:
    """A request for a document that was closed or never opened is answered."""
    async with connected() as client:
        await client.status("ready")
        assert await client.items(0, 0, uri="file:///nowhere.py") == []


async def test_a_broken_model_leaves_a_server_that_completes(tmp_path: Path) -> None:
    """A model that cannot be loaded is said once, and the embedded one takes its place."""
    options = {"model": str(tmp_path)}
    async with connected(options=options) as client:
        status = await client.status("ready")
        assert str(tmp_path) in status.message
        assert status.model == EMBEDDED_MODEL
        shown = await client.until(
            lambda: client.lsp.messages[-1] if client.lsp.messages else None
        )
        assert shown.type is types.MessageType.Warning
        assert str(tmp_path) in shown.message
        client.open(_COMMENT)
        assert await client.items(3, 0)
        assert len(client.lsp.messages) == 1


async def test_a_name_that_is_not_here_is_not_downloaded() -> None:
    """A model's name that is not on this machine says which command gets it."""
    async with connected([*SERVER, "--model", "Salesforce/codegen-350M-mono"]) as client:
        status = await client.status("ready")
        assert "`codegen-lsp pull Salesforce/codegen-350M-mono" in status.message
        assert status.model == EMBEDDED_MODEL


async def test_bad_settings_are_said_and_replaced_by_defaults() -> None:
    """Each bad setting is named once, and completions work all the same."""
    options = {"device": "tpu", "maxNewTokens": "many", "colour": "red"}
    async with connected(options=options, configuration={"candidates": 99}) as client:
        await client.status("ready")
        (shown,) = client.lsp.messages
        for name in ("device", "maxNewTokens", "colour", "candidates"):
            assert name in shown.message
        client.open(_COMMENT)
        assert await client.items(3, 0)


async def test_what_was_said_at_the_start_holds_until_it_is_said_anew(tmp_path: Path) -> None:
    """A client's configuration adds to its initialization options, and undoes none."""
    options = {"model": str(tmp_path)}
    async with connected(options=options, configuration={"candidates": 1}) as client:
        assert str(tmp_path) in (await client.status("ready")).message


async def test_settings_are_pulled_from_the_client(tmp_path: Path) -> None:
    """A client that can be asked for its settings is asked before the model is loaded."""
    async with connected(configuration={"model": str(tmp_path)}) as client:
        assert str(tmp_path) in (await client.status("ready")).message
