"""The race: the best of a search, the published methods and cross-entropy alone, trained anew on fresh seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from kdzero_gp.common import interval
from kdzero_gp.compiler import digest, zoo
from kdzero_gp.proxy.evaluator import Outcome, Request
from kdzero_gp.search.candidates import front
from kdzero_gp.search.settings import RunSettings
from kdzero_gp.search.storage import Database, StoredMeasurement

CROSS_ENTROPY = "cross-entropy alone"
# Where evolved distillers fail in the race, at most so many times the wanted number are tried.
MOST_TRIED = 3


@dataclass(frozen=True)
class Competitor:
    """One competitor: a name, its kind (``evolved``, ``zoo``, ``baseline``), its distiller and final magnitudes."""

    name: str
    kind: str
    expression: str = ""
    magnitudes: tuple[float, ...] = ()
    fitness: float | None = None


@dataclass(frozen=True)
class RaceResult:
    """An entry's results over the race's seeds: means, and half-widths of 95 % intervals (Student's t)."""

    entry: Competitor
    seeds: int
    accuracy: float = math.nan
    accuracy_interval: float = math.nan
    cross_entropy: float = math.nan
    test_accuracy: float = math.nan
    test_interval: float = math.nan
    difference_to_kd: float = math.nan
    difference_interval: float = math.nan
    reason: str = ""
    accuracies: tuple[float, ...] = field(default=(), repr=False)


def race_seed(seed: int, index: int) -> int:
    """The race's seeds: apart from those of candidates and baselines."""
    return 2_000_000 + 1000 * seed + index


def entries(database: Database, settings: RunSettings) -> list[Competitor]:
    """The competitors: the fittest distillers of the search (with several objectives those of the front) that no
    published method and no other distiller equals, the published methods at their tuned magnitude, and cross-entropy
    alone. For each that failed in the race the next one is taken."""
    published = {digest(expression) for expression in zoo.values()}
    evaluations = database.evaluations()
    ranked = front(evaluations, settings.search.objectives) or evaluations
    failed = {found.name for found in database.measurements("race") if found.reason}
    evolved: list[Competitor] = []
    for e in ranked:
        if e.fitness is None or e.equivalent_to or e.digest in published:
            continue
        standing = sum(entry.name not in failed for entry in evolved)
        if standing == settings.plan.race_top or len(evolved) == MOST_TRIED * settings.plan.race_top:
            break
        evolved.append(Competitor(e.digest, "evolved", e.expression, e.magnitudes, e.fitness))
    known = tuned_zoo(database)
    chosen = sorted(known.values(), key=lambda entry: (entry.fitness is None, entry.fitness, entry.name))
    if settings.plan.race_zoo is not None:
        chosen = [e for index, e in enumerate(chosen) if index < settings.plan.race_zoo or e.name == "kd"]
    return [*evolved, *chosen, Competitor(CROSS_ENTROPY, "baseline", fitness=1.0)]


def tuned_zoo(database: Database) -> dict[str, Competitor]:
    """Each published method at the magnitude that gave the best proxy."""
    best: dict[str, Competitor] = {}
    for found in database.measurements("zoo"):
        if found.reason:
            continue
        fitness = found.metrics["fitness"]
        known = best.get(found.name)
        if known is None or known.fitness is None or fitness < known.fitness:
            expression = str(zoo[found.name])
            best[found.name] = Competitor(found.name, "zoo", expression, found.magnitudes, fitness)
    return best


def unraced(
    database: Database, settings: RunSettings, competitors: Sequence[Competitor]
) -> list[tuple[Competitor, int]]:
    """The entries and seeds that the database has no result of."""
    wanted = [
        (entry, race_seed(settings.search.seed, index))
        for index in range(settings.plan.race_seeds)
        for entry in competitors
    ]
    return [(entry, seed) for entry, seed in wanted if database.measurement("race", entry.name, seed, 1.0) is None]


def run_race(
    database: Database,
    source: Callable[[str, Sequence[float]], str],
    evaluate: Callable[[Sequence[Request], Callable[[int, Outcome], None]], None],
    todo: Sequence[tuple[Competitor, int]],
) -> None:
    """Train entries on seeds."""
    requests = [
        Request(source(e.expression, e.magnitudes) if e.expression else "", seed, "race", "absolute")
        for e, seed in todo
    ]

    def keep(index: int, outcome: Outcome) -> None:
        entry, seed = todo[index]
        found = StoredMeasurement("race", entry.name, seed, 1.0, outcome.reason, outcome.metrics, outcome.magnitudes)
        database.add_measurement(found, outcome.seconds, outcome.step_milliseconds)

    evaluate(requests, keep)


def standings(database: Database, competitors: Sequence[Competitor]) -> list[RaceResult]:
    """The race's table, best mean validation accuracy first (equal ones by cross-entropy). Test accuracy is reported
    beside it and decides nothing."""
    by_name: dict[str, dict[int, StoredMeasurement]] = {}
    for found in database.measurements("race"):
        by_name.setdefault(found.name, {})[found.seed] = found
    kd = by_name.get("kd", {})
    table = [_standing(entry, by_name.get(entry.name, {}), kd) for entry in competitors]
    worst = math.inf
    return sorted(
        table,
        key=lambda s: (-s.accuracy, s.cross_entropy) if not math.isnan(s.accuracy) else (worst, worst),
    )


def _standing(entry: Competitor, found: dict[int, StoredMeasurement], kd: dict[int, StoredMeasurement]) -> RaceResult:
    good = {seed: one.metrics for seed, one in sorted(found.items()) if not one.reason}
    bad = [one.reason for one in found.values() if one.reason]
    if not good or bad:
        return RaceResult(entry, len(found), reason=bad[0] if bad else "not raced yet")
    accuracies = [one["accuracy"] for one in good.values()]
    tests = [one["test_accuracy"] for one in good.values() if "test_accuracy" in one]
    paired = [
        one["accuracy"] - kd[seed].metrics["accuracy"]
        for seed, one in good.items()
        if seed in kd and not kd[seed].reason
    ]
    return RaceResult(
        entry,
        len(good),
        statistics.fmean(accuracies),
        interval(accuracies),
        statistics.fmean(one["cross_entropy"] for one in good.values()),
        statistics.fmean(tests) if tests else math.nan,
        interval(tests),
        statistics.fmean(paired) if paired else math.nan,
        interval(paired),
        accuracies=tuple(accuracies),
    )
