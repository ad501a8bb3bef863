"""The process that analyses code, and the handle to it; late or dead, it costs only answers.

One JSON object a line goes each way. The process ends with its standard input, so it
never outlives the server. Run as a module it is the worker; imported it is the handle.
"""

import gc
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from itertools import count, islice
from queue import PriorityQueue
from typing import Any

import cattrs

from lsp_server.known_names import KnownNames, NameKind, NamesRequest, imported_modules
from lsp_server.verdict import UNCHECKED, CheckRequest, Verdict

_LARGEST_TEXT = 1 << 20
"""Characters; a larger file is unchecked, because jedi would take minutes."""
_STUCK_AFTER_S = 20.0
_NAMES_WITHIN_S, _CHECK_WITHIN_S, _FIRST_WITHIN_S = 1.0, 2.0, 15.0
"""So long one question may work and keep the others waiting; the first loads what all need."""
_GRACE_S = 1.0
"""So long a worker may take to end when told; killed, it may leave half a file behind."""

_YOUNG, _ALL = 0, 2
"""What the garbage collector looks through; all that jedi keeps takes it up to a second."""
_COLLECTS_ALL_EVERY = 2000
"""Questions; what is young when it becomes garbage is nearly all of it."""

_URGENT, _USUAL, _LAST = range(3)
_N_LOADED, _N_LOADED_IN_ALL = 20, 200
"""So many modules of a file, and of all files, are read before anybody asks."""


@dataclass(frozen=True)
class _Work:
    """What one request is answered; ``nothing`` is the answer where there is none."""

    request: CheckRequest | NamesRequest
    future: Future[Any]
    answer: Any
    nothing: Verdict | None


class CheckWorker:
    """A worker process, started when first needed and again after it died."""

    def __init__(self) -> None:
        """Start nothing yet."""
        self._queue: PriorityQueue[tuple[int, int, _Work | None]] = PriorityQueue()
        self._numbers = count()
        self._thread: threading.Thread | None = None
        self._process: subprocess.Popen[str] | None = None
        self._busy_since: float | None = None
        self._lock = threading.Lock()
        self._is_closed = False
        self._loaded: set[tuple[str | None, ...]] = set()

    def submit(self, request: CheckRequest) -> "Future[Verdict]":
        """Return the future verdict; it never fails, and is unchecked at the worst.

        This never waits, and waiting for the future needs a deadline: cold, jedi takes
        seconds. A future that is cancelled before its turn is not checked.
        """
        future: Future[Verdict] = Future()
        self._put(_USUAL, _Work(request, future, Verdict, UNCHECKED))
        return future

    def known_names(self, request: NamesRequest) -> "Future[KnownNames | None]":
        """Return the future names, before any check that waits; None where none are certain.

        It never fails and never waits, as ``submit``.
        """
        future: Future[KnownNames | None] = Future()
        self._put(_URGENT, _Work(request, future, KnownNames | None, None))
        return future

    def _put(self, priority: int, work: _Work) -> None:
        with self._lock:
            if self._is_closed or len(work.request.text) > _LARGEST_TEXT:
                work.future.set_result(work.nothing)
                return
            since, process = self._busy_since, self._process
            if since and process and time.monotonic() - since > _STUCK_AFTER_S:
                process.kill()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()
            self._queue.put((priority, next(self._numbers), work))

    def load_imports(self, request: NamesRequest) -> None:
        """Let the modules that a file imports be read while nothing else is asked.

        Each is a question of its own, asked once of a project's files, so that one that is
        urgent waits for one at most.
        """
        for module, end in islice(imported_modules(request.text), _N_LOADED):
            key = module, request.project, request.environment
            if key not in self._loaded and len(self._loaded) < _N_LOADED_IN_ALL:
                self._loaded.add(key)
                question = replace(request, offset=end, kind=NameKind.IMPORT)
                self._put(_LAST, _Work(question, Future(), KnownNames | None, None))

    def warm_up(self) -> None:
        """Start the process and let jedi load what every check needs."""
        self.submit(CheckRequest("", 0, "import os\nfrom os import path\n"))

    def close(self) -> None:
        """End the process; what still waits is unchecked."""
        with self._lock:
            self._is_closed = True
            self._queue.put((_LAST, next(self._numbers), None))
            if self._process is not None:
                self._process.terminate()
        if self._thread is not None:
            self._thread.join(_GRACE_S)
            if process := self._process:
                process.kill()
            self._thread.join()

    def _run(self) -> None:
        while work := self._queue.get()[-1]:
            if not work.future.set_running_or_notify_cancel():
                continue
            self._busy_since = time.monotonic()
            try:
                answer = self._ask(work)
            # Whatever ails the worker, the next request gets a fresh one.
            except Exception:  # noqa: BLE001
                self._end_process()
                answer = work.nothing
            self._busy_since = None
            work.future.set_result(answer)
        self._end_process()

    def _ask(self, work: _Work) -> Any:
        with self._lock:
            if self._is_closed:
                return work.nothing
            if self._process is None:
                self._process = _start_process()
            process = self._process
        question = {"asked": type(work.request).__name__, **asdict(work.request)}
        print(json.dumps(question), file=process.stdin, flush=True)
        assert process.stdout is not None  # noqa: S101  It is a pipe.
        return cattrs.structure(json.loads(process.stdout.readline()), work.answer)

    def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        try:
            # It ends with its standard input.
            process.communicate(timeout=_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def _start_process() -> subprocess.Popen[str]:
    return subprocess.Popen(
        # Isolated, so that neither the folder it stands in nor the environment can slip
        # in a module of theirs.
        [sys.executable, "-I", "-m", "lsp_server.check_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
    )


def main() -> None:
    """Answer requests until standard input ends."""
    from lsp_server.check import check
    from lsp_server.jedi_script import clear_cache, is_of_cache
    from lsp_server.name_lookup import known_names
    from lsp_server.time_limit import OutOfTime, at_most, end_when_told

    end_when_told()
    # What a library prints must not end up among the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def answer(question: dict[str, Any]) -> Verdict | KnownNames | None:
        if question["asked"] == NamesRequest.__name__:
            return known_names(cattrs.structure(question, NamesRequest))
        return check(cattrs.structure(question, CheckRequest))

    def answer_twice(question: dict[str, Any]) -> Verdict | KnownNames | None:
        try:
            return answer(question)
        except Exception as error:
            if not is_of_cache(error):
                raise
        clear_cache()
        with at_most(_FIRST_WITHIN_S):
            return answer(question)

    # Not in the middle of an answer; and parso switches the collector on whenever it reads.
    gc.set_threshold(0)
    within = _FIRST_WITHIN_S
    for n_asked, line in enumerate(sys.stdin, 1):
        question = json.loads(line)
        is_check = question["asked"] == CheckRequest.__name__
        try:
            with at_most(max(within, _CHECK_WITHIN_S if is_check else _NAMES_WITHIN_S)):
                found = answer_twice(question)
        # jedi can raise anything on code that it does not understand.
        except (Exception, OutOfTime):  # noqa: BLE001
            found = UNCHECKED if is_check else None
        within = 0.0
        print(json.dumps(found and asdict(found)), file=answers, flush=True)
        gc.collect(_ALL if n_asked % _COLLECTS_ALL_EVERY == 0 else _YOUNG)


if __name__ == "__main__":
    main()
