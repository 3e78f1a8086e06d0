"""Tasks made of the user's own data: their name tells the family, and a fingerprint the data."""

from __future__ import annotations

from dataclasses import replace

from kdzero_gp import objects
from kdzero_gp.data.dataset import Dataset
from kdzero_gp.data.inputs import channels, is_image, side
from kdzero_gp.data.own import OwnDataset
from kdzero_gp.errors import SettingError
from kdzero_gp.families import TaskFamily
from kdzero_gp.tasks.plan import OWN, OWN_IMAGES, SearchPlan

# Images of this many pixels a side are trained on as those of CIFAR are.
_LARGE = 16


def name_of(family: str, data: OwnDataset) -> str:
    """The task's name for data of a family."""
    return objects.own_name(family, data.account.content.encode())


def family_named(name: str, families: dict[str, TaskFamily]) -> TaskFamily:
    """A task family by its name. Raises SettingError."""
    if name not in families:
        raise SettingError(f"there is no task family {name!r}; there are {', '.join(families)}")
    return families[name]


def data_of(name: str) -> Dataset:
    """The data of a task. Raises RunError where this process was not given them."""
    found: Dataset = objects.find(name)
    return found


def plan_of(name: str) -> SearchPlan:
    """The defaults of a search on the data, or on any where they are not at hand."""
    data = _at_hand(name)
    if data is None:
        return OWN
    example = data.train.images[:1]
    plan = OWN_IMAGES if is_image(example) and side(example) >= _LARGE else OWN
    return replace(plan, images=_at_most(plan.images, len(data.train)),
                   validation_images=_at_most(plan.validation_images, len(data.validation)))  # fmt: skip


def sizes_of(name: str) -> tuple[int, int, int] | None:
    """Classes, channels and the side of images, where the data are at hand."""
    data = _at_hand(name)
    if data is None:
        return None
    return len(data.classes), channels(data.train.images), side(data.train.images)


def _at_hand(name: str) -> Dataset | None:
    return data_of(name) if objects.is_known(name) else None


def _at_most(bound: int | None, count: int) -> int | None:
    return bound if bound is not None and bound < count else None
