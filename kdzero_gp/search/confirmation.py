"""The winner of many is flattered: it is trained again on seeds that nothing was chosen by, beside the best published
method, and a verdict says in plain words what is left of its lead."""

from __future__ import annotations

from collections.abc import Sequence

from kdzero_gp.common import ALONE
from kdzero_gp.search.race import TEST, Competitor, RaceResult, by_seed, result_of, standings
from kdzero_gp.search.settings import RunSettings
from kdzero_gp.search.storage import Database
from kdzero_gp.training.verdict import REFERENCE, Verdict, judge

# The kind of measurement.
FRESH = "fresh"


def fresh_seed(seed: int, index: int) -> int:
    """The confirmation's seeds: apart from those of candidates, baselines and races."""
    return 3_000_000 + 1000 * seed + index


def fresh_seeds(settings: RunSettings) -> list[int]:
    """All of them."""
    return [fresh_seed(settings.search.seed, index) for index in range(settings.plan.fresh_seeds)]


def finalists(table: Sequence[RaceResult]) -> list[Competitor]:
    """Who is confirmed, from the race's table: its best evolved distiller, its best published method, ``kd``, and
    cross-entropy alone."""
    raced = [result.entry for result in table if not result.reason]
    firsts = [next((e for e in raced if e.kind == kind), None) for kind in ("evolved", "zoo", "baseline")]
    found = [firsts[0], firsts[1], next((e for e in raced if e.name == REFERENCE), None), firsts[2]]
    return list({entry.name: entry for entry in found if entry is not None}.values())


def winner(database: Database, settings: RunSettings) -> Competitor | None:
    """Who won the run, a published method perhaps: whom the fresh seeds name, or without them the race's best evolved
    distiller. None where nobody finished."""
    table = [result for result in standings(database, settings) if not result.reason]
    named = verdict(database, settings)
    if named is not None:
        return next(result.entry for result in table if result.entry.name == named.winner)
    return next((result.entry for result in table if result.entry.kind == "evolved"), None)


def confirmation(database: Database, settings: RunSettings) -> list[RaceResult]:
    """The finalists' table on the fresh seeds, in the race's order; empty before it is complete."""
    found, seeds = by_seed(database, FRESH), fresh_seeds(settings)
    wanted = finalists(standings(database, settings)) if seeds else []
    if not all(seed in found.get(entry.name, {}) for entry in wanted for seed in seeds):
        return []
    kd = found.get(REFERENCE, {})
    return [result_of(entry, found[entry.name], kd, settings.family) for entry in wanted]


def verdict(database: Database, settings: RunSettings) -> Verdict | None:
    """What the fresh seeds say, by test images where there are any, which have decided nothing so far. None where there
    are no such seeds, or where nobody finished."""
    table = [result for result in confirmation(database, settings) if not result.reason]
    if all(result.entry.kind == "baseline" for result in table):
        return None
    found, measure = by_seed(database, FRESH), settings.family.deciding
    metrics = {result.entry.name: found[result.entry.name] for result in table}
    tested = all(TEST + measure.name in m.metrics for of_seed in metrics.values() for m in of_seed.values())
    reports = TEST + measure.name if tested else measure.name
    samples = {
        name: {seed: m.metrics[reports] for seed, m in of_seed.items() if not m.reason}
        for name, of_seed in metrics.items()
    }
    evolved, published = (
        next((result.entry.name for result in table if result.entry.kind == kind), "") for kind in ("evolved", "zoo")
    )
    images = "test" if tested else "validation"
    chosen_on = settings.plan.race_seeds
    return judge(samples, evolved, published, measure, chosen_on=chosen_on, images=images, alone=ALONE)
