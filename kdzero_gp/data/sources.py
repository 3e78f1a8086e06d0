"""The readers of built-in tasks with one label an image, from a path to a data set."""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

from kdzero_gp.data import archive, images
from kdzero_gp.data.account import DataAccount
from kdzero_gp.data.cache import cache_folder, cached, fingerprint
from kdzero_gp.data.dataset import SPLIT_SEED, Dataset, split_off
from kdzero_gp.data.decoding import Decoder, Survey, survey
from kdzero_gp.data.downloading import DOWNLOADS, downloaded
from kdzero_gp.data.layouts import Layout, layout
from kdzero_gp.data.resizing import Size
from kdzero_gp.data.splits import LazySplit, Statistics, assemble
from kdzero_gp.errors import DataError

CIFAR_STATISTICS = {
    "cifar10": Statistics((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": Statistics((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
}
"""Mean and deviation of the 50,000 training images, as published recipes have them."""
CIFAR_CLASSES = {"cifar10": 10, "cifar100": 100}
CIFAR_SIZE = (32, 32)
DOWNLOAD = "download"
"""In place of a path: the official archive is downloaded into the cache folder."""

DIGITS_MAXIMUM = 16
"""scikit-learn's digits count the set pixels of 4x4 blocks, hence 0..16."""
DIGITS_TEST = 599
DIGITS_VALIDATION = 598
"""600 of the 1,797 images are left for training."""


def existing(path: str | Path) -> Path:
    """The path, if there is something; raises DataError otherwise."""
    path = Path(path).expanduser()
    try:
        exists = path.exists()
    except (OSError, ValueError) as error:  # a folder above that may not be entered, a loop of links, a null byte
        raise DataError(f"the data path {path} cannot be read ({error}); give the right one with --data") from error
    if not exists:
        raise DataError(f"the data path {path} does not exist; give the right one with --data")
    return path


def digits(data: str | Path | None = None, seed: int = SPLIT_SEED) -> Dataset:
    """The 1,797 real handwritten digits that come with scikit-learn, as 1x8x8 images: 600 to train on, 598 for
    validation and 599 for tests, since differences between distillers are small beside the noise of few images. Raises
    DataError for a path, since they need none.

    Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI repository, its test part.
    """
    if data is not None:
        raise DataError(
            f"the task digits has its data built in and takes no --data; to use {data} add --task folder, cifar10 or "
            "cifar100"
        )

    def make() -> Dataset:
        from sklearn.datasets import load_digits  # Late: the import takes longer than reading the cache.

        data = load_digits()
        pixels = np.rint(data.images[:, None] * (255 / DIGITS_MAXIMUM)).astype(np.uint8)
        labels = data.target.astype(np.int64)
        everything = LazySplit(labels, pixels.__getitem__)
        test, rest = (np.sort(indices) for indices in split_off(labels, DIGITS_TEST, seed))
        classes = [str(name) for name in data.target_names]
        training = everything.select(rest)
        account = DataAccount(origins=dict.fromkeys(("train", "test"), "scikit-learn's 1,797 digits"))
        split = (training, everything.select(test), None)
        return assemble("digits", classes, *split, seed, DIGITS_VALIDATION, account=account)

    source = f"scikit-learn {version('scikit-learn')}, {DIGITS_VALIDATION} and {DIGITS_TEST} apart"
    return cached("digits", fingerprint(source, [], seed=seed), make)


def cifar10(data: str | Path | None, seed: int = SPLIT_SEED) -> Dataset:
    """CIFAR-10 (Krizhevsky 2009), 3x32x32, from the same layouts as ``cifar100`` (cifar-10-batches-py)."""
    return _cifar("cifar10", data, seed)


def cifar100(data: str | Path | None, seed: int = SPLIT_SEED) -> Dataset:
    """CIFAR-100 (Krizhevsky 2009) from the official archive, an image folder or a zip of one; 3x32x32 images.

    ``data`` is ``cifar-100-python/`` or its parent or its .tar.gz, a tree ``{train,test}/<class>/*.png``, or
    a zip of such a tree; all give the same tensors. Or it is "download". Raises DataError when it is none of them.
    """
    return _cifar("cifar100", data, seed)


def _cifar(task: str, data: str | Path | None, seed: int) -> Dataset:
    if data is None:
        raise DataError(
            f"the task {task} needs data: give with --data the archive {DOWNLOADS[task].file}, an image folder or a "
            f"zip of one, or --data {DOWNLOAD}"
        )
    path = downloaded(task, cache_folder() / "downloads") if str(data) == DOWNLOAD else existing(data)
    found = archive.find(path, task)
    if found is None:
        source = images.find(path)
        key = fingerprint(path, source.stamps, task=task, seed=seed)
        return cached(task, key, _cifar_from_images(task, source, seed))

    def make() -> Dataset:
        classes, train, test = found.load()
        _check_classes(task, classes, path)
        account = DataAccount(origins={"train": "the archive's training part", "test": "the archive's test part"})
        return assemble(task, classes, train, test, CIFAR_STATISTICS[task], seed, account=account)

    return cached(task, fingerprint(path, found.stamps, task=task, seed=seed), make)


def _cifar_from_images(task: str, source: images.Source, seed: int) -> Callable[[], Dataset]:
    def make() -> Dataset:
        with source:
            tree = layout(source)
            _check_classes(task, tree.classes, source.path)
            looked = Survey(CIFAR_SIZE, 3, {}, ())
            return _decoded(task, source, tree, looked, CIFAR_STATISTICS[task], seed)

    return make


def _decoded(
    name: str, source: images.Source, tree: Layout, looked: Survey, published: Statistics | None, seed: int
) -> Dataset:
    """The data set of a layout. Raises DataError with all damaged images, or where they need too much memory."""
    decoder = Decoder(source, looked)
    decoder.reserve(sum(len(part or ()) for part in (tree.train, tree.validation, tree.test)))
    account = DataAccount(origins=tree.origins, skipped=tree.skipped, notes=(*tree.notes, *looked.notes))
    train, validation, test = map(decoder.part, (tree.train, tree.validation, tree.test))
    assert train is not None
    dataset = assemble(
        name, tree.classes, train, test, published, seed, validation=validation, account=account
    )  # fmt: skip
    decoder.check()
    return dataset


def _check_classes(task: str, classes: tuple[str, ...], path: Path) -> None:
    if len(classes) != CIFAR_CLASSES[task]:
        raise DataError(
            f"{path} holds {len(classes)} classes and {task} has {CIFAR_CLASSES[task]}; give other data with "
            "--data, or load these with --task folder"
        )


def folder(data: str | Path | None, size: Size | None = None, seed: int = SPLIT_SEED) -> Dataset:
    """Any images in a layout that ``layouts`` reads, as ``{train,val,test}/<class>/*.png``, or a zip of them.

    All get the height and width ``size``, by default the most common of the training images: resized to cover it and
    cropped around the centre. Without a test part a fifth of the training images, stratified by class, becomes the test
    split. Raises DataError when the layout has no or two meanings, images are damaged, or they do not fit into memory.
    """
    if data is None:
        raise DataError(
            "the task folder needs data: give with --data a folder {train,test}/<class>/<image>.png, or a zip of it"
        )
    path = existing(data)
    if size is not None and min(size) < 1:
        raise DataError(f"an image size of {size[0]} is not possible; it has to be 1 or more")
    source = images.find(path)

    def make() -> Dataset:
        with source:
            tree = layout(source)
            looked = survey(source, [name for name, _ in tree.train], size)
            return _decoded(path.resolve().stem, source, tree, looked, None, seed)

    key = fingerprint(path, source.stamps, task="folder", seed=seed, image_size=size)
    return cached("folder", key, make)
