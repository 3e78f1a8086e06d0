"""Training from Python: the functions behind the commands ``train`` and ``distill``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from kdzero_gp import tasks
from kdzero_gp.compiler import Expression
from kdzero_gp.engine.machine import Machine
from kdzero_gp.engine.pair import NamedPair
from kdzero_gp.engine.recipe import Recipe, load_recipe
from kdzero_gp.errors import RunError
from kdzero_gp.progress import Progress
from kdzero_gp.training.distillers import Distiller, NamedDistiller, resolve
from kdzero_gp.training.folder import as_network
from kdzero_gp.training.opening import open_for, open_teacher
from kdzero_gp.training.pair import LOOKING, tapped
from kdzero_gp.training.run import run
from kdzero_gp.training.settings import Settings, TrainingResult
from kdzero_gp.training.shadow import must_have_heads


@dataclass(frozen=True)
class Pair(NamedPair):
    """A teacher with its weights, a student, and the data and recipe that the student is trained with.

    ``recipe`` is a packaged name (``cifar100``, ``imagenet``, ``vit``, ``short``), a TOML file, or a recipe;
    ``changes`` override its fields. Without ``validate`` the validation images are trained on too and the last weights
    are final. ``backbone``: a file of weights for the part of the student that is called so. ``shadow``: ``teacher`` or
    ``student``, on whose maps a second class head takes part in distillation (see ``engine.shadow``).
    """

    recipe: str | Recipe = "short"
    changes: Mapping[str, Any] | None = None
    validate: bool = True
    backbone: str | None = None
    shadow: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shadow is not None:
            must_have_heads(tasks.get(self.task).family)

    def settings(self, seed: int = 0) -> Settings:
        """The settings of a training of the student alone. Raises SettingError for an impossible recipe."""
        recipe = load_recipe(self.recipe, self.task, self.student, self.changes)
        asks = self.inherit_head
        own = {name: value for name, value in self.names.items() if asks or not name.startswith("teacher")}
        return Settings(**own, recipe=recipe, seed=seed, validate=self.validate, backbone=self.backbone)

    def taught(self, seed: int = 0) -> Settings:
        """The same with the teacher."""
        return replace(self.settings(seed), **self.names)

    def distilling(
        self, distiller: Distiller, seed: int = 0, magnitude: str | None = None, factor: float = 1.0
    ) -> Settings:
        """The settings of a training with a distiller."""
        found = self.taught(seed)
        recipe = replace(found.recipe, distillation=distiller.distillation or found.recipe.distillation)
        return replace(
            found, distiller=distiller.name, source=distiller.source, recipe=recipe,
            magnitude=magnitude or distiller.magnitude, factor=factor, shadow=self.shadow,
        )  # fmt: skip

    def shapes(self) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
        """What the student and the teacher expose on the data, without the batch axis. Raises KdzeroError."""
        settings, family = self.taught(), tasks.get(self.task).family
        batches = open_for(settings, torch.device("cpu"), validate=True)
        student = tapped(self.student, batches.classes, batches.example, self.student_taps, family=family)
        with torch.random.fork_rng([]):
            torch.manual_seed(LOOKING)
            return student.shapes, open_teacher(settings, batches).shapes

    def resolve(self, *distillers: str | Path | Expression | NamedDistiller) -> list[Distiller]:
        """The distillers as they are for this pair. Raises SettingError or ExpressionError for one that is none."""
        student, teacher = self.shapes()
        knowledge = tasks.get(self.task).family.knowledge
        return [resolve(distiller, student, teacher, knowledge) for distiller in distillers]


def train(
    task: str,
    model: str,
    *,
    out: str | Path,
    data: str | None = None,
    recipe: str = "short",
    changes: Mapping[str, Any] | None = None,
    taps: Mapping[str, str] | None = None,
    seed: int = 0,
    validate: bool = True,
    channels: int | None = None,
    machine: Machine | None = None,
    progress: Progress | None = None,
    tensorboard: bool = False,
    backbone: str | None = None,
) -> TrainingResult:
    """Train a network alone, by cross-entropy, and keep its weights in ``out/network.safetensors``. ``backbone``: a
    file of weights for the part of it that is called so, such as ImageNet's.

    The same call goes on where an interrupted one stopped. Raises KdzeroError for what cannot be done, RunError when
    the loss is no longer finite.

    Example: ``train("digits", "digits_cnn_32", out="teacher", changes={"epochs": 20})``.
    """
    alone = Pair(
        task, model, data=data, recipe=recipe, changes=changes, student_taps=dict(taps or {}), validate=validate,
        channels=channels, backbone=backbone,
    )  # fmt: skip
    result = _must_end_well(run(alone.settings(seed), Path(out), machine, progress, tensorboard))
    as_network(Path(out))
    return result


def distill(
    pair: Pair,
    distiller: str | Path | Expression | NamedDistiller,
    *,
    out: str | Path,
    seed: int = 0,
    magnitude: str | None = None,
    machine: Machine | None = None,
    progress: Progress | None = None,
    tensorboard: bool = False,
) -> TrainingResult:
    """Train a student by cross-entropy plus a distiller's loss, and keep it in ``out/student.safetensors``.

    ``distiller`` is an exported file, an expression, or a published method such as ``zoo:kd``. ``magnitude`` is
    ``absolute`` (the default for files), ``joint`` (for the zoo) or ``relative`` (for expressions): see
    ``kdzero_gp.engine.magnitudes``. Adapters are trained with the student and are no part of what is kept. The same
    call goes on where an interrupted one stopped. Raises KdzeroError for what cannot be done, RunError when the loss
    is no longer finite.

    Example: ``distill(Pair("digits", "digits_cnn_4", "digits_cnn_32", "teacher/network.safetensors"), "zoo:kd",
    out="student")``.
    """
    (found,) = pair.resolve(distiller)
    settings = pair.distilling(found, seed, magnitude)
    return _must_end_well(run(settings, Path(out), machine, progress, tensorboard))


def _must_end_well(result: TrainingResult) -> TrainingResult:
    if result.reason:
        raise RunError(f"{result.reason}; train anew with a lower --lr, or --set clip=5, in another --out")
    return result
