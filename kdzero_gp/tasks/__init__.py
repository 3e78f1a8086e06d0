"""Tasks: data with their family, and the defaults of a search on them. Each is declared once, here or in user code."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from kdzero_gp.data import label_maps, load
from kdzero_gp.data.dataset import Dataset
from kdzero_gp.errors import DataError, DataWarning
from kdzero_gp.families import TaskFamily
from kdzero_gp.families.classification import CLASSIFICATION
from kdzero_gp.families.segmentation import SEGMENTATION
from kdzero_gp.models.external import user_object
from kdzero_gp.tasks.plan import CIFAR, DIGITS, FOLDER, PIXELS, SearchPlan


@dataclass(frozen=True)
class Task:
    """``load`` reads the data from a path (None: built in); ``plan`` are a search's defaults. ``sizes`` are classes,
    channels and image size where they are known without the data."""

    name: str
    family: TaskFamily
    load: Callable[[str | None], Dataset]
    plan: SearchPlan
    sizes: tuple[int, int, int] | None = None


TASKS: dict[str, Task] = {}


def register(task: Task) -> Task:
    """Declare a task. Raises ValueError for a name that is taken."""
    if task.name in TASKS:
        raise ValueError(f"the task {task.name!r} is declared already")
    TASKS[task.name] = task
    return task


def get(name: str) -> Task:
    """A task by its name, or by ``module:name`` from user code. Raises DataError for an unknown one."""
    if name in TASKS:
        return TASKS[name]
    if ":" in name:
        task = user_object(name, "task")
        if isinstance(task, Task):
            return task
        raise DataError(f"{name} is a {type(task).__name__}; name a kdzero_gp.tasks.Task")
    close = get_close_matches(name, TASKS, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(TASKS)}, and module:name of your own"
    raise DataError(f"there is no task {name!r}: {hint}")


def _from(name: str) -> Callable[[str | Path | None], Dataset]:
    def read(data: str | Path | None) -> Dataset:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)  # the account says it, and it is printed
            return load(name, data)

    return read


register(Task("digits", CLASSIFICATION, _from("digits"), DIGITS, (10, 1, 8)))
register(Task("cifar10", CLASSIFICATION, _from("cifar10"), CIFAR, (10, 3, 32)))
register(Task("cifar100", CLASSIFICATION, _from("cifar100"), CIFAR, (100, 3, 32)))
register(Task("folder", CLASSIFICATION, _from("folder"), FOLDER))
register(Task("segmentation", SEGMENTATION, label_maps.load, PIXELS))
