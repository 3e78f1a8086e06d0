"""What a search adds to textbook evolution: the virtual clock, several objectives, and shrinkage of the space."""

import collections
import random

import pytest

from kdzero_gp.evolution import Pending, Score, Search, SearchSettings, Slot, nondominated
from kdzero_gp.evolution.shrinkage import FLOOR, Record
from kdzero_gp.evolution.variation import MUTATIONS
from primitives import LOSS
from strategies import IMAGE_ZOO
from test_evolution import births_of, grammar_of, lines, toy_search, toy_verdict


@pytest.mark.parametrize("lanes", [1, 3, 8, 30])
def test_births_are_judged_when_their_units_are_over_and_the_next_are_bred_then(lanes):
    started, judged, seen = [], [], []

    def units(number):
        return 1.0 + 6.5 * (number % 3 == 0)

    def evaluate(birth):
        started.append(birth.number)
        seen.append(len(judged))
        score = lambda: judged.append(birth.number) or toy_verdict(birth)  # noqa: E731
        return Pending(score, lambda: units(birth.number))

    settings = SearchSettings(generations=5, population=8, lanes=lanes)
    collections.deque(Search(grammar_of(), settings, evaluate).run(), maxlen=0)
    # no duplicates here, so that every birth is started and judged
    assert started == list(range(40))
    ends, free = [], [0.0] * lanes
    for number in range(40):  # each begins in the lane that is free first
        lane = free.index(min(free))
        ends.append((free[lane] + units(number), number))
        free[lane] += units(number)
    assert judged == [number for _, number in sorted(ends)]
    assert all(number - known == min(lanes - 1, number) for number, known in enumerate(seen))


def test_lanes_decide_the_run():
    assert lines(births_of(lanes=1)) != lines(births_of(lanes=8))


def test_a_repeated_expression_is_judged_after_the_first():
    births = []
    units = lambda birth: Pending(lambda: toy_verdict(birth), lambda: 1.0 + birth.number % 5)  # noqa: E731
    settings = SearchSettings(generations=60, population=4, lanes=9)
    collections.deque(Search(grammar_of("kdzero"), settings, units, on_birth=births.append).run(), maxlen=0)
    order = {birth.number: place for place, birth in enumerate(births)}
    repeated = [birth for birth in births if birth.duplicate_of is not None]
    assert len(births) == 240 and repeated
    assert all(order[birth.duplicate_of] < order[birth.number] for birth in repeated)


def two_objectives(birth):
    """Two conflicting numbers from the digest: a short tree is good for the second, a long one for the first."""
    verdict = toy_verdict(birth)
    size = birth.expression.size
    values = (verdict.fitness + 1.0 / size, float(size))
    return Score(verdict.fitness, verdict.measured, values if verdict.measured else (1e9, 1e9))


def dominates(one, other):
    return all(a <= b for a, b in zip(one, other, strict=True)) and one != other


def test_the_front_is_what_no_other_distiller_dominates():
    search = toy_search(evaluate=two_objectives, generations=20, objectives=("cross_entropy", "memory"))
    collections.deque(search.run(), maxlen=0)
    values = [score.objectives for score in search.scores.values() if score.measured]
    values += values[:3]  # equals stand together
    expected = [i for i, mine in enumerate(values) if not any(dominates(other, mine) for other in values)]
    assert nondominated(values) == expected and 2 < len(expected) < len(values)
    assert nondominated([]) == []


def test_nsga_keeps_the_front_of_population_and_child():
    search = toy_search(evaluate=two_objectives, generations=10, lanes=1, objectives=("cross_entropy", "memory"))
    for _ in search.run():
        kept = [individual.fitness.values for individual in search.population]
        assert len(kept) == 8
    best_first = min(v.objectives[0] for v in search.scores.values() if v.measured)
    best_second = min(v.objectives[1] for v in search.scores.values() if v.measured)
    # the two ends of a front have infinite crowding and never leave
    assert best_first in [values[0] for values in kept]
    assert best_second in [values[1] for values in kept]


def test_a_search_with_objectives_is_reproducible():
    options = {"evaluate": two_objectives, "objectives": ("cross_entropy", "memory"), "seeds": list(IMAGE_ZOO.values())}
    assert lines(births_of(**options)) == lines(births_of(**options))


def test_the_weight_of_an_operation_follows_its_childrens_record_and_keeps_a_floor():
    record = Record()
    generator = random.Random(0)
    for _ in range(2000):
        # children with pow4 never win, those with drop an eighth as often as the rest
        names = generator.sample(["pow4", "drop", "kl", "l2"], 2)
        record.learn(names, "pow4" not in names and generator.random() < (0.1 if "drop" in names else 0.8))
    weights = record.weights()
    assert weights["pow4"] == FLOOR
    assert FLOOR < weights["drop"] < weights["kl"] == weights["l2"] == 1.0
    assert "never seen" not in weights


def test_operations_are_drawn_by_their_weights_wherever_a_node_is_drawn():
    grammar = grammar_of().with_own_weights()
    generator = random.Random(0)

    def count():
        grown = [grammar.grow(Slot(LOSS), 8, generator) for _ in range(400)]
        varied = [MUTATIONS[name][0](list(nodes), grammar, generator) for nodes in grown for name in ("node", "insert")]
        return [sum("pow2" in str(grammar.to_expression(n)) for n in trees) for trees in (grown, varied)]

    before = count()
    grammar.weights.update(pow2=0.2)
    after = count()
    assert after[0] < 0.5 * before[0] and after[1] < 0.5 * before[1]


@pytest.mark.parametrize("shrink", [True, False])
def test_a_search_shrinks_what_loses_unless_it_is_told_not_to(shrink):
    def evaluate(birth):
        return Score(("no(" in str(birth.expression)) + toy_verdict(birth).fitness % 1.0)

    search = toy_search(evaluate=evaluate, generations=60, tournament=1, shrink=shrink)
    collections.deque(search.run(), maxlen=0)
    assert (search.grammar.weights["no"] < 0.9) == shrink
    assert search.record.trials["no"] > search.record.wins["no"]


def test_shrinkage_leaves_the_grammar_of_others_alone():
    grammar = grammar_of()
    collections.deque(toy_search(grammar).run(), maxlen=0)
    assert set(grammar.weights.values()) == {1.0}
