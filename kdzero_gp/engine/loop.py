"""The training loop, for proxies and for hundreds of epochs alike: one step at a time, everything random drawn from the
seed and the epoch's number, and nothing in a step that could be done before it."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdzero_gp.data.inputs import NamedInputs
from kdzero_gp.engine.batches import Batch, Batches, random_state
from kdzero_gp.engine.graphs import CapturedStep
from kdzero_gp.engine.optimizer import FlatSGD, optimizer_for
from kdzero_gp.engine.outputs import FLOAT32, Precision
from kdzero_gp.engine.recipe import Recipe
from kdzero_gp.engine.single import INSTALL
from kdzero_gp.engine.teacher import Teacher
from kdzero_gp.errors import SettingError
from kdzero_gp.families import TaskFamily

# How often the loop looks whether the loss is still finite; reading it stops an accelerator's queue.
CHECK_EVERY = 16

# Hears of a step after it was taken: its number from 0, the student's own loss, and the distiller's (None without).
OnStep = Callable[[int, Tensor, Tensor | None], None]


class Diverged(Exception):
    """The loss of a training became infinite or NaN."""


class Trainer:
    """A student in training, with its optimiser and, where it has one, its teacher and distiller."""

    def __init__(
        self,
        student: nn.Module,
        family: TaskFamily,
        batches: Batches,
        precision: Precision = FLOAT32,
        teacher: Teacher | None = None,
        recipe: Recipe | None = None,
        graphs: bool = True,
    ):
        self.student, self.family, self.batches = student, family, batches
        self.recipe = recipe or batches.recipe
        self.precision, self.teacher = precision, teacher
        modules = [student] if teacher is None else [student, *teacher.trained]
        parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
        self.optimizer = optimizer_for(parameters, self.recipe)
        self.mixing = _mixing(self.recipe, batches.classes)
        self.captured: CapturedStep | None = None
        # torch's own optimisers and timm's mixing take numbers that change from step to step
        if graphs and batches.device.type == "cuda" and self.mixing is None and isinstance(self.optimizer, FlatSGD):
            take = weakref.WeakMethod(self._take_tensors)  # no cycle, which would keep memory until it is collected
            self.captured = CapturedStep(lambda tensors: take()(tensors), batches.device)  # type: ignore[misc]
            self._losses = torch.zeros(2, device=batches.device)

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self.recipe.steps(self.batches.steps)

    @property
    def epochs(self) -> int:
        """Epochs of the whole training; the last may be a part of one."""
        return math.ceil(self.steps / self.batches.steps)

    def train(self, seed: int, on_step: OnStep | None = None) -> int:
        """Train from the first step to the last, and return their number. Raises ``Diverged``."""
        for epoch in range(self.epochs):
            self.epoch(seed, epoch, on_step)
        return self.steps

    def epoch(self, seed: int, epoch: int, on_step: OnStep | None = None) -> None:
        """Train for one epoch. ``on_step`` must not change anything. Raises ``Diverged``."""
        state = random_state(seed, epoch)
        self._seed(state)
        before = np.random.get_state() if self.mixing is not None else None
        if before is not None:
            np.random.seed(state % (1 << 32))  # timm's mixup draws from here
        self.student.train()
        step = epoch * self.batches.steps
        last = min(self.steps, step + self.batches.steps) - 1
        loss = torch.zeros(())
        try:
            for batch in self.batches.epoch(seed, epoch):
                own, distilled = self.step(batch, step)
                loss = own if distilled is None else own + distilled
                if on_step is not None:
                    on_step(step, own, distilled)
                if step % CHECK_EVERY == CHECK_EVERY - 1 or step == last:
                    _must_be_finite(loss, step)
                if step == last:
                    return
                step += 1
        finally:
            if before is not None:
                np.random.set_state(before)

    def _seed(self, state: int) -> None:
        """What ``torch.manual_seed`` does on the device in use; that takes a millisecond, long beside a short epoch."""
        torch.default_generator.manual_seed(state)
        if self.batches.device.type == "cuda":
            torch.cuda.manual_seed(state)

    def step(self, batch: Batch, step: int) -> tuple[Tensor, Tensor | None]:
        """One step of the optimiser; returns the student's own loss and the distiller's. On a CUDA device by a graph
        (see ``CapturedStep``)."""
        recipe, steps = self.recipe, self.batches.steps
        numbers = {"rate": recipe.rate(step, steps), "factor": recipe.distilled(step, steps)}
        if self.captured is None:
            return self._take(batch, **numbers)
        tensors = {name: torch.full((), number, device=self.batches.device) for name, number in numbers.items()}
        self.captured(_tensors(batch) | tensors)
        own, distilled = self._losses.clone()
        return own, None if self.teacher is None else distilled

    def _take_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """A step as a graph takes it."""
        named = dict(tensors)
        rate, factor = named.pop("rate"), named.pop("factor")
        own, distilled = self._take(_batch(named), rate, factor)
        self._losses[0].copy_(own)
        if distilled is not None:
            self._losses[1].copy_(distilled)

    def _take(self, batch: Batch, rate: float | Tensor, factor: float | Tensor) -> tuple[Tensor, Tensor | None]:
        images, labels, wanted, smoothing = batch.images, batch.labels, batch.labels, self.recipe.label_smoothing
        if self.mixing is not None:
            images, wanted = self.mixing(images, labels)
            labels, smoothing = wanted.argmax(dim=1), 0.0  # the mixed labels are smoothed already
        outputs = self.precision.forward(self.student, images)
        own = self.family.own_loss(outputs, wanted, smoothing)
        distilled = None if self.teacher is None else self.teacher.loss(outputs, batch, images, labels)
        if distilled is not None and self.recipe.distillation != "constant":
            distilled = factor * distilled
        self.optimizer.zero_grad()
        (own if distilled is None else own + distilled).backward()
        self.optimizer.step(rate)
        return own.detach(), None if distilled is None else distilled.detach()

    def state_dict(self) -> dict[str, Any]:
        """All that changes in training, as ``load_state_dict`` takes it."""
        distiller = {} if self.teacher is None else self.teacher.distiller.state_dict()
        student: nn.Module = self.student.network  # type: ignore[assignment]
        state = {"student": student.state_dict(), "distiller": distiller, "optimizer": self.optimizer.state_dict()}
        if self.teacher is not None and self.teacher.head is not None:
            state["shadow"] = self.teacher.head.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.student.network.load_state_dict(state["student"])  # type: ignore[union-attr, operator]
        if self.teacher is not None:
            self.teacher.distiller.load_state_dict(state["distiller"])
            if self.teacher.head is not None:
                self.teacher.head.load_state_dict(state["shadow"])
        self.optimizer.load_state_dict(state["optimizer"])


# The name of one of several inputs in a graph's batch begins so.
_INPUT = "input "


def _tensors(batch: Batch) -> dict[str, Tensor]:
    """A batch as a graph takes it."""
    tensors = {name: tensor for name, tensor in vars(batch).items() if tensor is not None}
    if isinstance(batch.images, NamedInputs):
        del tensors["images"]
        tensors |= {_INPUT + name: tensor for name, tensor in batch.images.fields.items()}
    return tensors


def _batch(tensors: Mapping[str, Tensor]) -> Batch:
    """What ``_tensors`` was given."""
    rest: dict[str, Any] = {name: tensor for name, tensor in tensors.items() if not name.startswith(_INPUT)}
    named = {name.removeprefix(_INPUT): tensor for name, tensor in tensors.items() if name.startswith(_INPUT)}
    return Batch(**rest, images=NamedInputs(named)) if named else Batch(**rest)


def _must_be_finite(loss: Tensor, step: int) -> None:
    if not torch.isfinite(loss):
        raise Diverged(f"the loss became {loss.item():g} at step {step + 1}")


def _mixing(recipe: Recipe, classes: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    """Mixup (arXiv:1710.09412) and CutMix (arXiv:1905.04899) by timm: images and one-hot labels of a batch."""
    if not recipe.mixes:
        return None
    try:
        from timm.data.mixup import Mixup
    except ImportError:
        raise SettingError(f"mixup and cutmix need timm; install it with: {INSTALL}") from None
    mix = Mixup(recipe.mixup, recipe.cutmix, label_smoothing=recipe.label_smoothing, num_classes=classes)
    # timm mixes in place; a contiguous copy keeps the caller's images.
    return lambda images, labels: mix(images.clone(), labels)
