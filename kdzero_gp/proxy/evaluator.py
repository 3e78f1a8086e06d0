"""The two requests of a search, a probe and a training, and who answers them. Workers get text, names and numbers,
nothing else."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from kdzero_gp.compiler.loading import load_source
from kdzero_gp.engine.batches import Batch, Kept
from kdzero_gp.engine.gradients import Prober, scaled
from kdzero_gp.engine.loop import Diverged, OnStep, Trainer
from kdzero_gp.engine.outputs import outputs
from kdzero_gp.engine.predictions import packed, said, some
from kdzero_gp.engine.teacher import KeptTeacher
from kdzero_gp.proxy.fitness import fitness
from kdzero_gp.proxy.screens import PROBES, Rejected, must_be_usable, must_lead_to_the_teacher
from kdzero_gp.proxy.task import BuildStudent, ProxyTask
from kdzero_gp.workers.engine import exhausted

# A student whose validation cross-entropy is this many times that of guessing was destroyed.
DESTROYED = 5.0
# After a few steps cross-entropy and accuracy only tell which losses start fast, and those do not end well; the gaps to
# the teacher tell which lead somewhere (experiments/proxy_fidelity). Coarse differences need few images.
RUNG_IMAGES = 512
# … by the gaps alone, where the family has some.


@dataclass(frozen=True)
class Probed:
    """What a distiller's gradients at the warm student are like: the norm of each term's and of their sum, in units of
    the own loss's (see ``Gradients``), the terms' final ``magnitudes``, the gradient folded (``fingerprint``, float32)
    and the MiB that the loss keeps for a batch. ``reason``: why it is not worth training, and the ``screen`` that says
    so ('' for an error).

    ``seconds`` and ``stages`` (the same by screen) say what it cost; they are not reproducible.
    """

    terms: tuple[float, ...] = ()
    total: float = 0.0
    magnitudes: tuple[float, ...] = ()
    fingerprint: bytes = b""
    memory: float = 0.0
    reason: str = ""
    screen: str = ""
    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Probe:
    """Asks for a distiller's gradients. ``source`` is a module with a class ``Distiller``.

    ``magnitude``: ``relative`` scales each term so that its gradient has γ times the norm of the own loss's; ``joint``
    scales the sum of all terms to that norm and keeps their ratio, as a published method wants it; ``absolute`` takes
    the numbers as they are. ``screens``: ``finite`` asks for a usable gradient and at most ``memory`` MiB,
    ``rejection`` for steps that lead to the teacher.
    """

    source: str
    seed: int
    magnitude: str = "relative"
    screens: tuple[str, ...] = ("finite",)
    memory: float = math.inf

    def failed(self, reason: str, seconds: float = 0.0) -> Probed:
        """The answer where there is none."""
        return Probed(reason=reason, seconds=seconds)


@dataclass(frozen=True)
class Rung:
    """A look at the student after the share ``share`` of the proxy's steps. Gaps that are on average above ``bound``
    times those of cross-entropy alone after as many (``baseline``) end the training."""

    share: float
    bound: float = math.inf
    baseline: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Trained:
    """What a training found: metrics, or the ``reason`` why there are none and the ``screen`` that it comes from (''
    for the training itself). ``short``: the metrics at the rung, and their ``gaps``. ``said``: predictions, as
    ``engine.predictions.packed`` gives them.

    ``seconds``, ``stages`` and ``step_milliseconds`` say what it cost; they are not reproducible.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    short: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    screen: str = ""
    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    step_milliseconds: float = 0.0
    said: bytes = b""


@dataclass(frozen=True)
class Train:
    """Asks for a training. ``source`` is a module with a class ``Distiller`` ('' for cross-entropy alone);
    ``magnitudes`` replace its own. ``recipe`` is ``proxy`` (from the warm student) or ``race`` (from scratch).
    ``shown``: whether it says what it predicts of some validation images."""

    source: str
    seed: int
    magnitudes: tuple[float, ...] | None = None
    recipe: str = "proxy"
    rung: Rung | None = None
    shown: bool = False

    def failed(self, reason: str, seconds: float = 0.0) -> Trained:
        """The answer where there is none."""
        return Trained(reason=reason, seconds=seconds)


# Both are pure: an answer follows from the request and the proxy task, whatever was asked before.
Request = Probe | Train
Answer = Probed | Trained


class Evaluator:
    """Evaluates distillers on one bench and one device. One object serves many requests."""

    def __init__(
        self,
        bench: ProxyTask,
        build_student: BuildStudent,
        device: str = "cpu",
    ):
        self.device = torch.device(device)
        self.precision, self.family = bench.precision, bench.family
        self.bench = bench
        self.train_split = bench.train.to(self.device, self.precision)
        self.kept = {name: tensor[None] for name, tensor in self.train_split.teacher.items()}
        self.validation = bench.validation.to(self.device, self.precision)
        self.build_student = build_student
        self.student = self._fresh(0)
        self._prober: Prober | None = None
        self.on_step: OnStep | None = None

    def _fresh(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return self.build_student().to(self.device).to(memory_format=self.precision.memory_format)

    def start(self, request: Train) -> nn.Module:
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

    def __call__(self, request: Request) -> Answer:
        """Answer one request. What a distiller does becomes the answer's reason; raises where memory is exhausted."""
        return self.probe(request) if isinstance(request, Probe) else self.train(request)

    def probe(self, request: Probe) -> Probed:
        """Measure a distiller's gradients."""
        return _Probing(self, request).answer()  # type: ignore[no-any-return]

    def train(self, request: Train) -> Trained:
        """Train a student."""
        return _Training(self, request).answer()  # type: ignore[no-any-return]

    def evaluate(
        self, source: str, seed: int, magnitude: str = "relative", factor: float = 1.0, recipe: str = "proxy"
    ) -> tuple[Probed, Trained]:
        """A probe and the training that follows from it, with ``factor`` times its magnitudes; the training has the
        probe's reason where that has one. '' is cross-entropy alone."""
        if not source:
            return Probed(), self.train(Train("", seed, recipe=recipe))
        probed = self.probe(Probe(source, seed, magnitude))
        if probed.reason:
            return probed, Trained(reason=probed.reason, screen=probed.screen)
        magnitudes = tuple(factor * number for number in probed.magnitudes)
        return probed, self.train(Train(source, seed, magnitudes, recipe))

    def measure(self, student: nn.Module, most: int | None = None, recipe: str = "proxy") -> dict[str, float]:
        """The metrics of a trained student on the (first ``most``) validation images: of a race all measures. Raises
        ``Rejected`` for one that was destroyed."""
        part = self.validation
        family, labels = self.family, part.labels[:most]
        computed = outputs(student, part.images[:most], keep=family.read, precision=self.precision)
        teacher = {name: tensor[:most] for name, tensor in part.teacher.items()}
        measured = (family.measure if recipe == "race" else family.measure_proxy)([(computed, labels)])
        metrics = measured | family.compare(computed, teacher, labels)
        if not all(math.isfinite(value) for value in metrics.values()):
            raise Rejected("the trained student gives numbers that are not finite", "")
        if metrics[family.loss] > DESTROYED * family.guessing(self.bench.classes):
            label = family.measure_of(family.loss).label
            raise Rejected(f"the student was destroyed: validation {label} {metrics[family.loss]:.3g}", "")
        share = metrics[family.decides if recipe == "race" else family.of_proxies.name]
        return metrics | ({"error": 1.0 - share} if "error" in family.metrics else {})

    def test(self, student: nn.Module) -> dict[str, float]:
        """Measures on the test images: written down with a race's results and read when the winner is known."""
        if not len(self.bench.test.labels):
            return {}
        test = self.bench.test.to(self.device, self.precision)
        measures = self.family.measure([(outputs(student, test.images, keep=self.family.read), test.labels)])
        return {f"test_{name}": value for name, value in measures.items()}


class _Answering:
    """One request on its way; what was learnt before it fails is kept in the answer."""

    learnt: Any

    def __init__(self, evaluator: Evaluator, source: str, seed: int):
        self.evaluator, self.source, self.seed = evaluator, source, seed
        self.stages: dict[str, float] = {}

    def answer(self) -> Any:
        start = time.perf_counter()
        try:
            self._work()
        except Rejected as reason:
            self._note(reason=str(reason), screen=reason.screen)
        except Diverged as reason:
            self._note(reason=str(reason))
        except Exception as error:  # whatever a candidate does is its own end and not the search's
            if exhausted(error) is not None:
                raise  # which may be the machine's fault: it is tried again elsewhere
            first = (str(error).splitlines() or [type(error).__name__])[0]
            self._note(reason=f"{type(error).__name__}: {first[:200]}")
        return replace(self.learnt, seconds=time.perf_counter() - start, stages=self.stages)

    def _work(self) -> None:
        raise NotImplementedError

    def _note(self, **values: Any) -> None:
        self.learnt = replace(self.learnt, **values)

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stages[name] = self.stages.get(name, 0.0) + time.perf_counter() - start

    def _teacher(self) -> KeptTeacher:
        torch.manual_seed(self.seed)  # the adapters' first weights
        return self.evaluator.teacher(load_source(self.source).to(self.evaluator.device).train())


class _Probing(_Answering):
    learnt = Probed()

    def __init__(self, evaluator: Evaluator, request: Probe):
        super().__init__(evaluator, request.source, request.seed)
        self.request = request

    def _work(self) -> None:
        request, evaluator, teacher = self.request, self.evaluator, self._teacher()
        distiller = teacher.distiller
        with self._stage("finite"):
            gradients = evaluator.prober.measure(teacher)
            self._note(terms=gradients.terms, total=gradients.total, memory=gradients.memory)
            if "finite" in request.screens:
                must_be_usable(gradients, request.memory)
            mode = request.magnitude if gradients.usable else "absolute"
            magnitudes = scaled(mode, 1.0, [float(m) for m in distiller.magnitudes], gradients)
            distiller.magnitudes = magnitudes
            self._note(magnitudes=magnitudes, fingerprint=gradients.fingerprint(magnitudes).tobytes())
        if "rejection" in request.screens:
            with self._stage("rejection"):
                must_lead_to_the_teacher(evaluator.prober, teacher, evaluator.bench.classes)


class _Training(_Answering):
    learnt = Trained()

    def __init__(self, evaluator: Evaluator, request: Train):
        super().__init__(evaluator, request.source, request.seed)
        self.request = request

    def _work(self) -> None:
        teacher: KeptTeacher | None = None
        if self.source:
            teacher = self._teacher()
            if self.request.magnitudes is not None:
                teacher.distiller.magnitudes = self.request.magnitudes
            self.evaluator.ready(teacher.distiller)
        with self._stage("training"):
            metrics, per_step = self._train(teacher)
        self._note(metrics=metrics, step_milliseconds=per_step)

    def _train(self, teacher: KeptTeacher | None) -> tuple[dict[str, float], float]:
        """Train the student and measure it: metrics, and milliseconds a step."""
        evaluator, request = self.evaluator, self.request
        student = evaluator.start(request)
        trainer = evaluator.trainer(student, request.recipe, teacher)
        last = -1 if request.rung is None else max(1, round(request.rung.share * trainer.steps)) - 1

        def on_step(step: int, hard: Tensor, soft: Tensor | None) -> None:
            if evaluator.on_step is not None:
                evaluator.on_step(step, hard, soft)
            if step == last:
                self._look(student)

        begin = time.perf_counter()
        steps = trainer.train(request.seed, on_step)
        per_step = (time.perf_counter() - begin) / steps * 1000.0
        metrics = evaluator.measure(student, recipe=request.recipe)
        if request.shown:
            self._note(said=packed(said(evaluator.family, student, some(evaluator.validation.images))))
        return metrics | (evaluator.test(student) if request.recipe == "race" else {}), per_step

    def _look(self, student: nn.Module) -> None:
        """The rung. Raises ``Rejected`` where the gaps are above the bound."""
        rung: Rung = self.request.rung  # type: ignore[assignment]
        with self._stage("short"):
            metrics = self.evaluator.measure(student, RUNG_IMAGES)
            student.train()
            self._note(short=metrics)
            if not rung.baseline:
                return
            gaps = fitness(metrics, rung.baseline, self.evaluator.gap_weights)
            self._note(short=metrics | {"gaps": gaps})
            if gaps > rung.bound:
                raise Rejected(f"stopped after a part of the proxy: gaps {gaps:.3f}", "short")
