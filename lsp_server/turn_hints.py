"""Shows in the editor how surprising each turn's prompt is to the model, and what is stale.

They are inlay hints, off unless asked for. What is shown is what is known: the model
measures when it has nothing else to do, and then the client is asked to ask again.
"""

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple, Protocol

from lsprotocol import types
from pygls.lsp.server import LanguageServer

from lsp_server.answering import switched_off
from lsp_server.documents import Document
from lsp_server.model_host import ModelHost, Perplexities
from lsp_server.notebooks import Notebook
from lsp_server.plan import Snapshot, unix
from lsp_server.positions import Encoding, n_code_units, position_at
from lsp_server.settings import Settings
from lsp_server.turns import Turn, read_turns

_LONGEST = 1 << 17
"""Characters; reading the turns of a longer text would hold up what somebody types."""
_N_KNOWN = 4096
_REGISTRATION = "codegen/hints"
_STALE = "This program uses names of a turn above it that has changed since it was written."
_PERPLEXITY = "How surprising the model finds this prompt after all that stands above it."

Stale = Callable[[Document], list[Turn]]


class _Place(NamedTuple):
    turn: Turn
    key: bytes
    """A hash of all that the perplexity of its prompt depends on."""
    line: int
    end: types.Position
    """Of its prompt."""


class _Part(NamedTuple):
    """Lines of a text."""

    whole: Document
    first: int
    last: int
    n_above: int = 0
    """So many of its lines stand above the document that was asked about."""


class HintKeeper(Protocol):
    """What hints need of ``lsp_server.server.CompletionServer``."""

    documents: dict[str, Document]
    host: ModelHost
    settings: Settings

    @property
    def encoding(self) -> Encoding:
        """The unit in which the client counts characters."""

    def notebook_of(self, uri: str) -> Notebook | None:
        """Return the notebook that a document is a cell of."""


class TurnHints:
    """The hints of turns, and the perplexities that are known, by hashes of the text."""

    def __init__(self, server: LanguageServer, keeper: HintKeeper, stale: Stale) -> None:
        """Know nothing; ``stale`` tells which turns of a document are."""
        self._server = server
        self._keeper = keeper
        self._stale = stale
        self._known: dict[bytes, float | None] = {}
        self._n_models = 0
        self._is_on = False
        self._is_registered = False

    def announce(self, capabilities: types.ClientCapabilities) -> None:
        """Say at the start that there are hints, to a client that cannot be told later."""
        known = capabilities.text_document
        if not (known and known.inlay_hint and known.inlay_hint.dynamic_registration):
            self._add_handler()
            self._is_registered = True

    def follow_settings(self) -> None:
        """Tell the client that there are hints, once they are wanted, and to ask again."""
        was_on, self._is_on = self._is_on, self._keeper.settings.hints
        if self._is_on and not self._is_registered:
            self._add_handler()
            self._is_registered = True
            options = types.InlayHintRegistrationOptions()
            method = types.TEXT_DOCUMENT_INLAY_HINT
            registration = types.Registration(_REGISTRATION, method, options)
            self._server.client_register_capability(types.RegistrationParams([registration]))
        elif self._is_on or was_on:
            self._refresh()

    def take_model(self) -> None:
        """Let the client ask again: another model answers."""
        if self._is_on:
            self._refresh()

    async def hints(self, params: types.InlayHintParams) -> list[types.InlayHint]:
        """Return what is known of the turns in a range; what is not, will be.

        The turns are read in a thread; for a text that has passed by then there are none.
        """
        keeper = self._keeper
        part = self._part(params) if keeper.settings.hints else None
        if part is None or len(part.whole.text) > _LONGEST:
            return []
        document = part.whole
        snapshot = Snapshot(unix(document.text), 0, document.language_id, document.uri)
        if switched_off(snapshot, keeper.settings):
            return []
        shown, stale = await asyncio.to_thread(self._read, part, snapshot)
        if self._part(params) != part or not keeper.settings.hints:
            return []
        self._measure(snapshot, {place.turn: place.key for place in shown})
        hints = []
        for place in shown:
            is_stale = place.line in stale
            if label := self._label(self._known.get(place.key), is_stale=is_stale):
                end = types.Position(place.end.line - part.n_above, place.end.character)
                tooltip = _STALE if is_stale else _PERPLEXITY
                hints.append(types.InlayHint(end, label, tooltip=tooltip, padding_left=True))
        return hints

    def _read(self, part: _Part, snapshot: Snapshot) -> tuple[list[_Place], set[int]]:
        """Return where the turns of a part stand, and the lines of those that are stale."""
        shown = [
            place
            for place in _places(snapshot, self._keeper.encoding)
            if part.first <= place.end.line <= part.last
        ]
        text = part.whole.text
        return shown, {position_at(text, turn.start).line for turn in self._stale(part.whole)}

    def _part(self, params: types.InlayHintParams) -> _Part | None:
        """Return what is asked about; of a notebook's cell that is a part of its text."""
        uri = params.text_document.uri
        first, last = params.range.start.line, params.range.end.line
        document, notebook = self._keeper.documents.get(uri), self._keeper.notebook_of(uri)
        cell = notebook.cell(uri) if notebook else None
        if document is None or notebook is None or cell is None:
            return _Part(document, first, last) if document else None
        if cell.is_markup:
            # The comment that stands for it has other characters.
            return None
        joined = notebook.joined()
        whole = Document.opened(notebook.uri, "python", notebook.n_edits, joined.text)
        return _Part(whole, *(joined.line(uri, line) for line in (first, last, 0)))

    def _refresh(self) -> None:
        workspace = self._server.client_capabilities.workspace
        hints = workspace.inlay_hint if workspace else None
        if hints and hints.refresh_support:
            self._server.workspace_inlay_hint_refresh(None)

    def _measure(self, snapshot: Snapshot, shown: dict[Turn, bytes]) -> None:
        """Let the model measure what is not known of the newest text."""
        host = self._keeper.host
        if self._n_models != host.n_models:
            self._n_models = host.n_models
            self._known.clear()
        unknown = [turn for turn, key in shown.items() if key not in self._known]
        newest = next(reversed(self._keeper.documents))
        notebook = self._keeper.notebook_of(newest)
        is_newest = snapshot.uri == (notebook.uri if notebook else newest)
        if unknown and is_newest:
            host.measure(snapshot.text, unknown, partial(self._take, shown, host.n_models))

    def _take(self, keys: dict[Turn, bytes], n_models: int, found: Perplexities) -> None:
        if n_models != self._keeper.host.n_models:
            return
        self._known |= {keys[turn]: perplexity for turn, perplexity in found.items()}
        while len(self._known) > _N_KNOWN:
            del self._known[next(iter(self._known))]
        self._refresh()

    def _label(self, perplexity: float | None, *, is_stale: bool) -> str:
        model = self._keeper.host.model
        words = ["stale"] if is_stale else []
        if perplexity is not None:
            threshold = model.perplexity_threshold if model else None
            if threshold is not None:
                words.append("clear" if perplexity <= threshold else "unclear")
            words.append(f"perplexity {perplexity:.1f}")
        return ", ".join(words)

    def _add_handler(self) -> None:
        @self._server.feature(types.TEXT_DOCUMENT_INLAY_HINT)
        async def inlay_hint(params: types.InlayHintParams) -> list[types.InlayHint]:
            return await self.hints(params)


def _places(snapshot: Snapshot, encoding: Encoding) -> Iterator[_Place]:
    """Yield where the turns of a text stand; one pass over it, however many there are."""
    text, digest = snapshot.text, hashlib.sha256()
    line = passed = hashed = 0
    for turn in read_turns(text, snapshot.language_id):
        line += text.count("\n", passed, turn.start)
        passed = turn.start
        digest.update(text[hashed : turn.prompt_end].encode("utf-8", "surrogatepass"))
        hashed = turn.prompt_end
        prompt = text[turn.start : turn.prompt_end].removesuffix("\n")
        last_line = prompt.rpartition("\n")[2]
        end = types.Position(line + prompt.count("\n"), n_code_units(last_line, encoding))
        yield _Place(turn, digest.digest(), line, end)
