"""Reads torch's ``.bin`` files as data: tensors, mapped in place, and nothing else.

It must not import torch and must never run what a pickle asks for. The layout is that
of ``torch.save`` since 1.6: an uncompressed zip with one ``data.pkl`` and one file for
each storage (torch/serialization.py, ``_save``).
"""

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any, ClassVar, NamedTuple

import ml_dtypes
import numpy as np

from model_export.errors import DamagedCheckpointError, UnsafePickleError
from model_export.stored_tensor import StoredTensor

_STORAGE_DTYPES: dict[str, np.dtype[Any]] = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
# Dtypes without a storage class of their own are saved through an untyped storage.
_PLAIN_DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(name) for name in ("uint16", "uint32", "uint64")
}
_MAX_PICKLE_BYTES = 4 << 20
"""The list of the largest CodeGen's tensors has a tenth of it."""
_BYTE_ORDER_BYTES = 16
_OPCODES = b"().GJKMNQRSUX]abcehijqrstu}\x80\x85\x86\x87\x88\x89\x8a\x8c\x93\x94\x95"
"""All that torch writes for tensors, in protocols 2 to 5, and what spells a global."""
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_LOCAL_MAGIC = b"PK\x03\x04"


# A pickle can call __setstate__ and set attributes of whatever it is given, so these are
# tuples, which nothing changes.
class _StorageClass(NamedTuple):
    """Stands for ``torch.FloatStorage`` and the like; dtype None is an untyped one."""

    dtype: np.dtype[Any] | None


class _Dtype(NamedTuple):
    """Stands for ``torch.uint16`` and the like."""

    dtype: np.dtype[Any]


class _Storage(NamedTuple):
    """One flat run of bytes in the file."""

    dtype: np.dtype[Any] | None
    offset: int
    n_bytes: int


class _View(NamedTuple):
    """A tensor: a strided view of a storage. Offsets and strides count elements."""

    storage: _Storage
    dtype: np.dtype[Any]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_bin(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a ``.bin`` file by name; data is mapped when it is read.

    Raises:
        UnsafePickleError: the pickle names a global that no tensor needs.
        DamagedCheckpointError: the file is cut short or not of torch's zip layout.
    """
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            views = _TorchUnpickler(archive, file).load()
    except UnsafePickleError as error:
        raise UnsafePickleError(f"{path}: {error}") from None
    except OSError as error:
        reason = error.strerror or error
        raise DamagedCheckpointError(f"{path} cannot be read: {reason}") from error
    except DamagedCheckpointError as error:
        raise DamagedCheckpointError(f"{path}: {error}") from None
    except zipfile.BadZipFile:
        raise DamagedCheckpointError(
            f"{path} is cut short, or not a file of torch >= 1.6; fetch it again"
        ) from None
    # A hostile pickle can make the unpickler raise anything at all.
    except Exception as error:  # noqa: BLE001
        raise DamagedCheckpointError(
            f"{path} holds no readable state dict ({type(error).__name__})"
        ) from None
    if not isinstance(views, Mapping):
        raise DamagedCheckpointError(f"{path} holds no state dict")
    tensors = {}
    for name, view in views.items():
        if isinstance(name, str) and isinstance(view, _View):
            tensors[name] = _stored_tensor(path, name, view)
    return tensors


def _read_pickle(archive: zipfile.ZipFile) -> tuple[str, bytes]:
    """Return the folder in the archive that holds everything, and its pickle."""
    names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(names) != 1:
        raise DamagedCheckpointError("it has no data.pkl, so torch did not write it")
    root = names[0].removesuffix("data.pkl")
    if f"{root}byteorder" in archive.namelist():
        is_short = archive.getinfo(f"{root}byteorder").file_size <= _BYTE_ORDER_BYTES
        if not is_short or archive.read(f"{root}byteorder") != b"little":
            raise DamagedCheckpointError("it is big-endian; save it again as little")
    if archive.getinfo(names[0]).file_size > _MAX_PICKLE_BYTES:
        raise DamagedCheckpointError("its data.pkl is too large for a list of tensors")
    return root, archive.read(names[0])


_SET_ITEM: Any = pickle._Unpickler.dispatch[pickle.SETITEM[0]]
_SET_ITEMS: Any = pickle._Unpickler.dispatch[pickle.SETITEMS[0]]


class _TorchUnpickler(pickle._Unpickler):
    """An unpickler that knows the globals that rebuild tensors and refuses all others.

    It is Python's own in Python, because the one in C hashes any key of a dict: a few
    bytes can nest tuples so that a hash takes for ever, or overflows the stack.
    """

    dispatch: ClassVar[dict[int, Any]] = {
        code: pickle._Unpickler.dispatch[code] for code in _OPCODES
    }
    stack: list[Any]

    def __init__(self, archive: zipfile.ZipFile, file: IO[bytes]) -> None:
        self._root, pickled = _read_pickle(archive)
        super().__init__(io.BytesIO(pickled), encoding="utf-8")
        self._archive = archive
        self._file = file

    def _set_item(self) -> None:
        _check_keys(self.stack[-2:-1])
        _SET_ITEM(self)

    def _set_items(self) -> None:
        # The stack begins at the latest mark.
        _check_keys(self.stack[::2])
        _SET_ITEMS(self)

    dispatch[pickle.SETITEM[0]] = _set_item
    dispatch[pickle.SETITEMS[0]] = _set_items

    def find_class(self, module: str, name: str) -> Any:
        # Functions have attributes that a pickle could set, so they are wrapped.
        match module, name:
            case "collections", "OrderedDict":
                return partial(_empty_dict)
            case "torch._utils", "_rebuild_tensor_v2":
                return partial(_rebuild_tensor_v2)
            case "torch._utils", "_rebuild_tensor_v3":
                return partial(_rebuild_tensor_v3)
            case "torch._utils", "_rebuild_parameter":
                return partial(_rebuild_parameter)
            case "torch.storage", "UntypedStorage":
                return _StorageClass(None)
            case "torch", _ if name in _STORAGE_DTYPES:
                return _StorageClass(_STORAGE_DTYPES[name])
            case "torch", _ if name in _PLAIN_DTYPES:
                return _Dtype(_PLAIN_DTYPES[name])
        raise UnsafePickleError(
            f"refused, because its pickle asks for {f'{module}.{name}'!a}, which no tensor "
            "needs; nothing of it was run. Use a safetensors version of the model"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        """Return the storage that ``('storage', class, key, location, numel)`` names."""
        kind, storage_class, key, _location, _numel = pid
        is_storage = kind == "storage" and isinstance(storage_class, _StorageClass)
        if not is_storage or not isinstance(key, str):
            raise DamagedCheckpointError("it refers to something that is no storage")
        try:
            info = self._archive.getinfo(f"{self._root}data/{key}")
        except KeyError:
            raise DamagedCheckpointError(f"its storage {key} is missing") from None
        if info.compress_type != zipfile.ZIP_STORED:
            raise DamagedCheckpointError(f"its storage {key} is compressed")
        # The zip's directory tells where an entry's header starts, and only that
        # header tells how long it is.
        self._file.seek(info.header_offset)
        header = self._file.read(_LOCAL_HEADER.size)
        magic, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        offset = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
        end = offset + info.file_size
        if magic != _LOCAL_MAGIC or end > os.fstat(self._file.fileno()).st_size:
            raise DamagedCheckpointError(f"its storage {key} is not where it should be")
        return _Storage(storage_class.dtype, offset, info.file_size)


def _check_keys(keys: list[Any]) -> None:
    if not all(type(key) in (str, int) for key in keys):
        raise DamagedCheckpointError("its data.pkl has names that are no text")


def _empty_dict() -> OrderedDict[str, Any]:
    return OrderedDict()


def _rebuild_tensor_v2(
    storage: _Storage, offset: int, size: Any, stride: Any, *_unused: Any
) -> _View:
    dtype = storage.dtype if storage.dtype is not None else np.dtype(np.uint8)
    return _checked_view(storage, dtype, offset, size, stride)


def _rebuild_tensor_v3(
    storage: _Storage,
    offset: int,
    size: Any,
    stride: Any,
    _requires_grad: bool,
    _backward_hooks: Any,
    dtype: _Dtype,
    *_unused: Any,
) -> _View:
    return _checked_view(storage, dtype.dtype, offset, size, stride)


def _rebuild_parameter(data: _View, *_unused: Any) -> _View:
    return data


def _checked_view(
    storage: _Storage, dtype: np.dtype[Any], offset: int, size: Any, stride: Any
) -> _View:
    if not isinstance(storage, _Storage):
        raise DamagedCheckpointError("a tensor in it has no storage")
    offset, shape, strides = int(offset), tuple(map(int, size)), tuple(map(int, stride))
    if len(shape) != len(strides) or offset < 0 or min((*shape, *strides), default=0) < 0:
        raise DamagedCheckpointError("a tensor in it has an impossible shape")
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if all(shape) and (last + 1) * dtype.itemsize > storage.n_bytes:
        raise DamagedCheckpointError("a tensor in it reaches past its data")
    return _View(storage, dtype, offset, shape, strides)


def _stored_tensor(path: Path, name: str, view: _View) -> StoredTensor:
    def read(start: int, stop: int) -> np.ndarray[Any, Any]:
        if not all(view.shape):
            return np.empty((max(0, stop - start), *view.shape[1:]), view.dtype)
        try:
            # Mapped anew each time, so that pages that were read are given back.
            flat = np.memmap(
                path,
                mode="r",
                dtype=view.dtype,
                offset=view.storage.offset,
                shape=view.storage.n_bytes // view.dtype.itemsize,
            )
        except (OSError, ValueError):
            raise DamagedCheckpointError(
                f"{path} was changed, or ends before the data of {name}; fetch it again"
            ) from None
        strides = tuple(step * view.dtype.itemsize for step in view.strides)
        tensor = np.lib.stride_tricks.as_strided(
            flat[view.offset :], view.shape, strides, writeable=False
        )
        return tensor[start:stop]

    return StoredTensor(name, view.shape, str(view.dtype), read)
