"""One search from start to exported winner, in a folder of its own. Resuming is running again: what the database
knows is not computed twice, and the search, a function of settings and verdicts, takes the same way."""

from __future__ import annotations

import contextlib
import math
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch

import kdzero_gp.compiler as language
from kdzero_gp.common import ALONE, ALONE_TEXT
from kdzero_gp.compiler import Expression, PairShapes, fits, pair_shapes, source_of, summed, terms, zoo
from kdzero_gp.engine.machine import Machine
from kdzero_gp.errors import RunError, SettingError
from kdzero_gp.evolution import Birth, Grammar, Search
from kdzero_gp.families import TaskFamily
from kdzero_gp.files import atomic_write
from kdzero_gp.models.digest import content_digest
from kdzero_gp.objects import find, is_own
from kdzero_gp.progress import Progress
from kdzero_gp.proxy.evaluator import Probe, Probed, Rung, Train, Trained
from kdzero_gp.proxy.executor import Executor
from kdzero_gp.proxy.fitness import fitness
from kdzero_gp.proxy.task import ProxyTask
from kdzero_gp.search.candidates import CandidateQueue, front
from kdzero_gp.search.config import CONFIG, config_text
from kdzero_gp.search.confirmation import confirmation, finalists, fresh_seeds, verdict, winner
from kdzero_gp.search.connection import LOCK
from kdzero_gp.search.estimate import Estimate, estimate, megabytes
from kdzero_gp.search.export import export_entry
from kdzero_gp.search.extension import extend
from kdzero_gp.search.model import ACCOUNT, model_judge, model_proposer, must_be_askable, tell
from kdzero_gp.search.pictures import Pictures
from kdzero_gp.search.prepare import PROXY_TASK, TEACHER, prepare
from kdzero_gp.search.pruning import Pruning, pruning
from kdzero_gp.search.race import (
    Competitor,
    RaceResult,
    best_of,
    entries,
    heat,
    run_race,
    standings,
    tuned_zoo,
    unraced,
    without_result,
)
from kdzero_gp.search.seeds import BASELINE, FRESH, HEAT, PRUNING, RACE, seeds_of
from kdzero_gp.search.settings import RunSettings
from kdzero_gp.search.storage import DATABASE, Database, StoredBirth, StoredMeasurement
from kdzero_gp.training.verdict import Verdict
from kdzero_gp.version import __version__
from kdzero_gp.workers.crew import crew
from primitives import MAGNITUDES

WINNER = "distiller.py"
# With several objectives, where every distiller that no other beats in all of them is exported.
FRONT = "front"


@dataclass
class RunResult:
    """What a finished run has to say: the race's table, its best evolved distiller, what pruning left of it, the table
    on fresh seeds with the verdict (none without such seeds), and the file of whoever won."""

    folder: Path
    family: TaskFamily
    table: list[RaceResult]
    winner: RaceResult | None
    exported: Path | None
    fresh: list[RaceResult] = field(default_factory=list)
    verdict: Verdict | None = None
    pruning: Pruning | None = None


def start(folder: Path, settings: RunSettings, machine: Machine, progress: Progress | None = None) -> RunResult:
    """Make a new run in ``folder`` (which must be new, or empty) and carry it out. What fails before anything was
    made leaves no run behind, so that the mended command can be given again."""
    if folder.exists() and (not folder.is_dir() or _occupied(folder)):
        if folder.is_dir() and (folder / DATABASE).exists():
            raise RunError(f"{folder} already holds a run; resume it with: kdzero-gp resume {folder}")
        raise RunError(f"{folder} exists and is not a run of kdzero-gp; choose another --out")
    settings = replace(
        settings, precision=machine.precision or settings.precision, threads=machine.threads or settings.threads
    )
    machine.resolved()
    must_be_askable(settings.llm)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the folder {folder}: {error.strerror}; choose another --out") from None
    with Database.create(folder, {"settings": settings.as_dict(), "versions": _versions()}) as database:
        try:
            atomic_write(folder / CONFIG, config_text(settings), "free space or choose another --out")
            return Work(folder, database, settings, machine, progress or Progress()).run()
        except Exception:
            if not any((folder / name).exists() for name in (TEACHER, PROXY_TASK)):
                database.discard()
                (folder / CONFIG).unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    folder.rmdir()
            raise


def _occupied(folder: Path) -> bool:
    """Whether a folder holds more than what a start that was killed at once leaves behind."""
    return any(path.name != LOCK and not path.name.startswith(f".{DATABASE}.") for path in folder.iterdir())


def resume(
    folder: Path, machine: Machine, progress: Progress | None = None, generations: int | None = None
) -> RunResult:
    """Go on with an interrupted run, or repeat the end of a finished one; or for more ``generations``."""
    with Database.open(folder) as database:
        settings = RunSettings.from_dict(database.fact("settings"))
        if is_own(settings.student):
            find(settings.student)  # says how to give it, before workers ask for it
        _must_compute_alike(folder, machine, computed_as(settings, database.fact("bench") or {}))
        settings = extend(database, settings, generations or settings.search.generations)
        return Work(folder, database, settings, machine, progress or Progress()).run()


def computed_as(settings: RunSettings, bench: Mapping[str, Any]) -> RunSettings:
    """The settings with the precision and the threads that the run chose, once it has."""
    if "precision" not in bench:
        return settings
    return replace(settings, precision=bench["precision"], threads=bench.get("threads", settings.threads))


def _must_compute_alike(folder: Path, machine: Machine, settings: RunSettings) -> None:
    """What can change the digits of a result stays as it was when the run started. Raises SettingError."""
    for name in ("precision", "threads"):
        asked, used = getattr(machine, name), getattr(settings, name)
        if asked is not None and asked != used:
            raise SettingError(
                f"{folder} computes with --{name} {used or 'of its own choice'}, so that --{name} {asked} would change "
                "its results; leave it out, or start a new run with it"
            )


def _versions() -> dict[str, str]:
    return {"kdzero_gp": __version__, "torch": torch.__version__, "python": platform.python_version()}


class Work:
    """One run under way: what ``start`` and ``resume`` carry out. Studies override a step of it."""

    def __init__(self, folder: Path, database: Database, settings: RunSettings, machine: Machine, progress: Progress):
        self.folder = folder
        self.database = database
        self.settings = settings
        self.device = machine.resolved().type
        self.workers, self.engine = crew(machine)
        self.timeout = machine.timeout
        self.progress = progress
        self.duplicates = 0
        self.best = math.inf
        # the guest's, as it was told last
        self.account: dict[str, Any] = {}

    def run(self) -> RunResult:
        """The run as a list of verbs."""
        self.bench = self._prepare()
        self.shapes: PairShapes = pair_shapes(
            self.bench.student_shapes, self.bench.teacher_shapes, self.bench.family.knowledge
        )
        self.grammar = Grammar(self.settings.space, self.shapes.types)
        with Executor(self.folder / PROXY_TASK, self.workers, self.device, self.timeout, self.engine) as self.executor:
            self._measure_baseline()
            self._tell_cost()
            self.measure_zoo()
            self._evolve()
            self._heat()
            self._race()
            self._prune()
            self._confirm()
        return self._finish()

    def _prepare(self) -> ProxyTask:
        self._notice_replaced_weights()
        bench = prepare(self.folder, self.settings, torch.device(self.device), self.progress)
        self.database.set_fact("data", bench.account)
        self.database.set_fact("bench", {f"teacher_{name}": value for name, value in bench.teacher.items()} | {
            "precision": str(bench.precision), "threads": bench.threads,
            "student_shapes": bench.student_shapes, "teacher_shapes": bench.teacher_shapes, "layers": bench.layers,
            "teacher_sees": bench.teacher_sees, "teacher_statistics": bench.teacher_statistics,
        })  # fmt: skip
        return bench

    def _notice_replaced_weights(self) -> None:
        """The teacher's outputs are kept in the folder, so that a run goes on as it began; that is told."""
        if self.settings.teacher_weights is None:
            return
        before, now = self.database.fact("weights"), content_digest(self.settings.teacher_weights)
        if before is None:
            self.database.set_fact("weights", now)
        elif now != before:
            self.progress.note(
                f"{self.settings.teacher_weights} changed since this run was begun; it goes on with what that teacher "
                "said then, and another run is needed for the new one"
            )

    # --- evaluations ----------------------------------------------------------------------------------------

    def _source(self, expression: Expression | str, magnitudes: Sequence[float] | None = None) -> str:
        bench = self.bench
        return source_of(
            expression, bench.student_shapes, bench.teacher_shapes, magnitudes, knowledge=bench.family.knowledge
        )

    def _all(self, requests: Sequence[Train], keep: Callable[[int, Trained], None]) -> None:
        """Train in parallel; ``keep`` gets each result as it arrives and must commit it."""
        for index, trained in self.executor.map(requests):
            keep(index, trained)
            self.progress.advance()

    def _measure_baseline(self) -> None:
        """Proxy trainings by cross-entropy alone, which fitness is relative to, and their state at the first rung."""
        count = self.settings.plan.baseline_seeds
        seeds = seeds_of(BASELINE, self.settings.search.seed, count)
        todo = [s for s in seeds if self.database.measurement(BASELINE, ALONE, s, 1.0) is None]

        def keep(index: int, trained: Trained) -> None:
            metrics = trained.metrics | {f"short_{name}": value for name, value in trained.short.items()}
            row = StoredMeasurement(BASELINE, ALONE, todo[index], 1.0, trained.reason, metrics, ())
            self.database.add_measurement(row, trained.seconds, trained.step_milliseconds)

        self.progress.begin(BASELINE, count)
        self.progress.advance(count - len(todo))
        self._all([Train("", s, rung=Rung(self.settings.plan.short)) for s in todo], keep)
        self.progress.end()
        good = [m.metrics for m in self.database.measurements(BASELINE) if not m.reason]
        if not good:
            raise RunError("the student cannot be trained by cross-entropy alone; check the data and the student")
        # a class that one student alone names has a measure there and nowhere else
        names = [name for name in good[0] if all(name in metrics for metrics in good)]
        means = {name: statistics.fmean(metrics[name] for metrics in good) for name in names}
        self.baseline = {name: value for name, value in means.items() if not name.startswith("short_")}
        self.short_baseline = {name.removeprefix("short_"): v for name, v in means.items() if name.startswith("short_")}
        values = ", ".join(
            f"{measure.label} {measure.text(means[measure.name])} {measure.unit}".strip()
            for measure in self.settings.family.measures
            if measure.name in means
        )
        self.progress.note(f"{ALONE_TEXT}: validation {values} after one proxy training")

    def _estimate(self) -> Estimate:
        return estimate(self.database, self.settings, len(self.fitting()), self.workers)

    def _tell_cost(self) -> None:
        """Before what takes long: how long, and how much room."""
        if not self.database.measurements("zoo") and not self.database.births():
            self.progress.note(f"{self._estimate()}; {megabytes(self.folder):,.0f} MB in {self.folder} so far")

    def _begin(self, stage: str, total: int, done: int = 0) -> None:
        self.progress.later(self._estimate().after(stage))
        self.progress.begin(stage, total)
        self.progress.advance(done)

    def measure_zoo(self) -> None:
        """Tune every published method: one proxy for each listed factor."""
        seed = self.settings.search.seed
        wanted = [(name, factor) for name in self.fitting() for factor in self.settings.plan.zoo_factors]
        todo = [(n, f) for n, f in wanted if self.database.measurement("zoo", n, seed, f) is None]
        if not todo:
            return

        def magnitudes(name: str, factor: float) -> tuple[float, ...]:
            return tuple(factor * magnitude for magnitude in self.zoo_probes[name].magnitudes)

        def keep(name: str, factor: float, trained: Trained) -> None:
            metrics = dict(trained.metrics)
            if not trained.reason:
                metrics["fitness"] = fitness(metrics, self.baseline, self.settings.plan.weights)
                metrics["memory"] = self.zoo_probes[name].memory
            row = StoredMeasurement("zoo", name, seed, factor, trained.reason, metrics, magnitudes(name, factor))
            self.database.add_measurement(row, trained.seconds, trained.step_milliseconds)
            self.progress.advance()

        self._begin("published methods", len(todo))
        usable = [(name, factor) for name, factor in todo if not self.zoo_probes[name].reason]
        for name, factor in todo:
            if (name, factor) not in usable:
                keep(name, factor, Trained(reason=self.zoo_probes[name].reason))
        requests = [Train(self._source(zoo[name]), seed, magnitudes(name, factor)) for name, factor in usable]
        for place, trained in self.executor.map(requests):
            keep(*usable[place], trained)
        self.progress.end()

    @cached_property
    def zoo_probes(self) -> dict[str, Probed]:
        """The gradients of the published methods that can be applied to the pair."""
        mode, seed = "absolute" if self.settings.magnitude == "absolute" else "joint", self.settings.search.seed
        fitting = self.fitting()
        answers = dict(self.executor.map([Probe(self._source(method), seed, mode) for method in fitting.values()]))
        found: dict[str, Probed] = {name: answers[place] for place, name in enumerate(fitting)}
        self.database.set_fact("zoo_terms", {name: [*probed.terms, probed.total] for name, probed in found.items()})
        return found

    def fitting(self) -> dict[str, Expression]:
        """The published methods that can be applied to what the pair exposes."""
        return {name: expression for name, expression in zoo.items() if fits(expression, self.shapes.types)}

    # --- evolution ------------------------------------------------------------------------------------------

    def _seeds(self) -> list[Expression]:
        """The published methods that belong to the space, with magnitudes as the run measures them."""
        if not self.settings.seed_zoo:
            return []
        fitting = self.fitting()
        if self.settings.magnitude == "relative":
            texts = self.database.fact("relative_zoo")
            if texts is None:
                texts = self._relative_zoo(fitting)
                self.database.set_fact("relative_zoo", texts)
            fitting = {name: language.parse(texts[name], self.shapes.types) for name in fitting if name in texts}
        return [expression for expression in fitting.values() if self.grammar.contains(expression)]

    def _relative_zoo(self, methods: dict[str, Expression]) -> dict[str, str]:
        """The published methods with relative magnitudes: each term's share of the gradient times the factor that the
        method was tuned to, snapped to the list. Methods without a gradient on this pair are left out."""
        texts, tuned = {}, tuned_zoo(self.database)
        for name, expression in methods.items():
            probed = self.zoo_probes[name]
            if probed.reason or not probed.total > 0:
                continue
            parts = terms(expression)
            factor = tuned[name].magnitudes[0] / probed.magnitudes[0] if name in tuned and probed.magnitudes[0] else 1.0
            given = [factor * float(t.arguments[1]) for t in parts]  # type: ignore[arg-type]
            shares = [number * norm / probed.total for number, norm in zip(given, probed.terms, strict=True)]
            terms_now = [Expression("times", (t.arguments[0], nearest(s))) for t, s in zip(parts, shares, strict=True)]
            texts[name] = str(language.canonical(summed(terms_now)))
        return texts

    def _keep_birth(self, birth: Birth) -> None:
        b = birth
        row = StoredBirth(b.number, b.generation, b.operator, b.parents, str(b.expression), b.digest, b.duplicate_of)
        self.database.add_births([row])
        self.duplicates += birth.duplicate_of is not None
        self._tell(birth)
        score = self.search.scores[birth.digest]
        if score.measured:
            self.best = min(self.best, score.fitness)
        best = self.best if math.isfinite(self.best) else math.nan
        self.progress.advance(best=best, **self.judge.counts, duplicate=self.duplicates)

    def guest(self) -> Any:
        """Who is asked for births beside the proposers: the language model, if there is one."""
        bench = {"student_shapes": self.bench.student_shapes, "teacher_shapes": self.bench.teacher_shapes}
        return model_proposer(self.settings, self.database, self.grammar, bench)

    def _tell(self, birth: Birth) -> None:
        """Tell the guest what became of a birth, and the user when it is asked no more."""
        guest: Any = self.search.guest
        if guest is None:
            return
        tell(guest, birth, self.database.evaluation(birth.digest))
        if guest.account != self.account:
            if guest.account["stopped"] and not self.account.get("stopped"):
                self.progress.note(f"the search goes on without the language model, since {guest.account['stopped']}")
            self.account = guest.account
            self.database.set_fact(ACCOUNT, self.account)

    def _evolve(self) -> None:
        settings = self.settings.search
        guest = self.guest()
        self.judge = CandidateQueue(
            self.settings, self.database, self.executor, self.baseline, self.short_baseline, self._source,
            self.bench.steps("proxy"), model_judge(self.settings, guest),
        )  # fmt: skip
        if self.workers > (most := settings.under_way):
            self.progress.note(f"--lanes {settings.lanes} keeps at most {most} of {self.workers} workers busy")
        if len(self.database.births()) < settings.births:
            self._tell_of_missing_key()
        self.search = Search(self.grammar, settings, self.judge.start, self._seeds(), self._keep_birth, guest)
        self.judge.population_of = self.search.population_of
        self._begin("births", settings.births)
        last = 0
        for generation in self.search.run():
            last = generation.number + 1
            self.database.set_fact("operations", self._record())
        self.progress.end()
        if last < settings.generations:
            self.progress.note(f"stopped after {settings.patience} generations without a better distiller")

    def _tell_of_missing_key(self) -> None:
        try:
            must_be_askable(self.settings.llm)
        except SettingError as error:
            self.progress.note(f"the search goes on without the language model until it can be asked: {error}")

    def _record(self) -> dict[str, list[float]]:
        """How the children with each operation did: trials, wins, and how often it is drawn now."""
        record, weights = self.search.record, self.search.grammar.weights
        return {name: [record.trials[name], record.wins[name], round(weights[name], 4)] for name in sorted(weights)}

    # --- the end --------------------------------------------------------------------------------------------

    def _heat(self) -> None:
        """Train the fittest once as the race does: what the proxy cannot tell decides who races."""
        seeds = seeds_of(HEAT, self.settings.search.seed, 1)
        todo = without_result(self.database, HEAT, heat(self.database, self.settings), seeds)
        if todo:
            self._begin("heat", len(todo))
            self._train_as_raced(todo, HEAT)
            self.progress.end()

    def _race(self) -> None:
        """Race until as many evolved distillers as wanted came through."""
        competitors, plan = entries(self.database, self.settings), self.settings.plan
        if unraced(self.database, self.settings, competitors):
            start = "a new student" if plan.race_from_scratch else "the warm student, which goes on"
            self.progress.note(f"race: {plan.race.epochs:g} epochs each, from {start}")
        while todo := unraced(self.database, self.settings, competitors):
            total = len(competitors) * self.settings.plan.race_seeds
            self._begin(RACE, total, total - len(todo))
            self._train_as_raced(todo, RACE)
            self.progress.end()
            competitors = entries(self.database, self.settings)

    def _train_as_raced(self, todo: Sequence[tuple[Competitor, int]], kind: str) -> None:
        pictures = Pictures(self.folder, self.bench.family, self.settings.search.seed)
        run_race(self.database, self._source, self._all, todo, kind, pictures.wanted, pictures.keep)

    def _prune(self) -> None:
        """Train the race's best without some of its parts, until what is left needs all of them."""
        while (found := pruning(self.database, self.settings)) is not None and found.todo:
            mode, seed = self.settings.magnitude, self.settings.search.seed
            probes = [Probe(self._source(expression), seed, mode) for expression in found.todo]
            answers: dict[int, Probed] = dict(self.executor.map(probes))
            smaller = []
            for place, expression in enumerate(found.todo):
                entry = Competitor(language.digest(expression), "evolved", str(expression), answers[place].magnitudes)
                if entry.name == found.before.name:
                    smaller.append(found.before)
                elif answers[place].reason:
                    self._not_trained(entry, found.seeds, answers[place].reason)
                else:
                    smaller.append(entry)
            todo = without_result(self.database, PRUNING, smaller, found.seeds)
            self._begin("pruning", len(todo))
            self._train_as_raced(todo, PRUNING)
            self.progress.end()

    def _not_trained(self, entry: Competitor, seeds: Sequence[int], reason: str) -> None:
        for seed in seeds:
            row = StoredMeasurement(PRUNING, entry.name, seed, 1.0, reason, {}, entry.magnitudes)
            self.database.add_measurement(row, 0.0, 0.0)

    def _confirm(self) -> None:
        """Train the race's best on seeds that nothing was chosen by."""
        pruned = pruning(self.database, self.settings)
        wanted, seeds = finalists(standings(self.database, self.settings), pruned), fresh_seeds(self.settings)
        todo = without_result(self.database, FRESH, wanted, seeds)
        if todo:
            total = len(wanted) * len(seeds)
            self._begin("confirmation", total, total - len(todo))
            self._train_as_raced(todo, FRESH)
            self.progress.end()

    def _finish(self) -> RunResult:
        table = standings(self.database, self.settings)
        best = best_of(table, "evolved")
        won, exported = winner(self.database, self.settings), None
        if won is not None:
            exported = self.folder / WINNER
            export_entry(self.folder, self.database, won, exported)
        for number, e in enumerate(front(self.database.evaluations(), self.settings.search.objectives), 1):
            entry = Competitor.of(e)
            (self.folder / FRONT).mkdir(exist_ok=True)
            export_entry(self.folder, self.database, entry, self.folder / FRONT / f"distiller_{number}.py")
        self.database.set_fact("finished", True)
        fresh = confirmation(self.database, self.settings)
        found = verdict(self.database, self.settings)
        pruned = pruning(self.database, self.settings)
        return RunResult(self.folder, self.settings.family, table, best, exported, fresh, found, pruned)


@lru_cache(maxsize=1024)
def nearest(share: float) -> float:
    """The listed magnitude nearest to ``share`` on a logarithmic scale."""
    return min(MAGNITUDES, key=lambda m: abs(torch.log(torch.tensor(m / max(share, 1e-6))).item()))
