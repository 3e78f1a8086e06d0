"""Several populations: each breeds by itself, and its best enters the next one at fixed numbers of births."""

import pytest

from kdzero_gp.errors import SettingError
from kdzero_gp.evolution import SearchSettings
from kdzero_gp.evolution.settings import MIGRATION
from test_evolution import births_of, lines, toy_search

ISLANDS, POPULATION = 3, 8
PERIOD = MIGRATION * ISLANDS * POPULATION


@pytest.mark.parametrize("lanes", [1, 4])
def test_parents_are_of_a_births_own_island_until_the_best_enter_the_next_one(lanes):
    births = births_of(islands=ISLANDS, generations=3 * MIGRATION, lanes=lanes)
    assert len(births) == 3 * PERIOD
    hops = {(birth.number, parent): (birth.number - parent) % ISLANDS for birth in births for parent in birth.parents}
    assert all(hop <= number // PERIOD for (number, _), hop in hops.items())
    assert {hop for (number, _), hop in hops.items() if PERIOD <= number < 2 * PERIOD} == {0, 1}


def test_the_fittest_of_each_island_enters_the_next_one_as_its_newest_unless_it_is_known_there():
    search = toy_search(islands=ISLANDS, generations=MIGRATION + 1)
    states, migrate = {}, search._migrate

    def watched():
        before = [[one.birth for one in island] for island in search.islands]
        migrate()
        after = [[one.birth for one in island] for island in search.islands]
        states[search.births] = before, after

    search._migrate = watched
    for _ in search.run():
        pass
    assert [number for number, (before, after) in sorted(states.items()) if before != after] == [PERIOD]
    before, after = states[PERIOD]
    for place, island in enumerate(before):
        assert all(birth.number % ISLANDS == place for birth in island)
        migrant = min(before[place - 1], key=lambda birth: search.scores[birth.digest].fitness)
        known = migrant.digest in {birth.digest for birth in island}
        assert after[place] == (island if known else [*island[1:], migrant])


def test_a_generation_is_a_population_of_births_on_every_island():
    births = []
    search = toy_search(islands=ISLANDS, generations=4, on_birth=births.append)
    assert [generation.births for generation in search.run()] == [24, 48, 72, 96]
    assert [birth.generation for birth in sorted(births, key=lambda birth: birth.number)] == sorted([0, 1, 2, 3] * 24)
    settings = search.settings
    assert (settings.births, settings.births_a_generation, settings.under_way) == (96, 24, settings.lanes * ISLANDS)


def test_one_island_is_a_search_without_islands():
    assert lines(births_of(islands=1)) == lines(births_of()) != lines(births_of(islands=2))


def test_a_search_without_islands_is_refused():
    with pytest.raises(SettingError, match="--islands must be at least 1, got 0"):
        SearchSettings(islands=0)
