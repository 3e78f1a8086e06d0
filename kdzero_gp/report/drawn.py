"""Predictions drawn on their images: svg with the photograph and the masks inside, or with rectangles."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

from markupsafe import Markup
from PIL import Image
from torch import Tensor

from kdzero_gp.analysis.markup import tag
from kdzero_gp.engine.predictions import NO_LABEL, Predictions

# Okabe and Ito's, which most eyes tell apart, and more for many classes; they repeat after the last.
COLOURS = (
    "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#999999", "#6a3d9a", "#b15928",
    "#33a02c", "#fb9a99",
)  # fmt: skip
QUALITY = 85


def colour(number: int) -> str:
    """That of a class."""
    return COLOURS[number % len(COLOURS)]


def rows(predictions: Predictions, group: str, classes: Sequence[str]) -> list[list[Markup]]:
    """For each image the photograph, the truth, and what each network said. ``group`` tells pictures of one page
    apart."""
    columns = {"truth": predictions.truth, **predictions.said}
    found = []
    for index, image in enumerate(predictions.images):
        name, height, width = f"photo-{group}-{index}", image.shape[1], image.shape[2]
        photo = tag("image", id=name, href=_jpeg(image), width=width, height=height)
        drawn = [_svg(width, height, f"image {index + 1}", photo)]
        for title, targets in columns.items():
            told = _mask(targets[index]) if targets.dim() == 3 and not targets.is_floating_point() else ()
            told = told or _boxes(targets[index], width, height, classes)
            drawn.append(_svg(width, height, f"image {index + 1}, {title}", tag("use", href=f"#{name}"), *told))
        found.append(drawn)
    return found


def _svg(width: int, height: int, label: str, *content: Markup) -> Markup:
    return tag("svg", *content, kind="shown", viewBox=f"0 0 {width} {height}", role="img", aria_label=label)


def _mask(labels: Tensor) -> tuple[Markup, ...]:
    """A label map as a half transparent picture; nothing where there is no label."""
    picture = Image.fromarray(labels.numpy())
    palette = [tuple(bytes.fromhex(colour(number)[1:])) for number in range(256)]
    picture = picture.convert("P") if picture.mode != "L" else picture
    picture.putpalette([part for entry in palette for part in entry])
    content = io.BytesIO()
    picture.save(content, "PNG", transparency=NO_LABEL, optimize=True)
    height, width = labels.shape
    return (tag("image", kind="mask", href=_uri("png", content), width=width, height=height),)


def _boxes(rows: Tensor, width: int, height: int, classes: Sequence[str]) -> tuple[Markup, ...]:
    """Boxes as rectangles; crowds are dashed."""
    drawn = []
    for left, top, right, bottom, number, *score in rows.tolist():
        kind = int(number) if number >= 0 else -2 - int(number)
        if kind < 0:
            continue
        name = classes[kind] if kind < len(classes) else str(kind)
        words = " ".join([name, *(["crowd"] if number < 0 else []), *(f"{value:.2f}" for value in score)])
        dashed = {"stroke_dasharray": "4 3"} if number < 0 else {}
        place = {"x": f"{left * width:.1f}", "y": f"{top * height:.1f}"}
        size = {"width": f"{(right - left) * width:.1f}", "height": f"{(bottom - top) * height:.1f}"}
        drawn.append(tag("rect", tag("title", words), kind="box", stroke=colour(kind), **place, **size, **dashed))
    return tuple(drawn)


def _jpeg(image: Tensor) -> str:
    pixels = image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)
    content = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(content, "JPEG", quality=QUALITY)
    return _uri("jpeg", content)


def _uri(kind: str, content: io.BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"
