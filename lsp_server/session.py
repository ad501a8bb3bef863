"""An exported folder in onnxruntime, whose only import this is: a chunk in, logits out.

It knows devices, threads and where KV caches lie; what is in them is the engine's matter.
"""

import contextlib
import io
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

# Its wheels call home unless this is set before they are loaded.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime as ort

from lsp_server.errors import ModelLoadError
from lsp_server.sampling import FloatArray
from model_export.manifest import GRAPH_FILE, INT8_CACHE_GRAPH_FILE, Manifest

Device = Literal["auto", "cpu", "cuda"]

_OLDEST_ONNXRUNTIME = (1, 31)
_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
_CUDA_OPTIONS = {
    # TF32 would make fp32 products less exact than they look.
    "use_tf32": "0",
    # By default memory grows in powers of two, a third more than a model needs.
    "arena_extend_strategy": "kSameAsRequested",
}
_UNWATCHED_TOKENS = 32
_WATCH_S = 0.01
"""How often a watcher looks whether a running chunk is still wanted."""


@dataclass(frozen=True)
class CacheScales:
    """What 1 stands for in an int8 KV cache: a number for each layer."""

    keys: list[float]
    values: list[float]


@dataclass(frozen=True)
class KVCache:
    """Memory for the keys and values of one text.

    ``values`` holds, layer by layer, keys and values (1, n_kv_heads, n_positions, head_dim).
    """

    binding: Any
    values: list[Any]

    def largest(self, n_positions: int) -> CacheScales:
        """Return the largest magnitude in the first positions of each layer."""
        largest = [
            float(np.abs(value.numpy()[:, :, :n_positions]).max()) for value in self.values
        ]
        return CacheScales(keys=largest[0::2], values=largest[1::2])


class Session:
    """One loaded model."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        device: Literal["cpu", "cuda"],
        n_threads: int,
        scales: CacheScales | None,
    ) -> None:
        """Load the graph; with ``scales`` the one whose KV cache is int8.

        Raises:
            ModelLoadError: this onnxruntime is too old.
            Exception: onnxruntime has one class per status code and no common base.
        """
        _check_onnxruntime()
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = n_threads
        architecture = manifest.architecture
        self.device = device
        self._architecture = architecture
        self._scales = scales
        self._cache_type = np.int8 if scales else np.dtype(manifest.kv_cache_type)
        if device == "cuda":
            _load_cuda_libraries()
            # Without this a missing library means a slow model and no message.
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        self._session = ort.InferenceSession(
            folder / (INT8_CACHE_GRAPH_FILE if scales else GRAPH_FILE),
            options,
            providers=[(_CUDA, _CUDA_OPTIONS)] if device == "cuda" else [_CPU],
            # onnxruntime would print that it falls back, where LSP's messages go.
            enable_fallback=0,
        )

    @property
    def cache_type(self) -> str:
        """What keys and values are kept as."""
        return np.dtype(self._cache_type).name

    def cache_bytes(self, n_positions: int) -> int:
        """Return the size of a KV cache."""
        architecture = self._architecture
        width = architecture.n_kv_heads * architecture.head_dim
        item = np.dtype(self._cache_type).itemsize
        return 2 * architecture.n_layers * width * n_positions * item

    def new_cache(self, n_positions: int) -> KVCache:
        """Return an empty KV cache; memory is used as it fills."""
        architecture = self._architecture
        shape = [1, architecture.n_kv_heads, n_positions, architecture.head_dim]
        binding = self._session.io_binding()
        values = []
        for layer in range(architecture.n_layers):
            for kind in ("key", "value"):
                value = self._empty(shape)
                # Past and present share their memory, so that nothing is copied.
                binding.bind_ortvalue_input(f"past_{kind}_{layer}", value)
                binding.bind_ortvalue_output(f"present_{kind}_{layer}", value)
                values.append(value)
                if self._scales:
                    scales = self._scales.keys if kind == "key" else self._scales.values
                    scale = np.array([scales[layer]], np.float32)
                    binding.bind_cpu_input(f"{kind}_scale_{layer}", scale)
        return KVCache(binding, values)

    def _empty(self, shape: list[int]) -> Any:
        if self.device == "cuda":
            # Device memory may hold what a kernel that masks by zeros turns into NaN.
            zeros = np.zeros(shape, self._cache_type)
            return ort.OrtValue.ortvalue_from_numpy(zeros, self.device, 0)
        # The system hands out zeroed pages as they are written.
        return ort.OrtValue.ortvalue_from_shape_and_type(shape, self._cache_type)

    def run(
        self,
        cache: KVCache,
        chunk: Sequence[int],
        n_past: int,
        rows: Sequence[int],
        stop: threading.Event | None = None,
    ) -> FloatArray | None:
        """Run one chunk after ``n_past`` cached positions; returns (len(rows), vocab).

        Returns None where ``stop`` ended it; what it wrote into the cache does not count.
        """
        total = n_past + len(chunk)
        inputs = {
            "token_ids": np.array(chunk, np.int64),
            "row_indices": np.array(rows, np.int64),
            "seqlens_k": np.array([total - 1], np.int32),
            "total_sequence_length": np.array(total, np.int32),
        }
        for name, value in inputs.items():
            cache.binding.bind_cpu_input(name, value)
        # Asking the binding for its outputs would wrap every layer's cache again.
        logits = np.empty((len(rows), self._architecture.vocab_size), np.float32)
        cache.binding.bind_ortvalue_output("logits", ort.OrtValue.ortvalue_from_numpy(logits))
        # A few tokens are over soon, and what they bring is kept.
        if stop is None or len(chunk) <= _UNWATCHED_TOKENS:
            self._session.run_with_iobinding(cache.binding)
            return logits
        options = ort.RunOptions()
        try:
            with _terminated_by(stop, options):
                self._session.run_with_iobinding(cache.binding, options)
        # onnxruntime has one exception class per status code and no common base.
        except Exception:
            if options.terminate:
                return None
            raise
        return logits


def providers() -> dict[str, str]:
    """Return onnxruntime's execution providers with ``ok`` or why one cannot be used."""
    found = {_CPU: "ok"}
    if _CUDA not in ort.get_available_providers():
        found[_CUDA] = "this onnxruntime wheel has no CUDA"
        return found
    reason = _load_cuda_libraries()
    try:
        devices = [device for device in ort.get_ep_devices() if device.ep_name == _CUDA]
    except Exception as error:  # noqa: BLE001  It probes foreign libraries.
        devices, reason = [], str(error).partition("\n")[0]
    if devices and not reason:
        found[_CUDA] = "ok"
    else:
        found[_CUDA] = reason or "no CUDA device was found"
    return found


def why_no_cuda() -> str:
    """Return what is missing for CUDA; an empty text where nothing seems to be."""
    reason = providers()[_CUDA]
    return "" if reason == "ok" else reason


def _load_cuda_libraries() -> str:
    """Load NVIDIA's libraries where pip installed them; returns what went wrong."""
    said = io.StringIO()
    try:
        # What is missing is printed, and standard output is not ours to write to.
        with contextlib.redirect_stdout(said):
            ort.preload_dlls()
    except Exception as error:  # noqa: BLE001  It loads foreign libraries.
        print(error, file=said)
    return said.getvalue().strip().partition("\n")[0]


@contextmanager
def _terminated_by(stop: threading.Event, options: Any) -> Iterator[None]:
    """End the run that uses ``options``, in the middle of it, once ``stop`` is set."""
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


def _check_onnxruntime() -> None:
    parts = ort.__version__.split(".")
    if tuple(map(int, parts[:2])) < _OLDEST_ONNXRUNTIME:
        raise ModelLoadError(
            f"onnxruntime {ort.__version__} is too old; install onnxruntime-gpu >= 1.31, "
            "or onnxruntime where that has no wheel"
        )
