"""The winner of many is flattered: it is trained again on seeds that nothing was chosen by, beside the best published
method, and a verdict says in plain words what is left of its lead."""

from __future__ import annotations

from collections.abc import Sequence

from kdzero_gp.common import ALONE
from kdzero_gp.search.pruning import Pruning, pruning
from kdzero_gp.search.race import TEST, Competitor, RaceResult, best_of, by_seed, result_of, standings
from kdzero_gp.search.seeds import FRESH, seeds_of
from kdzero_gp.search.settings import RunSettings
from kdzero_gp.search.storage import Database
from kdzero_gp.training.verdict import REFERENCE, Verdict, judge


def fresh_seeds(settings: RunSettings) -> list[int]:
    """The seeds of the confirmation."""
    return seeds_of(FRESH, settings.search.seed, settings.plan.fresh_seeds)


def finalists(table: Sequence[RaceResult], pruned: Pruning | None = None) -> list[Competitor]:
    """Who is confirmed, from the race's table: its best evolved distiller, pruned and as it was, its best published
    method, ``kd``, and cross-entropy alone."""
    reference = next((result for result in table if result.entry.name == REFERENCE and not result.reason), None)
    firsts = [best_of(table, "evolved"), best_of(table, "zoo"), reference, best_of(table, "baseline")]
    found = [*([] if pruned is None else [pruned.after]), *(result.entry for result in firsts if result is not None)]
    return list({entry.name: entry for entry in found}.values())


def winner(database: Database, settings: RunSettings) -> Competitor | None:
    """Who won the run, a published method perhaps: whom the fresh seeds name, or without them the race's best evolved
    distiller, pruned. None where nobody finished."""
    named = verdict(database, settings)
    if named is not None:
        confirmed = confirmation(database, settings)
        return next(result.entry for result in confirmed if result.entry.name == named.winner)
    pruned = pruning(database, settings)
    if pruned is not None:
        return pruned.after
    best = best_of(standings(database, settings), "evolved")
    return None if best is None else best.entry


def confirmation(database: Database, settings: RunSettings) -> list[RaceResult]:
    """The finalists' table on the fresh seeds, in the race's order; empty before it is complete."""
    found, seeds = by_seed(database, FRESH), fresh_seeds(settings)
    wanted = finalists(standings(database, settings), pruning(database, settings)) if seeds else []
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
    firsts = (best_of(table, kind) for kind in ("evolved", "zoo"))
    evolved, published = ("" if first is None else first.entry.name for first in firsts)
    images = "test" if tested else "validation"
    chosen_on = settings.plan.race_seeds
    return judge(samples, evolved, published, measure, chosen_on=chosen_on, images=images, alone=ALONE)
