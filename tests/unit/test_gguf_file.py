"""GGUF files: the same model as from safetensors, or one clear line."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind

from lsp_server.engine import Engine
from lsp_server.models import exported_folder
from model_export import export
from model_export.architecture import read_architecture
from model_export.checkpoint import open_checkpoint
from model_export.errors import (
    CheckpointError,
    DamagedCheckpointError,
    NotACheckpointError,
    TokenizerError,
    UnsupportedArchitectureError,
)
from tests.checkpoints import llama_config, random_tensors, write_checkpoint, write_gguf

CONFIG = llama_config(hidden_size=256, intermediate_size=512, tie_word_embeddings=True)
TENSORS = random_tensors(CONFIG)
IDS = np.random.default_rng(1).integers(0, 256, 60).tolist()


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give exports a cache of their own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Write a small GGUF file."""
    return write_gguf(tmp_path / "small.gguf", CONFIG, TENSORS)


@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "untied"])
def test_a_gguf_is_the_model_that_it_was_made_from(is_tied: bool, tmp_path: Path) -> None:
    """Its rows of q and k are in another order, and its logits are the same."""
    config = llama_config(tie_word_embeddings=is_tied)
    tensors = random_tensors(config)
    write_gguf(tmp_path / "model.gguf", config, tensors)
    write_checkpoint(tmp_path / "folder", config, tensors)
    logits = {}
    for name in ("model.gguf", "folder"):
        export(tmp_path / name, tmp_path / f"{name}.out", precision="fp32")
        logits[name] = Engine.open(tmp_path / f"{name}.out").logits(IDS)

    assert logits["folder"].std() > 0.5
    np.testing.assert_allclose(logits["model.gguf"], logits["folder"], rtol=0, atol=1e-4)


def test_the_architecture_comes_from_the_metadata(path: Path) -> None:
    """Sizes and constants are those of the configuration that the file was made from."""
    found = read_architecture(open_checkpoint(path).config)
    expected = read_architecture(CONFIG | {"rotary_as_pairs": True, "vocab_size": 288})

    # GGUF stores 32 bits of the constants.
    assert found.norm_epsilon == pytest.approx(expected.norm_epsilon)
    assert found.__dict__ | {"norm_epsilon": 0} == expected.__dict__ | {"norm_epsilon": 0}


@pytest.mark.parametrize("kind", [Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q4_1])
def test_rows_are_dequantized_as_the_library_does(kind: Kind, tmp_path: Path) -> None:
    """Any rows of a quantized matrix are the library's values, without the other rows."""
    path = write_gguf(tmp_path / "model.gguf", CONFIG, TENSORS, matrices_as=kind)
    name = "model.layers.1.mlp.down_proj.weight"
    values = TENSORS[name].numpy()
    expected = gguf.dequantize(gguf.quantize(values, kind), kind).reshape(values.shape)

    tensor = open_checkpoint(path).tensors[name]

    assert tensor.shape == values.shape
    np.testing.assert_array_equal(tensor.read(7, 12), expected[7:12])
    np.testing.assert_allclose(expected, values, atol=np.abs(values).max() / 6)


@pytest.mark.parametrize(
    "kind", [Kind.Q2_K, Kind.Q3_K, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K, Kind.Q5_0, Kind.Q5_1]
)
def test_quantizations_that_others_write_are_read(kind: Kind, tmp_path: Path) -> None:
    """The library reads K-quants and does not write them, so their bytes are random here."""
    path = write_gguf(tmp_path / "model.gguf", CONFIG, TENSORS)
    _, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    writer = gguf.GGUFWriter(tmp_path / "other.gguf", "llama")
    for key, field in gguf.GGUFReader(path).fields.items():
        if key.startswith(("llama.", "tokenizer.")):
            kinds = field.types
            element = kinds[1] if len(kinds) > 1 else None
            writer.add_key_value(key, field.contents(), kinds[0], element)
    data = np.random.default_rng(0).integers(0, 64, (288, block_bytes), dtype=np.uint8)
    writer.add_tensor("token_embd.weight", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    tensor = open_checkpoint(tmp_path / "other.gguf").tensors["model.embed_tokens.weight"]

    np.testing.assert_array_equal(tensor.read(3, 9), gguf.dequantize(data, kind)[3:9])


def test_a_folder_with_one_gguf_is_a_checkpoint(path: Path) -> None:
    """Who downloads a repository need not know its file's name."""
    assert open_checkpoint(path.parent).files == (path,)


def test_of_two_ggufs_one_has_to_be_named(path: Path) -> None:
    """Two quantizations lie side by side in many repositories; none is guessed."""
    (path.parent / "other.gguf").write_bytes(path.read_bytes())

    with pytest.raises(NotACheckpointError, match="2 GGUF files"):
        open_checkpoint(path.parent)


def cut_to(share: float) -> Callable[[Path], None]:
    """Return what cuts a file short."""
    return lambda path: os.truncate(path, int(path.stat().st_size * share))


def overwritten(offset: int, data: bytes) -> Callable[[Path], None]:
    """Return what writes bytes into a file."""

    def change(path: Path) -> None:
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    return change


SPOILED: dict[str, tuple[Callable[[Path], None], str]] = {
    "empty": (cut_to(0), "no GGUF file"),
    "cut in the header": (cut_to(0.01), "no GGUF file"),
    "cut in the data": (cut_to(0.9), "no GGUF file"),
    "another magic": (overwritten(0, b"GGML"), "no GGUF file"),
    "version 99": (overwritten(4, b"\x63\0\0\0"), "no GGUF file"),
    "too many tensors": (overwritten(8, b"\xff" * 7), "no GGUF file"),
    "too many keys": (overwritten(16, b"\xff" * 7), "no GGUF file"),
}


@pytest.mark.parametrize(("spoil", "named"), SPOILED.values(), ids=SPOILED)
def test_a_damaged_file_is_one_clear_line(
    spoil: Callable[[Path], None], named: str, path: Path
) -> None:
    """A truncated download or a broken header is named, and what to do."""
    spoil(path)

    with pytest.raises(DamagedCheckpointError, match=named) as caught:
        open_checkpoint(path)

    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("place", range(24, 4000, 331))
def test_no_damage_of_the_header_crashes(place: int, path: Path) -> None:
    """Whatever a byte of the header is changed to, it is a model or one of our errors."""
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)

    with suppress(CheckpointError):
        open_checkpoint(path)


def test_an_empty_tensor_is_one_clear_line(tmp_path: Path) -> None:
    """What has no rows is no weight."""
    tensors = TENSORS | {"model.norm.weight": torch.zeros(0, 4)}

    with pytest.raises(DamagedCheckpointError):
        open_checkpoint(write_gguf(tmp_path / "odd.gguf", CONFIG, tensors))


def test_a_link_to_a_file_is_followed(path: Path, tmp_path: Path) -> None:
    """The Hub's cache holds links whose targets have names without an ending."""
    blob = path.rename(tmp_path / "0123abcd")
    (tmp_path / "link.gguf").symlink_to(blob)

    assert exported_folder(str(tmp_path / "link.gguf")).is_dir()


def test_a_gguf_beside_a_configuration_counts(path: Path) -> None:
    """Repositories of the Hub hold both, and no other weights."""
    (path.parent / "config.json").write_text("{}")

    assert open_checkpoint(path.parent).files == (path,)


OTHERS: dict[str, tuple[dict[str, Any], type[CheckpointError], str]] = {
    "gemma": ({"architecture": "gemma3"}, UnsupportedArchitectureError, "gemma3"),
    "stretched": ({"llama__rope__scaling__type": "yarn"}, UnsupportedArchitectureError, "yarn"),
}


@pytest.mark.parametrize(("changes", "error", "named"), OTHERS.values(), ids=OTHERS)
def test_another_model_is_refused_by_name(
    changes: dict[str, Any], error: type[CheckpointError], named: str, tmp_path: Path
) -> None:
    """What our graph would compute wrongly is not exported."""
    path = write_gguf(tmp_path / "other.gguf", CONFIG, TENSORS, **changes)

    with pytest.raises(error, match=named):
        export(path, tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_another_way_to_split_text_is_refused(tmp_path: Path) -> None:
    """A wrong guess would tokenize wrongly without a sign."""
    path = write_gguf(
        tmp_path / "other.gguf", CONFIG, TENSORS, tokenizer__ggml__pre="llama-bpe"
    )

    with pytest.raises(TokenizerError, match="llama-bpe"):
        export(path, tmp_path / "out")


def test_a_tied_head_is_stored_once(path: Path, tmp_path: Path) -> None:
    """The embedding is a fifth of a small model; its bytes are in the folder one time."""
    sizes = {}
    for precision in ("int8", "fp32"):
        manifest = export(path, tmp_path / precision, precision=precision)
        sizes[precision] = manifest.files["model.onnx.data"].size
    n_weights = sum(tensor.numel() for tensor in TENSORS.values())
    rotary_bytes = 2 * 64 * 32 * 4
    pages = 4096 * 40

    assert sizes["fp32"] < 4 * n_weights + rotary_bytes + pages
    assert sizes["int8"] < 1.1 * n_weights + rotary_bytes + pages
