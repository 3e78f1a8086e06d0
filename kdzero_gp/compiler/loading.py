"""From source to a module object, in a way that tracebacks and ``inspect.getsource`` show its lines."""

from __future__ import annotations

import hashlib
import linecache
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from kdzero_gp.compiler.canonical import digest
from kdzero_gp.compiler.expression import Expression
from kdzero_gp.compiler.lowering import lower
from kdzero_gp.compiler.parsing import parse
from kdzero_gp.compiler.rendering import render
from kdzero_gp.compiler.shapes import pair_shapes
from kdzero_gp.files import atomic_write


@lru_cache(maxsize=4096)
def _code(source: str, filename: str) -> Any:
    # mtime None keeps the entry when linecache checks files for changes
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    return compile(source, filename, "exec")


def load_source(source: str) -> nn.Module:
    """The ``Distiller`` of a source text that ``render`` wrote. Running it executes the text: never give it text
    from elsewhere."""
    filename = f"<kdzero-gp distiller {hashlib.sha256(source.encode()).hexdigest()[:16]}>"
    module = ModuleType("kdzero_gp_distiller")
    module.__file__ = filename
    exec(_code(source, filename), module.__dict__)  # our own generator's text
    distiller = module.__dict__["Distiller"]()
    assert isinstance(distiller, nn.Module)
    return distiller


def source_of(
    expression: Expression | str,
    student_shapes: Mapping[str, Any],
    teacher_shapes: Mapping[str, Any],
    magnitudes: Sequence[float] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> str:
    """The Python source of a distiller for a pair; the arguments are those of ``compile_distiller``."""
    shapes = pair_shapes(student_shapes, teacher_shapes)
    if isinstance(expression, str):
        expression = parse(expression, shapes.types)
    return render(lower(expression, shapes), magnitudes, provenance)


def compile_distiller(
    expression: Expression | str,
    student_shapes: Mapping[str, Any],
    teacher_shapes: Mapping[str, Any],
    magnitudes: Sequence[float] | None = None,
) -> nn.Module:
    """A distiller for one teacher-student pair as a torch module.

    ``student_shapes`` and ``teacher_shapes`` map knowledge names to shapes, with or without the batch axis, or to
    tensors. ``distiller(student, teacher, labels)`` takes the mappings ``{"logits": N×C, "emb": N×D, "feat":
    N×C×H×W}`` of both networks and labels N (int64) and gives a scalar; no gradient flows to the teacher. Where the
    shapes of the two sides differ it has learnable adapters: train its parameters with the student's.
    ``magnitudes`` replace the factors of the expression, one for each term.

    Raises ``ExpressionError`` for text that is no distiller and ``ShapeError`` where the shapes cannot be matched.

    >>> distiller = compile_distiller("times(no(l2(logits)), 1)", {"logits": (10,)}, {"logits": (10,)})
    >>> import torch
    >>> one, zero = torch.ones(2, 10), torch.zeros(2, 10)
    >>> distiller({"logits": one}, {"logits": zero}, torch.zeros(2, dtype=torch.long)).item()
    1.0
    """
    return load_source(source_of(expression, student_shapes, teacher_shapes, magnitudes))


def export(
    path: Path | str,
    expression: Expression | str,
    student_shapes: Mapping[str, Any],
    teacher_shapes: Mapping[str, Any],
    magnitudes: Sequence[float] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> str:
    """Write a distiller as a Python file that needs only torch, and return its source. The file appears whole or
    not at all."""
    path = Path(path)
    if isinstance(expression, str):
        expression = parse(expression, pair_shapes(student_shapes, teacher_shapes).types)
    facts = {"digest": digest(expression)} | dict(provenance or {})
    source = source_of(expression, student_shapes, teacher_shapes, magnitudes, facts)
    atomic_write(path, source, "free space or choose another place with -o")
    return source
