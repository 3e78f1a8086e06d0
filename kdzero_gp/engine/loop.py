"""The training loop: one epoch at a time, everything random in it drawn from the seed and the epoch's number."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdzero_gp.engine.batches import Batch, Images, random_state
from kdzero_gp.engine.outputs import Precision
from kdzero_gp.engine.recipe import Recipe
from kdzero_gp.engine.resident import CHECK_EVERY, Diverged
from kdzero_gp.engine.single import INSTALL
from kdzero_gp.engine.teacher import Teacher
from kdzero_gp.errors import SettingError
from kdzero_gp.models.taps import Tapped

# Hears of the loss every CHECK_EVERY steps, and how many steps that were.
OnSteps = Callable[[int, float], None]


class Trainer:
    """A student in training, with its optimiser and, where it has one, its distiller and teacher."""

    def __init__(self, student: Tapped, images: Images, precision: Precision, teacher: Teacher | None = None):
        self.student = student
        self.images = images
        self.recipe = images.recipe
        self.precision = precision
        self.teacher = teacher
        self.distiller = None if teacher is None else teacher.distiller
        modules: list[nn.Module] = [student] if self.distiller is None else [student, self.distiller]
        self.parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
        self.optimizer = _optimizer(self.parameters, self.recipe)
        self.mixing = _mixing(self.recipe, images.classes)

    def epoch(self, seed: int, epoch: int, on_steps: OnSteps | None = None) -> dict[str, float]:
        """Train for one epoch; returns the means of loss and cross-entropy and the seconds that it took.

        Raises ``Diverged`` when the loss is no longer finite.
        """
        state = random_state(seed, epoch)
        torch.manual_seed(state)
        before = np.random.get_state()
        np.random.seed(state % (1 << 32))  # timm's mixup draws from here
        self.student.train()
        sums = torch.zeros(2, device=self.images.device)
        begin, step = time.perf_counter(), 0
        try:
            for step, batch in enumerate(self.images.epoch(seed, epoch), 1):
                loss, hard = self.step(batch, epoch * self.images.steps + step - 1)
                sums += torch.stack([loss, hard])
                if step % CHECK_EVERY == 0 or step == self.images.steps:
                    value = _finite(loss, epoch, step)
                    if on_steps is not None:
                        on_steps((step - 1) % CHECK_EVERY + 1, value)
        finally:
            np.random.set_state(before)
        means = (sums / step).tolist()
        return {"loss": means[0], "cross_entropy": means[1], "seconds": time.perf_counter() - begin}

    def step(self, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        """One step of the optimiser; returns the loss and the cross-entropy in it."""
        rate = self.recipe.rate(step, self.images.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        images, labels, wanted, smoothing = batch.images, batch.labels, batch.labels, self.recipe.label_smoothing
        if self.mixing is not None:
            images, wanted = self.mixing(images, labels)
            labels, smoothing = wanted.argmax(dim=1), 0.0  # the mixed labels are smoothed already
        found = self.precision.forward(self.student, images)
        loss = hard = F.cross_entropy(found["logits"], wanted, label_smoothing=smoothing)
        if self.teacher is not None:
            targets = self.teacher.targets(batch, images, labels)
            loss = hard + self.teacher.distiller.loss(found, targets, labels)  # type: ignore[operator]
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.recipe.clip:
            nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip, foreach=True)
        self.optimizer.step()
        return loss.detach(), hard.detach()

    def state(self) -> dict[str, Any]:
        """All that changes in training, as ``restore`` takes it."""
        distiller = {} if self.distiller is None else self.distiller.state_dict()
        return {"student": self.student.network.state_dict(), "distiller": distiller,
                "optimizer": self.optimizer.state_dict()}  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.student.network.load_state_dict(state["student"])
        if self.distiller is not None:
            self.distiller.load_state_dict(state["distiller"])
        self.optimizer.load_state_dict(state["optimizer"])


@torch.no_grad()
def measured(
    network: Callable[[Tensor], Mapping[str, Tensor]], images: Images, part: str, most: int | None = None
) -> dict[str, float]:
    """Accuracy and cross-entropy of a tapped network in evaluation mode on (the first ``most``) images of a part."""
    right, loss, count = 0, 0.0, 0
    for batch, labels in images.evaluation(part):
        logits = network(batch)["logits"].float()
        right += int((logits.argmax(dim=1) == labels).sum())
        loss += float(F.cross_entropy(logits, labels, reduction="sum"))
        count += len(labels)
        if most is not None and count >= most:
            break
    return {"accuracy": right / count, "cross_entropy": loss / count} if count else {}


def _finite(loss: Tensor, epoch: int, step: int) -> float:
    value = loss.item()
    if not np.isfinite(value):
        raise Diverged(f"the loss became {value:g} by step {step} of epoch {epoch + 1}")
    return value


def _optimizer(parameters: Sequence[Tensor], recipe: Recipe) -> torch.optim.Optimizer:
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, rate, recipe.momentum, weight_decay=decay, nesterov=recipe.nesterov, fused=True
        )
    # As in timm and DeiT: biases and the scales of normalisations are not decayed.
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], rate, fused=True)


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
