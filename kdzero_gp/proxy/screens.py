"""What is asked of a distiller before it is trained, from cheap to dear: a finite gradient that reaches the student,
one that no other distiller had, and a few steps that bring the outputs nearer to the teacher's."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdzero_gp.engine.gradients import LEAST_GRADIENT, SKETCH, Gradients, Prober
from kdzero_gp.engine.teacher import Teacher

Array = np.ndarray[Any, np.dtype[np.float32]]

# The screens in their order. ``duplicate`` is the search's own: a known canonical form is not evaluated again.
SCREENS = ("duplicate", "finite", "equivalence", "rejection", "surrogate", "short")
# Gradients are probed on so many batches, of the size of the training's, since relations depend on it.
PROBES = 2
# Two distillers are one when their fingerprints differ by less than this share of their length.
SAME_GRADIENT = 1e-2
# They are looked for in cells of so many numbers of their direction and of their length. Equal ones differ by up to
# twice that share in a direction and once in the logarithm of the length: 0.2 cells, and a margin for rounding.
CELL_AXES, CELL, TOLERANCE = 6, 0.1, 0.25
# Loss rejection: steps of descent on the outputs, each as long as this share of the outputs' deviation.
REJECTION_STEPS = 3
REJECTION_RATE = 0.1
# … in which the student's own loss may rise by this share of guessing's.
REJECTION_OWN_LOSS = 0.25


class Rejected(Exception):
    """A candidate that is not worth training: the message is the reason that the run keeps, ``screen`` who says so."""

    def __init__(self, reason: str, screen: str = "finite"):
        super().__init__(reason)
        self.screen = screen


def must_be_usable(gradients: Gradients, most_memory: float) -> None:
    """Raise ``Rejected`` where a term is not finite or reaches nobody, or the loss keeps more than so many MiB."""
    if not all(math.isfinite(norm) for norm in gradients.terms):
        raise Rejected("a loss or its gradient is not finite on the first batch")
    if min(gradients.terms) < LEAST_GRADIENT:
        raise Rejected("no gradient reaches the student")
    if gradients.memory > most_memory:
        raise Rejected(f"the loss keeps too much memory: {gradients.memory:.1f} MiB for a batch")


def must_lead_to_the_teacher(prober: Prober, teacher: Teacher, classes: int) -> None:
    """Loss rejection: raise ``Rejected`` unless a few steps on the student's outputs, along the distiller's negative
    gradient, reduce the disagreement with the teacher in one knowledge that it uses, without raising the student's own
    loss beyond a bound.

    The family says what disagreement is. The idea is AutoLoss-Zero's (Li et al. 2022, arXiv:2103.14026); its
    thresholds were not published, these are ours.
    """
    torch.manual_seed(0)
    distiller, family, batch, outputs = teacher.distiller, prober.family, prober.batches[0], prober.outputs[0]
    used = {name: outputs[name] for name in distiller.KNOWLEDGE if name in outputs}
    moved = {name: tensor.detach().clone().requires_grad_() for name, tensor in used.items()}
    others = {name: tensor.detach() for name, tensor in outputs.items() if name not in used}
    labels = family.labels(batch.labels)
    targets = teacher.fresh_targets(batch, batch.images, labels, outputs)
    taught = teacher.outputs(batch, batch.images, outputs)

    def disagreements(student: Mapping[str, Tensor]) -> dict[str, float]:
        return {n: family.disagreement(n, t.detach().float(), taught[n]) for n, t in student.items()}

    before = disagreements(used)
    state = copy.deepcopy(distiller.state_dict())
    rates = {name: REJECTION_RATE * float(tensor.detach().std()) for name, tensor in used.items()}
    for _ in range(REJECTION_STEPS):
        loss = distiller.loss(moved | others, targets, labels)
        gradients = torch.autograd.grad(loss, list(moved.values()), allow_unused=True)
        for (name, tensor), gradient in zip(moved.items(), gradients, strict=True):
            if gradient is not None:
                length = gradient.square().mean().sqrt().clamp(min=1e-30)
                tensor.data.sub_(gradient / length, alpha=rates[name])
    distiller.load_state_dict(state)
    after = disagreements(moved)
    if not any(after[name] < before[name] for name in used):
        raise Rejected("gradient steps on the student's outputs increase its distance to the teacher", "rejection")
    start, end = (
        float(family.own_loss({n: t.detach() for n, t in (others | student).items()}, batch.labels))
        for student in (used, moved)
    )
    if not end - start <= REJECTION_OWN_LOSS * family.guessing(classes):
        reason = f"gradient steps on the student's outputs raise its own loss: {start:.2g} to {end:.2g}"
        raise Rejected(reason, "rejection")


class Fingerprints:
    """The gradients of a run's distillers, folded, and their fitness, in the order in which they were judged."""

    def __init__(self) -> None:
        self._gradients = np.zeros((0, SKETCH * PROBES), dtype=np.float32)
        self._fitness = np.zeros(0, dtype=np.float32)
        self._count = 0
        # their places by cells of what two of them cannot differ much in, so that few are compared with a new one
        self._cells: dict[tuple[int, ...], list[int]] = {}

    def __len__(self) -> int:
        return self._count

    def append(self, fingerprint: Array, fitness: float | None) -> None:
        """Add a distiller's gradient and its fitness (None: rejected)."""
        if len(self) == len(self._fitness):  # twice the room, so that appending takes the same time on average
            room = max(64, len(self))
            self._gradients = np.pad(self._gradients, ((0, room), (0, 0)))
            self._fitness = np.pad(self._fitness, (0, room))
        self._gradients[len(self)] = fingerprint
        self._fitness[len(self)] = math.nan if fitness is None else fitness
        for cell in _cells(fingerprint, 0.0):
            self._cells.setdefault(cell, []).append(len(self))
        self._count += 1

    def first(self, count: int) -> tuple[Array, Array]:
        """The first ``count`` distillers: gradients (count × width), and fitness (NaN: rejected)."""
        count = min(count, len(self))
        return self._gradients[:count], self._fitness[:count]

    def find(self, fingerprint: Array, count: int) -> int | None:
        """The first of the first ``count`` distillers with the same gradient: ‖f − g‖ ≤ ``SAME_GRADIENT`` · ‖f‖."""
        near = [place for cell in _cells(fingerprint, TOLERANCE) for place in self._cells.get(cell, ())]
        places = np.array(sorted(place for place in near if place < count), dtype=np.intp)
        apart = np.linalg.norm(self._gradients[places] - fingerprint, axis=1)
        close = places[apart <= SAME_GRADIENT * float(np.linalg.norm(fingerprint))]
        return int(close[0]) if len(close) else None


def _cells(fingerprint: Array, tolerance: float) -> Iterable[tuple[int, ...]]:
    """The cells in which a gradient lies that is so far from this one, in cells' widths: of the first numbers of its
    direction, and of the logarithm of its length. None for one without a direction."""
    length = float(np.linalg.norm(fingerprint))
    if not math.isfinite(length) or length == 0:
        return ()
    place = [*(fingerprint[:CELL_AXES] / (length * CELL)).tolist(), math.log(length) / (CELL / 2)]
    sides = ({math.floor(x - tolerance), math.floor(x + tolerance)} for x in place)
    return itertools.product(*sides)
