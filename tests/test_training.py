"""Training for real: what comes out of it, that interruptions change no bit, and that a comparison is fair.

Everything is trained on the embedded digits for a few epochs of some milliseconds each.
"""

import ast
import csv
import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import kdzero_gp
from commands import command
from kdzero_gp import models, training
from kdzero_gp.common import interval
from kdzero_gp.engine import teacher as teachers
from kdzero_gp.engine.loop import Trainer
from kdzero_gp.engine.machine import Machine
from kdzero_gp.engine.magnitudes import WARM_UP_EPOCH, final_magnitudes
from kdzero_gp.engine.outputs import Precision
from kdzero_gp.engine.recipe import Recipe, load_recipe
from kdzero_gp.engine.teacher import KeptTeacher, LiveTeacher, kept
from kdzero_gp.errors import ModelError, RunError, SettingError
from kdzero_gp.families.classification import CLASSIFICATION
from kdzero_gp.models.weights import save_weights
from kdzero_gp.progress import Progress
from kdzero_gp.training import run as running
from kdzero_gp.training.api import Pair
from kdzero_gp.training.compare import ComparisonRow, table
from kdzero_gp.training.distillers import with_magnitudes
from kdzero_gp.training.folder import load_checkpoint
from kdzero_gp.training.opening import open_batches
from kdzero_gp.training.pair import tapped
from kdzero_gp.training.settings import TrainingResult

pytestmark = pytest.mark.timeout(300)
CPU = torch.device("cpu")
ONE = Machine("cpu", threads=1)
# Two terms, one of which draws noise and needs an adapter with a batch normalisation.
EXPRESSION = "add(times(no(kl(softmax_C(logits, 4))), 1), times(no(l2(drop(feat))), 0.1))"


@pytest.fixture(scope="session")
def teacher(tmp_path_factory):
    """The weights of a teacher that knows the digits."""
    out = tmp_path_factory.mktemp("teacher")
    result = training.train("digits", "digits_cnn_16", out=out, changes={"epochs": 6}, machine=ONE)
    assert result.test["accuracy"] > 0.8
    return str(out / "network.safetensors")


@pytest.fixture
def pair(teacher):
    return Pair("digits", "digits_cnn_4", "digits_cnn_16", teacher, changes={"epochs": 3})


def weights(folder):
    return load_file(Path(folder) / "student.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


class Interrupt(Progress):
    """Presses Ctrl-C after so many reports."""

    def __init__(self, after: int):
        self.left = after

    def advance(self, done=1, **fields):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


# --- what comes out -----------------------------------------------------------------------------------------


def test_a_student_is_kept_under_its_own_names_without_adapters(pair, tmp_path):
    result = training.distill(pair, EXPRESSION, out=tmp_path / "out", machine=ONE)
    network = models.build("digits_cnn_4", 10, 1)
    assert weights(tmp_path / "out").keys() == network.state_dict().keys()
    assert result.parameters == sum(p.numel() for p in network.parameters())
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "settings.json", "log.csv", "result.json", "student.safetensors", "distiller.py"
    }  # fmt: skip
    rows = list(csv.DictReader((tmp_path / "out" / "log.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    stored = json.loads((tmp_path / "out" / "result.json").read_text())
    assert stored["settings"]["distiller"] == EXPRESSION
    assert stored["machine"]["threads"] == 1 and stored["versions"]["torch"] == torch.__version__
    assert stored["step_milliseconds"] > 0 and stored["peak_megabytes"] > 10


def test_the_adapters_are_trained_with_the_student(pair, tmp_path, monkeypatch):
    states = []
    save = running.files.save_checkpoint
    monkeypatch.setattr(running.files, "save_checkpoint", lambda folder, state: (
        states.append({k: v.clone() for k, v in state["distiller"].items()}), save(folder, state)))  # fmt: skip
    training.distill(pair, EXPRESSION, out=tmp_path / "out", machine=ONE)
    changed = [key for key in states[0] if not torch.equal(states[0][key], states[-1][key])]
    assert any(key.endswith("weight") for key in changed)
    assert any("running" in key for key in changed)


def test_the_exported_distiller_has_the_numbers_that_were_used(pair, tmp_path):
    result = training.distill(pair, "zoo:dkd", out=tmp_path / "a", machine=ONE)
    assert result.magnitudes != (8.0, 1.0)
    again = training.distill(pair, tmp_path / "a" / "distiller.py", out=tmp_path / "b", machine=ONE)
    assert again.magnitudes == pytest.approx(result.magnitudes, rel=1e-5)
    distiller = kdzero_gp.compiler.load_source((tmp_path / "b" / "distiller.py").read_text())
    assert distiller.magnitudes == pytest.approx(again.magnitudes, rel=1e-5)


def test_the_final_weights_are_the_best_by_validation(pair, tmp_path, monkeypatch):
    accuracies = iter([0.5, 0.9, 0.7])
    kept = []

    def measure(opened, network, part, most=None, answers=None):
        if part == "test":
            return {"accuracy": 0.4, "cross_entropy": 1.0}
        kept.append({key: value.clone() for key, value in network.network.state_dict().items()})
        return {"accuracy": next(accuracies), "cross_entropy": 1.0}

    monkeypatch.setattr(running.Opened, "measure", measure)
    result = training.train("digits", "digits_cnn_4", out=tmp_path, changes=pair.changes, machine=ONE)
    assert (result.best_epoch, result.validation["accuracy"], result.last_validation["accuracy"]) == (2, 0.9, 0.7)
    final = load_file(tmp_path / "network.safetensors")
    assert same(final, kept[1])
    assert not same(final, kept[2])


def test_test_images_are_read_once_and_last(pair, tmp_path, monkeypatch):
    parts = []
    measure = running.Opened.measure
    monkeypatch.setattr(
        running.Opened,
        "measure",
        lambda opened, network, part, *more: (parts.append(part), measure(opened, network, part, *more))[1],
    )
    training.distill(pair, "zoo:kd", out=tmp_path, machine=ONE)
    assert parts.count("test") == 1 and parts[-1] == "test"


def test_without_validation_all_images_are_trained_on_and_the_last_weights_kept(pair, tmp_path):
    code, output, _ = command(
        "train", "--model", "digits_cnn_4", "--epochs", 2, "--no-validation", "--out", tmp_path / "out"
    )
    assert code in (0, None) and "weights after epoch 2" in output
    stored = json.loads((tmp_path / "out" / "result.json").read_text())
    assert stored["validation"] == {} and stored["best_epoch"] == 2
    recipe = load_recipe("short", "digits")
    counts = [open_batches("digits", None, recipe, CPU, validate=v).train for v in (True, False)]
    assert counts == [600, 1198]


def test_event_files_hold_a_point_for_each_epoch(pair, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    training.train("digits", "digits_cnn_2", out=tmp_path, changes={"epochs": 2}, machine=ONE, tensorboard=True)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("validation_accuracy")] == [1, 2]


def test_a_loss_that_is_not_finite_ends_in_one_sentence(tmp_path):
    with pytest.raises(RunError, match=r"the loss became (nan|inf).*lower --lr"):
        training.train(
            "digits", "digits_cnn_2", out=tmp_path, machine=ONE, changes={"learning_rate": 1e30, "clip": 0, "epochs": 3}
        )
    assert json.loads((tmp_path / "result.json").read_text())["test"] == {}


# --- interruptions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [2, 3, 4])
def test_a_resumed_training_ends_with_the_same_bits(pair, tmp_path, after):
    whole = training.distill(pair, EXPRESSION, out=tmp_path / "whole", machine=ONE)
    with pytest.raises(KeyboardInterrupt):
        training.distill(pair, EXPRESSION, out=tmp_path / "cut", machine=ONE, progress=Interrupt(after))
    torch.manual_seed(99)
    resumed = training.distill(pair, EXPRESSION, out=tmp_path / "cut", machine=ONE)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    for name in ("test", "validation", "magnitudes", "best_epoch"):
        assert getattr(whole, name) == getattr(resumed, name)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_training_ends_with_the_same_bits(teacher, tmp_path):
    arguments = ("distill", "--teacher", "digits_cnn_16", "--teacher-weights", teacher, "--student", "digits_cnn_8",
                 "--distiller", "fitnet", "--epochs", 40, "--threads", 1)  # fmt: skip
    code, _, errors = command(*arguments, "--out", tmp_path / "whole")
    assert code in (0, None), errors
    cut = tmp_path / "cut"
    program = [sys.executable, "-m", "kdzero_gp", *map(str, arguments), "--out", str(cut)]
    process = subprocess.Popen(program, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    end = time.monotonic() + 120
    while not (cut / "checkpoint.pt").exists() and time.monotonic() < end:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(load_checkpoint(cut, CPU)["rows"])
    assert 1 <= done < 40
    assert not (cut / "result.json").exists()
    code, output, errors = command(*arguments, "--out", cut)
    assert code in (0, None), errors
    assert f"going on after epoch {done}" in output
    assert same(weights(tmp_path / "whole"), weights(cut))


def test_a_finished_training_is_not_done_again(pair, tmp_path, monkeypatch):
    first = training.distill(pair, "zoo:kd", out=tmp_path, machine=ONE)
    monkeypatch.setattr(Trainer, "epoch", None)
    assert training.distill(pair, "zoo:kd", out=tmp_path, machine=ONE) == first


def test_ctrl_c_gets_a_hint(tmp_path, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", interrupted)
    code, _, errors = command("train", "--model", "digits_cnn_2", "--out", tmp_path / "out")
    assert code == 130
    assert errors.strip() == "interrupted; all whole epochs are kept, go on with the same command"


def test_a_training_leaves_threads_and_generator_as_they_were(tmp_path):
    torch.manual_seed(3)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    training.train("digits", "digits_cnn_2", out=tmp_path, changes={"epochs": 1}, machine=ONE)
    assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == threads


# --- the teacher's part -------------------------------------------------------------------------------------


def trainer(pair, recipe, text, keep, folder):
    """A trainer of the pair with a distiller, whose teacher's outputs are kept or not; and the network of the
    teacher."""
    batches = open_batches("digits", None, recipe, CPU)
    student = tapped("digits_cnn_4", 10, batches.example, None, seed=0)
    network = tapped("digits_cnn_16", 10, batches.example).eval()
    models.weights.load_weights(network.network, pair.teacher_weights)
    distiller = kdzero_gp.compile(text, student.shapes, network.shapes)
    path = folder / "teacher.pt"
    assert teachers.keep(network, distiller.KNOWLEDGE, batches, Precision(), path) is keep
    teacher = LiveTeacher(distiller, CLASSIFICATION, network, batches, Precision())
    if keep:
        labels = torch.cat([labels for _, labels in batches.evaluation("train")])
        teacher = KeptTeacher(distiller, CLASSIFICATION, kept(path, distiller.KNOWLEDGE, CPU), labels)
    return Trainer(student, CLASSIFICATION, batches, Precision(), teacher), network


@pytest.mark.parametrize("target_bytes", [0, 1 << 30])
@pytest.mark.parametrize("draws", [0, 3])
@pytest.mark.parametrize("flip", [False, True])
def test_kept_outputs_are_those_of_a_live_teacher(pair, flip, draws, target_bytes, monkeypatch, tmp_path):
    monkeypatch.setattr(teachers, "TARGET_BYTES", target_bytes)
    changes = {"crop": "pad", "padding": 2, "draws": draws} if draws else {}
    recipe = load_recipe("short", "digits", changes={"flip": flip, "batch_size": 32} | changes)
    whole, network = trainer(pair, recipe, "times(no(l2(emb)), 1)", keep=True, folder=tmp_path)
    batch = next(whole.batches.epoch(0, 0))
    assert (batch.flipped is not None and bool(batch.flipped.any())) == flip
    assert len(set(batch.form.tolist())) == (draws or 1 + flip)
    live = LiveTeacher(whole.teacher.distiller, CLASSIFICATION, network, whole.batches, Precision())
    from_disk, asked = (t.targets(batch, batch.images, batch.labels, {}) for t in (whole.teacher, live))
    assert (whole.teacher.ready is None) == (target_bytes == 0)
    assert from_disk.keys() == asked.keys()
    assert all(torch.allclose(from_disk[name], asked[name], atol=1e-5) for name in asked)


def test_the_distillers_loss_is_scaled_as_the_recipe_says(pair, tmp_path):
    """And where it is scaled to 0, the student learns as without a teacher."""
    seen = {}
    for distillation in ("constant", "linear", "early"):
        recipe = load_recipe("short", "digits", changes={"epochs": 1, "batch_size": 128, "distillation": distillation})
        one, _ = trainer(pair, recipe, "times(no(l2(logits)), 1)", keep=True, folder=tmp_path)
        batch, before = next(one.batches.epoch(0, 0)), one.state_dict()["student"]["fc.weight"].clone()
        step = one.steps - 1
        own, distilled = one.step(batch, step)
        seen[distillation] = distilled, one.state_dict()["student"]["fc.weight"] - before, own
    assert torch.allclose(seen["linear"][0], seen["constant"][0] / one.steps) and seen["early"][0] == 0
    alone = Trainer(tapped("digits_cnn_4", 10, one.batches.example, None, seed=0), CLASSIFICATION, one.batches)
    before = alone.state_dict()["student"]["fc.weight"].clone()
    alone.step(batch, step)
    assert torch.allclose(alone.state_dict()["student"]["fc.weight"] - before, seen["early"][1])
    assert not torch.allclose(seen["constant"][1], seen["early"][1])


@pytest.mark.parametrize("crop", ["none", "pad"])
def test_a_training_leaves_the_teacher_as_it_is(pair, teacher, crop, monkeypatch, tmp_path):
    """Its batch statistics too: it is checked, asked and kept in evaluation mode."""
    seen = []
    load = running.load_teacher
    monkeypatch.setattr(running, "load_teacher", lambda *given: seen.append(load(*given)) or seen[-1])
    changed = dataclasses.replace(pair, changes={"epochs": 2, "crop": crop})
    training.distill(changed, "zoo:kd", out=tmp_path / "out", machine=ONE)
    (network,) = seen
    assert same(network.network.state_dict(), load_file(teacher))


@pytest.mark.parametrize("changes", [{}, {"crop": "pad"}, {"mixup": 0.2}])
def test_the_teacher_is_live_where_images_change(pair, changes, monkeypatch, tmp_path):
    if "mixup" in changes:
        pytest.importorskip("timm")
    recipe = load_recipe("short", "digits", changes=changes)
    used, _ = trainer(pair, recipe, "times(no(l2(emb)), 1)", keep=not changes, folder=tmp_path)
    asked, ask = [], teachers.ask
    monkeypatch.setattr(teachers, "ask", lambda *given: (asked.append(len(given[1])), ask(*given))[1])
    used.epoch(0, 0, lambda *step: None)
    assert len(asked) == (used.batches.steps if changes else 0)


def test_kept_outputs_are_bounded(pair, monkeypatch, tmp_path):
    needed = 600 * 4 * 32
    for bound in (needed - 1, needed):
        monkeypatch.setattr(teachers, "KEPT_BYTES", bound)
        recipe = load_recipe("short", "digits")
        trainer(pair, recipe, "times(no(l2(emb)), 1)", keep=bound == needed, folder=tmp_path)
        assert (tmp_path / "teacher.pt").exists() == (bound == needed)


def test_mixed_images_train_on_mixed_labels(pair, tmp_path):
    pytest.importorskip("timm")
    recipe = load_recipe("short", "digits", changes={"mixup": 0.8, "cutmix": 1.0, "optimizer": "adamw"})
    mixed, _ = trainer(pair, recipe, "times(no(kl(softmax_C(logits, 4))), 1)", keep=False, folder=tmp_path)
    losses = []
    mixed.epoch(0, 0, lambda step, own, distilled: losses.append(float(own + distilled)))
    assert len(losses) == mixed.batches.steps and all(map(math.isfinite, losses))
    _, labels = mixed.mixing(torch.zeros(4, 1, 8, 8), torch.tensor([0, 1, 2, 3]))
    assert labels.shape == (4, 10) and torch.allclose(labels.sum(1), torch.ones(4))


def test_adamw_decays_weights_alone(pair, tmp_path):
    recipe = load_recipe("short", "digits", changes={"optimizer": "adamw"})
    whole, _ = trainer(pair, recipe, "times(no(l2(feat)), 1)", keep=True, folder=tmp_path)
    groups = whole.optimizer.adamw.param_groups
    assert [group["weight_decay"] for group in groups] == [recipe.weight_decay, 0.0]
    assert {p.dim() > 1 for p in groups[0]["params"]} == {True}
    assert {p.dim() > 1 for p in groups[1]["params"]} == {False}


# --- magnitudes ---------------------------------------------------------------------------------------------


def norms(whole, magnitudes):
    """Norms of the gradients of the weighted terms, their sum and the cross-entropy, on one probe batch, untrained, by
    plain backward passes."""
    student, teacher = whole.student, whole.teacher
    batch = next(whole.batches.epoch(0, WARM_UP_EPOCH))
    student.train()
    outputs = student(batch.images)
    targets = teacher.targets(batch, batch.images, batch.labels, outputs)
    terms = teacher.distiller.terms(outputs, targets, batch.labels)
    weighted = [m * t for m, t in zip(magnitudes, terms, strict=True)]
    lengths = []
    for loss in (*weighted, sum(weighted), F.cross_entropy(outputs["logits"], batch.labels)):
        gradients = torch.autograd.grad(loss, list(student.parameters()), retain_graph=True, allow_unused=True)
        lengths.append(float(torch.cat([g.flatten() for g in gradients if g is not None]).norm()))
    return lengths


@pytest.mark.parametrize("mode", ["relative", "joint", "absolute"])
def test_magnitudes_are_relative_to_the_gradient_of_the_cross_entropy(pair, mode, monkeypatch, tmp_path):
    monkeypatch.setattr("kdzero_gp.engine.magnitudes.WARM_UP_STEPS", 0)
    monkeypatch.setattr("kdzero_gp.engine.magnitudes.PROBES", 1)
    text = "add(times(no(l2(logits)), 5), times(no(l2(emb)), 0.1))"
    whole, _ = trainer(pair, load_recipe("short", "digits"), text, keep=True, folder=tmp_path)
    before = {k: v.clone() for k, v in whole.student.state_dict().items()}
    found, _ = final_magnitudes(mode, 2.0, whole.student, whole.teacher, whole.batches, whole.precision, seed=0)
    assert same(before, whole.student.state_dict())
    one, other, total, hard = norms(whole, found)
    if mode == "absolute":
        assert found == (10.0, 0.2)
    elif mode == "joint":
        assert total == pytest.approx(2.0 * hard, rel=1e-4)
        assert found[0] / found[1] == pytest.approx(50.0)
    else:
        assert (one, other) == pytest.approx((10.0 * hard, 0.2 * hard), rel=1e-4)


def test_a_distiller_without_gradient_cannot_be_measured(pair, tmp_path):
    source = pair.resolve("times(no(l2(logits)), 1)")[0]
    still = source.source.replace('student["logits"]', 'student["logits"].detach()')
    path = tmp_path / "still.py"
    path.write_text(still)
    with pytest.raises(SettingError, match=r"no finite gradient.*--magnitude absolute"):
        training.distill(pair, path, out=tmp_path / "out", magnitude="joint", machine=ONE)


def test_magnitudes_are_put_into_a_source():
    source = kdzero_gp.source_of(EXPRESSION, {"logits": (3,), "feat": (4, 2, 2)}, {"logits": (3,), "feat": (5, 2, 2)})
    distiller = kdzero_gp.compiler.load_source(with_magnitudes(source, (0.125, 7.0)))
    assert distiller.magnitudes == (0.125, 7.0) and distiller.SHARES == ()


def test_a_file_of_a_training_says_what_its_numbers_mean():
    source = kdzero_gp.source_of(EXPRESSION, {"logits": (3,), "feat": (4, 2, 2)}, {"logits": (3,), "feat": (5, 2, 2)})
    changed = with_magnitudes(source, (0.125, 7.0), (3.0, 0.5), {"batch size": 64, "pair": 'a "b" """'})
    assert kdzero_gp.compiler.load_source(changed).SHARES == (3.0, 0.5)
    assert "\nbatch size: 64\npair: a \"b\" '''\n" in ast.get_docstring(ast.parse(changed)) + "\n"


# --- wrong inputs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("zoo:kdd", "the zoo has no 'kdd'"),
        ("kdd", "not a file, an expression or zoo:NAME"),
        ("missing.py", "cannot be read"),
        ("run:nowhere", "does not name a run"),
        ("times(no(l2(feet)), 1)", "feet"),
    ],
)
def test_what_is_no_distiller_gets_one_sentence(pair, text, message, tmp_path):
    code, _, errors = command(
        "distill", "--teacher", pair.teacher, "--teacher-weights", pair.teacher_weights, "--student", pair.student,
        "--distiller", text, "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 2 and errors.startswith("Error: ") and len(errors.splitlines()) == 1
    assert message in errors
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nonsense(", "is not a distiller (SyntaxError"),
        ("x = 1", "is not a distiller (KeyError"),
        ("class Distiller: pass", "has no 'KNOWLEDGE'"),
        ("from torch import nn\nclass Distiller(nn.Module): pass", "has no 'KNOWLEDGE'"),
    ],
)
def test_a_file_that_is_no_distiller_gets_one_sentence(pair, content, message, tmp_path):
    path = tmp_path / "file.py"
    path.write_text(content)
    with pytest.raises(SettingError) as failed:
        training.distill(pair, path, out=tmp_path / "out", machine=ONE)
    assert message in str(failed.value)


def test_a_distiller_of_another_pair_is_refused(pair, tmp_path):
    other = {"logits": (10,), "feat": (7, 3, 3)}
    kdzero_gp.export(tmp_path / "other.py", "times(no(l2(feat)), 1)", other, other | {"feat": (9, 3, 3)})
    with pytest.raises(SettingError, match=r"does not fit this pair.*export it for this teacher and student"):
        training.distill(pair, tmp_path / "other.py", out=tmp_path / "out", machine=ONE)


def test_a_teacher_needs_weights_that_know_the_data(pair, tmp_path):
    without = dataclasses.replace(pair, teacher_weights=None)
    with pytest.raises(ModelError, match=r"digits_cnn_16 has no weights; give --teacher-weights"):
        training.distill(without, "zoo:kd", out=tmp_path / "a", machine=ONE)
    torch.manual_seed(0)
    save_weights(models.build("digits_cnn_16", 10, 1), tmp_path / "random.safetensors")
    guessing = dataclasses.replace(pair, teacher_weights=str(tmp_path / "random.safetensors"))
    with pytest.raises(ModelError, match="near guessing"):
        training.distill(guessing, "zoo:kd", out=tmp_path / "b", machine=ONE)


def test_a_training_that_fails_at_its_start_leaves_no_folder(tmp_path):
    with pytest.raises(ModelError):
        training.train("digits", "digits_cnn_4", out=tmp_path / "out", taps={"feat": "nowhere"}, machine=ONE)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ["", "5", "null", '"x"', "[1]", "{}"])
def test_a_result_of_another_kind_is_one_sentence(tmp_path, content):
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(RunError, match="is damaged or of another version; delete it"):
        running.files.read_result(tmp_path)


def test_a_folder_of_something_else_is_left_alone(pair, tmp_path):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="holds no training of kdzero-gp; choose another --out"):
        training.train("digits", "digits_cnn_2", out=foreign, machine=ONE)
    for content in ("{}", "5", '"x"', "[1]", '{"kind": "training", "settings": 5}',
                    '{"kind": "training", "settings": {}, "content": 5}'):  # fmt: skip
        (foreign / "settings.json").write_text(content)
        with pytest.raises(RunError, match="is not a settings file of kdzero-gp"):
            training.train("digits", "digits_cnn_2", out=foreign, machine=ONE)
    assert {path.name for path in foreign.iterdir()} == {"thesis.tex", "settings.json"}


def test_a_folder_of_another_training_names_the_difference(tmp_path):
    training.train("digits", "digits_cnn_2", out=tmp_path, changes={"epochs": 1}, machine=ONE)
    with pytest.raises(RunError, match="holds a training with seed 0 and seed 1 was asked for"):
        training.train("digits", "digits_cnn_2", out=tmp_path, changes={"epochs": 1}, seed=1, machine=ONE)
    with pytest.raises(RunError, match="holds a training and no comparison"):
        running.files.claim(tmp_path, "comparison", {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--set", "epoch=3"), "no field 'epoch': did you mean epochs"),
        (("--set", "epochs"), "--set takes NAME=VALUE"),
        (("--recipe", "fast"), "there is no recipe 'fast'"),
        (("--device", "gpu"), "--device must be auto, cpu or cuda"),
        (("--threads", "0"), "--threads must be at least 1"),
        (("--seed", "-1"), "--seed must be"),
        (("--tap", "feat=nowhere"), "has no layer 'nowhere'"),
    ],
)
def test_a_wrong_option_gets_one_sentence(options, message, tmp_path):
    code, _, errors = command("train", "--model", "digits_cnn_2", "--out", tmp_path / "out", *options)
    assert code == 2 and errors.startswith("Error: ") and len(errors.splitlines()) == 1
    assert message in errors


# --- compare ------------------------------------------------------------------------------------------------


def compared(pair, out, workers=1, **options):
    settings = {"seeds": 2, "factors": (0.3, 3.0), "tune_epochs": 1} | options
    machine = dataclasses.replace(ONE, workers=workers)
    return training.compare(pair, ["zoo:mse"], out=out, machine=machine, **settings)


def numbers(comparison):
    rows = comparison.rows
    return {row.name: (row.factor, row.test, None if row.name == "kd" else row.difference) for row in rows}


def test_a_comparison_is_fair_resumable_and_independent_of_workers(pair, tmp_path, monkeypatch):
    found = compared(pair, tmp_path / "one", workers=1)
    assert {row.name for row in found.rows} == {"ce", "kd", "mse"}
    stored = json.loads((tmp_path / "one" / "compare.json").read_text())
    assert {name: sorted(grid) for name, grid in stored["tuning"].items()} == {n: ["0.3", "3"] for n in ("kd", "mse")}
    assert {name: sorted(seeds) for name, seeds in stored["trainings"].items()} == {
        name: ["0", "1"] for name in ("ce", "kd", "mse")
    }
    kd, mse = (stored["trainings"][name] for name in ("kd", "mse"))
    paired = [mse[seed]["test"]["accuracy"] - kd[seed]["test"]["accuracy"] for seed in ("0", "1")]
    row = next(row for row in found.rows if row.name == "mse")
    assert row.difference == pytest.approx(sum(paired) / 2)
    assert math.isnan(row.interval) and math.isnan(row.difference_interval), "two seeds make no interval"
    assert (tmp_path / "one" / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(csv.DictReader((tmp_path / "one" / "compare.csv").read_text().splitlines()))) == 6

    assert numbers(compared(pair, tmp_path / "two", workers=2)) == numbers(found)
    trained = []
    epoch = Trainer.epoch
    monkeypatch.setattr(Trainer, "epoch", lambda self, *more: (trained.append(1), epoch(self, *more))[1])
    assert numbers(compared(pair, tmp_path / "one")) == numbers(found)
    assert not trained
    more = compared(pair, tmp_path / "one", seeds=3)
    assert len(trained) == 3 * 3 and {row.seeds for row in more.rows} == {3}
    stored = json.loads((tmp_path / "one" / "compare.json").read_text())["trainings"]
    paired = [stored["mse"][seed]["test"]["accuracy"] - kd["test"]["accuracy"] for seed, kd in stored["kd"].items()]
    row = next(row for row in more.rows if row.name == "mse")
    assert row.difference_interval == pytest.approx(interval(paired)) and row.difference_interval > 0


def test_a_comparison_asks_its_teacher_once(pair, tmp_path, monkeypatch):
    asked_of, keep, ask = [], teachers.keep, teachers.ask
    monkeypatch.setattr(
        running, "keep", lambda *given: (asked_of.append((given[4], given[4].exists())), keep(*given))[1]
    )
    live = []
    monkeypatch.setattr(teachers, "ask", lambda *given: (live.append(len(given[1])), ask(*given))[1])
    compared(dataclasses.replace(pair, changes={"epochs": 1, "flip": True}), tmp_path)
    place = tmp_path / "teacher.pt"
    assert asked_of[0] == (place, False) and set(asked_of[1:]) == {(place, True)}
    assert sum(live) == 2 * 600, "each training image and its mirror image once"
    assert not list(tmp_path.rglob("teacher.pt"))


def test_a_live_teacher_and_a_kept_one_train_the_same_student(pair, tmp_path, monkeypatch):
    training.distill(pair, "zoo:fitnet", out=tmp_path / "kept", machine=ONE)
    monkeypatch.setattr(teachers, "KEPT_BYTES", 0)
    training.distill(pair, "zoo:fitnet", out=tmp_path / "live", machine=ONE)
    one, other = (load_file(tmp_path / name / "student.safetensors") for name in ("kept", "live"))
    assert all(torch.allclose(one[name].float(), other[name].float(), atol=1e-3) for name in one)


def test_the_factor_is_chosen_by_validation_in_the_short_budget(pair, tmp_path):
    found = compared(pair, tmp_path)
    stored = json.loads((tmp_path / "compare.json").read_text())
    for row in found.rows:
        if row.name == "ce":
            assert row.factor is None
            continue
        grid = stored["tuning"][row.name]
        best = max(
            grid, key=lambda f: (grid[f]["last_validation"]["accuracy"], -grid[f]["last_validation"]["cross_entropy"])
        )
        assert row.factor == float(best)
        assert all(one["epochs"] == 1 for one in grid.values())


def test_a_factor_multiplies_what_an_expression_says(pair, tmp_path):
    """Terms of an expression are each relative to the cross-entropy; published methods keep the ratio of theirs."""
    text = "add(times(no(l2(logits)), 1), times(no(l2(emb)), 1))"
    found = [training.NamedDistiller("ours", kdzero_gp.compiler.parse(text)), "zoo:kd"]
    training.compare(
        pair, found, out=tmp_path, seeds=1, factors=(2.0,), tune_epochs=1, machine=dataclasses.replace(ONE, workers=1)
    )
    modes = {}
    for path in (tmp_path / "trainings").glob("*/settings.json"):
        settings = json.loads(path.read_text())["settings"]
        modes[settings["distiller"]] = settings["magnitude"], settings["factor"]
    assert modes["ours"] == ("relative", 2.0) and modes["kd"] == ("joint", 2.0)


def test_a_distiller_that_cannot_be_trained_gets_its_reason(pair, tmp_path):
    still = pair.resolve("times(no(l2(logits)), 1)")[0].source.replace('["logits"]', '["logits"].detach()')
    (tmp_path / "still.py").write_text(still)
    code, output, errors = command(
        "compare", "--teacher", pair.teacher, "--teacher-weights", pair.teacher_weights, "--student", pair.student,
        "--distiller", tmp_path / "still.py", "--seeds", 1, "--factors", "1", "--epochs", 1, "--workers", 1,
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert code in (0, None), errors
    assert "still" in output and "kd" in output
    rows = json.loads((tmp_path / "out" / "compare.json").read_text())["table"]
    assert rows[-1]["name"] == "still" and rows[-1]["reason"]
    assert all(row["test"] is not None for row in rows[:-1])


def test_the_table_has_means_intervals_and_paired_differences():
    def result(test, validation):
        measured = {"test": {"accuracy": test}, "validation": {"accuracy": validation}}
        return TrainingResult(**measured, step_milliseconds=2.0, peak_megabytes=100.0)

    rows = table(
        {
            "ce": {0: result(0.5, 0.6), 1: result(0.7, 0.6), 2: result(0.6, 0.6)},
            "kd": {0: result(0.6, 0.7), 1: result(0.8, 0.8), 2: result(0.7, 0.8)},
            "bad": {0: TrainingResult(reason="the loss became nan")},
        },
        {"kd": 1.0, "bad": 0.3},
        CLASSIFICATION.deciding,
    )
    assert [row.name for row in rows] == ["kd", "ce", "bad"]
    assert rows[1].difference == pytest.approx(-0.1) and rows[1].difference_interval == pytest.approx(0.0, abs=1e-9)
    # t(0.975, 2) · s / √3 with s = 0.1
    assert rows[0].interval == pytest.approx(4.30265 * 0.1 / math.sqrt(3), rel=1e-4)
    assert math.isnan(rows[0].difference)
    assert rows[2] == ComparisonRow("bad", 0.3, 1, reason="the loss became nan")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--seeds", "0"), "--seeds must be at least 1"),
        (("--factors", "a"), "--factors takes numbers"),
        (("--factors", "-1"), "factor must be above 0"),
        (("--workers", "0"), "--workers must be at least 1"),
    ],
)
def test_a_wrong_comparison_gets_one_sentence(pair, options, message, tmp_path):
    code, _, errors = command(
        "compare", "--teacher", pair.teacher, "--teacher-weights", pair.teacher_weights, "--student", pair.student,
        "--distiller", "mse", "--out", tmp_path / "out", *options,
    )  # fmt: skip
    assert code == 2 and message in errors and len(errors.splitlines()) == 1


def test_two_distillers_of_one_name_are_refused(pair, tmp_path):
    (tmp_path / "kd.py").write_text(pair.resolve("mse")[0].source)
    with pytest.raises(SettingError, match="two distillers are called 'kd'"):
        training.compare(pair, [tmp_path / "kd.py"], out=tmp_path / "out", machine=ONE)


def test_a_recipe_is_part_of_what_is_compared(pair, tmp_path):
    assert isinstance(pair.settings().recipe, Recipe)
    compared(pair, tmp_path, seeds=1, factors=(1.0,))
    with pytest.raises(RunError, match="holds a comparison with recipe"):
        compared(dataclasses.replace(pair, changes={"epochs": 4}), tmp_path, seeds=1, factors=(1.0,))
