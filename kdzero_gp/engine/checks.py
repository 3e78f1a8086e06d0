"""What is asked of a teacher before it teaches."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from kdzero_gp.errors import ModelError
from kdzero_gp.families import TaskFamily
from kdzero_gp.progress import Progress


def check_teacher(
    family: TaskFamily, measures: Mapping[str, float], targets: Mapping[str, Tensor], classes: int, name: str,
    progress: Progress,
) -> None:  # fmt: skip
    """Tell how good a teacher is, by measures such as ``validation_accuracy``. Raises ModelError when it only guesses
    on the first of the parts, whose ``targets`` are given."""
    decides = family.deciding
    shown = [
        f"{decides.text(measures[f'{part}_{decides.name}'])} {decides.unit}".strip() + f" on {part} images"
        for part in targets
        if f"{part}_{decides.name}" in measures
    ]
    progress.note(f"teacher {name}: {decides.label} {', '.join(shown)}")
    part, labels = next(iter(targets.items()))
    value, chance = measures[f"{part}_{decides.name}"], family.chance(labels, classes)
    if decides.key(value) > decides.key(chance):
        raise ModelError(
            f"the teacher's {decides.label} is {decides.text(value)} {decides.unit}, near guessing; the weights belong "
            "to other classes or another normalisation: check --teacher-weights and --data".replace("  ", " ")
        )
