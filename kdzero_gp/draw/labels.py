"""What stands in each node of a picture, measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from kdzero_gp.compiler.checking import KnowledgeTypes, type_of
from kdzero_gp.compiler.expression import Expression, format_argument
from kdzero_gp.draw.factors import Factor, factors_of
from kdzero_gp.draw.graphs import numbered
from kdzero_gp.draw.style import DETAIL_SIZE, FONT, LABEL_SIZE, LINE_HEIGHT, ROLES
from primitives import BATCH, CATALOGUE, PairType, ValueType
from primitives.types import RANKS

# The nodes whose value is a student-teacher pair.
PAIR_ROLES = ("knowledge", "transform")
VERTICAL_PADDING = 5.0
TAG_PADDING = 4.0
TAG_GAP = 6.0


Facts = Mapping[str, Any]


@dataclass(frozen=True)
class TextLine:
    """A line of text with its size and measured width; ``tag`` is the small constant behind the label."""

    text: str
    size: float
    width: float
    tag: str = ""
    tag_width: float = 0.0

    @property
    def full_width(self) -> float:
        return self.width + (TAG_GAP + self.tag_width if self.tag else 0.0)

    @property
    def height(self) -> float:
        return self.size * LINE_HEIGHT


@dataclass
class LabelledNode:
    """One drawn node: its content, and its place, which the layout fills in."""

    index: int
    node: Expression
    role: str
    lines: list[TextLine]
    tooltip: str
    children: list[LabelledNode] = field(default_factory=list)
    layer: int = 0
    across: float = 0.0
    start: float = 0.0
    length: float = 0.0

    @property
    def width(self) -> float:
        content = max(line.full_width for line in self.lines) + 2 * ROLES[self.role].padding
        return max(content, self.height)

    @property
    def height(self) -> float:
        return sum(line.height for line in self.lines) + 2 * VERTICAL_PADDING


@lru_cache(maxsize=4096)
def text_width(text: str, size: float) -> float:
    """The width of a text in points."""
    from matplotlib.textpath import text_to_path

    width, _, _ = text_to_path.get_text_width_height_descent(text, _font(size), ismath=False)
    return float(width)


@lru_cache(maxsize=64)
def _font(size: float) -> Any:
    from matplotlib.font_manager import FontProperties

    return FontProperties(family=FONT, size=size)


def measured(text: str, size: float, tag: str = "") -> TextLine:
    """A line with its width."""
    tag_width = text_width(tag, DETAIL_SIZE) + 2 * TAG_PADDING if tag else 0.0
    return TextLine(text, size, text_width(text, size), tag, tag_width)


def items(
    expression: Expression, tree: Any, knowledge: KnowledgeTypes | None, numbers: Sequence[float] = ()
) -> LabelledNode:
    """The drawn nodes of a tree, the root first in hand; ``tree`` is its graph. Constants become tags; ``numbers`` are
    those of the exported file, one for each term."""
    factors = iter(factors_of(expression, numbers))
    labelled: dict[int, LabelledNode] = {}
    for node in numbered(expression):
        if not isinstance(node.value, Expression):
            continue
        facts = tree.nodes[node.index]
        # the first argument is a node, and follows its parent in prefix order
        before = tree.nodes[node.index + 1] if node.value.arguments else {}
        factor = next(factors) if node.value.name == "times" else None
        lines = _lines(node.value, facts, before, knowledge, factor)
        item = LabelledNode(node.index, node.value, facts["role"], lines, tooltip(node.value, facts))
        labelled[node.index] = item
        if node.parent is not None:
            labelled[node.parent].children.append(item)
    return labelled[0]


def _lines(
    node: Expression, facts: Facts, before: Facts, knowledge: KnowledgeTypes | None, factor: Factor | None
) -> list[TextLine]:
    constants = [format_argument(argument) for argument in node.arguments if isinstance(argument, float)]
    label = (CATALOGUE[node.name].symbol if node.arguments else "") or node.name
    if factor is not None:
        lines = [measured(f"{label} {factor.text}", LABEL_SIZE)]
        if factor.relative is not None:
            lines.append(measured(f"relative {factor.relative:g}", DETAIL_SIZE))
    else:
        lines = [measured(label, LABEL_SIZE, f"T={constants[0]}" if constants else "")]
    details = _details(node, facts, before, knowledge)
    return lines + [measured(text, DETAIL_SIZE) for text in details]


def _details(node: Expression, facts: Facts, before: Facts, knowledge: KnowledgeTypes | None) -> list[str]:
    """The lines below the label: shape and kind where they change, notes, adapters."""
    if node.arguments and CATALOGUE[node.name].note:
        return [CATALOGUE[node.name].note]
    own = type_of(node, knowledge)
    if own == BATCH and facts["role"] == "distance":
        return ["over the batch"]
    if not isinstance(own, PairType):
        return []
    given = type_of(node.children[0], knowledge) if node.arguments else None
    lines = _shape_lines(own, given, facts.get("shape"), before.get("shape"))
    if own.axis and not (isinstance(given, PairType) and (given.kind, given.axis) == (own.kind, own.axis)):
        lines.append(f"{'p' if own.kind == 'probability' else 'log p'} over {own.axis}")
    return [*lines, f"student {facts['adapter']}"] if facts.get("adapter") else lines


def _shape_lines(
    own: PairType, given: ValueType | None, shape: tuple[str, ...] | None, before: tuple[str, ...] | None
) -> list[str]:
    """The shapes of both sides, or the axes where no shapes are known; nothing where they stay the same."""
    if not shape:
        same = isinstance(given, PairType) and given.rank == own.rank
        return [] if same else [RANKS[own.rank].text.split()[0]]
    if shape == before:
        return []
    return [shape[0]] if shape[0] == shape[1] else [f"S {shape[0]}", f"T {shape[1]}"]


def tooltip(node: Expression, facts: Facts) -> str:
    """What a node does and gives, in one line."""
    formula = f": {CATALOGUE[node.name].formula.rstrip('.')}" if node.arguments else ""
    return f"{node.name}{formula}. Gives {facts['type']}."
