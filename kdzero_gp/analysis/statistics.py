"""What a run's rows say, as numbers: no pixels here, so that numbers are tested without pictures.

Everything is linear in the number of births, apart from one sort by fitness. Distillers are read by their names
alone, in the order of the text, which is cheaper than parsing and enough: a term is one chain.
"""

from __future__ import annotations

import math
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from kdzero_gp.compiler.checking import is_knowledge
from kdzero_gp.search.candidates import counts_of
from kdzero_gp.search.storage import Status, StoredBirth, StoredEvaluation
from primitives import CATALOGUE

# The distillers whose operations count as winning: this share of all that have a fitness.
BEST_SHARE = 0.1
# What has no fitness of its own or of an equivalent.
WITHOUT_RESULT = (Status.REJECTED, Status.FAILED)
QUANTILES = {"q10": 0.10, "q25": 0.25, "median": 0.50, "q75": 0.75, "q90": 0.90}

_NAME = re.compile(r"[A-Za-z_]\w*")
_NUMBER = re.compile(r"\d[\d.,]*(?:e[+-]?\d+)?")
_MAGNITUDE, _SUM = "times", "add"


@lru_cache(maxsize=4096)
def role_of(name: str) -> str:
    """``knowledge``, ``transform``, ``distance``, ``calibration``, ``combination``, or ``unknown``.

    >>> role_of("feat2"), role_of("kl"), role_of("no_such_thing")
    ('knowledge', 'distance', 'unknown')
    """
    if is_knowledge(name):
        return "knowledge"
    return CATALOGUE[name].role if name in CATALOGUE else "unknown"


def names_in(expression: str) -> tuple[str, ...]:
    """The operations and knowledge of a distiller in the order of its text.

    >>> names_in("times(no(kl(softmax_C(logits, 4))), 1)")
    ('times', 'no', 'kl', 'softmax_C', 'logits')
    """
    return tuple(map(sys.intern, _NAME.findall(expression)))


def terms_in(names: Sequence[str]) -> Iterator[list[str]]:
    """The chain of each term: calibration, distance, transforms from the last to the first, knowledge.

    >>> list(terms_in(("add", "times", "no", "l2", "feat", "times", "conf", "l1", "emb")))
    [['no', 'l2', 'feat'], ['conf', 'l1', 'emb']]
    """
    chain: list[str] = []
    for name in names:
        if name in (_MAGNITUDE, _SUM):
            if chain:
                yield chain
            chain = []
        else:
            chain.append(name)
    if chain:
        yield chain


def pairs_in(names: Sequence[str]) -> set[tuple[str, str]]:
    """The pairs of operations that work in one term: a transform with the distance, the distance with the
    calibration, two transforms (by name).

    >>> sorted(pairs_in(names_in("times(no(kl(softmax_C(abs(logits), 4))), 1)")))
    [('abs', 'kl'), ('abs', 'softmax_C'), ('kl', 'no'), ('softmax_C', 'kl')]
    """
    found = set()
    for chain in terms_in(names):
        by_role: dict[str, list[str]] = defaultdict(list)
        for name in chain:
            by_role[role_of(name)].append(name)
        transforms, distances = by_role["transform"], by_role["distance"]
        found |= {(transform, distance) for transform in transforms for distance in distances}
        found |= {(distance, weight) for distance in distances for weight in by_role["calibration"]}
        found |= {(min(pair), max(pair)) for pair in combinations(transforms, 2)}
    return found


def fitness_over_generations(
    births: Sequence[StoredBirth], evaluations: Sequence[StoredEvaluation]
) -> list[dict[str, Any]]:
    """One row for each generation: ``generation``; ``births``; ``best_so_far`` (lowest fitness up to here);
    ``q10 q25 median q75 q90`` of the fitness of its births that have one; and what became of them, by
    ``Status`` and ``duplicates``. Not a number where there is no fitness."""
    judged = {evaluation.digest: evaluation for evaluation in evaluations}
    groups: dict[int, list[StoredBirth]] = defaultdict(list)
    for birth in births:
        groups[birth.generation].append(birth)
    rows, best = [], math.inf
    for generation, members in sorted(groups.items()):
        evaluated = (judged.get(birth.digest) for birth in members)
        values = [e.fitness for e in evaluated if e is not None and e.fitness is not None]
        best = min(best, *values) if values else best
        quantiles = np.quantile(values, list(QUANTILES.values())) if values else [math.nan] * len(QUANTILES)
        rows.append({
            "generation": generation, "best_so_far": best if best < math.inf else math.nan,
            **{name: float(value) for name, value in zip(QUANTILES, quantiles, strict=True)},
            **counts_of(members, [judged[b.digest] for b in members if b.digest in judged]),
        })  # fmt: skip
    return rows


def reason_class(reason: str) -> str:
    """A reason of rejection without what follows its first colon and without its numbers.

    >>> reason_class("took longer than 600 s"), reason_class("ValueError: 3 is no shape")
    ('took longer than … s', 'ValueError')
    """
    return _NUMBER.sub("…", reason.split(":")[0]).strip() or "no reason given"


def candidate_flow(
    births: Sequence[StoredBirth], evaluations: Sequence[StoredEvaluation], raced: Collection[str] = ()
) -> dict[str, int]:
    """Where the births went: ``counts_of``; then each class of reasons of what was rejected or failed as ``rejected:
    CLASS``, the most frequent first; ``raced``: how many of the digests so given were born."""
    evaluated = {evaluation.digest: evaluation for evaluation in evaluations}
    new = [evaluated.get(birth.digest) for birth in births if birth.duplicate_of is None]
    reasons = Counter(reason_class(e.reason) for e in new if e is not None and e.status in WITHOUT_RESULT)
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    born = {birth.digest for birth in births}
    named = {f"rejected: {name}": count for name, count in ordered}
    return {**counts_of(births, evaluations), **named, "raced": len(born & set(raced))}


@dataclass(frozen=True)
class Percentiles:
    """The distillers that were born and have a fitness, the fittest first. ``percentile`` is 0 for the best and 1 for
    the worst, the same for equal fitness; ``best`` are those of the best tenth."""

    names: dict[str, tuple[str, ...]]
    fitness: dict[str, float]
    percentile: dict[str, float]
    best: frozenset[str]


def ranked(births: Sequence[StoredBirth], evaluations: Sequence[StoredEvaluation]) -> Percentiles:
    """Rank the distillers of a run, and read each one's names once."""
    expressions = {birth.digest: birth.expression for birth in births}
    fitness = {
        e.digest: e.fitness
        for e in sorted(evaluations, key=lambda e: (e.fitness is None, e.fitness, e.digest))
        if e.fitness is not None and e.digest in expressions
    }
    values = np.array(list(fitness.values()))
    lower, upper = np.searchsorted(values, values, "left"), np.searchsorted(values, values, "right") - 1
    percentiles = (lower + upper) / 2 / max(1, len(values) - 1)
    digests = list(fitness)
    return Percentiles(
        {digest: names_in(expressions[digest]) for digest in digests},
        fitness,
        dict(zip(digests, percentiles.tolist(), strict=True)),
        frozenset(digests[: math.ceil(BEST_SHARE * len(digests))]),
    )


def operation_success(births: Sequence[StoredBirth], evaluations: Sequence[StoredEvaluation]) -> list[dict[str, Any]]:
    """One row for each operation and knowledge that some distiller with a fitness uses: ``name``, ``role``; ``births``
    with it; ``distillers`` with it; their mean ``percentile`` of fitness (0 is best); its share among the best tenth
    (``share_best``) and among all (``share``), and ``lift``, the first by the second; the ``best`` fitness. By role,
    the highest share among the best first."""
    order = ["knowledge", "transform", "distance", "weight", "weighing", "calibration", "combination", "unknown"]
    found = _success(births, ranked(births, evaluations), lambda names: set(names))
    rows = [{"name": name, "role": role_of(name), **row} for name, row in found.items()]
    return sorted(rows, key=lambda r: (order.index(r["role"]), -r["share_best"], -r["births"], r["name"]))


def pair_success(births: Sequence[StoredBirth], evaluations: Sequence[StoredEvaluation]) -> list[dict[str, Any]]:
    """As ``operation_success`` for the pairs of ``pairs_in``: ``first``, ``second`` and ``kind`` (such as ``transform ×
    distance``) instead of name and role."""
    found = _success(births, ranked(births, evaluations), pairs_in)
    rows = [
        {"first": first, "second": second, "kind": f"{role_of(first)} × {role_of(second)}", **row}
        for (first, second), row in found.items()
    ]
    return sorted(rows, key=lambda r: (r["kind"], -r["share_best"], -r["births"], r["first"], r["second"]))


def _success(births: Sequence[StoredBirth], table: Percentiles, things_in: Any) -> dict[Any, dict[str, Any]]:
    count_births = Counter(birth.digest for birth in births)
    # of each thing: births, distillers, distillers among the best, sum of percentiles, best fitness
    tallies: dict[Any, list[float]] = {}
    for digest, names in table.names.items():
        born, wins, percentile = count_births[digest], digest in table.best, table.percentile[digest]
        for thing in things_in(names):
            tally = tallies.get(thing)
            if tally is None:  # the fittest come first
                tally = tallies[thing] = [0, 0, 0, 0.0, table.fitness[digest]]
            tally[0] += born
            tally[1] += 1
            tally[2] += wins
            tally[3] += percentile
    total, top = max(1, len(table.names)), max(1, len(table.best))
    return {
        thing: {
            "births": born, "distillers": used, "percentile": ranks / used, "share_best": winning / top,
            "share": used / total, "lift": (winning / top) / (used / total), "best": best,
        }
        for thing, (born, used, winning, ranks, best) in tallies.items()
    }  # fmt: skip


def success_over_time(
    births: Sequence[StoredBirth], evaluations: Sequence[StoredEvaluation], bins: int = 10
) -> list[dict[str, Any]]:
    """How operations did as the run went on: the births are cut into ``bins`` parts of equal length, and for each
    operation and part there is a row with ``name``, ``role``, ``bin``, the numbers of the ``first`` and ``last``
    birth, ``births`` with it, their ``share`` of the part's births that have a fitness, and their mean
    ``percentile`` among all distillers of the run (0 is best; not a number where there are none)."""
    table = ranked(births, evaluations)
    edges = np.linspace(0, len(births), min(bins, len(births)) + 1).astype(int)
    parts = [births[start:end] for start, end in pairwise(edges.tolist())]
    tallies = [_tally(part, table) for part in parts]
    names = sorted({name for counts, _, _ in tallies for name in counts}, key=lambda name: (role_of(name), name))
    return [
        {
            "name": name, "role": role_of(name), "bin": index, "first": part[0].number, "last": part[-1].number,
            "births": counts[name], "share": counts[name] / max(1, total),
            "percentile": ranks[name] / counts[name] if counts[name] else math.nan,
        }
        for name in names
        for index, (part, (counts, ranks, total)) in enumerate(zip(parts, tallies, strict=True))
    ]  # fmt: skip


def _tally(part: Iterable[StoredBirth], table: Percentiles) -> tuple[Counter[str], Mapping[str, float], int]:
    counts: Counter[str] = Counter()
    ranks: dict[str, float] = defaultdict(float)
    total = 0
    for birth in part:
        if birth.digest not in table.names:
            continue
        total += 1
        for name in set(table.names[birth.digest]):
            counts[name] += 1
            ranks[name] += table.percentile[birth.digest]
    return counts, ranks, total
