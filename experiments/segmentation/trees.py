"""Do random distillers of the segmentation space compile and train a step on odd shapes?

    python experiments/segmentation/trees.py --trees 5000 --out trees.json

Pairs of other strides, channels, knowledge and image sizes, of both spaces; batches with a label map without any label
among them, or with no label at all. Prints how many raised, gave a number that is not finite, or taught the student's
logits at a place without a label.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import torch
from torch import Tensor

from kdzero_gp.compiler import Expression, compile_distiller, pair_shapes
from kdzero_gp.evolution.grammar import Grammar, Slot
from kdzero_gp.families.segmentation import SEGMENTATION
from primitives import LOSS
from primitives.relations import at_places

sys.path.insert(0, str(Path(__file__).parents[1]))
from random_trees import main

Shapes = dict[str, tuple[int, ...]]
CLASSES = 5
# student, teacher, label map: equal strides; a finer student; a coarser one; one place; odd sides; more maps
PAIRS: tuple[tuple[Shapes, Shapes, tuple[int, int]], ...] = (
    ({"logits": (CLASSES, 8, 10), "feat": (6, 4, 5)}, {"logits": (CLASSES, 8, 10), "feat": (6, 4, 5)}, (32, 40)),
    ({"logits": (CLASSES, 9, 7), "feat": (4, 5, 4)}, {"logits": (CLASSES, 5, 4), "feat": (7, 3, 2)}, (33, 27)),
    ({"logits": (CLASSES, 3, 5), "feat": (8, 2, 3)}, {"logits": (CLASSES, 6, 10), "feat": (5, 6, 10)}, (24, 40)),
    ({"logits": (CLASSES, 1, 1), "feat": (3, 1, 1)}, {"logits": (CLASSES, 2, 1), "feat": (4, 1, 2)}, (7, 5)),
    ({"logits": (CLASSES, 13, 6), "feat": (4, 13, 6)}, {"logits": (CLASSES, 13, 6), "feat": (6, 7, 3)}, (13, 6)),
    (
        {"logits": (CLASSES, 6, 8), "feat": (5, 3, 4), "low": (3, 6, 8), "aux": (4, 3, 4)},
        {"logits": (CLASSES, 6, 8), "feat": (7, 6, 8), "low": (4, 12, 16), "aux": (6, 6, 8)},
        (48, 64),
    ),
)


def batch(shapes: Shapes, count: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Random outputs of one network."""
    return {name: 2.0 * torch.randn(count, *shape, generator=generator) for name, shape in shapes.items()}


def label_maps(kind: str, count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Labels with a tenth ignored, one image without any (``one``), or none at all (``none``)."""
    labels = torch.randint(CLASSES, (count, *size), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.1] = -1
    if kind == "none":
        labels[:] = -1
    elif kind == "one":
        labels[0] = -1
    return labels


def trees(number: int, seed: int = 0, space: str = "") -> Iterator[tuple[int, Expression]]:
    """Random distillers, each with the number of its pair; every fourth round of pairs of the space ``kdzero``, the
    others of ``open``, unless ``space`` says which."""
    random = Random(seed)
    types = [pair_shapes(s, t, SEGMENTATION.knowledge).types for s, t, _ in PAIRS]
    grammars = {name: [Grammar(name, known) for known in types] for name in ("open", "kdzero")}
    for index in range(number):
        grammar = grammars[space or ("kdzero" if index // len(PAIRS) % 4 == 3 else "open")][index % len(PAIRS)]
        nodes = grammar.grow(Slot(LOSS), random.randint(4, 9), random)
        yield index % len(PAIRS), grammar.to_expression(nodes)


def outcome(expression: Expression, pair: int, seed: int) -> str:
    """One step of a student that is its own outputs: ``fine``, ``not finite``, ``taught without a label``, or the
    error."""
    student_shapes, teacher_shapes, size = PAIRS[pair]
    generator = torch.Generator().manual_seed(seed)
    try:
        distiller = compile_distiller(expression, student_shapes, teacher_shapes, knowledge=SEGMENTATION.knowledge)
        student = {name: t.requires_grad_() for name, t in batch(student_shapes, 3, generator).items()}
        teacher = batch(teacher_shapes, 3, generator)
        labels = label_maps(("some", "one", "none")[seed % 3], 3, size, generator)
        distillation = distiller(student, teacher, labels)
        if teaches_ignored(distillation, student["logits"], labels):
            return "taught without a label"
        loss = distillation + SEGMENTATION.own_loss(student, labels)
        loss.backward()
        gradients = [t.grad for t in student.values() if t.grad is not None]
        moved = [(tensor - 0.1 * tensor.grad) for tensor in student.values() if tensor.grad is not None]
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0][:160]
    finite = all(bool(tensor.isfinite().all()) for tensor in [loss.detach(), *gradients, *moved])
    return "fine" if finite else "not finite"


def teaches_ignored(loss: Tensor, logits: Tensor, labels: Tensor) -> bool:
    """Whether a loss has a gradient for logits at a place whose centre has no label."""
    if not loss.requires_grad:
        return False
    (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True, allow_unused=True)
    return gradient is not None and bool((gradient.transpose(0, 1)[:, at_places(labels, logits) < 0] != 0).any())


if __name__ == "__main__":
    main(__doc__, trees, outcome)
