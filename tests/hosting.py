"""Models that come when a test lets them, and what tests ask of the host that has them."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lsp_server.answers import Answer
from lsp_server.completion import Candidate, Completion
from lsp_server.errors import ModelLoadError
from lsp_server.model_host import ModelHost, Progress
from lsp_server.plan import Snapshot
from lsp_server.serving_model import Model
from lsp_server.settings import Settings
from lsp_server.verdict import UNCHECKED
from tests.fakes import ByteTokenizer, ScriptedEngine

DEADLINE_S = 30.0
EMBEDDED = "embedded"
SNAPSHOT = Snapshot("a = 1\nb = ", 10, "python", "file:///a.py")
OTHER = Snapshot("c = ", 4, "python", "file:///b.py")
ANSWER = Answer(SNAPSHOT, Candidate("2", -0.5, -0.4), UNCHECKED)


class Source:
    """Prepares and opens fakes, each when the test lets it; keeps none of them.

    A name with ``unexportable`` or ``broken`` fails.
    """

    def __init__(self) -> None:
        self.script = "2\n"
        self.prepared: list[str] = []
        self.opened: list[str] = []
        self.ended: list[str] = []
        self.has_room_for: Callable[[Path | None], bool] = lambda _folder: True
        self._gates: dict[str, threading.Event] = {}

    def gate(self, step: str) -> threading.Event:
        """Return the event that ``prepare NAME`` or ``open NAME`` waits for."""
        return self._gates.setdefault(step, threading.Event())

    def prepare(self, settings: Settings, progress: Progress) -> Path:
        """Return a folder that is named for the model."""
        name = settings.model or EMBEDDED
        self.prepared.append(name)
        gate = self._gates.get(f"prepare {name}")
        try:
            assert gate is None or gate.wait(DEADLINE_S)
            progress(1, 1)
        finally:
            self.ended.append(name)
        if "unexportable" in name:
            raise ModelLoadError(f"{name} is no checkpoint")
        return Path(name)

    def open(self, folder: Path, _settings: Settings) -> Model:
        """Return a model with the folder's name."""
        self.opened.append(folder.name)
        gate = self._gates.get(f"open {folder.name}")
        assert gate is None or gate.wait(DEADLINE_S)
        if "broken" in folder.name:
            raise ModelLoadError(f"{folder.name} is broken")
        return Model(folder.name, ScriptedEngine(self.script), ByteTokenizer())

    def has_room(self, folder: Path | None) -> bool:
        """Tell what the test says."""
        return self.has_room_for(folder)


async def until(is_so: Callable[[], object]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(DEADLINE_S):
        while not is_so():
            await asyncio.sleep(0.002)


async def a_few_turns() -> None:
    """Let the event loop do what it can do at once."""
    for _ in range(10):
        await asyncio.sleep(0)


def is_gone(reference: "weakref.ref[Any]") -> bool:
    """Tell whether nobody holds it."""
    gc.collect()
    return reference() is None


def loading(
    host: ModelHost, name: str, tell_meanwhile: Callable[[], None] = lambda: None
) -> "asyncio.Task[bool]":
    """Begin to load a model."""
    return asyncio.create_task(
        host.load(Settings(model=name), lambda _done, _total: None, tell_meanwhile)
    )


async def loaded(host: ModelHost, name: str = "model") -> ScriptedEngine:
    """Load a model and return its engine."""
    assert await loading(host, name)
    return engine_of(host)


def engine_of(host: ModelHost) -> ScriptedEngine:
    """Return the engine of the model, which is there."""
    assert host.model is not None
    assert isinstance(host.model.engine, ScriptedEngine)
    return host.model.engine


def asking(
    host: ModelHost,
    snapshot: Snapshot = SNAPSHOT,
    buffers: tuple[str, ...] = (),
    outdated: asyncio.Event | None = None,
    deadline_s: float | None = None,
) -> "asyncio.Task[Completion]":
    """Begin to ask the model."""
    outdated = outdated or asyncio.Event()
    return asyncio.create_task(
        host.complete(
            snapshot,
            Settings(),
            outdated,
            n_candidates=1,
            buffers=buffers,
            deadline_s=deadline_s,
        )
    )


def texts(completion: Completion) -> list[str]:
    """Return what was suggested."""
    return [candidate.insert_text for candidate in completion.candidates]


def name_of(host: ModelHost) -> str | None:
    """Return the name of the model that answers."""
    return host.model.name if host.model else None
