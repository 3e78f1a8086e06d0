"""One evaluation, from a distiller's source to its metrics. Workers get text, names and numbers, nothing else."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdzero_gp.compiler.loading import load_source
from kdzero_gp.evaluation import metrics as measures
from kdzero_gp.evaluation.bench import Bench, BuildStudent, outputs
from kdzero_gp.evaluation.training import Diverged, OnStep, Precision, gradient_norms, prepared, train

# Two probe batches of this many images measure the gradient norms behind relative magnitudes.
PROBE_BATCH = 128
PROBES = 2
# A student whose validation cross-entropy is this many times that of guessing was destroyed.
DESTROYED = 5.0


@dataclass(frozen=True)
class Request:
    """``source`` is a module with a class ``Distiller`` ('' for cross-entropy alone). ``recipe`` is ``proxy`` (from
    the warm student) or ``race`` (from scratch).

    ``magnitude``: ``relative`` scales each term so that its gradient has γ times the norm of the cross-entropy's;
    ``joint`` scales the sum of all terms to ``factor`` times that norm and keeps their ratio, as a published method
    wants it; ``absolute`` takes the numbers as they are (times ``factor``).
    """

    source: str
    seed: int
    recipe: str = "proxy"
    magnitude: str = "relative"
    factor: float = 1.0


@dataclass(frozen=True)
class Outcome:
    """What an evaluation found: metrics and the terms' final magnitudes, or the ``reason`` of a rejection.

    ``seconds`` and ``step_milliseconds`` say what it cost; they are not reproducible and take no part in fitness.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    magnitudes: tuple[float, ...] = ()
    reason: str = ""
    seconds: float = 0.0
    step_milliseconds: float = 0.0


# A gradient smaller than this share of the cross-entropy's is rounding noise in float32 (PKT's is 5·10⁻⁵ of it).
LEAST_GRADIENT = 1e-7


class Rejected(Exception):
    """A candidate that cannot be trained; the message is the reason that the run keeps."""


class Evaluator:
    """Evaluates distillers on one bench and one device. One object serves many requests."""

    def __init__(self, bench: Bench, build_student: BuildStudent, device: str = "cpu"):
        self.device = torch.device(device)
        self.precision = Precision(bench.precision, bench.channels_last)
        self.bench = bench
        form = self.precision.memory_format
        self.train_part = bench.train.to(self.device, form)
        self.validation = bench.validation.to(self.device, form)
        self.build_student = build_student
        self.student = self._fresh(0)
        self._cross_entropy_norm: float | None = None
        self.on_step: OnStep | None = None

    def _fresh(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return self.build_student().to(self.device).to(memory_format=self.precision.memory_format)

    def _start(self, request: Request) -> nn.Module:
        """The student at the start of a training: warm, or new for a race from scratch."""
        if request.recipe == "race" and self.bench.facts.get("race_from_scratch", True):
            return self._fresh(request.seed)
        self.student.network.load_state_dict(self.bench.warm)  # type: ignore[union-attr,operator]
        return self.student

    def __call__(self, request: Request) -> Outcome:
        """Evaluate one request. Never raises for what a distiller does: that becomes the outcome's reason."""
        start = time.perf_counter()
        try:
            outcome = self._evaluate(request)
        except (Rejected, Diverged) as reason:
            outcome = Outcome(reason=str(reason))
        except Exception as error:  # whatever a candidate does is its own end and not the search's
            first = (str(error).splitlines() or [type(error).__name__])[0]
            outcome = Outcome(reason=f"{type(error).__name__}: {first[:200]}")
        return replace(outcome, seconds=time.perf_counter() - start)

    def _evaluate(self, request: Request) -> Outcome:
        distiller: nn.Module | None = None
        magnitudes: tuple[float, ...] = ()
        if request.source:
            distiller, magnitudes = self._distiller(request)
        student = self._start(request)
        begin = time.perf_counter()
        recipe = self.bench.recipes[request.recipe]
        steps = train(student, self.train_part, recipe, request.seed, distiller, self.precision, self.on_step)
        per_step = (time.perf_counter() - begin) / steps * 1000.0
        found = self._measure(student)
        if not all(math.isfinite(value) for value in found.values()):
            raise Rejected("the trained student gives numbers that are not finite")
        chance = math.log(self.bench.student["classes"])
        if found["cross_entropy"] > DESTROYED * chance:
            raise Rejected(f"the student was destroyed: validation cross-entropy {found['cross_entropy']:.3g}")
        if request.recipe == "race":
            found |= self._test(student)
        return Outcome(found, magnitudes, step_milliseconds=per_step)

    def _distiller(self, request: Request) -> tuple[nn.Module, tuple[float, ...]]:
        """The distiller with its final magnitudes, on the device."""
        torch.manual_seed(request.seed)
        distiller = load_source(request.source).to(self.device)
        distiller.train()
        magnitudes = self._magnitudes(distiller, request)
        distiller.magnitudes = magnitudes  # type: ignore[assignment]
        return distiller, magnitudes

    def _measure(self, student: nn.Module) -> dict[str, float]:
        found = outputs(student, self.validation.images, keep=("logits", "emb"))
        return measures.all_metrics(found, self.validation.teacher, self.validation.labels)

    def _test(self, student: nn.Module) -> dict[str, float]:
        """Accuracy on the test images: written down with a race's results and read when the winner is known."""
        if not len(self.bench.test.labels):
            return {}
        test = self.bench.test.to(self.device, self.precision.memory_format)
        logits = outputs(student, test.images, keep=("logits",))["logits"]
        return {"test_accuracy": measures.accuracy(logits, test.labels)}

    # --- magnitudes -----------------------------------------------------------------------------------------

    def term_norms(self, distiller: nn.Module) -> tuple[list[float], float, float]:
        """Gradient norms at the warm student: of each term, of their weighted sum, and of the cross-entropy."""
        student = self._start(Request("", 0))
        state = copy.deepcopy(distiller.state_dict())
        buffers = {name: buffer.clone() for name, buffer in student.named_buffers()}
        student.train()
        parameters = [p for p in student.parameters() if p.requires_grad]
        size = min(PROBE_BATCH, len(self.train_part.labels))
        norms: list[list[float]] = []
        for probe in range(PROBES):
            torch.manual_seed(probe)
            start = probe * size % max(1, len(self.train_part.labels) - size + 1)
            indices = torch.arange(start, start + size, device=self.device)
            labels = self.train_part.labels[indices]
            found = self.precision.forward(student, self.train_part.images[indices])
            targets = prepared(distiller, self.train_part, indices)
            terms = list(distiller.terms(found, targets, labels))  # type: ignore[operator]
            if not all(torch.isfinite(term) for term in terms):
                raise Rejected("a loss is not finite on the first batch")
            total: Tensor = sum(m * t for m, t in zip(distiller.magnitudes, terms, strict=True))  # type: ignore
            hard = F.cross_entropy(found["logits"], labels)
            norms.append(gradient_norms([*terms, total, hard], parameters))
        distiller.load_state_dict(state)
        for name, buffer in student.named_buffers():
            buffer.copy_(buffers[name])
        means = [sum(values) / PROBES for values in zip(*norms, strict=True)]
        return means[:-2], means[-2], means[-1]

    def _magnitudes(self, distiller: nn.Module, request: Request) -> tuple[float, ...]:
        given = tuple(float(m) for m in distiller.magnitudes)  # type: ignore[union-attr]
        terms, total, hard = self.term_norms(distiller)
        for norm in terms:
            if not math.isfinite(norm):
                raise Rejected("a gradient is not finite on the first batch")
            if norm < LEAST_GRADIENT * hard:
                raise Rejected("no gradient reaches the student")
        if request.magnitude == "absolute":
            return tuple(request.factor * m for m in given)
        if request.magnitude == "joint":
            return tuple(request.factor * m * hard / total for m in given)
        return tuple(m * hard / norm for m, norm in zip(given, terms, strict=True))


def measure_terms(evaluator: Evaluator, source: str) -> dict[str, Any]:
    """The gradient norms of a source's terms at the warm student, relative to the cross-entropy's."""
    torch.manual_seed(0)
    distiller = load_source(source).to(evaluator.device)
    terms, total, hard = evaluator.term_norms(distiller)
    return {"terms": [norm / hard for norm in terms], "total": total / hard}
