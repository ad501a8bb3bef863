"""The real server over a fake engine, for tests that need to know what the engine does.

The engine answers a prompt of n characters with ``"n"`` and a newline. Where no string
may stand, it writes ``nN = x``, and with other seeds more of it. A prompt that
holds the word SLOW makes it write ``x`` after ``x`` until it is stopped; FAIL makes it
raise, HANG hang for good, FULL find no memory, and TARDY raise for the n-th time once the
file LOG.failN is there; PARTS makes it write two lines, the second once the file
LOG.release is there. It logs what it does, one JSON list a line, to the file LOG that is
its argument. What is shown and accepted is counted in the file that may be its second
argument. The variable EDIT_DEADLINE_S says how long an editor may take for an edit,
INVOKED_S how long who asks explicitly waits, and with NO_MODEL there is no engine.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from lsp_server import answering, turn_actions
from lsp_server.acceptance import Statistics
from lsp_server.check_worker import CheckWorker
from lsp_server.errors import ModelNotFoundError
from lsp_server.known_names import KnownNames, NamesRequest
from lsp_server.model_host import Progress
from lsp_server.models import embedded_checkpoint
from lsp_server.sampling import BoolArray
from lsp_server.server import create_server
from lsp_server.server_log import log_to_stderr
from lsp_server.serving_model import Model
from lsp_server.settings import Settings
from lsp_server.tokenizer import Tokenizer

_TOKENS_IF_NOT_STOPPED = 3000


class LoggingEngine:
    """See above."""

    eos_token_id = 6105
    vocab_size = 6144
    context_length = 1 << 14
    reused_tokens = 0
    cache_type = "float32"

    def __init__(self, tokenizer: Tokenizer, log: Path) -> None:
        """Log to a file."""
        self._tokenizer = tokenizer
        self._log = log
        self._n_tardy = 0

    def log(self, *event: object) -> None:
        """Append one event."""
        with self._log.open("a") as file:
            print(json.dumps(event), file=file)

    def forget(self) -> None:
        """Empty the caches, of which there are none."""

    def generate(
        self,
        token_ids: Sequence[int],
        *,
        max_new_tokens: int,
        stop: threading.Event | None = None,
        allowed: Callable[[list[int]], BoolArray | None] | None = None,
        **sampling: Any,
    ) -> Iterator[tuple[int, float]]:
        """Yield tokens as described above."""
        prompt = self._tokenizer.decode(list(token_ids))
        if "FAIL" in prompt:
            raise RuntimeError(prompt)
        if "FULL" in prompt:
            raise MemoryError(prompt)
        if "HANG" in prompt:
            self.log("hang")
            threading.Event().wait()
        if "TARDY" in prompt:
            self._n_tardy += 1
            self.log("tardy")
            while not self._log.with_suffix(f".fail{self._n_tardy}").exists():
                time.sleep(0.005)
            raise RuntimeError(prompt)
        generated: list[int] = []
        if "SLOW" in prompt:
            assert stop is not None
            self.log("slow")
            token_id = self._tokenizer.encode("x").token_ids[0]
            for _ in range(_TOKENS_IF_NOT_STOPPED):
                if stop.wait(0.01):
                    self.log("stopped", len(generated))
                    return
                generated.append(token_id)
                yield token_id, 0.0
            self.log("ran to its end")
            return
        if "PARTS" in prompt:
            assert stop is not None
            for token_id in self._tokenizer.encode("a = 1\n").token_ids:
                yield token_id, 0.0
            self.log("first part")
            while not self._log.with_suffix(".release").exists():
                if stop.wait(0.005):
                    self.log("stopped", 1)
                    return
            for token_id in self._tokenizer.encode("b = 2\n# Next.\n").token_ids:
                yield token_id, 0.0
            return
        mask = allowed([]) if allowed else None
        answer = self.answer(prompt)
        # A space that was typed is written again, as a real model would.
        program = f"n{len(prompt)} = x{' + 1' * (sampling.get('seed') or 0)}"
        for spelling in (f"{answer}\n", f" {answer}\n", f"{program}\n"):
            answer_ids = self._tokenizer.encode(spelling).token_ids
            if mask is None or mask[answer_ids[0]]:
                break
        for token_id in answer_ids[:max_new_tokens]:
            yield token_id, 0.0

    def answer(self, prompt: str) -> str:
        """Return what comes after a prompt; a string that is open there ends."""
        return f'" + {len(prompt)}' if prompt.count('"') % 2 else f'"{len(prompt)}"'

    def prefill(self, token_ids: Sequence[int], stop: threading.Event) -> None:
        """Read nothing."""

    def prefill_ms(self, token_ids: Sequence[int]) -> float:
        """Return that reading takes no time."""
        return 0.0

    def n_tokens_within(self, budget_ms: float) -> int:
        """Return all."""
        return self.context_length

    def log_probabilities(
        self, token_ids: Sequence[int], start: int
    ) -> "np.ndarray[Any, np.dtype[np.float32]]":
        """Return zeros."""
        return np.zeros(len(token_ids) - start, np.float32)


class LoggingChecker(CheckWorker):
    """The real one, which logs when it is asked for names and starts when it is needed."""

    def __init__(self, log: Callable[..., None]) -> None:
        """Take what logs."""
        super().__init__()
        self._log = log

    def warm_up(self) -> None:
        """Leave the processor to what is tested."""

    def load_imports(self, request: NamesRequest) -> None:
        """Leave the processor to what is tested."""

    def known_names(self, request: NamesRequest) -> "Future[KnownNames | None]":
        """Log, and answer as ever."""
        self._log("names", request.offset)
        return super().known_names(request)


class FakeModels:
    """One model, whatever is asked for, or none."""

    def __init__(self, model: Model) -> None:
        """Have it at hand."""
        self._model = model

    def prepare(self, _settings: Settings, _progress: Progress) -> Path:
        """Return a folder that nobody opens."""
        if "NO_MODEL" in os.environ:
            raise ModelNotFoundError("there is no model")
        return Path("fake")

    def open(self, _folder: Path, _settings: Settings) -> Model:
        """Return the model."""
        return self._model

    def has_room(self, _folder: Path | None) -> bool:
        """Tell that there is room."""
        return True


def main() -> None:
    """Serve on stdio."""
    log_to_stderr()
    if deadline_s := os.environ.get("EDIT_DEADLINE_S"):
        turn_actions.EDIT_DEADLINE_S = float(deadline_s)
    if deadline_s := os.environ.get("INVOKED_S"):
        answering.INVOKED_S = float(deadline_s)
    tokenizer = Tokenizer.from_file(embedded_checkpoint() / "tokenizer.json")
    engine = LoggingEngine(tokenizer, Path(sys.argv[1]))
    checker = LoggingChecker(engine.log)
    statistics = Statistics(Path(sys.argv[2])) if len(sys.argv) > 2 else None
    server = create_server(
        FakeModels(Model("fake", engine, tokenizer)),
        checker,
        Settings(check_deadline_ms=0, deadline_ms=60_000, max_new_tokens=1024),
        statistics,
    )
    with patch("lsp_server.model_host._HANGS_S", 0.1):
        server.start_io()
    server.host.close()
    checker.close()
    if statistics is not None:
        statistics.write()


if __name__ == "__main__":
    main()
