"""Distillers for a pair without a search: from the zoo, earlier runs, their surrogate and a language model, all of them
screened and trained once by the pair's proxy, ranked, and written by the compiler."""

from __future__ import annotations

import json
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, zip_longest
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

import kdzero_gp.compiler as language
from kdzero_gp.compiler import Expression, canonical, digest, pair_shapes, zoo
from kdzero_gp.draw import describe
from kdzero_gp.engine.machine import Machine
from kdzero_gp.errors import ExpressionError, RunError, SettingError
from kdzero_gp.evolution import Birth, Grammar, Score
from kdzero_gp.evolution.variation import MUTATIONS, within_limits
from kdzero_gp.files import atomic_write
from kdzero_gp.objects import find, is_own
from kdzero_gp.progress import Progress
from kdzero_gp.proxy.evaluator import Probe
from kdzero_gp.proxy.executor import Executor
from kdzero_gp.proxy.surrogate import predict
from kdzero_gp.search.candidates import CandidateQueue
from kdzero_gp.search.export import export_entry
from kdzero_gp.search.model import model_proposer, must_be_askable
from kdzero_gp.search.prepare import PROXY_TASK, TEACHER
from kdzero_gp.search.race import Competitor, diverse
from kdzero_gp.search.ranking import ranking
from kdzero_gp.search.run import Work
from kdzero_gp.search.settings import RunSettings
from kdzero_gp.search.storage import Database, Status, StoredBirth, StoredEvaluation
from kdzero_gp.version import __version__

SUGGESTIONS = "suggestions.json"
# Of each earlier run its best; of all of them variations of which the surrogate takes the most promising.
FROM_RUN, PARENTS, VARIATIONS, PREDICTED = 10, 10, 60, 10
MODEL_CALLS = 3


@dataclass(frozen=True)
class Wish:
    """What is wanted besides the pair: ``count`` distillers, a ``goal`` in words for a language model, the most
    milliseconds of a training step (``step_time``; None: any), and the folders of earlier ``runs`` of the pair to
    learn from; the student, its teacher and the surrogate are the first one's."""

    count: int = 5
    goal: str = ""
    step_time: float | None = None
    runs: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        """Raises SettingError for values that make no sense."""
        if self.count < 1:
            raise SettingError(f"--count must be at least 1, got {self.count}")
        if self.step_time is not None and not self.step_time > 0:
            raise SettingError(f"--step-time must be more than 0 milliseconds, got {self.step_time:g}")


@dataclass(frozen=True)
class Suggestion:
    """A distiller with its ``rank``, why it is suggested (``reason``), and the file that it was written to."""

    rank: int
    expression: str
    source: str
    fitness: float
    metrics: dict[str, float]
    magnitudes: tuple[float, ...]
    step_milliseconds: float
    reason: str
    path: Path


def suggest(
    folder: Path, settings: RunSettings, wish: Wish, machine: Machine, progress: Progress | None = None
) -> list[Suggestion]:
    """Suggest distillers, in a new ``folder``, the best first. Raises KdzeroError."""
    if folder.exists() and any(folder.iterdir()):
        raise RunError(f"{folder} exists and is not empty; choose another --out")
    must_be_askable(settings.llm)
    if is_own(settings.student):
        find(settings.student)  # says how to give it, before workers ask for it
    earlier = _earlier(wish.runs) if wish.runs else None
    folder.mkdir(parents=True, exist_ok=True)
    for run in wish.runs[:1]:
        for name in (TEACHER, PROXY_TASK):
            if (run / name).exists():
                shutil.copy(run / name, folder / name)
    facts = {"settings": settings.as_dict(), "versions": {"kdzero_gp": __version__}}
    with Database.create(folder, facts) as database:
        work = _Suggesting(folder, database, settings, machine, progress or Progress())
        work.wish, work.earlier = wish, earlier
        return work.suggestions()


@dataclass(frozen=True)
class _Earlier:
    """What earlier runs know: their best distillers by turns, those that were turned away, and of the first, whose
    student is used, the gradients of the trained with their fitness."""

    best: list[StoredEvaluation]
    turned_away: list[StoredEvaluation]
    gradients: Any
    fitness: Any


def _earlier(folders: Sequence[Path]) -> _Earlier:
    best, evaluations = [], []
    for folder in folders:
        with Database.read(folder) as database:
            settings = RunSettings.from_dict(database.fact("settings"))
            best.append([ranked.evaluation for ranked in ranking(database, settings)])
            evaluations.append(database.evaluations())
    by_turns = {e.digest: e for place in zip_longest(*best) for e in place if e is not None}
    known = [e for e in evaluations[0] if e.fingerprint and e.status is Status.TRAINED]
    turned_away = [e for found in evaluations for e in found if e.status in (Status.REJECTED, Status.FAILED)]
    gradients = [np.frombuffer(e.fingerprint, dtype=np.float32).astype(np.float64) for e in known]
    fitness = np.array([float(e.fitness or 0.0) for e in known])
    return _Earlier(list(by_turns.values()), turned_away, np.array(gradients), fitness)


class _Suggesting(Work):
    """A run whose births are suggestions."""

    wish: Wish
    earlier: _Earlier | None

    def suggestions(self) -> list[Suggestion]:
        """The steps of it."""
        self.bench = self._prepare()
        family = self.bench.family
        self.shapes = pair_shapes(self.bench.student_shapes, self.bench.teacher_shapes, family.knowledge)
        types = self.shapes.types
        allowed = self.settings.searched(types, types) if self.settings.knowledge else list(types)
        self.grammar = Grammar(self.settings.space, {name: types[name] for name in allowed})
        with Executor(self.folder / PROXY_TASK, self.workers, self.device, self.timeout, self.engine) as self.executor:
            self._measure_baseline()
            self._judge(self._candidates())
        self.database.set_fact("finished", True)
        return self._written()

    # --- candidates -----------------------------------------------------------------------------------------

    def _candidates(self) -> list[tuple[str, Expression]]:
        """Where each distiller comes from, and itself; none comes twice."""
        found: dict[str, tuple[str, Expression]] = {}
        sources: list[Callable[[], Iterator[tuple[str, Expression]]]] = [self._published]
        sources += [self._of_run, self._by_surrogate] if self.earlier is not None else []
        sources += [self._of_model] if self.settings.llm.asked else []
        for source in sources:
            before = len(found)
            for name, expression in source():
                simplest = within_limits(expression, self.grammar)
                if simplest is not None:
                    found.setdefault(digest(simplest), (name, simplest))
            words = source.__name__.strip("_").replace("_", " ")
            self.progress.note(f"{len(found) - before} candidates {_SOURCES[words]}")
        if not self.settings.llm.asked:
            ignored = "; --goal changes nothing without one" if self.wish.goal else ""
            self.progress.note(f"no language model is asked (--llm-url){ignored}")
        return list(found.values())

    def _published(self) -> Iterator[tuple[str, Expression]]:
        fitting = self.fitting()
        relative = self._relative_zoo(fitting) if self.settings.magnitude == "relative" else {}
        for name, expression in fitting.items():
            if self.grammar.contains(expression):
                text = relative.get(name)
                yield name, expression if text is None else language.parse(text, self.shapes.types)

    def _parsed(self, evaluation: StoredEvaluation) -> Expression | None:
        """An earlier run's distiller, if it is made of what is allowed, and of what the first run has."""
        try:
            expression = language.parse(evaluation.expression, self.shapes.types)
        except ExpressionError:
            return None
        return expression if self.grammar.contains(expression) else None

    def _best(self) -> list[Expression]:
        assert self.earlier is not None
        return [one for one in map(self._parsed, self.earlier.best) if one is not None]

    def _of_run(self) -> Iterator[tuple[str, Expression]]:
        for expression in self._best()[: FROM_RUN * len(self.wish.runs)]:
            yield "an earlier run", expression

    def _by_surrogate(self) -> Iterator[tuple[str, Expression]]:
        """Variations of the earlier runs' best that the first one's surrogate finds the most promising."""
        assert self.earlier is not None
        generator, parents = Random(self.settings.search.seed), self._best()[:PARENTS]
        drawn: dict[str, Expression] = {}
        for number in range(VARIATIONS if parents else 0):
            mutation, _ = list(MUTATIONS.values())[number % len(MUTATIONS)]
            nodes = mutation(self.grammar.to_nodes(generator.choice(parents)), self.grammar, generator)
            child = within_limits(self.grammar.to_expression(nodes), self.grammar)
            if child is not None:
                drawn.setdefault(digest(child), child)
        children = list(drawn.values())
        screens = ("finite", "rejection")
        probes = [
            Probe(self._source(child), self.settings.search.seed, self.settings.magnitude, screens)
            for child in children
        ]
        scores = []
        for place, probed in self.executor.map(probes):
            if probed.reason:
                continue
            gradient = np.frombuffer(probed.fingerprint, dtype=np.float32).astype(np.float64)
            prediction = predict(gradient, self.earlier.gradients, self.earlier.fitness)
            if prediction is not None:
                scores.append((prediction.fitness, place))
        for _, place in sorted(scores)[:PREDICTED]:
            yield "the surrogate", children[place]

    def _of_model(self) -> Iterator[tuple[str, Expression]]:
        bench = {"student_shapes": self.bench.student_shapes, "teacher_shapes": self.bench.teacher_shapes}
        proposer = model_proposer(self.settings, self.database, self.grammar, bench)
        assert proposer is not None
        proposer.goal = self.wish.goal
        if self.earlier is not None:
            allowed = [e for e in self.earlier.best if self._parsed(e) is not None]
            turned_away = [e for e in self.earlier.turned_away if self._parsed(e) is not None]
            for e in (*turned_away, *allowed[:FROM_RUN]):
                proposer.settled("", e.expression, e.fitness, e.reason, False)
        for call in range(MODEL_CALLS):
            for expression in proposer.call(call):
                yield "the language model", expression
        for reason, count in proposer.useless.items():
            self.progress.note(f"of the language model's answers {count} useless: {reason}")
        if proposer.correspondence.stopped:
            self.progress.note(f"the language model was asked no more, since {proposer.correspondence.stopped}")

    # --- verdicts -------------------------------------------------------------------------------------------

    def _judge(self, candidates: list[tuple[str, Expression]]) -> None:
        """Screen and train all of them; births and verdicts are kept as a run's."""
        settings = replace(self.settings, screens=tuple(s for s in self.settings.screens if s != "surrogate"))
        queue = CandidateQueue(
            settings, self.database, self.executor, self.baseline, self.short_baseline, self._source,
            self.bench.steps("proxy"),
        )  # fmt: skip
        self.sources: dict[str, str] = {}
        self.progress.begin("candidates", len(candidates))
        waiting: deque[Callable[[], Score]] = deque()
        for number, (source, expression) in enumerate(candidates):
            name = digest(expression)
            self.sources[name] = source
            operator = {"the language model": "model", "an earlier run": "run", "the surrogate": "surrogate"}
            birth = Birth(number, 0, operator.get(source, "zoo"), (), expression, name)
            waiting.append(queue.start(birth).score)
            self.database.add_births([StoredBirth(number, 0, birth.operator, (), str(expression), name, None)])
            if len(waiting) > 2 * self.workers:
                waiting.popleft()()
                self.progress.advance()
        while waiting:
            waiting.popleft()()
            self.progress.advance()
        self.progress.end()

    def _written(self) -> list[Suggestion]:
        """The best that keep the limits and are no near twins, each as a file."""
        evaluations = [e for e in self.database.evaluations() if e.status is Status.TRAINED]
        times = self.database.step_times()
        kd = next((e.fitness for e in evaluations if self.sources[e.digest] == "kd"), None)
        fast = [e for e in evaluations if times[e.digest] <= (self.wish.step_time or float("inf"))]
        if not fast:
            raise SettingError(
                f"none of {len(evaluations)} candidates keeps the limits; allow more of --step-time, --loss-memory or "
                f"--knowledge (why they were turned away: kdzero-gp show {self.folder})"
            )
        found = []
        for rank, e in enumerate(islice(diverse(fast), self.wish.count), 1):
            path = self.folder / f"distiller_{rank}.py"
            export_entry(self.folder, self.database, self._competitor(e), path)
            found.append(Suggestion(
                rank, e.expression, self.sources[e.digest], float(e.fitness or 0.0), e.metrics, e.magnitudes,
                times[e.digest], self._reason(e, times[e.digest], kd), path,
            ))  # fmt: skip
        rows = [vars(one) | {"path": one.path.name} for one in found]
        atomic_write(self.folder / SUGGESTIONS, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
        return found

    def _competitor(self, e: StoredEvaluation) -> Competitor:
        kind = "zoo" if self.sources[e.digest] in zoo else "evolved"
        return Competitor(e.digest, kind, e.expression, e.magnitudes, e.fitness)

    def _reason(self, e: StoredEvaluation, milliseconds: float, kd: float | None) -> str:
        """Why a distiller is suggested: what it does, where it comes from, and what was measured."""
        source = self.sources[e.digest]
        entry = zoo.entries.get(source)
        words = f"the published method {source} ({entry.reference})" if entry else source
        measure = self.settings.family.of_proxies
        against = "" if kd is None or source == "kd" else f", kd's is {kd:.3f}"
        return (
            f"{describe(canonical(language.parse(e.expression, self.shapes.types)), self.shapes.types)} "
            f"It comes from {words}. Its gradient reaches the student and leads to the teacher; one proxy training on "
            f"this pair gives it the fitness {e.fitness:.3f} (cross-entropy alone: 1{against}) and a validation "
            f"{measure.label} of {measure.text(e.metrics[measure.name])} {measure.unit}; its loss keeps "
            f"{e.metrics['memory']:.2f} MiB for a batch, a step took {milliseconds:.1f} ms."
        ).replace(" ;", ";")


_SOURCES = {
    "published": "from the published methods", "of run": "from earlier runs",
    "by surrogate": "that the surrogate finds promising", "of model": "from the language model",
}  # fmt: skip
