"""export() from end to end on tiny checkpoints: whole and right, or nothing at all."""

import errno
import hashlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from lsp_server.engine import Engine
from lsp_server.errors import ModelLoadError
from model_export import export
from model_export.architecture import read_architecture
from model_export.errors import (
    DamagedCheckpointError,
    ManifestError,
    NoRoomError,
    NotACheckpointError,
    OutputError,
    TokenizerError,
    UnsupportedPrecisionError,
)
from model_export.manifest import read_manifest
from tests.checkpoints import (
    EMBEDDED,
    N_TOKENS,
    Layout,
    Tensors,
    codegen_config,
    random_tensors,
    write_checkpoint,
)

FILES = {
    "manifest.json",
    "model.onnx",
    "model.int8cache.onnx",
    "model.onnx.data",
    "tokenizer.json",
}
DEADLINE_SECONDS = 120

CONFIG = codegen_config()
TENSORS = random_tensors(CONFIG)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Write the tiny checkpoint."""
    return write_checkpoint(tmp_path / "checkpoint", CONFIG, TENSORS)


def names_in(folder: Path) -> set[str]:
    """Return what a folder holds."""
    return {entry.name for entry in folder.iterdir()}


def test_the_manifest_says_what_was_exported(checkpoint: Path, tmp_path: Path) -> None:
    """The engine reads the manifest and nothing of the checkpoint, so it must be right."""
    output = tmp_path / "out"
    manifest = export(checkpoint, output, precision="fp32")

    assert names_in(output) == FILES
    assert read_manifest(output) == manifest
    assert json.loads((output / "manifest.json").read_text()) == manifest.to_json()
    assert manifest.codegen_lsp_version == version("codegen-lsp")
    assert manifest.architecture == read_architecture(CONFIG)
    assert manifest.architecture.family == "codegen"
    assert (manifest.precision, manifest.device) == ("fp32", "cpu")
    assert (manifest.kv_cache_type, manifest.context_length) == ("float32", 64)
    assert (manifest.eos_token_id, manifest.n_tokens) == (256, N_TOKENS)
    assert (manifest.end_token_ids, manifest.special_token_ids) == ([256], [256])
    assert manifest.can_infill is False
    assert manifest.source.name == "checkpoint"
    source = [checkpoint / "config.json", checkpoint / "model.safetensors"]
    source_bytes = b"".join(path.read_bytes() for path in source)
    assert manifest.source.sha256 == hashlib.sha256(source_bytes).hexdigest()
    for name, record in manifest.files.items():
        data = (output / name).read_bytes()
        assert record.size == len(data)
        assert record.sha256 == hashlib.sha256(data).hexdigest()
    assert set(manifest.files) == FILES - {"manifest.json"}


def test_given_groups_are_written_down(checkpoint: Path, tmp_path: Path) -> None:
    """The number of packed groups is a fact of the exported folder."""
    assert export(checkpoint, tmp_path / "out", mp_num=2).architecture.mp_num == 2


@pytest.mark.parametrize("n_shards", [1, 3])
@pytest.mark.parametrize("layout", ["safetensors", "bin"])
def test_every_layout_exports_to_the_same_files(
    layout: Layout, n_shards: int, checkpoint: Path, tmp_path: Path
) -> None:
    """A checkpoint's file format leaves no trace in the exported weights and graph."""
    other = write_checkpoint(
        tmp_path / "other", CONFIG, TENSORS, layout=layout, n_shards=n_shards
    )

    manifest = export(other, tmp_path / "b")

    assert manifest.files == export(checkpoint, tmp_path / "a").files


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_dtypes_export_their_values(dtype: torch.dtype, tmp_path: Path) -> None:
    """A half-precision checkpoint is the float32 model of the same values."""
    tensors = random_tensors(CONFIG, dtype=dtype)
    as_float = {name: tensor.float() for name, tensor in tensors.items()}
    first = write_checkpoint(tmp_path / "first", CONFIG, tensors, layout="bin")
    second = write_checkpoint(tmp_path / "second", CONFIG, as_float)

    assert export(first, tmp_path / "a").files == export(second, tmp_path / "b").files


def test_an_infill_vocabulary_is_recognised(checkpoint: Path, tmp_path: Path) -> None:
    """CodeGen 2's infill tokens in the tokenizer make a model that can infill."""
    path = checkpoint / "tokenizer.json"
    data = json.loads(path.read_text())
    for i, token in enumerate(["<mask_1>", "<sep>", "<eom>"]):
        data["added_tokens"].append(
            data["added_tokens"][0] | {"id": N_TOKENS + i, "content": token}
        )
    path.write_text(json.dumps(data))

    manifest = export(checkpoint, tmp_path / "out")

    assert manifest.can_infill is True
    assert manifest.n_tokens == N_TOKENS + 3


def test_masks_and_their_like_are_skipped(checkpoint: Path, tmp_path: Path) -> None:
    """Real files carry buffers that are no weights; they change nothing."""
    buffers: Tensors = {
        "transformer.h.0.attn.causal_mask": torch.ones(1, 1, 8, 8, dtype=torch.uint8),
        "transformer.h.1.attn.causal_mask": torch.ones(1, 1, 8, 8, dtype=torch.bool),
        "transformer.h.0.attn.bias": torch.ones(1, 1, 8, 8, dtype=torch.bool),
        "transformer.h.0.attn.masked_bias": torch.tensor(-1e9),
    }
    expected = export(checkpoint, tmp_path / "a").files
    with_buffers = write_checkpoint(tmp_path / "other", CONFIG, TENSORS | buffers, layout="bin")

    assert export(with_buffers, tmp_path / "b").files == expected


def test_progress_grows_and_ends_at_the_whole(checkpoint: Path, tmp_path: Path) -> None:
    """A progress bar that is drawn from the callback never runs back and ends full."""
    seen: list[tuple[int, int]] = []

    export(checkpoint, tmp_path / "out", progress=lambda *pair: seen.append(pair))

    written = [done for done, _ in seen]
    assert written == sorted(set(written))
    assert len(written) > 10
    assert {total for _, total in seen} == {written[-1]}
    assert written[-1] == (tmp_path / "out/model.onnx.data").stat().st_size


def test_an_older_export_is_replaced(checkpoint: Path, tmp_path: Path) -> None:
    """Exporting again to the same place leaves the new model and nothing of the old."""
    output = tmp_path / "out"
    old = export(checkpoint, output)
    (output / "stale").touch()
    write_checkpoint(checkpoint, CONFIG, random_tensors(CONFIG, seed=1))

    new = export(checkpoint, output)

    assert read_manifest(output) == new != old
    assert names_in(output) == FILES
    assert names_in(tmp_path) == {"checkpoint", "out"}


def test_a_damaged_export_is_replaced(checkpoint: Path, tmp_path: Path) -> None:
    """Exporting again is what every message about a damaged folder asks for."""
    output = tmp_path / "out"
    export(checkpoint, output)
    os.truncate(output / "model.onnx.data", 10)

    assert export(checkpoint, output) == read_manifest(output)


def test_folders_on_the_way_are_made(checkpoint: Path, tmp_path: Path) -> None:
    """The cache folder need not exist; an empty output folder may."""
    (tmp_path / "empty").mkdir()

    for output in (tmp_path / "a/b/c", tmp_path / "empty"):
        assert export(checkpoint, output) == read_manifest(output)


def test_a_link_leads_to_the_folder_that_is_replaced(checkpoint: Path, tmp_path: Path) -> None:
    """A link to a folder on a larger disk stays a link."""
    (tmp_path / "big").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "big", target_is_directory=True)

    for _ in range(2):
        export(checkpoint, tmp_path / "link")

    assert (tmp_path / "link").is_symlink()
    assert names_in(tmp_path / "big") == FILES
    assert names_in(tmp_path) == {"checkpoint", "big", "link"}


FOREIGN = {
    "some file": {"notes.txt": "mine"},
    "someone else's manifest": {"manifest.json": '{"manifest_version": 3}'},
    "a manifest that is no JSON": {"manifest.json": "?"},
    "a manifest that is a list": {"manifest.json": '["codegen_lsp_version"]'},
}


@pytest.mark.parametrize("files", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_folder_is_left_alone(
    files: dict[str, str], checkpoint: Path, tmp_path: Path
) -> None:
    """Naming one's project as the output by mistake deletes nothing."""
    output = tmp_path / "project"
    output.mkdir()
    for name, text in files.items():
        (output / name).write_text(text)

    with pytest.raises(OutputError, match="is no exported folder"):
        export(checkpoint, output)

    assert {path.name: path.read_text() for path in output.iterdir()} == files
    assert names_in(tmp_path) == {"checkpoint", "project"}


def test_the_checkpoint_itself_is_no_output(checkpoint: Path) -> None:
    """A checkpoint is not overwritten by its own export."""
    before = names_in(checkpoint)

    with pytest.raises(OutputError):
        export(checkpoint, checkpoint)

    assert names_in(checkpoint) == before


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_an_output_that_is_no_folder_is_refused(
    place: str, checkpoint: Path, tmp_path: Path
) -> None:
    """A file where the folder, or one above it, should be is named and kept."""
    (tmp_path / "file").write_text("mine")

    with pytest.raises(OutputError, match=r"/file"):
        export(checkpoint, tmp_path / place)

    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("precision", "device", "reason"),
    [
        ("fp16", "cpu", "use --precision int8"),
        ("fp8", "cpu", "'fp8' on device 'cpu' is unknown"),
        ("fp32", "cuda", "use --precision fp16"),
        ("auto", "tpu", "on device 'tpu' is unknown"),
    ],
)
def test_what_a_device_lacks_is_refused(
    precision: str, device: str, reason: str, checkpoint: Path, tmp_path: Path
) -> None:
    """No other precision than the one asked for is written in silence."""
    with pytest.raises(UnsupportedPrecisionError, match=reason):
        export(checkpoint, tmp_path / "out", precision=precision, device=device)

    assert names_in(tmp_path) == {"checkpoint"}


def test_a_path_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    """A misspelt path is not taken for a model of the Hub."""
    with pytest.raises(NotACheckpointError, match="neither a folder nor a Hub id"):
        export(tmp_path / "absent", tmp_path / "out")


def without(name: str) -> Tensors:
    """Return the tensors but one."""
    return {key: tensor for key, tensor in TENSORS.items() if key != name}


FC_IN = "transformer.h.1.mlp.fc_in.weight"
WRONG_TENSORS: dict[str, tuple[Tensors, str]] = {
    "missing": (without(FC_IN), f"lacks the tensor {FC_IN}"),
    "missing bias of the head": (without("lm_head.bias"), "lacks the tensor lm_head.bias"),
    "transposed": (TENSORS | {FC_IN: TENSORS[FC_IN].T.contiguous()}, "has shape [128, 512]"),
    "one dimension": (TENSORS | {FC_IN: TENSORS[FC_IN].flatten()}, "has shape [65536]"),
    "no dimension": (TENSORS | {"lm_head.bias": torch.tensor(1.0)}, "has shape []"),
    "unknown": (TENSORS | {"adapter.lora": torch.ones(2)}, "such as adapter.lora"),
    "bias of qkv": (
        TENSORS | {"transformer.h.0.attn.qkv_proj.bias": torch.ones(384)},
        "such as transformer.h.0.attn.qkv_proj.bias",
    ),
    "one layer more": (random_tensors(codegen_config(n_layer=3)), "such as transformer.h.2"),
    "one layer less": (random_tensors(codegen_config(n_layer=1)), "lacks the tensor"),
    "8-bit floats": (
        TENSORS | {FC_IN: TENSORS[FC_IN].to(torch.float8_e4m3fn)},
        f"{FC_IN} is stored as F8_E4M3",
    ),
    "8-bit integers": (
        TENSORS | {FC_IN: TENSORS[FC_IN].to(torch.int8)},
        f"{FC_IN} is stored as I8",
    ),
}


@pytest.mark.parametrize(("tensors", "reason"), WRONG_TENSORS.values(), ids=WRONG_TENSORS)
def test_tensors_that_are_not_the_models_are_refused(
    tensors: Tensors, reason: str, tmp_path: Path
) -> None:
    """A checkpoint whose tensors do not fit its config.json is never half used."""
    checkpoint = write_checkpoint(tmp_path / "checkpoint", CONFIG, tensors)

    with pytest.raises(DamagedCheckpointError, match=re.escape(reason)) as caught:
        export(checkpoint, tmp_path / "out")

    assert len(str(caught.value).splitlines()) == 1
    assert names_in(tmp_path) == {"checkpoint"}


@pytest.mark.parametrize("changes", [{"vocab_size": 256}, {"eos_token_id": 288}])
def test_a_tokenizer_that_is_larger_than_the_model_is_refused(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    """A tokenizer or an end of text beyond the vocabulary belongs to another model."""
    config = codegen_config(**changes)
    checkpoint = write_checkpoint(tmp_path / "checkpoint", config, random_tensors(config))

    with pytest.raises(DamagedCheckpointError, match="different models"):
        export(checkpoint, tmp_path / "out")


def test_a_checkpoint_without_tokenizer_says_what_to_do(
    checkpoint: Path, tmp_path: Path
) -> None:
    """A vocabulary is never guessed; the message names the files that are needed."""
    (checkpoint / "tokenizer.json").unlink()

    with pytest.raises(TokenizerError) as caught:
        export(checkpoint, tmp_path / "out")

    for words in ("vocab.json", "merges.txt", "added_tokens.json", "put {} into"):
        assert words in str(caught.value)
    assert names_in(tmp_path) == {"checkpoint"}


class Usage(NamedTuple):
    """What shutil.disk_usage returns."""

    total: int
    used: int
    free: int


def test_a_small_disk_is_noticed_before_writing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An export that cannot fit is refused at once, with what it needs and what there is."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10, 5, 5 << 20))

    with pytest.raises(NoRoomError, match=r"0\.0 GB free and the export needs 0\.0 GB"):
        export(checkpoint, tmp_path / "out")

    assert names_in(tmp_path) == {"checkpoint"}


FAILURES: dict[str, tuple[BaseException, type[BaseException], str]] = {
    "disk full": (OSError(errno.ENOSPC, "No space left"), NoRoomError, "became full"),
    "quota": (OSError(errno.EDQUOT, "Quota exceeded"), NoRoomError, "became full"),
    "bad disk": (OSError(errno.EIO, "I/O error"), OutputError, "cannot be written: I/O error"),
    "bug": (RuntimeError("a bug"), RuntimeError, "a bug"),
    "Ctrl-C": (KeyboardInterrupt("stop"), KeyboardInterrupt, "stop"),
}


@pytest.mark.parametrize(("failure", "error", "reason"), FAILURES.values(), ids=FAILURES)
@pytest.mark.parametrize("is_first", [True, False])
def test_a_failure_in_the_middle_leaves_nothing(
    failure: BaseException,
    error: type[BaseException],
    reason: str,
    is_first: bool,
    checkpoint: Path,
    tmp_path: Path,
) -> None:
    """An export that fails leaves no partial folder, and an older export as it was."""
    output = tmp_path / "out"
    before = None if is_first else export(checkpoint, output)

    def fail(done: int, total: int) -> None:
        if done > total // 2:
            raise failure

    with pytest.raises(error, match=reason):
        export(checkpoint, output, progress=fail)

    assert names_in(tmp_path) == {"checkpoint"} | (set() if is_first else {"out"})
    assert before is None or read_manifest(output) == before


def test_an_older_export_survives_a_failed_exchange(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the new folder cannot take its place, the old one is put back."""
    output = tmp_path / "out"
    before = export(checkpoint, output)
    rename = Path.rename

    def refuse_new(path: Path, target: Path) -> Path:
        if not path.name.endswith("-old") and path != output:
            raise PermissionError(errno.EACCES, "Permission denied")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse_new)
    with pytest.raises(OutputError, match="Permission denied"):
        export(checkpoint, output)

    assert read_manifest(output) == before
    assert names_in(tmp_path) == {"checkpoint", "out"}


PAUSE_IN_THE_MIDDLE = """
import sys
from model_export import export

def pause(done, total):
    if done > total // 2:
        print("paused", flush=True)
        sys.stdin.read()

export(*sys.argv[1:], progress=pause)
"""


@contextmanager
def paused_export(checkpoint: Path, output: Path) -> Iterator[subprocess.Popen[str]]:
    """Start an export in a process of its own and wait until it stands in the middle."""
    command = [sys.executable, "-c", PAUSE_IN_THE_MIDDLE, str(checkpoint), str(output)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            ready, _, _ = select.select([process.stdout], [], [], DEADLINE_SECONDS)
            assert ready
            assert process.stdout.readline() == "paused\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("threshold", [None, 12.5])
def test_a_threshold_of_perplexity_may_be_in_the_manifest(
    threshold: float | None, checkpoint: Path, tmp_path: Path
) -> None:
    """It is put there by an evaluation; folders that have none, older ones too, are read."""
    manifest = export(checkpoint, tmp_path / "out")
    path = tmp_path / "out" / "manifest.json"
    data = json.loads(path.read_text())
    assert data.pop("perplexity_threshold") is None
    if threshold is not None:
        data["perplexity_threshold"] = threshold
    path.write_text(json.dumps(data))
    read = read_manifest(tmp_path / "out")
    assert read == replace(manifest, perplexity_threshold=threshold)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="only POSIX has SIGKILL")
@pytest.mark.parametrize("is_first", [True, False])
def test_an_export_that_is_killed_leaves_nothing_that_loads(
    is_first: bool, checkpoint: Path, tmp_path: Path
) -> None:
    """After a kill an older export works, the rest is no model, and the next cleans up."""
    output = tmp_path / "out"
    before = None if is_first else export(checkpoint, output)

    with paused_export(checkpoint, output) as process:
        process.send_signal(signal.SIGKILL)
        assert process.wait(DEADLINE_SECONDS) == -signal.SIGKILL

    leftovers = names_in(tmp_path) - {"checkpoint", "out"}
    assert leftovers
    for name in leftovers:
        with pytest.raises(ManifestError):
            read_manifest(tmp_path / name)
        with pytest.raises(ModelLoadError):
            Engine.open(tmp_path / name)
    if before is None:
        assert not output.exists()
    else:
        assert read_manifest(output) == before
        Engine.open(output)

    assert export(checkpoint, output) == read_manifest(output)
    assert names_in(tmp_path) == {"checkpoint", "out"}


def test_two_exports_of_one_folder_do_not_disturb_each_other(
    checkpoint: Path, tmp_path: Path
) -> None:
    """Two servers that start at once may export the same model to the same cache."""
    output = tmp_path / "out"
    with paused_export(checkpoint, output) as process:
        first = export(checkpoint, output)
        assert read_manifest(output) == first

        process.communicate(timeout=DEADLINE_SECONDS)

        assert process.returncode == 0
    assert read_manifest(output) == first
    assert names_in(tmp_path) == {"checkpoint", "out"}


def test_the_embedded_checkpoint_exports(tmp_path: Path) -> None:
    """The checkpoint that ships with the program is a sound one."""
    manifest = export(EMBEDDED, tmp_path / "out")

    assert (manifest.n_tokens, manifest.eos_token_id) == (6144, 6105)
    assert manifest.source.name == "codegen-tiny"


EXPORT_AND_TELL_PEAK = """
import re, sys
from pathlib import Path
from model_export import export

export(*sys.argv[1:3], precision=sys.argv[3])
print(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("precision", "smallest"), [("fp32", 1.2e9), ("int4", 0.2e9)])
def test_memory_does_not_grow_with_the_model(
    precision: str, smallest: float, tmp_path: Path
) -> None:
    """A checkpoint of 0.6 GB, 1.2 GB in float32, is exported in a fraction of that.

    The peak is VmHWM: ru_maxrss of a child begins with its parent's.
    """
    config = codegen_config(n_embd=2048, n_head=16, vocab_size=51200)
    tensors = random_tensors(config | {"vocab_size": 512}, dtype=torch.float16)
    for name in ("transformer.wte.weight", "lm_head.weight"):
        tensors[name] = tensors[name].repeat(100, 1)
    tensors["lm_head.bias"] = tensors["lm_head.bias"].repeat(100)
    checkpoint = write_checkpoint(tmp_path / "checkpoint", config, tensors, layout="bin")
    del tensors
    output = tmp_path / "out"

    result = subprocess.run(
        [sys.executable, "-c", EXPORT_AND_TELL_PEAK, str(checkpoint), str(output), precision],
        capture_output=True,
        text=True,
        check=True,
    )

    peak = int(result.stdout) << 10
    source = (checkpoint / "pytorch_model.bin").stat().st_size
    exported = (output / "model.onnx.data").stat().st_size
    assert source > 600e6
    assert exported > smallest
    assert 32 << 20 < peak < 400 << 20, f"peak was {peak >> 20} MiB"
    shutil.rmtree(tmp_path)


def test_an_impossible_name_is_one_line(checkpoint: Path, tmp_path: Path) -> None:
    """A name that no disk can hold is an error of the source or of the output."""
    with pytest.raises(NotACheckpointError, match=r"cannot be read: File name too long$"):
        export("x" * 300, tmp_path / "out")
    with pytest.raises(OutputError, match=r"cannot be written: File name too long$"):
        export(checkpoint, tmp_path / ("x" * 300))


def test_an_output_that_may_not_be_looked_at_is_one_line(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An output in a forbidden folder is named with its reason."""
    exists = Path.exists

    def refuse(path: Path) -> bool:
        if path.name == "out":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return exists(path)

    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(OutputError, match=r"out cannot be written: Permission denied$"):
        export(checkpoint, tmp_path / "out")
