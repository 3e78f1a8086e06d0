"""Crossover and five mutations on DEAP trees, from one explicit generator.

DEAP's own operators draw from the global ``random`` and, for types, from unordered sets (issues 190, 177, 349), and
its insertion fails for types without leaves; these do not.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from deap import gp

from kdzero_gp.compiler.canonical import canonical, repeats_a_loss
from kdzero_gp.compiler.expression import Expression
from kdzero_gp.evolution.grammar import Grammar, Slot
from primitives import CONSTANTS, LOSS

Nodes = list[gp.Primitive | gp.Terminal]
Mutation = Callable[[Nodes, Grammar, Random], Nodes]
# A new part of a tree is at most this high; the limits of the whole tree hold besides.
PART_HEIGHT = 6


def subtree(nodes: Nodes, begin: int) -> slice:
    """The slice of the subtree whose root stands at ``begin``."""
    end, missing = begin + 1, nodes[begin].arity
    while missing:
        missing += nodes[end].arity - 1
        end += 1
    return slice(begin, end)


def crossover(first: Nodes, second: Nodes, random: Random) -> tuple[Nodes, Nodes]:
    """Swap two subtrees of one type, the type drawn from sorted names."""
    places: dict[str, tuple[list[int], list[int]]] = {}
    for index, nodes in enumerate((first, second)):
        for position, node in enumerate(nodes):
            # the class is called as its slot
            places.setdefault(node.ret.__name__, ([], []))[index].append(position)
    shared = sorted(name for name, (left, right) in places.items() if left and right)
    whole = str(Slot(LOSS))
    # swapping whole single terms would give the parents back
    if len(first) and not any(n.ret.slot == Slot(LOSS) for n in (*first[1:], *second[1:])):
        shared = [name for name in shared if name != whole] or shared
    left, right = places[random.choice(shared)]
    one, other = subtree(first, random.choice(left)), subtree(second, random.choice(right))
    return (
        [*first[: one.start], *second[other], *first[one.stop :]],
        [*second[: other.start], *first[one], *second[other.stop :]],
    )


def _drawn(nodes: Nodes, grammar: Grammar, random: Random) -> gp.Primitive | gp.Terminal:
    """One of ``nodes``, by the weights of their operations."""
    return random.choices(nodes, [grammar.frequency(node) for node in nodes])[0]


def mutate_subtree(nodes: Nodes, grammar: Grammar, random: Random) -> Nodes:
    """Replace a random subtree by a new one of the same type."""
    part = subtree(nodes, random.randrange(len(nodes)))
    new = grammar.grow(nodes[part.start].ret.slot, PART_HEIGHT, random)
    return [*nodes[: part.start], *new, *nodes[part.stop :]]


def mutate_node(nodes: Nodes, grammar: Grammar, random: Random) -> Nodes:
    """Replace one operation or leaf by another with the same argument and result types."""
    options = {}
    for position, node in enumerate(nodes):
        slot = node.ret.slot
        if slot.type in CONSTANTS:
            continue
        same: Nodes
        if node.arity:
            same = grammar.alike(node)
        else:
            same = [t for t in grammar.terminals[slot] if t is not node]
        if same:
            options[position] = same
    if not options:
        return nodes
    position = random.choice(list(options))
    return [*nodes[:position], _drawn(options[position], grammar, random), *nodes[position + 1 :]]


def mutate_constant(nodes: Nodes, grammar: Grammar, random: Random) -> Nodes:
    """Move one temperature or magnitude to a neighbour in its list, or anywhere with probability 0.3."""
    places = [position for position, node in enumerate(nodes) if node.ret.slot.type in CONSTANTS]
    if not places:
        return nodes
    position = random.choice(places)
    listed = grammar.terminals[nodes[position].ret.slot]
    index = next(i for i, terminal in enumerate(listed) if terminal is nodes[position])
    if random.random() < 0.3:
        others = [i for i in range(len(listed)) if i != index]
    else:
        others = [i for i in (index - 1, index + 1) if 0 <= i < len(listed)]
    return [*nodes[:position], listed[random.choice(others)], *nodes[position + 1 :]]


def mutate_insert(nodes: Nodes, grammar: Grammar, random: Random) -> Nodes:
    """Put an operation on top of a random subtree, which becomes one of its arguments; grow the others."""
    options = {}
    for position, node in enumerate(nodes):
        fitting = grammar.insertions(node.ret.slot)
        if fitting:
            options[position] = fitting
    if not options:
        return nodes
    position = random.choice(list(options))
    part = subtree(nodes, position)
    primitive = _drawn(options[position], grammar, random)
    slot = nodes[position].ret.slot
    kept = random.choice([i for i, argument in enumerate(primitive.args) if argument.slot == slot])
    new: Nodes = [primitive]
    for index, argument in enumerate(primitive.args):
        new += nodes[part] if index == kept else grammar.grow(argument.slot, PART_HEIGHT, random)
    return [*nodes[:position], *new, *nodes[part.stop :]]


def mutate_shrink(nodes: Nodes, grammar: Grammar, random: Random) -> Nodes:
    """Replace an operation by one of its arguments of the same type."""
    options = []
    for position, node in enumerate(nodes):
        child = position + 1
        for argument in getattr(node, "args", ()):
            if argument.slot == node.ret.slot:
                options.append((position, child))
            child = subtree(nodes, child).stop
    if not options:
        return nodes
    position, child = random.choice(options)
    whole = subtree(nodes, position)
    return [*nodes[:position], *nodes[subtree(nodes, child)], *nodes[whole.stop :]]


# How often each mutation is drawn. In the paper's space insertion and shrinking often have no room.
MUTATIONS: dict[str, tuple[Mutation, float]] = {
    "subtree": (mutate_subtree, 0.25),
    "node": (mutate_node, 0.25),
    "constant": (mutate_constant, 0.2),
    "insert": (mutate_insert, 0.2),
    "shrink": (mutate_shrink, 0.1),
}


def within_limits(expression: Expression, grammar: Grammar) -> Expression | None:
    """The canonical form, unless it breaks the limits of size and depth, left the space, or has a loss twice."""
    simplest = canonical(expression)
    return simplest if grammar.contains(simplest) and not repeats_a_loss(simplest) else None
