"""What a call was given, names or objects, as the names that settings hold and the objects behind them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from kdzero_gp import objects, tasks
from kdzero_gp.data.own import OwnDataset, own_dataset, with_classes
from kdzero_gp.errors import SettingError
from kdzero_gp.models import discovery
from kdzero_gp.models.outputs import as_logits, columns
from kdzero_gp.models.own import OwnNetwork
from kdzero_gp.search.options import DEFAULT_TASK
from kdzero_gp.tasks import own


@dataclass(frozen=True)
class Given:
    """Names of what was given (None: it was not), and the objects that some of them stand for. ``notes``: what was done
    to these."""

    task: str | None = None
    data: str | None = None
    teacher: str | None = None
    student: str | None = None
    objects: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def known(self) -> contextlib.AbstractContextManager[None]:
        """For a while, the names stand for the objects, here and in worker processes."""
        return objects.known(self.objects)


NOTHING = Given()


def given(
    teacher: Any = None,
    student: Any = None,
    train: Any = None,
    validation: Any = None,
    test: Any = None,
    *,
    family: str = "classification",
    task: str | None = None,
    classes: int | Sequence[str] | None = None,
    earlier: Given = NOTHING,
) -> Given:
    """Give names to what is given as objects; what is not given is as it was ``earlier``.

    ``teacher``: a module or a name; ``student``: a module, a callable that makes one, or a name; ``train``,
    ``validation`` and ``test``: data as ``data.samples.read`` takes them, or ``train`` the name of a task or the path
    of its data. Raises KdzeroError.
    """
    found: dict[str, Any] = {}
    notes: list[str] = []
    if train is None or isinstance(train, str | Path):
        if validation is not None or test is not None:
            raise SettingError("validation and test belong to data given as objects; give train as one, too")
        name, data = _named_task(task, train)
        if name is None:
            name, data = earlier.task, earlier.data
        with earlier.known():
            count = tasks.get(name or DEFAULT_TASK).sizes_of(data)[0] if _has_object(teacher, student) else 0
    else:
        if task is not None:
            raise SettingError("task= has no effect with data of your own; leave one of them out")
        labels = own.family_named(family, tasks.families()).name == "classification"
        dataset = own_dataset(train, validation, test, classes, labels)
        dataset = _as_many_as_the_teacher(dataset, teacher) if classes is None and labels else dataset
        name, data, count = own.name_of(family, dataset), None, len(dataset.classes)
        found[name] = dataset
    names = {}
    for role, network in (("teacher", teacher), ("student", student)):
        names[role] = getattr(earlier, role) if network is None else network
        if network is not None and not isinstance(network, str):
            made = _network(network, role)
            names[role] = made.name(count)
            found[names[role]] = made
            notes += [made.note] if made.note else []
    return Given(name, data, names["teacher"], names["student"], {**earlier.objects, **found}, tuple(notes))


def _has_object(*networks: Any) -> bool:
    return any(network is not None and not isinstance(network, str) for network in networks)


def _network(network: Any, role: str) -> OwnNetwork:
    if not callable(network) and not isinstance(network, nn.Module):
        raise SettingError(
            f"the {role} is a {type(network).__name__}; give a module, a callable that makes one, or a name"
        )
    return OwnNetwork(network, role)


def _named_task(task: str | None, train: str | Path | None) -> tuple[str | None, str | None]:
    """The task and its data path: a word alone is a task, anything else a path of images."""
    if task is not None or train is None:
        return task, None if train is None else str(train)
    text = str(train)
    return (text, None) if text in tasks.TASKS or ":" in text else ("folder", text)


def _as_many_as_the_teacher(dataset: OwnDataset, teacher: Any) -> OwnDataset:
    """The data set with as many classes as the teacher has logits, where the labels happen to show fewer."""
    if not isinstance(teacher, nn.Module):
        return dataset
    count, example = len(dataset.classes), dataset.normalise(dataset.train.images[:2])
    network = OwnNetwork(teacher, "teacher").build(count)
    logits = as_logits(discovery.run(network, example).output)
    found = columns(logits) if logits is not None else 0
    return with_classes(dataset, found) if found > count else dataset
