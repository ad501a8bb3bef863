"""Hints of turns: what is shown, when the model is asked, and what the client is told."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
from lsprotocol import types
from pygls.lsp.server import LanguageServer

from lsp_server.documents import Document
from lsp_server.model_host import ModelHost, Perplexities
from lsp_server.notebooks import Cell, Notebook
from lsp_server.perplexity import prompt_perplexity
from lsp_server.plan import Snapshot
from lsp_server.positions import Encoding
from lsp_server.settings import Settings
from lsp_server.turn_hints import TurnHints
from lsp_server.turns import Turn, read_turns
from tests.fakes import fake_model
from tests.hosting import DEADLINE_S, SNAPSHOT, asking, loaded, until

URI = "file:///a.py"
TEXT = '# Öne 😀\nx = 1\n\ndef f():\n    """Two\n    of them.\n    """\n    # Three\n'
WHOLE = (0, 1000)


class FakeServer:
    """What hints do with a server."""

    def __init__(self, *, is_dynamic: bool, can_refresh: bool = True) -> None:
        inlay_hint = types.InlayHintClientCapabilities(dynamic_registration=is_dynamic)
        refresh = types.InlayHintWorkspaceClientCapabilities(refresh_support=can_refresh)
        self.client_capabilities = types.ClientCapabilities(
            types.WorkspaceClientCapabilities(inlay_hint=refresh),
            types.TextDocumentClientCapabilities(inlay_hint=inlay_hint),
        )
        self.features: list[str] = []
        self.registered: list[str] = []
        self.n_refreshes = 0

    def feature(self, name: str) -> Callable[[Any], Any]:
        """Add what answers a request."""
        self.features.append(name)
        return lambda function: function

    def client_register_capability(self, params: types.RegistrationParams) -> None:
        """Take what the server can do from now on."""
        self.registered += [registration.method for registration in params.registrations]

    def workspace_inlay_hint_refresh(self, _params: None) -> None:
        """Be asked to ask again."""
        self.n_refreshes += 1


class Keeper:
    """What hints need of the server, and the hints."""

    def __init__(
        self, host: ModelHost, *, is_dynamic: bool = False, can_refresh: bool = True
    ) -> None:
        self.documents: dict[str, Document] = {}
        self.notebook: Notebook | None = None
        self.host = host
        self.settings = Settings(hints=True)
        self.encoding: Encoding = "utf-16"
        self.server = FakeServer(is_dynamic=is_dynamic, can_refresh=can_refresh)
        self.stale: list[Turn] = []
        self.turn_hints = TurnHints(
            cast(LanguageServer, self.server), self, lambda _document: self.stale
        )

    def start(self) -> None:
        """Begin as a server does."""
        self.turn_hints.announce(self.server.client_capabilities)
        self.turn_hints.follow_settings()

    def open(self, text: str, uri: str = URI, language_id: str = "python") -> None:
        """Take a document as the newest."""
        self.documents.pop(uri, None)
        self.documents[uri] = Document.opened(uri, language_id, 1, text)

    def notebook_of(self, _uri: str) -> Notebook | None:
        """Return the notebook, where there is one."""
        return self.notebook

    async def hints(
        self, lines: tuple[int, int] = WHOLE, uri: str = URI
    ) -> list[tuple[int, int, str]]:
        """Return where each hint of some lines stands, and what it says."""
        start, end = (types.Position(line, 0) for line in lines)
        document = types.TextDocumentIdentifier(uri)
        params = types.InlayHintParams(document, types.Range(start, end))
        return [
            (hint.position.line, hint.position.character, str(hint.label))
            for hint in await self.turn_hints.hints(params)
        ]

    async def refreshed(self) -> None:
        """Wait until the client is asked to ask again."""
        before = self.server.n_refreshes
        await until(lambda: self.server.n_refreshes > before)


@pytest.fixture
async def keeper(host: ModelHost) -> Keeper:
    """Return a keeper whose model is loaded."""
    await loaded(host)
    keeper = Keeper(host)
    keeper.start()
    return keeper


def label(text: str, index: int) -> str:
    """Return what the hint of a turn must say."""
    turn = read_turns(text)[index]
    perplexity = prompt_perplexity(fake_model(""), Snapshot(text, turn.prompt_end))
    assert perplexity is not None
    return f"perplexity {perplexity:.1f}"


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
async def test_what_is_known_is_shown_and_what_is_not_will_be(
    keeper: Keeper, line_end: str
) -> None:
    """Nothing waits for the model; the client asks again, and each prompt has its hint."""
    keeper.open(TEXT.replace("\n", line_end))
    assert await keeper.hints() == []
    await keeper.refreshed()
    assert len(read_turns(TEXT)) == 2
    assert await keeper.hints() == [(0, 8, label(TEXT, 0)), (7, 11, label(TEXT, 1))]
    # Only what is in the range.
    assert await keeper.hints((0, 6)) == [(0, 8, label(TEXT, 0))]
    assert await keeper.hints((1, 6)) == []
    keeper.encoding = "utf-32"
    assert (await keeper.hints((0, 0)))[0][:2] == (0, 7)


async def test_a_docstring_has_its_hint_at_its_last_line(keeper: Keeper) -> None:
    """It stands where the prompt ends, whatever closes it."""
    keeper.open('def f():\n    """Two\n    of them.\n    """\n')
    await keeper.hints()
    await keeper.refreshed()
    ((line, character, _),) = await keeper.hints()
    assert (line, character) == (3, 7)


async def test_a_cell_is_a_part_of_its_notebook(keeper: Keeper) -> None:
    """A prompt is read after the cells above it, and its hint stands in its own cell."""
    texts = {"m": "Words", "a": "# One\nx = 1", "b": "\n# Two\ny = 2\n# Three"}
    for name, text in texts.items():
        keeper.open(text, name)
    cells = (Cell(keeper.documents[name], name == "m") for name in texts)
    keeper.notebook = Notebook("file:///a.ipynb", tuple(cells))
    whole = keeper.notebook.joined().text
    assert await keeper.hints(uri="b") == []
    await keeper.refreshed()
    n_turns = len(read_turns(whole))
    expected = [(1, 5, label(whole, n_turns - 2)), (3, 7, label(whole, n_turns - 1))]
    assert await keeper.hints(uri="b") == expected
    assert await keeper.hints((0, 2), uri="b") == expected[:1]
    assert await keeper.hints(uri="m") == []
    # One that is not the newest is part of the same text.
    assert await keeper.hints(uri="a") == []
    await keeper.refreshed()
    assert await keeper.hints(uri="a") == [(0, 5, label(whole, n_turns - 3))]


async def test_an_edit_below_a_prompt_leaves_its_hint(keeper: Keeper) -> None:
    """The perplexity is of the text down to the prompt, so only what follows is unknown."""
    keeper.open("# One\nx = 1\n\n# Two\n")
    await keeper.hints()
    await keeper.refreshed()
    assert [line for line, _, _ in await keeper.hints()] == [0, 3]
    keeper.open("# One\nx = 2\n\n# Two\n")
    assert [line for line, _, _ in await keeper.hints()] == [0]
    await keeper.refreshed()
    assert [line for line, _, _ in await keeper.hints()] == [0, 3]


@pytest.mark.parametrize(("threshold", "word"), [(1.0, "unclear, "), (1000.0, "clear, ")])
async def test_a_word_says_what_an_evaluation_found(
    keeper: Keeper, threshold: float, word: str
) -> None:
    """Without a threshold in the manifest a number is all that is honest."""
    keeper.open("# One\n")
    await keeper.hints()
    await keeper.refreshed()
    expected = label("# One\n", 0)
    assert await keeper.hints() == [(0, 5, expected)]
    assert keeper.host.model is not None
    keeper.host.model = replace(keeper.host.model, perplexity_threshold=threshold)
    assert await keeper.hints() == [(0, 5, word + expected)]


async def test_stale_turns_are_marked(host: ModelHost) -> None:
    """It needs no model."""
    keeper = Keeper(host)
    text = "# One\r\nx = 1\r\n\r\n# Two\r\ny = x\r\n"
    keeper.open(text)
    keeper.stale = [read_turns(text)[1]]
    assert await keeper.hints() == [(3, 5, "stale")]


@pytest.mark.parametrize(
    ("text", "language_id", "settings"),
    [
        ("# One\n", "python", Settings()),
        ("# One\n", "python", Settings(hints=True, languages={"python": False})),
        ("# codegen: off\n\n# One\n", "python", Settings(hints=True)),
        ("# One\n", "plaintext", Settings(hints=True)),
        ("# One\n" + "x = 1\n" * (1 << 16), "python", Settings(hints=True)),
    ],
    ids=["hints off", "language off", "file off", "not read", "long"],
)
async def test_where_nothing_is_shown_nothing_is_measured(
    keeper: Keeper,
    text: str,
    language_id: str,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a person switched off costs nothing, and neither does what is too long."""
    measured: list[str] = []
    monkeypatch.setattr(keeper.host, "measure", lambda text, *_: measured.append(text))
    keeper.settings = settings
    keeper.open(text, language_id=language_id)
    assert await keeper.hints() == []
    assert await keeper.hints(uri="file:///unknown.py") == []
    assert measured == []


async def test_only_the_newest_document_is_measured(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several documents that are seen at once, one is being worked on."""
    measured: list[str] = []
    monkeypatch.setattr(keeper.host, "measure", lambda text, *_: measured.append(text))
    keeper.open("# One\n")
    keeper.open("# Two\n", "file:///b.py")
    await keeper.hints()
    await keeper.hints(uri="file:///b.py")
    assert measured == ["# Two\n"]


async def test_another_model_measures_anew(keeper: Keeper) -> None:
    """What one model is surprised by says nothing of another, and the client hears of it."""
    keeper.open("# One\n")
    await keeper.hints()
    await keeper.refreshed()
    n_refreshes = keeper.server.n_refreshes
    await loaded(keeper.host, "other")
    keeper.turn_hints.take_model()
    assert keeper.server.n_refreshes == n_refreshes + 1
    assert await keeper.hints() == []
    await keeper.refreshed()
    assert await keeper.hints()


async def test_what_a_model_that_is_gone_has_found_is_dropped(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may arrive late, when another one answers."""
    told: list[Callable[[Perplexities], None]] = []
    monkeypatch.setattr(keeper.host, "measure", lambda _t, _turns, tell: told.append(tell))
    keeper.open("# One\n")
    await keeper.hints()
    keeper.host.n_models += 1
    (turn,) = read_turns("# One\n")
    told[0]({turn: 5.0})
    assert await keeper.hints() == []
    told[1]({turn: 5.0})
    assert await keeper.hints() == [(0, 5, "perplexity 5.0")]


@pytest.mark.parametrize("is_dynamic", [True, False])
def test_the_client_learns_of_hints_when_it_can(host: ModelHost, is_dynamic: bool) -> None:
    """A client that can be told later is asked for nothing until hints are wanted."""
    keeper = Keeper(host, is_dynamic=is_dynamic)
    server = keeper.server
    keeper.settings = Settings()
    keeper.start()
    assert bool(server.features) is not is_dynamic
    keeper.turn_hints.take_model()
    assert server.n_refreshes == 0
    keeper.settings = Settings(hints=True)
    keeper.turn_hints.follow_settings()
    assert server.features == [types.TEXT_DOCUMENT_INLAY_HINT]
    assert server.registered == [types.TEXT_DOCUMENT_INLAY_HINT] * is_dynamic
    # They go, and come again, without another word.
    for hints in (False, True):
        before = server.n_refreshes
        keeper.settings = Settings(hints=hints)
        keeper.turn_hints.follow_settings()
        assert server.n_refreshes == before + 1
    assert len(server.features) == 1
    assert len(server.registered) == is_dynamic


def test_a_client_that_cannot_ask_again_is_not_told_to(host: ModelHost) -> None:
    """It asks when the text changes."""
    keeper = Keeper(host, can_refresh=False)
    keeper.start()
    keeper.turn_hints.take_model()
    assert keeper.server.n_refreshes == 0


def found_by(host: ModelHost, text: str) -> list[Perplexities]:
    """Let a host measure all turns of a text; returns what it tells, in time."""
    told: list[Perplexities] = []
    host.measure(text, read_turns(text), told.append)
    return told


async def test_measuring_gives_way_and_is_finished(host: ModelHost) -> None:
    """A request waits for no more than a part of a prompt, and nothing is measured twice."""
    engine = await loaded(host)
    measured: list[int] = []
    is_waiting, is_released = threading.Event(), threading.Event()
    log_probabilities = engine.log_probabilities

    def held(token_ids: Any, start: int) -> Any:
        measured.append(start)
        if len(measured) == 2:
            is_waiting.set()
            assert is_released.wait(DEADLINE_S)
        return log_probabilities(token_ids, start)

    engine.log_probabilities = held  # type: ignore[method-assign]
    text = "# One\n\n# Two\n\n# Three\n"
    told = found_by(host, text)
    await until(is_waiting.is_set)
    asked = asking(host, SNAPSHOT)
    await until(lambda: host.scheduler._patient_stop.is_set())
    is_released.set()
    assert (await asked).candidates
    await until(lambda: sum(map(len, told)) == 3)
    assert [len(found) for found in told] in ([1, 2], [2, 1])
    assert len(measured) <= 4


async def test_turns_past_the_context_are_known_to_have_none(host: ModelHost) -> None:
    """A text would be read again for each of them; the client is not asked for ever."""
    engine = await loaded(host)
    engine.context_length = 64
    text = "# One\n\n" + "x = 1\n" * 20 + "\n# Two\n\n# Three\n"
    told = found_by(host, text)
    await until(lambda: told)
    (found,) = told
    assert [value is None for value in found.values()] == [False, True, True]


async def test_nothing_is_measured_on_battery(
    host: ModelHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody asked for it, so it waits for a socket."""
    await loaded(host)
    monkeypatch.setattr("lsp_server.model_host.is_on_battery", lambda: True)
    told = found_by(host, "# One\n")
    await until(lambda: host.scheduler._patient is None)
    # What would have been told is on its way by now.
    await asking(host)
    assert told == []


async def test_without_a_model_nothing_is_measured(host: ModelHost) -> None:
    """Hints of documents that are opened while no model is there do no harm."""
    assert found_by(host, "# One\n") == []
