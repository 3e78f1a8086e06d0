"""The winner of the race is pruned by ablation: terms and operations without which it trains as good a student go, and
what is left of it tells what each term contributes. Decided by validation images on seeds of its own, since on the
race's the winner of many is flattered."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kdzero_gp.common import LEAST_VALUES
from kdzero_gp.compiler import Expression, canonical, digest, fits, parse, summed, terms
from kdzero_gp.compiler.checking import KnowledgeTypes
from kdzero_gp.families import Measure
from kdzero_gp.search.race import UNKNOWN, Competitor, best_of, by_seed, standings
from kdzero_gp.search.ranking import operations_in
from kdzero_gp.search.seeds import PRUNING, seeds_of
from kdzero_gp.search.settings import RunSettings
from kdzero_gp.search.storage import Database, StoredMeasurement
from kdzero_gp.training.verdict import mean_interval
from primitives import CATALOGUE

# What the cuts left is compared with the winner on so many times as many other seeds.
CHECKED = 2
# The calibration that leaves every sample its weight.
PLAIN = "no"

# The distillers with one part less, with that part's text.
Smaller = list[tuple[str, Expression]]


@dataclass(frozen=True)
class Cut:
    """A distiller without one of its parts. ``removed``: that part's text; ``cost``: how much better the race's winner
    is on the same seeds, in the deciding measure: mean and half-width of the paired interval."""

    removed: str
    entry: Competitor
    cost: tuple[float, float]


@dataclass(frozen=True)
class Pruning:
    """The race's best evolved distiller (``before``) and what is left of it (``after``). ``cuts``: what went, in turn.
    ``contributions``: what each term gains, by its text: the lead over the same sum without it; empty for a single
    term. ``cost``: how much better ``before`` is than what the cuts left, mean and half-width of the paired interval on
    ``seeds`` that chose no cut; where that is not nothing, ``taken_back`` is what they left, and ``after`` is
    ``before``. ``todo``: what has to be trained on ``seeds`` before more is known."""

    before: Competitor
    after: Competitor
    seeds: Sequence[int]
    cuts: Sequence[Cut] = ()
    contributions: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    todo: Sequence[Expression] = ()
    cost: tuple[float, float] = UNKNOWN
    taken_back: Competitor | None = None

    def as_dict(self) -> dict[str, Any]:
        """For files: expressions, what went with its cost, and what each term contributes (mean, half-width)."""
        return {
            "before": self.before.expression, "after": self.after.expression, "seeds": len(self.seeds),
            "cost": _numbers(self.cost), "taken_back": self.taken_back and self.taken_back.expression,
            "cuts": [{"removed": cut.removed, "cost": _numbers(cut.cost)} for cut in self.cuts],
            "contributions": {text: _numbers(value) for text, value in self.contributions.items()},
        }  # fmt: skip

    def lines(self, measure: Measure) -> list[str]:
        """What went and what each term contributes, in words."""
        unit = f" {measure.difference_unit}".rstrip()
        lines = []
        if self.cuts:
            mean, half = self.cost
            before, left = (terms_text(entry.expression) for entry in (self.before, self.taken_back or self.after))
            which = "taken back since that" if self.taken_back else "which"
            cost = f"changes validation {measure.label} by {measure.difference(-mean, half)}{unit}"
            told = "was not checked" if math.isnan(mean) else cost
            lines.append(f"pruned from {before} to {left}, {which} {told} on {len(self.seeds)} other seeds")
        for text, (mean, half) in self.contributions.items():
            lines.append(
                f"without {text} validation {measure.label} changes by {measure.difference(-mean, half)}{unit}"
            )
        return lines


def _numbers(value: tuple[float, float]) -> list[float | None]:
    return [None if math.isnan(number) else number for number in value]


def terms_text(text: str) -> str:
    """How large an expression is.

    >>> terms_text("times(no(l2(emb)), 1)")
    '1 term of 3 operations'
    """
    count = text.count("times(")
    return f"{count} term{'s' * (count > 1)} of {operations_in(text)} operations"


def pruning(database: Database, settings: RunSettings) -> Pruning | None:
    """How far the race's best evolved distiller is pruned. None where nobody finished the race, or where nothing is
    to be pruned (``plan.prune`` is 0)."""
    bench = database.fact("bench")
    if not settings.plan.prune or bench is None:
        return None
    first = best_of(standings(database, settings), "evolved")
    if first is None:
        return None
    return _Ablation(database, settings, first.entry, settings.shapes(bench).types).result()


def without_a_term(expression: Expression, knowledge: KnowledgeTypes | None = None) -> Smaller:
    """The distillers with one term less, and that term."""
    summands = terms(expression)
    if len(summands) == 1:
        return []
    rest = ([*summands[:place], *summands[place + 1 :]] for place in range(len(summands)))
    return [(str(term), canonical(summed(others))) for term, others in zip(summands, rest, strict=True)]


def without_an_operation(expression: Expression, knowledge: KnowledgeTypes | None = None) -> Smaller:
    """The distillers with one operation less (a transform, or the weights of the samples), each once, and the call of
    that operation."""
    found, seen = [], {digest(expression)}
    summands = terms(expression)
    for place, term in enumerate(summands):
        for removed, shorter in _without_one(term):
            smaller = summed([*summands[:place], shorter, *summands[place + 1 :]])
            if fits(smaller, knowledge) and digest(smaller) not in seen:
                seen.add(digest(smaller))
                found.append((str(removed), canonical(smaller)))
    return found


def _without_one(node: Expression) -> Iterator[tuple[Expression, Expression]]:
    """``node`` without one operation at or below it, and that operation's call."""
    if not node.arguments:
        return
    role, first = CATALOGUE[node.name].role, node.arguments[0]
    if role == "transform" and isinstance(first, Expression):
        yield node, first
    if role == "calibration" and node.name != PLAIN:
        yield node, Expression(PLAIN, node.arguments)
    for place, argument in enumerate(node.arguments):
        if isinstance(argument, Expression):
            for removed, shorter in _without_one(argument):
                yield removed, Expression(node.name, (*node.arguments[:place], shorter, *node.arguments[place + 1 :]))


class _Ablation:
    """One pruning, as far as the measurements go: terms first, then operations, the cheapest cut in each turn, until
    none is free or so many distillers were tried as the plan allows."""

    def __init__(self, database: Database, settings: RunSettings, first: Competitor, knowledge: KnowledgeTypes):
        self.first, self.knowledge, self.run = first, knowledge, settings.search.seed
        self.deciding = settings.family.deciding
        self.seeds = seeds_of(PRUNING, self.run, settings.plan.race_seeds)
        self.found: dict[str, dict[int, StoredMeasurement]] = by_seed(database, PRUNING)
        self.left = settings.plan.prune
        self.entry, self.expression = first, parse(first.expression, knowledge)
        self.cuts: list[Cut] = []
        self.contributions: dict[str, tuple[float, float]] = {}
        # those of the terms before anything went
        self.of_all: dict[str, tuple[float, float]] = {}

    def result(self) -> Pruning:
        todo = [] if self._measured(self.first.name) else [self.expression]
        for ways in (without_a_term, without_an_operation):
            while not todo and (tried := self._tried(ways)):
                todo = [smaller for _, smaller in tried if not self._measured(digest(smaller))]
                if todo or not self._turn(tried, ways is without_a_term):
                    break
        if self.cuts and not todo:
            return self._checked()
        return Pruning(self.first, self.entry, self.seeds, self.cuts, self.contributions, todo)

    def _checked(self) -> Pruning:
        """What the cuts left beside the race's winner, on other seeds: cuts are chosen among many, and each may cost a
        little that its seeds did not show."""
        seeds = seeds_of(PRUNING, self.run, CHECKED * len(self.seeds), first=len(self.seeds))
        both = (self.first.name, parse(self.first.expression, self.knowledge)), (self.entry.name, self.expression)
        todo = [expression for name, expression in both if not self._measured(name, seeds)]
        if todo:
            return Pruning(self.first, self.entry, seeds, self.cuts, self.contributions, todo)
        leads = self._leads(self.first, self.entry, seeds)
        cost = mean_interval(leads) if leads else UNKNOWN
        if _is_nothing(leads):
            return Pruning(self.first, self.entry, seeds, self.cuts, self.contributions, (), cost)
        return Pruning(self.first, self.first, seeds, self.cuts, self.of_all, (), cost, self.entry)

    def _tried(self, ways: Callable[[Expression, KnowledgeTypes], Smaller]) -> Smaller:
        """What a turn compares, as far as the plan allows; terms are compared with one another, so all or none."""
        every = ways(self.expression, self.knowledge)
        return [] if ways is without_a_term and len(every) > self.left else every[: self.left]

    def _turn(self, tried: Smaller, of_terms: bool) -> bool:
        """Make the cheapest of the free cuts; whether there was one."""
        self.left -= len(tried)
        cuts = [cut for removed, smaller in tried if (cut := self._cut(removed, smaller)) is not None]
        if of_terms:
            self.contributions = {cut.removed: mean_interval(self._leads(self.entry, cut.entry)) for cut in cuts}
            self.of_all = self.of_all or self.contributions
        free = [cut for cut in cuts if _is_nothing(self._leads(self.first, cut.entry))]
        if not free:
            return False
        best = min(free, key=lambda cut: (cut.cost[0], len(cut.entry.expression)))
        smaller = parse(best.entry.expression, self.knowledge)
        if of_terms:
            # in the larger sum, until another turn finds them anew: there may be no budget left for one
            several = len(terms(smaller)) > 1
            self.contributions = {t: v for t, v in self.contributions.items() if several and t != best.removed}
        else:
            self._rename(smaller)
        self.cuts.append(best)
        self.entry, self.expression = best.entry, smaller
        return True

    def _rename(self, smaller: Expression) -> None:
        """A term that lost an operation keeps what it was found to contribute, unless it became one with another."""
        before, after = ([str(term) for term in terms(tree)] for tree in (self.expression, smaller))
        gone, new = [t for t in before if t not in after], [t for t in after if t not in before]
        names = {t: t for t in after} | (dict(zip(gone, new, strict=True)) if len(gone) == len(new) else {})
        self.contributions = {names[text]: value for text, value in self.contributions.items() if text in names}

    def _measured(self, name: str, seeds: Sequence[int] = ()) -> bool:
        return all(seed in self.found.get(name, {}) for seed in seeds or self.seeds)

    def _cut(self, removed: str, smaller: Expression) -> Cut | None:
        """None for a distiller that a training failed with."""
        measured = self.found[digest(smaller)]
        if any(measured[seed].reason for seed in self.seeds):
            return None
        entry = Competitor(digest(smaller), "evolved", str(smaller), measured[self.seeds[0]].magnitudes)
        return Cut(removed, entry, mean_interval(self._leads(self.first, entry)))

    def _leads(self, one: Competitor, other: Competitor, seeds: Sequence[int] = ()) -> list[float]:
        """How much better one is than the other, seed by seed; nothing where one failed."""
        sign, name = 1.0 if self.deciding.higher_is_better else -1.0, self.deciding.name
        pairs = [(self.found[one.name][seed], self.found[other.name][seed]) for seed in seeds or self.seeds]
        return [sign * (a.metrics[name] - b.metrics[name]) for a, b in pairs if not (a.reason or b.reason)]


def _is_nothing(leads: Sequence[float]) -> bool:
    """Whether paired leads are no more than one standard error of their mean (the rule of Breiman et al. 1984,
    "Classification and Regression Trees"); where seeds are too few for it, whether there is no lead."""
    if not leads:
        return False
    error = statistics.stdev(leads) / math.sqrt(len(leads)) if len(leads) >= LEAST_VALUES else 0.0
    return statistics.fmean(leads) <= error
