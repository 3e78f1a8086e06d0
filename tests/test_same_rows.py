"""The command and the call give the same rows: a search, a training and a comparison on digits, by names."""

import csv
import json
import sqlite3
from contextlib import closing

import pytest
from click.testing import CliRunner

import kdzero_gp
from inline_engine import inline
from kdzero_gp import tasks
from kdzero_gp.cli import main
from quick import quick_digits

# What a run decides, without what it took.
TABLES = ("births", "evaluations", "measurements")
MEASURED = ("milliseconds", "megabytes", "seconds")
SEARCH = {"generations": 2, "pop": 4, "race_top": 1, "race_seeds": 2, "fresh_seeds": 1, "prune": 2, "images": 128,
          "proxy_epochs": 1.0, "race_epochs": 1.0,
          "seed": 3, "weight": {"cka_gap": 0.25}, "screens": ("duplicate", "finite", "equivalence")}  # fmt: skip


def words_of(options):
    for name, value in options.items():
        values = [f"{key}={one}" for key, one in value.items()] if isinstance(value, dict) else [value]
        for one in values:
            yield "--" + name.replace("_", "-")
            yield ",".join(one) if isinstance(one, tuple) else str(one)


def said(*words):
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output


def rows(folder):
    with closing(sqlite3.connect(folder / "run.sqlite")) as database:
        found = {table: sorted(database.execute(f"SELECT * FROM {table}").fetchall(), key=str) for table in TABLES}
    assert all(found.values())
    return found


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Folders of the command's and of the call's search."""
    place = tmp_path_factory.mktemp("both")
    with pytest.MonkeyPatch.context() as patch, inline():
        patch.setitem(tasks.TASKS, "digits", quick_digits())
        said("evolve", *words_of(SEARCH), "--workers", 1, "--out", place / "command")
        kdzero_gp.evolve(train="digits", **SEARCH, workers=1, out=place / "call", verbose=False)
    return place / "command", place / "call"


def test_a_search_has_the_same_rows(both):
    command, call = both
    assert rows(command) == rows(call)
    heads = [(folder / "distiller.py").read_text().replace(f"run: {folder.name}", "") for folder in both]
    assert heads[0] == heads[1]


def test_a_training_ends_with_the_same_weights(both, tmp_path):
    command, call = both
    said("distill", "--distiller", f"run:{command}", "--epochs", 2, "--threads", 1, "--out", tmp_path / "command")
    result = kdzero_gp.Run(call).fit(epochs=2, threads=1, out=tmp_path / "call", verbose=False)
    stored = json.loads((tmp_path / "command" / "result.json").read_text())
    assert stored["test"] == result.test and stored["magnitudes"] == list(result.magnitudes)
    weights = [(tmp_path / name / "student.safetensors").read_bytes() for name in ("command", "call")]
    assert weights[0] == weights[1]


def test_a_comparison_has_the_same_rows(both, tmp_path):
    command, call = both
    options = {"seeds": 1, "epochs": 1, "threads": 1, "workers": 1}
    said("compare", f"run:{command}", *words_of(options | {"factors": 1}), "--out", tmp_path / "command")
    kdzero_gp.compare(distillers=[kdzero_gp.Run(call)], **options, factors=[1.0], out=tmp_path / "call", verbose=False)

    def table(name):
        with (tmp_path / name / "compare.csv").open() as file:
            found = [
                {key: value for key, value in row.items() if not any(word in key for word in MEASURED)}
                for row in csv.DictReader(file)
            ]
        return [{**row, "distiller": row["distiller"].replace(name, "run")} for row in found]

    assert table("command") == table("call") and len(table("call")) == 3
