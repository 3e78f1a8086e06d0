"""Boxes of images as VOC (XML) and COCO (JSON) files have them, and which part each image belongs to."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from kdzero_gp.data.account import listed
from kdzero_gp.data.images import File, Source
from kdzero_gp.data.roles import SPELLED
from kdzero_gp.errors import DataError

LAYOUT = "Annotations/*.xml with JPEGImages/ (VOC), or a COCO .json with its images"
# of COCO's own files for one part, the one that has the boxes of objects
_OBJECTS = "instances"


@dataclass(frozen=True)
class Box:
    """Left, top, right and bottom in pixels, the name of the class, and whether it marks a crowd."""

    corners: tuple[float, float, float, float]
    name: str
    crowd: bool = False


@dataclass(frozen=True)
class Annotated:
    """An image file with its boxes."""

    image: File
    boxes: tuple[Box, ...]


@dataclass
class Annotations:
    """Annotated images by part; ``classes`` as the training part names them, in order; what was not read."""

    parts: dict[str, list[Annotated]] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    skipped: dict[str, int] = field(default_factory=dict)
    misfits: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def misfit(self, reason: str, name: str) -> None:
        """Note a file or box that does not fit."""
        self.misfits.setdefault(reason, []).append(name)

    def skip(self, reason: str, count: int) -> None:
        """Note files that are not read."""
        if count:
            self.skipped[reason] = self.skipped.get(reason, 0) + count


def part_of(words: str) -> str:
    """The part that a folder's or file's name tells; empty for none.

    >>> part_of("instances_train2017"), part_of("valid"), part_of("Annotations"), part_of("contest")
    ('train', 'validation', '', '')
    """
    for part, names in SPELLED.items():
        if re.search(rf"(^|[^a-z])({names})([^a-z]|$)", words.lower()):
            return part
    return ""


def _part_of_file(file: File) -> str:
    """The part that a file's name or the nearest folder above it tells."""
    names = [Path(file.parts[-1]).stem, *reversed(file.parts[:-1])]
    return next((part for name in names if (part := part_of(name))), "")


def find_annotations(source: Source) -> Annotations:
    """All images of a folder or zip with their boxes. Raises DataError where there are none, or two files for one
    part."""
    tables = {file: table for file in source.files if (table := _coco_table(source, file)) is not None}
    found = Annotations()
    if tables:
        for part, file in _one_a_part(source, list(tables)).items():
            with _coco(source, file):
                found.parts[part] = list(_of_table(source, file, tables[file], found))
                if part == "train":
                    found.classes = _categories(tables[file])
        return found
    xml = [file for file in source.files if file.suffix == ".xml"]
    if not xml:
        raise DataError(f"{source.path} holds no boxes; give with --data a folder or zip of {LAYOUT}")
    _read_voc(source, xml, found)
    train = found.parts.get("train", [])
    found.classes = tuple(sorted({box.name for one in train for box in one.boxes}))
    return found


# --- COCO ---------------------------------------------------------------------------------------------------


def _coco_table(source: Source, file: File) -> dict[str, Any] | None:
    """The content of a COCO file; None for other files."""
    if file.suffix != ".json":
        return None
    try:
        table = json.loads(source.content(file.name))
    except (OSError, ValueError):
        return None
    wanted = ("images", "annotations", "categories")
    return table if isinstance(table, dict) and all(isinstance(table.get(name), list) for name in wanted) else None


@contextlib.contextmanager
def _coco(source: Source, file: File) -> Iterator[None]:
    """What fields of another kind cause, as a sentence."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(
            f"{file.name} of {source.path} has images, annotations or categories that are not as COCO has them "
            f"({type(error).__name__}: {error}); mend it"
        ) from None


def _one_a_part(source: Source, files: Sequence[File]) -> dict[str, File]:
    """The file of each part; one alone, without a part in its name, is for training."""
    parts: dict[str, list[File]] = {}
    for file in files:
        parts.setdefault(_part_of_file(file) or "train", []).append(file)
    chosen = {}
    for part, candidates in parts.items():
        objects = [file for file in candidates if _OBJECTS in file.parts[-1].lower()]
        kept = objects if len(objects) == 1 else candidates
        if len(kept) > 1:
            raise DataError(
                f"{source.path} has {len(kept)} files of boxes for {part} ({listed([f.name for f in kept], 3)}); keep "
                "one for each part, with train, val or test in its name"
            )
        chosen[part] = kept[0]
    if "train" not in chosen:
        raise DataError(f"{source.path} has no boxes for training; name a file of them with train, as train.json")
    return chosen


def _categories(table: dict[str, Any]) -> tuple[str, ...]:
    """The classes of a COCO file, by their numbers; those that no box has are left out, as Roboflow's first is."""
    used = {one.get("category_id") for one in table["annotations"]}
    named = {one["id"]: str(one["name"]) for one in table["categories"] if one["id"] in used}
    return tuple(named[number] for number in sorted(named))


def _of_table(source: Source, file: File, table: dict[str, Any], found: Annotations) -> Iterator[Annotated]:
    """The images of a COCO file; those that it names and that are not there are counted."""
    named: dict[str, list[File]] = {}
    for image in source.files:
        if image.is_image:
            named.setdefault(image.parts[-1], []).append(image)
    names = {one["id"]: str(one["name"]) for one in table["categories"]}
    boxes: dict[Any, list[Box]] = {}
    for one in table["annotations"]:
        try:
            left, top, width, height = (float(number) for number in one["bbox"])
            box = Box((left, top, left + width, top + height), names[one["category_id"]], bool(one.get("iscrowd")))
        except (KeyError, TypeError, ValueError):
            found.misfit("annotations without a box or of no category", f"number {one.get('id')} of {file.name}")
            continue
        boxes.setdefault(one.get("image_id"), []).append(box)
    absent = 0
    for one in table["images"]:
        wanted = File.of(str(one.get("file_name", ""))).parts
        candidates = [image for image in named.get(wanted[-1] if wanted else "", []) if _ends(image.parts, wanted)]
        if not candidates:
            absent += 1
            continue
        yield Annotated(_nearest(candidates, file), tuple(boxes.get(one.get("id"), ())))
    found.skip(f"images of {file.name} that are not there", absent)


def _ends(parts: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    return parts[-len(wanted) :] == wanted


def _nearest(candidates: Sequence[File], table: File) -> File:
    """Of files with one name the one of the table's part or beside it."""
    part = _part_of_file(table)
    return max(candidates, key=lambda file: (_part_of_file(file) == part, file.parts[:-1] == table.parts[:-1]))


# --- VOC ----------------------------------------------------------------------------------------------------


def _read_voc(source: Source, files: Sequence[File], found: Annotations) -> None:
    lists = _image_sets(source)
    images: dict[str, list[File]] = {}
    for image in source.files:
        if image.is_image:
            images.setdefault(Path(image.parts[-1]).stem, []).append(image)
    difficult = unlisted = 0
    for file in files:
        stem = Path(file.parts[-1]).stem
        candidates = images.pop(stem, []) if len(images.get(stem, ())) == 1 else images.get(stem, [])
        try:
            root = ElementTree.fromstring(source.content(file.name))
            boxes = tuple(_voc_box(one) for one in root.iter("object"))
        except (ElementTree.ParseError, ValueError, OSError):
            found.misfit("annotations that cannot be read", file.name)
            continue
        part = lists.get(stem, "") if lists else _part_of_file(file) or "train"
        if not candidates:
            found.skip("annotations without an image", 1)
        elif not part:
            unlisted += 1
        else:
            found.parts.setdefault(part, []).append(Annotated(_nearest(candidates, file), boxes))
            difficult += sum((one.findtext("difficult") or "0").strip() == "1" for one in root.iter("object"))
    found.skip("images in no list of ImageSets/Main", unlisted)
    found.skip("images without an annotation", sum(map(len, images.values())))
    if difficult:
        found.notes.append(f"{difficult} boxes are marked difficult and count like the others")
    if "train" not in found.parts:
        raise DataError(f"{source.path} has no training part; name its list or folder train, or leave the parts out")


def _voc_box(one: ElementTree.Element) -> Box:
    """An ``object`` element. Raises ValueError."""
    corners = tuple(float(one.findtext(f"bndbox/{name}") or "nan") for name in ("xmin", "ymin", "xmax", "ymax"))
    name = (one.findtext("name") or "").strip()
    if not name or any(number != number for number in corners):
        raise ValueError
    return Box(corners, name)  # type: ignore[arg-type]


def _image_sets(source: Source) -> dict[str, str]:
    """Image names by part out of VOC's ImageSets/Main/{train,val,test}.txt."""
    lists: dict[str, str] = {}
    for file in source.files:
        stem = Path(file.parts[-1]).stem
        if "ImageSets" in file.parts and file.suffix == ".txt" and stem.lower() in ("train", "val", "test"):
            for line in source.content(file.name).decode("utf-8", "replace").splitlines():
                if line.strip():
                    lists[line.split()[0]] = part_of(stem)
    return lists
