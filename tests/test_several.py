"""Several runs of one pair: one ranking and one page."""

import json
import shutil

import pytest
from click.testing import CliRunner

from kdzero_gp.analysis.several import Runs
from kdzero_gp.cli import main
from kdzero_gp.errors import SettingError
from kdzero_gp.search.storage import Database
from synthetic import synthetic_run


def said(*words):
    result = CliRunner().invoke(main, [str(word) for word in words])
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two runs with races, one of them twice, and one without."""
    place = tmp_path_factory.mktemp("runs")
    first = synthetic_run(place / "a", 60, seed=0)
    synthetic_run(place / "b", 60, seed=1)
    shutil.copytree(first, place / "c")
    synthetic_run(place / "d", 40, seed=2, finished=False, raced=False)
    return [place / name for name in "abcd"]


def test_the_ranking_of_all_is_that_of_each_sorted_by_race_and_then_by_fitness(folders):
    each = [json.loads(said("show", folder, "--json", "--top", "12")[1])["top"] for folder in folders]
    expected = {}
    for row in sorted(
        (row for rows in each for row in rows),
        key=lambda row: (row["race"] is None, -(row["race"] or {}).get("accuracy", 0.0), row["fitness"]),
    ):
        expected.setdefault(row["digest"], row["fitness"])
    found = json.loads(said("show", *folders, "--json", "--top", "12")[1])
    assert [(row["digest"], row["fitness"]) for row in found["top"]] == list(expected.items())[:12]
    assert [row["rank"] for row in found["top"]] == list(range(1, 13))
    twice = [row for row in found["top"] if row["run"] == str(folders[0])]
    assert twice and all(row["places"][1] == row["places"][0].replace("/a#", "/c#") for row in twice)
    assert [run["finished"] for run in found["runs"]] == [True, True, True, False]


def test_the_words_name_runs_and_what_to_do_next(folders):
    code, words = said("show", *folders, "--top", "3")
    assert code == 0 and "not finished, seed 2, 40 births" in words and "the best of 4 runs" in words
    assert "export the best with: kdzero-gp export" in words.splitlines()[-1]


def test_the_page_holds_the_ranking(folders, tmp_path):
    code, words = said("report", *folders, "-o", tmp_path / "runs.html")
    page = (tmp_path / "runs.html").read_text()
    assert code == 0 and "wrote" in words
    for one in Runs(folders).top(5):
        assert one.places[0] in page and str(one.distiller.expression) in page
    assert page.count("<svg") >= 5 and "http://" not in page.replace("http://www.w3.org", "")


def test_runs_of_other_pairs_and_one_run_twice_are_refused(folders, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(folders[0], other)
    with Database.open(other) as database:
        database.set_fact("settings", database.fact("settings") | {"student": "digits_cnn_8"})
    assert said("show", folders[0], other) == (
        2, f"Error: {folders[0]} and {other} are not of one pair: student is digits_cnn_4 and digits_cnn_8; give runs "
        "of the same teacher, student and data\n",
    )  # fmt: skip
    with pytest.raises(SettingError, match="given twice"):
        Runs([folders[0], folders[0]])
    code, words = said("show", folders[0], tmp_path / "nowhere")
    assert code == 2 and "holds no run" in words


def test_runs_that_measured_otherwise_are_named(folders, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(folders[0], other)
    with Database.open(other) as database:
        settings = database.fact("settings")
        settings["plan"]["race_seeds"] += 1
        database.set_fact("settings", settings)
    assert Runs([folders[0], other]).notes == [f"{other} and {folders[0]} differ in race seeds: compare with care"]
