"""llama.cpp, compiled for this processor, through its C interface; it reads GGUF files."""

# mypy: disable-error-code="import-not-found, import-untyped"

import ctypes
import os
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

from benchmarks.workers.protocol import CachedWorker, Job, Worker, main

_MODEL = "model.gguf"
_CONTEXT = 2048
_BATCH = 512
_FILE_TYPES = {
    "q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
    "q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
}
_KV_TYPES = {
    "float32": llama_cpp.GGML_TYPE_F32,
    "float16": llama_cpp.GGML_TYPE_F16,
    "int8": llama_cpp.GGML_TYPE_Q8_0,
}


def prepare(job: Job) -> None:
    """Convert the file with the library's own quantizer, or take it as it is."""
    folder = Path(job.folder)
    folder.mkdir(parents=True)
    if job.precision not in _FILE_TYPES:
        (folder / _MODEL).symlink_to(job.checkpoint)
        return
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = _FILE_TYPES[job.precision]
    parameters.nthread = job.n_threads
    parameters.allow_requantize = True
    failed = llama_cpp.llama_model_quantize(
        os.fsencode(job.checkpoint), os.fsencode(folder / _MODEL), ctypes.byref(parameters)
    )
    if failed:
        raise RuntimeError(f"llama.cpp cannot make {job.precision} of {job.checkpoint}")


def open_worker(job: Job) -> Worker:
    """Load the file, with a cache for as many tokens as are measured."""
    llama_cpp.llama_backend_init()
    path = os.fsencode(Path(job.folder, _MODEL))
    model = llama_cpp.llama_model_load_from_file(path, llama_cpp.llama_model_default_params())
    if model is None:
        raise RuntimeError(f"llama.cpp cannot load {job.checkpoint}")
    parameters = llama_cpp.llama_context_default_params()
    parameters.n_ctx = _CONTEXT
    parameters.n_batch = parameters.n_ubatch = _BATCH
    parameters.n_threads = parameters.n_threads_batch = job.n_threads
    parameters.type_k = parameters.type_v = _KV_TYPES[job.kv_type]
    parameters.flash_attn_type = (
        llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        if job.has_flash_attention
        else llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    )
    context = llama_cpp.llama_init_from_model(model, parameters)
    if context is None:
        raise RuntimeError("llama.cpp offers no such cache")
    return _LlamaCpp(model, context)


class _LlamaCpp(CachedWorker):
    packages = ("llama-cpp-python",)

    def __init__(self, model: Any, context: Any) -> None:
        super().__init__()
        self._context = context
        self._memory = llama_cpp.llama_get_memory(context)
        self._batch = llama_cpp.llama_batch_init(_BATCH, 0, 1)
        for index in range(_BATCH):
            self._batch.n_seq_id[index] = 1
            self._batch.seq_id[index][0] = 0
        vocabulary = llama_cpp.llama_model_get_vocab(model)
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(vocabulary)
        n_weights = llama_cpp.llama_model_n_params(model)
        self.bytes_per_weight = llama_cpp.llama_model_size(model) / n_weights
        built_for = llama_cpp.llama_print_system_info().decode().strip(" |\n")
        self.settings = (
            "its C interface, batches of 512, logits of the last position only, the cache "
            "rewound by llama_memory_seq_rm; as-is: the given file, others requantized from "
            f"it by llama_model_quantize; fa: with flash attention; {built_for}"
        )

    def forget(self) -> None:
        llama_cpp.llama_memory_clear(self._memory, False)

    def rewind(self, n_tokens: int) -> None:
        if not llama_cpp.llama_memory_seq_rm(self._memory, 0, n_tokens, -1):
            raise RuntimeError("llama.cpp did not rewind its cache")

    def step(self, n_cached: int, token_ids: list[int]) -> int:
        for start in range(0, len(token_ids), _BATCH):
            self._decode(n_cached + start, token_ids[start : start + _BATCH])
        logits = llama_cpp.llama_get_logits_ith(self._context, -1)
        return int(np.ctypeslib.as_array(logits, (self._vocab_size,)).argmax())

    def _decode(self, n_cached: int, token_ids: list[int]) -> None:
        batch = self._batch
        batch.n_tokens = len(token_ids)
        for index, token_id in enumerate(token_ids):
            batch.token[index] = token_id
            batch.pos[index] = n_cached + index
            batch.logits[index] = False
        batch.logits[len(token_ids) - 1] = True
        failed = llama_cpp.llama_decode(self._context, batch)
        if failed:
            raise RuntimeError(f"llama_decode gave {failed}")


if __name__ == "__main__":
    main(prepare, open_worker)
