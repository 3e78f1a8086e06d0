"""Tasks: data with their family, and the defaults of a search on them. Each is declared once, here or in user code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kdzero_gp.data import boxes, label_maps, sources
from kdzero_gp.data.dataset import Dataset
from kdzero_gp.data.inputs import channels
from kdzero_gp.data.resizing import Size
from kdzero_gp.errors import DataError, meant
from kdzero_gp.families import TaskFamily
from kdzero_gp.families.classification import CLASSIFICATION
from kdzero_gp.families.detection import DETECTION
from kdzero_gp.families.segmentation import SEGMENTATION
from kdzero_gp.models.external import user_object
from kdzero_gp.objects import is_own, kind_of
from kdzero_gp.tasks import own
from kdzero_gp.tasks.plan import CIFAR, DETECTORS, DIGITS, FOLDER, PIXELS, SearchPlan


@dataclass(frozen=True)
class Task:
    """``load`` reads the data from a path (None: built in), where the task ``decodes`` at a size that is given second;
    ``plan`` are a search's defaults. ``sizes`` are classes, channels and image size where they are known without the
    data."""

    name: str
    family: TaskFamily
    load: Callable[..., Dataset]
    plan: SearchPlan
    sizes: tuple[int, int, int] | None = None
    decodes: bool = False

    def open(self, data: str | None, size: Size | None = None, channels: int | None = None) -> Dataset:
        """The data with so many channels, and at a size where the task decodes at one; other tasks give what they
        have, for ``Dataset.resized``. Raises DataError."""
        dataset = self.load(data, size) if self.decodes and size else self.load(data)
        return dataset.with_channels(channels or len(dataset.mean))

    def sizes_of(self, data: str | None) -> tuple[int, int, tuple[int, ...]]:
        """Classes, channels, and height and width of images: what is known, or else the data's. Raises DataError."""
        if self.sizes is not None:
            return *self.sizes[:2], (self.sizes[2],) * 2
        dataset = self.load(data)
        images = dataset.train.images
        return len(dataset.classes), channels(images), tuple(images.shape[2:])


TASKS: dict[str, Task] = {}


def register(task: Task) -> Task:
    """Declare a task. Raises ValueError for a name that is taken."""
    if task.name in TASKS:
        raise ValueError(f"the task {task.name!r} is declared already")
    TASKS[task.name] = task
    return task


def get(name: str) -> Task:
    """A task by its name, by ``module:name`` from user code, or of the user's objects (``own:…``). Raises DataError for
    an unknown one."""
    if name in TASKS:
        return TASKS[name]
    if is_own(name):
        family = own.family_named(kind_of(name), families())
        return Task(name, family, lambda _: own.data_of(name), own.plan_of(name), own.sizes_of(name))
    if ":" in name:
        task = user_object(name, "task")
        if isinstance(task, Task):
            return task
        raise DataError(f"{name} is a {type(task).__name__}; name a kdzero_gp.tasks.Task")
    hint = meant(name, TASKS, f"there are {', '.join(TASKS)}, and module:name of your own")
    raise DataError(f"there is no task {name!r}: {hint}")


def families() -> dict[str, TaskFamily]:
    """The families of the declared tasks, by name."""
    return {task.family.name: task.family for task in TASKS.values()}


register(Task("digits", CLASSIFICATION, sources.digits, DIGITS, (10, 1, 8)))
register(Task("cifar10", CLASSIFICATION, sources.cifar10, CIFAR, (10, 3, 32)))
register(Task("cifar100", CLASSIFICATION, sources.cifar100, CIFAR, (100, 3, 32)))
register(Task("folder", CLASSIFICATION, sources.folder, FOLDER, decodes=True))
register(Task("segmentation", SEGMENTATION, label_maps.load, PIXELS))
register(Task("detection", DETECTION, boxes.load, DETECTORS, decodes=True))
