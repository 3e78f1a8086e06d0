"""The race: the best of a search, the published methods and cross-entropy alone, trained anew on seeds of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from kdzero_gp.common import ALONE, ALONE_TEXT
from kdzero_gp.compiler import digest, zoo
from kdzero_gp.families import TaskFamily
from kdzero_gp.proxy.evaluator import Train, Trained
from kdzero_gp.proxy.surrogate import smoothed
from kdzero_gp.search.candidates import front
from kdzero_gp.search.seeds import HEAT, RACE, seeds_of
from kdzero_gp.search.settings import RunSettings
from kdzero_gp.search.storage import Database, Status, StoredEvaluation, StoredMeasurement
from kdzero_gp.training.verdict import mean_interval

# Where evolved distillers fail in the race, at most so many times the wanted number are tried.
MOST_TRIED = 3
# What a measure is called on the test images.
TEST = "test_"
UNKNOWN = (math.nan, math.nan)
# Two distillers whose gradients at the warm student have a higher cosine are near twins: one of them races.
SAME_DIRECTION = 0.95


@dataclass(frozen=True)
class Competitor:
    """One competitor: a name (a digest, a published method's, or ``alone``), its kind (``evolved``, ``zoo``,
    ``baseline``), its distiller and final magnitudes."""

    name: str
    kind: str
    expression: str = ""
    magnitudes: tuple[float, ...] = ()
    fitness: float | None = None

    @classmethod
    def of(cls, evaluation: StoredEvaluation) -> Competitor:
        """A distiller of the search."""
        e = evaluation
        return cls(e.digest, "evolved", e.expression, e.magnitudes, e.fitness)

    @property
    def title(self) -> str:
        """What it is called in a table."""
        return self.expression if self.kind == "evolved" else ALONE_TEXT if self.name == ALONE else self.name


@dataclass(frozen=True)
class RaceResult:
    """A competitor's results over the race's seeds: for each measure, and ``test_`` each measure, the mean and the
    half-width of its 95 % interval (Student's t). ``difference``: the same of the deciding measure to ``kd``, seed by
    seed, and ``test_difference`` on test images. ``reason``: why there is none."""

    entry: Competitor
    seeds: int
    values: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    difference: tuple[float, float] = UNKNOWN
    reason: str = ""
    test_difference: tuple[float, float] = UNKNOWN

    def value(self, name: str) -> tuple[float, float]:
        """Mean and half-width of a measure; NaN where it was not measured."""
        return self.values.get(name, UNKNOWN)

    @property
    def means(self) -> dict[str, float]:
        """The mean of each measure."""
        return {name: mean for name, (mean, _) in self.values.items()}

    def as_dict(self) -> dict[str, Any]:
        """Everything in one level, for files and data frames; what was not measured is None."""
        numbers = {**self.values, "difference_to_kd": self.difference}
        flat = {name: mean for name, (mean, _) in numbers.items()}
        flat |= {f"{name}_interval": half for name, (_, half) in numbers.items()}
        own = {name: getattr(self.entry, name) for name in ("name", "kind", "expression", "magnitudes", "fitness")}
        rest = {"seeds": self.seeds, "reason": self.reason or None}
        return own | rest | {name: None if math.isnan(value) else value for name, value in flat.items()}


def best_of(table: Iterable[RaceResult], kind: str) -> RaceResult | None:
    """The first of a kind that has a result; None where there is none."""
    return next((result for result in table if result.entry.kind == kind and not result.reason), None)


def entries(database: Database, settings: RunSettings) -> list[Competitor]:
    """The competitors: the best of the search by the heat, or without one the fittest; the published methods at their
    tuned magnitude, where not all race the best of their heat and ``kd``; and cross-entropy alone. For each that failed
    in the race the next one is taken."""
    failed = {measurement.name for measurement in database.measurements(RACE) if measurement.reason}
    evolved: list[Competitor] = []
    for entry in _by_heat(database, settings) or _fittest(database, settings):
        standing = sum(entry.name not in failed for entry in evolved)
        if standing == settings.plan.race_top or len(evolved) == MOST_TRIED * settings.plan.race_top:
            break
        evolved.append(entry)
    published = tuned_zoo(database)
    tuned = sorted(published.values(), key=lambda entry: (entry.fitness is None, entry.fitness, entry.name))
    if settings.plan.race_zoo is not None:
        by_heat = [published[row.name] for row in _ran_heat(database, settings) if row.name in published]
        tuned = [e for index, e in enumerate(by_heat or tuned) if index < settings.plan.race_zoo or e.name == "kd"]
    return [*evolved, *tuned, Competitor(ALONE, "baseline", fitness=1.0)]


def _fittest(database: Database, settings: RunSettings, by_neighbours: bool = False) -> Iterator[Competitor]:
    """The fittest distillers of the search (with several objectives those of the front) that no published method equals
    and that are no near twins of a fitter one; ``by_neighbours``: see ``smoothed``."""
    published = {digest(expression) for expression in zoo.values()}
    evaluations = database.evaluations()
    listed = front(evaluations, settings.search.objectives) or evaluations
    usable = [e for e in listed if e.status is Status.TRAINED and e.digest not in published]
    if by_neighbours and not settings.search.objectives and all(e.fingerprint for e in usable):
        gradients = np.array([np.frombuffer(e.fingerprint, dtype=np.float32) for e in usable], dtype=np.float64)
        usable = [usable[place] for place in smoothed(gradients, np.array([e.fitness for e in usable]))]
    for e in diverse(usable):
        yield Competitor.of(e)


def heat(database: Database, settings: RunSettings) -> list[Competitor]:
    """Who runs the heat: the fittest of the search, as many as the plan says (nobody where all of them race), and the
    published methods where it says so."""
    count = settings.plan.in_heat
    fittest = list(islice(_fittest(database, settings, by_neighbours=True), count)) if count else []
    return [*fittest, *(tuned_zoo(database).values() if settings.plan.zoo_heat else ())]


def _by_heat(database: Database, settings: RunSettings) -> list[Competitor]:
    """The distillers of the heat, the best first."""
    ran = _ran_heat(database, settings) if settings.plan.heat else []
    return [Competitor.of(e) for row in ran if (e := database.evaluation(row.name)) is not None]


def _ran_heat(database: Database, settings: RunSettings) -> list[StoredMeasurement]:
    """The trainings of the heat, the best first; those that failed are left out."""
    ran = [row for row in database.measurements(HEAT) if not row.reason]
    return sorted(ran, key=lambda row: settings.family.order(row.metrics))


def diverse(evaluations: Iterable[StoredEvaluation]) -> Iterator[StoredEvaluation]:
    """Those that are no near twins of one before them, by the cosine of their gradients' fingerprints; one without a
    fingerprint counts as a twin of nobody."""
    kept: list[np.ndarray[Any, np.dtype[np.float32]]] = []
    for e in evaluations:
        gradient = np.frombuffer(e.fingerprint, dtype=np.float32)
        length = float(np.linalg.norm(gradient))
        direction = gradient / length if length > 0 else gradient
        if any(len(other) == len(direction) and float(other @ direction) > SAME_DIRECTION for other in kept):
            continue
        if length > 0:
            kept.append(direction)
        yield e


def tuned_zoo(database: Database) -> dict[str, Competitor]:
    """Each published method at the magnitude that gave the best proxy."""
    best: dict[str, Competitor] = {}
    for measurement in database.measurements("zoo"):
        if measurement.reason:
            continue
        name, fitness = measurement.name, measurement.metrics["fitness"]
        if name not in best or fitness < (best[name].fitness or math.inf):
            best[name] = Competitor(name, "zoo", str(zoo[name]), measurement.magnitudes, fitness)
    return best


def unraced(
    database: Database, settings: RunSettings, competitors: Sequence[Competitor]
) -> list[tuple[Competitor, int]]:
    """The entries and seeds of the race that the database has no result of."""
    seeds = seeds_of(RACE, settings.search.seed, settings.plan.race_seeds)
    return without_result(database, RACE, competitors, seeds)


def without_result(
    database: Database, kind: str, competitors: Sequence[Competitor], seeds: Sequence[int]
) -> list[tuple[Competitor, int]]:
    """The entries and seeds that the database has no measurement of this kind of."""
    wanted = [(entry, seed) for seed in seeds for entry in competitors]
    return [(entry, seed) for entry, seed in wanted if database.measurement(kind, entry.name, seed, 1.0) is None]


def run_race(
    database: Database,
    source: Callable[[str, Sequence[float]], str],
    evaluate: Callable[[Sequence[Train], Callable[[int, Trained], None]], None],
    todo: Sequence[tuple[Competitor, int]],
    kind: str,
    shown: Callable[[str, int], bool],
    show: Callable[[str, str, bytes], None],
) -> None:
    """Train entries on seeds as the race does, and keep the results as measurements of this kind. ``shown``: whether
    the student of a kind and a seed says what it predicts, which ``show`` gets with the kind and the entry's name."""
    requests = [
        Train(
            source(entry.expression, entry.magnitudes) if entry.expression else "", seed, recipe="race",
            shown=shown(kind, seed),
        )
        for entry, seed in todo
    ]  # fmt: skip

    def keep(index: int, trained: Trained) -> None:
        entry, seed = todo[index]
        row = StoredMeasurement(kind, entry.name, seed, 1.0, trained.reason, trained.metrics, entry.magnitudes)
        show(kind, entry.name, trained.said)  # before the row, without which the training is repeated
        database.add_measurement(row, trained.seconds, trained.step_milliseconds)

    evaluate(requests, keep)


def standings(database: Database, settings: RunSettings) -> list[RaceResult]:
    """The race's table, the best mean of the family's deciding measure first (equal ones by the one that breaks ties).
    What was measured on test images is reported beside it and decides nothing."""
    by_name, family = by_seed(database, RACE), settings.family
    kd = by_name.get("kd", {})
    table = [result_of(entry, by_name.get(entry.name, {}), kd, family) for entry in entries(database, settings)]
    return sorted(table, key=lambda result: family.order(result.means))


def by_seed(database: Database, kind: str) -> dict[str, dict[int, StoredMeasurement]]:
    """The measurements of a kind by name and seed."""
    found: dict[str, dict[int, StoredMeasurement]] = {}
    for measurement in database.measurements(kind):
        found.setdefault(measurement.name, {})[measurement.seed] = measurement
    return found


def result_of(
    entry: Competitor,
    measured: Mapping[int, StoredMeasurement],
    kd: Mapping[int, StoredMeasurement],
    family: TaskFamily,
) -> RaceResult:
    """A competitor's line of a table, from its measurements by seed and those of ``kd``."""
    reasons = [measurement.reason for measurement in measured.values() if measurement.reason]
    if reasons or not measured:
        return RaceResult(entry, len(measured), reason=reasons[0] if reasons else "not raced yet")
    metrics = {seed: measurement.metrics for seed, measurement in sorted(measured.items())}
    names = [prefix + measure.name for prefix in ("", TEST) for measure in family.measures]
    samples = {name: [m[name] for m in metrics.values() if name in m] for name in names}
    theirs = {seed: measurement.metrics for seed, measurement in kd.items() if not measurement.reason}

    def to_kd(name: str) -> tuple[float, float]:
        both = [seed for seed in metrics if name in metrics[seed] and name in theirs.get(seed, {})]
        return mean_interval([metrics[seed][name] - theirs[seed][name] for seed in both]) if both else UNKNOWN

    return RaceResult(
        entry,
        len(metrics),
        {name: mean_interval(values) for name, values in samples.items() if values},
        to_kd(family.decides),
        test_difference=to_kd(TEST + family.decides),
    )
