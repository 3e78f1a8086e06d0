"""What is asked of a teacher before it teaches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kdzero_gp.errors import ModelError
from kdzero_gp.families import Outputs, TaskFamily
from kdzero_gp.models.contract import SIDECAR
from kdzero_gp.models.reordering import Reordering, reordering
from kdzero_gp.progress import Progress

# A student's own loss by this much below that of guessing shows that a teacher has learnt something.
BETTER_LOSS = 0.97
# So much better on validation images than on test images is what a network has learnt from (shares of 1).
SEEN = 0.05


@dataclass
class Answers:
    """What a teacher said on one part, kept while it is measured: the predicted class and the label of each image,
    where its family has classes."""

    family: TaskFamily
    predicted: list[Tensor] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)

    def of(self, batches: Iterable[tuple[Outputs, Tensor]]) -> Iterator[tuple[Outputs, Tensor]]:
        """The same batches, looked at on the way."""
        for outputs, targets in batches:
            predicted = self.family.predicted(outputs)
            if predicted is not None:
                self.predicted.append(predicted)
            self.labels.append(targets)
            yield outputs, targets

    @property
    def targets(self) -> Tensor:
        """The targets of all images."""
        return torch.cat(self.labels).cpu()

    def reordering(self, classes: tuple[str, ...]) -> Reordering | None:
        """The order of classes in which the answers fit far better, if there is one."""
        if not self.predicted:
            return None
        return reordering(torch.cat(self.predicted).cpu().numpy(), self.targets.numpy(), classes)


def check_teacher(
    family: TaskFamily, measured: Mapping[str, tuple[Mapping[str, float], Answers]], classes: tuple[str, ...],
    name: str, progress: Progress, weights: object = None,
) -> None:  # fmt: skip
    """Tell how good a teacher is on each part. What is judged is the first.

    Raises ModelError where it gives no finite outputs, its classes stand in another order than those of the data, or it
    neither beats naming the most common class always nor has a loss below that of guessing. One that is weak all the
    same teaches, with a warning.
    """
    decides = family.deciding
    shown = [
        f"{decides.text(measures[decides.name])} {decides.unit}".strip() + f" on {part} images"
        for part, (measures, _) in measured.items()
        if measures
    ]
    progress.note(f"teacher {name}: {decides.label} {', '.join(shown)}")
    values = {part: measures[decides.name] for part, (measures, _) in measured.items() if measures}
    if decides.key(values.get("validation", math.nan)) < decides.key(values.get("test", math.nan)) - SEEN:
        progress.note(
            f"the teacher {name} has probably learnt from the validation images, which come out of the training "
            "images: it is surer of them than of others, and they decide here; test images say what is left"
        )
    measures, answers = next(iter(measured.values()))
    bad = next((measure for measure, value in measures.items() if not math.isfinite(value)), None)
    if bad is not None:
        raise ModelError(
            f"the teacher {name} gives outputs that are not finite (its {bad} is {measures[bad]}); check its weights, "
            "or whether it computes in half precision"
        )
    value, chance = measures[decides.name], family.chance(answers.targets, len(classes))
    text = f"the teacher's {decides.label} is {decides.text(value)} {decides.unit}".rstrip()
    better = answers.reordering(classes)
    if better is not None:
        order = f"write its order of classes to {weights}{SIDECAR} as {better.example}"
        raise ModelError(
            f"{text} and would be {decides.text(better.accuracy)} {decides.unit} if {better.words}; its labels look "
            f"{better.kind}: {order if weights else 'give the weights that were trained on these'}, or check --data"
        )
    if decides.key(value) < decides.key(chance):
        return
    guessing = f"no better than naming one class always ({decides.text(chance)} {decides.unit} with noise)"
    if measures.get(family.loss, math.inf) >= BETTER_LOSS * family.guessing(len(classes)):
        raise ModelError(
            f"{text}, near guessing: {guessing}; the weights belong to other classes or another normalisation: check "
            "--teacher-weights and --data"
        )
    progress.note(f"warning: {text}, {guessing}; it teaches all the same, since its probabilities do tell something")
