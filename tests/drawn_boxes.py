"""Tiny images with boxes: coloured rectangles on noise, written in VOC's or COCO's layout."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"blue": (60, 60, 220), "red": (220, 60, 60)}
NAMES = tuple(COLOURS)


def scene(generator, height, width, most=3):
    """An image H×W×3 and its rows (left, top, right, bottom, name), none to ``most``."""
    pixels = generator.normal(110, 20, (height, width, 3))
    rows = []
    for _ in range(generator.integers(0, most + 1)):
        name = NAMES[generator.integers(len(NAMES))]
        wide, high = generator.integers(10, width // 2), generator.integers(10, height // 2)
        left, top = generator.integers(0, width - wide), generator.integers(0, height - high)
        pixels[top : top + high, left : left + wide] = generator.normal(COLOURS[name], 15, (high, wide, 3))
        rows.append((int(left), int(top), int(left + wide), int(top + high), name))
    return pixels.clip(0, 255).astype(np.uint8), rows


def _object(left, top, right, bottom, name):
    corners = zip(("xmin", "ymin", "xmax", "ymax"), (left, top, right, bottom), strict=True)
    box = "".join(f"<{key}>{value}</{key}>" for key, value in corners)
    return f"<object><name>{name}</name><difficult>0</difficult><bndbox>{box}</bndbox></object>"


def write_voc(root: Path, counts, size=(64, 96), seed=0, more=None) -> Path:
    """JPEGImages, Annotations and ImageSets/Main below ``root``; ``more``: rows to add, by the number of the image."""
    generator = np.random.default_rng(seed)
    number = 0
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for part, count in counts.items():
        stems = []
        for _ in range(count):
            pixels, rows = scene(generator, *size)
            stem = f"{number:04d}"
            Image.fromarray(pixels).save(root / "JPEGImages" / f"{stem}.png")
            objects = "".join(_object(*row) for row in [*rows, *(more or {}).get(number, [])])
            (root / "Annotations" / f"{stem}.xml").write_text(f"<annotation>{objects}</annotation>")
            stems.append(stem)
            number += 1
        (root / "ImageSets" / "Main" / f"{part}.txt").write_text("\n".join(stems))
    return root


def write_coco(root: Path, counts, size=(64, 64), seed=0, crowds=(), sizes=None) -> Path:
    """``PART/*.png`` and ``annotations/instances_PART.json``; a crowd over the left half of the images of these
    numbers; other ``sizes`` by number."""
    generator = np.random.default_rng(seed)
    number = 0
    (root / "annotations").mkdir(parents=True)
    for part, count in counts.items():
        images, annotations = [], []
        (root / part).mkdir()
        for _ in range(count):
            height, width = (sizes or {}).get(number, size)
            pixels, rows = scene(generator, height, width)
            Image.fromarray(pixels).save(root / part / f"{number:04d}.png")
            images.append({"id": number, "file_name": f"{number:04d}.png", "height": height, "width": width})
            boxes = [(*row[:4], NAMES.index(row[4]), 0) for row in rows]
            boxes += [(0, 0, width // 2, height, 0, 1)] if number in crowds else []
            for left, top, right, bottom, kind, crowd in boxes:
                annotations.append({
                    "id": len(annotations) + 1, "image_id": number, "category_id": 7 + kind, "iscrowd": crowd,
                    "bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top),
                })  # fmt: skip
            number += 1
        categories = [{"id": 7 + kind, "name": name} for kind, name in enumerate(NAMES)]
        table = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(table))
    return root
