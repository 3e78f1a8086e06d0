"""Labelled images as files: a tree ``{train,test}/<class>/*.png``, or a zip of one that is not unpacked."""

import os
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kdzero_gp.data.cache import FileStamp
from kdzero_gp.data.splits import LazySplit
from kdzero_gp.errors import DataError
from kdzero_gp.threads import cores

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
TRAIN_FOLDERS = ("train", "training")
TEST_FOLDERS = ("test", "val", "valid", "validation")
"""What the test part may be called; the first of them that exists is taken."""
LAYOUT = "{train,test}/<class>/<image>.png"
THREADS = min(8, cores())
DECODE_CHUNK = 256
"""So many images are one piece of work for a thread."""


class Folder:
    """The image files below a folder."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> "Folder":
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is kept open."""

    @cached_property
    def facts(self) -> list[FileStamp]:
        """What tells whether the data changed: all image files, as ``train/apple/1.png``, in this order."""
        return sorted(self._walk(self.path, ""), key=lambda file: file.path)

    def _walk(self, folder: Path, prefix: str) -> Iterator[FileStamp]:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    yield from self._walk(Path(entry.path), f"{prefix}{entry.name}/")
                elif entry.name.lower().endswith(SUFFIXES):
                    status = entry.stat()
                    yield FileStamp(prefix + entry.name, status.st_size, status.st_mtime_ns)

    def names(self) -> list[str]:
        """The paths of all images, sorted."""
        return [file.path for file in self.facts]

    def read(self, name: str) -> Path:
        """What Pillow opens to read the image of this path."""
        return self.path / name


class Zip:
    """The image files in a zip, which is open while ``with`` lasts."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> "Zip":
        # Opened once, because reading the list of 60,000 files takes most of a second.
        try:
            self._archive = zipfile.ZipFile(self.path)
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(f"{self.path} is no readable zip ({error}); make it again.") from error
        return self

    def __exit__(self, *error: object) -> None:
        self._archive.close()

    @property
    def facts(self) -> list[FileStamp]:
        """What tells whether the data changed: the zip alone, it need not be opened."""
        return [FileStamp.of(self.path)]

    def names(self) -> list[str]:
        """The paths of all images, sorted."""
        names = (name for name in self._archive.namelist() if name.lower().endswith(SUFFIXES))
        # macOS adds a shadow of every file in a folder of this name.
        return sorted(n for n in names if not any(p.startswith((".", "__MACOSX")) for p in n.split("/")))

    def read(self, name: str) -> BytesIO:
        """What Pillow opens to read the image of this path."""
        return BytesIO(self._archive.read(name))


Source = Folder | Zip


def find(path: Path) -> Source:
    """The images at ``path``. Raises DataError when it is neither a folder nor a zip."""
    if path.is_dir():
        return Folder(path)
    if zipfile.is_zipfile(path):
        return Zip(path)
    raise DataError(f"{path} is neither a folder nor a zip; give a tree {LAYOUT}, or a zip of it, with --data.")


Labelled = list[tuple[str, int]]
"""Paths of images with the index of their class."""


@dataclass(frozen=True)
class Layout:
    """The classes of a tree in alphabetical order and its images with labels; ``test`` may be missing."""

    classes: tuple[str, ...]
    train: Labelled
    test: Labelled | None


def layout(names: Sequence[str], path: Path) -> Layout:
    """Reads the classes and parts out of the images' paths; one folder around the whole tree is allowed.

    Without a train folder, the folders are the classes and all images are for training. Raises DataError when
    there are no two classes, or the test images have a class that the training images lack.
    """
    placed = _place(names, path)
    train = [(group, name) for part, group, name in placed if part in TRAIN_FOLDERS]
    classes = tuple(sorted({group for group, _ in train}))
    if len(classes) < 2:
        raise DataError(
            f"{path} holds training images of {len(classes)} classes and two are needed; give with --data "
            f"a tree {LAYOUT}, or a zip of it."
        )
    parts = {part for part, _, _ in placed}
    test_folder = next((folder for folder in TEST_FOLDERS if folder in parts), None)
    test = [(group, name) for part, group, name in placed if part == test_folder]
    label = {group: index for index, group in enumerate(classes)}
    unknown = sorted({group for group, _ in test} - label.keys())
    if unknown:
        raise DataError(f"The class {unknown[0]!r} of {path} has test but no training images; add some or remove it.")

    def labelled(images: list[tuple[str, str]]) -> Labelled:
        return [(name, label[group]) for group, name in sorted(images)]

    return Layout(classes, labelled(train), labelled(test) if test_folder else None)


def _place(names: Sequence[str], path: Path) -> list[tuple[str, str, str]]:
    """LazySplit, class and path of every image that lies where the layout wants it."""
    paths = [(name.split("/"), name) for name in names]
    for depth in (0, 1):
        known = [
            (folders, name)
            for folders, name in paths
            if len(folders) >= depth + 3 and folders[depth].lower() in TRAIN_FOLDERS + TEST_FOLDERS
        ]
        wrappers = sorted({"/".join(folders[:depth]) for folders, _ in known})
        if len(wrappers) > 1:
            raise DataError(f"{path} holds several data sets ({', '.join(wrappers[:3])}); give one with --data.")
        placed = [(folders[depth].lower(), folders[depth + 1], name) for folders, name in known]
        if any(part in TRAIN_FOLDERS for part, _, _ in placed):
            return placed
        if placed:
            raise DataError(f"{path} has no folder {TRAIN_FOLDERS[0]!r} with training images; its layout is {LAYOUT}.")
    # No parts: the folders are the classes, and one folder around everything is none.
    depth = int(len({folders[0] for folders, _ in paths}) == 1)
    return [(TRAIN_FOLDERS[0], f[depth], name) for f, name in paths if len(f) >= depth + 2]


Size = tuple[int, int]
"""Height and width in pixels."""


def _in_threads(work: Callable[[int], None], count: int) -> None:
    """Calls ``work`` for each index; Pillow decodes without Python's lock, so threads help."""

    def chunk(start: int) -> None:
        for index in range(start, min(start + DECODE_CHUNK, count)):
            work(index)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(chunk, range(0, count, DECODE_CHUNK)))


@contextmanager
def _opened(source: Source, name: str) -> "Iterator[Image]":
    """The image, open. Raises DataError when it is damaged."""
    from PIL import Image  # Late: only decoding needs it.

    try:
        with Image.open(source.read(name)) as image:
            yield image
    except (OSError, ValueError, SyntaxError, zipfile.BadZipFile, Image.DecompressionBombError) as error:
        raise DataError(f"The image {name} cannot be decoded ({error}); repair or remove it.") from error


def survey(source: Source, names: Sequence[str]) -> tuple[Size, int]:
    """The most common size of the images, and their channels: 1 if all are grey, else 3."""
    sizes: list[Size] = [(0, 0)] * len(names)
    modes = [""] * len(names)

    def look(index: int) -> None:
        with _opened(source, names[index]) as image:
            sizes[index], modes[index] = (image.height, image.width), image.mode

    _in_threads(look, len(names))
    counts = Counter(sizes)
    size = max(counts, key=lambda size: (counts[size], size))
    return size, 1 if set(modes) <= {"L", "1"} else 3


def fit(image: "Image", size: Size) -> "Image":
    """The image at this size: resized to cover it, then cropped around the centre."""
    from PIL import Image

    height, width = size
    if (image.height, image.width) == size:
        return image
    scale = max(height / image.height, width / image.width)
    covering = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    left, top = (covering[0] - width) // 2, (covering[1] - height) // 2
    resized = image.resize(covering, Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + width, top + height))


def decode(source: Source, names: Sequence[str], size: Size, channels: int) -> np.ndarray:
    """The images as an array NxCxHxW (uint8). Raises DataError if one is damaged or memory too small."""
    shape = (len(names), channels, *size)
    try:
        images = np.empty(shape, dtype=np.uint8)
    except MemoryError as error:
        raise DataError(f"Images of shape {shape} do not fit into memory; set a smaller image size.") from error
    mode = "L" if channels == 1 else "RGB"

    def read(index: int) -> None:
        with _opened(source, names[index]) as image:
            converted = image if image.mode == mode else image.convert(mode)
            pixels = np.asarray(fit(converted, size))
            images[index] = pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)

    _in_threads(read, len(names))
    return images


def part(source: Source, images: Labelled, size: Size, channels: int) -> LazySplit:
    """A part whose images are decoded when they are taken."""
    names = [name for name, _ in images]
    labels = np.array([label for _, label in images], dtype=np.int64)
    return LazySplit(labels, lambda chosen: decode(source, [names[index] for index in chosen], size, channels))
