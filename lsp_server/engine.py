"""Runs an exported folder: token ids in, token ids out; knows nothing of text.

A KV cache is a memo of the token ids that ran in it: every step keeps the longest
common prefix and computes the rest, so that rewinding costs nothing and callers that
take turns still get right answers. There are two, so that a text can be read in one
while another is gone on with.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import psutil

from lsp_server.errors import DeviceError, ModelLoadError, PromptError
from lsp_server.sampling import BoolArray, FloatArray, choose_token, log_softmax
from lsp_server.session import CacheScales, Device, KVCache, Session, why_no_cuda
from model_export.errors import ManifestError
from model_export.manifest import (
    DATA_FILE,
    GRAPH_FILE,
    INT8_CACHE_GRAPH_FILE,
    TOKENIZER_FILE,
    Manifest,
    file_sha256,
    read_manifest,
)

_PRECISIONS = ("fp32", "fp16", "int8", "int4")
_CACHE_TYPES = ("float32", "float16")
_N_CACHES = 2
_FEWEST_POSITIONS = 64
"""A context that is shorter completes nothing."""
_PREFILL_CHUNK = 128
"""Tokens in one run at most; larger chunks are no faster."""
_SMALLEST_CHUNK = 8
_CHUNK_S = 0.1
"""How long a chunk may take that a newer request can end. What a chunk has read when it
is ended is lost, so long chunks would read nothing while somebody types."""
_CHUNK_SHARE = 0.25
"""Of the time that was read before, what a chunk may take; longer chunks read faster."""
_PROBED_TOKENS = 32
_BESIDE_WEIGHTS = 250_000_000
"""Bytes that a loaded model needs beside its weights and its cache, at most."""
_WINDOWS = (64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536)
"""Tokens that a prompt within a budget may have. A size that followed the measured speed
would move the prompt's start, and so lose the cache, from one keystroke to the next."""

AllowedTokens = Callable[[list[int]], BoolArray | None]
Draft = Callable[[list[int]], list[int]]


@dataclass
class _Slot:
    """A KV cache and the token ids whose keys and values are in it."""

    cache: KVCache
    token_ids: list[int] = field(default_factory=list)
    last_use: int = 0


class Engine:
    """One model, one onnxruntime session, two KV caches where there is room.

    Several threads may ask; one step runs at a time.
    """

    def __init__(
        self, manifest: Manifest, session: Session, cache_bytes: int | None = None
    ) -> None:
        """Size the caches; ``Engine.open`` is the usual way in.

        Raises:
            ModelLoadError: ``cache_bytes`` are too few for any cache.
        """
        self.eos_token_id = manifest.eos_token_id
        self.vocab_size = manifest.architecture.vocab_size
        self.context_length, n_caches = _sizes(manifest, session, cache_bytes)
        self.cache_type = session.cache_type
        """What keys and values are kept as."""
        self.reused_tokens = 0
        """How many tokens of the latest prompt were in the cache already."""
        self.notice = ""
        """What a person should know of how this model runs."""
        self._session = session
        self._n_caches = n_caches
        self._slots: list[_Slot] = []
        self._n_uses = 0
        self._tokens_per_s = 0.0
        self._end_token_ids = frozenset(manifest.end_token_ids)
        self._may_follow = np.arange(self.vocab_size) < manifest.n_tokens
        self._may_follow[manifest.special_token_ids] = False
        self._may_follow[manifest.end_token_ids] = True
        self._lock = threading.Lock()

    @classmethod
    def open(
        cls,
        model_dir: str | Path,
        device: Device = "auto",
        *,
        cache_scales: CacheScales | None = None,
        n_threads: int | None = None,
        cache_bytes: int | None = None,
    ) -> Self:
        """Load an exported folder; ``auto`` is the device that it was exported for.

        With ``cache_scales`` the KV caches are int8. ``n_threads`` are the physical
        cores, one fewer from four on, unless it is given. ``cache_bytes`` bounds all KV
        caches together; where they do not fit there is one, and a shorter context.

        A folder for CUDA runs on the CPU where ``auto`` finds no CUDA, and says so in
        ``notice``.

        Raises:
            DeviceError: CUDA was asked for by name and cannot be used.
            ModelLoadError: the folder is damaged, of another version or for another
                device, it does not fit the memory, or onnxruntime cannot load it.
        """
        folder = Path(model_dir)
        try:
            manifest = read_manifest(folder)
        except ManifestError as error:
            raise ModelLoadError(str(error)) from error
        _check_runs_here(folder, manifest)
        graph_file = INT8_CACHE_GRAPH_FILE if cache_scales else GRAPH_FILE
        _check_whole(folder, manifest, graph_file)
        if device not in ("auto", manifest.device):
            raise ModelLoadError(
                f"{folder} was exported for {manifest.device}, not for {device}; export "
                f"the checkpoint again with --device {device}"
            )
        check_memory(folder, manifest)
        if n_threads is None:
            n_threads = default_threads()
        elif not 1 <= n_threads <= (os.cpu_count() or 1):
            raise ModelLoadError(
                f"{n_threads} threads are not possible; this machine has 1 to "
                f"{os.cpu_count() or 1}"
            )

        open_session = partial(
            Session, folder, manifest, n_threads=n_threads, scales=cache_scales
        )
        try:
            session = open_session(device="cpu" if manifest.device == "cpu" else "cuda")
            return cls._probed(manifest, session, cache_bytes)
        except ModelLoadError:
            raise
        # onnxruntime has one exception class per status code and no common base.
        except Exception as error:
            reason = _reason(error)
            if manifest.device == "cpu":
                raise ModelLoadError(f"onnxruntime cannot load {folder}: {reason}") from error
        # What is missing says more than which node could not be placed.
        reason = f"CUDA cannot be used ({why_no_cuda() or reason})"
        if device == "cuda":
            raise DeviceError(f"{reason}; see `codegen-lsp doctor`")
        try:
            # It is slow, but better than nothing.
            engine = cls._probed(manifest, open_session(device="cpu"), cache_bytes)
        except ModelLoadError:
            raise
        except Exception as error:
            raise ModelLoadError(
                f"{reason}, and {folder} was exported for it; export the checkpoint again "
                "with --device cpu, or see `codegen-lsp doctor`"
            ) from error
        engine.notice = (
            f"{reason}, so {folder.name} runs on the CPU, slowly; export the checkpoint "
            "again with --device cpu, or see `codegen-lsp doctor`"
        )
        return engine

    @classmethod
    def _probed(cls, manifest: Manifest, session: Session, cache_bytes: int | None) -> Self:
        engine = cls(manifest, session, cache_bytes)
        engine._probe()
        return engine

    def _probe(self) -> None:
        """Run one token at the last place, where sizes that are not the graph's show.

        Then run a chunk, which tells how fast prompts are read.
        """
        slot = self._slot_for([])
        last = self.context_length - 1
        logits = self._session.run(slot.cache, [self.eos_token_id], last, range(1))
        if logits is None or logits.shape != (1, self.vocab_size):
            raise ValueError("its manifest is not that of its graph")
        n_timed = min(_PROBED_TOKENS, self.context_length)
        self._advance([self.eos_token_id] * n_timed, n_timed - 1, None, slot)
        slot.token_ids = []

    def logits(self, token_ids: Sequence[int]) -> FloatArray:
        """Return unmasked logits (len(token_ids), vocab_size) from an empty cache.

        Raises:
            PromptError: an id is out of range, or there are more than the context holds.
        """
        context = self._checked(token_ids)
        if not context:
            return np.empty((0, self.vocab_size), np.float32)
        with self._lock:
            slot = self._slot_for(context)
            slot.token_ids = []
            logits = self._advance(context, 0, None, slot)
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
        found = []
        # A row of logits is as long as the vocabulary, so few are held at a time.
        for first in range(start, len(context), _PREFILL_CHUNK):
            wanted = context[first : first + _PREFILL_CHUNK]
            past = context[: first + len(wanted) - 1]
            with self._lock:
                slot = self._slot_for(context)
                cached = slot.token_ids
                logits = self._advance(past, first - 1, None, slot)
                # What was read again is as it was, so what comes after it still holds.
                if _common_prefix(cached, past) == len(past):
                    slot.token_ids = cached
            assert logits is not None  # noqa: S101  Only a stop flag can end it early.
            found.append(log_softmax(logits)[np.arange(len(wanted)), wanted])
        return np.concatenate(found)

    def prefill(self, token_ids: Sequence[int], stop: threading.Event) -> None:
        """Read a prompt into a cache, so that going on from it starts at once.

        What was read by the time of ``stop`` stays.

        Raises:
            PromptError: as for ``logits``.
        """
        context = self._checked(token_ids)
        started = time.perf_counter()
        for end in range(_PREFILL_CHUNK, len(context) + _PREFILL_CHUNK, _PREFILL_CHUNK):
            # Between the parts others may run.
            with self._lock:
                slot = self._slot_for(context)
                n_read = _common_prefix(slot.token_ids, context)
                if n_read >= min(end, len(context)):
                    continue
                if stop.is_set():
                    return
                part = context[:end]
                # Where much was read in peace, little of it is in one long chunk.
                chunk_s = max(_CHUNK_S, _CHUNK_SHARE * (time.perf_counter() - started))
                self._advance(part, len(part) - 1, stop, slot, chunk_s)

    def forget(self) -> None:
        """Empty the caches, so that nothing read before can change a number after."""
        with self._lock:
            for slot in self._slots:
                slot.token_ids = []

    def prefill_ms(self, token_ids: Sequence[int]) -> float:
        """Return how long reading what is in no cache would take, by the measured speed."""
        context = list(token_ids)
        with self._lock:
            read = max((_common_prefix(s.token_ids, context) for s in self._slots), default=0)
        return 1e3 * (len(context) - read) / max(self._tokens_per_s, 1e-9)

    def n_tokens_within(self, budget_ms: float) -> int:
        """Return how many tokens of a prompt can be read within the budget, roughly.

        It is all of the context where there is no second cache to read the rest in.
        """
        if self._n_caches == 1:
            return self.context_length
        n_tokens = self._tokens_per_s * budget_ms / 1e3
        fitting = [window for window in _WINDOWS if window <= n_tokens]
        return min(max(fitting, default=_WINDOWS[0]), self.context_length)

    def largest_cached(self, token_ids: Sequence[int]) -> CacheScales:
        """Return the largest magnitudes of keys and values of a text, by layer.

        Raises:
            PromptError: as for ``logits``.
        """
        context = self._checked(token_ids)
        with self._lock:
            slot = self._slot_for(context)
            self._advance(context, len(context) - 1, None, slot)
            return slot.cache.largest(len(context))

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

        An id that ends texts ends it and is not yielded; so do the end of the context,
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
                    slot = self._slot_for(context)
                    reused = _common_prefix(slot.token_ids, context)
                    logits = self._advance(context + guess, first_row, stop, slot)
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
                        self._may_follow if mask is None else self._may_follow & mask,
                        rng,
                        temperature=temperature,
                        top_k=top_k,
                        top_p=top_p,
                    )
                    if token_id is None or token_id in self._end_token_ids:
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

    def _slot_for(self, context: list[int]) -> _Slot:
        """Return the cache to go on in: the one that has most of the context.

        Where none has much of it, they are left for a return to their texts, but for the
        one that was used least recently.
        """
        self._n_uses += 1
        slots = self._slots
        best = max(
            (slot for slot in slots if _is_worth_it(slot, context)),
            key=lambda slot: _common_prefix(slot.token_ids, context),
            default=None,
        )
        if best is None:
            if len(slots) < self._n_caches:
                best = _Slot(self._session.new_cache(self.context_length))
                slots.append(best)
            else:
                best = min(slots, key=lambda slot: slot.last_use)
        best.last_use = self._n_uses
        return best

    def _advance(
        self,
        context: list[int],
        first_row: int,
        stop: threading.Event | None,
        slot: _Slot,
        chunk_s: float = _CHUNK_S,
    ) -> FloatArray | None:
        """Bring a cache to ``context`` and return the logits from ``first_row`` on.

        Returns None when ``stop`` is set; what was computed by then stays valid.
        """
        reused = min(_common_prefix(slot.token_ids, context), first_row)
        slot.token_ids = context[:reused]
        parts = []
        size = _PREFILL_CHUNK if stop is None else self._chunk_size(chunk_s)
        for start in range(reused, len(context), size):
            if stop is not None and stop.is_set():
                return None
            chunk = context[start : start + size]
            rows = range(max(0, first_row - start), len(chunk))
            started = time.perf_counter()
            logits = self._session.run(slot.cache, chunk, start, rows, stop)
            if logits is None:
                return None
            if len(chunk) >= _SMALLEST_CHUNK:
                self._measure(len(chunk) / (time.perf_counter() - started))
            parts.append(logits)
            slot.token_ids += chunk
        return parts[-1] if len(parts) == 1 else np.concatenate(parts)

    def _chunk_size(self, chunk_s: float) -> int:
        n_tokens = int(self._tokens_per_s * chunk_s)
        n_tokens -= n_tokens % _SMALLEST_CHUNK
        return min(max(n_tokens, _SMALLEST_CHUNK), _PREFILL_CHUNK)

    def _measure(self, tokens_per_s: float) -> None:
        # Other programs come and go, so the newest measurement counts most, not alone.
        if self._tokens_per_s:
            tokens_per_s = 0.7 * self._tokens_per_s + 0.3 * tokens_per_s
        self._tokens_per_s = tokens_per_s


def default_threads() -> int:
    """Return the physical cores, one fewer from four on, for the editor beside us."""
    physical = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    with suppress(AttributeError):  # Only Linux tells which cores a process may use.
        physical = min(physical, len(os.sched_getaffinity(0)))
    return physical - 1 if physical >= 4 else physical


def _common_prefix(cached: list[int], wanted: list[int]) -> int:
    # Comparing slices is a hundred times as fast as comparing their elements one by one.
    low, high = 0, min(len(cached), len(wanted))
    middle = high
    while low < high:
        if cached[low:middle] == wanted[low:middle]:
            low = middle
        else:
            high = middle - 1
        middle = (low + high + 1) // 2
    return low


def _is_worth_it(slot: _Slot, context: list[int]) -> bool:
    kept = _common_prefix(slot.token_ids, context)
    return 4 * kept >= 3 * min(len(slot.token_ids), len(context))


def _sizes(manifest: Manifest, session: Session, cache_bytes: int | None) -> tuple[int, int]:
    """Return the context length and the number of caches within the bound."""
    whole = session.cache_bytes(manifest.context_length)
    if cache_bytes is None or _N_CACHES * whole <= cache_bytes:
        return manifest.context_length, _N_CACHES
    n_positions = min(manifest.context_length, cache_bytes // session.cache_bytes(1))
    if n_positions < min(_FEWEST_POSITIONS, manifest.context_length):
        least = session.cache_bytes(_FEWEST_POSITIONS)
        raise ModelLoadError(
            f"{cache_bytes / 1e6:.0f} MB are too few for this model's KV cache; a short one "
            f"takes {least / 1e6:.0f} MB, one of the whole context {whole / 1e6:.0f} MB"
        )
    return n_positions, 1


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _check_whole(folder: Path, manifest: Manifest, graph_file: str) -> None:
    # The weights are too large to hash at each start; their size was checked.
    for name in (graph_file, TOKENIZER_FILE):
        record = manifest.files.get(name)
        try:
            is_whole = record is not None and file_sha256(folder / name) == record.sha256
        except OSError as error:
            raise ModelLoadError(
                f"{folder / name} cannot be read: {error.strerror or error}"
            ) from error
        if not is_whole:
            raise ModelLoadError(
                f"{folder / name} was changed or damaged; export the model again"
            )


def check_memory(folder: Path, manifest: Manifest) -> None:
    """Refuse before loading what would drive the machine into swapping."""
    if manifest.device != "cpu":
        return
    weights = manifest.files[DATA_FILE].size
    needed = weights + _BESIDE_WEIGHTS
    available = psutil.virtual_memory().available
    if needed > available:
        raise ModelLoadError(
            f"{folder.name} needs {needed / 1e9:.1f} GB of memory ({weights / 1e9:.1f} GB "
            f"of weights) and {available / 1e9:.1f} GB are free; choose a smaller model "
            "or export it with --precision int4"
        )


def _check_runs_here(folder: Path, manifest: Manifest) -> None:
    """Refuse what another version may have written and this one would run wrongly."""
    for what, found, known in (
        ("the device", manifest.device, ("cpu", "cuda")),
        ("the precision", manifest.precision, _PRECISIONS),
        ("a cache of type", manifest.kv_cache_type, _CACHE_TYPES),
    ):
        if found not in known:
            raise ModelLoadError(
                f"{folder} has {what} {found!r}, which this version does not run "
                f"({', '.join(known)}); export the checkpoint again"
            )
    vocab_size = manifest.architecture.vocab_size
    ids = [manifest.eos_token_id, *manifest.end_token_ids, *manifest.special_token_ids]
    is_sane = 0 < manifest.n_tokens <= vocab_size and 0 <= min(ids) <= max(ids) < vocab_size
    if not is_sane or not 0 < manifest.context_length <= manifest.architecture.context_length:
        raise ModelLoadError(
            f"{folder} has a manifest that contradicts itself; export the checkpoint again"
        )
