"""A distiller's gradients at a fixed student, in units of the gradient of the student's own loss."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from kdzero_gp.engine.batches import Batch
from kdzero_gp.engine.outputs import Outputs, Precision
from kdzero_gp.engine.teacher import Teacher
from kdzero_gp.errors import SettingError
from kdzero_gp.families import TaskFamily

# A gradient smaller than this share of the own loss's is rounding noise in float32 (PKT's is 5·10⁻⁵ of it).
LEAST_GRADIENT = 1e-7
# A gradient is folded into so many numbers for each batch (a count sketch: inner products are kept).
SKETCH = 32
MAGNITUDE_MODES = ("relative", "joint", "absolute")


@dataclass(frozen=True)
class Gradients:
    """A distiller's gradients on some batches, in units of the own loss's gradient norm.

    ``terms``: the norm of each term's gradient, the mean over batches; ``total``: of their sum with the distiller's own
    magnitudes; ``sketches``: terms × numbers, the gradients folded; ``memory``: MiB that the loss keeps for one batch.
    """

    terms: tuple[float, ...]
    total: float
    sketches: Tensor
    memory: float

    def fingerprint(self, magnitudes: Sequence[float]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        """The folded gradient of the sum of all terms with these magnitudes."""
        return (torch.tensor(magnitudes, dtype=torch.float64) @ self.sketches).float().numpy()

    @property
    def usable(self) -> bool:
        """Whether every term gives the student a finite gradient that is more than rounding noise."""
        finite = all(norm == norm and norm != float("inf") for norm in (*self.terms, self.total))
        return finite and min(self.terms) >= LEAST_GRADIENT


def scaled(mode: str, factor: float, magnitudes: Sequence[float], gradients: Gradients | None) -> tuple[float, ...]:
    """The numbers that the terms are multiplied with.

    ``absolute``: as written, times ``factor``; ``relative``: each term's gradient gets ``factor`` · γ times the norm of
    the own loss's; ``joint``: the sum of all terms gets ``factor`` times that norm and keeps its ratios, as a published
    method wants it. Raises SettingError for a distiller whose gradient does not reach the student.
    """
    if mode == "absolute":
        return tuple(factor * m for m in magnitudes)
    if gradients is None or not gradients.usable:
        raise SettingError(
            "a term of the distiller gives the student no finite gradient, so its magnitude cannot be measured; use "
            "another distiller, or its numbers as they are with --magnitude absolute"
        )
    if mode == "joint":
        return tuple(factor * m / gradients.total for m in magnitudes)
    return tuple(factor * m / norm for m, norm in zip(magnitudes, gradients.terms, strict=True))


class Prober:
    """A student's outputs on fixed batches, and the way back from them to its parameters, computed once."""

    def __init__(self, student: nn.Module, family: TaskFamily, batches: Sequence[Batch], precision: Precision):
        self.student, self.family, self.batches = student.train(), family, list(batches)
        self.parameters = [p for p in student.parameters() if p.requires_grad]
        self.outputs: list[Outputs] = [precision.forward(student, batch.images) for batch in self.batches]
        device = self.batches[0].images.device
        generator = torch.Generator().manual_seed(0)
        length = sum(p.numel() for p in self.parameters)
        self._places = torch.randint(SKETCH, (length,), generator=generator).to(device)
        self._signs = (torch.randint(2, (length,), generator=generator) * 2.0 - 1.0).to(device)
        own = [family.own_loss(o, batch.labels) for o, batch in zip(self.outputs, self.batches, strict=True)]
        self.unit = sum(float(self._gradient(loss)[0].double().norm()) for loss in own) / len(own)

    def _gradient(self, loss: Tensor) -> tuple[Tensor, Tensor]:
        """∂loss/∂parameters as one vector, and folded."""
        flat = torch.zeros(len(self._places), device=self._places.device)
        if loss.requires_grad:
            gradients = torch.autograd.grad(loss, self.parameters, retain_graph=True, allow_unused=True)
            pieces = [
                torch.zeros_like(p).flatten() if g is None else g.float().flatten()
                for g, p in zip(gradients, self.parameters, strict=True)
            ]
            flat = torch.cat(pieces)
        sketch = torch.zeros(SKETCH, device=flat.device).index_add_(0, self._places, self._signs * flat)
        return flat, sketch.double().cpu()

    def measure(self, teacher: Teacher) -> Gradients:
        """A distiller's gradients. Norms are NaN or infinite where a term is not finite. The state of adapters is as
        before."""
        distiller = teacher.distiller
        norms: list[list[float]] = []
        sketches: list[Tensor] = []
        memory = 0.0
        state = copy.deepcopy(distiller.state_dict())
        for number, (outputs, batch) in enumerate(zip(self.outputs, self.batches, strict=True)):
            torch.manual_seed(number)
            labels = self.family.labels(batch.labels)
            targets = teacher.fresh_targets(batch, batch.images, labels, outputs)
            with _counted() as kept:
                terms = list(distiller.terms(outputs, targets, labels))
            memory = max(memory, kept.bytes / 2**20)
            gradients = [self._gradient(term) for term in terms]
            weighted = [m * flat for m, (flat, _) in zip(distiller.magnitudes, gradients, strict=True)]
            total = torch.stack(weighted).sum(dim=0)
            finite = torch.isfinite(torch.stack([term.detach() for term in terms]))
            lengths = [float(flat.double().norm()) for flat, _ in gradients] + [float(total.double().norm())]
            norms.append([n if ok else float("nan") for n, ok in zip(lengths, [*finite.tolist(), True], strict=True)])
            sketches.append(torch.stack([sketch for _, sketch in gradients]))
        distiller.load_state_dict(state)
        means = [sum(values) / len(norms) / self.unit for values in zip(*norms, strict=True)]
        return Gradients(tuple(means[:-1]), means[-1], torch.cat(sketches, dim=1) / self.unit, memory)


class _counted:
    """Counts the bytes of distinct tensors that autograd keeps inside the block."""

    def __enter__(self) -> _counted:
        self._seen: dict[int, int] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor)
        self._hooks.__enter__()
        return self

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self._seen[storage.data_ptr()] = storage.nbytes()
        # kept as it is, an operation's own result would hold the operation and never be freed
        return tensor.detach()

    @property
    def bytes(self) -> int:
        return sum(self._seen.values())

    def __exit__(self, *_: object) -> None:
        self._hooks.__exit__(None, None, None)
