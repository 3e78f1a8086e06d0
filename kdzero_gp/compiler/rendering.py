"""From a program to Python source that needs only torch. The same text is evaluated and exported."""

from __future__ import annotations

import ast
import inspect
import json
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from types import FunctionType
from typing import Any

from kdzero_gp.compiler import standalone
from kdzero_gp.compiler.expression import Expression, terms
from kdzero_gp.compiler.lowering import Program, Step, written
from kdzero_gp.compiler.shapes import Adapter
from kdzero_gp.errors import ShapeError
from primitives import CATALOGUE, labelled
from primitives.boxes import region_classes

# Where one network's knowledge is read: the layer, the keys into its output, and what brings it into form.
LayerForms = Mapping[str, tuple[str, tuple[Any, ...], Callable[..., Any] | None]]
_WIDTH = 110
# What every file has beside its operations; the last is a method.
_CALIBRATION: tuple[Callable[..., Any], ...] = (
    standalone.parameters_behind,
    standalone.gradient_norm,
    standalone.calibrate,
)


@lru_cache(maxsize=1)
def _catalogue_sources() -> dict[Callable[..., Any], str]:
    """The sources of all functions that the catalogue can need, read at once: a long search goes on with the code it
    started with, also when the files change under it."""
    functions: dict[Callable[..., Any], None] = {}
    for operation in CATALOGUE:
        special: list[Callable[..., Any]] = []
        if operation.specialise is not None:
            special = [f for overload in operation.overloads for f in operation.specialise(overload[0])]  # type: ignore
        for function in (operation.function, operation.noise, operation.labelled, *special):
            if function is not None:
                functions |= dict.fromkeys(_needs(function))
    functions |= dict.fromkeys(f for f in vars(labelled).values() if isinstance(f, FunctionType))
    functions |= dict.fromkeys(_needs(region_classes))
    return {function: _source_of_function(function) for function in functions} | {
        written: inspect.getsource(written) for written in (*_CALIBRATION, standalone.Reader)
    }


def function_source(function: Callable[..., Any]) -> str:
    """A function's source under its own name; of the catalogue without decorators and with the first line of its
    docstring."""
    return _catalogue_sources()[function]


def _source_of_function(function: Callable[..., Any]) -> str:
    lines, _ = inspect.getsourcelines(function)
    tree = ast.parse(textwrap.dedent("".join(lines)))
    definition = tree.body[0]
    assert isinstance(definition, ast.FunctionDef)
    text = lines[definition.lineno - 1 :]
    docstring = definition.body[0]
    if isinstance(docstring, ast.Expr) and docstring.end_lineno != docstring.lineno:
        first = docstring.lineno - definition.lineno
        last = (docstring.end_lineno or docstring.lineno) - definition.lineno
        text[first : last + 1] = [text[first].rstrip() + '"""\n']
    return "".join(text).rstrip() + "\n"


@lru_cache(maxsize=1024)
def _needs(function: Callable[..., Any]) -> tuple[Callable[..., Any], ...]:
    """The functions of the catalogue's modules that ``function`` calls, deepest first, then itself."""
    needed: dict[Callable[..., Any], None] = {}
    for name in function.__code__.co_names:  # type: ignore[attr-defined]
        called = function.__globals__.get(name)  # type: ignore[attr-defined]
        if isinstance(called, FunctionType) and called.__module__.startswith("primitives.") and called is not function:
            needed |= dict.fromkeys(_needs(called))
    return (*needed, function)


def _functions(program: Program) -> list[Callable[..., Any]]:
    functions: dict[Callable[..., Any], None] = {}
    for step in [*program.teacher_steps, *program.steps]:
        if step.function is not None:
            functions |= dict.fromkeys(_needs(step.function))
    return list(functions)


def _adapter_source(adapter: Adapter) -> str:
    """The expression that builds an adapter's module."""
    parts = []
    if adapter.size is not None:
        pool = "nn.AdaptiveAvgPool2d" if adapter.rank == "map" else "nn.AdaptiveAvgPool1d"
        size = adapter.size if adapter.rank == "map" else adapter.size[0]
        parts.append(f"{pool}({size})")
    if adapter.channels is not None:
        given, wanted = adapter.channels
        if adapter.rank == "matrix":
            parts.append(f"nn.Linear({given}, {wanted})")
        else:
            kind = "2d" if adapter.rank == "map" else "1d"
            parts.append(f"nn.Conv{kind}({given}, {wanted}, 1, bias=False)")
            parts.append(f"nn.BatchNorm{kind}({wanted})")
    return parts[0] if len(parts) == 1 else f"nn.Sequential({', '.join(parts)})"


def _lines(steps: Iterable[Step]) -> list[str]:
    lines = []
    for step in steps:
        line = f"{step.name} = {step.text}"
        comment = f"  # {written(step.shape)}" if step.shape else ""
        if len(line) + 8 > _WIDTH:
            head, _, rest = line.partition("(")
            line = f"{head}(\n    {rest[:-1]}\n)"
        elif len(line + comment) + 8 <= _WIDTH:
            line += comment
        lines.append(line)
    return lines


def checked_magnitudes(magnitudes: Sequence[float], count: int) -> tuple[float, ...]:
    """The terms' factors in six significant digits. Raises ``ShapeError`` unless there are ``count``, all finite."""
    if len(magnitudes) != count:
        raise ShapeError(f"the distiller has {count} terms and {len(magnitudes)} magnitudes were given")
    if not all(math.isfinite(magnitude) for magnitude in magnitudes):
        raise ShapeError(f"magnitudes have to be finite numbers, got {tuple(magnitudes)}")
    return tuple(float(f"{magnitude:.6g}") for magnitude in magnitudes)


def magnitudes_source(magnitudes: Sequence[float]) -> str:
    """The tuple of the terms' factors. Raises ``ShapeError`` unless all are finite."""
    numbers = ", ".join(map(repr, checked_magnitudes(magnitudes, len(magnitudes))))
    return f"({numbers},)" if len(magnitudes) == 1 else f"({numbers})"


def _weighted_sum(program: Program) -> str:
    parts = [f"self.magnitudes[{index}] * terms[{index}]" for index in range(len(program.results))]
    line = " + ".join(parts)
    return line if len(line) + 15 <= _WIDTH else "(\n    " + "\n    + ".join(parts) + "\n)"


def _tuple(names: Sequence[str]) -> str:
    line = f"({', '.join(names)}{',' * (len(names) == 1)})"
    return line if len(line) + 15 <= _WIDTH else "(\n    " + ",\n    ".join(names) + ",\n)"


def _init_lines(program: Program) -> list[str]:
    lines = [
        "super().__init__()",
        "self.magnitudes = tuple(magnitudes)",
        "self._measured: list[tuple[int, list[float]]] = []",
    ]
    for name, adapter in program.adapters.items():
        line = f"self.{name} = {_adapter_source(adapter)}"
        lines.append(line if len(line) + 8 <= _WIDTH else line.replace("(", "(\n    ", 1)[:-1] + "\n)")
    return lines


def _method(signature: str, docstring: str, body: Iterable[str]) -> str:
    return textwrap.indent(
        f'def {signature}:\n    """{docstring}"""\n' + textwrap.indent("\n".join(body), "    "), "    "
    )


def _class_source(program: Program, magnitudes: Sequence[float], shares: Sequence[float]) -> str:
    mapping = "Tensors"
    targets = _dictionary([f'"{name}": {name}' for name in program.targets])
    results = _tuple(program.results)
    methods = [
        _method("__init__(self, magnitudes: Sequence[float] = MAGNITUDES) -> None",
                "Adapters, where the pair needs them, are learnt with the student.",
                _init_lines(program)),
        "    @torch.no_grad()\n"
        + _method(f"prepare(self, teacher: {mapping}, labels: Tensor) -> dict[str, Tensor]",
                  "The teacher's part that belongs to each sample alone; may be computed once and kept.",
                  [*_lines(program.teacher_steps), f"return {targets}"]),
        _method(f"terms(self, student: {mapping}, targets: {mapping}, labels: Tensor) -> tuple[Tensor, ...]",
                "The losses before their magnitudes, from the student's tensors and prepared targets.",
                [*_lines(program.steps), f"return {results}"]),
        _method(f"loss(self, student: {mapping}, targets: {mapping}, labels: Tensor) -> Tensor",
                "The distillation loss, a scalar, from prepared targets.",
                ["terms = self.terms(student, targets, labels)", f"return {_weighted_sum(program)}"]),
        _method(f"forward(self, student: {mapping}, teacher: {mapping}, labels: Tensor) -> Tensor",
                "The distillation loss, a scalar; add it to the cross-entropy.",
                ["return self.loss(student, self.prepare(teacher, labels), labels)"]),
        textwrap.indent(function_source(standalone.calibrate).rstrip(), "    "),
    ]  # fmt: skip
    head = (
        "class Distiller(nn.Module):\n"
        '    """Distillation loss: both mappings have the tensors that KNOWLEDGE names; a label below 0 is none."""\n\n'
        f"    KNOWLEDGE = {_names_source(program.knowledge)}\n"
        f"    EXPRESSION = {_wrapped_string(str(program.expression))}\n"
        f"    MAGNITUDES = {magnitudes_source(magnitudes)}\n"
        f"    SHARES = {magnitudes_source(shares)}{'' if shares else '  # not known'}\n\n"
    )
    return head + "\n\n".join(methods) + "\n"


def _names_source(names: Sequence[str]) -> str:
    return "(" + ", ".join(f'"{name}"' for name in names) + (",)" if len(names) == 1 else ")")


def _dictionary(items: Sequence[str]) -> str:
    line = "{" + ", ".join(items) + "}"
    return line if len(line) + 15 <= _WIDTH else "{\n" + "".join(f"    {item},\n" for item in items) + "}"


def _wrapped_string(text: str) -> str:
    """A string literal that keeps within the line width."""
    if len(text) + len('    EXPRESSION = ""') <= _WIDTH:
        return f'"{text}"'
    pieces = textwrap.wrap(text, _WIDTH - 10, break_long_words=True, drop_whitespace=False, break_on_hyphens=False)
    return "(\n" + "".join(f'        "{piece}"\n' for piece in pieces) + "    )"


def render(
    program: Program,
    magnitudes: Sequence[float] | None = None,
    provenance: Mapping[str, Any] | None = None,
    shares: Sequence[float] = (),
    layers: Mapping[str, LayerForms] | None = None,
) -> str:
    """The source of a module with a class ``Distiller``.

    ``magnitudes`` are the factors of the terms (default: those of the expression); ``provenance`` becomes the
    module's docstring. ``shares``: each term's gradient in units of the cross-entropy's, nothing where it is not known;
    ``layers``: the layers of "student" and "teacher", which add a reader of both to the module.
    """
    facts = {"expression": str(program.expression)} | dict(provenance or {})
    described = facts_source(facts)
    parts = [f'"""A knowledge-distillation loss, written by kdzero-gp.\n\n{described}\n"""\n']
    functions = [function_source(function) for function in (*_functions(program), *_CALIBRATION[:-1])]
    if magnitudes is None:
        magnitudes = program.magnitudes
    body = [_class_source(program, checked_magnitudes(magnitudes, len(program.results)), shares)]
    body += [] if layers is None else _reader_source(program, layers)
    imports = _IMPORTS if layers is None else _IMPORTS.replace("import Iterable", "import Callable, Iterable")
    whole = "\n\n\n".join([imports, *(f.rstrip() for f in functions), *(text.rstrip() for text in body)])
    return "\n".join(parts) + "\n" + whole + "\n"


_IMPORTS = """\
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Tensors = Mapping[str, Tensor]"""


def _reader_source(program: Program, layers: Mapping[str, LayerForms]) -> list[str]:
    """The reader, the functions that bring tensors into form, and the layers of both networks."""
    needed = dict.fromkeys([*program.knowledge, "logits"])
    used = {side: {name: reading[name] for name in needed if name in reading} for side, reading in layers.items()}
    forms = dict.fromkeys(form for reading in used.values() for _, _, form in reading.values() if form is not None)
    tables = [
        "\n".join(
            [f"{side.upper()}_LAYERS = {{", *(f"    {_quoted(n)}: {_read(*one)}," for n, one in reading.items()), "}"]
        )
        for side, reading in used.items()
    ]
    return [*map(_source_of_function, forms), function_source(standalone.Reader), "\n".join(tables)]


def _read(layer: str, keys: Sequence[int | str], form: Callable[..., Any] | None) -> str:
    path = "".join(f"{_quoted(key) if isinstance(key, str) else key}, " for key in keys)
    path = path.removesuffix(" ") if len(keys) == 1 else path.removesuffix(", ")
    return f"({_quoted(layer)}, ({path}), {form.__name__ if form is not None else None})"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def facts_source(facts: Mapping[str, Any]) -> str:
    """Facts as lines of a file's docstring."""
    return "\n".join(_described(name, value) for name, value in facts.items())


def _described(name: str, value: Any) -> str:
    """One fact of the provenance; quotes and backslashes cannot end the docstring."""
    text = f"{name}: {value}".replace("\\", "/").replace('"""', "'''").replace("\x00", "")
    return "\n".join(textwrap.wrap(text, _WIDTH, subsequent_indent="    ", break_long_words=True)) or text


def terms_in_words(
    expression: Expression, magnitudes: Sequence[float], shares: Sequence[float], batch_size: int
) -> dict[str, str]:
    """For the head of a file: the batch size, and for each term its share and the number that gives it."""
    if not magnitudes:
        return {}
    facts = {"batch size": f"{batch_size}; the magnitudes hold for this one, calibrate() sets them for yours"}
    for number, term in enumerate(terms(expression)):
        share = f"gradient {shares[number]:.3g} × that of the cross-entropy, " if shares else ""
        facts[f"term {number + 1}"] = f"{term.arguments[0]}: {share}magnitude {magnitudes[number]:.6g}"
    return facts
