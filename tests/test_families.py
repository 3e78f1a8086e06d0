"""A task family is one file: one that the package does not have goes through search, comparison and report."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import kdzero_gp
from commands import command
from kdzero_gp import tasks
from kdzero_gp.engine.batches import Resident
from kdzero_gp.engine.recipe import Recipe
from kdzero_gp.errors import DataError
from pixels import PIXELS

HERE = Path(__file__).parent
TASK = ("--task", "pixels:PIXELS")


def succeed(*arguments):
    code, output, errors = command(*arguments)
    assert code in (0, None), errors or output
    return output


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A search in processes of its own, which have to find the family by its module."""
    folder = tmp_path_factory.mktemp("family") / "run"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}
    evolve = ("evolve", *TASK, "--generations", "2", "--pop", "6", "--workers", "1", "--out", folder)
    program = [sys.executable, "-m", "kdzero_gp", *map(str, evolve)]
    done = subprocess.run(program, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_a_search_speaks_of_the_familys_measures(run):
    folder, output = run
    assert "right pixels %" in output and "pixel loss" in output and "accuracy" not in output
    stored = json.loads(succeed("show", folder, "--json"))
    raced = {result["name"]: result for result in stored["race"]}
    assert {"kd", "fitnet", "alone"} <= raced.keys()
    assert "sp" in raced and "rkd" not in raced, "only what reads logits or maps fits"
    assert 0.3 < raced["alone"]["pixels"] < 1


def test_the_winner_is_exported_and_shown_on_the_page(run):
    folder, _ = run
    assert "KNOWLEDGE" in (folder / "distiller.py").read_text()
    succeed("report", folder)
    page = (folder / "report.html").read_text()
    assert "right pixels" in page and "accuracy" not in page


def test_every_distiller_of_the_run_can_be_read_drawn_and_used(run):
    found = kdzero_gp.Run(run[0])
    for member in found.top(20):
        assert member.sentence.startswith("Matches") and member._repr_html_()
        assert isinstance(member.distiller(), torch.nn.Module)
    assert found.compare(1, 2)._repr_html_()


def test_trainings_are_compared_by_the_measure_that_decides(run, tmp_path):
    folder, _ = run
    output = succeed("compare", *TASK, "--teacher", "pixels_16", "--teacher-weights", folder / "teacher.safetensors",
                     "--student", "pixels_2", "--distiller", f"run:{folder}", "--seeds", 2, "--factors", 1,
                     "--epochs", 1, "--set", "crop=pad", "--set", "padding=1", "--workers", 1,
                     "--out", tmp_path / "out")  # fmt: skip
    assert "test right pixels %" in output
    table = json.loads((tmp_path / "out" / "compare.json").read_text())["table"]
    assert {row["name"] for row in table} >= {"ce", "kd"} and all(0.3 < row["test"] <= 1 for row in table)


def test_targets_move_with_their_images():
    dataset = PIXELS.load(None)
    recipe = Recipe(1, 64, 0.1, crop="pad", padding=2, flip=True)
    batch = next(Resident(dataset, PIXELS.family, recipe, torch.device("cpu")).epoch(0, 0))
    shown = batch.images[:, 0] * dataset.std[0] + dataset.mean[0]
    bright, dark = (shown[batch.labels == label].mean() for label in (2, 0))
    assert bright > dark + 0.3
    assert (batch.labels == -1).any() and batch.labels.max() <= 2


def test_a_task_of_ones_own_is_named_by_module_and_name():
    assert tasks.get("pixels:PIXELS").name == "pixels"
    with pytest.raises(DataError, match="is a module"):
        tasks.get("pixels:torch")
    with pytest.raises(DataError, match="there is no task 'digit': did you mean digits"):
        tasks.get("digit")
    with pytest.raises(ValueError, match="declared already"):
        tasks.register(tasks.TASKS["digits"])
