"""The training loop of proxies and races: data resident on the device, the teacher's part computed once, and nothing
in a step that could be done before it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdzero_gp.engine.optimizer import FlatSGD
from kdzero_gp.engine.outputs import FLOAT32, Outputs, Precision, TensorSplit
from kdzero_gp.engine.recipe import Recipe

# How often a step looks whether the loss is still finite; reading it stops an accelerator's queue.
CHECK_EVERY = 16
# Targets of all images are computed once when they take at most this many bytes.
TARGET_BYTES = 2 << 30

# Hears of a step after it was taken: its number from 0, the cross-entropy, and the distiller's loss (None without).
OnStep = Callable[[int, Tensor, Tensor | None], None]


class Diverged(Exception):
    """The loss of a training became infinite or NaN."""


def batches(images: int, recipe: Recipe, seed: int) -> Tensor:
    """The indices of every step, steps × batch size: whole shuffled passes, the same for every candidate."""
    generator = torch.Generator().manual_seed(seed)
    size = min(recipe.batch_size, images)
    per_pass = images // size
    steps = recipe.steps(per_pass)
    passes = -(-steps // per_pass)
    order = [torch.randperm(images, generator=generator)[: per_pass * size] for _ in range(passes)]
    return torch.cat(order).view(-1, size)[:steps]


def prepared(distiller: nn.Module, part: TensorSplit, indices: Tensor | None = None) -> Outputs:
    """The teacher's per-sample targets of a distiller on all images, or on those of ``indices``."""
    teacher, labels = part.teacher, part.labels
    if indices is not None:
        teacher, labels = {name: tensor[indices] for name, tensor in teacher.items()}, labels[indices]
    return distiller.prepare(teacher, labels)  # type: ignore[operator]


def train(
    student: nn.Module,
    part: TensorSplit,
    recipe: Recipe,
    seed: int,
    distiller: nn.Module | None = None,
    precision: Precision = FLOAT32,
    on_step: OnStep | None = None,
) -> int:
    """Train ``student`` on cross-entropy plus the distiller's loss, in place, and return the number of steps.

    Everything random comes from ``seed`` (which also seeds torch). ``on_step`` hears of every step and must not
    change anything. Raises ``Diverged``.
    """
    torch.manual_seed(seed)
    order = batches(len(part.labels), recipe, seed).to(part.labels.device)
    per_epoch = len(part.labels) // order.shape[1]
    rates = [recipe.rate(step, per_epoch) for step in range(len(order))]
    parameters = [p for p in student.parameters() if p.requires_grad]
    trained = parameters + (list(distiller.parameters()) if distiller is not None else [])
    optimizer = FlatSGD(trained, recipe)
    targets = _all_targets(distiller, part)
    student.train()
    loss = torch.zeros(())
    for step, indices in enumerate(order):
        labels = part.labels[indices]
        found = precision.forward(student, part.images[indices])
        loss = hard = F.cross_entropy(found["logits"], labels)
        soft: Tensor | None = None
        if distiller is not None:
            now = _targets_of(distiller, part, indices, targets)
            soft = distiller.loss(found, now, labels)  # type: ignore[operator]
            loss = hard + soft
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(rates[step])
        if on_step is not None:
            on_step(step, hard.detach(), None if soft is None else soft.detach())
        if step % CHECK_EVERY == CHECK_EVERY - 1:
            _must_be_finite(loss, step)
    _must_be_finite(loss, len(order) - 1)
    return len(order)


def _targets_of(distiller: nn.Module, part: TensorSplit, indices: Tensor, known: Outputs | None) -> Outputs:
    if known is None:
        return prepared(distiller, part, indices)
    return {name: tensor[indices] for name, tensor in known.items()}


def _all_targets(distiller: nn.Module | None, part: TensorSplit) -> Outputs | None:
    """The targets of all images, or None where they would take too much memory."""
    if distiller is None or len(part.labels) == 0:
        return None
    few = prepared(distiller, part, torch.arange(min(2, len(part.labels)), device=part.labels.device))
    per_image = sum(tensor[0].numel() * tensor.element_size() for tensor in few.values())
    return prepared(distiller, part) if per_image * len(part.labels) <= TARGET_BYTES else None


def _must_be_finite(loss: Tensor, step: int) -> None:
    if not torch.isfinite(loss):
        raise Diverged(f"the loss became {loss.item():g} at step {step + 1}")
