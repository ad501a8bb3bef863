"""Keeps one model at hand: loads it, runs it in one thread, lets it go when nobody types.

It also uses the time when nobody asks: it reads what will be asked about, and goes on
after what was answered. It knows neither LSP nor any checker.
"""

import asyncio
import gc
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial

from lsp_server.answers import Answer, Answers
from lsp_server.completion import (
    Completion,
    Model,
    complete,
    suggestion_source,
    warm_up,
)
from lsp_server.plan import Snapshot
from lsp_server.power import is_on_battery
from lsp_server.scheduler import Scheduler
from lsp_server.settings import Settings

_MINUTE_S = 60.0

Progress = Callable[[int, int], None]
ModelLoader = Callable[[Settings, Progress], Model]


class ModelHost:
    """One model or none; its methods belong to the event loop."""

    def __init__(self, load_model: ModelLoader) -> None:
        """Load nothing yet."""
        self.model: Model | None = None
        self.answers = Answers()
        self.scheduler = Scheduler()
        self.is_asleep = False
        """Whether the model was let go because nobody typed."""
        self._load_model = load_model
        self._n_loads = 0
        self._loading: asyncio.Event | None = None
        self._last_use = time.monotonic()
        self._ahead = ""

    async def load(self, settings: Settings, report: Progress) -> Model | None:
        """Load the model that the settings name; None where a newer call took over.

        Raises:
            Exception: whatever the loader raises, if no newer call took over.
        """
        self._n_loads += 1
        this_load = self._n_loads
        self._forget_model()
        self.is_asleep = False
        self.expect_load()
        try:
            model = await _in_daemon_thread(partial(self._load_model, settings, report))
        except BaseException:
            if this_load == self._n_loads:
                self._settle(None)
                raise
            return None
        if this_load != self._n_loads:
            return None
        self._settle(model)
        return model

    def expect_load(self) -> None:
        """Let requests wait for a load that is about to begin."""
        self._loading = self._loading or asyncio.Event()

    def give_up_load(self) -> None:
        """Answer those who wait for a load that comes to nothing."""
        self._settle(None)

    async def model_at_hand(self, outdated: asyncio.Event) -> Model | None:
        """Return the model, once it is loaded; None without one, or when outdated."""
        self._last_use = time.monotonic()
        if self._loading is not None:
            waits = [asyncio.ensure_future(e.wait()) for e in (self._loading, outdated)]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
        return self.model

    def is_in_use(self) -> None:
        """Put off the moment when the model is let go."""
        self._last_use = time.monotonic()

    async def sleep_when_idle(self, after_minutes: int) -> None:
        """Let the model go once nobody has typed for so long; never with 0."""
        if not after_minutes:
            return
        while (rest_s := self._last_use + after_minutes * _MINUTE_S - time.monotonic()) > 0:
            await asyncio.sleep(rest_s)
        # Another may be on its way, or none could be loaded.
        if self.model is not None:
            self._forget_model()
            self.is_asleep = True

    async def run(
        self,
        model: Model,
        snapshot: Snapshot,
        settings: Settings,
        *,
        n_candidates: int,
        buffers: Sequence[str],
    ) -> Completion:
        """Complete a snapshot before anything else; a newer request of its document ends it.

        ``buffers`` are texts of other documents. Raises what the engine raises.
        """
        stop = threading.Event()
        task = partial(
            complete,
            model,
            snapshot,
            max_new_tokens=settings.max_new_tokens,
            n_candidates=n_candidates,
            stop=stop,
            budget_ms=settings.latency_budget_ms,
            nearby=self._nearby(snapshot.uri, buffers),
        )
        future = self.scheduler.submit(snapshot.uri, stop, task)
        future.add_done_callback(partial(self._keep_interrupted, snapshot))
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            stop.set()
            raise

    def read_ahead(self, snapshot: Snapshot, settings: Settings) -> None:
        """Read what a completion of the snapshot would need, while nobody asks."""
        if model := self.model:
            task = partial(warm_up, model, snapshot, max_new_tokens=settings.max_new_tokens)
            self.scheduler.submit_idle(partial(_unless_on_battery, task))

    def go_on(
        self,
        model: Model,
        completion: Completion,
        answer: Answer | None,
        settings: Settings,
    ) -> None:
        """Use the time after an answer of a model.

        Read what there was no time for, else write what may come after the answer.
        """
        if completion.unread:
            unread = completion.unread
            self.scheduler.submit_idle(lambda stop: model.engine.prefill(unread, stop))
        elif answer is not None:
            task = partial(self._write_ahead, model, answer, settings.max_new_tokens)
            self.scheduler.submit_idle(partial(_unless_on_battery, task))

    def close(self) -> None:
        """Stop what is running."""
        self.scheduler.close()

    def _write_ahead(
        self, model: Model, answer: Answer, max_new_tokens: int, *, stop: threading.Event
    ) -> None:
        accepted = answer.accepted
        if self.answers.find(accepted):
            return
        completion = complete(
            model,
            accepted,
            max_new_tokens=max_new_tokens,
            stop=stop,
            budget_ms=math.inf,
            nearby=self._nearby(accepted.uri, ()),
        )
        # What is not whole yet is still a good guess.
        self._ahead = suggestion_source(accepted, completion.written)
        # Whoever ends idle work, as another model or setting does, wants none of this.
        if completion.candidates and not stop.is_set():
            self.answers.remember(Answer(accepted, completion.candidates[0], None))

    def _keep_interrupted(self, snapshot: Snapshot, future: "Future[Completion]") -> None:
        """Keep what was written when a newer request came: it may go on the same way."""
        if future.cancelled() or future.exception() is not None:
            return
        completion = future.result()
        if completion.written and not completion.candidates:
            self._ahead = suggestion_source(snapshot, completion.written)

    def _nearby(self, uri: str, buffers: Sequence[str]) -> list[str]:
        latest = self.answers.latest(uri)
        suggested = [self._ahead] if self._ahead else []
        if latest is not None:
            suggested.append(suggestion_source(latest.snapshot, latest.candidate.insert_text))
        return [*suggested, *buffers]

    def _settle(self, model: Model | None) -> None:
        self.model = model
        self._last_use = time.monotonic()
        if self._loading is not None:
            self._loading.set()
            self._loading = None

    def forget_answers(self) -> None:
        """Forget what another model, or other settings, would answer otherwise."""
        self.scheduler.stop_idle()
        self.answers.clear()
        self._ahead = ""

    def _forget_model(self) -> None:
        self.model = None
        self.forget_answers()
        # The engine's memory is worth more than the milliseconds.
        gc.collect()


def _unless_on_battery(task: Callable[..., None], stop: threading.Event) -> None:
    if not is_on_battery():
        task(stop=stop)


def _in_daemon_thread(task: Callable[[], Model]) -> "asyncio.Future[Model]":
    """Run a task that nobody waits for when the server ends."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Model] = loop.create_future()

    def settle(result: Model | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        elif result is not None:
            future.set_result(result)

    def run() -> None:
        result, error = None, None
        # Native code can raise outside Exception, and then nobody would know.
        try:
            result = task()
        except BaseException as raised:  # noqa: BLE001
            error = raised
        with suppress(RuntimeError):  # The loop is closed: the server has ended.
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, daemon=True, name="load").start()
    return future
