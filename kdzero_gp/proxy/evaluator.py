"""One evaluation, from a distiller's source to its metrics. Workers get text, names and numbers, nothing else."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdzero_gp.compiler.loading import load_source
from kdzero_gp.engine.batches import Batch, Kept
from kdzero_gp.engine.gradients import Gradients, Prober, scaled
from kdzero_gp.engine.loop import Diverged, OnStep, Trainer
from kdzero_gp.engine.outputs import outputs
from kdzero_gp.engine.teacher import KeptTeacher
from kdzero_gp.proxy.fitness import fitness
from kdzero_gp.proxy.screens import PROBES, Fingerprints, Rejected, must_be_usable, must_lead_to_the_teacher
from kdzero_gp.proxy.surrogate import predict
from kdzero_gp.proxy.task import BuildStudent, ProxyTask

# A student whose validation cross-entropy is this many times that of guessing was destroyed.
DESTROYED = 5.0
# After a few steps cross-entropy and accuracy only tell which losses start fast, and those do not end well; the gaps to
# the teacher tell which lead somewhere (experiments/proxy_fidelity). Coarse differences need few images.
RUNG_IMAGES = 512
# … by the gaps alone, where the family has some.


@dataclass(frozen=True)
class Screening:
    """What stands between a candidate and its proxy training.

    ``screens`` are the names of those that are on. ``known``: how many rows of the fingerprint file an equal gradient
    is looked for in, and a fitness is predicted from; what has a score above ``score_bound`` is not trained. After the
    share ``short`` of the proxy's steps, gaps that are on average above ``bound`` times those of cross-entropy alone
    after as many (``baseline``) end it. ``memory``: MiB that a loss may keep for a batch.
    """

    screens: tuple[str, ...]
    known: int = 0
    score_bound: float = math.inf
    bound: float = math.inf
    baseline: dict[str, float] = field(default_factory=dict)
    short: float = 0.2
    memory: float = math.inf


@dataclass(frozen=True)
class Request:
    """``source`` is a module with a class ``Distiller`` ('' for cross-entropy alone). ``recipe`` is ``proxy`` (from
    the warm student) or ``race`` (from scratch). ``screening``: what is asked before (None: only that
    the gradient can be measured).

    ``magnitude``: ``relative`` scales each term so that its gradient has γ times the norm of the cross-entropy's;
    ``joint`` scales the sum of all terms to ``factor`` times that norm and keeps their ratio, as a published method
    wants it; ``absolute`` takes the numbers as they are (times ``factor``).
    """

    source: str
    seed: int
    recipe: str = "proxy"
    magnitude: str = "relative"
    factor: float = 1.0
    screening: Screening | None = None


@dataclass(frozen=True)
class Outcome:
    """What an evaluation found: metrics and the terms' final magnitudes, or the ``reason`` of a rejection and the
    ``screen`` that it comes from ('' for the training itself).

    ``fingerprint``: the gradient folded into a few numbers; where it is in the fingerprint file already, the evaluation
    ends without metrics and without a reason. ``short``: what was learnt before the end of the proxy: the surrogate's
    ``predicted`` fitness and ``score``, the metrics after the first rung, and their ``gaps``.
    ``seconds``, ``stages`` (the same by screen and training) and ``step_milliseconds`` say what it cost; they are not
    reproducible and take no part in fitness.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    magnitudes: tuple[float, ...] = ()
    reason: str = ""
    screen: str = ""
    fingerprint: bytes = b""
    short: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    step_milliseconds: float = 0.0


class Evaluator:
    """Evaluates distillers on one bench and one device. One object serves many requests."""

    def __init__(
        self,
        bench: ProxyTask,
        build_student: BuildStudent,
        device: str = "cpu",
        fingerprints: Fingerprints | None = None,
    ):
        self.device = torch.device(device)
        self.precision, self.family = bench.precision, bench.family
        self.bench = bench
        self.train_split = bench.train.to(self.device, self.precision)
        self.kept = {name: tensor[None] for name, tensor in self.train_split.teacher.items()}
        self.validation = bench.validation.to(self.device, self.precision)
        self.build_student = build_student
        self.fingerprints = fingerprints
        self.student = self._fresh(0)
        self._prober: Prober | None = None
        self.on_step: OnStep | None = None

    def _fresh(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return self.build_student().to(self.device).to(memory_format=self.precision.memory_format)

    def start(self, request: Request) -> nn.Module:
        """The student at the start of a training: warm, or new for a race from scratch."""
        if request.recipe == "race" and self.bench.race_from_scratch:
            return self._fresh(request.seed)
        return self._warmed(self.student)

    def _warmed(self, student: nn.Module) -> nn.Module:
        """The student with the warm weights, or the last stage of one with its part of them."""
        network: nn.Module = student.network  # type: ignore[assignment]
        network.load_state_dict({name: self.bench.warm[name] for name in network.state_dict()})
        return student

    def ready(self, distiller: nn.Module) -> None:
        """Hears of a distiller when its magnitudes are set, before it is trained with."""

    @property
    def prober(self) -> Prober:
        """What measures gradients at the warm student, made when it is first needed."""
        if self._prober is None:
            student, split = self._warmed(self._fresh(0)), self.train_split
            count = len(split.labels)
            size = min(self.bench.recipes["proxy"].batch_size, count)
            starts = [number * size % max(1, count - size + 1) for number in range(PROBES)]
            places = [torch.arange(start, start + size, device=self.device) for start in starts]
            batches = [Batch(split.images[place], split.labels[place], place) for place in places]
            self._prober = Prober(student, self.family, batches, self.precision)
        return self._prober

    def trainer(self, student: nn.Module, recipe: str, teacher: KeptTeacher | None) -> Trainer:
        """The training of a student by a recipe of the task, on the training images."""
        batches = Kept(self.train_split, self.bench.classes, self.bench.recipes[recipe], self.device, self.precision)
        return Trainer(student, self.family, batches, self.precision, teacher)

    @property
    def gap_weights(self) -> dict[str, float]:
        """Equal shares of the family's gaps to the teacher; of the own loss where it has none."""
        gaps = {name: 1.0 for name in self.family.metrics if name.endswith("_gap")}
        return gaps or {self.family.loss: 1.0}

    def teacher(self, distiller: Any) -> KeptTeacher:
        """The teacher of a distiller."""
        return KeptTeacher(distiller, self.family, self.kept, self.train_split.labels)

    def __call__(self, request: Request) -> Outcome:
        """Evaluate one request. Never raises for what a distiller does: that becomes the outcome's reason."""
        return _Evaluation(self, request).outcome()

    def measure(self, student: nn.Module, most: int | None = None) -> dict[str, float]:
        """The metrics of a trained student on the (first ``most``) validation images. Raises ``Rejected`` for one that
        was destroyed."""
        part = self.validation
        family, labels = self.family, part.labels[:most]
        computed = outputs(student, part.images[:most], keep=family.read, precision=self.precision)
        teacher = {name: tensor[:most] for name, tensor in part.teacher.items()}
        metrics = family.measure([(computed, labels)]) | family.compare(computed, teacher, labels)
        if not all(math.isfinite(value) for value in metrics.values()):
            raise Rejected("the trained student gives numbers that are not finite", "")
        if metrics[family.loss] > DESTROYED * family.guessing(self.bench.classes):
            label = family.measure_of(family.loss).label
            raise Rejected(f"the student was destroyed: validation {label} {metrics[family.loss]:.3g}", "")
        return metrics

    def test(self, student: nn.Module) -> dict[str, float]:
        """Measures on the test images: written down with a race's results and read when the winner is known."""
        if not len(self.bench.test.labels):
            return {}
        test = self.bench.test.to(self.device, self.precision)
        measures = self.family.measure([(outputs(student, test.images, keep=self.family.read), test.labels)])
        return {f"test_{name}": value for name, value in measures.items()}


class _Evaluation:
    """One request on its way through the screens and trainings; what was found before a rejection is kept."""

    def __init__(self, evaluator: Evaluator, request: Request):
        self.evaluator = evaluator
        self.request = request
        self.screening = request.screening or Screening(("finite",))
        self.found = Outcome()
        self.stages: dict[str, float] = {}

    def outcome(self) -> Outcome:
        start = time.perf_counter()
        try:
            self._run()
        except Rejected as reason:
            self._note(reason=str(reason), screen=reason.screen, metrics={})
        except Diverged as reason:
            self._note(reason=str(reason), metrics={})
        except Exception as error:  # whatever a candidate does is its own end and not the search's
            first = (str(error).splitlines() or [type(error).__name__])[0]
            self._note(reason=f"{type(error).__name__}: {first[:200]}", metrics={})
        return replace(self.found, seconds=time.perf_counter() - start, stages=self.stages)

    def _note(self, **values: Any) -> None:
        self.found = replace(self.found, **values)

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stages[name] = self.stages.get(name, 0.0) + time.perf_counter() - start

    def _run(self) -> None:
        teacher: KeptTeacher | None = None
        extra: dict[str, float] = {}
        if self.request.source:
            torch.manual_seed(self.request.seed)
            teacher = self.evaluator.teacher(load_source(self.request.source).to(self.evaluator.device).train())
            with self._stage("finite"):
                gradients = self._probe(teacher)
            extra["memory"] = gradients.memory
            if self._known(gradients):
                return
            if "rejection" in self.screening.screens:
                with self._stage("rejection"):
                    must_lead_to_the_teacher(self.evaluator.prober, teacher, self.evaluator.bench.classes)
            if "surrogate" in self.screening.screens and self.found.fingerprint:
                with self._stage("surrogate"):
                    self._predict()
            self.evaluator.ready(teacher.distiller)
        with self._stage("training"):
            metrics, per_step = self._train(teacher)
        self._note(metrics=metrics | extra, step_milliseconds=per_step)

    def _probe(self, teacher: KeptTeacher) -> Gradients:
        """Measure the gradients and set the final magnitudes. Raises ``Rejected`` without a usable gradient."""
        gradients = self.evaluator.prober.measure(teacher)
        if "finite" in self.screening.screens:
            must_be_usable(gradients, self.screening.memory)
        distiller, request = teacher.distiller, self.request
        mode = request.magnitude if gradients.usable else "absolute"
        magnitudes = scaled(mode, request.factor, [float(m) for m in distiller.magnitudes], gradients)
        distiller.magnitudes = magnitudes
        self._note(magnitudes=magnitudes)
        return gradients

    def _known(self, gradients: Gradients) -> bool:
        """Whether another distiller has the same gradient."""
        screens, fingerprints = self.screening.screens, self.evaluator.fingerprints
        if fingerprints is None or not {"equivalence", "surrogate"} & set(screens):
            return False
        fingerprint = gradients.fingerprint(self.found.magnitudes)
        self._note(fingerprint=fingerprint.astype(np.float32).tobytes())
        if "equivalence" not in screens:
            return False
        with self._stage("equivalence"):
            return fingerprints.find(fingerprint, self.screening.known) is not None

    def _predict(self) -> None:
        """Raises ``Rejected`` where the prediction is enough: others are more promising, or less certain."""
        fingerprints, gradient = self.evaluator.fingerprints, np.frombuffer(self.found.fingerprint, dtype=np.float32)
        known, values = fingerprints.read(self.screening.known)  # type: ignore[union-attr]
        found = predict(gradient.astype(np.float64), known.astype(np.float64), values.astype(np.float64))
        if found is None:
            return
        self._note(short={"predicted": found.fitness, "score": found.score})
        if found.score > self.screening.score_bound:
            reason = f"predicted well enough from gradients like its own: fitness {found.fitness:.3f}"
            raise Rejected(reason, "surrogate")

    def _short(self, student: nn.Module) -> None:
        """The first rung of the proxy. Raises ``Rejected`` where the gaps are above the bound."""
        with self._stage("short"):
            metrics = self.evaluator.measure(student, RUNG_IMAGES)
            student.train()
            self._note(short=self.found.short | metrics)
            if not self.screening.baseline:
                return
            gaps = fitness(metrics, self.screening.baseline, self.evaluator.gap_weights)
            self._note(short=self.found.short | {"gaps": gaps})
            if gaps > self.screening.bound:
                raise Rejected(f"stopped after a part of the proxy: gaps {gaps:.3f}", "short")

    def _train(self, teacher: KeptTeacher | None) -> tuple[dict[str, float], float]:
        """Train the student and measure it: metrics, and milliseconds a step."""
        evaluator, request = self.evaluator, self.request
        student = evaluator.start(request)
        trainer = evaluator.trainer(student, request.recipe, teacher)
        rung = -1
        if "short" in self.screening.screens:
            rung = max(1, round(self.screening.short * trainer.steps)) - 1

        def on_step(step: int, hard: Tensor, soft: Tensor | None) -> None:
            if evaluator.on_step is not None:
                evaluator.on_step(step, hard, soft)
            if step == rung:
                self._short(student)

        begin = time.perf_counter()
        steps = trainer.train(request.seed, on_step)
        per_step = (time.perf_counter() - begin) / steps * 1000.0
        metrics = evaluator.measure(student)
        return metrics | (evaluator.test(student) if request.recipe == "race" else {}), per_step


def measure_terms(evaluator: Evaluator, source: str) -> dict[str, Any]:
    """The gradient norms of a source's terms at the warm student, relative to the cross-entropy's."""
    torch.manual_seed(0)
    gradients = evaluator.prober.measure(evaluator.teacher(load_source(source).to(evaluator.device)))
    if not gradients.usable:
        raise Rejected("no usable gradient reaches the student")
    return {"terms": list(gradients.terms), "total": gradients.total}
