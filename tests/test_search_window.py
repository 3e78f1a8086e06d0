"""What a search adds to textbook evolution: births in flight, several objectives, and shrinkage of the space."""

import collections
import random

import pytest

from kdzero_gp.evolution import Score, Search, SearchSettings, Slot, nondominated
from kdzero_gp.evolution.shrinkage import FLOOR, Record
from kdzero_gp.evolution.variation import MUTATIONS
from primitives import LOSS
from strategies import IMAGE_ZOO
from test_evolution import births_of, grammar_of, lines, toy_search, toy_verdict


@pytest.mark.parametrize("window", [1, 3, 8])
def test_a_birth_is_bred_when_exactly_those_before_its_window_are_judged(window):
    started, judged, seen = [], [], []

    def evaluate(birth):
        started.append(birth.number)
        seen.append((birth.number, len(judged)))
        return lambda: judged.append(birth.number) or toy_verdict(birth)

    settings = SearchSettings(generations=5, population=8, in_flight=window)
    collections.deque(Search(grammar_of(), settings, evaluate).run(), maxlen=0)
    # no duplicates here, so that every birth is started and judged
    assert judged == started == list(range(40))
    assert seen == [(number, max(0, number - window + 1)) for number in range(40)]


def test_the_window_decides_the_run():
    assert lines(births_of(in_flight=1)) != lines(births_of(in_flight=8))


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
    search = toy_search(evaluate=two_objectives, generations=10, in_flight=1, objectives=("cross_entropy", "memory"))
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
    assert record.weight("pow4") == FLOOR
    assert FLOOR < record.weight("drop") < record.weight("kl") == record.weight("l2") == 1.0
    assert record.weight("never seen") == 1.0


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
