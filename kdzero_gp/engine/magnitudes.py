"""The final magnitudes of a distiller: measured once, before the first epoch, at a briefly trained student.

A distiller's size beside the cross-entropy changes quickly in the first steps, so the gradients are compared at a
copy of the student that was trained by cross-entropy alone for at most WARM_UP_STEPS steps of the recipe, with a
rising learning rate. The training itself starts from the untouched student.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdzero_gp.engine.batches import Images
from kdzero_gp.engine.loop import Teacher, Trainer
from kdzero_gp.engine.outputs import Precision
from kdzero_gp.engine.recipe import Recipe
from kdzero_gp.errors import SettingError
from kdzero_gp.models.taps import Tapped
from kdzero_gp.proxy.screens import LEAST_GRADIENT

WARM_UP_STEPS = 100
PROBES = 4
# The number of the pass that warms up and probes; the training counts from 0.
WARM_UP_EPOCH = -1


def final_magnitudes(
    mode: str, factor: float, student: Tapped, teacher: Teacher, images: Images, precision: Precision, seed: int
) -> tuple[float, ...]:
    """The numbers that the terms are multiplied with.

    ``absolute``: as written, times ``factor``; ``relative``: each term's gradient gets ``factor`` · γ times the norm
    of the cross-entropy's; ``joint``: the sum of all terms gets ``factor`` times that norm and keeps its ratios.
    Raises SettingError for a distiller whose gradient does not reach the student.
    """
    given = tuple(float(m) for m in teacher.distiller.magnitudes)  # type: ignore[union-attr]
    if mode == "absolute":
        return tuple(factor * m for m in given)
    terms, total, hard = _norms(student, teacher, images, precision, seed)
    if not min(terms) >= LEAST_GRADIENT * hard or not torch.tensor([*terms, total]).isfinite().all():
        raise SettingError(
            "a term of the distiller gives the student no finite gradient, so its magnitude cannot be measured; use "
            "another distiller, or its numbers as they are with --magnitude absolute"
        )
    if mode == "joint":
        return tuple(factor * m * hard / total for m in given)
    return tuple(factor * m * hard / norm for m, norm in zip(given, terms, strict=True))


def _norms(
    student: Tapped, teacher: Teacher, images: Images, precision: Precision, seed: int
) -> tuple[list[float], float, float]:
    """Mean gradient norms of each term, of their weighted sum and of the cross-entropy, over PROBES batches."""
    before: dict[str, Any] = copy.deepcopy(student.network.state_dict())
    adapters = copy.deepcopy(teacher.distiller.state_dict())
    try:
        _warm_up(student, images, precision, seed)
        parameters = [p for p in student.parameters() if p.requires_grad]
        norms: list[list[float]] = []
        for batch in itertools.islice(images.epoch(seed, WARM_UP_EPOCH), PROBES):
            found = precision.forward(student, batch.images)
            targets = teacher.targets(batch, batch.images, batch.labels)
            terms = list(teacher.distiller.terms(found, targets, batch.labels))  # type: ignore[operator]
            total: Tensor = sum(m * t for m, t in zip(teacher.distiller.magnitudes, terms, strict=True))  # type: ignore
            hard = F.cross_entropy(found["logits"], batch.labels)
            norms.append(gradient_norms([*terms, total, hard], parameters))
    finally:
        student.network.load_state_dict(before)
        teacher.distiller.load_state_dict(adapters)
    means = [sum(values) / len(norms) for values in zip(*norms, strict=True)]
    return means[:-2], means[-2], means[-1]


def _warm_up(student: Tapped, images: Images, precision: Precision, seed: int) -> None:
    torch.manual_seed(seed)
    student.train()
    trainer = Trainer(student, images, precision)
    steps = min(WARM_UP_STEPS, images.steps)
    trainer.recipe = _rising(images.recipe, steps, images.steps)
    for step, batch in enumerate(itertools.islice(images.epoch(seed, WARM_UP_EPOCH), steps)):
        trainer.step(batch, step)


def _rising(recipe: Recipe, steps: int, steps_per_epoch: int) -> Recipe:
    """The recipe with a learning rate that rises over ``steps`` steps, as every network survives it."""
    share = min(0.99, steps / (recipe.epochs * steps_per_epoch))
    return replace(recipe, warmup=share, schedule="cosine", clip=recipe.clip or 5.0)


def gradient_norms(losses: Sequence[Tensor], parameters: Sequence[Tensor]) -> list[float]:
    """‖∂loss/∂parameters‖₂ of each loss, over all parameters together; 0 where a loss does not reach them."""
    found = []
    for loss in losses:
        if not loss.requires_grad:
            found.append(0.0)
            continue
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        squares = [gradient.double().square().sum() for gradient in gradients if gradient is not None]
        found.append(float(torch.stack(squares).sum().sqrt()) if squares else 0.0)
    return found
