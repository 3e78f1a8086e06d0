"""What is asked of a distiller before it is trained, from cheap to dear: a finite gradient that reaches the student,
one that no other distiller had, and a few steps that bring the outputs nearer to the teacher's."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdzero_gp.engine.outputs import Precision, TensorSplit
from kdzero_gp.engine.resident import prepared
from kdzero_gp.families.agreement import linear_cka

# The screens in their order. ``duplicate`` is the search's own: a known canonical form is not evaluated again.
SCREENS = ("duplicate", "finite", "equivalence", "rejection", "surrogate", "short")
# Gradients are probed on so many batches, of the size of the training's, since relations depend on it.
PROBES = 2
# A gradient smaller than this share of the cross-entropy's is rounding noise in float32 (PKT's is 5·10⁻⁵ of it).
LEAST_GRADIENT = 1e-7
# A fingerprint is a gradient folded into so many numbers for each probe (a count sketch: inner products are kept).
SKETCH = 32
# Two distillers are one when their fingerprints differ by less than this share of their length.
SAME_GRADIENT = 1e-2
# Loss rejection: steps of descent on the outputs, each as long as this share of the outputs' deviation.
REJECTION_STEPS = 3
REJECTION_RATE = 0.1
# … in which the cross-entropy of the logits may rise by this share of guessing's, log C.
REJECTION_CROSS_ENTROPY = 0.25


class Rejected(Exception):
    """A candidate that is not worth training: the message is the reason that the run keeps, ``screen`` who says so."""

    def __init__(self, reason: str, screen: str = "finite"):
        super().__init__(reason)
        self.screen = screen


@dataclass(frozen=True)
class Probed:
    """A distiller's gradients on the probe batches, in units of the cross-entropy's gradient norm.

    ``terms``: the norm of each term's gradient; ``total``: of their sum with the distiller's own magnitudes;
    ``sketches``: terms × numbers, the gradients folded; ``memory``: MiB that the loss keeps for one batch.
    """

    terms: tuple[float, ...]
    total: float
    sketches: Tensor
    memory: float

    def fingerprint(self, magnitudes: Sequence[float]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The folded gradient of the sum of all terms with these magnitudes."""
        return (torch.tensor(magnitudes, dtype=torch.float64) @ self.sketches).float().numpy()


class Prober:
    """The warm student's outputs on fixed batches, and the way back from them to its parameters, computed once."""

    def __init__(self, student: nn.Module, part: TensorSplit, batch_size: int, precision: Precision):
        self.student = student.train()
        self.parameters = [p for p in student.parameters() if p.requires_grad]
        size, count = min(batch_size, len(part.labels)), len(part.labels)
        starts = [probe * size % max(1, count - size + 1) for probe in range(PROBES)]
        self.part = part
        self.indices = [torch.arange(start, start + size, device=part.labels.device) for start in starts]
        self.labels = [part.labels[indices] for indices in self.indices]
        self.outputs = [precision.forward(student, part.images[indices]) for indices in self.indices]
        generator = torch.Generator().manual_seed(0)
        length = sum(p.numel() for p in self.parameters)
        self._places = torch.randint(SKETCH, (length,), generator=generator).to(part.labels.device)
        self._signs = (torch.randint(2, (length,), generator=generator) * 2.0 - 1.0).to(part.labels.device)
        hard = [
            F.cross_entropy(found["logits"], labels) for found, labels in zip(self.outputs, self.labels, strict=True)
        ]
        self.cross_entropy_norm = sum(float(self._gradient(loss)[0].double().norm()) for loss in hard) / PROBES

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

    def probe(self, distiller: nn.Module) -> Probed:
        """A distiller's gradients. Raises ``Rejected`` where a term is not finite."""
        norms: list[list[float]] = []
        sketches: list[Tensor] = []
        memory = 0.0
        state = copy.deepcopy(distiller.state_dict())
        for probe in range(PROBES):
            torch.manual_seed(probe)
            found = self.outputs[probe]
            targets = prepared(distiller, self.part, self.indices[probe])
            with _counted() as kept:
                terms = list(distiller.terms(found, targets, self.labels[probe]))  # type: ignore[operator]
            memory = max(memory, kept.bytes / 2**20)
            if not all(torch.isfinite(term) for term in terms):
                raise Rejected("a loss is not finite on the first batch")
            gradients = [self._gradient(term) for term in terms]
            given: tuple[float, ...] = distiller.magnitudes  # type: ignore[assignment]
            total = torch.stack([m * flat for m, (flat, _) in zip(given, gradients, strict=True)]).sum(dim=0)
            lengths = [flat for flat, _ in gradients] + [total]
            norms.append([float(flat.double().norm()) for flat in lengths])
            sketches.append(torch.stack([sketch for _, sketch in gradients]))
        distiller.load_state_dict(state)
        unit = self.cross_entropy_norm
        means = [sum(values) / PROBES / unit for values in zip(*norms, strict=True)]
        return Probed(tuple(means[:-1]), means[-1], torch.cat(sketches, dim=1) / unit, memory)

    def reject(self, distiller: nn.Module) -> None:
        """Loss rejection: raise ``Rejected`` unless a few steps on the student's outputs, along the distiller's
        negative gradient, reduce the disagreement with the teacher in one knowledge that it uses, without raising the
        cross-entropy of the logits beyond a bound.

        Disagreement: KL(teacher ‖ student) of the logits' softmax, 1 − CKA of embeddings and maps. The idea is
        AutoLoss-Zero's (Li et al. 2022, arXiv:2103.14026); its thresholds were not published, these are ours.
        """
        torch.manual_seed(0)
        named = set(re.findall(r"\w+", str(distiller.EXPRESSION)))
        used = {name: tensor for name, tensor in self.outputs[0].items() if name in named}
        moved = {name: tensor.detach().clone().requires_grad_() for name, tensor in used.items()}
        others = {name: tensor.detach() for name, tensor in self.outputs[0].items() if name not in used}
        labels, targets = self.labels[0], prepared(distiller, self.part, self.indices[0])
        teacher = {name: tensor[self.indices[0]] for name, tensor in self.part.teacher.items()}
        before = {name: _disagreement(name, tensor, teacher[name]) for name, tensor in used.items()}
        state = copy.deepcopy(distiller.state_dict())
        rates = {name: REJECTION_RATE * float(tensor.detach().std()) for name, tensor in used.items()}
        for _ in range(REJECTION_STEPS):
            loss = distiller.loss(moved | others, targets, labels)  # type: ignore[operator]
            gradients = torch.autograd.grad(loss, list(moved.values()), allow_unused=True)
            for (name, tensor), gradient in zip(moved.items(), gradients, strict=True):
                if gradient is not None:
                    length = gradient.square().mean().sqrt().clamp(min=1e-30)
                    tensor.data.sub_(gradient / length, alpha=rates[name])
        distiller.load_state_dict(state)
        after = {name: _disagreement(name, tensor.detach(), teacher[name]) for name, tensor in moved.items()}
        if not any(after[name] < before[name] for name in used):
            raise Rejected("a few steps on the outputs lead away from the teacher", "rejection")
        if "logits" in moved:
            start, end = (float(F.cross_entropy(t["logits"].detach(), labels)) for t in (used, moved))
            if not end - start <= REJECTION_CROSS_ENTROPY * math.log(used["logits"].shape[1]):
                raise Rejected(
                    f"a few steps on the outputs raise the cross-entropy: {start:.2g} to {end:.2g}", "rejection"
                )


def _disagreement(name: str, student: Tensor, teacher: Tensor) -> float:
    student = student.detach().float()
    if name == "logits":
        return float(F.kl_div(student.log_softmax(1), teacher.log_softmax(1), reduction="batchmean", log_target=True))
    return 1.0 - linear_cka(student.flatten(1), teacher.flatten(1), len(student))


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


class Fingerprints:
    """Fingerprints and fitness on the disk, in the order of the births: one process appends, others look."""

    def __init__(self, path: Path, width: int = SKETCH * PROBES):
        self.path, self.width = path, width

    def clear(self) -> None:
        """Start with none."""
        self.path.write_bytes(b"")

    def discard(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)

    def append(self, fingerprint: np.ndarray[Any, np.dtype[np.float32]], fitness: float | None) -> None:
        """Add one row: a distiller's gradient and its fitness (None: rejected)."""
        with self.path.open("ab") as file:
            file.write(np.float32(np.nan if fitness is None else fitness).tobytes())
            file.write(fingerprint.astype(np.float32).tobytes())

    def read(self, known: int) -> tuple[np.ndarray[Any, np.dtype[np.float32]], np.ndarray[Any, np.dtype[np.float32]]]:
        """The first ``known`` rows: gradients (known × width), and fitness (NaN: rejected)."""
        rows = np.fromfile(self.path, dtype=np.float32, count=known * (self.width + 1)).reshape(-1, self.width + 1)
        return rows[:, 1:], rows[:, 0]

    def find(self, fingerprint: np.ndarray[Any, np.dtype[np.float32]], known: int) -> int | None:
        """The first of the first ``known`` rows that is the same gradient: ‖f − g‖ ≤ ``SAME_GRADIENT`` · ‖f‖."""
        length = float(np.linalg.norm(fingerprint))
        if not known or not math.isfinite(length) or length == 0:
            return None
        distances = np.linalg.norm(self.read(known)[0] - fingerprint, axis=1)
        close = np.flatnonzero(distances <= SAME_GRADIENT * length)
        return int(close[0]) if len(close) else None
