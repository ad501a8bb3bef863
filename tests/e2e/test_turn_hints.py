"""Hints and what is registered while the server runs, with a real client."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from lsprotocol import types

from tests.e2e.clients import DEADLINE_S, FAKE_SERVER, URI, Client, capabilities, connected
from tests.e2e.test_turn_actions import editing

pytestmark = pytest.mark.e2e

_TEXT = "# One\nx = 1\n\n# Two\n"
_KNOWN = [(0, "perplexity 1.0"), (3, "perplexity 1.0")]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Return the file that the fake engine logs to."""
    return tmp_path / "engine.log"


def _with_hints(*, is_dynamic: bool) -> types.ClientCapabilities:
    can = capabilities("vscode" if is_dynamic else "neovim")
    assert can.workspace is not None
    assert can.text_document is not None
    dynamic = types.DidChangeConfigurationClientCapabilities(is_dynamic)
    can.workspace.did_change_configuration = dynamic
    can.workspace.inlay_hint = types.InlayHintWorkspaceClientCapabilities(True)
    hints = types.InlayHintClientCapabilities(dynamic_registration=is_dynamic)
    can.text_document.inlay_hint = hints
    return can


def _configure(client: Client, settings: dict[str, Any]) -> None:
    client.lsp.workspace_did_change_configuration(
        types.DidChangeConfigurationParams({"codegen": settings})
    )


async def _hints(client: Client) -> list[tuple[int, str]]:
    whole = types.Range(types.Position(0, 0), types.Position(1000, 0))
    params = types.InlayHintParams(types.TextDocumentIdentifier(URI), whole)
    asked = client.lsp.text_document_inlay_hint_async(params)
    found = await asyncio.wait_for(asked, DEADLINE_S)
    return [(hint.position.line, str(hint.label)) for hint in found or ()]


@pytest.mark.parametrize("is_dynamic", [True, False])
async def test_hints_are_switched_on_while_the_server_runs(log: Path, is_dynamic: bool) -> None:
    """They are registered where that is possible, shown once known, and go again."""
    can = _with_hints(is_dynamic=is_dynamic)
    async with connected([*FAKE_SERVER, str(log)], can=can) as client:
        await client.status("ready")
        assert bool(client.server.inlay_hint_provider) is not is_dynamic
        client.open(_TEXT)
        if not is_dynamic:
            assert await _hints(client) == []
        assert client.n_refreshes == 0
        _configure(client, {"hints": True})
        if is_dynamic:
            method = types.TEXT_DOCUMENT_INLAY_HINT
            await client.until(lambda: method in _methods(client) or None)
        else:
            await client.until(lambda: client.n_refreshes or None)
        n_before = client.n_refreshes
        assert await _hints(client) in ([], _KNOWN)
        await client.until(lambda: client.n_refreshes > n_before or None)
        assert await _hints(client) == _KNOWN
        n_before = client.n_refreshes
        _configure(client, {})
        await client.until(lambda: client.n_refreshes > n_before or None)
        assert await _hints(client) == []


def _methods(client: Client) -> list[str]:
    return [registration.method for registration in client.registrations]


async def test_changes_of_settings_are_registered_for(log: Path) -> None:
    """VS Code tells of a section's changes only to who registered for that section."""
    can = _with_hints(is_dynamic=True)
    async with connected([*FAKE_SERVER, str(log)], can=can) as client:
        await client.status("ready")
        (registration,) = client.registrations
        assert registration.method == types.WORKSPACE_DID_CHANGE_CONFIGURATION
        assert "codegen" in str(registration.register_options)


async def test_who_needs_no_registration_gets_none(log: Path) -> None:
    """Neovim tells of changes without being asked."""
    can = _with_hints(is_dynamic=False)
    async with connected([*FAKE_SERVER, str(log)], can=can) as client:
        await client.status("ready")
        assert client.registrations == []


async def test_hints_of_what_is_on_from_the_start(log: Path) -> None:
    """They are registered before the model is there, and asked for once it is."""
    can = _with_hints(is_dynamic=True)
    options = {"hints": True}
    async with connected([*FAKE_SERVER, str(log)], can=can, options=options) as client:
        await client.status("ready")
        assert types.TEXT_DOCUMENT_INLAY_HINT in _methods(client)
        await client.until(lambda: client.n_refreshes or None)


async def test_a_stale_program_is_marked_until_it_is_edited(log: Path) -> None:
    """What we wrote and what it uses has changed since says so; a person's never does."""
    async with editing(log, _with_hints(is_dynamic=False)) as editor:
        client = editor.client
        _configure(client, {"hints": True})
        editor.open("# One\nx = 1\n\n# Two\n\n# Three\ny = x\n")
        await editor.run("writeTurn", 3)
        lines = editor.text.split("\n")
        assert not any("stale" in label for _, label in await _hints(client))
        editor.edit(lines.index("x = 1"), 5, "2")
        stale = [line for line, label in await _hints(client) if label.startswith("stale")]
        assert stale == [lines.index("# Two")]
        (program,) = [number for number, line in enumerate(lines) if "= x" in line][:1]
        editor.edit(program, 0, "z = 3; ")
        assert not any("stale" in label for _, label in await _hints(client))
