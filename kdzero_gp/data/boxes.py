"""Images with boxes, from a folder or a zip in VOC's or COCO's layout, as tensors of one size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdzero_gp.data import images
from kdzero_gp.data.account import PARTS, DataAccount, listed
from kdzero_gp.data.annotations import LAYOUT, Annotated, Annotations, Box, find_annotations
from kdzero_gp.data.cache import cached, fingerprint
from kdzero_gp.data.dataset import SPLIT_SEED, Dataset, Split, statistics
from kdzero_gp.data.decoding import open_image
from kdzero_gp.data.images import Source
from kdzero_gp.data.memory import must_fit
from kdzero_gp.data.parts import image_sizes, most_frequent, must_have_labels, shuffled, split_off_missing
from kdzero_gp.data.resizing import Size, size_text
from kdzero_gp.data.sources import existing
from kdzero_gp.errors import DataError

NOTHING = -1.0
"""In place of the class in a row that holds no box."""
FIRST_CROWD = -2.0
"""A crowd of class c has FIRST_CROWD − c: what lies in it neither counts as found nor as wrong."""
DIVISOR = 32
"""Sides are multiples of the coarsest usual stride, so that every level of a pyramid covers the whole image."""
LONGEST = 256
"""Pixels of the longer side where nobody sets a size, so that a CPU can train."""
FILL = (114, 114, 114)
"""The grey of what an image of other proportions leaves free, as YOLO's letterbox has it."""
LEAST_PIXELS = 0.5
"""A box narrower or lower than that, in pixels of its own image, has no area."""
MOST_MISFITS = 0.1
"""From this share of images that cannot be read on, nothing is left out: something else is wrong."""


def load(data: str | Path | None, image_size: Size | None = None, seed: int = SPLIT_SEED) -> Dataset:
    """Images N×3×H×W with boxes N×G×5: left, top, right and bottom as shares of the image's width and height, and the
    class; rows without a box have the class −1, crowds of class c have −2 − c.

    ``data`` is a folder or a zip in VOC's or COCO's layout; parts come from the names of lists, files and folders, and
    what is missing is split off. Images keep their proportions and become one size, the rest is grey; by default that
    of most training images, made smaller to 256 pixels, in multiples of 32. Boxes of no area are dropped and named,
    images without boxes stay. Raises DataError.
    """
    if data is None:
        raise DataError(f"the task detection needs data: give with --data a folder or zip of {LAYOUT}")
    if image_size is not None and (min(image_size) < DIVISOR or any(side % DIVISOR for side in image_size)):
        raise DataError(
            f"an image size of {size_text(image_size)} is not possible for detection; both sides have to be multiples "
            f"of {DIVISOR}, such as {size_text(_rounded(image_size))}"
        )
    if "?" in str(data) and not Path(data).exists():
        raise DataError("--ignore and --classes are for label maps; leave them out for detection")
    path = existing(data)
    source = images.find(path)

    def make() -> Dataset:
        with source:
            return _BoxReader(source, image_size, seed).dataset(path.resolve().stem)

    key = fingerprint(path, source.stamps, task="detection", seed=seed, image_size=image_size)
    return cached("detection", key, make)


def _rounded(size: tuple[float, float]) -> Size:
    """The nearest multiples of ``DIVISOR``."""
    height, width = (max(1, round(side / DIVISOR)) * DIVISOR for side in size)
    return height, width


@dataclass(frozen=True)
class _LoadedBoxes:
    pixels: list[np.ndarray]
    rows: list[list[tuple[float, ...]]]

    def __len__(self) -> int:
        return len(self.pixels)

    def at(self, indices: Sequence[int]) -> _LoadedBoxes:
        """These images alone."""
        return _LoadedBoxes([self.pixels[i] for i in indices], [self.rows[i] for i in indices])


class _BoxReader:
    """One data set on its way from files to tensors."""

    def __init__(self, source: Source, size: Size | None, seed: int):
        self.source, self.seed = source, seed
        self.found: Annotations = find_annotations(source)
        if not self.found.classes:
            raise DataError(f"the training part of {source.path} has no box; check --data")
        self.size = size or self._usual_size()
        self.numbers = {name: number for number, name in enumerate(self.found.classes)}
        self.cut = 0

    def dataset(self, name: str) -> Dataset:
        count = sum(map(len, self.found.parts.values()))
        self._reserve(count)
        parts = {part: self._read(found) for part, found in self.found.parts.items()}
        damaged = self.found.misfits.get("images that cannot be decoded", [])
        unread = damaged + self.found.misfits.get("annotations that cannot be read", [])
        if len(unread) > MOST_MISFITS * count:
            raise DataError(
                f"{len(unread)} files of {self.source.path} cannot be read ({listed(unread, 3)}); repair or remove them"
            )
        origins = {part: f"{self.source.path.name}'s {part} part" for part in parts}
        split_off_missing(parts, origins, self.source.path, self.seed)
        return self._assembled(name, parts, origins)

    def _usual_size(self) -> Size:
        """That of most training images, at most ``LONGEST`` long."""
        sizes = image_sizes(self.source, [one.image for one in self.found.parts["train"]])
        most = most_frequent(sizes)
        scale = min(1.0, LONGEST / max(most))
        size = _rounded((most[0] * scale, most[1] * scale))
        if size != most or len(sizes) > 1:
            self.found.notes.append(
                f"images become {size[1]}×{size[0]} pixels (most are {most[1]}×{most[0]}) with their proportions kept; "
                "another size is set with --image-size"
            )
        return size

    def _reserve(self, count: int) -> None:
        needed = 2.0 * count * 3 * self.size[0] * self.size[1]  # once more while they are put together
        must_fit(needed, f"{count:,} images of {size_text(self.size)} pixels", "set a smaller --image-size")

    def _read(self, found: Sequence[Annotated]) -> _LoadedBoxes:
        loaded = _LoadedBoxes([], [])
        for one in found:
            try:
                opened = open_image(self.source.read(one.image.name), 3)
            except (OSError, ValueError, SyntaxError):
                self.found.misfit("images that cannot be decoded", one.image.name)
                continue
            pixels, scale = letterboxed(opened, self.size)
            rows = [row for box in one.boxes if (row := self._row(box, opened, scale, one.image.name)) is not None]
            loaded.pixels.append(pixels)
            loaded.rows.append(rows)
        return loaded

    def _row(self, box: Box, image: Any, scale: float, name: str) -> tuple[float, ...] | None:
        """A box as a row of the targets; None for one that is left out."""
        if box.name not in self.numbers:
            self.found.misfit("boxes of classes that training does not have", f"{box.name} in {name}")
            return None
        left, top, right, bottom = box.corners
        inside = max(0.0, left), max(0.0, top), min(float(image.width), right), min(float(image.height), bottom)
        if inside[2] - inside[0] < LEAST_PIXELS or inside[3] - inside[1] < LEAST_PIXELS:
            self.found.misfit("boxes of no area", name)
            return None
        self.cut += any(abs(a - b) > 1 for a, b in zip(inside, box.corners, strict=True))
        height, width = self.size
        shares = [corner * scale / side for corner, side in zip(inside, (width, height) * 2, strict=True)]
        number = float(self.numbers[box.name])
        return (*shares, FIRST_CROWD - number if box.crowd else number)

    def _assembled(self, name: str, parts: dict[str, _LoadedBoxes], origins: dict[str, str]) -> Dataset:
        classes, notes = self.found.classes, self.found.notes
        most = max(len(rows) for loaded in parts.values() for rows in loaded.rows)
        tensors, counted = {}, {}
        for part in PARTS:
            loaded = shuffled(parts[part], self.seed)
            targets = np.full((len(loaded), max(1, most), 5), NOTHING, dtype=np.float32)
            targets[..., :4] = 0.0
            for index, rows in enumerate(loaded.rows):
                if rows:
                    targets[index, : len(rows)] = rows
            must_have_labels(part, len(loaded), int((targets[..., 4] >= 0).sum()), "a box", self.source.path)
            tensors[part] = Split(torch.from_numpy(np.stack(loaded.pixels)), torch.from_numpy(targets))
            counted[part] = (len(loaded),)
            origins[part] += f", {_told(targets, classes)}"
        for reason, names in self.found.misfits.items():
            notes.append(f"left out are {len(names)} {reason} ({listed(sorted(names), 4)})")
        if self.cut:
            notes.append(f"{self.cut} boxes reach beyond their image and are cut at its edge")
        account = DataAccount(classes, counted, origins, self.found.skipped, tuple(notes))
        mean, std = statistics(tensors["train"].images.numpy())
        return Dataset(name, classes, tensors["train"], tensors["validation"], tensors["test"], mean, std, account)


def _told(targets: np.ndarray, classes: Sequence[str]) -> str:
    """How many boxes, of each class, and images without any."""
    numbers = targets[..., 4]
    each = ", ".join(f"{name} {int((numbers == number).sum()):,}" for number, name in enumerate(classes[:8]))
    more = [f"{crowds:,} crowds"] if (crowds := int((numbers <= FIRST_CROWD).sum())) else []
    empty = int((numbers == NOTHING).all(axis=1).sum())
    more += [f"{empty:,} images without boxes"] if empty else []
    return ", ".join([f"{int((numbers >= 0).sum()):,} boxes ({each})", *more])


def letterboxed(image: Any, size: Size) -> tuple[np.ndarray, float]:
    """An image as 3×H×W at the upper left of a grey one of ``size``, and what its pixels were scaled with."""
    from PIL import Image

    height, width = size
    scale = min(height / image.height, width / image.width)
    inner = (min(width, max(1, round(image.width * scale))), min(height, max(1, round(image.height * scale))))
    small = image if inner == image.size else image.resize(inner, Image.Resampling.BILINEAR)
    if inner == (width, height):
        return np.asarray(small).transpose(2, 0, 1).copy(), scale
    canvas = Image.new("RGB", (width, height), FILL)
    canvas.paste(small)
    return np.asarray(canvas).transpose(2, 0, 1).copy(), scale
