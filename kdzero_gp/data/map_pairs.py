"""Which label map belongs to which image, and to which part, by the names of folders and files."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from kdzero_gp.data.images import File, Source
from kdzero_gp.data.roles import SPELLED
from kdzero_gp.errors import DataError

LAYOUT = "{images,labels}/{train,val,test}/<name>.png"
_IMAGES = r"images?|imgs?|jpegimages|leftimg8bit|rgb|inputs?|photos?"
_LABELS = (
    r"labels?|masks?|annot(ation)?s?|gt|gtfine|segmentationclass|targets?|ground_?truth|label_?maps?|segmentations?"
)
# what stands behind the common part of the two names
_ENDINGS = re.compile(
    r"(_leftimg8bit|_gtfine_(labeltrainids|labelids)|_(labels?|masks?|gt|l|segmentation|annot(ation)?))$", re.IGNORECASE
)


@dataclass
class Pairs:
    """Image and label map by part; ``skipped`` counts what has no counterpart."""

    parts: dict[str, list[tuple[File, File]]] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)


def find_pairs(source: Source) -> Pairs:
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
    pairs = Pairs()
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
        for part, names in SPELLED.items():
            if re.fullmatch(rf"({names})[ _-]?({words})|({words})[ _-]?({names})", name):
                return role, part
    return "", next((part for part, names in SPELLED.items() if re.fullmatch(names, name)), "")


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
            for line in source.content(file.name).decode().split():
                lists[line] = _role_of(stem)[1]
    return lists
