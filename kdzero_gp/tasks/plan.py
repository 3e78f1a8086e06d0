"""The defaults of a search, by task."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from kdzero_gp.engine.recipe import Recipe
from kdzero_gp.errors import SettingError

# What a proxy can train.
PROXY_TRAINS = ("whole", "last-stage")
# What a search's winner can be for.
TRAININGS = ("long", "short")
# The paper's three, in equal shares.
PAPER_WEIGHTS = {"cross_entropy": 1.0, "sharpness_gap": 1.0, "cka_gap": 1.0}


def annealed(epochs: float, learning_rate: float, schedule: str = "cosine") -> Recipe:
    """A recipe of proxies and races: SGD with Nesterov momentum in batches of 64, the learning rate rising over a tenth
    of the steps. Gradients are clipped, since the scale of evolved losses is only known at the start."""
    return Recipe(epochs, 64, learning_rate, nesterov=True, schedule=schedule, warmup=0.1, clip=5.0)


@dataclass(frozen=True)
class SearchPlan:
    """A task's defaults. ``images`` and ``validation_images`` bound what a proxy trains and is measured on (None:
    all). ``zoo_factors`` are the magnitudes among which every published method is tuned. ``heat``: how many of the
    fittest train once before ``race_top`` of them race (0: the fittest race). ``race_zoo``: how many
    published methods race besides ``kd`` (None: all); ``zoo_heat``: they run a heat, too, which decides that in place
    of the proxy. ``race_seeds`` choose the winner, ``fresh_seeds`` others confirm it. ``prune``: with how many smaller
    ones the winner is compared at most (0: none). ``teacher_recipe``: how a teacher is trained when no weights are
    given (None: weights are needed). ``baseline_seeds``: over how many proxy trainings by cross-entropy alone the
    baseline of fitness is averaged. ``weights``: the shares of the metrics in it,
    scaled to sum to 1. ``surrogate_share``: how many of the latest candidates, by the fitness predicted for them, are
    worth a training. After the share ``short`` of a proxy's steps, a candidate whose gaps are more than
    ``short_bound`` times those of cross-entropy alone is stopped. ``proxy_trains``: the ``whole`` student, or
    its ``last-stage`` on kept maps of the warm student's other stages. ``loss_memory``: MiB that a loss may
    keep for one batch; what takes more takes long too. ``crop``: of the images for training one fixed window of so
    many pixels a side is used (None: all of them).
    """

    teacher: str
    student: str
    warm: Recipe
    proxy: Recipe
    race: Recipe
    weights: Mapping[str, float] = field(default_factory=lambda: dict(PAPER_WEIGHTS))
    proxy_trains: str = "whole"
    surrogate_share: float = 0.33
    short: float = 0.2
    short_bound: float = 1.02
    loss_memory: float = 64.0
    teacher_recipe: Recipe | None = None
    images: int | None = None
    validation_images: int | None = None
    race_from_scratch: bool = True
    race_seeds: int = 5
    fresh_seeds: int = 0
    heat: int = 0
    race_top: int = 10
    race_zoo: int | None = None
    zoo_heat: bool = False
    prune: int = 24
    zoo_factors: tuple[float, ...] = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
    baseline_seeds: int = 5
    crop: int | None = None

    @property
    def in_heat(self) -> int:
        """How many distillers run a heat: none where all of them race."""
        return self.heat if self.heat > self.race_top else 0


# Small inputs: 6 epochs of some 900 samples bring a small student to about 70 %, 5 annealed ones score a distiller, 25
# from scratch race it. No other weights of the three metrics were clearly better (experiments/proxy_fidelity).
_SMALL = SearchPlan(
    teacher="",
    student="",
    teacher_recipe=annealed(30, 0.1),
    warm=annealed(6, 0.1, "constant"),
    proxy=annealed(5, 0.1, "linear"),
    race=annealed(25, 0.1),
    fresh_seeds=20,
)
# Digits: few labels and few steps, so that a student of 438 parameters is far from the teacher by labels alone, and
# distillers differ by more than their seeds do (experiments/embedded). Races have 108 steps from scratch, and proxies
# are like them: 54 steps of a student that had 18. Judged by the cross-entropy at the best temperature; early gaps to
# the teacher stop nobody. One training tells little, so thirty run a heat.
DIGITS = replace(
    _SMALL, teacher="digits_cnn_32", student="digits_cnn_4", loss_memory=3.0, teacher_recipe=annealed(45, 0.1),
    warm=annealed(2, 0.1, "constant"), proxy=annealed(6, 0.1, "linear"), race=annealed(12, 0.1),
    weights={"calibrated": 1.0}, short_bound=math.inf, surrogate_share=0.28, heat=30, prune=16,
)  # fmt: skip
# CIFAR-size images: a student of 15 epochs, whose last stage goes on for 250 annealed steps. That ranks published
# methods better than the whole student does and costs a quarter; weaker warm students and fewer steps rank worse
# (experiments/proxy_choice). Judged by the cross-entropy at the best temperature: as it is it ranks confident students
# last, and with the gaps evolution closes these instead of learning (experiments/cifar100). Early gaps tell less than
# on digits, so the bound on them is wide (experiments/screens). Races train whole students, but from the warm one too,
# since from scratch they would take hours on a CPU. Published methods run a heat: the last stage alone cannot tell what
# a loss on feature maps does to the stages below.
CIFAR = SearchPlan(
    teacher="resnet56",
    student="resnet20",
    warm=annealed(15, 0.05, "constant"),
    proxy=annealed(2, 0.05, "linear"),
    race=annealed(4, 0.05, "linear"),
    weights={"calibrated": 1.0},
    proxy_trains="last-stage",
    short_bound=1.1,
    images=8000,
    validation_images=2000,
    race_from_scratch=False,
    race_seeds=2,
    fresh_seeds=5,
    race_top=3,
    race_zoo=2,
    zoo_heat=True,
    prune=0,
    zoo_factors=(1.0, 3.0, 10.0),
    baseline_seeds=2,
)
# Other images can be large: half as many, twice as often.
FOLDER = replace(
    CIFAR, teacher_recipe=annealed(30, 0.1), images=4000,
    proxy=replace(CIFAR.proxy, epochs=4), race_seeds=3, race_zoo=4, prune=12,
    zoo_factors=(1.0, 10.0),
)  # fmt: skip


# The user's own data, of any kind: whole students, published methods at one magnitude. What is no image trains fast.
OWN = replace(
    _SMALL, images=8000, validation_images=2000, zoo_factors=(1.0, 10.0),
    race_zoo=2, race_seeds=3, race_top=5, prune=12, baseline_seeds=2,
)  # fmt: skip
OWN_IMAGES = replace(FOLDER, teacher="", student="", race_zoo=2)
# Label maps: every image gives thousands of gradients, so few images a step and few steps; windows make both cheap.
# The loss and the gaps in equal shares.
PIXELS = SearchPlan(
    teacher="segmenter_32",
    student="segmenter_4",
    teacher_recipe=replace(annealed(60, 0.1), batch_size=8),
    warm=replace(annealed(10, 0.05, "constant"), batch_size=8),
    proxy=replace(annealed(3, 0.05, "linear"), batch_size=8),
    race=replace(annealed(20, 0.05), batch_size=8),
    weights={"cross_entropy": 1.0, "disagreement_gap": 1.0},
    loss_memory=256.0,
    images=256,
    validation_images=100,
    race_seeds=3,
    race_top=3,
    race_zoo=4,
    zoo_heat=True,
    fresh_seeds=3,
    zoo_factors=(1.0, 10.0),
    baseline_seeds=3,
    crop=128,
)
# Boxes: few images a step, each with many anchors; a detector needs many steps before it finds anything. By its own
# loss and the gap of scores in equal shares.
DETECTORS = replace(
    PIXELS,
    teacher="fcos_small_16",
    student="fcos_small_4",
    teacher_recipe=replace(annealed(60, 0.02), batch_size=8),
    warm=replace(annealed(15, 0.02, "constant"), batch_size=8),
    proxy=replace(annealed(3, 0.01, "linear"), batch_size=8),
    race=replace(annealed(30, 0.02), batch_size=8),
    weights={"detection_loss": 1.0, "score_gap": 1.0},
    crop=None,
)


def for_training(plan: SearchPlan, training: str, loss: str) -> SearchPlan:
    """The plan for winners that are for ``long`` trainings, or for ``short`` ones of a few epochs.

    A long training is resembled by proxies that anneal a warm student, a short one by proxies of a nearly new, whole
    student that are judged by its own ``loss`` alone; early gaps stop none of these (experiments/cifar100). Raises
    SettingError.
    """
    if training not in TRAININGS:
        raise SettingError(f"--training must be one of {', '.join(TRAININGS)}, got {training!r}")
    if training == "long":
        return plan
    images, epochs = (None, 7.5) if plan.images is None else (4000, 3.0)
    return replace(
        plan,
        images=images,
        warm=replace(plan.warm, epochs=1),
        proxy=replace(plan.proxy, epochs=epochs),
        weights={loss: 1.0},
        short_bound=math.inf,
        proxy_trains="whole",
    )
