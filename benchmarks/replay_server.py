"""The real server, as ``codegen-lsp serve`` builds it, with what a benchmark needs.

It writes down what each request and all idle work made the model do, one JSON object a
line, and switches off what is to be compared. With ``--beside`` each chunk of tokens is
run by a larger model too, whose answer is thrown away: the small model, which is trained,
decides what is written, and all takes as long as it does with the larger one.
"""

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO
from unittest.mock import patch

from lsprotocol import types

from lsp_server import server as server_module
from lsp_server.answers import Answer, Answers
from lsp_server.check_worker import CheckWorker
from lsp_server.completion import Completion
from lsp_server.models import Progress, exported_folder
from lsp_server.plan import Snapshot
from lsp_server.scheduler import Result, Scheduler
from lsp_server.server import CompletionServer, create_server
from lsp_server.server_log import log_to_stderr
from lsp_server.serving_model import Model
from lsp_server.settings import Settings

if TYPE_CHECKING:
    # As in the server, onnxruntime waits until a model is wanted.
    from lsp_server.engine import Engine
    from lsp_server.sampling import FloatArray
    from lsp_server.session import KVCache, Session

REUSE, SPECULATION, IDLE = "reuse", "speculation", "idle"
RECORD_FILE, LOG_FILE = "record.jsonl", "server.log"
_CLOSING_S = 2.0


@dataclass(frozen=True)
class Run:
    """One run of the model, which is what is called a step."""

    n_past: int
    n_tokens: int
    n_rows: int
    """Tokens whose logits were wanted; more than one where guesses were verified."""
    ms: float
    own_ms: float
    """What of that was the small model where there is a larger one beside it, else 0."""
    is_whole: bool


class RecordedSession:
    """A session that keeps what it ran, and may run it on another session too."""

    def __init__(self, session: "Session", beside: "Session | None" = None) -> None:
        self.runs: list[Run] = []
        self._session = session
        self._beside = beside
        self._caches: dict[int, KVCache] = {}

    def __getattr__(self, name: str) -> Any:
        """Be the session in all that is not recorded."""
        return getattr(self._session, name)

    def run(
        self,
        cache: "KVCache",
        chunk: Sequence[int],
        n_past: int,
        rows: Sequence[int],
        stop: threading.Event | None = None,
    ) -> "FloatArray | None":
        """Run a chunk as the session does."""
        started = own_started = time.perf_counter()
        logits = None
        if self._beside is not None:
            beside = self._cache_beside(cache, self._beside)
            is_wanted = self._beside.run(beside, chunk, n_past, rows, stop) is not None
            own_started = time.perf_counter()
        else:
            is_wanted = True
        if is_wanted:
            logits = self._session.run(cache, chunk, n_past, rows, stop)
        ended = time.perf_counter()
        own_ms = 1e3 * (ended - own_started) if self._beside is not None else 0.0
        self.runs.append(
            Run(
                n_past,
                len(chunk),
                len(rows),
                ms=round(1e3 * (ended - started), 3),
                own_ms=round(own_ms, 3),
                is_whole=logits is not None,
            )
        )
        return logits

    def _cache_beside(self, cache: "KVCache", beside: "Session") -> "KVCache":
        if id(cache) not in self._caches:
            n_positions = cache.values[0].shape()[2]
            self._caches[id(cache)] = beside.new_cache(n_positions)
        return self._caches[id(cache)]


class ReplayEngine:
    """An engine without what is switched off."""

    def __init__(self, engine: "Engine", off: frozenset[str], beside: "Session | None") -> None:
        """Take the place of the engine's session."""
        self.eos_token_id = engine.eos_token_id
        self.vocab_size = engine.vocab_size
        self.context_length = engine.context_length
        self.cache_type = engine.cache_type
        self.session = RecordedSession(engine._session, beside)
        self.reused_tokens = 0
        self.n_generated = 0
        self._engine = engine
        self._off = off
        engine._session = self.session  # type: ignore[assignment]
        # How fast prompts are read is measured anew, at the pace that is replayed.
        engine._tokens_per_s = 0.0
        engine._probe()

    def generate(
        self,
        token_ids: Sequence[int],
        *,
        draft: Callable[[list[int]], list[int]] | None = None,
        **options: Any,
    ) -> Iterator[tuple[int, float]]:
        """Yield what the engine yields."""
        self._forget_unless_reused()
        if SPECULATION in self._off:
            draft = None
        for pair in self._engine.generate(token_ids, draft=draft, **options):
            self.n_generated += 1
            self.reused_tokens = self._engine.reused_tokens
            yield pair

    def log_probabilities(self, token_ids: Sequence[int], start: int) -> "FloatArray":
        """Return what the engine returns."""
        return self._engine.log_probabilities(token_ids, start)

    def prefill(self, token_ids: Sequence[int], stop: threading.Event) -> None:
        """Read a prompt into a cache."""
        self._engine.prefill(token_ids, stop)

    def prefill_ms(self, token_ids: Sequence[int]) -> float:
        """Return how long reading what is in no cache would take."""
        self._forget_unless_reused()
        return self._engine.prefill_ms(token_ids)

    def n_tokens_within(self, budget_ms: float) -> int:
        """Return how many tokens of a prompt can be read within the budget."""
        return self._engine.n_tokens_within(budget_ms)

    def forget(self) -> None:
        """Empty the caches."""
        self._engine.forget()

    def _forget_unless_reused(self) -> None:
        if REUSE in self._off:
            self.forget()


def open_replay(
    folder: Path,
    settings: Settings,
    off: frozenset[str] = frozenset(),
    beside: Path | None = None,
) -> tuple[Model, ReplayEngine]:
    """Return a model that is recorded, and its engine."""
    from lsp_server.engine import Engine
    from lsp_server.loading import open_model

    session = None
    if beside is not None:
        larger = open_model(beside, replace(settings, kv_cache="int8")).engine
        assert isinstance(larger, Engine)  # noqa: S101  open_model makes no other.
        session = larger._session
        # The small model's threads would wait busily while the larger one computes.
        settings = replace(settings, threads=1)
    model = open_model(folder, settings)
    assert isinstance(model.engine, Engine)  # noqa: S101  The same.
    engine = ReplayEngine(model.engine, off, session)
    return replace(model, engine=engine), engine


@dataclass
class Task:
    """What the model did for a request, or without one."""

    kind: str
    uri: str = ""
    version: int = 0
    number: int = 0
    started: float = 0.0
    waited_ms: float = 0.0
    ms: float = 0.0
    generated: int = 0
    completion: dict[str, Any] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)


class Record:
    """The file with everything."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._lock = threading.Lock()

    def write(self, kind: str, **values: Any) -> None:
        """Write one object."""
        with self._lock:
            print(json.dumps({"kind": kind, **values}), file=self._file, flush=True)


class RecordedScheduler(Scheduler):
    """A scheduler that writes down what each task made the model do."""

    def __init__(self, server: CompletionServer, record: Record, off: frozenset[str]) -> None:
        super().__init__()
        self.idle_number = 0
        """That of the idle work that is being done; 0: none."""
        self._server = server
        self._record = record
        self._off = off
        self._n_idle = 0

    def submit(
        self, key: str, stop: threading.Event, task: Callable[[], Result]
    ) -> "Future[Result]":
        """Queue a request."""
        version = self._server.documents[key].version
        made = Task("request", key, version, started=time.perf_counter())
        return super().submit(key, stop, partial(self._run_recorded, made, task))

    def submit_idle(self, task: Callable[[threading.Event], object]) -> None:
        """Queue idle work, if there is to be any."""
        if IDLE not in self._off:
            super().submit_idle(partial(self._run_idle, task))

    def _run_idle(
        self, task: Callable[[threading.Event], object], stop: threading.Event
    ) -> None:
        self._n_idle += 1
        self.idle_number = self._n_idle
        made = Task("idle", number=self._n_idle, started=time.perf_counter())
        try:
            self._run_recorded(made, partial(task, stop))
        finally:
            self.idle_number = 0

    def _run_recorded(self, made: Task, task: Callable[[], Result]) -> Result:
        engine = self._engine()
        began = time.perf_counter()
        n_runs, n_generated = len(engine.session.runs), engine.n_generated
        result = task()
        made.waited_ms = 1e3 * (began - made.started)
        made.ms = 1e3 * (time.perf_counter() - began)
        made.runs = engine.session.runs[n_runs:]
        made.generated = engine.n_generated - n_generated
        if isinstance(result, Completion):
            made.completion = _facts(result)
        self._record.write(**asdict(made))
        return result

    def _engine(self) -> ReplayEngine:
        model = self._server.host.model
        assert model is not None  # noqa: S101  Nothing is submitted without one.
        assert isinstance(model.engine, ReplayEngine)  # noqa: S101  As it was loaded.
        return model.engine


class RecordedAnswers(Answers):
    """Answers that tell which idle work wrote what is found."""

    def __init__(self, scheduler: RecordedScheduler, record: Record) -> None:
        super().__init__()
        self._scheduler = scheduler
        self._record = record
        self._idle: list[tuple[int, Answers]] = []

    def remember(self, answer: Answer) -> None:
        """Keep an answer, and who wrote it."""
        super().remember(answer)
        if number := self._scheduler.idle_number:
            alone = Answers()
            alone.remember(answer)
            self._idle.append((number, alone))

    def find(
        self, snapshot: Snapshot, is_wanted: Callable[[Answer], bool] = lambda _: True
    ) -> Answer | None:
        """Find an answer; what idle work asks for itself is no use of it."""
        found = super().find(snapshot, is_wanted)
        if found is not None and threading.current_thread().name != "model":
            for number, alone in self._idle:
                if alone.find(snapshot):
                    self._record.write("used", number=number)
        return found


class RecordedServer(CompletionServer):
    """A server that writes down for which version each answer was, and whether it passed."""

    record: Record
    off: frozenset[str]

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        scheduler = RecordedScheduler(self, self.record, self.off)
        self.host.scheduler = scheduler
        self.host.answers = RecordedAnswers(scheduler, self.record)

    async def complete(
        self, params: types.InlineCompletionParams
    ) -> list[types.InlineCompletionItem]:
        """Answer one request."""
        uri = params.text_document.uri
        before = self.documents[uri]
        started = time.perf_counter()
        items = await super().complete(params)
        self.record.write(
            "answer",
            uri=uri,
            version=before.version,
            ms=1e3 * (time.perf_counter() - started),
            n_items=len(items),
            is_stale=bool(items) and self.documents.get(uri) is not before,
        )
        return items


class ReplayModels:
    """The models that the server is to run, each as ``open_replay`` opens it."""

    def __init__(self, off: frozenset[str], beside: Path | None) -> None:
        self._off = off
        self._beside = beside

    def prepare(self, settings: Settings, progress: Progress) -> Path:
        """Return its exported folder."""
        return exported_folder(settings.model, progress)

    def open(self, folder: Path, settings: Settings) -> Model:
        """Return its model."""
        return open_replay(folder, settings, self._off, self._beside)[0]

    def has_room(self, _folder: Path | None) -> bool:
        """Tell that there is room, because there is one model."""
        return True


def _facts(completion: Completion) -> dict[str, Any]:
    return {
        "rule": completion.rule.value if completion.rule else "",
        "silence": completion.silence,
        "prompt_tokens": completion.prompt_tokens,
        "reused_tokens": completion.reused_tokens,
        "generated_tokens": completion.generated_tokens,
        "unread": len(completion.unread),
        "first_token_ms": completion.first_token_ms,
        "total_ms": completion.total_ms,
    }


def main() -> None:
    """Serve on stdio."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--record", type=Path, required=True, help="a folder to write to")
    parser.add_argument("--model")
    parser.add_argument("--beside", type=Path, help="an exported folder")
    parser.add_argument("--off", action="append", choices=(REUSE, SPECULATION, IDLE))
    options = parser.parse_args()
    off = frozenset(options.off or ())
    log = os.open(options.record / LOG_FILE, os.O_WRONLY | os.O_CREAT)
    os.dup2(log, sys.stderr.fileno())
    log_to_stderr()
    checker = CheckWorker()
    source = ReplayModels(off, options.beside)

    with (options.record / RECORD_FILE).open("w", encoding="utf-8") as file:
        RecordedServer.record = Record(file)
        RecordedServer.off = off
        with patch.object(server_module, "CompletionServer", RecordedServer):
            server = create_server(source, checker, Settings(model=options.model))
        try:
            server.start_io()
        finally:
            server.host.close()
            server.host.wait(_CLOSING_S)
            checker.close()


if __name__ == "__main__":
    main()
