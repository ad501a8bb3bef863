"""Runs an exported folder: token ids in, token ids out; the only onnxruntime import.

It knows nothing of text. The KV cache is a memo of the last token ids that ran: every
step keeps the longest common prefix and computes the rest, so that rewinding costs
nothing and callers that take turns still get right answers.
"""

import contextlib
import io
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import onnxruntime as ort

from lsp_server.errors import ModelLoadError, PromptError
from lsp_server.sampling import BoolArray, FloatArray, choose_token, log_softmax
from model_export.errors import ManifestError
from model_export.manifest import (
    GRAPH_FILE,
    TOKENIZER_FILE,
    Manifest,
    file_sha256,
    read_manifest,
)

Device = Literal["auto", "cpu", "cuda"]

_OLDEST_ONNXRUNTIME = (1, 31)
_PRECISIONS = ("fp32", "int8", "int4")
_PREFILL_CHUNK = 128
"""Tokens in one run; larger chunks are no faster."""
_UNWATCHED_TOKENS = 32
_WATCH_S = 0.01
"""How often a watcher looks whether a running chunk is still wanted."""

AllowedTokens = Callable[[list[int]], BoolArray | None]
Draft = Callable[[list[int]], list[int]]


class Engine:
    """One model, one onnxruntime session, one KV cache of the whole context.

    Several threads may ask; one step runs at a time.
    """

    def __init__(self, manifest: Manifest, session: ort.InferenceSession) -> None:
        """Allocate the cache; ``Engine.open`` is the usual way in."""
        architecture = manifest.architecture
        self.eos_token_id = manifest.eos_token_id
        self.vocab_size = architecture.vocab_size
        self.context_length = manifest.context_length
        self.reused_tokens = 0
        """How many tokens of the latest prompt were in the cache already."""
        self._session = session
        self._is_token = np.arange(self.vocab_size) < manifest.n_tokens
        self._lock = threading.Lock()
        self._cached_ids: list[int] = []
        self._binding = session.io_binding()
        cache_shape = (
            1,
            architecture.n_heads,
            manifest.context_length,
            architecture.head_dim,
        )
        for layer in range(architecture.n_layers):
            for kind in ("key", "value"):
                cache = ort.OrtValue.ortvalue_from_numpy(np.zeros(cache_shape, np.float32))
                # Past and present share their memory, so that nothing is copied.
                self._binding.bind_ortvalue_input(f"past_{kind}_{layer}", cache)
                self._binding.bind_ortvalue_output(f"present_{kind}_{layer}", cache)

    @classmethod
    def open(cls, model_dir: str | Path, device: Device = "auto") -> Self:
        """Load an exported folder; ``auto`` is the device that it was exported for.

        Raises:
            ModelLoadError: the folder is damaged, of another version or for another
                device, or onnxruntime cannot load it.
        """
        folder = Path(model_dir)
        try:
            manifest = read_manifest(folder)
        except ManifestError as error:
            raise ModelLoadError(str(error)) from error
        _check_runs_here(folder, manifest)
        # The weights are too large to hash at each start; their size was checked.
        for name in (GRAPH_FILE, TOKENIZER_FILE):
            try:
                is_whole = file_sha256(folder / name) == manifest.files[name].sha256
            except OSError as error:
                raise ModelLoadError(
                    f"{folder / name} cannot be read: {error.strerror or error}"
                ) from error
            if not is_whole:
                raise ModelLoadError(
                    f"{folder / name} was changed or damaged; export the model again"
                )
        if device not in ("auto", manifest.device):
            raise ModelLoadError(
                f"{folder} was exported for {manifest.device}, not for {device}; export "
                f"the checkpoint again with --device {device}"
            )
        _check_onnxruntime()
        try:
            session = ort.InferenceSession(
                folder / GRAPH_FILE,
                _session_options(),
                providers=["CPUExecutionProvider"],
            )
            engine = cls(manifest, session)
            engine._probe()
            return engine
        # onnxruntime has one exception class per status code and no common base.
        except Exception as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise ModelLoadError(f"onnxruntime cannot load {folder}: {reason[0]}") from error

    def _probe(self) -> None:
        """Run one token at the last place, where sizes that are not the graph's show."""
        logits = self._step([self.eos_token_id], self.context_length - 1, range(1), None)
        if logits is None or logits.shape != (1, self.vocab_size):
            raise ValueError("its manifest is not that of its graph")

    def logits(self, token_ids: Sequence[int]) -> FloatArray:
        """Return unmasked logits (len(token_ids), vocab_size) from an empty cache.

        Raises:
            PromptError: an id is out of range, or there are more than the context holds.
        """
        context = self._checked(token_ids)
        if not context:
            return np.empty((0, self.vocab_size), np.float32)
        with self._lock:
            self._cached_ids = []
            logits = self._advance(context, 0, None)
        assert logits is not None  # noqa: S101  Only a stop flag can end it early.
        return logits

    def log_probabilities(self, token_ids: Sequence[int], start: int) -> FloatArray:
        """Return the natural log-probability of each id from ``start`` on, given all before.

        The first id has nothing before it, so ``start`` is at least 1.

        Raises:
            PromptError: as for ``logits``.
        """
        context = self._checked(token_ids)
        if not 1 <= start < len(context):
            raise PromptError(f"no token {start} has a token before it")
        with self._lock:
            logits = self._advance(context[:-1], start - 1, None)
        assert logits is not None  # noqa: S101  Only a stop flag can end it early.
        rows = np.arange(len(context) - start)
        return log_softmax(logits)[rows, context[start:]]

    def generate(
        self,
        token_ids: Sequence[int],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: threading.Event | None = None,
        allowed: AllowedTokens | None = None,
        draft: Draft | None = None,
    ) -> Iterator[tuple[int, float]]:
        """Yield token ids and their natural log-probabilities under the unmodified model.

        The end-of-text id ends it and is not yielded; so do the end of the context,
        ``stop`` within one token, and ``allowed`` where nothing is. ``allowed`` gets the
        ids generated so far and returns a mask (vocab_size,), or None for any. ``draft`` gets
        the whole context and guesses what follows; a guess changes how many tokens one
        step yields, not which (Leviathan et al., 2023, with a guess that is certain).

        Raises:
            PromptError: the prompt is empty, out of range, or leaves no room.
        """
        context = self._checked(token_ids)
        if not context:
            raise PromptError("a prompt needs at least one token")
        if len(context) >= self.context_length:
            raise PromptError(
                f"the prompt has {len(context)} tokens; the model's context of "
                f"{self.context_length} leaves no room to go on"
            )
        room = min(max_new_tokens, self.context_length - len(context))

        def tokens() -> Iterator[tuple[int, float]]:
            rng = np.random.default_rng(seed)
            generated: list[int] = []
            while len(generated) < room:
                guess = draft(context) if draft is not None else []
                guess = guess[: room - len(generated) - 1]
                first_row = len(context) - 1
                with self._lock:
                    reused = _common_prefix(self._cached_ids, context)
                    logits = self._advance(context + guess, first_row, stop)
                    if not generated:
                        self.reused_tokens = min(reused, first_row)
                if logits is None:
                    return
                # Each row follows from the guess before it, so it counts as long as the
                # tokens that are chosen are the guessed ones.
                for row, guessed in zip(logits, [*guess, None], strict=True):
                    mask = None if allowed is None else allowed(generated)
                    token_id = choose_token(
                        row,
                        self._is_token if mask is None else self._is_token & mask,
                        rng,
                        temperature=temperature,
                        top_k=top_k,
                        top_p=top_p,
                    )
                    if token_id is None or token_id == self.eos_token_id:
                        return
                    context.append(token_id)
                    generated.append(token_id)
                    yield token_id, float(log_softmax(row)[token_id])
                    if stop is not None and stop.is_set():
                        return
                    if token_id != guessed:
                        break

        return tokens()

    def _checked(self, token_ids: Sequence[int]) -> list[int]:
        context = [int(token_id) for token_id in token_ids]
        if len(context) > self.context_length:
            raise PromptError(
                f"{len(context)} tokens do not fit the context of {self.context_length}"
            )
        if context and not 0 <= min(context) <= max(context) < self.vocab_size:
            raise PromptError(f"token ids must lie in 0..{self.vocab_size - 1}")
        return context

    def _advance(
        self, context: list[int], first_row: int, stop: threading.Event | None
    ) -> FloatArray | None:
        """Bring the cache to ``context`` and return the logits from ``first_row`` on.

        Returns None when ``stop`` is set; what was computed by then stays valid.
        """
        reused = min(_common_prefix(self._cached_ids, context), first_row)
        self._cached_ids = context[:reused]
        parts = []
        for start in range(reused, len(context), _PREFILL_CHUNK):
            if stop is not None and stop.is_set():
                return None
            chunk = context[start : start + _PREFILL_CHUNK]
            rows = range(max(0, first_row - start), len(chunk))
            logits = self._step(chunk, start, rows, stop)
            if logits is None:
                return None
            parts.append(logits)
            self._cached_ids += chunk
        return parts[-1] if len(parts) == 1 else np.concatenate(parts)

    def _step(
        self,
        chunk: list[int],
        n_past: int,
        rows: Sequence[int],
        stop: threading.Event | None,
    ) -> FloatArray | None:
        """Run one chunk after ``n_past`` cached positions; returns (len(rows), vocab).

        Returns None where ``stop`` ended it; what it wrote into the cache is not counted.
        """
        total = n_past + len(chunk)
        inputs = {
            "token_ids": np.array(chunk, np.int64),
            "row_indices": np.array(rows, np.int64),
            "seqlens_k": np.array([total - 1], np.int32),
            "total_sequence_length": np.array(total, np.int32),
        }
        for name, value in inputs.items():
            self._binding.bind_cpu_input(name, value)
        self._binding.bind_output("logits", "cpu")
        options = ort.RunOptions()
        # A few tokens are over sooner than a watcher would see that they are not wanted.
        watched = stop if len(chunk) > _UNWATCHED_TOKENS else None
        try:
            with _terminated_by(watched, options):
                self._session.run_with_iobinding(self._binding, options)
        # onnxruntime has one exception class per status code and no common base.
        except Exception:
            if options.terminate:
                return None
            raise
        logits: FloatArray = self._binding.get_outputs()[-1].numpy()
        return logits


def providers() -> dict[str, str]:
    """Return onnxruntime's execution providers with ``ok`` or why one cannot be used."""
    available = ort.get_available_providers()
    found = {"CPUExecutionProvider": "ok"}
    if "CUDAExecutionProvider" not in available:
        found["CUDAExecutionProvider"] = "this onnxruntime wheel has no CUDA"
        return found
    said = io.StringIO()
    try:
        # Where NVIDIA's packages are installed with pip, their libraries are found so;
        # what is missing is printed, and standard output is not ours to write to.
        with contextlib.redirect_stdout(said):
            ort.preload_dlls()
        devices = [d for d in ort.get_ep_devices() if d.ep_name == "CUDAExecutionProvider"]
    except Exception as error:  # noqa: BLE001  It probes foreign libraries.
        print(error, file=said)
        devices = []
    reason = said.getvalue().strip().partition("\n")[0]
    if devices and not reason:
        found["CUDAExecutionProvider"] = "ok"
    else:
        found["CUDAExecutionProvider"] = reason or "no CUDA device was found"
    return found


def _common_prefix(cached: list[int], wanted: list[int]) -> int:
    # Most steps extend what is cached, and comparing whole lists is fast.
    if wanted[: len(cached)] == cached:
        return len(cached)
    pairs = zip(cached, wanted, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


@contextmanager
def _terminated_by(stop: threading.Event | None, options: Any) -> Iterator[None]:
    """End the run that uses ``options``, in the middle of it, once ``stop`` is set."""
    if stop is None:
        yield
        return
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(_WATCH_S):
            if stop.is_set():
                options.terminate = True
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        watcher.join()


def _session_options() -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return options


def _check_runs_here(folder: Path, manifest: Manifest) -> None:
    """Refuse what another version may have written and this one would run wrongly."""
    if manifest.device != "cpu":
        raise ModelLoadError(
            f"{folder} was exported for {manifest.device}; this version runs on the CPU "
            "only; export with --device cpu"
        )
    for what, found, known in (
        ("the family", manifest.family, ("codegen",)),
        ("the precision", manifest.precision, _PRECISIONS),
        ("a cache of type", manifest.kv_cache_type, ("float32",)),
    ):
        if found not in known:
            raise ModelLoadError(
                f"{folder} has {what} {found!r}, which this version does not run "
                f"({', '.join(known)}); export the checkpoint again"
            )
    vocab_size = manifest.architecture.vocab_size
    is_sane = 0 < manifest.n_tokens <= vocab_size and 0 <= manifest.eos_token_id < vocab_size
    if not is_sane or not 0 < manifest.context_length <= manifest.architecture.context_length:
        raise ModelLoadError(
            f"{folder} has a manifest that contradicts itself; export the checkpoint again"
        )


def _check_onnxruntime() -> None:
    parts = ort.__version__.split(".")
    if tuple(map(int, parts[:2])) < _OLDEST_ONNXRUNTIME:
        raise ModelLoadError(
            f"onnxruntime {ort.__version__} is too old; install onnxruntime-gpu >= 1.31, "
            "or onnxruntime where that has no wheel"
        )
