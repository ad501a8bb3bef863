"""Editors without inline completion: with the capabilities they send, they get menu items."""

import asyncio
import json
import re
from pathlib import Path

import pytest
from lsprotocol import converters, types
from pytest_lsp import client_capabilities

from tests.e2e.clients import DEADLINE_S, FAKE_SERVER, SERVER, URI, Client, connected

pytestmark = pytest.mark.e2e

RECORDED = json.loads(
    Path(__file__).parents[1].joinpath("data", "editor_capabilities.json").read_text("utf-8")
)
"""What each editor sends, as far as it concerns this server, and where that was read."""
EDITORS = ("eglot", *RECORDED)
ADJUST = types.InsertTextMode.AdjustIndentation


def capabilities(editor: str) -> types.ClientCapabilities:
    """Return what an editor says of itself."""
    if editor == "eglot":
        return client_capabilities("emacs@29.1")
    found: types.ClientCapabilities = converters.get_converter().structure(
        RECORDED[editor]["capabilities"], types.ClientCapabilities
    )
    return found


def n_units(text: str, client: Client) -> int:
    """Return how long a text is in the units that were agreed on."""
    encoding = client.server.position_encoding or types.PositionEncodingKind.Utf16
    units = {"utf-8": 1, "utf-16": 2, "utf-32": 4}[types.PositionEncodingKind(encoding).value]
    codec = {1: "utf-8", 2: "utf-16-le", 4: "utf-32-le"}[units]
    return len(text.encode(codec)) // units


def accepted(text: str, item: types.CompletionItem, client: Client, default: object) -> str:
    """Return a text after its last line's item was accepted, as the specification says."""
    assert isinstance(item.text_edit, types.TextEdit)
    above, newline, line = text.rpartition("\n")
    start, end = item.text_edit.range.start, item.text_edit.range.end
    assert start.line == end.line == text.count("\n")
    assert end.character == n_units(line, client)
    kept = next(
        line[:n] for n in range(len(line) + 1) if n_units(line[:n], client) == start.character
    )
    new_text = item.text_edit.new_text
    if (item.insert_text_mode or default) == ADJUST:
        indentation = re.match(r"[ \t]*", line)
        assert indentation
        new_text = new_text.replace("\n", f"\n{indentation.group()}")
    return f"{above}{newline}{kept}{new_text}"


async def item_at_the_end(client: Client, text: str) -> types.CompletionItem:
    """Return the one item that a person is offered at a text's end."""
    client.open(text)
    line = text.rpartition("\n")[2]
    position = types.Position(text.count("\n"), n_units(line, client))
    context = types.CompletionContext(types.CompletionTriggerKind.Invoked)
    document = types.TextDocumentIdentifier(URI)
    asked = client.lsp.text_document_completion_async(
        types.CompletionParams(document, position, context)
    )
    answer = await asyncio.wait_for(asked, DEADLINE_S)
    assert isinstance(answer, types.CompletionList)
    (item,) = answer.items
    return item


@pytest.mark.parametrize("editor", EDITORS)
async def test_an_item_is_accepted_as_it_is_shown(editor: str, tmp_path: Path) -> None:
    """It comes, its label is its first line, and its edit gives the text with it."""
    can = capabilities(editor)
    async with connected([*FAKE_SERVER, str(tmp_path / "log")], can=can) as client:
        await client.status("ready")
        text = 'größe = "😀"; x = va'
        item = await item_at_the_end(client, text)
        assert client.server.inline_completion_provider is not None
        assert item.label.startswith("va")
        assert item.insert_text_format == types.InsertTextFormat.PlainText
        assert accepted(text, item, client, None) == text.removesuffix("va") + item.label


@pytest.mark.parametrize("editor", ["sublime", "lsp-mode"])
async def test_no_line_is_indented_twice(editor: str) -> None:
    """Clients that indent what they insert get lines without the indentation of the first."""
    can = capabilities(editor)
    assert can.text_document
    assert can.text_document.completion
    options = {"checkDeadlineMs": 0}
    text = "class Stack:\n    # Put an item on top.\n    "
    async with connected(SERVER, can=can, options=options) as client:
        await client.status("ready")
        item = await item_at_the_end(client, text)
        default = can.text_document.completion.insert_text_mode
        lines = accepted(text, item, client, default).splitlines()[2:]
        assert len(lines) > 1
        assert re.fullmatch(r" {4}\S.*:", lines[0])
        assert re.fullmatch(r" {8}\S.*", lines[1])
