"""The typed tree of a distiller and its text form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from kdzero_gp.errors import ExpressionError


@dataclass(frozen=True, slots=True)
class Expression:
    """One call (an operation with its arguments) or one knowledge leaf (no arguments).

    Immutable and hashable; equal trees are equal values. ``text``, which ``str`` gives, is what ``parse`` reads back.
    ``size`` is the number of nodes and ``depth`` the number of edges on the longest way down (0 for a leaf), constants
    included.
    """

    name: str
    arguments: tuple[Expression | float, ...] = ()
    size: int = field(init=False, repr=False, compare=False)
    depth: int = field(init=False, repr=False, compare=False)
    text: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if any(not isinstance(a, Expression) and (isinstance(a, int) or a == 0) for a in self.arguments):
            # one zero, as equal trees have one text
            numbers = tuple(a if isinstance(a, Expression) else float(a) + 0.0 for a in self.arguments)
            object.__setattr__(self, "arguments", numbers)
        extents = [(a.size, a.depth) if isinstance(a, Expression) else (1, 0) for a in self.arguments]
        object.__setattr__(self, "size", 1 + sum(size for size, _ in extents))
        object.__setattr__(self, "depth", max((1 + depth for _, depth in extents), default=0))
        arguments = f"({', '.join(map(format_argument, self.arguments))})" if self.arguments else ""
        object.__setattr__(self, "text", self.name + arguments)

    def __str__(self) -> str:
        return self.text

    def __hash__(self) -> int:
        return hash(self.text)  # a string remembers its own

    @property
    def children(self) -> tuple[Expression, ...]:
        """The arguments that are nodes."""
        return tuple(argument for argument in self.arguments if isinstance(argument, Expression))

    def walk(self) -> Iterator[Expression]:
        """This node and all below it, parents first."""
        yield self
        for child in self.children:
            yield from child.walk()

    def _repr_svg_(self) -> str | None:
        """A notebook shows a distiller as its picture, and a tree that is no distiller as text."""
        from kdzero_gp.draw import to_svg  # late: drawing stands above the compiler and loads matplotlib

        try:
            return to_svg(self)
        except ExpressionError:
            return None


def format_argument(argument: Expression | float) -> str:
    """A node as its text, a number in its shortest form (``4``, ``0.01``)."""
    return argument.text if isinstance(argument, Expression) else f"{argument:g}"


def terms(root: Expression) -> list[Expression]:
    """The weighted losses that a distiller sums up, from left to right."""
    if root.name != "add":
        return [root]
    return [term for argument in root.children for term in terms(argument)]


def summed(parts: list[Expression]) -> Expression:
    """The sum of some weighted losses, leaning to the left.

    >>> str(summed([Expression(name) for name in "abc"]))
    'add(add(a, b), c)'
    """
    total, *others = parts
    for term in others:
        total = Expression("add", (total, term))
    return total
