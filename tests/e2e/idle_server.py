"""The server with the fake engine, told when to load, how long a minute is, and when to go on.

Its arguments are the log, the seconds of a minute, and those after which a load takes long.
It logs every export, load, read and generation. A model whose name holds HELD is opened once
the file LOG.load is there, one whose name holds broken never. One whose name holds checkpoint
is exported until LOG.export is there, or until nobody wants it; one whose name holds missing
is not here. A prompt that holds HOLD is answered once LOG.release is there. After LATER the
engine writes SLOW, so that what comes after its answer is slow, and reading SLOWLY takes
until it is stopped.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from lsp_server.check_worker import CheckWorker
from lsp_server.errors import ModelLoadError, ModelNotFoundError
from lsp_server.model_host import Progress
from lsp_server.models import embedded_checkpoint
from lsp_server.server import create_server
from lsp_server.server_log import log_to_stderr
from lsp_server.serving_model import Model
from lsp_server.settings import Settings
from lsp_server.tokenizer import Tokenizer
from tests.e2e.fake_server import LoggingEngine

_DEADLINE_S = 60.0


class IdleEngine(LoggingEngine):
    """See above."""

    def __init__(self, tokenizer: Tokenizer, log: Path, name: str) -> None:
        """Log under a name."""
        super().__init__(tokenizer, log)
        self._name = name
        self._release = log.with_suffix(".release")

    def generate(self, token_ids: Sequence[int], **options: Any) -> Iterator[tuple[int, float]]:
        """Yield tokens as described above."""
        prompt = self._tokenizer.decode(list(token_ids))
        self.log("generate", self._name, prompt)
        if "HOLD" in prompt:
            _wait(self._release)
        return super().generate(token_ids, **options)

    def answer(self, prompt: str) -> str:
        """Return what makes the next answer slow, where that is wanted."""
        return '"SLOW"' if "LATER" in prompt else super().answer(prompt)

    def prefill(self, token_ids: Sequence[int], stop: threading.Event) -> None:
        """Read at once, or until it is stopped."""
        prompt = self._tokenizer.decode(list(token_ids))
        self.log("read", self._name, prompt)
        if "SLOWLY" in prompt and stop.wait(_DEADLINE_S):
            self.log("reading was stopped")


class IdleModels:
    """See above."""

    def __init__(self, tokenizer: Tokenizer, log: Path) -> None:
        """Log to a file."""
        self._tokenizer = tokenizer
        self._log = log

    def prepare(self, settings: Settings, progress: Progress) -> Path:
        """Export at once, later or never."""
        name = settings.model or "fake"
        if "missing" in name:
            raise ModelNotFoundError(f"{name} is not here; `codegen-lsp pull {name}` gets it")
        engine = IdleEngine(self._tokenizer, self._log, name)
        if "checkpoint" in name:
            engine.log("export", name)
            try:
                _wait(self._log.with_suffix(".export"), lambda: progress(1, 2))
            finally:
                engine.log("export ended", name)
        return Path(name)

    def open(self, folder: Path, _settings: Settings) -> Model:
        """Open at once, later or never."""
        name = folder.name
        engine = IdleEngine(self._tokenizer, self._log, name)
        engine.log("load", name)
        if "HELD" in name:
            _wait(self._log.with_suffix(".load"))
        if "broken" in name:
            raise ModelLoadError(f"{name} cannot be loaded")
        return Model(name, engine, self._tokenizer)

    def has_room(self, _folder: Path | None) -> bool:
        """Tell that there is room."""
        return True


def main() -> None:
    """Serve on stdio."""
    log_to_stderr()
    log, minute_s, patience_s = Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    tokenizer = Tokenizer.from_file(embedded_checkpoint() / "tokenizer.json")

    checker = CheckWorker()
    defaults = Settings(check_deadline_ms=0, deadline_ms=60_000, max_new_tokens=1024)
    server = create_server(IdleModels(tokenizer, log), checker, defaults)
    with (
        patch("lsp_server.model_host._MINUTE_S", minute_s),
        patch("lsp_server.model_host._PATIENCE_S", patience_s),
        patch("lsp_server.model_host.is_on_battery", lambda: False),
    ):
        server.start_io()
    server.host.close()
    checker.close()


def _wait(file: Path, meanwhile: Callable[[], None] = lambda: None) -> None:
    deadline = time.monotonic() + _DEADLINE_S
    while not file.exists() and time.monotonic() < deadline:
        meanwhile()
        time.sleep(0.005)


if __name__ == "__main__":
    main()
