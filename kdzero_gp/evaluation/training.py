"""The training loop of proxies and races: data resident on the device, the teacher's part computed once, and nothing
in a step that could be done before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdzero_gp.evaluation.bench import Outputs, Part
from kdzero_gp.evaluation.recipe import Recipe

# How often a step looks whether the loss is still finite; reading it stops an accelerator's queue.
CHECK_EVERY = 16
# Targets of all images are computed once when they take at most this many bytes.
TARGET_BYTES = 2 << 30

# Hears of a step after it was taken: its number from 0, the cross-entropy, and the distiller's loss (None without).
OnStep = Callable[[int, Tensor, Tensor | None], None]


class Diverged(Exception):
    """The loss of a training became infinite or NaN."""


@dataclass(frozen=True)
class Precision:
    """How the student computes: ``float32``, or ``bfloat16`` under autocast, and the layout of images."""

    name: str = "float32"
    channels_last: bool = False

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def forward(self, student: nn.Module, images: Tensor) -> Outputs:
        """The student's outputs in float32."""
        if self.name == "float32":
            return student(images)
        with torch.autocast(images.device.type, dtype=torch.bfloat16):
            found = student(images)
        return {name: tensor.float() for name, tensor in found.items()}


def batches(images: int, recipe: Recipe, seed: int) -> Tensor:
    """The indices of every step, steps × batch size: whole shuffled passes, the same for every candidate."""
    generator = torch.Generator().manual_seed(seed)
    size = min(recipe.batch_size, images)
    steps = recipe.steps(images)
    per_pass = images // size
    passes = -(-steps // per_pass)
    order = [torch.randperm(images, generator=generator)[: per_pass * size] for _ in range(passes)]
    return torch.cat(order).view(-1, size)[:steps]


def prepared(distiller: nn.Module, part: Part, indices: Tensor | None = None) -> Outputs:
    """The teacher's per-sample targets of a distiller on all images, or on those of ``indices``."""
    teacher, labels = part.teacher, part.labels
    if indices is not None:
        teacher, labels = {name: tensor[indices] for name, tensor in teacher.items()}, labels[indices]
    return distiller.prepare(teacher, labels)  # type: ignore[operator]


def train(
    student: nn.Module,
    part: Part,
    recipe: Recipe,
    seed: int,
    distiller: nn.Module | None = None,
    precision: Precision = Precision(),
    on_step: OnStep | None = None,
) -> int:
    """Train ``student`` on cross-entropy plus the distiller's loss, in place, and return the number of steps.

    Everything random comes from ``seed`` (which also seeds torch). ``on_step`` hears of every step and must not
    change anything. Raises ``Diverged``.
    """
    torch.manual_seed(seed)
    order = batches(len(part.labels), recipe, seed).to(part.labels.device)
    rates = recipe.rates(len(order))
    parameters = [p for p in student.parameters() if p.requires_grad]
    trained = parameters + (list(distiller.parameters()) if distiller is not None else [])
    optimizer = _optimizer(trained, recipe, rates[0])
    targets = _all_targets(distiller, part)
    student.train()
    loss = torch.zeros(())
    for step, indices in enumerate(order):
        optimizer.param_groups[0]["lr"] = rates[step]
        labels = part.labels[indices]
        found = precision.forward(student, part.images[indices])
        loss = hard = F.cross_entropy(found["logits"], labels)
        soft: Tensor | None = None
        if distiller is not None:
            now = _targets_of(distiller, part, indices, targets)
            soft = distiller.loss(found, now, labels)  # type: ignore[operator]
            loss = hard + soft
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, recipe.clip, foreach=True)
        optimizer.step()
        if on_step is not None:
            on_step(step, hard.detach(), None if soft is None else soft.detach())
        if step % CHECK_EVERY == CHECK_EVERY - 1:
            _must_be_finite(loss, step)
    _must_be_finite(loss, len(order) - 1)
    return len(order)


def _optimizer(parameters: Sequence[Tensor], recipe: Recipe, rate: float) -> torch.optim.SGD:
    momentum, decay = recipe.momentum, recipe.weight_decay
    return torch.optim.SGD(parameters, rate, momentum, weight_decay=decay, nesterov=True, fused=True)


def _targets_of(distiller: nn.Module, part: Part, indices: Tensor, known: Outputs | None) -> Outputs:
    if known is None:
        return prepared(distiller, part, indices)
    return {name: tensor[indices] for name, tensor in known.items()}


def _all_targets(distiller: nn.Module | None, part: Part) -> Outputs | None:
    """The targets of all images, or None where they would take too much memory."""
    if distiller is None or len(part.labels) == 0:
        return None
    few = prepared(distiller, part, torch.arange(min(2, len(part.labels)), device=part.labels.device))
    per_image = sum(tensor[0].numel() * tensor.element_size() for tensor in few.values())
    return prepared(distiller, part) if per_image * len(part.labels) <= TARGET_BYTES else None


def _must_be_finite(loss: Tensor, step: int) -> None:
    if not torch.isfinite(loss):
        raise Diverged(f"the loss became {loss.item():g} at step {step + 1}")


def gradient_norms(losses: Sequence[Tensor], parameters: Sequence[Tensor]) -> list[float]:
    """‖∂loss/∂parameters‖₂ of each loss, over all parameters together; 0 where a loss does not reach them."""
    found = []
    for loss in losses:
        if not loss.requires_grad:
            found.append(0.0)
            continue
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        squares = [gradient.double().square().sum() for gradient in gradients if gradient is not None]
        found.append(float(torch.stack(squares).sum().sqrt()) if squares else 0.0)
    return found
