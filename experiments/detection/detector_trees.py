"""Do random distillers of the detection space compile and train a step on odd shapes?

    python experiments/detection/detector_trees.py --trees 5000 --out detector_trees.json

Pairs of other strides, channels, anchors and image sizes; batches with an empty image, without any box, with crowds,
and with boxes at the border or smaller than a place. One-stage students have their own loss, too. Prints how
many raised or gave a number that is not finite.
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
from kdzero_gp.families.detection import DETECTION
from primitives import LOSS

sys.path.insert(0, str(Path(__file__).parents[1]))
from random_trees import main

Shapes = dict[str, tuple[int, ...]]
CLASSES = 3
# Pixels of an image's side, which anchors are given in.
SIDE = 64


def _shapes(channels: tuple[int, ...], sizes: tuple[tuple[int, int], ...], anchors: int) -> Shapes:
    levels: Shapes = {f"fpn{3 + n}": (c, *size) for n, (c, size) in enumerate(zip(channels, sizes, strict=True))}
    of_anchors = dict.fromkeys(("deltas", "boxes", "grid"), (4, anchors))
    regions: Shapes = {"proposals": (4, 7), "regions": (channels[0], 7), "region_logits": (CLASSES + 1, 7)}
    return levels | {"logits": (CLASSES, anchors), "edges": (5, 4, anchors)} | of_anchors | regions


def _two_stages(channels: tuple[int, ...], sizes: tuple[tuple[int, int], ...], anchors: int) -> Shapes:
    """As of a Faster R-CNN, which has no scores of classes at anchors."""
    shapes = _shapes(channels, sizes, anchors)
    del shapes["logits"]
    return shapes | {"objectness": (1, anchors)}


# student, teacher: equal; other channels; other numbers of anchors (no scores in common); odd sides; one place; two
# stages; another size of images
PAIRS: tuple[tuple[Shapes, Shapes], ...] = (
    (_shapes((6, 6, 6), ((8, 10), (4, 5), (2, 3)), 105), _shapes((6, 6, 6), ((8, 10), (4, 5), (2, 3)), 105)),
    (_shapes((4, 4, 4), ((6, 6), (3, 3), (2, 2)), 49), _shapes((9, 9, 9), ((6, 6), (3, 3), (2, 2)), 49)),
    (_shapes((5, 5), ((6, 8), (3, 4)), 60), _shapes((7, 7), ((6, 8), (3, 4)), 540)),
    (_shapes((3, 8, 4), ((7, 5), (4, 3), (2, 2)), 51), _shapes((8, 3, 4), ((7, 5), (4, 3), (2, 2)), 51)),
    (_shapes((4, 4), ((1, 1), (1, 1)), 2), _shapes((6, 6), ((2, 1), (1, 1)), 2)),
    (_two_stages((4, 4), ((6, 8), (3, 4)), 60), _two_stages((6, 6), ((6, 8), (3, 4)), 60)),
    (_shapes((4, 6), ((8, 10), (4, 5)), 100), _shapes((6, 4), ((16, 20), (7, 9)), 383)),
)


def batch(shapes: Shapes, count: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Random outputs of one network; boxes are in order and reach beyond the image."""
    outputs = {name: 2.0 * torch.randn(count, *shape, generator=generator) for name, shape in shapes.items()}
    for name in ("boxes", "grid", "proposals"):
        corner = torch.rand(count, 2, shapes[name][1], generator=generator) * 1.2 - 0.1
        outputs[name] = torch.cat([corner, corner + 0.3 * torch.rand(corner.shape, generator=generator)], dim=1)
    return outputs


def targets(kind: str, count: int, generator: torch.Generator) -> Tensor:
    """Boxes N×5×5: at random, one of the whole image, one at the border, one smaller than a place, a crowd; ``one``: an
    image without any among them; ``none``: no box at all."""
    corner = torch.rand(count, 5, 2, generator=generator) * 0.7
    rows = torch.cat([corner, corner + 0.3 * torch.rand(count, 5, 2, generator=generator)], dim=2)
    rows[:, 1] = torch.tensor([0.0, 0.0, 1.0, 1.0])
    rows[:, 2] = torch.tensor([0.9, 0.95, 1.0, 1.0])
    rows[:, 3] = torch.tensor([0.5, 0.5, 0.5 + 1e-3, 0.5 + 1e-3])
    number = torch.randint(CLASSES, (count, 5, 1), generator=generator).float()
    number[:, 4] = -2.0 - number[:, 4]
    everything = torch.cat([rows, number], dim=2)
    nothing = torch.tensor([0.0, 0.0, 0.0, 0.0, -1.0]).expand(5, 5)
    if kind == "none":
        everything[:] = nothing
    elif kind == "one":
        everything[0] = nothing
    return everything


def trees(number: int, seed: int = 0) -> Iterator[tuple[int, Expression]]:
    """Random distillers, each with the number of its pair."""
    random = Random(seed)
    grammars = [Grammar("open", pair_shapes(s, t, DETECTION.knowledge).types) for s, t in PAIRS]
    for index in range(number):
        grammar = grammars[index % len(PAIRS)]
        nodes = grammar.grow(Slot(LOSS), random.randint(4, 9), random)
        yield index % len(PAIRS), grammar.to_expression(nodes)


def outcome(expression: Expression, pair: int, seed: int) -> str:
    """One step of a student that is its own outputs: ``fine``, ``not finite`` or the error."""
    student_shapes, teacher_shapes = PAIRS[pair]
    generator = torch.Generator().manual_seed(seed)
    try:
        distiller = compile_distiller(expression, student_shapes, teacher_shapes, knowledge=DETECTION.knowledge)
        student = {name: t.requires_grad_() for name, t in batch(student_shapes, 3, generator).items()}
        teacher = batch(teacher_shapes, 3, generator)
        truth = targets(("some", "one", "none")[seed % 3], 3, generator)
        loss = distiller(student, teacher, truth)
        if "logits" in student:
            own = {"logits": student["logits"], "deltas": student["deltas"], "anchors": SIDE * student["grid"].detach()}
            loss = loss + DETECTION.own_loss(own | {"size": torch.full((3, 1, 2), float(SIDE))}, truth)
        loss.backward()
        gradients = [t.grad for t in student.values() if t.grad is not None]
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0][:160]
    finite = all(bool(tensor.isfinite().all()) for tensor in [loss.detach(), *gradients])
    return "fine" if finite else "not finite"


if __name__ == "__main__":
    main(__doc__, trees, outcome)
