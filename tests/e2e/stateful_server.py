"""The server over a fake engine whose answer is a hash of its prompt, for a random editor.

Its argument is a file for what it logs. Answers take some time, and a prompt that holds
FAIL makes the engine raise. The request ``test/documents`` is answered with all open documents.
"""

import hashlib
import json
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lsp_server.check_worker import CheckWorker
from lsp_server.models import embedded_checkpoint
from lsp_server.server import create_server
from lsp_server.server_log import log_to_stderr
from lsp_server.serving_model import Model
from lsp_server.settings import Settings
from lsp_server.tokenizer import Tokenizer
from tests.e2e.fake_server import FakeModels, LoggingEngine

DOCUMENTS = "test/documents"
CANARY = "canary_7f3a"
_PAUSE_S = 0.002
"""Before each token."""


class HashingEngine(LoggingEngine):
    """See above; it logs nothing."""

    def __init__(self, tokenizer: Tokenizer, pause_s: float = 0.0) -> None:
        """Make a pause before each token."""
        super().__init__(tokenizer, Path(os.devnull))
        self._pause_s = pause_s

    def answer(self, prompt: str) -> str:
        """Return what stands for just this prompt."""
        digest = hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()
        return f'"{CANARY}{digest[:8]}"'

    def generate(
        self, token_ids: Sequence[int], *, stop: threading.Event | None = None, **options: Any
    ) -> Iterator[tuple[int, float]]:
        """Yield tokens, each after a pause."""
        for pair in super().generate(token_ids, stop=stop, **options):
            if stop is not None and stop.wait(self._pause_s):
                return
            yield pair


def hashing_model(pause_s: float = 0.0) -> Model:
    """Return a model with this engine."""
    tokenizer = Tokenizer.from_file(embedded_checkpoint() / "tokenizer.json")
    return Model("fake", HashingEngine(tokenizer, pause_s), tokenizer)


def main() -> None:
    """Serve on stdio."""
    os.dup2(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT), sys.stderr.fileno())
    log_to_stderr()
    checker = CheckWorker()
    server = create_server(
        FakeModels(hashing_model(_PAUSE_S)),
        checker,
        Settings(check_deadline_ms=0, deadline_ms=60_000),
    )

    @server.feature(DOCUMENTS)
    def documents(_params: Any) -> str:
        found = {uri: (kept.version, kept.text) for uri, kept in server.documents.items()}
        return json.dumps(found)

    server.start_io()
    server.host.close()
    checker.close()


if __name__ == "__main__":
    main()
