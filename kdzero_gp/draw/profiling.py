"""What each node of a distiller costs: its operations run one by one on real tensors."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from kdzero_gp.compiler.checking import check, type_of
from kdzero_gp.compiler.expression import Expression
from kdzero_gp.compiler.loading import compile_distiller
from kdzero_gp.compiler.lowering import in_log_domain
from kdzero_gp.compiler.shapes import PairShapes, pair_shapes
from kdzero_gp.draw.graphs import numbered, role_of
from primitives import CATALOGUE, PairType

# The median of five is steady against one or two disturbances.
REPEATS = 5

Tensors = Mapping[str, Tensor]


@torch.no_grad()
def profile(
    expression: Expression, student: Tensors, teacher: Tensors, labels: Tensor, repeats: int = REPEATS
) -> dict[int, float]:
    """Seconds that each operation and knowledge takes for one batch, by its number in prefix order.

    ``student``, ``teacher`` and ``labels`` are a distiller's arguments. A node's time is its own, without
    what lies below it, for both sides together, forward only; an adapter counts with its knowledge. Equal
    parts of a tree are timed each, though the compiled distiller computes them once. Medians of ``repeats``
    runs.

    Raises ``ExpressionError`` and ``ShapeError`` as ``kdzero_gp.compile`` does.
    """
    shapes = pair_shapes(student, teacher)
    check(expression, shapes.types)
    return _Profiler(expression, shapes, student, teacher, labels, repeats).seconds


class _Profiler:
    def __init__(
        self,
        expression: Expression,
        shapes: PairShapes,
        student: Tensors,
        teacher: Tensors,
        labels: Tensor,
        repeats: int,
    ):
        self.shapes, self.student, self.teacher, self.labels = shapes, student, teacher, labels
        self.repeats = repeats
        self.adapter: torch.nn.Module | None = None
        self.seconds: dict[int, float] = {}
        self.indices = iter([one.index for one in numbered(expression) if isinstance(one.value, Expression)])
        self.run(expression, next(self.indices))

    def timed(self, index: int, work: Callable[[], Any]) -> Any:
        """The result of ``work``, whose time is noted for node ``index``."""
        took = []
        result = work()  # the first run pays for what is set up once
        for _ in range(self.repeats):
            self.wait()
            start = time.perf_counter()
            result = work()
            self.wait()
            took.append(time.perf_counter() - start)
        self.seconds[index] = statistics.median(took)
        return result

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.labels.is_cuda:
            torch.cuda.synchronize(self.labels.device)

    def run(self, node: Expression, index: int) -> Any:
        """The value of a node (a pair, or losses), after those of the nodes below it."""
        if node.name == "times":
            self.adapter = next(self.adapters_of(node), None)
        below = [self.run(child, next(self.indices)) for child in self.computed_children(node)]
        constants = [argument for argument in node.arguments if isinstance(argument, float)]
        work = getattr(self, role_of(node))
        return self.timed(index, lambda: work(node, below, constants))

    def computed_children(self, node: Expression) -> tuple[Expression, ...]:
        """The children as the compiler computes them: divergences work on logarithms."""
        if role_of(node) == "distance":
            return (in_log_domain(CATALOGUE[node.name], node.children[0]),)
        return node.children

    def adapters_of(self, term: Expression) -> Iterator[torch.nn.Module]:
        """The adapter of a term, fresh; at most one."""
        module = compile_distiller(term, self.student, self.teacher)
        for child in module.children():
            leaf = next(node for node in term.walk() if not node.arguments)
            yield child.to(self.student[leaf.name])

    def knowledge(self, node: Expression, below: list[Any], constants: list[float]) -> tuple[Tensor, Tensor]:
        sides = [self.student[node.name], self.teacher[node.name]]
        if self.shapes.types[node.name].rank == "tokens":
            sides = [side.flatten(2) for side in sides]
        return (sides[0] if self.adapter is None else self.adapter(sides[0])), sides[1]

    def transform(self, node: Expression, below: list[Any], constants: list[float]) -> tuple[Tensor, ...]:
        operation, extra = CATALOGUE[node.name], list[Any](constants)
        if operation.needs_labels:
            extra.append(self.labels)
        if operation.noise is not None:
            extra.append(operation.noise(below[0][0]))
        return tuple(operation.function(side, *extra) for side in below[0])

    def distance(self, node: Expression, below: list[Any], constants: list[float]) -> Tensor:
        operation = CATALOGUE[node.name]
        if operation.specialise is None:
            return operation.function(*below[0])
        given = type_of(self.computed_children(node)[0], self.shapes.types)
        assert isinstance(given, PairType)
        return operation.function(*below[0], given)

    def calibration(self, node: Expression, below: list[Any], constants: list[float]) -> Tensor:
        if node.name == "no":
            return CATALOGUE["no"].function(*below)
        logits = self.student["logits"], self.teacher["logits"]
        return CATALOGUE[node.name].function(*below, *logits, self.labels)

    def combination(self, node: Expression, below: list[Any], constants: list[float]) -> Tensor:
        return CATALOGUE[node.name].function(*below, *constants)
