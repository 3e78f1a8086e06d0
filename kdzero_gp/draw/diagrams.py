"""A distiller as text for other programs' drawings: Graphviz dot and Mermaid."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kdzero_gp.compiler.expression import Expression
from kdzero_gp.draw.drawing import Drawing
from kdzero_gp.draw.labels import PAIR_ROLES, LabelledNode
from kdzero_gp.draw.layout import walk
from kdzero_gp.draw.style import FONT, INK, LINE, ROLES

_DOT_SHAPES = {
    "pill": 'shape=box, style="filled,rounded"',
    "rectangle": "shape=box, style=filled",
    "hexagon": "shape=hexagon, style=filled",
    "parallelogram": "shape=parallelogram, style=filled",
    "ellipse": "shape=ellipse, style=filled",
}
_MERMAID_SHAPES = {
    "pill": ("([", "])"),
    "rectangle": ("[", "]"),
    "hexagon": ("{{", "}}"),
    "parallelogram": ("[/", "/]"),
    "ellipse": ("((", "))"),
}
# What ends a quoted text, starts an entity or is read as markup. The number sign comes first in the text's
# order.
_MERMAID_SPECIAL = '#"<>&`\\[]{}()|;'


def _texts(item: LabelledNode) -> list[str]:
    return [f"{line.text} {line.tag}" if line.tag else line.text for line in item.lines]


def _flow(root: LabelledNode) -> Iterator[tuple[LabelledNode, LabelledNode, bool]]:
    """Child, parent, and whether a student-teacher pair flows between them."""
    for parent in walk(root):
        for child in parent.children:
            yield child, parent, child.role in PAIR_ROLES


def escape_dot(text: str) -> str:
    r"""A text inside the double quotes of a dot file; a line break becomes \n.

    >>> escape_dot('a "b" \\ c')
    'a \\"b\\" \\\\ c'
    """
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\r", "").replace("\n", "\\n")


def escape_mermaid(text: str) -> str:
    """A text inside the double quotes of a Mermaid node: special characters become entities.

    >>> escape_mermaid('a "b" #1')
    'a #34;b#34; #35;1'
    """
    escaped = "".join(f"#{ord(letter)};" if letter in _MERMAID_SPECIAL else letter for letter in text)
    return " ".join(escaped.split())


def _one_line(text: str) -> str:
    """A text for Mermaid's titles, which end with the line and know no entities."""
    return " ".join(text.replace(";", ",").replace("#", "").split())


def to_dot(expression: Expression, *context: Any, **named: Any) -> str:
    """A distiller as a Graphviz file; the arguments are those of ``Drawing``. Double lines are pairs."""
    drawing = Drawing(expression, *context, **named)
    root = drawing.root
    lines = [
        "digraph distiller {",
        f'  graph [rankdir=LR, tooltip="{escape_dot(drawing.sentence)}"];',
        f'  node [fontname="{FONT}", color="{INK}"];',
        f'  edge [color="{LINE}"];',
    ]
    for item in walk(root):
        style = ROLES[item.role]
        label = "\\n".join(escape_dot(text) for text in _texts(item))
        look = f'fillcolor="{style.fill}", fontcolor="{style.ink}", tooltip="{escape_dot(item.tooltip)}"'
        lines.append(f'  n{item.index} [label="{label}", {_DOT_SHAPES[style.shape]}, {look}];')
    for child, parent, pair in _flow(root):
        double = f' [color="{LINE}:invis:{LINE}"]' if pair else ""
        lines.append(f"  n{child.index} -> n{parent.index}{double};")
    return "\n".join([*lines, "}"]) + "\n"


def to_mermaid(expression: Expression, *context: Any, **named: Any) -> str:
    """A distiller as a Mermaid flowchart; the arguments are those of ``Drawing``. Thick lines are pairs."""
    drawing = Drawing(expression, *context, **named)
    root = drawing.root
    lines = [
        "flowchart LR",
        f"  accTitle: {_one_line(str(expression))}",
        f"  accDescr: {_one_line(drawing.sentence)}",
    ]
    for item in walk(root):
        opening, closing = _MERMAID_SHAPES[ROLES[item.role].shape]
        label = "<br/>".join(escape_mermaid(text) for text in _texts(item))
        lines.append(f'  n{item.index}{opening}"{label}"{closing}:::{item.role}')
    for child, parent, pair in _flow(root):
        lines.append(f"  n{child.index} {'==>' if pair else '-->'} n{parent.index}")
    for role in dict.fromkeys(item.role for item in walk(root)):
        style = ROLES[role]
        lines.append(f"  classDef {role} fill:{style.fill},color:{style.ink},stroke:{INK}")
    return "\n".join(lines) + "\n"
