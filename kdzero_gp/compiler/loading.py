"""From source to a module object, in a way that tracebacks and ``inspect.getsource`` show its lines."""

from __future__ import annotations

import hashlib
import linecache
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from torch import Tensor, nn

from kdzero_gp.compiler import standalone
from kdzero_gp.compiler.canonical import digest
from kdzero_gp.compiler.checking import may_be_negative
from kdzero_gp.compiler.expression import Expression
from kdzero_gp.compiler.knowledge import KnowledgeTable
from kdzero_gp.compiler.lowering import lower
from kdzero_gp.compiler.parsing import parse
from kdzero_gp.compiler.rendering import LayerForms, checked_magnitudes, render
from kdzero_gp.compiler.shapes import pair_shapes
from kdzero_gp.files import atomic_write

Tensors = Mapping[str, Tensor]
# What is said of a distiller whose value says nothing.
NEGATIVE = "may be negative; only its gradient counts"


@lru_cache(maxsize=4096)
def _code(source: str, filename: str) -> Any:
    # mtime None keeps the entry when linecache checks files for changes
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    return compile(source, filename, "exec")


class DistillerModule(nn.Module):
    """What a generated ``Distiller`` is, for type checkers: the class itself stands alone and does not inherit.

    ``KNOWLEDGE``: what both mappings must have, in the order of use. ``MAGNITUDES``: the factors of the terms, unless
    ``magnitudes`` were given. ``SHARES``: each term's gradient in units of the cross-entropy's, empty where it is not
    known. ``EXPRESSION``: its text.
    """

    KNOWLEDGE: tuple[str, ...]
    MAGNITUDES: tuple[float, ...]
    EXPRESSION: str
    magnitudes: tuple[float, ...]
    SHARES: tuple[float, ...]

    def prepare(self, teacher: Tensors, labels: Tensor) -> dict[str, Tensor]:
        """The teacher's part that belongs to each sample alone."""
        raise NotImplementedError

    def terms(self, student: Tensors, targets: Tensors, labels: Tensor) -> tuple[Tensor, ...]:
        """The losses before their magnitudes, from prepared targets."""
        raise NotImplementedError

    def loss(self, student: Tensors, targets: Tensors, labels: Tensor) -> Tensor:
        """The distillation loss, from prepared targets."""
        raise NotImplementedError

    # stands in every file as it is here
    calibrate = standalone.calibrate


def load_source(source: str, magnitudes: Sequence[float] | None = None) -> DistillerModule:
    """The ``Distiller`` of a source text that ``render`` wrote; ``magnitudes`` replace its factors. Running it
    executes the text: never give it text from elsewhere.

    Raises ``ShapeError`` unless there is one finite magnitude for each term.
    """
    filename = f"<kdzero-gp distiller {hashlib.sha256(source.encode()).hexdigest()[:16]}>"
    module = ModuleType("kdzero_gp_distiller")
    module.__file__ = filename
    exec(_code(source, filename), module.__dict__)  # our own generator's text
    distiller = module.__dict__["Distiller"]
    if magnitudes is None:
        return cast(DistillerModule, distiller())
    return cast(DistillerModule, distiller(checked_magnitudes(magnitudes, len(distiller.MAGNITUDES))))


def source_of(
    expression: Expression | str,
    student_shapes: Mapping[str, Any],
    teacher_shapes: Mapping[str, Any],
    magnitudes: Sequence[float] | None = None,
    provenance: Mapping[str, Any] | None = None,
    knowledge: KnowledgeTable | None = None,
    shares: Sequence[float] = (),
    layers: Mapping[str, LayerForms] | None = None,
) -> str:
    """The Python source of a distiller for a pair; the arguments are those of ``compile_distiller`` and ``render``.
    With ``provenance`` its head names the digest, too, and whether the value may be negative."""
    shapes = pair_shapes(student_shapes, teacher_shapes, knowledge)
    if isinstance(expression, str):
        expression = parse(expression, shapes.types)
    if provenance is not None:
        sign = {"value": NEGATIVE} if may_be_negative(expression, shapes.types) else {}
        provenance = {"digest": digest(expression), **sign, **provenance}
    return render(lower(expression, shapes), magnitudes, provenance, shares, layers)


def compile_distiller(
    expression: Expression | str,
    student_shapes: Mapping[str, Any],
    teacher_shapes: Mapping[str, Any],
    magnitudes: Sequence[float] | None = None,
    knowledge: KnowledgeTable | None = None,
) -> DistillerModule:
    """A distiller for one teacher-student pair as a torch module.

    ``student_shapes`` and ``teacher_shapes`` map knowledge names to shapes, with or without the batch axis, or to
    tensors. ``distiller(student, teacher, labels)`` takes the mappings ``{"logits": N×C, "emb": N×D, "feat":
    N×C×H×W}`` of both networks (or what ``knowledge`` names, see ``pair_shapes``) and labels of the logits' shape
    without the classes (int64, negative for no label) and gives a scalar; no gradient flows to the teacher. Where the
    shapes of the two sides differ it has learnable adapters: train its parameters with the student's.
    ``magnitudes`` replace the factors of the expression, one for each term.

    Raises ``ExpressionError`` for text that is not a distiller and ``ShapeError`` where the shapes cannot be matched.

    >>> distiller = compile_distiller("times(no(l2(logits)), 1)", {"logits": (10,)}, {"logits": (10,)})
    >>> import torch
    >>> one, zero = torch.ones(2, 10), torch.zeros(2, 10)
    >>> distiller({"logits": one}, {"logits": zero}, torch.zeros(2, dtype=torch.long)).item()
    1.0
    """
    return load_source(source_of(expression, student_shapes, teacher_shapes, magnitudes, knowledge=knowledge))


def export(
    path: Path | str,
    expression: Expression | str,
    student_shapes: Mapping[str, Any],
    teacher_shapes: Mapping[str, Any],
    magnitudes: Sequence[float] | None = None,
    *,
    provenance: Mapping[str, Any] | None = None,
    **details: Any,
) -> str:
    """Write a distiller as a Python file that needs only torch, and return its source. The arguments behind ``path``
    are those of ``source_of``; the head names the digest, too. The file appears whole or not at all."""
    source = source_of(expression, student_shapes, teacher_shapes, magnitudes, provenance or {}, **details)
    atomic_write(Path(path), source, "free space or choose another place with -o")
    return source
