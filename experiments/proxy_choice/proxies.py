"""The truth, and the proxies that are compared."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kdzero_gp.engine.recipe import Recipe
from kdzero_gp.tasks.plan import annealed

# Test accuracy after 240 epochs, ResNet-56 → ResNet-20 on CIFAR-100: the tables of Tian et al. 2020
# (arXiv:1910.10699), Huang et al. 2022 (arXiv:2205.10536) and Zhao et al. 2022 (arXiv:2203.08679).
TRUTH = {
    "ce": 69.06, "fitnet": 69.21, "nst": 69.60, "rkd": 69.61, "cc": 69.63, "sp": 69.67, "pkt": 70.34, "at": 70.55,
    "kd": 70.66, "dist": 71.75, "dkd": 71.97,
}  # fmt: skip
# The weights beside a cross-entropy of weight 1 with which those numbers were reached (KD: 0.9 beside 0.1).
PUBLISHED_WEIGHTS = {
    "fitnet": 100.0, "nst": 50.0, "rkd": 1.0, "cc": 0.02, "sp": 3000.0, "pkt": 30000.0, "at": 1000.0,
    "kd": 0.9, "dist": 2.0, "dkd": 1.0,
}  # fmt: skip


@dataclass(frozen=True)
class Proxy:
    """One kind of short training.

    ``warm_epochs`` of cross-entropy on ``warm_images`` come before (0: from scratch); then ``recipe`` on ``images``
    images, which the warm student has not seen where ``fresh``. ``tail``: the stages before the last are frozen and
    computed once. ``ramp``: the distiller's factors rise linearly over this share of the steps (as DKD's do over its
    first epochs). ``points``: after which shares of the steps the averaged weights are measured.
    """

    recipe: Recipe
    images: int = 3000
    warm_epochs: int = 7
    warm_images: int = 10_000
    fresh: bool = False
    size: int = 32
    classes: int = 100
    tail: bool = False
    magnitude: str = "relative"
    factor: float = 1.0
    ramp: float = 0.0
    validation: int = 3000
    points: tuple[float, ...] = (0.5, 1.0)


def _recipe(epochs: float, rate: float = 0.05, schedule: str = "linear", batch: int = 64) -> Recipe:
    return replace(annealed(epochs, rate, schedule), batch_size=batch)


_SMALL = Proxy(_recipe(1), images=8000, size=16, points=(0.25, 0.5, 1.0))
_TAIL = Proxy(_recipe(1), images=8000, tail=True, points=(0.25, 0.5, 1.0))
_FULL = Proxy(_recipe(1), images=8000, points=(1.0,))
_TAIL_2 = replace(_TAIL, recipe=_recipe(2), ramp=0.2, validation=5000, points=(1.0,))
_SMALL_TAIL = replace(_SMALL, recipe=_recipe(4), tail=True, validation=5000, points=(1.0,))
_LATER = replace(_TAIL, recipe=_recipe(2), images=10000, warm_epochs=15, points=(1.0,))
PROXIES = {
    "s16": _SMALL,
    "s16-published": replace(_SMALL, magnitude="published"),
    "tail": _TAIL,
    "tail-fresh": replace(_TAIL, fresh=True),
    "tail-4-epochs": replace(_TAIL, recipe=_recipe(4), points=(0.5, 1.0)),
    "tail-2-published": replace(_TAIL_2, magnitude="published"),
    "full": _FULL,
    "scratch": replace(_SMALL, warm_epochs=0, points=(1.0,)),
    "s16-tail-4-epochs": _SMALL_TAIL,
    "s16-tail-4-epochs-published": replace(_SMALL_TAIL, magnitude="published", ramp=0.2),
    "s16-tail-10-epochs-3000": replace(_SMALL_TAIL, recipe=_recipe(10.6), images=3000),
    "s16-tail-25-classes": replace(_SMALL_TAIL, recipe=_recipe(12), images=2500, classes=25),
    "trial": replace(_FULL, recipe=_recipe(2), images=10000, points=(0.5, 1.0)),
    "trial-stage-15": replace(_FULL, recipe=_recipe(2), images=10000, warm_epochs=15, points=(0.5, 1.0)),
    "tail-10000-2": replace(_TAIL, recipe=_recipe(2), images=10000, points=(1.0,)),
    "tail-20000": replace(_TAIL, images=20000, points=(1.0,)),
    "tail-20000-stage-15": replace(_TAIL, images=20000, warm_epochs=15, points=(1.0,)),
    "tail-10000-2-stage-15": _LATER,
    "tail-10000-2-stage-15-third": replace(_LATER, factor=0.3),
    "tail-10000-2-stage-15-triple": replace(_LATER, factor=3.0),
    "tail-10000-2-middle": replace(_LATER, warm_images=20000, warm_epochs=8),
    "tail-10000-2-late": replace(_LATER, warm_images=20000),
    "s16-20000": replace(_SMALL, images=20000, points=(1.0,)),
}
# The same training with every magnitude times 1, 0.3 and 3.
TUNED = ("tail-10000-2-stage-15", "tail-10000-2-stage-15-third", "tail-10000-2-stage-15-triple")
# ``explored``: one training each, warm seed 0, seed 0. ``finalist``: other warm seeds and seeds, not used to choose.
GROUPS = {
    "finalist": ["s16-tail-10-epochs-3000", "tail-10000-2-stage-15", "scratch"],
    "explored": list(PROXIES),
}
