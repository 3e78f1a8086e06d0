"""Finds how a teacher's images were normalised where nothing says it: the usual ways are tried on validation images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kdzero_gp.data.dataset import Dataset, Statistics
from kdzero_gp.data.inputs import Inputs, is_image
from kdzero_gp.data.own import OwnDataset
from kdzero_gp.families import TaskFamily
from kdzero_gp.models.contract import TOLERANCE
from kdzero_gp.models.normalisation import TRIED, written

# Another way than the images' own has to lower the loss by so much of it, since equals differ by chance.
CLEARLY = 0.01
# Images that decide.
TRIED_IMAGES = 1000


def can_be_tried(dataset: Dataset, example: Inputs) -> bool:
    """Whether these are images of classes that are read here; the user's own are as the user's networks take them."""
    return is_image(example) and dataset.train.labels.dim() == 1 and not isinstance(dataset, OwnDataset)


def find_statistics(
    family: TaskFamily,
    name: str,
    own: Statistics,
    measured: Callable[[Statistics | None], Mapping[str, float]],
) -> tuple[Statistics | None, str]:
    """The mean and deviation with which a teacher does best, None for the images' ``own``, and a sentence that names
    what was tried. ``measured``: the teacher's measures on validation images that are normalised so.

    The family's loss decides, since a teacher may make no mistake on images that it has learnt.
    """
    ways: dict[str, Statistics | None] = {"their own mean and deviation": None}
    channels = len(own.mean)
    for text, statistics in TRIED.items():
        if len(statistics.mean) in (1, channels) and not _alike(statistics, own):
            ways[text] = statistics
    found = {text: measured(statistics) for text, statistics in ways.items()}
    first, *others = found
    best = min(found, key=lambda text: found[text][family.loss])
    if not found[best][family.loss] < (1 - CLEARLY) * found[first][family.loss]:
        best = first
    decides = family.deciding

    def shown(text: str) -> str:
        return f"{decides.with_unit(found[text][decides.name])} (loss {found[text][family.loss]:.3g})"

    tried = ", ".join(f"{text} {shown(text)}" for text in (first, *others) if text != best)
    chosen = ways[best]
    how = ""
    if chosen is not None:
        options = " ".join(f"--{name.replace('_', '-')} {text}" for name, text in as_options(chosen).items())
        how = f"; this is used, and {options} says it at once"
    return chosen, (
        f"teacher {name}: nothing says how the images that it was trained on were normalised; on validation images it "
        f"does best with {best}: {decides.label} {shown(best)}, others: {tried}{how}"
    )


def as_options(statistics: Statistics | None) -> dict[str, Any]:
    """What was found, as options by their Python names."""
    if statistics is None:
        return {}
    return {"teacher_mean": written(statistics.mean), "teacher_std": written(statistics.std)}


def _alike(one: Statistics, other: Statistics) -> bool:
    """Whether two ways give the same images."""
    pairs = [
        (a, b)
        for left, right in zip(one, other, strict=True)
        for a, b in zip(left * (len(right) // len(left)), right, strict=True)
    ]
    return all(abs(a - b) < TOLERANCE for a, b in pairs)
