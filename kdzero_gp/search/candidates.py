"""Verdicts on births: from the database where it has them, else from an evaluation, which is committed first."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from kdzero_gp.compiler import Expression
from kdzero_gp.evolution import Birth, Score, nondominated
from kdzero_gp.proxy.evaluator import Outcome, Request, Screening
from kdzero_gp.proxy.executor import Executor
from kdzero_gp.proxy.fitness import fitness
from kdzero_gp.proxy.screens import SCREENS, Fingerprints
from kdzero_gp.search.settings import RunSettings
from kdzero_gp.search.storage import Database, Status, StoredBirth, StoredEvaluation

# Fitness of a candidate without one: worse than any trained one (5 × guessing, see the evaluator).
WORST_FITNESS = 1e9
# The surrogate's score has to be good among so many latest ones, once there are so many.
SCORES, LEAST_SCORES = 40, 10


class CandidateQueue:
    """Judges births one after the other. ``baseline`` and ``short_baseline`` are the metrics of cross-entropy alone
    after the proxy and after its first part; ``source`` gives an expression's source."""

    def __init__(
        self,
        settings: RunSettings,
        database: Database,
        executor: Executor,
        fingerprints: Fingerprints,
        baseline: Mapping[str, float],
        short_baseline: Mapping[str, float],
        source: Callable[[Expression], str],
    ):
        self.settings = settings
        self.database = database
        self.executor = executor
        self.fingerprints = fingerprints
        self.baseline, self.short_baseline = dict(baseline), dict(short_baseline)
        self.source = source
        # with several objectives fitness is not what counts, so it need not be predicted
        unasked = {"surrogate"} if settings.search.objectives else set()
        self.screens = tuple(name for name in settings.screens if name not in unasked)
        self.counts = Counter({status.value: 0 for status in Status})
        # digests in the order of the fingerprint file
        self._fingerprinted: list[str] = []
        # what the surrogate said of the latest distillers
        self._scores: deque[float] = deque(maxlen=SCORES)
        fingerprints.clear()

    def start(self, birth: Birth) -> Callable[[], Score]:
        """Start judging a new expression. What is asked of it follows from the births that are judged already, so
        that a run takes the same way however many workers there are and however often it was interrupted."""
        stored = self.database.evaluation(birth.digest)
        if stored is not None:
            return lambda: self._take(stored)
        plan = self.settings.plan
        screening = Screening(
            self.screens, len(self._fingerprinted), self._score_bound(), plan.short_bound, self.short_baseline,
            plan.short, plan.loss_memory,
        )  # fmt: skip
        pending = self.executor.submit(
            Request(
                self.source(birth.expression), self.settings.search.seed, "proxy", self.settings.magnitude,
                screening=screening,
            )
        )  # fmt: skip
        return lambda: self._take(self._keep(birth, pending()))

    def _score_bound(self) -> float:
        """The highest score that belongs to the wanted share of the latest distillers and the next one."""
        if len(self._scores) < LEAST_SCORES:
            return math.inf
        place = math.ceil(self.settings.plan.surrogate_share * (len(self._scores) + 1))
        return [*sorted(self._scores), math.inf][place - 1]

    def _keep(self, birth: Birth, outcome: Outcome) -> StoredEvaluation:
        """Commit the result of an evaluation."""
        evaluation = self._verdict(birth, outcome)
        self.database.add_evaluation(evaluation, outcome.seconds, outcome.step_milliseconds, outcome.stages)
        return evaluation

    def _verdict(self, birth: Birth, outcome: Outcome) -> StoredEvaluation:
        reason, metrics, short = outcome.reason, outcome.metrics, outcome.short
        value: float | None = None
        earlier = self._equivalent(outcome)
        if earlier is not None:
            status, value, metrics, short = Status.EQUIVALENT, earlier.fitness, earlier.metrics, earlier.short
            reason = earlier.reason and f"{earlier.reason}: as its equivalent {earlier.digest}"
        elif reason:
            by_screen = Status.PREDICTED if outcome.screen == "surrogate" else Status.REJECTED
            status = by_screen if outcome.screen else Status.FAILED
        else:
            status, value = Status.TRAINED, fitness(metrics, self.baseline, self.settings.plan.weights)
            if "step_time" in self.settings.search.objectives:
                metrics = metrics | {"step_time": outcome.step_milliseconds}
        return StoredEvaluation(
            birth.digest, str(birth.expression), status, value, reason, metrics, outcome.magnitudes, outcome.screen,
            earlier.digest if earlier else "", short, outcome.fingerprint,
        )  # fmt: skip

    def _equivalent(self, outcome: Outcome) -> StoredEvaluation | None:
        """An earlier distiller with the same gradient, also one that was being trained at the same time."""
        if not outcome.fingerprint or "equivalence" not in self.screens:
            return None
        row = self.fingerprints.find(np.frombuffer(outcome.fingerprint, dtype=np.float32), len(self._fingerprinted))
        return None if row is None else self.database.evaluation(self._fingerprinted[row])

    def _take(self, evaluation: StoredEvaluation) -> Score:
        """The verdict on a committed evaluation, which later births are compared with from now on."""
        status = evaluation.status
        if "score" in evaluation.short and status is not Status.EQUIVALENT:
            self._scores.append(evaluation.short["score"])
        if evaluation.fingerprint and status not in (Status.EQUIVALENT, Status.PREDICTED):
            self._fingerprinted.append(evaluation.digest)
            gradient = np.frombuffer(evaluation.fingerprint, dtype=np.float32)
            self.fingerprints.append(gradient, evaluation.fitness)
        self.counts[status.value] += 1
        objectives = self.settings.search.objectives
        if status is Status.PREDICTED:
            return Score(evaluation.short["predicted"], measured=False)
        if evaluation.fitness is None:
            return Score(WORST_FITNESS, measured=False, objectives=(WORST_FITNESS,) * len(objectives))
        values = tuple(evaluation.metrics[name] for name in objectives)
        return Score(evaluation.fitness, objectives=values, superfluous=self._superfluous(evaluation))

    def _superfluous(self, evaluation: StoredEvaluation) -> bool:
        """Whether a distiller is no simpler than the one with the same gradient that was judged before."""
        if evaluation.status is not Status.EQUIVALENT:
            return False
        earlier = self.database.evaluation(evaluation.equivalent_to)
        return earlier is not None and len(evaluation.expression) >= len(earlier.expression)


def screen_rows(
    evaluations: Sequence[StoredEvaluation], stages: Mapping[str, tuple[int, float]]
) -> list[dict[str, Any]]:
    """For each screen and the training: how many distillers it was asked about, how many it turned away, and the
    seconds it took."""
    turned_away = Counter(_turned_away_by(evaluation) for evaluation in evaluations)
    rows = []
    for name in (*(screen for screen in SCREENS if screen != "duplicate"), "training"):
        asked, seconds = stages.get(name, (0, 0.0))
        rows.append({"name": name, "asked": asked, "turned_away": turned_away[name], "seconds": seconds})
    return rows


def _turned_away_by(evaluation: StoredEvaluation) -> str:
    named = {Status.EQUIVALENT: "equivalence", Status.FAILED: "training", Status.TRAINED: ""}
    return named.get(evaluation.status, evaluation.screen)


def counts_of(births: Sequence[StoredBirth], evaluations: Sequence[StoredEvaluation]) -> dict[str, int]:
    """What became of the births: ``births`` = ``duplicates`` + one count for each ``Status`` + ``waiting``."""
    status = {evaluation.digest: evaluation.status.value for evaluation in evaluations}
    fates = Counter(
        "duplicates" if birth.duplicate_of is not None else status.get(birth.digest, "waiting") for birth in births
    )
    names = (*(member.value for member in Status), "duplicates", "waiting")
    return {"births": len(births), **{name: fates[name] for name in names}}


def front(evaluations: Sequence[StoredEvaluation], objectives: Sequence[str]) -> list[StoredEvaluation]:
    """The distillers that no other is better than in every objective, by the first of them."""
    trained = [evaluation for evaluation in evaluations if evaluation.status is Status.TRAINED]
    values = [tuple(evaluation.metrics[name] for name in objectives) for evaluation in trained]
    best = [(values[index], trained[index].digest, index) for index in nondominated(values)] if objectives else []
    return [trained[index] for _, _, index in sorted(best)]
