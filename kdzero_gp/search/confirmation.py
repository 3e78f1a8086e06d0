"""The winner of many is flattered: it is trained again on seeds that nothing was chosen by, beside the best published
method, and a verdict says in plain words what is left of its lead."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdzero_gp.common import ALONE
from kdzero_gp.families import Measure
from kdzero_gp.search.race import TEST, Competitor, RaceResult, by_seed, mean_interval, result_of, standings
from kdzero_gp.search.settings import RunSettings
from kdzero_gp.search.storage import Database, StoredMeasurement

# The kind of measurement.
FRESH = "fresh"
REFERENCE = "kd"


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


@dataclass(frozen=True)
class Verdict:
    """What the fresh seeds say. ``winner`` is the one to use: the reference ``kd``, unless another published method, or
    the evolved distiller, is ahead by more than the interval. ``differences``: by name of a rival, the evolved
    distiller's lead, a mean with the half-width of its paired 95 % interval, positive where it is better.

    ``images`` are those that report: test images where there are any, else validation images; the race chose by
    validation images.
    """

    winner: Competitor
    evolved: Competitor | None
    published: Competitor | None
    differences: Mapping[str, tuple[float, float]]
    seeds: int
    race_seeds: int
    measure: Measure
    images: str

    @property
    def lines(self) -> tuple[str, str, str]:
        """Three lines in plain words."""
        name = "the evolved distiller" if self.winner.kind == "evolved" else self.winner.title
        chosen = f"chosen on {self.race_seeds} seeds by validation {self.measure.label}"
        first = f"winner: {name} ({chosen}, confirmed on {self.seeds} fresh seeds by {self.images} images)"
        if self.evolved is None:
            return first, "no evolved distiller finished the race", f"use {self.winner.title}"
        other = ALONE if self.published is None or self.published.name == REFERENCE else self.published.name
        lines = [self._against(rival) for rival in (REFERENCE, other)]
        return first, f"the evolved distiller is {lines[0]}", f"and {lines[1]}"

    def _against(self, rival: str) -> str:
        mean, half = self.differences.get(rival, (math.nan, math.nan))
        title = "cross-entropy alone" if rival == ALONE else rival
        unit = f" {self.measure.difference_unit}".rstrip()
        if math.isnan(mean):
            return f"not compared with {title}"
        if math.isnan(half):
            lead = self.measure.difference(mean)
            return f"{lead}{unit} from {title} on {self.seeds} fresh seeds, too few for an interval (--fresh-seeds)"
        number = f"{self.measure.text(abs(mean), half)}{unit}"
        where = f"on {self.seeds} fresh seeds (paired 95 % interval)"
        if abs(mean) > half:
            return f"{'ahead of' if mean > 0 else 'behind'} {title} by {number} {where}"
        advice = "" if rival == ALONE or self.winner.kind == "evolved" else f": use {self.winner.title}"
        return f"not distinguishable from {title}, {self.measure.difference(mean, half)}{unit} {where}{advice}"


def confirmation(database: Database, settings: RunSettings) -> list[RaceResult]:
    """The finalists' table on the fresh seeds, in the race's order; empty before it is complete."""
    found = by_seed(database, FRESH)
    table = standings(database, settings)
    wanted = finalists(table)
    if not settings.plan.fresh_seeds or not all(
        len(found.get(entry.name, {})) >= settings.plan.fresh_seeds for entry in wanted
    ):
        return []
    kd = found.get(REFERENCE, {})
    return [result_of(entry, found[entry.name], kd, settings.family) for entry in wanted]


def verdict(database: Database, settings: RunSettings) -> Verdict | None:
    """What the fresh seeds say; None where there are none, or nobody finished."""
    table = [result for result in confirmation(database, settings) if not result.reason]
    entries = [result.entry for result in table if result.entry.kind != "baseline"]
    if not entries:
        return None
    found, measure = by_seed(database, FRESH), settings.family.deciding
    reports = TEST + measure.name
    if not all(reports in m.metrics for of_seed in found.values() for m in of_seed.values() if not m.reason):
        reports = measure.name
    evolved = next((entry for entry in entries if entry.kind == "evolved"), None)
    published = next((entry for entry in entries if entry.kind == "zoo"), None)
    kd = next((entry for entry in entries if entry.name == REFERENCE), None)

    def lead(one: Competitor, other: str) -> tuple[float, float]:
        return _lead(found[one.name], found.get(other, {}), reports, measure)

    winner = kd or published or entries[0]
    for rival in (published, evolved):
        if rival is not None and rival is not winner and _clear(*lead(rival, winner.name)):
            winner = rival
    if published is not None and winner is evolved and _clear(*lead(published, evolved.name)):
        winner = published
    rivals = [result.entry.name for result in table if result.entry.kind != "evolved"]
    differences = {name: lead(evolved, name) for name in rivals} if evolved is not None else {}
    plan = settings.plan
    images = "test" if reports.startswith(TEST) else "validation"
    return Verdict(winner, evolved, published, differences, plan.fresh_seeds, plan.race_seeds, measure, images)


def _lead(
    one: Mapping[int, StoredMeasurement], other: Mapping[int, StoredMeasurement], reports: str, measure: Measure
) -> tuple[float, float]:
    """How much better one is than the other, seed by seed."""
    sign = 1.0 if measure.higher_is_better else -1.0
    common = [seed for seed in sorted(one) if seed in other and not one[seed].reason and not other[seed].reason]
    if not common:
        return math.nan, math.nan
    return mean_interval([sign * (one[seed].metrics[reports] - other[seed].metrics[reports]) for seed in common])


def _clear(mean: float, half: float) -> bool:
    """Whether a lead is larger than its interval; of fewer seeds than an interval needs, whether there is one."""
    return mean > (0.0 if math.isnan(half) else half)
