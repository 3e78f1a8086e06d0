"""Images with label maps, in the usual layouts, from a folder or a zip: which map belongs to which image, and what the
values mean."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import torch

from kdzero_gp.data import images
from kdzero_gp.data.account import PARTS, DataAccount, listed
from kdzero_gp.data.cache import cached, fingerprint
from kdzero_gp.data.dataset import SPLIT_SEED, TEST_SHARE, VALIDATION_SHARE, Dataset, Split, statistics
from kdzero_gp.data.decoding import Size, fit, open_image
from kdzero_gp.data.images import File, Source
from kdzero_gp.data.sources import existing
from kdzero_gp.errors import DataError

IGNORED = -1
"""What a pixel without a label has."""
USUAL_IGNORED = 255
"""The value that never counts where nobody names one (VOC, Cityscapes)."""
MOST_MISFITS = 0.1
"""From this share of misfit label maps on, the layout or an option is wrong, and nothing is left out."""

LAYOUT = "{images,labels}/{train,val,test}/<name>.png"
_IMAGES = r"images?|imgs?|jpegimages|leftimg8bit|rgb|inputs?|photos?"
_LABELS = (
    r"labels?|masks?|annot(ation)?s?|gt|gtfine|segmentationclass|targets?|ground_?truth|label_?maps?|segmentations?"
)
_PARTS = {"train": r"train|training", "validation": r"val|valid|validation|dev", "test": r"test|testing"}
# what stands behind the common part of the two names
_ENDINGS = re.compile(
    r"(_leftimg8bit|_gtfine_(labeltrainids|labelids)|_(labels?|masks?|gt|l|segmentation|annot(ation)?))$", re.IGNORECASE
)
_NAME_FILES = ("classes.txt", "codes.txt", "labels.txt", "class_names.txt")


@dataclass(frozen=True)
class Reading:
    """How label maps are read: ``ignore`` are values that never count (nothing given: 255), ``classes`` the names, or
    one number as text."""

    path: str
    ignore: tuple[int, ...] = ()
    classes: tuple[str, ...] = ()

    @classmethod
    def of(cls, text: str) -> Reading:
        """Read ``PATH?ignore=11&classes=sky,road``; a path that exists is taken as it is. Raises DataError.

        >>> Reading.of("camvid.zip?ignore=11").ignore
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
        settings = {"ignore": ",".join(map(str, self.ignore)), "classes": ",".join(self.classes)}
        query = "&".join(f"{name}={value}" for name, value in settings.items() if value)
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
    before = Reading.of(data)
    changed = replace(
        before,
        ignore=before.ignore if ignore is None else _numbers(ignore),
        classes=before.classes if classes is None else _names(classes),
    )
    return str(changed)


@dataclass
class _Pairs:
    """Image and label map by part; ``skipped`` counts what has no counterpart."""

    parts: dict[str, list[tuple[File, File]]] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)


def load(data: str | None, seed: int = SPLIT_SEED) -> Dataset:
    """Images and label maps below a folder or in a zip (see ``Reading.of`` for the settings in ``data``).

    The folders say what is an image, what a label map, and which part both belong to, in any order: ``images/train``,
    ``train/images``, ``train`` beside ``trainannot``, VOC with its ImageSets, Cityscapes. Values are class numbers, of
    palette images the indices. All become the most frequent size of the training images. What does not fit is left out
    and named in the account; too much of it raises DataError.
    """
    if data is None:
        raise DataError(f"the task segmentation needs data: give with --data a folder {LAYOUT}, or a zip of it")
    reading = Reading.of(str(data))
    path = existing(reading.path)
    source = images.find(path)

    def make() -> Dataset:
        with source:
            return _Reader(source, reading, seed).dataset(path.resolve().stem)

    options = {"ignore": list(reading.ignore), "classes": list(reading.classes)}
    return cached("segmentation", fingerprint(path, source.facts, task="segmentation", seed=seed, **options), make)


class _Reader:
    """One data set on its way from files to tensors."""

    def __init__(self, source: Source, reading: Reading, seed: int):
        self.source, self.reading, self.seed = source, reading, seed
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
            splits[part] = _Loaded(
                np.stack([pixels[i] for i in kept]), np.stack([maps[part][i] for i in kept]), [names[i] for i in kept]
            )
        self._refuse_many(sum(len(found) for found in pairs.parts.values()))
        origins = {part: f"{self.source.path.name}'s {part} part" for part in splits}
        self._split_off(splits, origins)
        return self._assembled(name, classes, splits, origins, pairs.skipped)

    def _size(self, found: Sequence[tuple[File, File]]) -> Size:
        """The most frequent size of the training images."""
        sizes: Counter[Size] = Counter()
        for image, _ in found:
            try:
                opened = open_image(self.source.read(image.name), 3)
                sizes[(opened.height, opened.width)] += 1
            except (OSError, ValueError, SyntaxError):
                continue  # named where it is decoded
        if not sizes:
            raise DataError(f"no training image of {self.source.path} can be decoded; give other data with --data")
        most = max(sizes, key=lambda size: (sizes[size], size))
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
        ignored = self.reading.ignore or (USUAL_IGNORED,)
        seen = {int(value) for one in maps["train"] for value in np.unique(one)}
        renamed = {}
        if not self.reading.ignore and seen == {0, USUAL_IGNORED}:
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
        given = self.reading.classes or self._listed_names(found)
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
                opened = self.source.read(file.name)
                raw = opened.read_bytes() if isinstance(opened, Path) else opened.read()
                lines = tuple(line.strip() for line in raw.decode("utf-8", "replace").splitlines() if line.strip())
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

    def _split_off(self, splits: dict[str, _Loaded], origins: dict[str, str]) -> None:
        for part, share in (("test", TEST_SHARE), ("validation", VALIDATION_SHARE)):
            if part in splits:
                continue
            train = splits["train"]
            order = list(range(len(train.names)))
            random.Random(self.seed).shuffle(order)
            count = max(1, round(share * len(order)))
            if len(order) <= count + 1:
                raise DataError(f"{self.source.path} has too few images to split off a {part} part; add one")
            splits[part], splits["train"] = train.at(sorted(order[:count])), train.at(sorted(order[count:]))
            origins[part] = f"the training images (split off, {share:.0%})"

    def _assembled(
        self, name: str, classes: tuple[str, ...], splits: dict[str, _Loaded], origins: dict[str, str], skipped: Any
    ) -> Dataset:
        if self.misfits:
            self.notes.append(self._named())
        tensors, counted = {}, {}
        for part in PARTS:
            order = list(range(len(splits[part].names)))
            random.Random(self.seed).shuffle(order)  # so that every prefix is a sample
            one = splits[part].at(order)
            tensors[part] = Split(torch.from_numpy(one.pixels), torch.from_numpy(one.maps.astype(np.int64)))
            counted[part] = (len(order),)
            labelled = float((one.maps != IGNORED).mean())
            origins[part] += f", {labelled:.1%} of the pixels labelled"
            missing = [classes[i] for i in range(len(classes)) if not (one.maps == i).any()]
            if missing:
                self.notes.append(f"{part} has no pixel of {listed(missing)}")
        account = DataAccount(classes, counted, origins, dict(skipped), tuple(self.notes))
        three = tensors["train"], tensors["validation"], tensors["test"]
        mean, std = statistics(three[0].images.numpy())
        return Dataset(name, classes, *three, mean, std, account)


@dataclass(frozen=True)
class _Loaded:
    pixels: np.ndarray
    maps: np.ndarray
    names: list[str]

    def at(self, indices: list[int]) -> _Loaded:
        """These images alone."""
        return _Loaded(self.pixels[indices], self.maps[indices], [self.names[i] for i in indices])


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
        raise _Misfit("whose values are no class numbers")
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


def find_pairs(source: Source) -> _Pairs:
    """Images with their label maps, by part. Raises DataError where none is found."""
    found: dict[str, dict[tuple[str, ...], File]] = {"image": {}, "label": {}}
    parts: dict[tuple[str, ...], str] = {}
    beside = any(_role_of(folder)[0] == "label" for file in source.files if file.is_image for folder in file.parts[:-1])
    for file in source.files:
        if not file.is_image or re.search(r"_(color|instanceids)$", Path(file.parts[-1]).stem, re.IGNORECASE):
            continue
        role, part, rest = _place(file, beside)
        key = (part, *rest, _ENDINGS.sub("", Path(file.parts[-1]).stem))
        before = found[role].get(key)
        if before is None or "trainids" in file.name.lower():
            found[role][key] = file
        parts[key] = part
    both = sorted(found["image"].keys() & found["label"].keys())
    if not both:
        raise DataError(
            f"{source.path} has {len(found['image'])} images and {len(found['label'])} maps and none of one name; "
            f"give with --data a tree {LAYOUT}, or a zip of it"
        )
    pairs = _Pairs()
    lists = _image_sets(source)
    for key in both:
        part = parts[key] or lists.get(key[-1], "train" if not lists else "")
        if part:
            pairs.parts.setdefault(part, []).append((found["image"][key], found["label"][key]))
    pairs.skipped["images without a label map"] = len(found["image"].keys() - set(both))
    pairs.skipped["label maps without an image"] = len(found["label"].keys() - set(both))
    pairs.skipped = +pairs.skipped
    if "train" not in pairs.parts:
        raise DataError(f"{source.path} has no training part; name its folder train, or leave the parts out")
    return pairs


def _role_of(folder: str) -> tuple[str, str]:
    """What a folder's name says: image or label, and the part; empty where it says nothing.

    >>> _role_of("trainannot"), _role_of("val"), _role_of("camvid")
    (('label', 'train'), ('', 'validation'), ('', ''))
    """
    name = folder.lower()
    for role, words in (("image", _IMAGES), ("label", _LABELS)):
        if re.fullmatch(words, name):
            return role, ""
        for part, names in _PARTS.items():
            if re.fullmatch(rf"({names})[ _-]?({words})|({words})[ _-]?({names})", name):
                return role, part
    return "", next((part for part, names in _PARTS.items() if re.fullmatch(names, name)), "")


def _place(file: File, beside: bool) -> tuple[str, str, tuple[str, ...]]:
    """Role and part of a file, and the folders that say neither below the first that does."""
    role, part, rest, begun = "", "", [], False
    for folder in file.parts[:-1]:
        said, where = _role_of(folder)
        role, part = said or role, where or part
        if said or where:
            begun = True
        elif begun:
            rest.append(folder)
    return role or ("image" if beside else "label"), part, tuple(rest)


def _image_sets(source: Source) -> dict[str, str]:
    """Image names by part out of VOC's ImageSets/Segmentation/{train,val,test}.txt."""
    lists: dict[str, str] = {}
    for file in source.files:
        stem = Path(file.parts[-1]).stem
        if "ImageSets" in file.parts and file.suffix == ".txt" and _role_of(stem)[1]:
            opened = source.read(file.name)
            raw = opened.read_bytes() if isinstance(opened, Path) else opened.read()
            for line in raw.decode().split():
                lists[line] = _role_of(stem)[1]
    return lists
