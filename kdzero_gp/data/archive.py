"""The official CIFAR archives for Python (https://www.cs.toronto.edu/~kriz/cifar.html), as folder or .tar.gz.

Their files are pickles. They are read with an unpickler that knows arrays and nothing else, so that a file
from anywhere cannot run code.
"""

import io
import pickle
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdzero_gp.data.cache import FileStamp
from kdzero_gp.data.splits import LazySplit
from kdzero_gp.errors import DataError

SIDE = 32
CHANNELS = 3


@dataclass(frozen=True)
class ArchiveFormat:
    """How one of the two archives names its files and fields."""

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    labels: str
    names: str

    @property
    def files(self) -> tuple[str, ...]:
        """All files that are read."""
        return (*self.train, *self.test, self.meta)


FORMATS = {
    "cifar10": ArchiveFormat(
        folder="cifar-10-batches-py",
        train=tuple(f"data_batch_{index}" for index in range(1, 6)),
        test=("test_batch",),
        meta="batches.meta",
        labels="labels",
        names="label_names",
    ),
    "cifar100": ArchiveFormat(
        folder="cifar-100-python",
        train=("train",),
        test=("test",),
        meta="meta",
        labels="fine_labels",
        names="fine_label_names",
    ),
}

# The function that numpy's pickles call, had without naming the private module that it lives in.
_RECONSTRUCT = np.empty(0).__reduce__()[0]
ARRAY_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """The few names that an array needs; raises UnpicklingError for any other."""
        if (module, name) not in ARRAY_NAMES:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return ARRAY_NAMES[module, name]


def _unpickle(content: bytes, name: str) -> dict[str, Any]:
    try:
        fields = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
        return {key.decode() if isinstance(key, bytes) else str(key): value for key, value in fields.items()}
    except Exception as error:  # Damaged pickles fail in many ways.
        raise DataError(
            f"the file {name} of the CIFAR archive cannot be read ({type(error).__name__}: {error}); "
            "download the archive again from "
            "https://www.cs.toronto.edu/~kriz/cifar.html and give it with --data"
        ) from error


@dataclass(frozen=True)
class Archive:
    """An archive on the disk: a folder with the files, or a tar file."""

    path: Path
    form: ArchiveFormat

    @property
    def stamps(self) -> list[FileStamp]:
        """What tells whether the archive changed."""
        if self.path.is_file():
            return [FileStamp.of(self.path.stat())]
        return [FileStamp.of((self.path / name).stat(), name) for name in self.form.files]

    def contents(self) -> dict[str, bytes]:
        """The bytes of all files by name. Raises DataError when one is missing or the archive is damaged."""
        try:
            if self.path.is_file():
                found = self._from_tar()
            else:
                found = {name: (self.path / name).read_bytes() for name in self.form.files}
        except (OSError, EOFError, tarfile.TarError) as error:
            raise DataError(f"the archive {self.path} cannot be read ({error}); download it again") from error
        missing = [name for name in self.form.files if name not in found]
        if missing:
            raise DataError(
                f"the archive {self.path} has no {self.form.folder}/{missing[0]}; give the complete archive "
                f"{self.form.folder.removesuffix('-batches-py')}… of the task with --data"
            )
        return found

    def _from_tar(self) -> dict[str, bytes]:
        found = {}
        with tarfile.open(self.path) as tar:
            # In the order of the file: a compressed archive can only be read in another by starting again.
            for member in tar:
                folder, _, name = member.name.rpartition("/")
                if name in self.form.files and folder.endswith(self.form.folder):
                    stream = tar.extractfile(member)
                    if stream is not None:
                        found[name] = stream.read()
        return found

    def load(self) -> tuple[tuple[str, ...], LazySplit, LazySplit]:
        """Class names, training and test part, both in order of label and original file name."""
        contents = self.contents()
        names = _unpickle(contents[self.form.meta], self.form.meta).get(self.form.names, ())
        classes = tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names)
        train, test = (
            self._part([(name, _unpickle(contents[name], name)) for name in files], len(classes))
            for files in (self.form.train, self.form.test)
        )
        return classes, train, test

    def _part(self, batches: Iterable[tuple[str, dict[str, Any]]], classes: int) -> LazySplit:
        images, labels, names = [], [], []
        for file, batch in batches:
            data, batch_labels = (
                batch.get("data"),
                np.asarray(batch.get(self.form.labels, ()), dtype=np.int64),
            )
            if (
                not isinstance(data, np.ndarray)
                or data.dtype != np.uint8
                or data.shape != (len(batch_labels), CHANNELS * SIDE * SIDE)
                or not all(0 <= label < classes for label in batch_labels)
            ):
                raise DataError(f"the file {file} of the archive {self.path} is damaged; download it again")
            images.append(data.reshape(-1, CHANNELS, SIDE, SIDE))
            labels.append(batch_labels)
            names += batch.get("filenames", [b""] * len(data))
        all_images, all_labels = np.concatenate(images), np.concatenate(labels)
        # The order of an image folder, so that both layouts give the same splits.
        order = np.array(sorted(range(len(all_labels)), key=lambda i: (all_labels[i], names[i])), dtype=np.int64)
        return LazySplit(all_labels[order], lambda chosen: all_images[order[chosen]])


def find(path: Path, task: str) -> Archive | None:
    """The task's archive at ``path``: the folder itself, in it, or a tar file; None if there is none."""
    form = FORMATS[task]
    if path.is_file():
        return Archive(path, form) if tarfile.is_tarfile(path) else None
    for folder in (path, path / form.folder):
        present = [name for name in form.files if (folder / name).is_file()]
        if len(present) == len(form.files):
            return Archive(folder, form)
        if present:
            missing = next(name for name in form.files if name not in present)
            raise DataError(f"the archive folder {folder} has no file {missing!r}; give the complete one with --data")
    packed = next(iter(sorted(path.glob(f"{form.folder.removesuffix('-batches-py')}*.tar.gz"))), None)
    return None if packed is None else Archive(packed, form)
