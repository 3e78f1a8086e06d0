"""Images with label maps, from a folder or a zip, as tensors of one size: what the values of the maps mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import torch

from kdzero_gp.data import images
from kdzero_gp.data.account import PARTS, DataAccount, listed
from kdzero_gp.data.cache import cached, fingerprint
from kdzero_gp.data.dataset import SPLIT_SEED, Dataset, Split, statistics
from kdzero_gp.data.decoding import Size, fit, open_image
from kdzero_gp.data.images import File, Source
from kdzero_gp.data.map_pairs import LAYOUT, find_pairs
from kdzero_gp.data.parts import image_sizes, most_frequent, must_have_labels, shuffled, split_off_missing
from kdzero_gp.data.sources import existing
from kdzero_gp.errors import DataError

IGNORED = -1
"""What a pixel without a label has."""
USUAL_IGNORED = 255
"""The value that never counts where nobody names one (VOC, Cityscapes)."""
MOST_MISFITS = 0.1
"""From this share of misfit label maps on, the layout or an option is wrong, and nothing is left out."""

_NAME_FILES = ("classes.txt", "codes.txt", "labels.txt", "class_names.txt")


@dataclass(frozen=True)
class LabelSettings:
    """How label maps are read: ``ignore`` are values that never count (nothing given: 255), ``classes`` the names, or
    one number as text."""

    path: str
    ignore: tuple[int, ...] = ()
    classes: tuple[str, ...] = ()

    @classmethod
    def of(cls, text: str) -> LabelSettings:
        """Read ``PATH?ignore=11&classes=sky,road``; a path that exists is taken as it is. Raises DataError.

        >>> LabelSettings.of("camvid.zip?ignore=11").ignore
        (11,)
        """
        path, mark, query = text.rpartition("?")
        if not mark or Path(text).expanduser().exists():
            return cls(text)
        given = dict(parse_qsl(query))
        unknown = sorted(given.keys() - {"ignore", "classes"})
        if unknown:
            raise DataError(f"--data {text} has the unknown setting {unknown[0]!r}; it takes ignore and classes")
        return cls(path, _numbers(given.get("ignore", "")), _names(given.get("classes", "")))

    def __str__(self) -> str:
        """The text that ``of`` reads."""
        given = {"ignore": ",".join(map(str, self.ignore)), "classes": ",".join(self.classes)}
        query = "&".join(f"{name}={value}" for name, value in given.items() if value)
        return f"{self.path}?{query}" if query else self.path


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(",") if number.strip())
    except ValueError:
        raise DataError(f"--ignore takes values of the label maps, such as 255 or 0,255, got {text!r}") from None


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def with_settings(data: str | None, ignore: str | None, classes: str | None) -> str | None:
    """``--data`` with what ``--ignore`` and ``--classes`` say in it. Raises DataError without data."""
    if ignore is None and classes is None:
        return data
    if data is None:
        raise DataError("--ignore and --classes say how label maps are read; add --data with images and label maps")
    before = LabelSettings.of(data)
    changed = replace(
        before,
        ignore=before.ignore if ignore is None else _numbers(ignore),
        classes=before.classes if classes is None else _names(classes),
    )
    return str(changed)


def load(data: str | None, seed: int = SPLIT_SEED) -> Dataset:
    """Images and label maps below a folder or in a zip (see ``LabelSettings.of`` for the settings in ``data``).

    The folders say what is an image, what a label map, and which part both belong to, in any order: ``images/train``,
    ``train/images``, ``train`` beside ``trainannot``, VOC with its ImageSets, Cityscapes. Values are class numbers, of
    palette images the indices. All become the most frequent size of the training images. What does not fit is left out
    and named in the account; too much of it raises DataError.
    """
    if data is None:
        raise DataError(f"the task segmentation needs data: give with --data a folder {LAYOUT}, or a zip of it")
    settings = LabelSettings.of(str(data))
    path = existing(settings.path)
    source = images.find(path)

    def make() -> Dataset:
        with source:
            return _MapReader(source, settings, seed).dataset(path.resolve().stem)

    options = {"ignore": list(settings.ignore), "classes": list(settings.classes)}
    return cached("segmentation", fingerprint(path, source.stamps, task="segmentation", seed=seed, **options), make)


class _MapReader:
    """One data set on its way from files to tensors."""

    def __init__(self, source: Source, settings: LabelSettings, seed: int):
        self.source, self.settings, self.seed = source, settings, seed
        self.misfits: dict[str, list[str]] = {}
        self.notes: list[str] = []

    def dataset(self, name: str) -> Dataset:
        pairs = find_pairs(self.source)
        size = self._size(pairs.parts["train"])
        decoded = {part: self._decode(found, size) for part, found in pairs.parts.items()}
        self._refuse_many(sum(len(found) for found in pairs.parts.values()))
        classes, maps = self._classes({part: maps for part, (_, maps, _) in decoded.items()})
        splits = {}
        for part, (pixels, _, names) in decoded.items():
            kept = [index for index, one in enumerate(maps[part]) if one is not None]
            if not kept:
                raise DataError(f"no {part} image of {self.source.path} has a label map that fits; {self._named()}")
            splits[part] = _LoadedMaps(
                np.stack([pixels[i] for i in kept]), np.stack([maps[part][i] for i in kept]), [names[i] for i in kept]
            )
        self._refuse_many(sum(len(found) for found in pairs.parts.values()))
        origins = {part: f"{self.source.path.name}'s {part} part" for part in splits}
        split_off_missing(splits, origins, self.source.path, self.seed)
        return self._assembled(name, classes, splits, origins, pairs.skipped)

    def _size(self, found: Sequence[tuple[File, File]]) -> Size:
        """The most frequent size of the training images."""
        sizes = image_sizes(self.source, [image for image, _ in found])
        most = most_frequent(sizes)
        if len(sizes) > 1:
            other = sum(sizes.values()) - sizes[most]
            self.notes.append(f"{other} of {sum(sizes.values())} training images have another size than {most[1]}×"
                              f"{most[0]}; they and their label maps are resized to it")  # fmt: skip
        return most

    def _decode(self, found: Sequence[tuple[File, File]], size: Size) -> tuple[list[Any], list[Any], list[str]]:
        pixels, maps, names = [], [], []
        for image, label in found:
            try:
                opened = open_image(self.source.read(image.name), 3)
                values = read_map(self.source.read(label.name))
            except (OSError, ValueError, SyntaxError) as error:
                reason = str(error) if isinstance(error, _Misfit) else "that cannot be decoded"
                self.misfits.setdefault(reason, []).append(label.name)
                continue
            if values.shape != (opened.height, opened.width):
                self.misfits.setdefault("of another size than their images", []).append(label.name)
                continue
            pixels.append(np.asarray(fit(opened, size)).transpose(2, 0, 1))
            maps.append(_fit_map(values, size))
            names.append(label.name)
        return pixels, maps, names

    def _classes(self, maps: dict[str, list[Any]]) -> tuple[tuple[str, ...], dict[str, list[Any]]]:
        """Names of the classes, and the maps with −1 where nothing counts; None for a map of other classes."""
        ignored = self.settings.ignore or (USUAL_IGNORED,)
        seen = {int(value) for one in maps["train"] for value in np.unique(one)}
        renamed = {}
        if not self.settings.ignore and seen == {0, USUAL_IGNORED}:
            ignored, renamed, seen = (), {USUAL_IGNORED: 1}, {0, 1}
            self.notes.append("label maps hold 0 and 255 alone: two classes; to ignore 255 add --ignore 255")
        names = self._names(max(seen - set(ignored), default=-1) + 1)
        marked: dict[str, list[Any]] = {}
        for part, values in maps.items():
            marked[part] = []
            for one in values:
                for value, number in renamed.items():
                    one[one == value] = number
                one[np.isin(one, ignored)] = IGNORED
                marked[part].append(one)
            marked[part] = [self._in_range(one, len(names), part, index) for index, one in enumerate(marked[part])]
        return names, marked

    def _in_range(self, one: Any, count: int, part: str, index: int) -> Any:
        if one.max(initial=IGNORED) < count:
            return one
        self.misfits.setdefault(f"with a class above {count - 1}", []).append(f"{part}, number {index + 1}")
        return None

    def _names(self, found: int) -> tuple[str, ...]:
        given = self.settings.classes or self._listed_names(found)
        if len(given) == 1 and given[0].isdecimal():
            given = tuple(map(str, range(int(given[0]))))
        names = given or tuple(map(str, range(found)))
        if len(names) < 2:
            raise DataError(
                f"the training label maps of {self.source.path} hold {len(names)} class; two are needed: check "
                "--ignore, and that labels are class numbers"
            )
        return names

    def _listed_names(self, found: int) -> tuple[str, ...]:
        """The classes that a file beside the images names, where it has as many as there are."""
        for file in self.source.files:
            if file.parts[-1].lower() in _NAME_FILES:
                text = self.source.content(file.name).decode("utf-8", "replace")
                lines = tuple(line.strip() for line in text.splitlines() if line.strip())
                if len(lines) >= found:
                    return lines[:found] if len(lines) == found + 1 else lines
        return ()

    def _named(self) -> str:
        """The misfits, each reason with its files."""
        reasons = [f"{len(names)} {reason} ({listed(names, 3)})" for reason, names in self.misfits.items()]
        return f"left out are label maps {'; '.join(reasons)}" if reasons else "check the layout"

    def _refuse_many(self, whole: int) -> None:
        """Raises DataError where so many do not fit that something else is wrong."""
        if sum(map(len, self.misfits.values())) > MOST_MISFITS * whole:
            raise DataError(
                f"too many label maps of {self.source.path} do not fit: {self._named()}; values have to be numbers "
                "(one channel or a palette), ignored ones are named with --ignore and classes with --classes"
            )

    def _assembled(
        self, name: str, classes: tuple[str, ...], splits: dict[str, _LoadedMaps], origins: dict[str, str], skipped: Any
    ) -> Dataset:
        if self.misfits:
            self.notes.append(self._named())
        tensors, counted = {}, {}
        for part in PARTS:
            one = shuffled(splits[part], self.seed)
            tensors[part] = Split(torch.from_numpy(one.pixels), torch.from_numpy(one.maps.astype(np.int64)))
            counted[part] = (len(one),)
            labelled = float((one.maps != IGNORED).mean())
            must_have_labels(part, len(one), int(labelled > 0), "a pixel with a label", self.source.path)
            origins[part] += f", {labelled:.1%} of the pixels labelled"
            missing = [classes[i] for i in range(len(classes)) if not (one.maps == i).any()]
            if missing:
                self.notes.append(f"{part} has no pixel of {listed(missing)}")
        account = DataAccount(classes, counted, origins, dict(skipped), tuple(self.notes))
        three = tensors["train"], tensors["validation"], tensors["test"]
        mean, std = statistics(three[0].images.numpy())
        return Dataset(name, classes, *three, mean, std, account)


@dataclass(frozen=True)
class _LoadedMaps:
    pixels: np.ndarray
    maps: np.ndarray
    names: list[str]

    def __len__(self) -> int:
        return len(self.names)

    def at(self, indices: Sequence[int]) -> _LoadedMaps:
        """These images alone."""
        return _LoadedMaps(self.pixels[[*indices]], self.maps[[*indices]], [self.names[i] for i in indices])


class _Misfit(ValueError):
    """A label map that can be decoded and means nothing; the text is its reason."""


def read_map(file: Any) -> np.ndarray:
    """The values of a label map H×W (int16): numbers, the indices of a palette, or grey saved as colour. Raises
    ValueError for colours."""
    from PIL import Image

    with Image.open(file) as opened:
        opened.load()
        values = np.asarray(opened)
    if values.ndim == 3:
        first = values[..., 0]
        if any((values[..., channel] != first).any() for channel in range(1, min(3, values.shape[2]))):
            raise _Misfit("coded by colours")
        values = first
    if values.dtype.kind == "f" or int(values.max(initial=0)) > np.iinfo(np.int16).max:
        raise _Misfit("whose values are not class numbers")
    return values.astype(np.int16)


def _fit_map(values: np.ndarray, size: Size) -> np.ndarray:
    """As ``fit`` does it to the image, with the nearest value."""
    if values.shape == size:
        return values
    height, width = size
    scale = max(height / values.shape[0], width / values.shape[1])
    places = []
    for length, wanted in zip(values.shape, size, strict=True):
        used = min(length, wanted / scale)
        at = (length - used) / 2 + (np.arange(wanted) + 0.5) * used / wanted
        places.append(np.clip(at.astype(np.int64), 0, length - 1))
    return values[np.ix_(*places)]
