"""From a typed tree and the shapes of a pair to a program: straight-line steps, the teacher's part apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from kdzero_gp.compiler.checking import check, type_of
from kdzero_gp.compiler.expression import Expression, terms
from kdzero_gp.compiler.knowledge import kind_of_pair
from kdzero_gp.compiler.shapes import TRACED_BATCH, Adapter, PairShapes, Shape, adapters, agrees, result_shape
from kdzero_gp.errors import ShapeError
from primitives import BATCH, CATALOGUE, GRID, MAP_LOGITS, OF_STUDENT, POSITIVES, PROPOSALS, Operation, PairType
from primitives.boxes import region_classes
from primitives.labelled import of_labelled_batch, of_labelled_places, of_labelled_samples, where_labelled
from primitives.relations import at_places


@dataclass(frozen=True)
class Step:
    """One line: ``name = function(arguments)``, or a plain ``text`` where there is no function. ``shape`` is that of
    its value, or () where it is not declared (losses and draws)."""

    name: str
    arguments: tuple[str, ...]
    function: Callable[..., Any] | None = None
    shape: Shape = ()
    factor: str = ""

    @property
    def text(self) -> str:
        """The right-hand side."""
        call = ", ".join(self.arguments)
        if self.function is not None:
            call = f"{self.function.__name__}({call})"
        return f"{self.factor} * {call}" if self.factor else call


@dataclass
class Program:
    """A distiller as steps. ``teacher_steps`` give the teacher's per-sample targets; ``targets`` are the names of
    those that ``steps`` use; ``results`` and ``magnitudes`` belong to the terms in order. ``knowledge`` is all that the
    steps read; ``shapes`` are both sides' behind each knowledge and transform, of a knowledge before its adapter (where
    two terms adapt it differently, those of the first)."""

    expression: Expression
    teacher_steps: list[Step] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    adapters: dict[str, Adapter] = field(default_factory=dict)
    results: list[str] = field(default_factory=list)
    magnitudes: list[float] = field(default_factory=list)
    knowledge: list[str] = field(default_factory=list)
    shapes: dict[Expression, tuple[Shape, Shape]] = field(default_factory=dict)


@dataclass(frozen=True)
class LoweredPair:
    """A lowered pair: the variables of both sides, their shapes, and where the teacher's side was computed."""

    student: str
    teacher: str
    student_shape: Shape
    teacher_shape: Shape
    per_sample: bool
    temperature: float | None = None


def written(shape: Shape) -> str:
    """A traced shape as a comment, with the batch size as N.

    >>> written((TRACED_BATCH, 100))
    'N×100'
    """
    return "×".join("N" if size == TRACED_BATCH else str(size) for size in shape)


def _layout(raw: Shape, seen: Shape) -> str:
    """What turns a raw tensor into the leaf's layout: a map into tokens, or square tokens into a map."""
    if len(raw) == len(seen):
        return ""
    return ".flatten(2)" if len(raw) > len(seen) else f".unflatten(2, {seen[1:]})"


class _Lowering:
    def __init__(self, root: Expression, shapes: PairShapes):
        self.shapes = shapes
        self.types = shapes.types
        self.program = Program(root)
        self.pairs: dict[tuple[Expression, Adapter | None], LoweredPair] = {}
        self.losses: dict[tuple[Expression, Adapter | None], str] = {}
        self.weighted: dict[tuple[str, str], str] = {}
        self.weights: dict[Expression, str] = {}
        self.used: dict[str, int] = {}

    def unique(self, base: str) -> str:
        number = self.used.get(base, 0) + 1
        while (name := f"{base}_{number}" if number > 1 else base) in self.used:
            number += 1
        self.used[base] = number
        self.used.setdefault(name, 1)
        return name

    def target(self, teacher: str) -> str:
        """The variable ``teacher``, computed with the targets, as the later steps read it."""
        if teacher not in self.program.targets:
            self.program.targets.append(teacher)
        return f'targets["{teacher}"]'

    # --- which adapter a term needs -------------------------------------------------------------------------

    def fits(self, node: Expression, way: Adapter | None) -> tuple[Shape, Shape] | None:
        """The shapes of both sides behind ``node`` when its leaf is adapted by ``way``; None where they clash."""
        if not node.arguments:
            student, teacher = self.shapes.leaf(node.name, "student"), self.shapes.leaf(node.name, "teacher")
            if way is not None:
                channels = way.channels[1] if way.channels else student[0]
                student = (channels, *(way.size if way.size is not None else student[1:]))
            return (TRACED_BATCH, *student), (TRACED_BATCH, *teacher)
        below = self.fits(node.children[0], way)
        if below is None:
            return None
        operation = CATALOGUE[node.name]
        given = type_of(node.children[0], self.types)
        assert isinstance(given, PairType)
        if operation.agree and not agrees(operation.agree, given.rank, *below):
            return None
        if operation.role != "transform":
            return below
        constants = tuple(argument for argument in node.arguments if isinstance(argument, float))
        return result_shape(node.name, below[0], constants), result_shape(node.name, below[1], constants)

    def way_of(self, comparison: Expression) -> Adapter | None:
        """The least adapter with which the two sides of a distance can be compared."""
        leaf = next(node for node in comparison.walk() if not node.arguments)
        for way in adapters(self.shapes, leaf.name):
            if self.fits(comparison, way) is not None:
                return way
        student, teacher = self.shapes.leaf(leaf.name, "student"), self.shapes.leaf(leaf.name, "teacher")
        raise ShapeError(f"{comparison} cannot compare {leaf.name} of shape {student} with {teacher}")

    # --- steps ----------------------------------------------------------------------------------------------

    def read(self, name: str, side: str) -> str:
        """The variable of a knowledge on one side, in the pair's layout."""
        variable = f"{name}_{side[0]}"
        if variable not in self.used:
            if name not in self.program.knowledge:
                self.program.knowledge.append(name)
            shape = self.shapes.leaf(name, side)
            cut = ".detach()" if side == "teacher" else ""
            text = f'{side}["{name}"]{cut}{_layout(getattr(self.shapes, side)[name], shape)}'
            steps = self.program.teacher_steps if side == "teacher" else self.program.steps
            steps.append(self.untaught(name, Step(variable, (text,), shape=(TRACED_BATCH, *shape)), side))
            self.unique(variable)
        return variable

    def untaught(self, name: str, step: Step, side: str = "student") -> Step:
        """A step that gives a student's knowledge; of logits of label maps, one that gives the teacher's where there is
        no label. No tree reads others, so none can teach a place without a label."""
        if side == "teacher" or self.types.get(name) != MAP_LOGITS:
            return step
        arguments = (step.text, self.target(self.read(name, "teacher")), "labels")
        return replace(step, arguments=arguments, function=where_labelled)

    def leaf(self, name: str, way: Adapter | None) -> LoweredPair:
        student, teacher = self.read(name, "student"), self.read(name, "teacher")
        shapes = self.fits(Expression(name), way)
        assert shapes is not None
        if way is not None:
            module = f"adapt_{name}" if way.channels else f"pool_{name}"
            self.program.adapters[module] = way
            adapted = f"{name}_adapted_s" if way.channels else f"{name}_pooled_s"
            if adapted not in self.used:
                step = Step(self.unique(adapted), (f"self.{module}({student})",), shape=shapes[0])
                self.program.steps.append(self.untaught(name, step))
            student = adapted
        return LoweredPair(student, teacher, *shapes, per_sample=True)

    def pair(self, node: Expression, way: Adapter | None) -> LoweredPair:
        key = (node, way)
        if key not in self.pairs:
            self.pairs[key] = pair = self.transform(node, way) if node.arguments else self.leaf(node.name, way)
            shapes = (pair.student_shape, pair.teacher_shape) if node.arguments else self.fits(node, None)
            assert shapes is not None
            self.program.shapes.setdefault(node, shapes)
        return self.pairs[key]

    def transform(self, node: Expression, way: Adapter | None) -> LoweredPair:
        operation = CATALOGUE[node.name]
        below = self.pair(node.children[0], way)
        constants = tuple(argument for argument in node.arguments if isinstance(argument, float))
        shapes = self.fits(node, way)
        assert shapes is not None
        extra = [repr(constant) for constant in constants]
        function = operation.function
        labels = [self.labels_of(operation)] if operation.needs else []
        if operation.labelled and len(shapes[0]) == 4 and self.keeps_labelled(node.children[0], way):
            function, labels = operation.labelled, ["labels"]
        teacher_in = below.teacher
        per_sample = below.per_sample and operation.per_sample and operation.noise is None
        if below.per_sample and not per_sample:
            teacher_in = self.target(below.teacher)
        name = self.unique(node.name)
        if operation.noise is not None:
            noise = Step(f"{name}_draw", (below.student,), operation.noise)
            self.program.steps.append(noise)
            extra.append(noise.name)
        here = [self.target(one) if one != "labels" else one for one in labels]
        student = Step(f"{name}_s", (below.student, *extra, *here), function, shapes[0])
        there = labels if per_sample else here
        teacher = Step(f"{name}_t", (teacher_in, *extra, *there), function, shapes[1])
        self.program.steps.append(student)
        (self.program.teacher_steps if per_sample else self.program.steps).append(teacher)
        temperature = constants[0] if constants else below.temperature
        return LoweredPair(student.name, teacher.name, *shapes, per_sample, temperature)

    def labels_of(self, operation: Operation) -> str:
        """The variable of the labels that a transform indexes; those of regions are computed with the targets."""
        if PROPOSALS not in operation.reads(kind_of_pair(self.types)):
            return "labels"
        name = "region_labels"
        if name not in self.used:
            arguments = (self.read(PROPOSALS, "teacher"), "labels")
            self.program.teacher_steps.append(Step(self.unique(name), arguments, region_classes))
        return name

    def distance(self, node: Expression) -> str:
        operation = CATALOGUE[node.name]
        child = in_log_domain(operation, node.children[0])
        way = self.way_of(Expression(node.name, (child,)))
        key = (Expression(node.name, (child,)), way)
        if key in self.losses:
            return self.losses[key]
        below = self.pair(child, way)
        self.program.shapes.setdefault(node.children[0], self.program.shapes[child])
        given = type_of(child, self.types)
        assert isinstance(given, PairType)
        teacher = self.target(below.teacher) if below.per_sample else below.teacher
        functions = operation.specialise(given) if operation.specialise else (operation.function,)
        factor = f"{below.temperature!r}**2" if below.temperature not in (None, 1.0) else ""
        arguments: tuple[str, ...] = (below.student, teacher)
        for function in functions[:-1]:
            step = Step(self.unique(f"{node.name}_elements"), arguments, function)
            self.program.steps.append(step)
            arguments = (step.name,)
        step = Step(self.unique(f"{node.name}_losses"), arguments, functions[-1], factor=factor)
        self.program.steps.append(step)
        self.losses[key] = step.name
        return step.name

    def weighed(self, node: Expression) -> str:
        """The losses of samples: those of a distance that keeps places, under a weight of the teacher's part."""
        comparison, weight = node.children
        losses = self.distance(comparison)
        key = (f"{node.name} {weight}", losses)
        if key not in self.weighted:
            operation = CATALOGUE[node.name]
            arguments: tuple[str, ...] = (losses, self.weights_of(weight))
            if POSITIVES in operation.needs:
                arguments += (self.weights_of(Expression(POSITIVES, (Expression(GRID),))),)
            name = self.unique(losses.replace("_losses", f"_{weight.name}_losses"))
            self.program.steps.append(Step(name, arguments, operation.function))
            self.weighted[key] = name
        return self.weighted[key]

    def weights_of(self, weight: Expression) -> str:
        """The variable of a weight: of the teacher's part, unless the student has one in it."""
        if weight not in self.weights:
            operation, leaf = CATALOGUE[weight.name], weight.children[0].name
            teacher = self.read(leaf, "teacher")
            name = self.unique(f"{weight.name}_weight")
            if OF_STUDENT in operation.needs:
                sides = {OF_STUDENT: self.leaf(leaf, self.way_of(weight)).student}
                arguments = (self.target(teacher), *(sides.get(need, need) for need in operation.needs))
                self.program.steps.append(Step(name, arguments, operation.function))
                self.weights[weight] = name
            else:
                self.program.teacher_steps.append(Step(name, (teacher, *operation.needs), operation.function))
                self.weights[weight] = self.target(name)
        return self.weights[weight]

    def needed(self, operation: Operation) -> list[str]:
        """What a calibration needs besides the losses, as variables."""
        sides = {f"{side}_logits": side for side in ("student", "teacher")}
        if operation.needs:
            type_of(Expression("logits"), self.types)
        if set(sides) <= set(operation.needs):
            student, teacher = (self.shapes.leaf("logits", side) for side in sides.values())
            resized = self.shapes.adapted("logits") and self.types["logits"].rank == "map"
            if student != teacher and not resized:
                raise ShapeError(
                    f"{operation.name} compares logits; the student's are {student}, the teacher's {teacher}"
                )
        variables = []
        for need in operation.needs:
            variable = self.read("logits", sides[need]) if need in sides else need
            variables.append(self.target(variable) if need == "teacher_logits" else variable)
        return variables

    def weight(self, node: Expression, losses: str) -> str:
        """The calibrated losses."""
        key = (node.name, losses)
        if key in self.weighted:
            return self.weighted[key]
        operation = CATALOGUE[node.name]
        arguments = (self.of_labelled(node, losses), *self.needed(operation))
        name = losses.replace("_losses", "_loss")
        step = Step(self.unique(f"{node.name}_{name}" if operation.needs else name), arguments, operation.function)
        self.program.steps.append(step)
        self.weighted[key] = step.name
        return step.name

    def of_labelled(self, node: Expression, losses: str) -> str:
        """The losses such that their mean leaves out what has no label, where labels were used. A calibration that
        needs the labels leaves out whole samples itself."""
        comparison = node.children[0]
        if len(comparison.children) > 1:
            return losses  # weights are 0 where there is no label
        child = in_log_domain(CATALOGUE[comparison.name], comparison.children[0])
        source = self.labelled_source(child)
        if source is None:
            return losses
        way = self.way_of(Expression(comparison.name, (child,)))
        functions: list[Callable[..., Any]] = []
        if type_of(comparison, self.types) == BATCH:
            functions.append(of_labelled_batch)
        else:
            if self.keeps_labelled(child, way) and getattr(type_of(child, self.types), "axis", "") != "HW":
                functions.append(of_labelled_places)
            if "labels" not in CATALOGUE[node.name].needs:
                functions.append(of_labelled_samples)
        labels = self.seen_labels(source, way) if functions else ""
        for function in functions:
            step = Step(self.unique(losses.replace("_losses", "_labelled")), (losses, labels), function)
            self.program.steps.append(step)
            losses = step.name
        return losses

    def labelled_source(self, chain: Expression) -> Expression | None:
        """The last of a chain at which a place without a label, or a sample, says nothing of the student."""
        for node in chain.walk():
            if "labels" in CATALOGUE[node.name].needs if node.arguments else self.types[node.name] == MAP_LOGITS:
                return node
        return None

    def keeps_labelled(self, node: Expression, way: Adapter | None) -> bool:
        """Whether the places of a value are still those at which a label was seen."""
        source = self.labelled_source(node)
        seen = source and self.fits(source.children[0] if source.arguments else source, way)
        shapes = self.fits(node, way)
        if not shapes or not seen or len(shapes[0]) < 3:
            return False
        return all(one[2:] == other[2:] for one, other in zip(shapes, seen, strict=True))

    def seen_labels(self, source: Expression, way: Adapter | None) -> str:
        """The labels at the size of the map that they are seen with; as they are for other ranks."""
        pair = self.pair(source.children[0] if source.arguments else source, way)
        if len(pair.student_shape) != 4:
            labels = self.labels_of(CATALOGUE[source.name])
            return labels if labels == "labels" else self.target(labels)
        step = Step(self.unique("labels_seen"), ("labels", pair.student), at_places)
        self.program.steps.append(step)
        return step.name

    def term(self, node: Expression) -> None:
        weighted, magnitude = node.arguments
        assert isinstance(weighted, Expression) and isinstance(magnitude, float)
        comparison = weighted.children[0]
        losses = (self.weighed if len(comparison.children) > 1 else self.distance)(comparison)
        self.program.results.append(self.weight(weighted, losses))
        self.program.magnitudes.append(magnitude)


def in_log_domain(operation: Operation, child: Expression) -> Expression:
    """Divergences of a softmax are computed from its logarithm: exact where a probability underflows."""
    log_form = CATALOGUE[child.name].log_form if child.arguments else ""
    return Expression(log_form, child.arguments) if operation.compares_distributions and log_form else child


def lower(root: Expression, shapes: PairShapes) -> Program:
    """The program of a distiller for a pair. Common sub-expressions are computed once; an adapter is inserted at a
    leaf only where the two sides of a distance differ in shape without it.

    Raises ``ExpressionError`` where the pair lacks a knowledge and ``ShapeError`` where shapes cannot be matched.
    """
    check(root, shapes.types)
    lowering = _Lowering(root, shapes)
    for term in terms(root):
        lowering.term(term)
    return lowering.program
