"""The kinds of training besides the candidates' own, and their seeds: what chooses shares none with what confirms."""

from __future__ import annotations

RACE, BASELINE, FRESH, PRUNING, HEAT = "race", "baseline", "fresh", "pruning", "heat"
# Where each kind begins; a run has a thousand of each.
_FIRST = {RACE: 2_000_000, BASELINE: 3_000_000, FRESH: 4_000_000, PRUNING: 5_000_000, HEAT: 6_000_000}


def seeds_of(kind: str, run: int, count: int, first: int = 0) -> list[int]:
    """The seeds of a kind with the indices ``first``, ``first`` + 1, … of the run with the seed ``run``.

    >>> seeds_of(RACE, 7, 2), seeds_of(PRUNING, 0, 1, first=5)
    ([2007000, 2007001], [5000005])
    """
    start = _FIRST[kind] + 1000 * run + first
    return list(range(start, start + count))
