"""One way from an image file to pixels, for all formats.

Turned as EXIF says; transparent pixels on white; 16-bit, integer and float values scaled from one range for the whole
data set; the first of several frames. Images are decoded no larger than needed, resized to cover the size and cropped
around the centre.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from kdzero_gp.data.account import listed
from kdzero_gp.data.images import Source
from kdzero_gp.data.memory import free_memory
from kdzero_gp.data.resizing import Size
from kdzero_gp.data.splits import LazySplit
from kdzero_gp.errors import DataError
from kdzero_gp.threads import cores

if TYPE_CHECKING:
    from PIL.Image import Image

THREADS = min(8, cores())
DECODE_CHUNK = 256
"""So many images are one piece of work for a thread."""
BACKGROUND = (255, 255, 255)
"""What transparent images lie on: white, as most are drawn for."""
ORIENTATION = 0x0112
TURNS = (
    "FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90"
)  # fmt: skip
"""What sets images upright whose EXIF orientation is 2, 3, …, 8."""
TURNED = (5, 6, 7, 8)
"""Values of EXIF's orientation that exchange height and width."""
GREY_MODES = {"1", "L", "LA", "La", "F"}
INTEGER_RANGES = ((0.0, 255.0), (0.0, 1023.0), (0.0, 4095.0), (0.0, 16383.0), (0.0, 65535.0))
"""8, 10, 12, 14 and 16 bits, as cameras and scanners have them."""
FLOAT_RANGES = ((0.0, 1.0), (-1.0, 1.0), *INTEGER_RANGES)
DRAFT_SCALE = 2
"""JPEGs are decoded at this multiple of the size at least, so that resizing has something to average."""
MEMORY_FACTOR = 2.5
"""The images themselves, a copy while they are written to the cache, and what is decoded meanwhile."""

Range = tuple[float, float]
"""Values of deep images that become black and white."""


def is_deep(mode: str) -> bool:
    """Whether a Pillow mode has one channel of more than 8 bits."""
    return mode.startswith(("I", "F"))


def _orientation(image: "Image") -> int:
    # Asking a PNG for EXIF decodes it, unless the chunk was seen already; Pillow turns TIFF files by itself.
    return int(image.getexif().get(ORIENTATION, 1)) if "exif" in image.info and image.format != "TIFF" else 1


def fit(image: "Image", size: Size) -> "Image":
    """The image at this size: resized to cover it and cropped around the centre, in one step."""
    from PIL import Image

    height, width = size
    if (image.height, image.width) == size:
        return image
    scale = max(height / image.height, width / image.width)
    across, down = min(image.width, width / scale), min(image.height, height / scale)
    left, top = (image.width - across) / 2, (image.height - down) / 2
    return image.resize((width, height), Image.Resampling.BILINEAR, box=(left, top, left + across, top + down))


def _shallow(image: "Image", limits: Range | None) -> "Image":
    """A deep image with 8 bits: from ``limits``, or the full range of 16 bits, or [0, 1] for floats."""
    from PIL import Image

    low, high = limits or ((0.0, 1.0) if image.mode == "F" else INTEGER_RANGES[-1])
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), nan=low)
    return Image.fromarray(np.rint(np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8))


def open_image(
    file: Path | IO[bytes], channels: int, size: Size | None = None, limits: Mapping[str, Range] | None = None
) -> "Image":
    """The image as 8-bit RGB, or grey for one channel, at ``size`` or its own. ``limits``: the first letter of a deep
    mode (I, F) → range. Whatever Pillow raises for a file that it cannot decode comes through."""
    from PIL import Image

    with Image.open(file) as image:
        turn = _orientation(image)
        if size is not None:
            height, width = size[::-1] if turn in TURNED else size
            image.draft(None, (DRAFT_SCALE * width, DRAFT_SCALE * height))
        image.load()
        result: Image.Image = image
        if is_deep(image.mode):
            result = _shallow(image, (limits or {}).get(image.mode[0]))
        elif image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
            # Before resizing, since the hidden colour would come through at the edges.
            drawn = image.convert("RGBA")
            result = Image.new("RGBA", image.size, (*BACKGROUND, 255))
            result.alpha_composite(drawn)
        result = result.convert("L" if channels == 1 else "RGB")
        if 2 <= turn <= 8:
            result = result.transpose(Image.Transpose[TURNS[turn - 2]])
        return result if size is None else fit(result, size)


def _in_threads(work: Callable[[str], None], names: Sequence[str]) -> dict[str, str]:
    """Calls ``work`` for each name; Pillow decodes without Python's lock, so threads help. Returns name → reason of
    those that failed."""
    from PIL import UnidentifiedImageError

    failed: dict[str, str] = {}

    def chunk(start: int) -> None:
        for name in names[start : start + DECODE_CHUNK]:
            try:
                work(name)
            except Exception as error:  # Damaged files fail in every way that a decoder knows.
                reason = "no image" if isinstance(error, UnidentifiedImageError) else str(error).partition("\n")[0]
                failed[name] = reason or type(error).__name__

    with warnings.catch_warnings(), ThreadPoolExecutor(THREADS) as pool:
        warnings.simplefilter("ignore")  # Pillow's, about what it decodes nevertheless
        list(pool.map(chunk, range(0, len(names), DECODE_CHUNK)))
    return failed


@dataclass(frozen=True)
class Survey:
    """The most common size of images, their channels (1 if all are grey, else 3), ranges of deep ones, and notes."""

    size: Size
    channels: int
    limits: Mapping[str, Range]
    notes: tuple[str, ...]


def survey(source: Source, names: Sequence[str], sized: Size | None = None) -> Survey:
    """Looks at the headers of images, and at the values of deep ones; damaged ones are left to the ``Decoder``."""
    from PIL import Image

    seen: dict[str, tuple[Size, str, bool]] = {}
    values: dict[str, list[float]] = {"I": [], "F": []}

    def look(name: str) -> None:
        with Image.open(source.read(name)) as image:
            size = (image.width, image.height) if _orientation(image) in TURNED else (image.height, image.width)
            # Phones store a second picture in an MPO; that is no animation.
            seen[name] = size, image.mode, image.format != "MPO" and bool(getattr(image, "is_animated", False))
            if is_deep(image.mode):
                pixels = np.asarray(image, dtype=np.float64)
                pixels = pixels[np.isfinite(pixels)]
                values[image.mode[0]] += [float(pixels.min()), float(pixels.max())] if pixels.size else []

    _in_threads(look, names)
    sizes = Counter(size for size, _, _ in seen.values())
    size = sized or max(sizes, key=lambda size: (sizes[size], size), default=(1, 1))
    limits, notes = {}, []
    for kind, ends in values.items():
        if ends:
            low, high = limits[kind] = _range(min(ends), max(ends), INTEGER_RANGES if kind == "I" else FLOAT_RANGES)
            if (low, high) != INTEGER_RANGES[0]:
                notes.append(
                    f"{len(ends) // 2} images with more than 8 bits are scaled from {low:g}..{high:g} to 0..255"
                )
    if animated := sum(moving for _, _, moving in seen.values()):
        notes.append(f"{animated} images have several frames, of which the first is read")
    grey = all(mode in GREY_MODES or is_deep(mode) for _, mode, _ in seen.values())
    return Survey(size, 1 if grey else 3, limits, tuple(notes))


def _range(low: float, high: float, usual: Sequence[Range]) -> Range:
    """The first usual range that holds both, or from one to the other."""
    return next((r for r in usual if r[0] <= low and high <= r[1]), (low, high if high > low else low + 1))


class Decoder:
    """Decodes images of a source at one size. What cannot be decoded is left black and noted, so that all damaged files
    can be named at once: ``check`` raises DataError for them."""

    def __init__(self, source: Source, survey: Survey):
        self.source = source
        self.survey = survey
        self.damaged: dict[str, str] = {}

    def reserve(self, count: int) -> None:
        """Raises DataError where so many images will not fit into memory."""
        height, width = self.survey.size
        needed, free = MEMORY_FACTOR * count * self.survey.channels * height * width, free_memory()
        if needed > free:
            side = max(1, int((free / MEMORY_FACTOR / count / self.survey.channels) ** 0.5))
            raise DataError(
                f"{count:,} images of {height}x{width} pixels need {needed / 1e9:.1f} GB of memory and "
                f"{max(0.0, free) / 1e9:.1f} GB are free; set an image size (--image-size) of {side} at most"
            )

    def __call__(self, names: Sequence[str]) -> np.ndarray:
        """The images as an array N×C×H×W (uint8)."""
        channels = self.survey.channels
        images = np.zeros((len(names), channels, *self.survey.size), dtype=np.uint8)
        index = {name: i for i, name in enumerate(names)}

        def read(name: str) -> None:
            image = open_image(self.source.read(name), channels, self.survey.size, self.survey.limits)
            pixels = np.asarray(image)
            images[index[name]] = pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)

        self.damaged |= _in_threads(read, names)
        return images

    def part(self, images: Sequence[tuple[str, int]] | None) -> LazySplit | None:
        """Labelled paths as a part whose images are decoded when they are taken."""
        if images is None:
            return None
        names = [name for name, _ in images]
        labels = np.array([label for _, label in images], dtype=np.int64)
        return LazySplit(labels, lambda chosen: self([names[index] for index in chosen]))

    def check(self) -> None:
        """Raises DataError with all files that could not be decoded so far."""
        if self.damaged:
            files = [f"{name} ({reason})" for name, reason in sorted(self.damaged.items())]
            which = "one image" if len(files) == 1 else f"{len(files)} images"
            raise DataError(f"{which} cannot be decoded: {listed(files, 20)}; repair or remove what is named")
