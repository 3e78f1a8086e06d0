"""Verdicts on births: from the database where it has them, else from an evaluation, which is committed first."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from kdzero_gp.compiler import Expression
from kdzero_gp.evolution import Birth, Score
from kdzero_gp.proxy.evaluator import Outcome, Request, Screening
from kdzero_gp.proxy.executor import Executor
from kdzero_gp.proxy.fitness import fitness
from kdzero_gp.proxy.screens import SCREENS, Fingerprints
from kdzero_gp.search.settings import RunSettings
from kdzero_gp.search.storage import Database, StoredEvaluation

# Fitness of a rejected candidate: worse than any trained one (5 × guessing, see evaluation).
REJECTED_FITNESS = 1e9
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
        self.counts = Counter(evaluated=0, equivalent=0, rejected=0)
        # digests in the order of the fingerprint file
        self._fingerprinted: list[str] = []
        # what the surrogate said of the latest distillers
        self._scores: deque[float] = deque(maxlen=SCORES)
        fingerprints.clear()

    def start(self, birth: Birth) -> Callable[[], Score]:
        """Start judging a new expression. What is asked of it follows from the births that are judged already, so
        that a run takes the same way however many workers there are and however often it was interrupted."""
        known = self.database.evaluation(birth.digest)
        if known is not None:
            return lambda: self._take(known)
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
        """Commit what an evaluation found."""
        found = self._stored(birth, outcome)
        self.database.add_evaluation(found, outcome.seconds, outcome.step_milliseconds, outcome.stages)
        return found

    def _stored(self, birth: Birth, outcome: Outcome) -> StoredEvaluation:
        fitness_now: float | None = None
        reason, metrics, short, equivalent_to = outcome.reason, outcome.metrics, outcome.short, ""
        twin = self._twin(outcome)
        if twin is not None:
            equivalent_to, fitness_now, metrics, short = twin.digest, twin.fitness, twin.metrics, twin.short
            reason = twin.reason and f"{twin.reason}: as its equivalent {twin.digest}"
        elif not reason:
            fitness_now = fitness(metrics, self.baseline, self.settings.plan.weights)
            if "step_time" in self.settings.search.objectives:
                metrics = metrics | {"step_time": outcome.step_milliseconds}
        return StoredEvaluation(
            birth.digest, str(birth.expression), fitness_now, reason, metrics, outcome.magnitudes, outcome.screen,
            equivalent_to, short, outcome.fingerprint,
        )  # fmt: skip

    def _twin(self, outcome: Outcome) -> StoredEvaluation | None:
        """An earlier distiller with the same gradient, also one that was being trained at the same time."""
        if not outcome.fingerprint or "equivalence" not in self.screens:
            return None
        row = self.fingerprints.find(np.frombuffer(outcome.fingerprint, dtype=np.float32), len(self._fingerprinted))
        return None if row is None else self.database.evaluation(self._fingerprinted[row])

    def _take(self, found: StoredEvaluation) -> Score:
        """The verdict on a committed evaluation, which later births are compared with from now on."""
        if "score" in found.short and not found.equivalent_to:
            self._scores.append(found.short["score"])
        if found.fingerprint and not found.equivalent_to and found.screen != "surrogate":
            self._fingerprinted.append(found.digest)
            self.fingerprints.append(np.frombuffer(found.fingerprint, dtype=np.float32), found.fitness)
        self.counts["equivalent" if found.equivalent_to else "rejected" if found.reason else "evaluated"] += 1
        objectives = self.settings.search.objectives
        if found.fitness is None:
            if found.screen == "surrogate":
                return Score(found.short["predicted"], found.reason)
            return Score(REJECTED_FITNESS, found.reason, (REJECTED_FITNESS,) * len(objectives))
        return Score(found.fitness, "", tuple(found.metrics[name] for name in objectives), self._superfluous(found))

    def _superfluous(self, found: StoredEvaluation) -> bool:
        """Whether a distiller is no simpler than the one with the same gradient that was judged before."""
        twin = self.database.evaluation(found.equivalent_to) if found.equivalent_to else None
        return twin is not None and len(found.expression) >= len(twin.expression)


def screen_rows(
    evaluations: Sequence[StoredEvaluation], stages: Mapping[str, tuple[int, float]]
) -> list[dict[str, Any]]:
    """For each screen and the training: how many distillers it was asked about, how many it turned away, and the
    seconds it took."""
    rows = []
    for name in (*(screen for screen in SCREENS if screen != "duplicate"), "training"):
        away = sum(
            bool(e.equivalent_to)
            if name == "equivalence"
            else e.screen == (name if name != "training" else "") and bool(e.reason) and not e.equivalent_to
            for e in evaluations
        )
        asked, seconds = stages.get(name, (0, 0.0))
        rows.append({"name": name, "asked": asked, "turned_away": away, "seconds": seconds})
    return rows


def front(evaluations: Sequence[StoredEvaluation], objectives: Sequence[str]) -> list[StoredEvaluation]:
    """The distillers that no other is better than in every objective, by the first of them."""
    if not objectives:
        return []
    known = [e for e in evaluations if e.fitness is not None and not e.equivalent_to]
    values = {e.digest: tuple(e.metrics[name] for name in objectives) for e in known}

    def beaten(mine: tuple[float, ...]) -> bool:
        return any(other != mine and all(a <= b for a, b in zip(other, mine, strict=True)) for other in values.values())

    return sorted((e for e in known if not beaten(values[e.digest])), key=lambda e: (values[e.digest], e.digest))
