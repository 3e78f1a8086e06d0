"""A distiller as a networkx graph: DEAP's ``gp.graph``, plus the role, type and shapes of each node."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdzero_gp.compiler.checking import KnowledgeTypes, constant_type, type_of
from kdzero_gp.compiler.expression import Expression
from kdzero_gp.compiler.lowering import lower, written
from kdzero_gp.compiler.shapes import PairShapes
from primitives import CATALOGUE, ValueType

if TYPE_CHECKING:
    import networkx


@dataclass(frozen=True)
class NumberedNode:
    """A node of a tree with its number in prefix order; constants are nodes too. ``parent`` of the root is
    None.
    """

    index: int
    value: Expression | float
    parent: int | None


def numbered(expression: Expression) -> Iterator[NumberedNode]:
    """All nodes and constants in prefix order.

    >>> [node.index for node in numbered(Expression("over", (Expression("logits"), 4.0)))]
    [0, 1, 2]
    """
    waiting: list[tuple[Expression | float, int | None]] = [(expression, None)]
    index = 0
    while waiting:
        value, parent = waiting.pop()
        yield NumberedNode(index, value, parent)
        if isinstance(value, Expression):
            waiting += [(argument, index) for argument in reversed(value.arguments)]
        index += 1


def role_of(value: Expression | float) -> str:
    """``knowledge``, ``transform``, ``distance``, ``calibration``, ``combination`` or ``constant``."""
    if not isinstance(value, Expression):
        return "constant"
    return CATALOGUE[value.name].role if value.arguments else "knowledge"


def graph(
    expression: Expression,
    knowledge: KnowledgeTypes | None = None,
    shapes: PairShapes | None = None,
) -> networkx.DiGraph:
    """The tree as a graph with edges from parents to children and nodes 0 … n-1 in prefix order.

    Node attributes: ``label``; ``role`` (knowledge, transform, distance, calibration, combination or
    constant); ``type`` (text). With ``shapes`` also ``shape``, the student's and the teacher's as two texts
    (empty for losses and constants), and ``adapter``, what the compiler inserts behind a knowledge ("" for
    nothing).

    Raises ``ExpressionError`` for an ill-typed tree and ``ShapeError`` where it does not fit the shapes.

    >>> tree = graph(Expression("over", (Expression("logits"), 4.0)))
    >>> tree.nodes(data="label"), tree.edges
    (NodeDataView({0: 'over', 1: 'logits', 2: '4'}, data='label'), OutEdgeView([(0, 1), (0, 2)]))
    """
    import networkx

    if knowledge is None and shapes is not None:
        knowledge = shapes.types
    type_of(expression, knowledge)
    nodes = list(numbered(expression))
    result = networkx.DiGraph()
    for node in nodes:
        text = node.value.name if isinstance(node.value, Expression) else f"{node.value:g}"
        result.add_node(node.index, label=text, role=role_of(node.value), type=str(_type(nodes, node, knowledge)))
        if node.parent is not None:
            result.add_edge(node.parent, node.index)
    if shapes is not None:
        _add_shapes(result, nodes, shapes)
    return result


def _type(nodes: list[NumberedNode], node: NumberedNode, knowledge: KnowledgeTypes | None) -> ValueType:
    if isinstance(node.value, Expression):
        return type_of(node.value, knowledge)
    assert node.parent is not None
    parent = nodes[node.parent].value
    assert isinstance(parent, Expression)
    return constant_type(CATALOGUE[parent.name], parent.arguments.index(node.value), node.value)


def _add_shapes(result: networkx.DiGraph, nodes: list[NumberedNode], shapes: PairShapes) -> None:
    for node in nodes:
        result.nodes[node.index].update(shape=(), adapter="")
    for node in nodes:
        if not isinstance(node.value, Expression) or node.value.name != "times":
            continue
        program = lower(node.value, shapes)
        adapter = "; ".join(map(str, program.adapters.values()))
        for below in nodes[node.index + 1 : node.index + node.value.size]:
            if isinstance(below.value, Expression) and below.value in program.shapes:
                student, teacher = program.shapes[below.value]
                result.nodes[below.index]["shape"] = (written(student), written(teacher))
                if not below.value.arguments:
                    result.nodes[below.index]["adapter"] = adapter
