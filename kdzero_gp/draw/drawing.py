"""What a picture, a diagram or a text is made of: a distiller, and what is known of its pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdzero_gp.compiler.checking import KnowledgeTypes
from kdzero_gp.compiler.expression import Expression
from kdzero_gp.compiler.shapes import PairShapes
from kdzero_gp.draw.graphs import graph
from kdzero_gp.draw.labels import LabelledNode, items
from kdzero_gp.draw.sentence import describe


@dataclass(frozen=True)
class Drawing:
    """A distiller to draw. ``knowledge``: the types of what both networks expose (default: those of ``shapes``, or of
    a classifier of images); ``shapes``: the pair's, which are written into the nodes; ``numbers``: those of the
    exported file, one for each term. Drawing raises what ``graph`` raises."""

    expression: Expression
    knowledge: KnowledgeTypes | None = None
    shapes: PairShapes | None = None
    numbers: Sequence[float] = ()

    def __post_init__(self) -> None:
        if self.knowledge is None and self.shapes is not None:
            object.__setattr__(self, "knowledge", self.shapes.types)

    @property
    def root(self) -> LabelledNode:
        """The nodes, measured."""
        tree = graph(self.expression, self.knowledge, self.shapes)
        return items(self.expression, tree, self.knowledge, self.numbers)

    @property
    def sentence(self) -> str:
        """The distiller in words."""
        return describe(self.expression, self.knowledge, self.numbers)
