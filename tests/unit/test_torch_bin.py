"""The reader of torch's .bin files: right tensors, or a refusal, and nothing ever runs."""

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model_export import torch_bin
from model_export.errors import CheckpointError, DamagedCheckpointError, UnsafePickleError
from model_export.torch_bin import read_bin

Array = np.ndarray[Any, Any]

DTYPES = {
    torch.float64: "float64",
    torch.float32: "float32",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.int64: "int64",
    torch.int32: "int32",
    torch.int16: "int16",
    torch.int8: "int8",
    torch.uint8: "uint8",
    torch.uint16: "uint16",
    torch.uint32: "uint32",
    torch.uint64: "uint64",
    torch.bool: "bool",
}

GRID = torch.arange(60, dtype=torch.float32).reshape(5, 4, 3)
FLOATS = [torch.float32, torch.float16, torch.bfloat16]


def numpy_of(tensor: torch.Tensor) -> Array:
    """Return a tensor as numpy has it, bfloat16 too."""
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        return np.asarray(tensor.view(torch.int16).numpy()).view(ml_dtypes.bfloat16)
    return np.asarray(tensor.numpy())


def saved(path: Path, value: Any, **options: Any) -> Path:
    """Save as torch does."""
    torch.save(value, path, **options)
    return path


def read_all(path: Path) -> dict[str, Array]:
    """Return every tensor that has rows, copied out of the file."""
    return {
        name: np.array(tensor.read(0, tensor.shape[0]))
        for name, tensor in read_bin(path).items()
        if tensor.shape
    }


def write_zip(
    path: Path,
    pickled: bytes,
    storage: bytes = b"",
    byteorder: bytes = b"little",
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    """Write a file of torch's layout by hand, with one storage."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", byteorder)
        archive.writestr("archive/data/0", storage)
    return path


class _Storage:
    """Stands for the one storage of a file that is written by hand."""


class _View:
    """A float32 tensor that says of itself whatever it likes."""

    def __init__(self, offset: Any, size: Any, stride: Any, *state: Any) -> None:
        hooks: OrderedDict[str, Any] = OrderedDict()
        self.arguments = (_Storage(), offset, size, stride, False, hooks)
        self.state = state

    def __reduce__(self) -> tuple[Any, ...]:
        return torch._utils._rebuild_tensor_v2, self.arguments, *self.state


class _Pickler(pickle.Pickler):
    """Writes storages as torch.save does: as something that is kept elsewhere."""

    def persistent_id(self, value: Any) -> Any:
        if isinstance(value, _Storage):
            return ("storage", torch.FloatStorage, "0", "cpu", 6)
        return None


def pickled_view(offset: Any, size: Any, stride: Any, *state: Any) -> bytes:
    """Return the pickle of a state dict with one tensor, and a state to set on it."""
    stream = io.BytesIO()
    _Pickler(stream, 2).dump({"w": _View(offset, size, stride, *state)})
    return stream.getvalue()


def calling(module: str, name: str, argument: str) -> bytes:
    """Return a pickle that calls ``module.name(argument)`` when it is loaded."""

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    return b"\x80\x04" + text(module) + text(name) + b"\x93" + text(argument) + b"\x85R."


@pytest.mark.parametrize(("dtype", "name"), DTYPES.items(), ids=DTYPES.values())
def test_every_plain_dtype_is_read_bit_for_bit(
    dtype: torch.dtype, name: str, tmp_path: Path
) -> None:
    """Weights of any plain dtype reach the export with the bits that torch wrote."""
    random = np.random.default_rng(1)
    high = 2 if dtype == torch.bool else 256
    raw = random.integers(0, high, 15 * dtype.itemsize, np.uint8)
    tensor = torch.from_numpy(raw).view(dtype).reshape(5, 3)
    path = saved(tmp_path / "x.bin", {"w": tensor})

    stored = read_bin(path)["w"]

    assert (stored.name, stored.shape, stored.dtype) == ("w", (5, 3), name)
    assert str(stored.read(0, 5).dtype) == name
    assert stored.read(0, 5).tobytes() == raw.tobytes()
    assert stored.read(1, 3).tobytes() == raw.tobytes()[3 * dtype.itemsize : 9 * dtype.itemsize]


VIEWS: dict[str, torch.Tensor] = {
    "transposed": GRID[0].T,
    "permuted": GRID.permute(2, 0, 1),
    "every other": GRID[::2, 1::2],
    "slice of a larger storage": GRID[2:4, 1:],
    "one column": GRID[:, 2, 1],
    "expanded": GRID[:1].expand(3, 4, 3),
    "parameter": torch.nn.Parameter(GRID * 2),
    "no rows": GRID[:0],
    "no columns": GRID[:, :0],
    "no data at all": torch.empty(0, 3),
    "no data in some rows": torch.empty(3, 0),
}


@pytest.mark.parametrize("tensor", VIEWS.values(), ids=VIEWS)
def test_any_view_is_read_as_torch_reads_it(tensor: torch.Tensor, tmp_path: Path) -> None:
    """A tensor that is a view of a larger storage is not confused with the storage."""
    path = saved(tmp_path / "x.bin", {"w": tensor})
    expected = numpy_of(torch.load(path, weights_only=True)["w"])

    got = read_all(path)["w"]

    assert got.shape == expected.shape
    np.testing.assert_array_equal(got, expected)


def test_tied_tensors_both_have_their_values(tmp_path: Path) -> None:
    """Two names of one storage, as tied embeddings are saved, are both read."""
    tensors = {"a": GRID, "b": GRID, "row": GRID[3]}
    got = read_all(saved(tmp_path / "x.bin", tensors))

    for name, tensor in tensors.items():
        np.testing.assert_array_equal(got[name], tensor.numpy())


def test_a_scalar_buffer_is_listed_with_its_shape(tmp_path: Path) -> None:
    """Buffers without dimensions, such as masked_bias, do not stop the reading."""
    path = saved(tmp_path / "x.bin", {"masked_bias": torch.tensor(-1e9), "w": GRID})

    assert read_bin(path)["masked_bias"].shape == ()
    np.testing.assert_array_equal(read_all(path)["w"], GRID.numpy())


def test_the_state_dict_of_a_module_is_read(tmp_path: Path) -> None:
    """An OrderedDict with torch's _metadata attribute is what real files hold."""
    state = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4)).state_dict()
    assert isinstance(state, OrderedDict)
    assert hasattr(state, "_metadata")

    got = read_all(saved(tmp_path / "x.bin", state))

    assert list(got) == list(state)
    for name, tensor in state.items():
        np.testing.assert_array_equal(got[name], tensor.numpy())


RUNNING = {
    "os.system": ("os", "system", "touch {}"),
    "eval": ("builtins", "eval", "open('{}', 'w').close()"),
    "exec": ("builtins", "exec", "open('{}', 'w').close()"),
    "subprocess": ("subprocess", "getoutput", "touch {}"),
    "nested module": ("xml.dom.minidom", "sys.modules.__class__", "{}"),
    "a global of an allowed function": (
        "torch._utils",
        "_rebuild_tensor_v2.__globals__.clear",
        "{}",
    ),
    "method of an allowed class": ("collections", "OrderedDict.fromkeys", "{}"),
    "torch.hub.load": ("torch.hub", "load", "{}"),
    "torch.load": ("torch", "load", "{}"),
    "torch.storage._load_from_bytes": ("torch.storage", "_load_from_bytes", "{}"),
    "a dtype that is no plain one": ("torch", "quint8", "{}"),
    "newline in the name": ("os\nsystem", "x\ny", "{}"),
}


@pytest.mark.parametrize(("module", "name", "argument"), RUNNING.values(), ids=RUNNING)
def test_a_pickle_that_asks_for_more_than_tensors_is_refused(
    module: str, name: str, argument: str, tmp_path: Path
) -> None:
    """A hostile .bin is refused by the name of what it asks for, in one line, unrun."""
    marker = tmp_path / "marker"
    pickled = calling(module, name, argument.format(marker))
    path = write_zip(tmp_path / "x.bin", pickled)

    with pytest.raises(UnsafePickleError) as caught:
        read_bin(path)

    assert f"{module}.{name}".encode("unicode_escape").decode() in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert not marker.exists()


@pytest.mark.parametrize("key", ["os.system", "eval", "exec", "subprocess"])
def test_the_hostile_pickles_do_run_elsewhere(key: str, tmp_path: Path) -> None:
    """The marker of the test above is a real sign: plain pickle does create it."""
    module, name, argument = RUNNING[key]
    marker = tmp_path / "marker"

    pickle.loads(calling(module, name, argument.format(marker)))

    assert marker.exists()


class _Hostile:
    """Asks to be rebuilt by a shell command, among real tensors."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_hostile_object_among_tensors_is_refused(protocol: int, tmp_path: Path) -> None:
    """One bad object in a file that torch.save wrote is enough to refuse the file."""
    marker = tmp_path / "marker"
    value = {"w": GRID, "x": _Hostile(marker)}
    path = saved(tmp_path / "x.bin", value, pickle_protocol=protocol)

    with pytest.raises(UnsafePickleError, match=r"\.system"):
        read_bin(path)

    assert not marker.exists()


def test_an_old_style_instance_is_refused(tmp_path: Path) -> None:
    """The opcodes of pickle protocol 0 are no way around the list of globals."""
    marker = tmp_path / "marker"
    path = write_zip(tmp_path / "x.bin", f"(S'touch {marker}'\nios\nsystem\n.".encode())

    with pytest.raises(UnsafePickleError, match=r"os\.system"):
        read_bin(path)

    assert not marker.exists()


@pytest.mark.parametrize(
    "function", ["_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter"]
)
def test_a_pickle_cannot_change_the_reader(function: str, tmp_path: Path) -> None:
    """A pickle may set attributes of what it gets, which must not be our own functions."""
    pickled = b"\x80\x02ctorch._utils\n" + function.encode()
    pickled += b"\nN}X\x0c\x00\x00\x00__defaults__K\x01\x85s\x86b."

    with pytest.raises(DamagedCheckpointError):
        read_bin(write_zip(tmp_path / "x.bin", pickled))

    assert getattr(torch_bin, function).__defaults__ is None


def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    """An interrupted download, whatever its length, is never taken for a model."""
    whole = saved(tmp_path / "whole.bin", {"a": GRID, "b": GRID.half()}).read_bytes()
    path = tmp_path / "x.bin"

    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedCheckpointError, match="cut short"):
            read_bin(path)


def test_a_file_cut_short_after_it_was_opened_is_refused(tmp_path: Path) -> None:
    """A file that shrinks during an export is an error, not a crash."""
    path = saved(tmp_path / "x.bin", {"w": GRID})
    stored = read_bin(path)["w"]
    os.truncate(path, 200)

    with pytest.raises(DamagedCheckpointError, match=r"x\.bin"):
        stored.read(0, 5)


def test_a_file_deleted_after_it_was_opened_is_refused(tmp_path: Path) -> None:
    """A file that vanishes during an export is an error of the checkpoint."""
    path = saved(tmp_path / "x.bin", {"w": GRID})
    stored = read_bin(path)["w"]
    path.unlink()

    with pytest.raises(DamagedCheckpointError, match=r"x\.bin"):
        stored.read(0, 5)


def test_a_view_written_by_hand_is_read(tmp_path: Path) -> None:
    """The files that the next tests write are sound but for what they change."""
    values = np.arange(6, dtype=np.float32)
    path = write_zip(tmp_path / "x.bin", pickled_view(1, (2, 2), (3, 1)), values.tobytes())

    np.testing.assert_array_equal(read_all(path)["w"], [[1, 2], [4, 5]])


@pytest.mark.parametrize(
    "state",
    [["x"], ("x",), {"offset": 9}, (None, {"offset": 9}), (None, None, 9, (1,), (1,))],
    ids=str,
)
def test_a_view_cannot_be_changed_after_it_was_checked(state: Any, tmp_path: Path) -> None:
    """A pickle that sets the state of a tensor is no way around the check of its bounds."""
    path = write_zip(tmp_path / "x.bin", pickled_view(0, (6,), (1,), state), bytes(24))

    with pytest.raises(DamagedCheckpointError, match="no readable state dict"):
        read_bin(path)


BAD_VIEWS: dict[str, tuple[Any, Any, Any]] = {
    "one element too many": (0, (7,), (1,)),
    "offset too far": (1, (2, 3), (3, 1)),
    "stride too far": (0, (2, 3), (4, 1)),
    "negative offset": (-1, (2,), (1,)),
    "negative stride": (5, (2,), (-1,)),
    "negative size": (0, (-2,), (1,)),
    "more sizes than strides": (0, (2, 3), (1,)),
    "sizes that are no numbers": (0, ("a",), (1,)),
    "no sizes": (0, None, (1,)),
    "offset that is no number": ([], (2,), (1,)),
    "offset beyond all numbers": (float("inf"), (2,), (1,)),
}


@pytest.mark.parametrize(("offset", "size", "stride"), BAD_VIEWS.values(), ids=BAD_VIEWS)
def test_a_view_past_its_storage_is_refused(
    offset: Any, size: Any, stride: Any, tmp_path: Path
) -> None:
    """No tensor can show memory that is not its own."""
    path = write_zip(tmp_path / "x.bin", pickled_view(offset, size, stride), bytes(24))

    with pytest.raises(DamagedCheckpointError, match=r"x\.bin"):
        read_bin(path)


def a_compressed_file(path: Path) -> None:
    """Write a sound file, compressed."""
    pickled = pickled_view(0, (6,), (1,))
    write_zip(path, pickled, bytes(24), compression=zipfile.ZIP_DEFLATED)


def a_file_without_storage(path: Path) -> None:
    """Write a file whose only tensor has no data."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled_view(0, (6,), (1,)))


def a_file_with_a_moved_storage(path: Path) -> None:
    """Write a file whose directory says a wrong place for the storage."""
    write_zip(path, pickled_view(0, (6,), (1,)), bytes(24))
    data = bytearray(path.read_bytes())
    name = data.rindex(b"archive/data/0")
    data[name - 4 : name] = struct.pack("<I", 3)
    path.write_bytes(data)


def a_huge_pickle(path: Path) -> None:
    """Write a pickle of 65 MB of nothing."""
    write_zip(path, bytes(65 << 20), compression=zipfile.ZIP_DEFLATED)


NOT_READABLE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "compressed": (a_compressed_file, "compressed"),
    "big-endian": (
        lambda path: write_zip(path, pickled_view(0, (6,), (1,)), bytes(24), b"big"),
        "big-endian",
    ),
    "of torch before 1.6": (
        lambda path: saved(path, {"w": GRID}, _use_new_zipfile_serialization=False),
        "torch >= 1.6",
    ),
    "no zip": (lambda path: path.write_text("version https://git-lfs"), "fetch it again"),
    "empty": (lambda path: path.write_bytes(b""), "fetch it again"),
    "a zip of something else": (
        lambda path: zipfile.ZipFile(path, "w").close(),
        "no data.pkl",
    ),
    "a tensor and no state dict": (lambda path: saved(path, GRID), "no state dict"),
    "no pickle": (lambda path: write_zip(path, b"hello"), "no readable state dict"),
    "an unknown reference": (
        lambda path: write_zip(path, b"\x80\x02X\x01\x00\x00\x00aQ."),
        "no readable state dict",
    ),
    "without its data": (a_file_without_storage, "storage 0 is missing"),
    "with data elsewhere": (a_file_with_a_moved_storage, "not where it should be"),
    "a huge pickle": (a_huge_pickle, "too large"),
    "a key whose hash takes for ever": (
        lambda path: write_zip(path, b"\x80\x02})" + b"2\x86" * 40 + b"K\x01s."),
        "no readable state dict",
    ),
    "the same without DUP": (
        lambda path: write_zip(path, b"\x80\x02})" + b"q\x00h\x00\x86" * 40 + b"K\x01s."),
        "names that are no text",
    ),
    "the same among several keys": (
        lambda path: write_zip(path, b"\x80\x02}()" + b"q\x00h\x00\x86" * 40 + b"K\x01u."),
        "names that are no text",
    ),
    "a key whose hash overflows the stack": (
        lambda path: write_zip(path, b"\x80\x02})" + b"\x85" * 1_000_000 + b"K\x01s."),
        "names that are no text",
    ),
    "the same key in the pairs of an OrderedDict": (
        lambda path: write_zip(
            path,
            b"\x80\x02ccollections\nOrderedDict\n])"
            + b"q\x00h\x00\x86" * 40
            + b"K\x01\x86a\x85R.",
        ),
        "no readable state dict",
    ),
    "a set": (lambda path: write_zip(path, b"\x80\x04(\x91."), "no readable state dict"),
    "a storage whose name takes for ever": (
        lambda path: write_zip(
            path,
            b"\x80\x02X\x07\x00\x00\x00storagectorch\nFloatStorage\n)q\x01"
            + b"h\x01\x86q\x01" * 40
            + b"N\x87\x86Q.",
        ),
        "no readable state dict",
    ),
    "a byte order of 4 MB": (
        lambda path: write_zip(
            path, pickled_view(0, (6,), (1,)), bytes(24), b"little" + bytes(4 << 20)
        ),
        "big-endian",
    ),
}


@pytest.mark.parametrize(("write", "reason"), NOT_READABLE.values(), ids=NOT_READABLE)
def test_a_file_that_is_not_as_torch_writes_it_is_refused(
    write: Callable[[Path], Any], reason: str, tmp_path: Path
) -> None:
    """A file of another kind gets one line that names it and says what is wrong."""
    path = tmp_path / "x.bin"
    write(path)

    with pytest.raises(DamagedCheckpointError, match=reason) as caught:
        read_bin(path)

    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.fixture(scope="module")
def sound_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small file with a bit of everything."""
    tensors = {f"t{i}": GRID[i].to(dtype) for i, dtype in enumerate(FLOATS)}
    tensors |= {"mask": GRID > 3, "wide": GRID[0].to(torch.uint16), "cut": GRID.mT[1:]}
    return saved(tmp_path_factory.mktemp("sound") / "x.bin", OrderedDict(tensors))


@pytest.fixture(scope="module")
def damaged_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where damaged files are written."""
    return tmp_path_factory.mktemp("damaged") / "x.bin"


changed_bytes = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4
)


def with_changes(data: bytes, changes: list[tuple[float, int]]) -> bytes:
    """Return the data with some of its bytes replaced."""
    changed = bytearray(data)
    for place, byte in changes:
        changed[int(place * len(data))] = byte
    return bytes(changed)


def assert_read_or_refused(path: Path) -> None:
    """Read all that can be read; anything but CheckpointError escapes."""
    try:
        for tensor in read_bin(path).values():
            if tensor.shape and all(tensor.shape):
                assert tensor.read(0, 2).shape[1:] == tensor.shape[1:]
    except CheckpointError as error:
        assert str(error).startswith(str(path))  # noqa: PT017


@given(changes=changed_bytes)
def test_a_damaged_file_raises_nothing_but_checkpoint_errors(
    changes: list[tuple[float, int]], sound_path: Path, damaged_path: Path
) -> None:
    """Whatever bytes of a file are wrong, it is read or refused, and nothing warns."""
    damaged_path.write_bytes(with_changes(sound_path.read_bytes(), changes))

    assert_read_or_refused(damaged_path)


@given(changes=changed_bytes)
def test_a_damaged_pickle_raises_nothing_but_checkpoint_errors(
    changes: list[tuple[float, int]], sound_path: Path, damaged_path: Path
) -> None:
    """A wrong pickle in a zip with right checksums is read or refused too."""
    with (
        zipfile.ZipFile(sound_path) as sound,
        zipfile.ZipFile(damaged_path, "w") as damaged,
    ):
        for name in sound.namelist():
            data = sound.read(name)
            is_pickle = name.endswith("data.pkl")
            damaged.writestr(name, with_changes(data, changes) if is_pickle else data)

    assert_read_or_refused(damaged_path)


def test_a_long_byte_order_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small zip cannot fill the memory through the one entry that is not the pickle."""
    path = write_zip(tmp_path / "x.bin", b"}.", byteorder=bytes(1 << 20))
    read: list[str] = []
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda _zip, name: read.append(name))

    with pytest.raises(DamagedCheckpointError):
        read_bin(path)

    assert not any("byteorder" in name for name in read)


def test_a_large_memo_index_takes_no_memory(tmp_path: Path) -> None:
    """The memo is no table of the largest index."""
    pickled = b"\x80\x02}r" + struct.pack("<I", (1 << 32) - 1) + b"."

    assert read_bin(write_zip(tmp_path / "x.bin", pickled)) == {}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_torch_is_read(protocol: int, tmp_path: Path) -> None:
    """The list of opcodes has all that torch.save writes, whatever protocol it is told."""
    state = torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(100))).state_dict()
    state["tied"] = state["0.weight"]
    state["parameter"] = torch.nn.Parameter(GRID)
    state["unsigned"] = GRID.to(torch.uint16)

    got = read_all(saved(tmp_path / "x.bin", state, pickle_protocol=protocol))

    for name, tensor in state.items():
        np.testing.assert_array_equal(got[name], numpy_of(tensor))
