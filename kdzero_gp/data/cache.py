"""Decoded data sets kept on the disk, so that a second start reads one file instead of decoding every image.

One safetensors file per data set, version and options, mapped into memory when read. A cache is never needed:
what cannot be read is built again, and what cannot be written is left out with a warning.
"""

import hashlib
import json
import os
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from kdzero_gp.data.dataset import Dataset, Split

CACHE_VARIABLE = "KDZERO_CACHE"
"""Environment variable that names the cache folder."""
LOADER_VERSION = 1
"""Raise it when a loader gives other arrays than before: older files are then no longer read."""
SPLITS = ("train", "validation", "test")
STALE_SECONDS = 3600.0
"""A temporary file of this age was left by a process that was killed."""


def cache_folder() -> Path:
    """The folder named by KDZERO_CACHE, or the user's cache folder of this system."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else Path(platformdirs.user_cache_dir("kdzero-gp"))


@dataclass(frozen=True)
class FileStamp:
    """What tells whether a file changed: its path below the data path, its size and its modification time."""

    path: str
    size: int
    modified: int

    @classmethod
    def of(cls, file: Path, path: str = "") -> "FileStamp":
        """The facts of a file on the disk."""
        status = file.stat()
        return cls(path, status.st_size, status.st_mtime_ns)


def fingerprint(root: Path | str, files: Iterable[FileStamp], **options: Any) -> str:
    """A digest of the absolute data path, its files, the loader version and the options."""
    absolute = str(root.resolve()) if isinstance(root, Path) else root
    digest = hashlib.sha256(json.dumps([LOADER_VERSION, absolute, options], sort_keys=True).encode())
    for file in sorted(files, key=lambda facts: facts.path):
        digest.update(f"{file.path}\0{file.size}\0{file.modified}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


def cached(name: str, key: str, make: Callable[[], Dataset]) -> Dataset:
    """The data set under this key, out of the cache, or made and put there; warns if that fails."""
    path = cache_folder() / f"{name}-{key}.safetensors"
    found = _read(path)
    if found is not None:
        return found
    dataset = make()
    try:
        _write(dataset, path)
    except (OSError, SafetensorError) as error:
        warnings.warn(
            f"The data cache {path.parent} cannot be written ({error}), so the data are decoded at every "
            f"start; set {CACHE_VARIABLE} to a folder that can.",
            stacklevel=2,
        )
        return dataset
    # The mapped file instead of the arrays: the system can drop its pages when memory is short.
    return _read(path) or dataset


def _checksums(tensors: dict[str, torch.Tensor]) -> dict[str, int]:
    return {name: zlib.crc32(tensor.numpy().data) for name, tensor in sorted(tensors.items())}


def _read(path: Path) -> Dataset | None:
    """The data set in the file, mapped into memory; None when there is none or it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["dataset"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        if facts["checksums"] != _checksums(tensors):
            return None
        splits = {name: Split(tensors[f"{name}_images"], tensors[f"{name}_labels"]) for name in SPLITS}
        classes, mean, std = (tuple(facts[field]) for field in ("classes", "mean", "std"))
        return Dataset(facts["name"], classes, splits["train"], splits["validation"], splits["test"], mean, std)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def _write(dataset: Dataset, path: Path) -> None:
    """Writes the file wholly or not at all."""
    tensors = {}
    for name in SPLITS:
        split: Split = getattr(dataset, name)
        tensors[f"{name}_images"] = split.images.contiguous()
        tensors[f"{name}_labels"] = split.labels.contiguous()
    facts = {
        "name": dataset.name,
        "classes": dataset.classes,
        "mean": dataset.mean,
        "std": dataset.std,
        "checksums": _checksums(tensors),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob("*.tmp"):
        with suppress(FileNotFoundError):  # Another process may have finished or removed it.
            if time.time() - left.stat().st_mtime > STALE_SECONDS:
                left.unlink()
    temporary = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        save_file(tensors, temporary, {"dataset": json.dumps(facts)})
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
