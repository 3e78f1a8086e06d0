"""Reads the tensors of any file that ``torch.save`` or ``pickle`` wrote, without running what else the file asks for.

Tensors are rebuilt by the few functions listed here; every other name in the pickle becomes a ``Foreign`` object that
only remembers what it was given. So arguments, configurations and whole networks beside or around the tensors do no
harm and need not be importable.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from kdzero_gp.data.archive import ARRAY_NAMES

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""The first pickle in a file of torch before 1.6."""
MODULE_FIELDS = ("_parameters", "_buffers", "_modules")
STORAGE_SUFFIX = "Storage"


class Foreign:
    """What a pickle calls anything that is no tensor and no container: made, called and filled without effect."""

    items_by_key: dict[Any, Any]

    def __new__(cls, *arguments: Any, **options: Any) -> "Foreign":
        """Pickles make objects without calling ``__init__``."""
        created = super().__new__(cls)
        created.items_by_key = {}
        return created

    def __init__(self, *arguments: Any, **options: Any):
        """Takes anything."""

    def __call__(self, *arguments: Any) -> "Foreign":
        return Foreign(*arguments)

    def __setstate__(self, state: Any) -> None:
        parts = state if isinstance(state, tuple) else (state,)
        for part in parts:
            if isinstance(part, Mapping):
                self.items_by_key |= part

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(key, str):
            self.items_by_key[key] = value

    def append(self, value: Any) -> None:
        """Nothing is kept."""

    extend = add = append

    def __hash__(self) -> int:
        return id(self)

    def mapping(self) -> dict[str, Any]:
        """What may hold tensors by name: a network's parameters, buffers and layers, or the attributes."""
        fields = self.items_by_key
        if "_modules" not in fields:
            return {str(key): value for key, value in fields.items()}
        merged: dict[str, Any] = {}
        for name in MODULE_FIELDS:
            merged |= fields.get(name) or {}
        hidden = set(fields.get("_non_persistent_buffers_set") or ())
        return {key: value for key, value in merged.items() if key not in hidden}


def _foreign_class(name: str) -> type[Foreign]:
    # A new class each time, so that pickles that set attributes on it reach nothing else.
    return type(name, (Foreign,), {})


def _rebuild(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    end = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) + 1
    if offset < 0 or min((*size, *stride), default=0) < 0 or (0 not in size and end > storage.numel()):
        raise pickle.UnpicklingError("a tensor reaches beyond its storage")
    return storage.as_strided(size, stride, offset)


def _rebuild_old(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    return _rebuild(storage, offset, size, stride)


def _rebuild_parameter(data: Tensor, *_: Any) -> Tensor:
    return data


def _emptied(*_: Any) -> dict[Any, Any]:
    return {}


def _encode(text: str, encoding: str = "latin1") -> bytes:
    return text.encode(encoding)  # how protocol 2 writes bytes


def _nested(content: bytes) -> Any:
    return _read_legacy(io.BytesIO(content))


ALLOWED: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
    ("torch._utils", "_rebuild_tensor"): _rebuild_old,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
    ("torch.storage", "_load_from_bytes"): _nested,
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): _emptied,
    ("_codecs", "encode"): _encode,
    ("builtins", "set"): list,
    ("__builtin__", "set"): list,
    ("torch", "Size"): torch.Size,
    **ARRAY_NAMES,
}


class _Within:
    """A file of which no more is read than there is, whatever it says of itself, so that it fills no memory."""

    def __init__(self, file: IO[bytes]):
        self.file, here = file, file.tell()
        self.size = file.seek(0, io.SEEK_END)
        file.seek(here)
        self.readline = file.readline

    def read(self, count: int) -> bytes:
        """The next so many bytes, or the rest."""
        return self.file.read(min(count, self.size - self.file.tell()))


class TensorUnpickler(pickle._Unpickler):  # type: ignore[name-defined,misc]
    """``storage``: key, dtype and length to a flat tensor. The unpickler in Python, since that in C makes as much room
    as a place in a file says."""

    def __init__(self, file: IO[bytes], storage: Callable[[str, torch.dtype, int], Tensor]):
        super().__init__(file, encoding="utf-8")
        self.storage = storage

    def find_class(self, module: str, name: str) -> Any:
        """The functions that rebuild tensors and arrays; for anything else a class without effect."""
        if module == "torch" and name.endswith(STORAGE_SUFFIX):
            kind = name.removesuffix(STORAGE_SUFFIX)
            return {"Untyped": torch.uint8, "BFloat16": torch.bfloat16, "Bool": torch.bool}.get(kind) or _dtype(kind)
        return ALLOWED.get((module, name)) or _foreign_class(name.rpartition(".")[2] or "Foreign")

    def persistent_load(self, pid: Any) -> Tensor:
        """The storage that a tensor refers to."""
        _, dtype, key, _, length, *_ = pid
        if not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError("a storage has an unknown type")
        return self.storage(str(key), dtype, int(length))


def _dtype(kind: str) -> Any:
    names = {"Float": "float32", "Double": "float64", "Half": "float16", "Long": "int64", "Int": "int32"}
    names |= {"Short": "int16", "Char": "int8", "Byte": "uint8"}
    return getattr(torch, names[kind]) if kind in names else _foreign_class(kind)


def read_tensors(path: Path) -> Any:
    """The content of a file of ``torch.save`` (new or old form) or of ``pickle``."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            root = next(name for name in archive.namelist() if name.endswith("data.pkl")).removesuffix("data.pkl")

            def stored(key: str, dtype: torch.dtype, length: int) -> Tensor:
                return _tensor(archive.read(f"{root}data/{key}"), dtype)

            return TensorUnpickler(io.BytesIO(archive.read(f"{root}data.pkl")), stored).load()
    with path.open("rb") as file:
        return _read_legacy(file)


def _tensor(content: bytes, dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=dtype) if content else torch.empty(0, dtype=dtype)


def _read_legacy(whole: IO[bytes]) -> Any:
    """Five pickles and then the storages one after another (torch before 1.6), or a pickle alone."""
    storages: dict[str, Tensor] = {}
    file: Any = _Within(whole)

    def promised(key: str, dtype: torch.dtype, length: int) -> Tensor:
        if length * dtype.itemsize > file.size:
            raise pickle.UnpicklingError("a storage reaches beyond the file")
        return storages.setdefault(key, torch.empty(length, dtype=dtype))

    content = TensorUnpickler(file, promised).load()
    if content != LEGACY_MAGIC:
        return content
    for _ in range(2):  # the protocol and the system that wrote the file
        TensorUnpickler(file, promised).load()
    content = TensorUnpickler(file, promised).load()
    for key in TensorUnpickler(file, promised).load():
        file.read(8)  # the length, which is known
        storage = storages[str(key)]
        size = storage.numel() * storage.element_size()
        storage.view(torch.uint8)[:] = _tensor(file.read(size), torch.uint8)
    return content


def flattened(content: Any, prefix: str = "", seen: frozenset[int] = frozenset()) -> Iterator[tuple[str, Tensor]]:
    """All tensors in nested mappings, lists and foreign objects, under their keys joined by dots."""
    if isinstance(content, Tensor | np.ndarray):
        with_numbers = isinstance(content, Tensor) or content.dtype.kind in "fiub"
        if with_numbers:
            yield prefix.removesuffix("."), torch.as_tensor(content)
        return
    if id(content) in seen:
        return
    pairs: list[tuple[Any, Any]]
    if isinstance(content, Foreign):
        pairs = list(content.mapping().items())
    elif isinstance(content, Mapping):
        pairs = list(content.items())
    elif isinstance(content, list | tuple):
        pairs = list(enumerate(content))
    else:
        return
    for key, value in pairs:
        yield from flattened(value, f"{prefix}{key}.", seen | {id(content)})
