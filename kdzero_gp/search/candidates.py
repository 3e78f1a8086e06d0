"""Verdicts on births: from the database where it has them, else from what workers answer, which is committed first."""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import cattrs.preconf.json
import numpy as np

from kdzero_gp.compiler import Expression
from kdzero_gp.engine.gradients import SKETCH
from kdzero_gp.evolution import SCREENED, Birth, Pending, Score, nondominated
from kdzero_gp.evolution.individual import Individual
from kdzero_gp.proxy.evaluator import Answer, Probe, Probed, Request, Rung, Train, Trained
from kdzero_gp.proxy.executor import Executor
from kdzero_gp.proxy.fitness import fitness
from kdzero_gp.proxy.screens import PROBES, SCREENS, Fingerprints
from kdzero_gp.proxy.surrogate import LEAST_JUDGED, LEAST_KNOWN, Prediction, predict
from kdzero_gp.search.connection import undamaged
from kdzero_gp.search.settings import RunSettings
from kdzero_gp.search.storage import Database, Status, StoredAnswer, StoredBirth, StoredEvaluation

# Fitness of a candidate without one: worse than any trained one (5 × guessing, see the evaluator).
WORST_FITNESS = 1e9
# The surrogate's score has to be good among so many latest ones, once there are so many.
SCORES, LEAST_SCORES = 40, 10
Gradient = np.ndarray[Any, np.dtype[np.float32]]
# The surrogate reads no more than so many of the latest fingerprints, so that a birth takes as long in a long run.
LATEST = 4000
# A probe takes as long as so many steps of a training: 8 for digits, 18 for the last stage of a network on CIFAR-100
# (stages of runs that were measured). A constant, since the virtual clock has to give the same order everywhere.
STEPS_OF_A_PROBE = 10
# What stands in place of a screen where a judge turned a distiller away.
JUDGE = "judge"
_CONVERTER = cattrs.preconf.json.make_converter()


@dataclass(eq=False)
class _Candidate:
    """A birth on its way to its verdict. ``known``: how many fingerprints it may be compared with, ``score_bound``
    which scores are trained, and ``rival`` one of the population that a judge compares it with: all follow from the
    births that were judged before this one was bred. ``judged``: why it is less fit than its rival. ``stored``: whether
    an answer was read from the database."""

    birth: Birth
    known: int
    score_bound: float
    rival: Individual | None = None
    source: str = ""
    probed: Probed | None = None
    prediction: Prediction | None = None
    judged: str = ""
    trained: Trained | None = None
    asked: bool = False
    done: bool = False
    stored: bool = False
    stages: dict[str, float] = field(default_factory=dict)

    @property
    def predicted(self) -> bool:
        """Whether no training is needed: a judge prefers the rival, or the surrogate's prediction is enough, since
        others are more promising, or less certain."""
        return bool(self.judged) or (self.prediction is not None and self.prediction.score > self.score_bound)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what the block decides."""
        start = time.perf_counter()
        yield
        self.stages[name] = time.perf_counter() - start


class CandidateQueue:
    """Judges births: asks workers for a probe and, where that leaves something to ask, for a training. What workers say
    is committed when it arrives; what follows from it is decided here alone.

    ``baseline`` and ``short_baseline`` are the metrics of cross-entropy alone after the proxy and after its first part;
    ``source`` gives an expression's source; ``steps`` are those of a proxy training; ``model_judge`` says whether a
    birth's expression is less fit than another one. ``population_of`` gives the population that a birth belongs to."""

    def __init__(
        self,
        settings: RunSettings,
        database: Database,
        executor: Executor,
        baseline: Mapping[str, float],
        short_baseline: Mapping[str, float],
        source: Callable[[Expression], str],
        steps: int = STEPS_OF_A_PROBE,
        model_judge: Callable[[int, str, str], bool] | None = None,
    ):
        self.settings = settings
        self.database = database
        self.executor = executor
        self.baseline, self.short_baseline = dict(baseline), dict(short_baseline)
        self.source = source
        self.model_judge = model_judge
        self.population_of: Callable[[Birth], Sequence[Individual]] = lambda birth: ()
        self.trained_units = SCREENED + max(1.0, steps / STEPS_OF_A_PROBE)
        # with several objectives fitness is not what counts, so it need not be predicted
        unasked = {"surrogate"} if settings.search.objectives else set()
        self.screens = tuple(name for name in settings.screens if name not in unasked)
        self.counts = Counter({status.value: 0 for status in Status})
        self.fingerprints = Fingerprints()
        # their digests, in the same order
        self._fingerprinted: list[str] = []
        # what the surrogate said of the latest distillers
        self._scores: deque[float] = deque(maxlen=SCORES)

    def start(self, birth: Birth) -> Pending:
        """Start judging a new expression. What is asked of it follows from the births that are judged already, so
        that a run takes the same way however many workers there are and however often it was interrupted."""
        candidate = _Candidate(birth, len(self.fingerprints), self._score_bound(), self._rival(birth))
        # asked also where the verdict is known, from the kept answers, so that the budget ends where it did
        self._judge_by_model(candidate)
        stored = self.database.evaluation(birth.digest)
        if stored is not None:
            return Pending(lambda: self._take_stored(stored), lambda: stored.units)
        candidate.source = self.source(birth.expression)
        plan, seed = self.settings.plan, self.settings.search.seed
        screens = tuple(name for name in ("finite", "rejection") if name in self.screens)
        self._ask(candidate, Probe(candidate.source, seed, self.settings.magnitude, screens, plan.loss_memory))
        self._hear_all()
        return Pending(lambda: self._settle(candidate), lambda: self._units(candidate))

    # --- questions and answers ------------------------------------------------------------------------------

    def _ask(self, candidate: _Candidate, request: Request) -> None:
        """Ask a worker, unless it answered before the run was interrupted."""
        name = "probe" if isinstance(request, Probe) else "train"
        stored = self.database.answer(candidate.birth.digest, name)
        if stored is None:
            self.executor.submit(candidate, request)
        else:
            kind: type[Any] = Probed if name == "probe" else Trained
            with undamaged(self.database.path):
                answer = _CONVERTER.structure(stored.answer, kind)
                _gradient(getattr(answer, "fingerprint", b""))
            candidate.stored = True
            self._hear(candidate, answer)

    def _hear_all(self, wait: bool = False) -> None:
        """Take the answers that are there; with ``wait`` at least one."""
        while (arrival := self.executor.arrived(wait)) is not None:
            candidate, answer = arrival
            name = "probe" if isinstance(answer, Probed) else "train"
            self.database.add_answer(StoredAnswer(candidate.birth.digest, name, _CONVERTER.unstructure(answer)))
            self._hear(candidate, answer)
            wait = False

    def _hear(self, candidate: _Candidate, answer: Answer) -> None:
        """Decide what follows from an answer: the training, or nothing more."""
        if isinstance(answer, Trained):
            candidate.trained, candidate.done = answer, True
            return
        candidate.probed = answer
        candidate.done = self._spared(candidate, answer)
        candidate.asked = not candidate.done
        if candidate.asked:
            plan, rung = self.settings.plan, None
            if "short" in self.screens and math.isfinite(plan.short_bound):
                rung = Rung(plan.short, plan.short_bound, self.short_baseline)
            seed = self.settings.search.seed
            self._ask(candidate, Train(candidate.source, seed, answer.magnitudes, rung=rung))

    def _spared(self, candidate: _Candidate, probed: Probed) -> bool:
        """Whether a candidate needs no training."""
        fingerprint = _gradient(probed.fingerprint)
        if "equivalence" in self.screens and len(fingerprint):
            with candidate.stage("equivalence"):
                if self.fingerprints.find(fingerprint, candidate.known) is not None:
                    return True
        if probed.reason:
            return True
        if "surrogate" in self.screens:
            with candidate.stage("surrogate"):
                gradients, values = (
                    part[-LATEST:].astype(np.float64, order="C") for part in self.fingerprints.first(candidate.known)
                )
                asked = fingerprint.astype(np.float64), gradients, values
                candidate.prediction = predict(*asked)
                if candidate.prediction is None and self.settings.judge == "surrogate":
                    self._judge(candidate, predict(*asked, least=LEAST_JUDGED))
        return candidate.predicted

    # --- the judge: ρ of the paper's Algorithm 1 ------------------------------------------------------------------

    def _rival(self, birth: Birth) -> Individual | None:
        """One of the population, drawn by the seed and the birth; the first population has none. One that was turned
        away is no rival."""
        population = self.population_of(birth) if birth.generation and self.settings.judge != "none" else ()
        if not population:
            return None
        rival = Random(f"{self.settings.search.seed}/{birth.number}/judge").choice(population)
        return rival if rival.score.fitness < WORST_FITNESS else None

    def _judge(self, candidate: _Candidate, prediction: Prediction | None) -> None:
        rival = candidate.rival
        if rival is None or prediction is None or prediction.fitness <= rival.score.fitness:
            return
        candidate.prediction = prediction
        numbers = f"fitness {prediction.fitness:.3f} to {rival.score.fitness:.3f}"
        candidate.judged = f"judged less fit than one of the population: {numbers}"

    def _judge_by_model(self, candidate: _Candidate) -> None:
        birth, rival = candidate.birth, candidate.rival
        if self.model_judge is None or rival is None:
            return
        if np.count_nonzero(~np.isnan(self.fingerprints.first(candidate.known)[1])) >= LEAST_KNOWN:
            return
        with candidate.stage(JUDGE):
            if self.model_judge(birth.number, str(birth.expression), str(rival.birth.expression)):
                candidate.judged = "judged less fit than one of the population by the language model"

    def _units(self, candidate: _Candidate) -> float:
        """What a candidate costs on the virtual clock, once its probe tells whether it is trained."""
        while candidate.probed is None:
            self._hear_all(wait=True)
        return self.trained_units if candidate.asked else SCREENED

    def _settle(self, candidate: _Candidate) -> Score:
        while not candidate.done:
            self._hear_all(wait=True)
        with undamaged(self.database.path) if candidate.stored else contextlib.nullcontext():
            return self._take(self._keep(candidate))

    # --- verdicts -------------------------------------------------------------------------------------------

    def _score_bound(self) -> float:
        """The highest score that belongs to the wanted share of the latest distillers and the next one."""
        if len(self._scores) < LEAST_SCORES:
            return math.inf
        place = math.ceil(self.settings.plan.surrogate_share * (len(self._scores) + 1))
        return [*sorted(self._scores), math.inf][place - 1]

    def _keep(self, candidate: _Candidate) -> StoredEvaluation:
        """Commit the verdict."""
        answers = [answer for answer in (candidate.probed, candidate.trained) if answer is not None]
        stages = candidate.stages | {name: value for answer in answers for name, value in answer.stages.items()}
        seconds = sum(candidate.stages.values()) + sum(answer.seconds for answer in answers)
        evaluation = self._verdict(candidate)
        per_step = candidate.trained.step_milliseconds if candidate.trained is not None else 0.0
        self.database.add_evaluation(evaluation, seconds, per_step, stages)
        return evaluation

    def _verdict(self, candidate: _Candidate) -> StoredEvaluation:
        probed, trained, prediction = candidate.probed or Probed(), candidate.trained or Trained(), candidate.prediction
        short = dict(trained.short)
        if prediction is not None:
            # the bound on scores is the surrogate's alone
            short |= {"predicted": prediction.fitness} | ({} if candidate.judged else {"score": prediction.score})
        reason, screen = probed.reason or trained.reason, probed.screen or trained.screen
        metrics, value = {}, None
        earlier = self._equivalent(probed)
        if earlier is not None:
            status, value, metrics, short = Status.EQUIVALENT, earlier.fitness, earlier.metrics, earlier.short
            reason, screen = earlier.reason and f"{earlier.reason}: as its equivalent {earlier.digest}", ""
        elif reason:
            status = Status.REJECTED if screen else Status.FAILED
        elif candidate.predicted:
            status, screen = Status.PREDICTED, JUDGE if candidate.judged else "surrogate"
            reason = candidate.judged
            if prediction is not None and not reason:
                reason = f"predicted well enough from gradients like its own: fitness {prediction.fitness:.3f}"
        else:
            metrics = trained.metrics | {"memory": probed.memory}
            status, value = Status.TRAINED, fitness(metrics, self.baseline, self.settings.plan.weights)
            if "step_time" in self.settings.search.objectives:
                metrics = metrics | {"step_time": trained.step_milliseconds}
        birth = candidate.birth
        return StoredEvaluation(
            birth.digest, str(birth.expression), status, value, reason, metrics, probed.magnitudes, screen,
            earlier.digest if earlier else "", short, probed.fingerprint,
            self.trained_units if candidate.asked else SCREENED,
        )  # fmt: skip

    def _equivalent(self, probed: Probed) -> StoredEvaluation | None:
        """An earlier distiller with the same gradient, also one that was being trained at the same time."""
        if not probed.fingerprint or "equivalence" not in self.screens:
            return None
        gradient = _gradient(probed.fingerprint)
        row = self.fingerprints.find(gradient, len(self.fingerprints))
        return None if row is None else self.database.evaluation(self._fingerprinted[row])

    def _take_stored(self, evaluation: StoredEvaluation) -> Score:
        with undamaged(self.database.path):
            return self._take(evaluation)

    def _take(self, evaluation: StoredEvaluation) -> Score:
        """The verdict on a committed evaluation, which later births are compared with from now on."""
        status = evaluation.status
        if "score" in evaluation.short and status is not Status.EQUIVALENT:
            self._scores.append(evaluation.short["score"])
        if evaluation.fingerprint and status not in (Status.EQUIVALENT, Status.PREDICTED):
            self._fingerprinted.append(evaluation.digest)
            self.fingerprints.append(_gradient(evaluation.fingerprint), evaluation.fitness)
        self.counts[status.value] += 1
        objectives = self.settings.search.objectives
        if status is Status.PREDICTED:
            judged = evaluation.screen == JUDGE
            return Score(evaluation.short.get("predicted", WORST_FITNESS), measured=False, superfluous=judged)
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


def _gradient(content: bytes) -> Gradient:
    """A gradient's folded numbers, or none. Raises ValueError for any other number of bytes."""
    found: Gradient = np.frombuffer(content, dtype=np.float32)
    if len(found) not in (0, SKETCH * PROBES):
        raise ValueError(f"a gradient of {len(content)} bytes")
    return found


def screen_rows(
    evaluations: Sequence[StoredEvaluation], stages: Mapping[str, tuple[int, float]]
) -> list[dict[str, Any]]:
    """For each screen and the training: how many distillers it was asked about, how many it turned away, and the
    seconds it took."""
    turned_away = Counter(_turned_away_by(evaluation) for evaluation in evaluations)
    rows = []
    for name in (JUDGE, *(screen for screen in SCREENS if screen != "duplicate"), "training"):
        if name == JUDGE and not (name in stages or turned_away[name]):
            continue
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
