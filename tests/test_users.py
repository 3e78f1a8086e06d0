"""Scripts as users write them, in ``tests/users``: each evolves, distils, compares and resumes with objects of its own.

All but two run in this process, with workers that are no processes; these two show that processes work.
"""

import contextlib
import io
import os
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
import torch

import kdzero_gp
from inline_engine import inline
from kdzero_gp import objects
from kdzero_gp.search.storage import Database
from kdzero_gp.tasks import own

USERS = Path(__file__).resolve().parent / "users"
SEPARATE = ("no_guard", "notebook")
SCRIPTS = sorted(path.stem for path in USERS.glob("*.py") if path.stem not in SEPARATE)
# The end of a search in a few trainings; scripts show how one begins.
QUICK = {"fresh_seeds": 1, "prune": 0, "zoo_factors": (1.0,)}
# Lines that are not empty.
LONGEST = 40


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """What a script left: its names, its folder, and what it printed. Each runs once."""
    done = {}

    def run(name):
        if name in done:
            return done[name]
        folder, before, printed = tmp_path_factory.mktemp(name), Path.cwd(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(printed), inline():
            for plan in ("OWN", "OWN_IMAGES"):
                patch.setattr(own, plan, replace(getattr(own, plan), **QUICK))
            patch.chdir(folder)
            names = runpy.run_path(str(USERS / f"{name}.py"), run_name="__main__")
        assert Path.cwd() == before
        done[name] = names, folder, " ".join(printed.getvalue().split())
        return done[name]

    return run


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_evolves_distils_compares_and_resumes(name, ran):
    if name == "vit_to_cnn":
        pytest.importorskip("transformers")
    names, folder, _ = ran(name)
    run, resumed = names["run"], names["resumed"]
    assert run.finished and isinstance(run.best.distiller(), torch.nn.Module)
    assert "<svg" in run.best._repr_svg_() and str(run.best.expression) in repr(run.best)
    assert resumed.best.digest == run.best.digest and len(resumed.births) == len(run.births)
    assert 0 <= names["distilled"].test["accuracy"] <= 1 and not names["distilled"].student.training
    assert {"ce", "kd"} < {row.name for row in names["table"].rows} or name == "random_augmentation"
    assert not [row.reason for row in names["table"].rows if row.reason]
    assert not any(objects.is_known(known) for known in (run.settings.task, run.settings.student))
    kept = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert kept <= {".sqlite", ".py", ".safetensors", ".pt", ".json", ".csv", ".png", ".lock", "", ".f32", ".toml"}


@pytest.mark.parametrize("path", sorted(USERS.glob("*.py")), ids=lambda path: path.stem)
def test_a_script_is_short(path):
    assert len([line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]) <= LONGEST


def test_knowledge_of_sequences_and_texts_is_found(ran):
    run = ran("sequences")[0]["run"]
    shapes = run._read(lambda database: database.fact("bench"))["teacher_shapes"]
    assert shapes == {"logits": [3], "emb": [32], "feat": [32, 24]}
    run = ran("dict_inputs")[0]["run"]
    assert run._read(lambda database: database.fact("bench"))["student_shapes"] == {"logits": [2], "emb": [4]}


def test_frozen_parts_and_their_statistics_stay(ran):
    names, _, _ = ran("frozen_backbone")
    before, after = names["before"], names["distilled"].student.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"1.weight", "1.bias"}
    assert all(torch.equal(before[name], now) for name, now in names["student"].state_dict().items())


def test_what_is_done_to_objects_is_said(ran):
    assert "one-hot targets of 4 columns are read as the numbers of their classes" in ran("one_hot")[2]
    assert "the teacher's weights are float16; a copy of it computes in float32" in ran("half_teacher")[2]
    assert "the labels show 3 classes and the teacher has 5" in ran("half_teacher")[2]
    assert "the data set of the data loader is read" in ran("loader_only")[2]
    assert "proxies use 4 kept draws of each sample" in ran("random_augmentation")[2]


def test_random_transforms_are_drawn_anew_for_every_epoch(ran):
    run = ran("random_augmentation")[0]["run"]
    task = torch.load(run.folder / "proxy_task.pt", weights_only=True)["train"]
    first, second = task["images"][:300], task["images"][300:600]
    assert task["draws"] == 4 and len(task["images"]) == 1200 and not torch.equal(first, second)
    assert torch.equal(task["labels"][:300], task["labels"][300:600])
    assert not (run.folder.parent / "digits-student" / "teacher.pt").exists()


def environment():
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.mark.timeout(600)
def test_a_script_without_a_main_guard_runs_once(tmp_path):
    done = subprocess.run(
        [sys.executable, str(USERS / "no_guard.py")], cwd=tmp_path, env=environment(), capture_output=True, text=True,
        timeout=500, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("once") == 1
    with Database.read(tmp_path / "script") as database:
        assert {e.status.value for e in database.evaluations()} & {"trained", "equivalent"}


@pytest.mark.timeout(600)
def test_a_notebook_shows_a_live_table_and_the_best(tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    for variable in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setitem(os.environ, variable, str(tmp_path / variable.lower()))
    monkeypatch.setattr(os, "environ", environment())
    cells = (USERS / "notebook.py").read_text(encoding="utf-8").split("# %%\n")[1:]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=500, kernel_name="python3", resources=where).execute()
    shown = [[output.get("data", {}) for output in cell["outputs"]] for cell in notebook.cells]
    assert "logits" in shown[1][0]["text/html"]
    assert "births" in shown[2][0]["text/html"] and "<svg" in shown[2][0]["text/html"]
    assert "image/svg+xml" in shown[3][0] and "text/html" in shown[4][-1]


# --- what is refused ----------------------------------------------------------------------------------------------


def test_other_objects_are_not_resumed_with(ran, monkeypatch):
    names, folder, _ = ran("one_hot")
    run = kdzero_gp.Run(folder / "hot")
    with pytest.raises(kdzero_gp.KdzeroError, match=r"own:Student-\w+ is an object of a Python session"):
        run.resume(verbose=False)
    with pytest.raises(kdzero_gp.KdzeroError, match=r"the student is not what .* was started with"):
        run.resume(names["teacher"], names["teacher"], (names["X"], names["y"]), verbose=False)
    with pytest.raises(kdzero_gp.KdzeroError, match=r"the data are not what .* was started with"):
        run.resume(names["teacher"], names["Student"], (names["X"] + 1, names["y"]), verbose=False)


class Planted:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def test_opening_a_strangers_folder_runs_nothing(ran, tmp_path):
    names, folder, _ = ran("breast_cancer")
    marker, run = tmp_path / "ran", kdzero_gp.Run(folder / "cancer")
    kept = (run.folder / "proxy_task.pt").read_bytes()
    torch.save(Planted(marker), run.folder / "proxy_task.pt")
    try:
        assert run.best.distiller() is not None and run.race and run._repr_html_()
        with pytest.raises(kdzero_gp.KdzeroError, match="damaged"):
            run.replay(check=False)
        with pytest.raises(kdzero_gp.KdzeroError, match="damaged"):
            run.resume(names["teacher"], lambda: names["mlp"](4), **names["data"], verbose=False)
    finally:
        (run.folder / "proxy_task.pt").write_bytes(kept)
    assert not marker.exists()
