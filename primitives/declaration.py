"""How an operation is declared. One declaration feeds the search grammar, the verifier, the code generator, the
catalogue page and the contract tests."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from primitives.types import (
    ANCHOR,
    ANCHOR_WEIGHT,
    BATCH,
    DISTRIBUTIONS,
    MAGNITUDE,
    MAP_LOGITS,
    PLACE,
    SAMPLE,
    SCALAR,
    TEMPERATURE,
    WEIGHT,
    PairType,
    ValueType,
)

# The supplement lists T in {1, 4, 8, 16}; 2 is the usual choice on ImageNet.
TEMPERATURES = (1.0, 2.0, 4.0, 8.0, 16.0)
PAPER_TEMPERATURES = (1.0, 4.0, 8.0, 16.0)
# The supplement lists γ in {100, 50, 25, 10, 5, 1, 0.1, 0.01}. The finer steps near 1 are ours, since relative
# magnitudes live there; 8 is also DKD's published β.
MAGNITUDES = (0.01, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 8.0, 10.0, 25.0, 50.0, 100.0)
PAPER_MAGNITUDES = (0.01, 0.1, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0)
CONSTANTS = {TEMPERATURE: TEMPERATURES, MAGNITUDE: MAGNITUDES}
PAPER_CONSTANTS = {TEMPERATURE: PAPER_TEMPERATURES, MAGNITUDE: PAPER_MAGNITUDES}


# What an operation may need besides its arguments: both networks' logits, and the labels, whose shape is that of the
# logits without dimension 1. A negative label is none: its place counts nowhere.
NEEDS = ("student_logits", "teacher_logits", "labels")
# A weight may need the student's tensor beside the teacher's; a weighing the anchors that hold an object, 1 or 0 each.
OF_STUDENT, POSITIVES = "student", "positives"
# … which follow from this knowledge and the labels; and so do the labels of a detector's regions.
GRID, PROPOSALS = "grid", "proposals"


# For which pairs an operation is that is not for all: those with a label for each place, and detectors.
MAPS = ("maps",)
BOXES = ("boxes",)


class DuplicateOperationError(ValueError):
    """Two operations were declared under one name."""


@dataclass(frozen=True)
class Operation:
    """One operation of the language.

    ``overloads`` maps each legal tuple of argument types to the result's type. ``per_sample``: row i of the result
    depends on sample i alone, so the teacher's part can be computed once and cached. ``agree``: the axes on which
    student and teacher must have one size before the operation can be applied (``("*",)`` is all of them).
    ``noise`` draws what a stochastic operation shares between the two sides. ``specialise`` gives, for one type of
    pair, the plain functions whose composition the operation is there. ``needs``: what the function takes behind its
    arguments, in that order (see ``NEEDS``). ``labelled``: the function over places that leaves out those without a
    label; it takes the labels behind the arguments. ``dense``: for pairs of these kinds alone, out of ``MAPS`` and
    ``BOXES``, since it needs a label for each place, or boxes, or is of no use without.

    In print: ``latex``, of a transform with <x> for its argument, <b> for the argument in brackets where it is no
    single symbol, <T> for the division by its temperature and <N> for its constant; of a distance with <t> and <s>
    for the two sides; of a calibration the weight of a sample. ``words``, of a transform a noun phrase with <x>, <T>,
    <N> and <C> for what dimension 1 holds (classes, channels, …); of the others the adverbial behind "matches the
    teacher's …". ``note`` is what a picture says below the name, ``symbol`` what it shows in its place.

    Algebra, for the canonical form: ``identity``: no effect on any input. ``idempotent``: twice is once.
    ``non_negative``: no result is negative; ``keeps_non_negative``: no effect where nothing is. ``layout``: changes
    only where a number stands; ``flattening``: does not see that. ``written_as``: the operation that it is written
    as. ``log_form``: the operation that gives the logarithm. ``division``: divides by its constant.

    Of a distance, whose values are distances from 0 on otherwise: ``signed``: its value may be negative;
    ``signed_over``: the axes of distributions over which the value of a sample may be, though not the mean of all.
    """

    name: str
    role: str
    function: Callable[..., Any]
    overloads: Mapping[tuple[ValueType, ...], ValueType]
    source: str
    latex: str
    words: str
    note: str = ""
    symbol: str = ""
    per_sample: bool = True
    agree: tuple[str, ...] = ()
    noise: Callable[..., Any] | None = None
    specialise: Callable[[PairType], tuple[Callable[..., Any], ...]] | None = None
    needs: tuple[str, ...] = ()
    labelled: Callable[..., Any] | None = None
    paper: bool = False
    searchable: bool = True
    dense: tuple[str, ...] = ()
    identity: bool = False
    idempotent: bool = False
    non_negative: bool = False
    keeps_non_negative: bool = False
    layout: bool = False
    flattening: bool = False
    written_as: str = ""
    log_form: str = ""
    division: bool = False
    signed: bool = False
    signed_over: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        allowed = {
            "calibration": NEEDS, "transform": ("labels",), "weight": (OF_STUDENT, "labels"), "weighing": (POSITIVES,),
        }.get(self.role, ())  # fmt: skip
        if not set(self.needs) <= set(allowed):
            listed = ", ".join(allowed) or "nothing"
            raise ValueError(f"{self.name} needs {', '.join(self.needs)}; a {self.role} may need {listed}")

    def serves(self, kind: str, knowledge: Container[str] = (GRID, PROPOSALS)) -> bool:
        """Whether it is for pairs of this kind, ``images`` (one label each), ``maps`` or ``boxes`` (of whose labels
        other transforms could index those of regions alone), and of this knowledge."""
        if not all(name in knowledge for name in self.reads(kind)):
            return False
        if self.dense:
            return kind in self.dense
        return kind not in BOXES or not self.needs or self.role == "transform"

    def reads(self, kind: str) -> tuple[str, ...]:
        """The knowledge that it needs besides its arguments, for pairs of this kind."""
        if POSITIVES in self.needs:
            return (GRID,)
        return (PROPOSALS,) if kind in BOXES and self.role == "transform" and self.needs and not self.dense else ()

    @cached_property
    def compares_distributions(self) -> bool:
        """Whether it is a distance of distributions alone."""
        return self.role == "distance" and all(getattr(t[0], "kind", "") in DISTRIBUTIONS for t in self.overloads)

    @cached_property
    def normalises(self) -> bool:
        """Whether it makes a distribution of what is none."""
        kinds = [(getattr(t[0], "kind", ""), getattr(result, "kind", "")) for t, result in self.overloads.items()]
        return any(made in DISTRIBUTIONS and given not in DISTRIBUTIONS for given, made in kinds)

    def undoes_log(self, given: ValueType) -> bool:
        """Whether it turns log-probabilities of the type ``given`` into their probabilities."""
        if not isinstance(given, PairType) or given.kind != "log_probability":
            return False
        return self.overloads.get((given,)) == PairType(given.rank, "probability", given.axis)

    @property
    def arity(self) -> int:
        """How many arguments a call has, constants included."""
        return len(next(iter(self.overloads)))

    @property
    def parameters(self) -> tuple[ValueType, ...]:
        """The types of the trailing constants, e.g. a temperature."""
        return tuple(t for t in next(iter(self.overloads)) if t in CONSTANTS)

    @property
    def formula(self) -> str:
        """The first line of the docstring, which is the formula."""
        return (inspect.getdoc(self.function) or "").splitlines()[0]


@dataclass
class Catalogue:
    """All operations by name, in order of declaration. Declaring a name twice raises."""

    operations: dict[str, Operation] = field(default_factory=dict)

    def declare(self, operation: Operation) -> None:
        """Add one operation; raises ``DuplicateOperationError`` when the name is taken."""
        if operation.name in self.operations:
            raise DuplicateOperationError(f"the operation {operation.name!r} is already declared")
        self.operations[operation.name] = operation

    def __getitem__(self, name: str) -> Operation:
        return self.operations[name]

    def __contains__(self, name: object) -> bool:
        return name in self.operations

    def __iter__(self) -> Iterator[Operation]:
        return iter(self.operations.values())

    def __len__(self) -> int:
        return len(self.operations)

    def of_role(self, *roles: str) -> list[Operation]:
        """The operations with one of ``roles``, in order of declaration."""
        return [operation for operation in self if operation.role in roles]


CATALOGUE = Catalogue()


def operator(name: str, axis: str = "") -> str:
    r"""The LaTeX of a transform that is written as a named function of its argument.

    >>> print(operator("mean", "C"))
    \mathrm{mean}_{C}\left(<x>\right)
    """
    subscript = f"_{{{axis}}}" if axis else ""
    return rf"\mathrm{{{name}}}{subscript}\left(<x>\right)"


Declarer = Callable[[Callable[..., Any]], Callable[..., Any]]


def _declarer(
    role: str, overloads: Mapping[tuple[ValueType, ...], ValueType], name: str | None, **facts: Any
) -> Declarer:
    def declare(function: Callable[..., Any]) -> Callable[..., Any]:
        CATALOGUE.declare(Operation(name or function.__name__, role, function, overloads, **facts))
        return function

    return declare


def transform(
    types: Mapping[PairType, PairType],
    *,
    name: str | None = None,
    parameters: tuple[ValueType, ...] = (),
    **facts: Any,
) -> Declarer:
    """Declare a function of one tensor that is applied to both sides of a pair."""
    overloads = {(given, *parameters): result for given, result in types.items()}
    return _declarer("transform", overloads, name, **facts)


def distance(
    sample: list[PairType], *, batch: Sequence[PairType] = (), by_place: bool = False, by_anchor: bool = False,
    name: str | None = None, **facts: Any,
) -> Declarer:  # fmt: skip
    """Declare a function (student, teacher) -> losses; on ``sample`` types it gives one loss for each sample, or
    ``by_place`` one for each place of each, or ``by_anchor`` one for each anchor."""
    made = PLACE if by_place else ANCHOR if by_anchor else SAMPLE
    overloads: dict[tuple[ValueType, ...], ValueType] = {(given,): made for given in sample}
    overloads |= {(given,): BATCH for given in batch}
    return _declarer("distance", overloads, name, **({"agree": ("*",)} | facts))


def calibration(*, batch: bool = False, name: str | None = None, **facts: Any) -> Declarer:
    """Declare a function that weighs the losses of the samples and averages them."""
    overloads: dict[tuple[ValueType, ...], ValueType] = {(SAMPLE,): SCALAR}
    if batch:
        overloads[(BATCH,)] = SCALAR
    return _declarer("calibration", overloads, name, **facts)


def combination(overloads: Mapping[tuple[ValueType, ...], ValueType], **facts: Any) -> Declarer:
    """Declare a function that combines scalar losses."""
    return _declarer("combination", overloads, None, **facts)


def weight(types: Mapping[ValueType, ValueType] | None = None, **facts: Any) -> Declarer:
    """Declare a function (the teacher's logits N×K×H×W, or what else ``types`` begin with, and labels) -> weights
    N×H×W, or N×M of anchors, ≥ 0 and 0 without a label."""
    overloads: dict[tuple[ValueType, ...], ValueType] = {
        (given,): made for given, made in (types or {MAP_LOGITS: WEIGHT}).items()
    }
    return _declarer("weight", overloads, None, **({"needs": ("labels",), "dense": MAPS} | facts))


def weighing(*, by_anchor: bool = False, **facts: Any) -> Declarer:
    """Declare a function (losses of places or anchors, weights, what it ``needs``) -> losses of samples;
    ``by_anchor``: of anchors alone."""
    places: dict[tuple[ValueType, ...], ValueType] = {} if by_anchor else {(PLACE, WEIGHT): SAMPLE}
    overloads = places | {(ANCHOR, ANCHOR_WEIGHT): SAMPLE}
    return _declarer("weighing", overloads, None, **({"dense": BOXES if by_anchor else MAPS + BOXES} | facts))
