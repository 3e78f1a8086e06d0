"""Data by task: ``load("digits")``, ``load("cifar100", "cifar100.zip")``, ``load("folder", "images")``."""

from difflib import get_close_matches
from pathlib import Path

from kdzero_gp.data import sources
from kdzero_gp.data.cache import cache_folder
from kdzero_gp.data.dataset import SPLIT_SEED, Dataset, Split
from kdzero_gp.data.downloading import DOWNLOADS, downloaded
from kdzero_gp.errors import DataError

__all__ = ["Dataset", "Split", "load", "names"]

DOWNLOAD = "download"
"""In place of a path: the official archive is downloaded into the cache folder."""

_TASKS = ("cifar10", "cifar100", "digits", "folder")


def names() -> tuple[str, ...]:
    """The names of the tasks, sorted."""
    return _TASKS


def load(
    task: str,
    data: str | Path | None = None,
    *,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    seed: int = SPLIT_SEED,
) -> Dataset:
    """The data set of a task, from the path ``data`` (see the loaders in ``sources``) or out of the cache.

    ``digits`` needs no path, for CIFAR ``data`` may be "download"; ``image_size`` (one side, or height and width) is
    for ``folder`` only, ``channels=3`` makes grey images colour ones, ``seed`` decides the splits. What was read is
    told in the data set's ``account``; its notes are given as ``DataWarning`` too. Raises DataError when the task is
    unknown, or the path is missing or of another layout.
    """
    dataset = _load(task, data, image_size, seed)
    dataset.account.warn()
    return dataset.with_channels(channels or len(dataset.mean))


def _load(task: str, data: str | Path | None, image_size: int | tuple[int, int] | None, seed: int) -> Dataset:
    if task not in _TASKS:
        close = get_close_matches(task, _TASKS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(_TASKS)}."
        raise DataError(f"there is no task {task!r}: {hint}")
    if image_size is not None and task != "folder":
        raise DataError(f"the images of {task} have one size; an image size can be set for the task folder only")
    if task == "digits":
        if data is not None:
            raise DataError(
                f"the task digits has its data built in and takes no --data; to use {data} add --task "
                "folder, cifar10 or cifar100"
            )
        return sources.digits(seed)
    if data is None:
        raise DataError(f"the task {task} needs data: {_what_to_pass(task)}")
    if task == "folder":
        return sources.folder(data, image_size, seed)
    path = downloaded(task, cache_folder() / "downloads") if str(data) == DOWNLOAD else data
    return sources.cifar10(path, seed) if task == "cifar10" else sources.cifar100(path, seed)


def _what_to_pass(task: str) -> str:
    if task == "folder":
        return "give with --data a folder {train,test}/<class>/<image>.png, or a zip of it"
    return f"give with --data the archive {DOWNLOADS[task].file}, an image folder or a zip of one, or --data {DOWNLOAD}"
