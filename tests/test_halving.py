"""Halving: rungs of growing length, the better half goes on, and at the end the student of whoever won."""

import csv
import json

import pytest
import torch
from safetensors.torch import load_file

from kdzero_gp import training
from kdzero_gp.compiler import load_source
from kdzero_gp.engine.machine import Machine
from kdzero_gp.errors import SettingError
from kdzero_gp.training import jobs
from kdzero_gp.training.api import Pair
from kdzero_gp.training.halving import fresh_numbers, halve
from kdzero_gp.training.settings import TrainingResult

ONE = Machine("cpu", threads=1, workers=1)
OWN = "times(no(l1(logits)), 1)"
DISTILLERS = [OWN, "zoo:mse", "zoo:dist", "zoo:pkt"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    out = tmp_path_factory.mktemp("teacher")
    training.train("digits", "digits_cnn_8", out=out, changes={"epochs": 3}, machine=ONE)
    weights = str(out / "network.safetensors")
    return Pair("digits", "digits_cnn_4", "digits_cnn_8", weights, changes={"epochs": 4})


def halved(pair, out, **options):
    settings = {"fresh_seeds": 3, "factors": (1.0,), "shares": (0.25, 0.5, 1.0), "machine": ONE} | options
    return halve(pair, DISTILLERS, out=out, fitness={"kd": 1.0, "mse": 2.0, "dist": 3.0, "pkt": 4.0}, **settings)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".safetensors", ".py")}


def test_halving_ends_with_a_student_and_goes_on_after_an_interruption(pair, tmp_path, monkeypatch):
    found = halved(pair, tmp_path / "whole")
    assert [rung.epochs for rung in found.rungs] == [1.0, 2.0, 4.0]
    entered = [{row.name for row in rung.rows} for rung in found.rungs]
    assert entered[0] == {"ce", "kd", "mse", "dist", "pkt", OWN}
    for before, rung, names in zip(found.rungs, found.rungs[1:], entered[1:], strict=False):
        assert names == {"ce", *before.kept} and rung.shared == len(before.kept)
    assert 3 <= len(found.rungs[0].kept) <= 4 and "kd" in found.rungs[1].kept
    assert found.rungs[0].with_fitness == 4 and "over 4" in " ".join(found.rungs[0].sentences)
    assert all(row.seeds == 3 for row in found.fresh) and {"ce", "kd"} <= {row.name for row in found.fresh}
    stored = json.loads((tmp_path / "whole" / "halving.json").read_text())
    assert stored["winner"] == found.verdict.winner and stored["verdict"] == list(found.verdict.lines)
    with (tmp_path / "whole" / "halving.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 5 + sum(map(len, entered)) + 3 * len(found.fresh)
    assert {int(line["seed"]) for line in lines if line["what"] == "fresh seeds"} == {*fresh_numbers(0, 3)}
    assert found.student.exists() and load_source((tmp_path / "whole" / "distiller.py").read_text()).MAGNITUDES

    original, taken = jobs.run, []

    def interrupted(*given, **options):
        taken.append(given)
        if len(taken) == 9:
            raise KeyboardInterrupt
        return original(*given, **options)

    monkeypatch.setattr(jobs, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        halved(pair, tmp_path / "parts")
    again = halved(pair, tmp_path / "parts")
    assert content(tmp_path / "parts") == content(tmp_path / "whole")
    assert again.verdict == found.verdict
    weights = load_file(found.student)
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())


def test_what_is_better_on_validation_images_goes_on(pair, tmp_path, monkeypatch):
    """The test images say the opposite and decide nothing but the verdict."""
    order = {"": 0.5, "kd": 0.4, "mse": 0.7, "dist": 0.6, "pkt": 0.8, OWN: 0.9}

    def fake(job, machine):
        value = order[job.settings.distiller]
        measures = {"accuracy": value, "cross_entropy": 1.0}
        job.folder.mkdir(parents=True, exist_ok=True)
        for name in ("student.safetensors", "distiller.py"):
            (job.folder / name).write_text(job.settings.distiller)
        return TrainingResult({"accuracy": 1 - value}, measures, measures, step_milliseconds=1.0, peak_megabytes=1.0)

    monkeypatch.setattr(jobs, "_run", fake)
    found = halved(pair, tmp_path / "out")
    assert found.rungs[0].kept == (OWN, "pkt", "mse", "kd")
    assert found.rungs[1].kept == (OWN, "pkt", "kd")
    # the best by validation are the worst by test: behind kd
    assert found.verdict.evolved == OWN and found.verdict.published == "pkt" and found.verdict.winner == "kd"
    assert found.student.read_text() == "kd"
    # rungs are looked at by what chooses
    assert all(
        row.test != row.test and row.validation == order[row.name.replace("ce", "")] for row in found.rungs[0].rows
    )


def test_who_fails_on_a_fresh_seed_is_not_confirmed_and_the_best_published_one_stays(pair, tmp_path, monkeypatch):
    order = {"": 0.5, "kd": 0.4, "mse": 0.3, "dist": 0.2, "pkt": 0.1, OWN: 0.9}
    better = "times(no(l2(logits)), 1)"
    _, *others = fresh_numbers(0, 3)

    def fake(job, machine):
        job.folder.mkdir(parents=True, exist_ok=True)
        for name in ("student.safetensors", "distiller.py"):
            (job.folder / name).write_text(job.settings.distiller)
        if job.settings.distiller == OWN and job.settings.seed in others:
            return TrainingResult(reason="diverged")
        value = order.get(job.settings.distiller, 0.8)
        measures = {"accuracy": value, "cross_entropy": 1.0}
        return TrainingResult(measures, measures, measures, step_milliseconds=1.0, peak_megabytes=1.0)

    monkeypatch.setattr(jobs, "_run", fake)
    found = halve(
        pair,
        [OWN, better, "zoo:mse", "zoo:dist"],
        out=tmp_path / "out",
        factors=(1.0,),
        shares=(0.25, 1.0),
        machine=ONE,
    )
    assert found.rungs[0].kept == (OWN, better, "kd", "mse"), "two by rank, and the published ones to compare with"
    assert found.verdict.evolved == "" and found.verdict.winner == "kd" and found.verdict.seeds == 3
    assert "no evolved distiller came to the last trainings" in found.verdict.lines[1]
    assert "kd is behind cross-entropy alone by 10.00" in found.verdict.lines[-1]


def test_a_distiller_brings_its_own_course_over_the_training(pair, tmp_path, monkeypatch):
    order = {"": 0.5, "kd": 0.4, "kd@early": 0.8, OWN: 0.6, f"{OWN}@linear": 0.9}
    courses = set()

    def fake(job, machine):
        job.folder.mkdir(parents=True, exist_ok=True)
        for name in ("student.safetensors", "distiller.py"):
            (job.folder / name).write_text(job.settings.distiller)
        courses.add((job.settings.distiller, job.settings.recipe.distillation))
        measures = {"accuracy": order[job.settings.distiller], "cross_entropy": 1.0}
        return TrainingResult(measures, measures, measures, step_milliseconds=1.0, peak_megabytes=1.0)

    monkeypatch.setattr(jobs, "_run", fake)
    named = [OWN, f"{OWN}@linear", "zoo:kd@early"]
    found = halve(pair, named, out=tmp_path / "out", factors=(1.0,), shares=(0.25, 1.0), machine=ONE)
    assert courses == {
        ("", "constant"),
        ("kd", "constant"),
        (OWN, "constant"),
        (f"{OWN}@linear", "linear"),
        ("kd@early", "early"),
    }
    assert (found.verdict.evolved, found.verdict.published) == (f"{OWN}@linear", "kd@early")


@pytest.mark.parametrize("shares", [(), (0.5, 0.2, 1.0), (0.0, 1.0), (0.1, 0.5)])
def test_rungs_grow_to_the_whole(pair, shares, tmp_path):
    with pytest.raises(SettingError, match="have to grow from above 0 to 1"):
        halved(pair, tmp_path / "out", shares=shares)
