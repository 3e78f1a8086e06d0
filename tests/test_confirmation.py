"""The winner is chosen on one set of seeds and confirmed on another; near twins do not race."""

import dataclasses

import numpy as np
import pytest
from click.testing import CliRunner

from kdzero_gp import Run
from kdzero_gp.cli import main
from kdzero_gp.search.confirmation import confirmation, finalists, verdict
from kdzero_gp.search.race import diverse, entries, heat, standings
from kdzero_gp.search.seeds import FRESH, HEAT, RACE, seeds_of
from kdzero_gp.search.settings import RunSettings
from kdzero_gp.search.storage import Database, Status, StoredEvaluation, StoredMeasurement
from synthetic import synthetic_run

SEEDS = 4


@pytest.fixture(scope="module")
def raced(tmp_path_factory):
    folder = synthetic_run(tmp_path_factory.mktemp("runs") / "raced", 60)
    with Database.open(folder) as database:
        settings = RunSettings.from_dict(database.fact("settings"))
        settings = dataclasses.replace(settings, plan=dataclasses.replace(settings.plan, fresh_seeds=SEEDS))
        database.set_fact("settings", settings.as_dict())
        for row in database.measurements("race"):
            if row.name == "kd":  # so that another published method is the best
                metrics = row.metrics | {"accuracy": 0.5}
                database.add_measurement(dataclasses.replace(row, metrics=metrics), 1.0, 1.0)
    return folder, settings


def confirm(folder, settings, evolved, published, kd, seeds=SEEDS, test=True):
    """Fresh results: accuracies of the evolved distiller, the best published one and kd, ± 0.002 in turn."""
    with Database.open(folder) as database:
        found = {entry.name: entry for entry in finalists(standings(database, settings))}
        for entry in found.values():
            mean = kd if entry.name == "kd" else {"evolved": evolved, "zoo": published, "baseline": 0.8}[entry.kind]
            for index, seed in enumerate(seeds_of(FRESH, settings.search.seed, seeds)):
                accuracy = mean + (0.001 if (index + len(entry.name)) % 2 else -0.001)
                # what the validation images say is the opposite
                metrics = {"accuracy": 1 - accuracy if test else accuracy, "cross_entropy": 1.0}
                metrics |= {"test_accuracy": accuracy} if test else {}
                row = StoredMeasurement(FRESH, entry.name, seed, 1.0, "", metrics, entry.magnitudes)
                database.add_measurement(row, 1.0, 1.0)
        return verdict(database, settings), [result.entry.kind for result in confirmation(database, settings)]


@pytest.mark.parametrize(
    ("evolved", "published", "kd", "winner", "words"),
    [
        (0.95, 0.92, 0.92, "evolved", "ahead of kd by 3.00 ±"),
        (0.92, 0.92, 0.92, "kd", ": use kd"),
        (0.92, 0.95, 0.92, "published", "behind "),
        (0.95, 0.95, 0.92, "published", "not distinguishable from "),
        (0.90, 0.92, 0.92, "kd", "(paired 95 % interval): use kd"),
    ],
)
def test_the_winner_is_who_is_ahead_by_more_than_the_interval(raced, evolved, published, kd, winner, words):
    found, kinds = confirm(*raced, evolved, published, kd)
    assert kinds == ["evolved", "zoo", "zoo", "baseline"], "kd and another published method have to be there"
    assert found.winner == {"evolved": found.evolved, "kd": "kd", "published": found.published}[winner]
    assert found.images == "test" and found.published != "kd"
    assert any(words in line for line in found.lines), found.lines
    assert all(f"{SEEDS} fresh seeds" in line for line in found.lines)
    gain = [line for line in found.lines if f"use {found.published}, which is ahead of kd by 3.00 ±" in line]
    assert bool(gain) == (winner == "published"), "a published winner's lead over kd is told, too"
    shown = CliRunner().invoke(main, ["show", str(raced[0])]).output
    assert all(line in shown for line in found.lines) and f"confirmation, {SEEDS} fresh seeds" in shown
    assert Run(raced[0]).verdict == found and len(Run(raced[0]).confirmation) == 4


def test_validation_images_report_where_there_are_no_test_images(raced):
    found, _ = confirm(*raced, 0.95, 0.92, 0.92, test=False)
    assert found.images == "validation" and found.winner == found.evolved


def test_two_seeds_make_no_interval(raced):
    folder, settings = raced
    settings = dataclasses.replace(settings, plan=dataclasses.replace(settings.plan, fresh_seeds=2))
    with Database.open(folder) as database, database.transaction():
        database._connection.execute("DELETE FROM measurements WHERE kind = ?", (FRESH,))
    found, _ = confirm(folder, settings, 0.95, 0.92, 0.92, seeds=2)
    assert "±" not in " ".join(found.lines) and "too few for an interval" in found.lines[1]


def test_no_seed_of_the_confirmation_is_one_of_the_race():
    race, fresh = ({seed for run in range(50) for seed in seeds_of(kind, run, 1000)} for kind in (RACE, FRESH))
    assert race.isdisjoint(fresh)


def evaluation(name, gradient):
    fingerprint = np.array(gradient, dtype=np.float32).tobytes()
    return StoredEvaluation(name, name, Status.TRAINED, 1.0, "", {}, (1.0,), fingerprint=fingerprint)


def test_near_twins_do_not_race():
    listed = [
        evaluation("best", [1.0, 0.0]),
        evaluation("longer twin", [3.0, 0.1]),
        evaluation("opposite", [-1.0, 0.0]),
        evaluation("other", [1.0, 1.0]),
        evaluation("twin of the other", [1.0, 0.9]),
        evaluation("unknown", []),
        evaluation("unknown, too", []),
    ]
    assert [e.digest for e in diverse(listed)] == ["best", "opposite", "other", "unknown", "unknown, too"]


def test_the_heat_decides_who_races(raced):
    """Its best, whatever their fitness; who failed in it does not race."""
    folder, settings = raced
    plan = dataclasses.replace(settings.plan, heat=5, race_top=2)
    with Database.open(folder) as database:
        fittest = [e.name for e in entries(database, settings) if e.kind == "evolved"]
        settings = dataclasses.replace(settings, plan=dataclasses.replace(plan, heat=2))
        assert heat(database, settings) == [], "where all of them race there is nothing to decide"
        settings = dataclasses.replace(settings, plan=plan)
        names = [entry.name for entry in heat(database, settings)]
        assert len(names) == 5
        assert [e.name for e in entries(database, settings) if e.kind == "evolved"][:2] == fittest[:2]
        for place, name in enumerate(names):
            metrics = {"accuracy": 0.5 + place / 100, "cross_entropy": 1.0}
            reason = "no loss any more" if place == 4 else ""
            (seed,) = seeds_of(HEAT, settings.search.seed, 1)
            database.add_measurement(StoredMeasurement(HEAT, name, seed, 1.0, reason, metrics, ()), 1.0, 1.0)
        assert [e.name for e in entries(database, settings) if e.kind == "evolved"][:2] == [names[3], names[2]]


def test_a_heat_of_published_methods_decides_which_of_them_race(raced):
    folder, settings = raced
    settings = dataclasses.replace(settings, plan=dataclasses.replace(settings.plan, race_zoo=1, zoo_heat=True, heat=0))
    with Database.open(folder) as database:
        names = [entry.name for entry in heat(database, settings)]
        assert set(names) == {row.name for row in database.measurements("zoo")} and len(names) > 3
        by_proxy = [e.name for e in entries(database, settings) if e.kind == "zoo"]
        best = next(name for name in names if name not in by_proxy)
        for name in names:
            (seed,) = seeds_of(HEAT, settings.search.seed, 1)
            metrics = {"accuracy": 0.9 if name == best else 0.5, "cross_entropy": 1.0}
            database.add_measurement(StoredMeasurement(HEAT, name, seed, 1.0, "", metrics, ()), 1.0, 1.0)
        assert {e.name for e in entries(database, settings) if e.kind == "zoo"} == {best, "kd"}
