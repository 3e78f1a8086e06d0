"""A search is one and the same, row by row, however many workers answer, in whatever order, and wherever it was
interrupted: the whole search on outcomes that are made up."""

import collections
import contextlib
import random
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdzero_gp.errors import SettingError
from kdzero_gp.evolution import Search, SearchSettings
from kdzero_gp.search.candidates import CandidateQueue
from kdzero_gp.search.extension import extend
from kdzero_gp.search.settings import RunSettings
from kdzero_gp.search.storage import Database, StoredBirth
from test_candidates import BASELINE
from test_evolution import grammar_of

sys.path.append(str(Path(__file__).parent.parent / "experiments" / "kills"))
import made_up


class Workers:
    """So many workers that answer in an order of their own. After ``left`` answers the run is interrupted."""

    def __init__(self, count, seed, left=10**9):
        self.count, self.random, self.left = count, random.Random(seed), left
        self.waiting = []

    def submit(self, key, request):
        self.waiting.append((key, request))

    def arrived(self, wait=True):
        busy = min(self.count, len(self.waiting))
        if not busy or not (wait or self.random.random() < 0.7):
            return None
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        key, request = self.waiting.pop(self.random.randrange(busy))
        return key, made_up.answer(request)


def search(folder, workers, lanes, births=60, seed=0, islands=1):
    """Carry out a search in a folder, or go on with one; its rows in the order in which they came."""
    evolution = SearchSettings(births // 6 // islands, 6, seed, lanes=lanes, islands=islands)
    run = RunSettings(teacher="t", student="s", search=evolution)
    if not (folder / "run.sqlite").exists():
        Database.create(folder, {"settings": run.as_dict()}).close()
    with Database.open(folder) as database:
        run = extend(database, RunSettings.from_dict(database.fact("settings")), evolution.generations)
        judge = CandidateQueue(run, database, workers, BASELINE, BASELINE, str, steps=80)
        keep = lambda b: database.add_births([StoredBirth(  # noqa: E731
            b.number, b.generation, b.operator, b.parents, str(b.expression), b.digest, b.duplicate_of)])  # fmt: skip
        with contextlib.suppress(KeyboardInterrupt):
            collections.deque(Search(grammar_of(), run.search, judge.start, on_birth=keep).run(), maxlen=0)
        judged = [row["digest"] for row in database._select("SELECT digest FROM evaluations ORDER BY rowid")]
        return database.births(), [database.evaluation(name) for name in judged], judge.fingerprints.first(10**9)[1]


def assert_equal(found, expected):
    assert found[:2] == expected[:2]
    np.testing.assert_array_equal(found[2], expected[2])


@pytest.mark.parametrize("parts", [(), (40, 9)])
def test_islands_find_the_same_rows_with_any_workers_interrupted_and_extended(tmp_path_factory, parts):
    whole, other = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("other")
    expected = search(whole, Workers(1, 0), 2, births=84, islands=2)
    for left in parts:
        search(other, Workers(3, left, left), 2, births=60, islands=2)
    assert_equal(search(other, Workers(5, 7), 2, births=84, islands=2), expected)


@pytest.mark.parametrize("lanes", [1, 5, 20])
def test_one_two_and_sixteen_workers_find_the_same_rows(tmp_path, lanes):
    tables = []
    for count in (1, 2, 16):
        folder = tmp_path / str(count)
        folder.mkdir()
        tables.append(search(folder, Workers(count, seed=count), lanes))
    assert len(tables[0][0]) == 60 and {e.status.value for e in tables[0][1]} >= {"trained", "rejected", "equivalent"}
    for table in tables[1:]:
        assert_equal(table, tables[0])
    units = {e.units for e in tables[0][1]}
    assert units == {1.0, 9.0}


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 12), st.integers(0, 99), st.lists(st.integers(0, 40), max_size=3), st.integers(1, 9))
def test_the_same_rows_come_of_any_order_and_any_interruptions(tmp_path_factory, count, seed, parts, lanes):
    whole, broken = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("broken")
    expected = search(whole, Workers(1, 0), lanes, births=36)
    for number, left in enumerate(parts):
        search(broken, Workers(count, seed + number, left), lanes, births=36)
    assert_equal(search(broken, Workers(count, seed), lanes, births=36), expected)


@pytest.mark.parametrize("lanes", [1, 4, 9])
def test_an_extended_run_is_what_it_would_have_been_from_the_start(tmp_path_factory, lanes):
    whole, parts = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("parts")
    for births in (24, 36, 54):
        found = search(parts, Workers(3, births), lanes, births=births)
    assert_equal(found, search(whole, Workers(1, 0), lanes, births=54))
    with pytest.raises(SettingError, match="at least 9, which the run has already, got 6"):
        search(parts, Workers(1, 0), lanes, births=36)
