"""The search space as a typed DEAP primitive set, and the ways between expressions and DEAP trees.

A space is built for one pair: only operations that its knowledge can reach are in it, and building it fails with a
``GrammarError`` (not in the middle of a search) when no complete distiller can be built.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache
from random import Random

from deap import gp

from kdzero_gp.compiler.checking import KnowledgeTypes
from kdzero_gp.compiler.expression import Expression
from kdzero_gp.compiler.knowledge import kind_of_pair
from kdzero_gp.errors import ExpressionTypeError, GrammarError
from primitives import CATALOGUE, CONSTANTS, LEVEL, LOSS, PAPER_CONSTANTS, Operation, ValueType

SPACES = ("open", "kdzero")
# The paper's template has three transforms.
TEMPLATE_TRANSFORMS = 3


@dataclass(frozen=True, order=True)
class Slot:
    """A place in a tree: a value type and, in the paper's space, how many transforms lie below it and whether a
    temperature was used already."""

    type: ValueType
    transforms: int = 0
    softened: bool = False

    def __str__(self) -> str:
        return f"{self.type}/{self.transforms}/{self.softened}"


@dataclass(frozen=True)
class Limits:
    """How large a tree may become: nodes and edges as in ``Expression.size`` and ``.depth``."""

    size: int = 48
    depth: int = 10


@cache
def _signature(name: str) -> tuple[ValueType, ...]:
    """The types of an operation's arguments, by its first overload."""
    return next(iter(CATALOGUE[name].overloads))


@dataclass(frozen=True)
class _Near:
    """Primitives of one operation by their heights, in order, and how often each height is drawn."""

    heights: list[int]
    shares: list[float]
    primitives: dict[int, list[gp.Primitive]]

    @classmethod
    def of(cls, primitives: list[tuple[int, gp.Primitive]]) -> _Near:
        heights = sorted({height for height, _ in primitives})
        shares = [0.5**index for index in range(len(heights))]
        return cls(heights, shares, {height: [p for h, p in primitives if h == height] for height in heights})


class Grammar:
    """All distillers of one space for one pair's knowledge, as a DEAP ``PrimitiveSetTyped`` in ``primitive_set``."""

    def __init__(self, space: str, knowledge: KnowledgeTypes, limits: Limits | None = None):
        if space not in SPACES:
            raise GrammarError(f"unknown space {space!r}; choose one of {', '.join(SPACES)}")
        self.space = space
        self.knowledge = dict(knowledge)
        self.limits = limits or Limits()
        self.constants = PAPER_CONSTANTS if space == "kdzero" else CONSTANTS
        self.rules = self._useful(self._reachable())
        self.heights = self._heights()
        if Slot(LOSS) not in self.heights:
            raise GrammarError(
                f"no distiller can be built from {', '.join(knowledge) or 'nothing'} in the space {space!r}; "
                "name more taps or choose another space"
            )
        self.weights: dict[str, float] = {operation.name: 1.0 for operation, _, _ in self.rules}
        self._build()

    def _leaves(self) -> list[tuple[str, ValueType]]:
        """Each knowledge with its type; of a detector maps as levels too."""
        pairs: list[tuple[str, ValueType]] = list(self.knowledge.items())
        levels = kind_of_pair(self.knowledge) == "boxes"
        return pairs + [(n, LEVEL) for n, p in self.knowledge.items() if levels and p.rank == "map"]

    # --- rules ----------------------------------------------------------------------------------------------

    def _operations(self) -> list[Operation]:
        kind = kind_of_pair(self.knowledge)
        fitting = [o for o in CATALOGUE if o.searchable and o.serves(kind, self.knowledge)]
        if self.space == "open":
            return fitting
        return [*(o for o in fitting if o.paper and not o.division), *(o for o in CATALOGUE if o.division)]

    def _apply(self, operation: Operation, below: Slot, result: ValueType) -> Slot | None:
        """The slot of ``operation`` on top of ``below``; None where the paper's template has no room for it."""
        if self.space == "open" or operation.role != "transform":
            return Slot(result)
        if operation.division:
            # the division by T stands behind the last transform and takes no place of its own
            return None if below.softened else Slot(result, TEMPLATE_TRANSFORMS, True)
        if below.transforms >= TEMPLATE_TRANSFORMS:
            return None
        return Slot(result, below.transforms + 1, below.softened or bool(operation.parameters))

    def _reachable(self) -> list[tuple[Operation, tuple[Slot, ...], Slot]]:
        """Every rule whose arguments can be built from the leaves, in a fixed order."""
        known = {Slot(pair) for _, pair in self._leaves()} | {Slot(constant) for constant in CONSTANTS}
        rules: dict[tuple[str, tuple[Slot, ...]], tuple[Operation, tuple[Slot, ...], Slot]] = {}
        grown = True
        while grown:
            grown = False
            for operation in self._operations():
                for overload, result in operation.overloads.items():
                    if operation.undoes_log(overload[0]):
                        continue  # the canonical form writes the softmax
                    for below in [slot for slot in sorted(known, key=str) if slot.type == overload[0]]:
                        slots = (below, *(Slot(argument) for argument in overload[1:]))
                        made = self._apply(operation, below, result)
                        if made is None or (operation.name, slots) in rules or not set(slots) <= known:
                            continue
                        rules[operation.name, slots] = (operation, slots, made)
                        known.add(made)
                        grown = True
        return [rules[key] for key in sorted(rules, key=str)]

    def _useful(
        self, rules: list[tuple[Operation, tuple[Slot, ...], Slot]]
    ) -> list[tuple[Operation, tuple[Slot, ...], Slot]]:
        """The rules that can be part of a whole distiller."""
        wanted = {Slot(LOSS)}
        before = -1
        while before != len(wanted):
            before = len(wanted)
            for _, slots, made in rules:
                if made in wanted:
                    wanted |= set(slots)
        return [rule for rule in rules if rule[2] in wanted]

    def _heights(self) -> dict[Slot, int]:
        """The height of the smallest tree of each slot."""
        heights = {Slot(pair): 0 for _, pair in self._leaves()} | {Slot(constant): 0 for constant in CONSTANTS}
        before: dict[Slot, int] = {}
        while before != heights:
            before = dict(heights)
            for _, slots, made in self.rules:
                if all(slot in heights for slot in slots):
                    heights[made] = min(heights.get(made, 10**6), 1 + max(heights[slot] for slot in slots))
        return heights

    # --- DEAP -----------------------------------------------------------------------------------------------

    def _build(self) -> None:
        self.classes = {slot: type(str(slot), (), {"slot": slot}) for slot in sorted(self.heights, key=str)}
        self.primitive_set = gp.PrimitiveSetTyped("distiller", [], self.classes[Slot(LOSS)], prefix="ARG")
        self.operation_of: dict[str, Operation] = {}
        # by the classes of the slots, which are told apart faster than slots
        self.primitive_of: dict[tuple[str, tuple[type, ...]], gp.Primitive] = {}
        self.by_result: dict[Slot, dict[str, list[gp.Primitive]]] = {}
        for number, (operation, slots, made) in enumerate(self.rules):
            name = f"{operation.name}_{number}"
            arguments = [self.classes[slot] for slot in slots]
            self.primitive_set.addPrimitive(operation.function, arguments, self.classes[made], name=name)
            primitive = self.primitive_set.mapping[name]
            self.operation_of[name] = operation
            self.primitive_of[operation.name, tuple(arguments)] = primitive
            self.by_result.setdefault(made, {}).setdefault(operation.name, []).append(primitive)
        # what was asked of the rules before, which never change
        self._known_fitting: dict[tuple[Slot, int], dict[str, _Near]] = {}
        self._known_insertions: dict[Slot, list[gp.Primitive]] = {}
        self._known_alike: dict[str, list[gp.Primitive]] = {}
        self._known_nodes: dict[Expression, list[gp.Primitive | gp.Terminal]] = {}
        self.terminal_of: dict[tuple[ValueType, str | float], gp.Terminal] = {}
        self.value_of: dict[str, Expression | float] = {}
        self.terminals: dict[Slot, list[gp.Terminal]] = {}
        for name, pair in self._leaves():
            self._terminal(pair, name, Expression(name))
        for constant, values in self.constants.items():
            for value in values:
                self._terminal(constant, value, value)

    def _terminal(self, of: ValueType, key: str | float, value: Expression | float) -> None:
        name = f"{str(of).split()[-1]}_{key}" if isinstance(value, float) else f"{key}{'_level' * (of == LEVEL)}"
        self.primitive_set.addTerminal(name, self.classes[Slot(of)], name=name)
        terminal = self.primitive_set.terminals[self.classes[Slot(of)]][-1]
        self.terminal_of[of, key] = terminal
        self.value_of[terminal.name] = value
        self.terminals.setdefault(Slot(of), []).append(terminal)

    def to_expression(self, tree: gp.PrimitiveTree) -> Expression:
        """The expression that a DEAP tree stands for."""
        stack: list[Expression | float] = []
        for node in reversed(tree):
            if node.arity == 0:
                stack.append(self.value_of[node.name])
            else:
                arguments = tuple(stack.pop() for _ in range(node.arity))
                stack.append(Expression(self.operation_of[node.name].name, arguments))
        found = stack.pop()
        assert isinstance(found, Expression)
        return found

    def to_nodes(self, root: Expression) -> list[gp.Primitive | gp.Terminal]:
        """The nodes of a DEAP tree in prefix order. Raises ``ExpressionTypeError`` outside the space."""
        found = self._known_nodes.get(root)
        if found is None:
            if len(self._known_nodes) >= MOST_KNOWN:
                self._known_nodes.clear()
            found = self._known_nodes[root] = self._nodes(root)[0]
        return [*found]

    def _nodes(self, node: Expression | float, wanted: ValueType | None = None) -> tuple[list, type]:  # type: ignore[type-arg]
        if isinstance(node, float):
            if wanted is None or (wanted, node) not in self.terminal_of:
                raise ExpressionTypeError(f"{node:g} is not in the space {self.space!r}")
            terminal = self.terminal_of[wanted, node]
            return [terminal], terminal.ret
        if not node.arguments:
            if node.name not in self.knowledge:
                raise ExpressionTypeError(f"{node.name} is not in the space {self.space!r}")
            pair = LEVEL if wanted == LEVEL else self.knowledge[node.name]
            terminal = self.terminal_of[pair, node.name]
            return [terminal], terminal.ret
        signature = _signature(node.name)
        parts = [self._nodes(a, signature[i]) for i, a in enumerate(node.arguments)]
        primitive = self.primitive_of.get((node.name, tuple(slot for _, slot in parts)))
        if primitive is None:
            raise ExpressionTypeError(f"{node} is not in the space {self.space!r}")
        return [primitive, *(n for nodes, _ in parts for n in nodes)], primitive.ret

    def with_own_weights(self) -> Grammar:
        """The same space with frequencies of operations of its own, all 1 at first."""
        other = copy.copy(self)
        other.weights = dict.fromkeys(self.weights, 1.0)
        return other

    def frequency(self, node: gp.Primitive | gp.Terminal) -> float:
        """How often to draw a node among others: the weight of its operation, 1 for leaves and constants."""
        return self.weights[self.operation_of[node.name].name] if node.arity else 1.0

    def contains(self, root: Expression) -> bool:
        """Whether an expression belongs to the space and keeps its limits."""
        try:
            self.to_nodes(root)
        except ExpressionTypeError:
            return False
        return root.size <= self.limits.size and root.depth <= self.limits.depth

    # --- growing --------------------------------------------------------------------------------------------

    def grow(self, slot: Slot, height: int, random: Random) -> list[gp.Primitive | gp.Terminal]:
        """A random tree of ``slot`` no higher than ``height`` (or as low as possible), in prefix order.

        First an operation is drawn (by weight), then how far its arguments are from the leaves (nearer ones more
        often), then their types.
        """
        terminals = self.terminals.get(slot, [])
        fitting = self._fitting(slot, height)
        if not fitting and not terminals:
            fitting = self._fitting(slot, self.heights[slot])
        if terminals and (not fitting or random.random() < LEAF_PROBABILITY):
            return [random.choice(terminals)]
        names = list(fitting)
        name = random.choices(names, [self._weight(name) for name in names])[0]
        near = fitting[name]
        drawn = random.choices(near.heights, near.shares)[0]
        primitive = random.choice(near.primitives[drawn])
        nodes = [primitive]
        for argument in primitive.args:
            nodes += self.grow(argument.slot, height - 1, random)
        return nodes

    def _fitting(self, slot: Slot, height: int) -> dict[str, _Near]:
        """The primitives of a slot that need no more height, by their operations."""
        found = self._known_fitting.get((slot, height))
        if found is None:
            near = {
                name: [(h, p) for p in primitives if (h := self._height(p)) <= height]
                for name, primitives in self.by_result.get(slot, {}).items()
            }
            found = {name: _Near.of(primitives) for name, primitives in near.items() if primitives}
            self._known_fitting[slot, height] = found
        return found

    def insertions(self, slot: Slot) -> list[gp.Primitive]:
        """The primitives that give a slot and take one of the same."""
        if slot not in self._known_insertions:
            primitives = [p for named in self.by_result.get(slot, {}).values() for p in named]
            fitting = [p for p in primitives if any(argument.slot == slot for argument in p.args)]
            self._known_insertions[slot] = fitting
        return self._known_insertions[slot]

    def alike(self, primitive: gp.Primitive) -> list[gp.Primitive]:
        """The other primitives with the same arguments and result."""
        if primitive.name not in self._known_alike:
            primitives = [p for named in self.by_result[primitive.ret.slot].values() for p in named]
            same = [p for p in primitives if p.args == primitive.args and p is not primitive]
            self._known_alike[primitive.name] = same
        return self._known_alike[primitive.name]

    def _height(self, primitive: gp.Primitive) -> int:
        return 1 + max(self.heights[argument.slot] for argument in primitive.args)

    def _weight(self, name: str) -> float:
        # one more term costs a whole chain, so that a new tree rarely starts with several
        return self.weights[name] * (SUM_WEIGHT if name == "add" else 1.0)


# The trees of so many expressions are remembered.
MOST_KNOWN = 4096
# In a place where a leaf fits, how often the tree ends there.
LEAF_PROBABILITY = 0.45
# How often a new tree is a sum, relative to a single term.
SUM_WEIGHT = 0.2
