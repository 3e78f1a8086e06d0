"""The final magnitudes of a distiller in a long training: measured once, before the first epoch.

A distiller's size beside the own loss changes quickly in the first steps, so the gradients are compared at a copy of
the student that was trained alone for at most WARM_UP_STEPS steps of the recipe, with a rising learning rate. The
training itself starts from the untouched student.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import torch

from kdzero_gp.engine.batches import Batches
from kdzero_gp.engine.gradients import Prober, scaled
from kdzero_gp.engine.loop import Trainer
from kdzero_gp.engine.outputs import Precision
from kdzero_gp.engine.recipe import Recipe
from kdzero_gp.engine.teacher import Teacher
from kdzero_gp.models.taps import Tapped

WARM_UP_STEPS = 100
PROBES = 4
# The number of the pass that warms up and probes; the training counts from 0.
WARM_UP_EPOCH = -1


def final_magnitudes(
    mode: str, factor: float, student: Tapped, teacher: Teacher, batches: Batches, precision: Precision, seed: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The numbers that the terms are multiplied with (see ``scaled``), and each term's gradient then in units of the
    own loss's, () where nothing was measured. Raises SettingError."""
    magnitudes = tuple(float(m) for m in teacher.distiller.magnitudes)
    if mode == "absolute":
        return scaled(mode, factor, magnitudes, None), ()
    warm = copy.deepcopy(student)
    torch.manual_seed(seed)
    warm.train()
    steps = min(WARM_UP_STEPS, batches.steps)
    trainer = Trainer(warm, teacher.family, batches, precision, recipe=_rising(batches.recipe, steps, batches.steps))
    for step, batch in enumerate(itertools.islice(batches.epoch(seed, WARM_UP_EPOCH), steps)):
        trainer.step(batch, step)
    probes = list(itertools.islice(batches.epoch(seed, WARM_UP_EPOCH), PROBES))
    gradients = Prober(warm, teacher.family, probes, precision).measure(teacher)
    numbers = scaled(mode, factor, magnitudes, gradients)
    return numbers, tuple(number * norm for number, norm in zip(numbers, gradients.terms, strict=True))


def _rising(recipe: Recipe, steps: int, steps_per_epoch: int) -> Recipe:
    """The recipe with a learning rate that rises over ``steps`` steps, as every network survives it."""
    share = min(0.99, steps / recipe.steps(steps_per_epoch))
    return replace(recipe, warmup=share, schedule="cosine", clip=recipe.clip or 5.0)
