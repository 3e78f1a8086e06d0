"""Decoded data sets kept on the disk, so that a second start reads one file instead of decoding every image.

One safetensors file per data set, version and options, mapped into memory when read. A cache is never needed:
what cannot be read is built again, and what cannot be written is left out with a warning.
"""

import hashlib
import json
import os
import time
import warnings
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import platformdirs
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from kdzero_gp.data.account import PARTS, DataAccount
from kdzero_gp.data.dataset import Dataset, Split
from kdzero_gp.errors import RunError
from kdzero_gp.files import atomic_write

CACHE_VARIABLE = "KDZERO_CACHE"
"""Environment variable that names the cache folder."""
LOADER_VERSION = 2
"""Raise it when a loader gives other arrays than before: older files are then no longer read."""
STALE_SECONDS = 3600.0
"""A temporary file of this age was left by a process that was killed."""


def cache_folder() -> Path:
    """The folder named by KDZERO_CACHE, or the user's cache folder of this system."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else Path(platformdirs.user_cache_dir("kdzero-gp"))


@dataclass(frozen=True)
class FileStamp:
    """What tells whether a file changed: its path below the data path, size, modification and status change time,
    inode, and a digest where one is cheap.

    The content of folders is not read again for this: no program can set the time of the status change back, so that
    it shows every rewritten file, even of equal size and modification time; and the inode shows files that changed
    places. A zip needs neither: its directory holds a checksum of every file, see ``Zip.stamps``.
    """

    path: str
    size: int
    modified: int
    changed: int = 0
    inode: int = 0
    digest: str = ""

    @classmethod
    def of(cls, status: os.stat_result, path: str = "") -> "FileStamp":
        """The facts of a file on the disk."""
        return cls(path, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def known_digest(path: Path, status: os.stat_result, compute: Callable[[], str]) -> str:
    """The digest of a file's content: out of the cache folder while size, times and inode are those that it had when
    it was computed, else computed and kept there."""
    if os.name == "nt":  # its status has no time of change, which no program can set back
        return compute()
    stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev]
    kept = cache_folder() / f"digest-{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:24]}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(kept.read_text())
        if known["stamp"] == stamp:
            return str(known["digest"])
    digest = compute()
    with suppress(OSError, RunError):  # computed again the next time
        kept.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(kept, json.dumps({"stamp": stamp, "digest": digest}))
    return digest


def fingerprint(root: Path | str, files: Iterable[FileStamp], **options: Any) -> str:
    """A digest of the absolute data path, its files, the loader version and the options."""
    absolute = str(root.resolve()) if isinstance(root, Path) else root
    digest = hashlib.sha256(json.dumps([LOADER_VERSION, absolute, options], sort_keys=True).encode())
    for f in sorted(files, key=lambda stamp: stamp.path):
        line = f"{f.path}\0{f.size}\0{f.modified}\0{f.changed}\0{f.inode}\0{f.digest}\n"
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


def cached(name: str, key: str, make: Callable[[], Dataset]) -> Dataset:
    """The data set under this key, out of the cache, or made and put there; warns if that fails."""
    path = cache_folder() / f"{name}-{key}.safetensors"
    stored = _read(path)
    if stored is not None:
        return stored
    dataset = make()
    tensors = _tensors(dataset)
    checksums = _checksums(tensors)
    content = hashlib.sha256(json.dumps([dataset.classes, checksums], sort_keys=True).encode()).hexdigest()[:16]
    dataset = replace(dataset, account=replace(dataset.account, content=content))
    try:
        _write(dataset, tensors, checksums, path)
    except (OSError, RunError, SafetensorError) as error:
        warnings.warn(
            f"The data cache {path.parent} cannot be written ({error}), so the data are decoded at every "
            f"start; set {CACHE_VARIABLE} to a folder that can.",
            stacklevel=2,
        )
        return dataset
    # The mapped file instead of the arrays: the system can drop its pages when memory is short.
    return _read(path) or dataset


def _checksums(tensors: dict[str, torch.Tensor]) -> dict[str, int]:
    names = sorted(tensors)
    with ThreadPoolExecutor() as pool:  # zlib computes without Python's lock
        return dict(zip(names, pool.map(lambda name: zlib.crc32(tensors[name].numpy().data), names), strict=True))


def _read(path: Path) -> Dataset | None:
    """The data set in the file, mapped into memory; None when there is none or it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["dataset"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        computed = known_digest(path, path.stat(), lambda: json.dumps(_checksums(tensors)))
        if facts["checksums"] != json.loads(computed):
            return None
        splits = {name: Split(tensors[f"{name}_images"], tensors[f"{name}_labels"]) for name in PARTS}
        classes, mean, std = (tuple(facts[field]) for field in ("classes", "mean", "std"))
        account = DataAccount.from_dict(facts["account"])
        train, validation, test = splits.values()
        return Dataset(facts["name"], classes, train, validation, test, mean, std, account)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def _tensors(dataset: Dataset) -> dict[str, torch.Tensor]:
    splits: dict[str, Split] = {name: getattr(dataset, name) for name in PARTS}
    images = {f"{name}_images": split.images.contiguous() for name, split in splits.items()}
    return images | {f"{name}_labels": split.labels.contiguous() for name, split in splits.items()}


def _write(dataset: Dataset, tensors: dict[str, torch.Tensor], checksums: dict[str, int], path: Path) -> None:
    """Writes the file wholly or not at all."""
    facts: dict[str, Any] = {name: getattr(dataset, name) for name in ("name", "classes", "mean", "std")}
    facts |= {"checksums": checksums, "account": dataset.account.as_dict()}
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob("*.tmp"):
        with suppress(FileNotFoundError):  # Another process may have finished or removed it.
            if time.time() - left.stat().st_mtime > STALE_SECONDS:
                left.unlink()
    atomic_write(path, lambda temporary: save_file(tensors, temporary, {"dataset": json.dumps(facts)}), "free space")
