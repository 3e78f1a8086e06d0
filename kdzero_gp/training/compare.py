"""Several distillers compared fairly: one budget, the magnitude of each tuned on one grid, the same seeds for all."""

from __future__ import annotations

import hashlib
import json
import math
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from kdzero_gp import tasks
from kdzero_gp.compiler import Expression
from kdzero_gp.engine.machine import Machine
from kdzero_gp.errors import ExpressionError, SettingError
from kdzero_gp.families import Measure, TaskFamily
from kdzero_gp.files import atomic_write
from kdzero_gp.models.digest import content_digest
from kdzero_gp.progress import Progress
from kdzero_gp.training import folder as files
from kdzero_gp.training.api import Pair
from kdzero_gp.training.distillers import Distiller, NamedDistiller
from kdzero_gp.training.jobs import Job, results
from kdzero_gp.training.opening import open_for
from kdzero_gp.training.pictures import gather
from kdzero_gp.training.run import share
from kdzero_gp.training.settings import Settings, TrainingResult
from kdzero_gp.training.shadow import reads_logits
from kdzero_gp.training.verdict import REFERENCE, mean_interval

CROSS_ENTROPY = "ce"
FACTORS = (0.3, 1.0, 3.0)
# Tuning takes this share of the epochs unless it is told otherwise.
TUNING_SHARE = 0.25
# The seed of the tuning, apart from those of the trainings that are compared.
TUNING_SEED = 1_000_000
Kind = TypeVar("Kind", bound="Comparing")


@dataclass(frozen=True)
class ComparisonRow:
    """One distiller: its tuned factor and, over the seeds, means with half-widths of 95 % intervals (Student's t) of
    the family's deciding measure.

    ``difference`` is the mean of the paired differences on test images to ``kd``; ``milliseconds`` of a step and
    ``megabytes`` at the peak are means. ``reason`` says why there are no numbers.
    """

    name: str
    factor: float | None
    seeds: int
    test: float = math.nan
    interval: float = math.nan
    validation: float = math.nan
    difference: float = math.nan
    difference_interval: float = math.nan
    milliseconds: float = math.nan
    megabytes: float = math.nan
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As JSON keeps it; what was not measured is null."""
        return {name: None if value != value else value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Comparison:
    """The table, the best mean on test images first, by the measure that decides; and the folder of everything behind
    it."""

    folder: Path
    rows: tuple[ComparisonRow, ...]
    measure: Measure


def compare(
    pair: Pair,
    distillers: Sequence[str | Path | Expression | NamedDistiller],
    *,
    out: str | Path,
    seeds: int = 5,
    factors: Sequence[float] = FACTORS,
    tune_epochs: int | None = None,
    seed: int = 0,
    machine: Machine | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Train the student with each distiller, with ``kd`` and by cross-entropy alone, on the same ``seeds`` seeds.

    First every distiller's magnitude is tuned: one training of ``tune_epochs`` epochs (default: a quarter of the
    recipe's) for each of ``factors`` times the joint relative magnitude (of an expression: times each term's own
    relative magnitude), judged by the last epoch's validation images. All have the same grid and budget; a single
    factor is taken as it is. Then come
    the trainings that are compared; test images are read at the end of each of these. the machine's
    ``workers`` train at once, with one thread each on a CPU; results do not depend on their
    number.

    Writes ``compare.json``, ``compare.csv`` (one line for each training) and ``compare.png`` into ``out``. The same
    call goes on where an interrupted one stopped; more seeds or distillers add to what is there. Raises KdzeroError.
    """
    if seeds < 1 or not factors:
        raise SettingError("--seeds must be at least 1 and --factors at least one number")
    work = comparing(Comparing, pair, distillers, Path(out), seed, machine, progress)
    return work.run(seeds, tuple(float(factor) for factor in factors), tune_epochs)


def comparing(
    kind: type[Kind],
    pair: Pair,
    distillers: Sequence[str | Path | Expression | NamedDistiller],
    folder: Path,
    seed: int,
    machine: Machine | None,
    progress: Progress | None,
) -> Kind:
    """The trainings of ``kd`` and these distillers, ready to begin. Raises KdzeroError."""
    machine = machine or Machine()
    on_cpu = machine.resolved().type == "cpu"
    try:
        reference = pair.resolve(REFERENCE)
    except ExpressionError:  # detectors have no softmax over classes
        reference = []
    resolved = [*reference, *pair.resolve(*distillers)]
    work = kind(pair, resolved, folder, seed, progress or Progress())
    work.machine = replace(machine, threads=machine.threads or 1) if on_cpu else machine
    work.workers = machine.resolved_workers()
    return work


class Comparing:
    """Trainings of one pair with several distillers: what comparisons of every kind have in common."""

    machine: Machine
    workers: int

    def __init__(self, pair: Pair, distillers: list[Distiller], folder: Path, seed: int, progress: Progress):
        self.pair, self.family = pair, tasks.get(pair.task).family
        self.distillers = _distinct(distillers)
        self.folder = folder
        self.seed = seed
        self.progress = progress

    def run(self, seeds: int, factors: tuple[float, ...], tune_epochs: int | None) -> Comparison:
        """The comparison as a list of verbs."""
        alone = self.pair.settings(self.seed)
        epochs = max(1, round(alone.recipe.epochs * TUNING_SHARE)) if tune_epochs is None else tune_epochs
        asked = self.pair.taught(self.seed).as_dict()
        asked |= {"factors": list(factors), "tune_epochs": epochs, "shadow": self.pair.shadow}
        self.claim("comparison", asked)
        # one magnitude needs no choice
        tuned = self._tune(factors, epochs) if len(factors) > 1 else {}
        best: dict[str, float | None] = dict.fromkeys((distiller.name for distiller in self.distillers), factors[0])
        best = self.best_of(tuned) if tuned else best
        trained = self._train(seeds, best)
        rows = table(trained, best, self.family.deciding)
        self._write(asked, tuned, trained, rows)
        self._show(rows, best)
        (self.folder / files.TEACHER).unlink(missing_ok=True)
        return Comparison(self.folder, tuple(rows), self.family.deciding)

    def claim(self, kind: str, asked: dict[str, Any]) -> None:
        """Take the folder for this comparison; data and weights must be those that it was begun with. Raises
        KdzeroError."""
        files.claim(self.folder, kind, asked)
        self.account = open_for(self.pair.settings(self.seed), torch.device("cpu")).account
        for line in self.account.lines():
            self.progress.note(line)
        files.check_content(self.folder, content_digest(self.pair.teacher_weights or ""), self.account)

    def best_of(self, tuned: dict[str, dict[float, TrainingResult]]) -> dict[str, float | None]:
        """Every distiller's best factor; None where none could be trained."""
        best = {name: _best(found, self.family) for name, found in tuned.items()}
        grid = {factor for found in tuned.values() for factor in found}
        outer = [name for name, factor in best.items() if len(grid) > 2 and factor in (min(grid), max(grid))]
        if outer:
            self.progress.note(f"best at an end of the grid, which might go further with --factors: {', '.join(outer)}")
        return best

    def _share(self) -> None:
        """The teacher is asked once for all trainings, where the recipe allows that."""
        shadowed = next((d for d in self.distillers if reads_logits(d.source)), self.distillers[0])
        settings = self._settings(shadowed, self.seed, None, 1.0)
        sources = [distiller.source for distiller in self.distillers]
        precision = share(settings, sources, self.folder / files.TEACHER, self.machine, self.progress)
        self.machine = replace(self.machine, precision=precision)

    def _tune(self, factors: tuple[float, ...], epochs: int) -> dict[str, dict[float, TrainingResult]]:
        """Every distiller at every factor, in the short budget."""
        found: dict[str, dict[float, TrainingResult]] = {distiller.name: {} for distiller in self.distillers}
        wanted = [(distiller, factor) for distiller in self.distillers for factor in factors]
        jobs = []
        for distiller, factor in wanted:
            settings = self._settings(distiller, TUNING_SEED + self.seed, _mode(distiller), factor)
            settings = replace(settings, recipe=settings.recipe.with_epochs(epochs), validate=True)
            place = self.folder / "tuning" / f"{_slug(distiller)}-{factor:g}"
            shared = (self.folder / files.TEACHER, self.account) if self.pair.validate else (None, None)
            jobs.append(Job(settings, place, *shared))
        for index, result in self._results("tuning magnitudes", jobs):
            distiller, factor = wanted[index]
            found[distiller.name][factor] = result
        return found

    def _train(self, seeds: int, factors: dict[str, float | None]) -> dict[str, dict[int, TrainingResult]]:
        """Everything on every seed; a distiller that could not be tuned is left out."""
        usable = [distiller for distiller in self.distillers if factors[distiller.name] is not None]
        numbers = [self.seed + index for index in range(seeds)]
        return {name: {} for name in (CROSS_ENTROPY, *factors)} | self._all("trainings", usable, numbers, factors)

    def _all(
        self, what: str, distillers: list[Distiller], numbers: list[int], factors: dict[str, float | None],
        sized: Callable[[Job], Job] = lambda job: job,
    ) -> dict[str, dict[int, TrainingResult]]:  # fmt: skip
        """These distillers, and cross-entropy alone before them, on these seeds; ``sized`` changes a training."""
        wanted = [(entry, number) for number in numbers for entry in [None, *distillers]]
        jobs = [sized(self._job(entry, number, factors)) for entry, number in wanted]
        found: dict[str, dict[int, TrainingResult]] = {n: {} for n in (CROSS_ENTROPY, *(d.name for d in distillers))}
        for index, result in self._results(what, jobs):
            entry, number = wanted[index]
            found[entry.name if entry else CROSS_ENTROPY][number] = result
        return {name: dict(sorted(of_seed.items())) for name, of_seed in found.items()}

    def _job(self, distiller: Distiller | None, seed: int, factors: dict[str, float | None]) -> Job:
        place = self.folder / "trainings"
        if distiller is None:
            return Job(self.pair.settings(seed), place / f"{CROSS_ENTROPY}-seed{seed}", account=self.account)
        settings = self._settings(distiller, seed, _mode(distiller), factors[distiller.name] or 1.0)
        return Job(settings, place / f"{_slug(distiller)}-seed{seed}", self.folder / files.TEACHER, self.account)

    def _settings(self, distiller: Distiller, seed: int, mode: str | None, factor: float) -> Settings:
        """A training's settings; a shadow head is for those distillers alone that read logits."""
        settings = self.pair.distilling(distiller, seed, mode, factor)
        return settings if settings.shadow is None or reads_logits(distiller.source) else replace(settings, shadow=None)

    def _results(self, what: str, jobs: list[Job]) -> Iterable[tuple[int, TrainingResult]]:
        if self.machine.precision is None and any(files.read_result(job.folder) is None for job in jobs):
            self._share()
        self.progress.begin(what, len(jobs))
        try:
            for index, result in results(jobs, self.machine, self.workers):
                self.progress.advance()
                yield index, result
        finally:
            self.progress.end()

    def _show(self, rows: list[ComparisonRow], factors: dict[str, float | None]) -> None:
        """Predictions of the first seed: the teacher's, by cross-entropy alone, and with the best distiller."""
        taught = next((row.name for row in rows if row.name != CROSS_ENTROPY and not row.reason), None)
        if taught is not None:
            distiller = next(d for d in self.distillers if d.name == taught)
            alone, job = self._job(None, self.seed, factors), self._job(distiller, self.seed, factors)
            gather(self.folder, alone.folder, job.folder, taught)

    def _write(
        self,
        asked: dict[str, Any],
        tuned: dict[str, dict[float, TrainingResult]],
        trained: dict[str, dict[int, TrainingResult]],
        rows: list[ComparisonRow],
    ) -> None:
        from kdzero_gp.training.figure import draw

        content = {
            "settings": asked,
            "distillers": {d.name: d.source for d in self.distillers},
            "tuning": {name: {f"{f:g}": r.as_dict() for f, r in found.items()} for name, found in tuned.items()},
            "trainings": {name: {str(s): r.as_dict() for s, r in found.items()} for name, found in trained.items()},
            "table": [row.as_dict() for row in rows],
        }
        atomic_write(self.folder / "compare.json", json.dumps(content, indent=1, ensure_ascii=False))
        factor = {row.name: row.factor for row in rows}
        lines = [
            {"distiller": name, "seed": seed, "factor": factor.get(name)} | result.row()
            for name, found in trained.items()
            for seed, result in found.items()
        ]
        files.write_log(self.folder, lines, "compare.csv")
        title = f"{self.pair.teacher} → {self.pair.student}, {self.pair.task}"
        draw(rows, self.family.deciding, self.folder / "compare.png", title)


def _distinct(distillers: list[Distiller]) -> list[Distiller]:
    """Each distiller once. Raises SettingError when two share a name, or one has the name of the cross-entropy."""
    found: dict[str, Distiller] = {}
    for distiller in distillers:
        known = found.setdefault(distiller.name, distiller)
        if known.source != distiller.source or distiller.name == CROSS_ENTROPY:
            raise SettingError(f"two distillers are called {distiller.name!r}; give one of the files another name")
    return list(found.values())


def _mode(distiller: Distiller) -> str:
    """What a factor multiplies: published methods, files and winners keep the ratios of their terms."""
    return "relative" if distiller.magnitude == "relative" else "joint"


def _slug(distiller: Distiller) -> str:
    """A folder's name for a distiller: its own as far as it can be, and a digest of its text."""
    name = re.sub(r"[^A-Za-z0-9_.]+", "-", distiller.name).strip("-.")[:40]
    return f"{name}-{hashlib.sha256(distiller.source.encode()).hexdigest()[:8]}"


def _best(found: dict[float, TrainingResult], family: TaskFamily) -> float | None:
    """The factor that did best on validation images after the last epoch; None when all failed."""
    usable = [factor for factor in sorted(found) if not found[factor].reason]
    return min(usable, key=lambda factor: family.order(found[factor].last_validation)) if usable else None


def table(
    trained: dict[str, dict[int, TrainingResult]], factors: dict[str, float | None], measure: Measure,
    images: str = "test",
) -> list[ComparisonRow]:  # fmt: skip
    """The rows, the best mean on ``images`` (test, validation) first; what has no numbers comes last. Intervals and
    differences are of these images, and test images are not looked at for others."""
    kd = trained.get(REFERENCE, {})
    rows = [_row(name, factors.get(name), found, kd, measure.name, images) for name, found in trained.items()]
    return sorted(rows, key=lambda row: measure.key(row.test if images == "test" else row.validation))


def _row(
    name: str,
    factor: float | None,
    found: dict[int, TrainingResult],
    kd: dict[int, TrainingResult],
    measure: str,
    images: str,
) -> ComparisonRow:
    bad = [result.reason for result in found.values() if result.reason]
    if bad or not found:
        reason = bad[0] if bad else "no factor of the grid could be trained"
        return ComparisonRow(name, factor, len(found), reason=reason)
    values = {seed: getattr(result, images)[measure] for seed, result in found.items()}
    validation = [result.validation[measure] for result in found.values() if result.validation]
    paired = [
        value - getattr(kd[seed], images)[measure]
        for seed, value in values.items()
        if name != REFERENCE and seed in kd and not kd[seed].reason
    ]
    (mean, half), (difference, difference_half) = mean_interval([*values.values()]), mean_interval(paired)
    return ComparisonRow(
        name=name,
        factor=factor,
        seeds=len(found),
        test=mean if images == "test" else math.nan,
        interval=half,
        validation=mean_interval(validation)[0],
        difference=difference,
        difference_interval=difference_half,
        milliseconds=statistics.fmean(result.step_milliseconds or math.nan for result in found.values()),
        megabytes=statistics.fmean(result.peak_megabytes or math.nan for result in found.values()),
    )
