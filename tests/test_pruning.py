"""The winner is pruned: what costs nothing goes, what gains something stays and its gain is told."""

import dataclasses
from itertools import islice

import pytest
from click.testing import CliRunner

from kdzero_gp import Run, zoo
from kdzero_gp.cli import main
from kdzero_gp.compiler import check, digest, pair_shapes, parse, terms
from kdzero_gp.search.confirmation import finalists, winner
from kdzero_gp.search.final import best_evolved
from kdzero_gp.search.pruning import CHECKED, pruning, without_a_term, without_an_operation
from kdzero_gp.search.race import standings
from kdzero_gp.search.seeds import BASELINE, FRESH, HEAT, PRUNING, RACE, seeds_of
from kdzero_gp.search.settings import RunSettings
from kdzero_gp.search.storage import Database, Status, StoredMeasurement
from kdzero_gp.training.halving import fresh_numbers
from strategies import IMAGE_ZOO
from synthetic import STUDENT, TEACHER, synthetic_run

TYPES = pair_shapes(STUDENT, TEACHER).types
GOOD = "times(no(kl(softmax_C(logits, 4))), 1)"
USELESS = "times(no(l2(feat)), 1)"
WORDY = "times(entropy(l1(mish(emb))), 1)"
WINNER = f"add(add({GOOD}, {USELESS}), {WORDY})"
# What a part is worth in accuracy; what is not there is worth nothing.
WORTH = {"kl(": 0.05, "l1(": 0.03, "mish(": 0.02}


def accuracy(text, seed):
    """That of a distiller: its parts' worths, and a noise of the seed and of the text."""
    noise = 0.001 * (seed % 5) + 0.0002 * ((seed + len(text)) % 3)
    return 0.8 + sum(worth for part, worth in WORTH.items() if part in text) + noise


@pytest.fixture(scope="module")
def raced(tmp_path_factory):
    """A run whose race was won by ``WINNER``."""
    folder = synthetic_run(tmp_path_factory.mktemp("runs") / "raced", 40)
    with Database.open(folder) as database:
        settings = RunSettings.from_dict(database.fact("settings"))
        first = standings(database, settings)[0].entry
        for row in database.evaluations():
            if row.status is Status.TRAINED and row.fitness is not None:
                best = min(row.fitness, getattr(first, "fitness", None) or 1.0)
        winner_row = dataclasses.replace(row, digest=digest(parse(WINNER)), expression=WINNER, fitness=best / 2,
                                         status=Status.TRAINED, reason="", magnitudes=(1.0, 1.0, 1.0))  # fmt: skip
        database.add_evaluation(winner_row, 1.0, 1.0, {})
        for seed in seeds_of(RACE, settings.search.seed, settings.plan.race_seeds):
            metrics = {"accuracy": 0.999, "cross_entropy": 0.1, "test_accuracy": 0.99}
            row = StoredMeasurement("race", winner_row.digest, seed, 1.0, "", metrics, winner_row.magnitudes)
            database.add_measurement(row, 1.0, 1.0)
    return folder, settings


def ablate(folder, settings, fails=(), luck=0.0):
    """Answer what pruning asks until it asks no more; gives it with the number of distillers that were trained to find
    cuts. ``luck``: how much better what is smaller is on the seeds that choose the cuts."""
    trained, (chosen_on,) = 0, seeds_of(PRUNING, settings.search.seed, 1, first=settings.plan.race_seeds)
    with Database.open(folder) as database:
        while (found := pruning(database, settings)).todo:
            trained += len(found.todo) * (found.seeds[0] < chosen_on)
            for expression in found.todo:
                for seed in found.seeds:
                    text = str(expression)
                    lucky = luck if seed < chosen_on and digest(expression) != found.before.name else 0.0
                    metrics = {"accuracy": accuracy(text, seed) + lucky}
                    reason = "destroyed" if text in fails else ""
                    row = StoredMeasurement(PRUNING, digest(expression), seed, 1.0, reason, metrics, (2.0,))
                    database.add_measurement(row, 1.0, 1.0)
    return found, trained


def forget(folder):
    with Database.open(folder) as database, database.transaction():
        database._connection.execute("DELETE FROM measurements WHERE kind = ?", (PRUNING,))


def test_what_gains_nothing_goes_and_the_rest_tells_what_it_gains(raced):
    folder, settings = raced
    forget(folder)
    found, trained = ablate(folder, settings)
    assert found.before.expression == WINNER
    assert [str(t) for t in terms(parse(found.after.expression))] == sorted(
        ["times(no(kl(softmax_C(logits, 4))), 1)", "times(no(l1(mish(emb))), 1)"]
    )
    assert [cut.removed for cut in found.cuts] == [USELESS, "entropy(l1(mish(emb)))"]
    assert found.contributions.keys() == {str(t) for t in terms(parse(found.after.expression))}
    gains = {text: mean for text, (mean, _) in found.contributions.items()}
    assert gains[GOOD] == pytest.approx(0.05, abs=0.002)
    assert gains["times(no(l1(mish(emb))), 1)"] == pytest.approx(0.05, abs=0.002)
    assert trained - 1 <= settings.plan.prune, "the winner itself is trained besides"
    assert found.after.magnitudes == (2.0,), "the numbers that it was trained with"
    with Database.read(folder) as database:
        table = standings(database, settings)
        assert [entry.name for entry in finalists(table, found)][:2] == [found.after.name, found.before.name]
        unconfirmed = dataclasses.replace(settings, plan=dataclasses.replace(settings.plan, fresh_seeds=0))
        assert winner(database, unconfirmed) == found.after
        best = [entry.expression for entry in islice(best_evolved(database, unconfirmed), 4)]
        raced = [result.entry.expression for result in table if result.entry.kind == "evolved"]
        assert best == [found.after.expression, *raced, *best][:4] and best[1] == WINNER, "the winner, then the race's"


def test_cuts_that_luck_chose_are_taken_back(raced):
    folder, settings = raced
    forget(folder)
    found, _ = ablate(folder, settings, luck=0.04)
    assert found.cuts and found.taken_back is not None
    assert found.after == found.before and found.after.expression == WINNER
    assert len(found.seeds) == CHECKED * settings.plan.race_seeds
    assert found.cost[0] == pytest.approx(0.05, abs=0.03), "both terms of worth would have lost some"
    assert found.contributions.keys() == {GOOD, USELESS, WORDY}
    (line, *_) = found.lines(settings.family.deciding)
    assert "taken back since that changes validation accuracy by −" in line and "other seeds" in line
    forget(folder)


def test_a_run_says_what_was_pruned(raced):
    folder, settings = raced
    found, _ = ablate(folder, settings)
    shown = CliRunner().invoke(main, ["show", str(folder)]).output
    words = found.lines(settings.family.deciding)
    assert words[0].startswith("pruned from 3 terms of 11 operations to 2 terms of 8 operations, which changes")
    assert f"without {GOOD} validation accuracy changes by −5.0" in " ".join(words)
    assert all(line in shown for line in words)
    assert Run(folder).pruning == found
    expression, _, magnitudes, _ = Run(folder).winner  # before the confirmation it is what pruning left
    assert (str(expression), magnitudes) == (found.after.expression, found.after.magnitudes)
    drawn = CliRunner().invoke(main, ["inspect", str(folder), "-o", str(folder / "tree.txt")])
    assert drawn.exit_code == 0 and "feature" not in (folder / "tree.txt").read_text(encoding="utf-8")


def test_what_fails_without_a_part_keeps_it(raced):
    folder, settings = raced
    forget(folder)
    without = str(dict(without_a_term(parse(WINNER)))[USELESS])
    found, _ = ablate(folder, settings, fails={without})
    assert USELESS in found.after.expression
    forget(folder)


def test_no_more_distillers_are_tried_than_wanted(raced):
    folder, settings = raced
    for most in (0, 1, 4):
        forget(folder)
        plan = dataclasses.replace(settings.plan, prune=most)
        if not most:
            with Database.read(folder) as database:
                assert pruning(database, dataclasses.replace(settings, plan=plan)) is None
        else:
            found, trained = ablate(folder, dataclasses.replace(settings, plan=plan))
            assert trained <= 1 + most
            left = {str(term) for term in terms(parse(found.after.expression))}
            assert found.contributions.keys() == (left if most == 4 else set()), (
                "told where no turn of terms is left, too"
            )
    forget(folder)


@pytest.mark.parametrize("name", IMAGE_ZOO)
def test_every_smaller_distiller_is_one_and_is_smaller(name):
    expression = zoo[name]
    for ways in (without_a_term, without_an_operation):
        found = ways(expression, TYPES)
        assert len({digest(smaller) for _, smaller in found}) == len(found)
        for removed, smaller in found:
            check(smaller, TYPES)
            assert digest(smaller) != digest(expression)
            assert removed in str(expression)
    assert len(without_a_term(expression)) in (0, len(terms(expression)))


def test_operations_that_can_go():
    found = {
        str(smaller) for _, smaller in without_an_operation(parse("times(entropy(l2(mish(pow2(emb)))), 5)"), TYPES)
    }
    assert found == {
        "times(entropy(l2(mish(emb))), 5)",
        "times(entropy(l2(pow2(emb))), 5)",
        "times(no(l2(mish(pow2(emb)))), 5)",
    }


def test_seeds_of_all_parts_are_apart():
    kinds = (RACE, FRESH, PRUNING, BASELINE, HEAT)
    every = [seed for kind in kinds for run in range(20) for seed in seeds_of(kind, run, 100)]
    every += [seed for run in range(20) for seed in fresh_numbers(run, 100)]
    assert len(set(every)) == len(every)
