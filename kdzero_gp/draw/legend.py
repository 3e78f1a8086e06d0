"""The legend of a picture: what the shapes, colours and lines mean."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kdzero_gp.draw.labels import text_width
from kdzero_gp.draw.style import DETAIL_SIZE, Rectangle

SWATCH = (26.0, 14.0)
ROW_HEIGHT = 20.0
TEXT_GAP = 5.0
ENTRY_GAP = 16.0
# The order of the flow.
ORDER = ("knowledge", "transform", "distance", "calibration")
LINES = {True: "student and teacher", False: "loss"}


@dataclass(frozen=True)
class LegendEntry:
    """A swatch with its word. ``role`` names the node's look; ``pair`` and ``loss`` are the two lines."""

    role: str
    text: str
    swatch: Rectangle
    text_box: Rectangle


def legend(
    roles: Iterable[str], pairs: Iterable[bool], width: float, left: float, top: float
) -> tuple[tuple[LegendEntry, ...], float, float]:
    """The entries for what a picture shows, in rows of at most ``width``; and their width and height."""
    present, lines = set(roles), set(pairs)
    shapes = [(role, role) for role in ORDER if role in present]
    ways = [("pair" if pair else "loss", text) for pair, text in LINES.items() if pair in lines]
    entries, x, y, extent = [], left, top, 0.0
    wide = sum(_length(text) + ENTRY_GAP for _, text in [*shapes, *ways]) - ENTRY_GAP > width
    for role, text in [*shapes, *ways]:
        length, needed = text_width(text, DETAIL_SIZE), _length(text)
        starts_ways = wide and (role, text) == ways[0]
        if x > left and (starts_ways or x + needed > left + width):
            x, y = left, y + ROW_HEIGHT
        swatch = Rectangle(x, y + (ROW_HEIGHT - SWATCH[1]) / 2, *SWATCH)
        text_box = Rectangle(
            x + SWATCH[0] + TEXT_GAP, y + (ROW_HEIGHT - DETAIL_SIZE * 1.1) / 2, length, DETAIL_SIZE * 1.1
        )
        entries.append(LegendEntry(role, text, swatch, text_box))
        extent = max(extent, x + needed - left)
        x += needed + ENTRY_GAP
    return tuple(entries), extent, y + ROW_HEIGHT - top


def _length(text: str) -> float:
    return SWATCH[0] + TEXT_GAP + text_width(text, DETAIL_SIZE)
