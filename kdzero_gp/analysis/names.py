"""Short names of distillers, for tables that people read."""

from __future__ import annotations

from collections.abc import Sequence

from kdzero_gp.analysis.statistics import names_in, role_of
from kdzero_gp.search.race import RaceResult


def ingredients(expression: str) -> str:
    """The distances of a distiller's terms, each once.

    >>> ingredients("add(times(no(cor(logits)), 10), times(conf(mmd(feat)), 1))")
    'cor+mmd'
    """
    return "+".join(dict.fromkeys(name for name in names_in(expression) if role_of(name) == "distance"))


def evolved_name(rank: int | None, expression: str) -> str:
    """What an evolved distiller is called in a table, with the rank that ``--rank`` takes.

    >>> evolved_name(1, "times(no(cor(logits)), 10)")
    'evolved 1 · cor'
    """
    return " · ".join(filter(None, (f"evolved {rank}" if rank is not None else "evolved", ingredients(expression))))


def names_of(race: Sequence[RaceResult], fresh: Sequence[RaceResult] = ()) -> dict[str, str]:
    """The short name of each competitor of a race, whose table is in order, and of those who are confirmed on ``fresh``
    seeds: an evolved one that did not race is the best one, pruned."""
    ranked = [result for result in race if result.entry.kind == "evolved" and not result.reason]
    ranks = {result.entry.name: rank for rank, result in enumerate(ranked, 1)}
    names = {
        entry.name: evolved_name(ranks.get(entry.name), entry.expression) if entry.kind == "evolved" else entry.title
        for entry in (result.entry for result in race)
    }
    pruned = [r.entry for r in fresh if r.entry.kind == "evolved" and r.entry.name not in names]
    return names | {entry.name: f"evolved 1 pruned · {ingredients(entry.expression)}" for entry in pruned}
