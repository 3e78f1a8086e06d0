"""How the roles of nodes look: fill, outline and shape, so that colour is never the only sign."""

from __future__ import annotations

from dataclasses import dataclass

FONT = "DejaVu Sans"  # comes with matplotlib, so that what is measured is what is drawn
FONT_FAMILY = "DejaVu Sans, Verdana, sans-serif"  # Verdana has the same widths; other fonts are narrower
LABEL_SIZE = 13.0
DETAIL_SIZE = 10.0
LINE_HEIGHT = 1.3
INK = "#000000"
LINE = "#333333"
PAPER = "#ffffff"


@dataclass(frozen=True)
class RoleStyle:
    """Fill and text colour, the shape of the outline, and how far text stays from its left and right end."""

    fill: str
    ink: str
    shape: str
    padding: float


# Blue, yellow, orange and green of Okabe and Ito (2008), the blue darkened and the yellow lightened until the
# four are also apart as greys (L* of 35, 94, 71 and 58).
ROLES = {
    "knowledge": RoleStyle("#00588c", "#ffffff", "pill", 12.0),
    "transform": RoleStyle("#f7f0a6", INK, "rectangle", 9.0),
    "distance": RoleStyle("#e69f00", INK, "hexagon", 15.0),
    "calibration": RoleStyle("#009e73", INK, "parallelogram", 16.0),
    "weight": RoleStyle("#dba3c2", INK, "rectangle", 9.0),
    "weighing": RoleStyle(PAPER, INK, "parallelogram", 16.0),
    "combination": RoleStyle(PAPER, INK, "ellipse", 8.0),
}
SLANT = 10.0
"""How far the corners of hexagons and parallelograms are moved."""


@dataclass(frozen=True)
class Rectangle:
    """A rectangle; y grows downwards. Lengths are points (1/72 inch)."""

    left: float
    top: float
    width: float
    height: float

    @property
    def right(self) -> float:
        return self.left + self.width

    @property
    def bottom(self) -> float:
        return self.top + self.height

    @property
    def centre(self) -> tuple[float, float]:
        return self.left + self.width / 2, self.top + self.height / 2


def corners(shape: str, box: Rectangle) -> list[tuple[float, float]]:
    """The corners of a shape, clockwise from the upper left; those of pills and ellipses are rounded by
    ``radius``.
    """
    left, top, right, bottom = box.left, box.top, box.right, box.bottom
    slant, middle = min(SLANT, box.height / 2), box.centre[1]
    if shape == "hexagon":
        upper, lower = (
            [(left + slant, top), (right - slant, top)],
            [(right - slant, bottom), (left + slant, bottom)],
        )
        return [*upper, (right, middle), *lower, (left, middle)]
    if shape == "parallelogram":
        return [(left + slant, top), (right, top), (right - slant, bottom), (left, bottom)]
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def radius(shape: str, box: Rectangle) -> float:
    """How round the corners of a shape are."""
    return {"pill": min(box.height / 2, 14.0), "ellipse": box.height / 2, "rectangle": 3.0}.get(shape, 0.0)


def indent(shape: str, box: Rectangle) -> float:
    """How far the outline lies inside the box where an edge meets it from the left or the right."""
    return min(SLANT, box.height / 2) / 2 if shape == "parallelogram" else 0.0
