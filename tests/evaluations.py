"""A probe and a training at one go, as tests of single distillers want them."""

import math
from dataclasses import dataclass, field

from kdzero_gp.proxy.evaluator import Evaluator, Probe, Rung, Train
from kdzero_gp.proxy.students import student_builder


@dataclass(frozen=True)
class Request:
    """Both requests' arguments; ``factor`` multiplies the magnitudes that the probe finds."""

    source: str
    seed: int
    recipe: str = "proxy"
    magnitude: str = "relative"
    factor: float = 1.0
    screens: tuple[str, ...] = ("finite",)
    memory: float = math.inf
    rung: Rung | None = None

    @property
    def probe(self):
        """The first request."""
        return Probe(self.source, self.seed, self.magnitude, self.screens, self.memory)

    def train(self, magnitudes):
        """The second request."""
        return Train(self.source, self.seed, tuple(self.factor * m for m in magnitudes), self.recipe, self.rung)


@dataclass(frozen=True)
class Outcome:
    """Both answers."""

    metrics: dict[str, float] = field(default_factory=dict)
    magnitudes: tuple[float, ...] = ()
    reason: str = ""
    screen: str = ""
    fingerprint: bytes = b""
    short: dict[str, float] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=dict)


class WholeEvaluator(Evaluator):
    """Answers both requests, one after the other."""

    def __call__(self, request):
        if not isinstance(request, Request):
            return super().__call__(request)
        if not request.source:
            trained = self.train(Train("", request.seed, recipe=request.recipe, rung=request.rung))
            return Outcome(trained.metrics, (), trained.reason, trained.screen, b"", trained.short, trained.stages)
        probed = self.probe(request.probe)
        if probed.reason:
            return Outcome({}, probed.magnitudes, probed.reason, probed.screen, probed.fingerprint, {}, probed.stages)
        train = request.train(probed.magnitudes)
        trained = self.train(train)
        metrics = trained.metrics and trained.metrics | {"memory": probed.memory}
        stages = probed.stages | trained.stages
        return Outcome(
            metrics, train.magnitudes, trained.reason, trained.screen, probed.fingerprint, trained.short, stages
        )


def evaluator_on(bench):
    """An evaluator of a proxy task."""
    return WholeEvaluator(bench, student_builder(bench.student, bench.train.images[:2]))
