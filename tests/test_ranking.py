"""One ranking for every command, the page and Python; a status for every candidate; runs of an earlier version."""

import gzip
import json
import re
import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner

from kdzero_gp import Run
from kdzero_gp.analysis.statistics import candidate_flow
from kdzero_gp.api import training
from kdzero_gp.cli import main
from kdzero_gp.errors import RunError
from kdzero_gp.report.panels.snapshot import read_snapshot
from kdzero_gp.search.storage import DATABASE, Database, Status, StoredEvaluation, StoredMeasurement
from kdzero_gp.training import distillers
from synthetic import synthetic_run

OLD = Path(__file__).parent / "data" / "run_of_schema_2.sqlite.gz"


def said(*words):
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def reordered(tmp_path_factory):
    """A run whose race turns the order of the fitness round, and that knows an equivalent of its fittest distiller."""
    folder = synthetic_run(tmp_path_factory.mktemp("runs") / "reordered", 200)
    with Database.open(folder) as database:
        evaluations = database.evaluations()
        raced = {m.name for m in database.measurements("race")}
        places = {e.digest: index for index, e in enumerate(evaluations) if e.digest in raced}
        for row in database.measurements("race"):
            accuracy = 0.9 + 0.001 * places.get(row.name, 0)
            values = {"accuracy": accuracy, "cross_entropy": 1.0, "test_accuracy": accuracy}
            again = StoredMeasurement("race", row.name, row.seed, 1.0, "", values, row.magnitudes)
            database.add_measurement(again, 1.0, 1.0)
        best = evaluations[0]
        twin = "times(no(l1(sigmoid(feat))), 1)"
        database.add_evaluation(
            StoredEvaluation("77aa77aa", twin, Status.EQUIVALENT, best.fitness, "", best.metrics, (1.0,),
                             equivalent_to=best.digest),
            1.0, 1.0,
        )  # fmt: skip
    return folder


def test_a_rank_means_one_distiller_wherever_it_is_asked_for(reordered, tmp_path):
    with Database.read(reordered) as database:
        fittest = [e.expression for e in database.evaluations() if e.status is Status.TRAINED]
    shown = json.loads(said("show", reordered, "--json", "--top", "6"))["top"]
    assert [row["rank"] for row in shown] == [1, 2, 3, 4, 5, 6]
    ranked = [row["expression"] for row in shown]
    assert ranked != fittest[:6], "the race has to reorder, or this test says nothing"
    table = said("show", reordered, "--top", "6")
    assert [int(rank) for rank in re.findall(r"^ *evolved (\d+) · ", table.split("race, ")[0], re.MULTILINE)] == [
        1, 2, 3, 4, 5, 6
    ]  # fmt: skip
    lines = [re.match(r"(\d+): (\S.*)$", line) for line in table.splitlines()]
    printed = [(int(line[1]), line[2].rstrip()) for line in lines if line]
    # long ones go on in the next line
    assert [rank for rank, _ in printed] == [1, 2, 3, 4, 5, 6]
    assert all(expression.startswith(text) for (_, text), expression in zip(printed, ranked, strict=True))
    top = Run(reordered).top(6)
    assert [str(one.expression) for one in top] == ranked
    assert [entry.expression for entry in read_snapshot(reordered).top[:6]] == ranked
    for rank, expression in enumerate(ranked, 1):
        path = tmp_path / f"{rank}.py"
        said("export", reordered, "--rank", rank, "-o", path)
        assert expression in " ".join(path.read_text().split())
        said("inspect", reordered, "--rank", rank, "-o", tmp_path / f"{rank}.txt")
        taken = training.resolved(f"run:{reordered}#{rank}")
        assert isinstance(taken, distillers.NamedDistiller) and str(taken.expression) == expression
        assert top[rank - 1].rank == rank


def test_an_equivalent_distiller_is_not_listed_twice(reordered):
    ranked = [one.digest for one in Run(reordered).top(1000)]
    assert len(ranked) == len(set(ranked)) and "77aa77aa" not in ranked


# --- the status ----------------------------------------------------------------------------------------------------


def test_the_counts_add_up_to_the_births_and_a_prediction_is_no_rejection(tmp_path):
    folder = old_run(tmp_path)
    run = Run(folder)
    counts = run.counts
    assert counts.pop("births") == sum(counts.values()) == 70
    assert counts == {
        "trained": 34, "equivalent": 4, "predicted": 21, "rejected": 11, "failed": 0, "duplicates": 0, "waiting": 0
    }  # fmt: skip
    output = said("show", folder)
    assert "70 births: 34 trained, 4 equivalent, 21 predicted, 11 rejected" in output
    assert sum(map(int, re.findall(r"^rejected (\d+):", output, re.MULTILINE))) == 11
    flow = candidate_flow(*run._history())
    assert sum(count for name, count in flow.items() if name.startswith("rejected:")) == 11
    assert set(run.births["status"]) == {"trained", "equivalent", "predicted", "rejected"}
    assert json.loads(said("show", folder, "--json"))["counts"] == run.counts


# --- runs of an earlier version ------------------------------------------------------------------------------------


def old_run(folder):
    """A run that kdzero-gp made when its schema was 2."""
    (folder / DATABASE).write_bytes(gzip.decompress(OLD.read_bytes()))
    return folder


def test_a_run_of_an_earlier_version_is_read_and_stays_as_it_is(tmp_path):
    folder = old_run(tmp_path)
    before = (folder / DATABASE).read_bytes()
    with sqlite3.connect(folder / DATABASE) as connection:
        fitness = dict(connection.execute("SELECT digest, fitness FROM evaluations"))
        seconds = connection.execute("SELECT sum(seconds) FROM costs").fetchone()[0]
    connection.close()
    run = Run(folder)
    assert {row.digest: row.fitness for row in run._history()[1]} == fitness
    assert run.settings.plan.proxy.schedule == "linear" and run.settings.plan.proxy.epochs == 1
    assert [result.entry.name for result in run.race if result.entry.kind == "baseline"] == ["alone"]
    assert run.best.rank == 1 and run.best.standing is not None
    said("export", folder, "-o", tmp_path / "winner.py")
    with Database.read(folder) as database:
        costs = sum(s for kind in ("baseline", "zoo", "evaluation", "race") for s, _ in database.costs(kind))
    assert costs == pytest.approx(seconds)
    assert (folder / DATABASE).read_bytes() == before


def test_a_run_of_an_earlier_version_is_not_gone_on_with(tmp_path):
    folder = old_run(tmp_path)
    result = CliRunner().invoke(main, ["resume", str(folder)])
    assert result.exit_code == 2 and "made by an earlier kdzero-gp (schema 2)" in result.output
    with pytest.raises(RunError, match="replay it with the version that made it"):
        Run(folder).replay(1)


def test_the_best_of_each_size_is_the_first_of_the_ranking(reordered):
    run = Run(reordered)
    ranked = run.top(10_000)
    sizes = run.sizes
    for operations, leads, best in sizes:
        same = [one for one in ranked if _operations(one.expression) == operations]
        assert best.digest == same[0].digest
        assert leads == all(one.rank > best.rank for one in ranked if _operations(one.expression) < operations)
    assert [one[0] for one in sizes] == sorted({_operations(one.expression) for one in ranked})
    assert run.best.digest in {best.digest for _, leads, best in sizes if leads}
    shown = CliRunner().invoke(main, ["show", str(reordered)]).output
    table = shown[shown.index("accuracy against size") :]
    for operations, leads, best in sizes:
        if leads:
            assert re.search(rf"^ *{operations} +\* evolved {best.rank} .* {best.rank} *$", table, re.MULTILINE)


def _operations(expression):
    """Nodes that have arguments, other than sums."""
    return sum(bool(node.arguments) and node.name != "add" for node in expression.walk())
