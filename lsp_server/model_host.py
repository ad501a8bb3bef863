"""Keeps one model at hand: loads it, runs it in one thread, lets it go when nobody types.

It also uses the time when nobody asks: it reads what will be asked about, and goes on
after what was answered. It knows neither LSP nor any checker.
"""

import asyncio
import ctypes
import gc
import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from lsp_server.answers import Answer, Answers, goes_along
from lsp_server.completion import (
    SUPERSEDED,
    UNFINISHED,
    Completion,
    complete,
    line_end_of,
    standing,
    suggestion_source,
    warm_up,
)
from lsp_server.errors import ModelHangsError
from lsp_server.perplexity import turn_perplexity
from lsp_server.plan import Snapshot
from lsp_server.power import is_on_battery
from lsp_server.prompt import prompt_start
from lsp_server.scheduler import Scheduler
from lsp_server.serving_model import Model
from lsp_server.settings import Settings
from lsp_server.steering import NameSource
from lsp_server.turns import Turn
from lsp_server.writing import Draft

_MINUTE_S = 60.0
_PATIENCE_S = 3.0
"""So long requests wait for a model; then another answers them until it is there."""
_STOPPING_S = 5.0
"""A model that hangs may keep its memory; the next one is loaded all the same."""
_HANGS_S = 10.0
"""What has not ended so long after it was told to never will."""

Perplexities = dict[Turn, float | None]
"""Of turns' prompts, None where they have none."""
Progress = Callable[[int, int], None]
Result = TypeVar("Result")

log = logging.getLogger(__name__)


class ModelSource(Protocol):
    """What the host needs of ``lsp_server.local_models``; each call has a thread to itself."""

    def prepare(self, settings: Settings, progress: Progress) -> Path:
        """Return the exported folder of a model; it may have to be made.

        What ``progress`` raises ends that.
        """

    def open(self, folder: Path, settings: Settings) -> Model:
        """Return the model of an exported folder."""

    def has_room(self, folder: Path | None) -> bool:
        """Tell whether a model fits beside what the memory holds; None: an export."""


class _NotWantedError(Exception):
    """Ends an export that a newer load took the place of."""


@dataclass
class _Run:
    """What the model writes for one snapshot; it may outlast the request that began it."""

    snapshot: Snapshot
    n_models: int
    """How often the model had changed when it began."""
    n_forgotten: int
    """How often answers were forgotten when it began."""
    stop: threading.Event = field(default_factory=threading.Event)
    draft: Draft = field(default_factory=Draft)
    future: "Future[Completion]" = field(default_factory=Future)
    is_late: bool = False
    """Whether its request was answered with what stood by the deadline."""

    def goes_along(self, snapshot: Snapshot) -> bool:
        """Tell whether the snapshot differs by no more than a beginning of what is written."""
        line_end = line_end_of(self.snapshot.text)
        written = self.draft.written.replace("\n", line_end)
        return goes_along(self.snapshot, written, snapshot)


class ModelHost:
    """One model or none; its methods belong to the event loop."""

    def __init__(self, source: ModelSource) -> None:
        """Load nothing yet."""
        self.model: Model | None = None
        self.n_models = 0
        """How often one model took another's place; tells who waits that it changed."""
        self.answers = Answers()
        self.scheduler = Scheduler()
        self.is_asleep = False
        """Whether the model was let go because nobody typed."""
        self.names_for: Callable[[Snapshot], NameSource | None] = lambda _snapshot: None
        """What a text may name is steered by; asked on any thread."""
        self.on_failure: Callable[[BaseException], None] = lambda _error: None
        """Told of a model that raises or hangs; one that hangs is gone by then."""
        self.on_answer: Callable[[], None] = lambda: None
        """Told of a model that does not."""
        self._source = source
        self._is_standing_in = False
        """Whether the model is the embedded one in place of another."""
        self._load: asyncio.Task[None] | None = None
        self._is_prepared = threading.Event()
        self._is_prepared.set()
        self._waiting: asyncio.Event | None = None
        """Requests wait for it, where there is one."""
        self._last_use = time.monotonic()
        self._ahead = ""
        self._n_forgotten = 0
        self._late: _Run | None = None
        self._watching: asyncio.Task[None] | None = None
        self._replaced: threading.Event | None = None
        """What ends the task of a model whose place another took."""

    async def load(
        self, settings: Settings, report: Progress, tell_meanwhile: Callable[[], None]
    ) -> bool:
        """Load the model that the settings name; False where a newer call took over.

        Requests wait for it. If it takes long, because a checkpoint must be exported or a
        model is large, they are answered by the model that was there before, else by the
        embedded one; ``tell_meanwhile`` is called when that begins. Where the model cannot
        be had, the one that is there by then stays, or else the embedded one comes.

        Raises:
            Exception: whatever the source raises, if no newer call took over.
        """
        if self._load is not None:
            self._load.cancel()
        self.is_asleep = False
        self.expect_load()
        load = asyncio.ensure_future(self._load_model(settings, report, tell_meanwhile))
        self._load = load
        try:
            await load
        except BaseException:
            if self._load is not load:
                return False
            raise
        else:
            return self._load is load
        finally:
            if self._load is load:
                # It would hold what its error holds.
                self._load = None
                self.give_up_load()

    def expect_load(self) -> None:
        """Let requests wait for a load that is about to begin."""
        self._waiting = self._waiting or asyncio.Event()

    def give_up_load(self) -> None:
        """Answer those who wait with what there is."""
        self._last_use = time.monotonic()
        if self._waiting is not None:
            self._waiting.set()
            self._waiting = None

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
        if self.model is not None and self._load is None:
            self.model = None
            self.forget_answers()
            _give_memory_back()
            self.is_asleep = True

    async def complete(
        self,
        snapshot: Snapshot,
        settings: Settings,
        outdated: asyncio.Event,
        *,
        n_candidates: int,
        buffers: Sequence[str],
        deadline_s: float | None = None,
    ) -> Completion:
        """Complete a snapshot before anything else, once there is a model.

        A newer request of its document ends it. Where another model takes the place of
        the one that is asked, that one is asked. ``buffers`` are texts of other documents.
        At the deadline, counted from when there is a model, what stands is the answer;
        the model goes on, and a request that goes along with it gets the rest.
        Raises what the engine raises.
        """
        ends = math.inf
        while True:
            await self._wait_for_load(outdated)
            if outdated.is_set():
                return Completion(silence=SUPERSEDED)
            if self.model is None:
                return Completion(silence="no model is loaded")
            if deadline_s is not None and ends == math.inf:
                ends = time.monotonic() + deadline_s
            n_models = self.n_models
            run = self._late
            if run is None or deadline_s is None or not self.is_writing_along(snapshot):
                run = self._begin(
                    self.model, snapshot, settings, n_candidates=n_candidates, buffers=buffers
                )
            completion = await self._await(run, outdated, ends)
            if run.snapshot is not snapshot:
                completion = _rest_of(completion, run.snapshot, snapshot)
                if completion.is_whole and not completion.candidates:
                    # It ended where the text ends now, so something new begins.
                    self._stop_late()
                    continue
            if n_models == self.n_models or outdated.is_set():
                return completion

    @property
    def late(self) -> Snapshot | None:
        """The snapshot whose answer goes on being written after its deadline."""
        return self._late.snapshot if self._late is not None else None

    def is_writing_along(self, snapshot: Snapshot) -> bool:
        """Tell whether the rest of a late answer is being written for just this text."""
        late = self._late
        return late is not None and not late.stop.is_set() and late.goes_along(snapshot)

    def stop(self, uri: str) -> None:
        """End what is being written for a document."""
        self.scheduler.stop(uri)

    async def _wait_for_load(self, outdated: asyncio.Event) -> None:
        self._last_use = time.monotonic()
        if self._waiting is not None:
            waits = [asyncio.ensure_future(e.wait()) for e in (self._waiting, outdated)]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()

    def _begin(
        self,
        model: Model,
        snapshot: Snapshot,
        settings: Settings,
        *,
        n_candidates: int,
        buffers: Sequence[str],
    ) -> _Run:
        self._stop_late()
        run = _Run(snapshot, self.n_models, self._n_forgotten)
        task = partial(
            complete,
            model,
            snapshot,
            max_new_tokens=settings.max_new_tokens,
            n_candidates=n_candidates,
            stop=run.stop,
            budget_ms=settings.latency_budget_ms,
            nearby=self._nearby(snapshot.uri, buffers),
            draft=run.draft,
            in_comments=settings.in_comments,
            names=self.names_for(snapshot),
        )
        run.future = self.scheduler.submit(snapshot.uri, run.stop, task)
        run.future.add_done_callback(partial(self._keep, run))
        report = partial(self._report, run, run.future)
        run.future.add_done_callback(partial(_call_in, asyncio.get_running_loop(), report))
        if self._watching is None or self._watching.done():
            self._watching = asyncio.ensure_future(self._watch())
        return run

    async def _await(self, run: _Run, outdated: asyncio.Event, ends: float) -> Completion:
        """Return what a run has written when it is done, or what stands at the deadline."""
        done = asyncio.Event()
        loop = asyncio.get_running_loop()
        run.future.add_done_callback(partial(_call_in, loop, done.set))
        waits = [asyncio.ensure_future(event.wait()) for event in (done, outdated)]
        rest_s = None if ends == math.inf else max(0.0, ends - time.monotonic())
        try:
            await asyncio.wait(waits, timeout=rest_s, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            if not run.is_late:
                run.stop.set()
                run.future.cancel()
            raise
        finally:
            for wait in waits:
                wait.cancel()
        is_done = run.future.done()
        if _is_given_up(run.future) if is_done else outdated.is_set():
            return Completion(silence=SUPERSEDED)
        # In this order, so that one that is done just now is kept by one of the two.
        run.is_late = True
        if run.future.done():
            return run.future.result()
        self._late = run
        return standing(run.snapshot, run.draft)

    def _report(self, run: _Run, future: "Future[Completion]") -> None:
        """Tell how a run ended, late or not, if it is the present model's."""
        if run.n_models != self.n_models or _is_given_up(future):
            return
        if error := future.exception():
            self.on_failure(error)
        elif future.result().candidates:
            self.on_answer()

    async def _watch(self) -> None:
        """Give up what does not end though it was told to; it would hold the one thread."""
        while self.scheduler.is_busy:
            stop = self.scheduler.running
            was_stopped = stop is not None and stop.is_set()
            await asyncio.sleep(_HANGS_S)
            if was_stopped and self.scheduler.running is stop:
                self._give_up(is_replaced=self._replaced is stop)

    def _give_up(self, *, is_replaced: bool) -> None:
        """Leave a task to itself, and its model too, unless another took its place."""
        log.error("the model hangs")
        # Whoever waited asks the model that is there, or the one that comes.
        self.n_models += 1
        if not is_replaced:
            self.model = None
            self.forget_answers()
            self.expect_load()
        error = ModelHangsError("the model hangs")
        self.scheduler.abandon(error)
        if not is_replaced and self._load is None:
            self.on_failure(error)

    def _stop_late(self) -> None:
        """End the rest of a late answer, which nobody waits for any more."""
        if self._late is not None:
            self._late.stop.set()
            self._late = None

    def read_ahead(self, snapshot: Snapshot, settings: Settings) -> None:
        """Read what a completion of the snapshot would need, while nobody asks."""
        if model := self.model:
            task = partial(warm_up, model, snapshot, max_new_tokens=settings.max_new_tokens)
            self.scheduler.submit_idle(partial(_unless_on_battery, task))

    def go_on(self, completion: Completion, answer: Answer | None, settings: Settings) -> None:
        """Use the time after an answer of the model.

        Read what there was no time for, else write what may come after the answer.
        """
        model = self.model
        if model is None:
            return
        if completion.unread:
            self._read(completion.unread)
        elif answer is not None:
            task = partial(self._write_ahead, model, answer, settings)
            self.scheduler.submit_idle(partial(_unless_on_battery, task))

    def _read(self, token_ids: Sequence[int]) -> None:
        if model := self.model:
            self.scheduler.submit_idle(lambda stop: model.engine.prefill(token_ids, stop))

    def measure(
        self, text: str, turns: Sequence[Turn], tell: Callable[[Perplexities], None]
    ) -> None:
        """Find the perplexities of turns' prompts, while there is nothing else at all to do.

        ``tell`` gets what is known whenever that ends or gives way. A text longer than the
        model's context would have to be read again and again, so the turns past that have
        none.
        """
        model = self.model
        if model is None:
            return
        loop = asyncio.get_running_loop()

        def tell_there(found: Perplexities) -> None:
            with suppress(RuntimeError):  # The loop is closed: the server has ended.
                loop.call_soon_threadsafe(tell, found)

        task = partial(_measure, model, text, list(turns), tell_there)
        self.scheduler.submit_patient(partial(_unless_on_battery, task))

    def close(self) -> None:
        """Stop what is running, an export too."""
        load, self._load = self._load, None
        for task in (load, self._watching):
            if task is not None:
                task.cancel()
        self.model = None
        self.give_up_load()
        self.scheduler.close()

    def wait(self, deadline_s: float) -> None:
        """Wait until what was running when it was closed has ended, each so long."""
        # So that an export takes away what it has written.
        self._is_prepared.wait(deadline_s)
        self.scheduler.wait(deadline_s)

    def forget_answers(self) -> None:
        """Forget what another model, or other settings, would answer otherwise."""
        self.scheduler.stop_idle()
        self._stop_late()
        self._n_forgotten += 1
        self.answers.clear()
        self._ahead = ""

    async def _load_model(
        self, settings: Settings, report: Progress, tell_meanwhile: Callable[[], None]
    ) -> None:
        is_unwanted = threading.Event()

        def progress(done: int, total: int) -> None:
            if is_unwanted.is_set():
                raise _NotWantedError
            report(done, total)

        def prepare() -> Path:
            try:
                return self._source.prepare(settings, progress)
            finally:
                is_prepared.set()

        def answer_meanwhile() -> asyncio.Task[None]:
            return asyncio.ensure_future(
                self._answer_meanwhile(settings, preparing, tell_meanwhile)
            )

        self._is_prepared = is_prepared = threading.Event()
        preparing = _in_daemon_thread(prepare)
        answering = answer_meanwhile()
        try:
            folder = await preparing
            if self._is_large() and not await self._has_room(folder):
                answering.cancel()
                self.expect_load()
                await self._free()
                answering = answer_meanwhile()
            model = _in_daemon_thread(partial(self._source.open, folder, settings))
            self._use(await model)
        except asyncio.CancelledError:
            raise
        except BaseException:
            answering.cancel()
            if self.model is None and settings.model:
                await self._use_embedded(settings)
            raise
        finally:
            is_unwanted.set()
            answering.cancel()

    async def _answer_meanwhile(
        self,
        settings: Settings,
        preparing: "asyncio.Future[Path]",
        tell_meanwhile: Callable[[], None],
    ) -> None:
        """Let another model answer, if the one that the settings name takes long."""
        await asyncio.sleep(_PATIENCE_S)
        if self._is_large() and not preparing.done() and not await self._has_room(None):
            await self._free()
        if self.model is None and settings.model:
            await self._use_embedded(settings)
        if self.model is not None:
            self.give_up_load()
            tell_meanwhile()

    def _is_large(self) -> bool:
        """Tell whether letting the model go would give back much memory."""
        return self.model is not None and not self._is_standing_in

    async def _has_room(self, folder: Path | None) -> bool:
        return await _in_daemon_thread(partial(self._source.has_room, folder))

    async def _use_embedded(self, settings: Settings) -> None:
        """Use the embedded model, which is better than none."""
        embedded = replace(settings, model=None, device="auto")

        def load() -> Model:
            folder = self._source.prepare(embedded, lambda _done, _total: None)
            return self._source.open(folder, embedded)

        try:
            self._use(await _in_daemon_thread(load))
            self._is_standing_in = True
        # What is wrong with it is told to whoever asks for it.
        except Exception as error:  # noqa: BLE001
            log.warning("the embedded model cannot be used: %s", type(error).__name__)

    def _use(self, model: Model) -> None:
        """Let a model take the place of the one that is there, if one is."""
        self.n_models += 1
        self.model = model
        self._is_standing_in = False
        self._replaced = self.scheduler.running
        self.forget_answers()
        ended = asyncio.wrap_future(self.scheduler.stop_all())
        ended.add_done_callback(lambda _: _give_memory_back())

    async def _free(self) -> None:
        """Let the model go, and wait until nobody runs it."""
        self.n_models += 1
        self.model = None
        self._replaced = self.scheduler.running
        self.forget_answers()
        await asyncio.wait(
            {asyncio.wrap_future(self.scheduler.stop_all())}, timeout=_STOPPING_S
        )
        _give_memory_back()

    def _write_ahead(
        self, model: Model, answer: Answer, settings: Settings, *, stop: threading.Event
    ) -> None:
        accepted = answer.accepted
        if self.answers.find(accepted):
            return
        completion = complete(
            model,
            accepted,
            max_new_tokens=settings.max_new_tokens,
            stop=stop,
            budget_ms=math.inf,
            nearby=self._nearby(accepted.uri, ()),
            in_comments=settings.in_comments,
            names=self.names_for(accepted),
        )
        # What is not whole yet is still a good guess.
        self._ahead = suggestion_source(accepted, completion.written)
        # Whoever ends idle work, as another model or setting does, wants none of this.
        if completion.candidates and not stop.is_set():
            self.answers.remember(Answer(accepted, completion.candidates[0], None))

    def _keep(self, run: _Run, future: "Future[Completion]") -> None:
        """Keep what was written late or in part: a text may go on the same way."""
        if _is_given_up(future):
            return
        if error := future.exception():
            if run.is_late:
                # A request that meets the same error tells it.
                log.warning("the rest of an answer failed: %s", type(error).__name__)
            return
        completion = future.result()
        if completion.written and not completion.candidates:
            self._ahead = suggestion_source(run.snapshot, completion.written)
        if not run.is_late or run.stop.is_set() or run.n_forgotten != self._n_forgotten:
            return
        if completion.candidates:
            self.answers.remember(Answer(run.snapshot, completion.candidates[0], None))
        if completion.unread:
            self._read(completion.unread)

    def _nearby(self, uri: str, buffers: Sequence[str]) -> list[str]:
        latest = self.answers.latest(uri)
        suggested = [self._ahead] if self._ahead else []
        if latest is not None:
            suggested.append(suggestion_source(latest.snapshot, latest.candidate.insert_text))
        return [*suggested, *buffers]


def _rest_of(completion: Completion, then: Snapshot, now: Snapshot) -> Completion:
    """Return what remains to be inserted of a completion for an earlier snapshot."""
    rests = (
        replace(candidate, insert_text=Answer(then, candidate, None).rest(now))
        for candidate in completion.candidates
    )
    left = tuple(candidate for candidate in rests if candidate.insert_text.strip())
    return replace(completion, candidates=left, silence="" if left else UNFINISHED)


def _measure(
    model: Model,
    text: str,
    left: list[Turn],
    tell: Callable[[Perplexities], None],
    *,
    stop: threading.Event,
) -> None:
    """Measure turns from the top on; those that are done are taken off the list."""
    found: Perplexities = {}
    while left and not stop.is_set():
        turn = left[0]
        before, n_tokens = text[: turn.prompt_end], model.engine.context_length
        if prompt_start(model.tokenizer, before, [], n_tokens) > 0:
            found |= dict.fromkeys(left)
            left.clear()
            break
        perplexity = turn_perplexity(model, text, turn, stop)
        if not stop.is_set():
            found[turn] = perplexity
            del left[0]
    if found:
        tell(found)


def _is_given_up(future: "Future[Completion]") -> bool:
    """Tell whether a run that is over did not end by itself."""
    return future.cancelled() or isinstance(future.exception(), ModelHangsError)


def _call_in(loop: asyncio.AbstractEventLoop, tell: Callable[[], object], _: object) -> None:
    with suppress(RuntimeError):  # The loop is closed: the server has ended.
        loop.call_soon_threadsafe(tell)


def _give_memory_back() -> None:
    """Free what nobody holds; an engine's memory is worth more than the milliseconds.

    What is left by then stays for long. No later collection looks at it: that would hold
    the event loop for 50 ms and more, again and again.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    if sys.platform == "linux":
        # glibc keeps hundreds of megabytes of a model that was opened after an export.
        with suppress(AttributeError):  # Other C libraries have no such function.
            ctypes.CDLL(None).malloc_trim(0)


def _unless_on_battery(task: Callable[..., None], stop: threading.Event) -> None:
    if not is_on_battery():
        task(stop=stop)


def _in_daemon_thread(task: Callable[[], Result]) -> "asyncio.Future[Result]":
    """Run a task that nobody waits for when the server ends."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def settle(result: Result | None, error: BaseException | None) -> None:
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
