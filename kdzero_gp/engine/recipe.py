"""Recipes: how a network is trained, for proxies and for hundreds of epochs alike. The packaged ones are small TOML
files of which every field can be overridden."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import Any

from kdzero_gp.errors import SettingError, meant
from kdzero_gp.objects import is_own

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("steps", "cosine", "linear", "poly", "constant")
# The exponent of the poly schedule, Liu et al. 2015, arXiv:1506.04579, as segmentation uses it.
POLY = 0.9
# How the distiller's weight goes over a training, and from which share of the steps on "early" is without it.
DISTILLATION = ("constant", "linear", "early")
EARLY = 2 / 3
CROPS = ("none", "pad", "window", "resized")
# A recipe that leaves inputs as they are.
WITHOUT_CHANGES = {
    "crop": "none", "crop_size": 0, "flip": False, "augment": "", "mixup": 0.0, "cutmix": 0.0, "image_size": 0
}  # fmt: skip
# What an entry of [[overrides]] can be limited to.
CONDITIONS = ("task", "student")


@dataclass(frozen=True)
class Recipe:
    """A training of ``epochs`` passes in batches of ``batch_size``; an incomplete last batch is left out.
    ``iterations``, where they are not 0, are the steps of the whole training, whatever the number of images; ``epochs``
    are then what that is on the data of the publication.

    The learning rate rises linearly over the ``warmup`` share of the steps and then stays but for ``decay`` at every
    epoch of ``milestones`` (``steps``), falls to 0 along a half ``cosine``, a line (``linear``) or a power of it
    (``poly``), or is ``constant``.
    ``distillation`` is the factor of the distiller's loss beside the student's own: 1 (``constant``), falling to 0
    along a line (``linear``), or 1 for the first two thirds of the steps and 0 then (``early``).
    ``clip`` bounds the gradient's norm (0: no bound). ``adamw`` decays weights only, no biases and norms.

    ``crop``: ``pad`` moves the image by up to ``padding`` pixels over black; ``window`` cuts a random window of
    ``crop_size`` pixels a side out of it; ``resized`` cuts a random part of it to ``image_size``.
    ``augment`` is a policy of timm such as ``rand-m9-mstd0.5-inc1`` or ``original``; ``mixup`` and
    ``cutmix`` are the parameters of their Beta distributions (0: off). ``image_size`` is what the networks see (0: as
    the data are), the height where ``image_width`` differs from it (0: the same); ``teacher_image_size`` what the
    teacher sees of the same image (0: the same, or what its weights say).

    ``draws``: with 0 every epoch crops and mirrors an image anew; else each image has so many crops, mirrored or not,
    that are drawn once and are the same for all trainings, and an epoch takes one of them at random. What a teacher
    says of them can then be kept.
    """

    epochs: float
    batch_size: int
    learning_rate: float
    optimizer: str = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    milestones: tuple[int, ...] = ()
    decay: float = 0.1
    warmup: float = 0.0
    clip: float = 0.0
    label_smoothing: float = 0.0
    distillation: str = "constant"
    image_size: int = 0
    image_width: int = 0
    teacher_image_size: int = 0
    crop: str = "none"
    padding: int = 4
    crop_size: int = 0
    flip: bool = False
    draws: int = 0
    augment: str = ""
    mixup: float = 0.0
    cutmix: float = 0.0
    iterations: int = 0

    def __post_init__(self) -> None:
        """Raises SettingError for numbers that make no sense."""
        if not (self.epochs > 0 and math.isfinite(self.epochs)):
            raise SettingError(f"a recipe's epochs must be above 0, got {self.epochs:g}")
        if self.batch_size < 2:
            raise SettingError(f"a recipe's batch_size must be at least 2, got {self.batch_size}")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise SettingError(f"a recipe's learning_rate must be above 0, got {self.learning_rate:g}")
        listed = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "crop": CROPS, "distillation": DISTILLATION}
        for name, known in listed.items():
            if getattr(self, name) not in known:
                raise SettingError(f"a recipe's {name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if (self.crop == "window") != bool(self.crop_size):
            raise SettingError(f"a recipe's crop_size belongs to crop = window, got {self.crop_size} and {self.crop}")
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and not value >= 0:
                raise SettingError(f"a recipe's {field.name} must be at least 0, got {value}")
        if self.warmup >= 1 or self.label_smoothing >= 1:
            raise SettingError("a recipe's warmup and label_smoothing are shares below 1")
        if self.draws and (self.crop != "pad" or self.augment):
            raise SettingError('a recipe\'s draws are of crops over a padded border; add crop = "pad" without augment')

    @property
    def summary(self) -> str:
        """The recipe in words.

        >>> Recipe(5, 64, 0.1).summary
        '5 epochs of sgd (batch size 64, learning rate 0.1, cosine, weight decay 0.0005)'
        """
        clip = f", gradients clipped at {self.clip:g}" if self.clip else ""
        course = f", distillation {self.distillation}" if self.distillation != DISTILLATION[0] else ""
        length = f"{self.iterations:,} iterations" if self.iterations else f"{self.epochs:g} epochs"
        return (
            f"{length} of {self.optimizer} (batch size {self.batch_size}, learning rate "
            f"{self.learning_rate:g}, {self.schedule}, weight decay {self.weight_decay:g}{clip}{course})"
        )

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of what the networks see; None: as the data are."""
        return (self.image_size, self.image_width or self.image_size) if self.image_size else None

    @property
    def per_image(self) -> bool:
        """Whether every image has to be transformed by itself, with Pillow, instead of whole batches on the device."""
        return self.crop == "resized" or bool(self.augment)

    @property
    def mixes(self) -> bool:
        """Whether pairs of images are mixed with their labels."""
        return bool(self.mixup or self.cutmix)

    @property
    def cacheable(self) -> bool:
        """Whether an image has few forms in training, so that what the teacher says of them can be kept."""
        return (self.crop == "none" or self.draws > 0) and not self.augment and not self.mixes

    @property
    def forms(self) -> int:
        """How many forms an image of a cacheable recipe has: its draws, or itself and, with ``flip``, mirrored."""
        return self.draws or 1 + self.flip

    def steps(self, steps_per_epoch: int) -> int:
        """Steps of the whole training; a last epoch may be a part of one."""
        return self.iterations or max(1, round(self.epochs * steps_per_epoch))

    def passes(self, steps_per_epoch: int) -> float:
        """How often the whole training sees each image."""
        return self.iterations / steps_per_epoch if self.iterations else self.epochs

    def rate(self, step: int, steps_per_epoch: int) -> float:
        """The learning rate of a step, counted from 0 over the whole training."""
        steps = self.steps(steps_per_epoch)
        rising = round(self.warmup * steps)
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        if self.schedule == "constant":
            return self.learning_rate
        if self.schedule == "steps":
            passed = sum(step // steps_per_epoch >= milestone for milestone in self.milestones)
            return self.learning_rate * self.decay**passed
        done = (step - rising) / max(1, steps - rising)
        falling = {"linear": 1.0 - done, "poly": (1.0 - done) ** POLY, "cosine": 0.5 * (1 + math.cos(math.pi * done))}
        return self.learning_rate * falling[self.schedule]

    def distilled(self, step: int, steps_per_epoch: int) -> float:
        """The factor of the distiller's loss in a step, counted from 0 over the whole training."""
        done = step / self.steps(steps_per_epoch)
        return {"constant": 1.0, "linear": 1.0 - done, "early": float(done < EARLY)}[self.distillation]

    def with_epochs(self, epochs: float) -> Recipe:
        """The recipe in another number of epochs, and not of iterations: milestones stay at their share."""
        milestones = tuple(max(1, round(milestone * epochs / self.epochs)) for milestone in self.milestones)
        return replace(self, epochs=epochs, iterations=0, milestones=milestones)

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, as JSON keeps them; ``iterations`` only where there are some, as of old."""
        named = asdict(self) | {"milestones": list(self.milestones)}
        return {name: value for name, value in named.items() if name != "iterations" or value}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """The recipe of these fields. Raises SettingError for an unknown field or a value of another type."""
        found = {name: _converted(name, value) for name, value in values.items()}
        missing = [name for name in ("epochs", "batch_size", "learning_rate") if name not in found]
        if missing:
            raise SettingError(f"the recipe has no {missing[0]}; add the line: {missing[0]} = …")
        return cls(**found)


_KINDS: dict[str, str] = {field.name: str(field.type) for field in fields(Recipe)}


def _unknown(name: str) -> SettingError:
    hint = meant(name, _KINDS, f"there are {', '.join(_KINDS)}")
    return SettingError(f"a recipe has no field {name!r}: {hint}")


def _converted(name: str, value: Any) -> Any:
    """The value in its field's type, also from the text of a command line."""
    if name not in _KINDS:
        raise _unknown(name)
    kind = _KINDS[name]
    try:
        if kind.startswith("tuple"):
            parts = [part for part in value.split(",") if part] if isinstance(value, str) else value
            return tuple(int(part) for part in parts)
        if kind == "bool":
            return {"true": True, "false": False}[str(value).lower()]
        if kind == "str":
            return str(value)
        number = float(value)
        if kind == "int" and number != int(number):
            raise ValueError
        return int(number) if kind == "int" else number
    except (ValueError, KeyError, TypeError, OverflowError):
        what = {"bool": "true or false", "int": "a whole number", "float": "a number"}.get(kind, "whole numbers")
        raise SettingError(f"the recipe's {name} has to be {what}, got {value!r}") from None


def names() -> tuple[str, ...]:
    """The names of the packaged recipes, sorted."""
    folder = resources.files("kdzero_gp.engine") / "recipes"
    return tuple(sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".toml")))


def _text(name: str) -> str:
    if name in names():
        return (resources.files("kdzero_gp.engine") / "recipes" / f"{name}.toml").read_text("utf-8")
    if not name.endswith(".toml"):
        raise SettingError(f"there is no recipe {name!r}; give {', '.join(names())} or your own .toml file")
    try:
        return Path(name).expanduser().read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"the recipe {name} cannot be read ({error}); give {', '.join(names())} or a file") from None


def load_recipe(
    name: str | Recipe, task: str = "", student: str = "", changes: Mapping[str, Any] | None = None
) -> Recipe:
    """A packaged recipe by name, a TOML file of the user's, or a recipe as it is, for one task and one student.

    The file's ``[[overrides]]`` apply where ``task`` and ``student`` match their patterns; ``changes`` come last. The
    user's own data are changed by their own transforms, and by what ``changes`` ask for, alone. A
    change of ``epochs`` alone moves the milestones along, and takes the place of iterations. Raises SettingError for
    what is unknown.
    """
    recipe = name if isinstance(name, Recipe) else _written(name, task, student)
    given = {key: _converted(key, value) for key, value in (changes or {}).items()}
    if "epochs" in given:
        given.setdefault("iterations", 0)
    if "epochs" in given and "milestones" not in given and given["epochs"] > 0:
        recipe = recipe.with_epochs(given.pop("epochs"))
    return replace(recipe, **given)


def _written(name: str, task: str, student: str) -> Recipe:
    """What a file says for one task and one student."""
    try:
        values: dict[str, Any] = tomllib.loads(_text(name))
    except tomllib.TOMLDecodeError as error:
        raise SettingError(f"the recipe {name} is not TOML ({error}); its lines are NAME = VALUE") from None
    overrides = values.pop("overrides", [])
    if not isinstance(overrides, list) or not all(isinstance(override, dict) for override in overrides):
        raise SettingError(f"the overrides of the recipe {name} have to be tables, each below a line [[overrides]]")
    for override in overrides:
        asked = {"task": task, "student": student.rpartition(":")[2]}
        if all(fnmatchcase(asked[key], str(override.get(key, "*"))) for key in CONDITIONS):
            values |= {key: value for key, value in override.items() if key not in CONDITIONS}
    if is_own(task):
        values |= WITHOUT_CHANGES
    return Recipe.from_dict(values)
