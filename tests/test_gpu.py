"""On a CUDA device: losses and gradients equal the processor's, and searches and trainings go on as if never stopped.

pytest -m gpu tests/test_gpu.py          KDZERO_TEST_DEVICE=cpu tries the lines of this file without a device
"""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import kdzero_gp
from devices import draws_numbers, trees_by_operation
from kdzero_gp import training
from kdzero_gp.progress import Progress
from strategies import IMAGE_ZOO, PAIRS, batch_of, random_trees

DEVICE = os.environ.get("KDZERO_TEST_DEVICE", "cuda")
# libraries of the device have warnings of their own
pytestmark = [pytest.mark.gpu, pytest.mark.timeout(100), pytest.mark.filterwarnings("default::UserWarning")]

BATCH = 16
# ‖ours − theirs‖ / ‖theirs‖: float32 sums in another order; a kink that one value crosses costs as much.
TOLERANCE = 2e-3
RANDOM_TREES = 60


@pytest.fixture(autouse=True)
def full_float32():
    """Without TF32, which convolutions use by default and which keeps ten bits."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


TREES = trees_by_operation()


def loss_and_gradients(expression, pair, device, dtype):
    """A distiller's loss and the gradients of the student's tensors and of the adapters, on a device."""
    torch.manual_seed(5)
    distiller = kdzero_gp.compile(expression, *PAIRS[pair]).to(dtype)  # the adapters' first weights
    distiller = distiller.to(device).train()
    student, teacher, labels = batch_of(PAIRS[pair], BATCH, seed=6, dtype=dtype)
    student = {name: tensor.detach().to(device).requires_grad_() for name, tensor in student.items()}
    teacher = {name: tensor.to(device) for name, tensor in teacher.items()}
    loss = distiller(student, teacher, labels.to(device))
    assert loss.device.type == device
    loss.backward()
    gradients = {name: tensor.grad for name, tensor in [*student.items(), *distiller.named_parameters()]}
    return loss.detach(), {name: gradient for name, gradient in gradients.items() if gradient is not None}


def assert_near(ours, theirs, tolerance, what):
    """NaN never passes, infinities have to be equal."""
    ours = ours.cpu()
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    if not theirs.isfinite().all():
        assert torch.equal(ours.isfinite(), theirs.isfinite()), what
        return
    error = (ours.double() - theirs.double()).norm() / theirs.double().norm().clamp(min=1e-30)
    assert error <= tolerance or (ours - theirs).abs().max() < 1e-9, f"{what}: {error:.3g}"


def compare(expression, pair, dtype=torch.float32, tolerance=TOLERANCE):
    ours, our_gradients = loss_and_gradients(expression, pair, DEVICE, dtype)
    if draws_numbers(expression):
        assert ours.isfinite()
        return
    theirs, their_gradients = loss_and_gradients(expression, pair, "cpu", dtype)
    assert_near(ours, theirs, tolerance, f"the loss of {expression}")
    assert our_gradients.keys() == their_gradients.keys()
    for name, gradient in their_gradients.items():
        assert_near(our_gradients[name], gradient, tolerance, f"the gradient of {name} by {expression}")


@pytest.mark.parametrize("name", [operation.name for operation in kdzero_gp.catalogue if not operation.dense])
def test_an_operation_gives_the_values_and_gradients_of_the_processor(name):
    compare(TREES[name], "equal")


@pytest.mark.parametrize("name", IMAGE_ZOO)
@pytest.mark.parametrize("pair", ["equal", "cross"])
def test_a_published_method_gives_the_values_and_gradients_of_the_processor(name, pair):
    compare(kdzero_gp.zoo[name], pair)


def test_random_distillers_give_the_values_and_gradients_of_the_processor():
    """In float64, since towers of powers and exponentials need it."""
    for tree in random_trees(RANDOM_TREES, seed=32):
        compare(tree, "equal", torch.float64, 1e-6)


# --- searches -------------------------------------------------------------------------------------------------

SEARCH = ("--generations", "2", "--pop", "5", "--images", "128", "--validation-images", "64", "--warm-epochs", "1",
          "--proxy-epochs", "1", "--race-epochs", "1", "--race-top", "1", "--race-seeds", "1",
          "--fresh-seeds", "0", "--seed", "3",
          "--workers", "1", "--device", DEVICE)  # fmt: skip
BIRTHS = 10
TABLES = ("facts", "births", "evaluations", "measurements")


def command(*arguments):
    """The command line in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "kdzero_gp", *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def ended(process):
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 0, output
    return output


def rows(folder):
    """All that a run found; costs are times and take no part."""
    with contextlib.closing(sqlite3.connect(f"file:{folder / 'run.sqlite'}?mode=ro", uri=True)) as database:
        found = {table: database.execute(f"SELECT * FROM {table} ORDER BY rowid").fetchall() for table in TABLES}
    found["facts"].sort()
    return found


def births(folder):
    with contextlib.suppress(sqlite3.Error):
        return len(rows(folder)["births"])
    return 0


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A finished search of ten births, and one killed on its way and resumed; at the same time."""
    folder = tmp_path_factory.mktemp("runs")
    whole = command("evolve", *SEARCH, "--out", folder / "whole")
    cut = command("evolve", *SEARCH, "--out", folder / "cut")
    end = time.monotonic() + 80
    while births(folder / "cut") < 3 and cut.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    os.killpg(cut.pid, signal.SIGKILL)
    cut.communicate(timeout=20)
    before = births(folder / "cut")
    ended(whole)
    time.sleep(1.5)  # orphaned workers notice within a second
    ended(command("resume", folder / "cut", "--workers", "1", "--device", DEVICE))
    return folder, before


def test_a_search_ends_with_its_births_and_an_exported_distiller(searched):
    folder, _ = searched
    found = rows(folder / "whole")
    assert len(found["births"]) == BIRTHS
    assert found["evaluations"]
    assert (folder / "whole" / "distiller.py").exists()


def test_a_killed_search_that_is_resumed_has_the_rows_of_one_that_was_not(searched):
    folder, before = searched
    assert before < BIRTHS, "the run had ended before it was killed"
    whole, cut = rows(folder / "whole"), rows(folder / "cut")
    for table in TABLES:
        assert cut[table] == whole[table], table
    assert Path(folder / "cut" / "distiller.py").exists()


# --- trainings ------------------------------------------------------------------------------------------------


class Interrupted(Exception):
    """Stands for Ctrl-C."""


class StopAfter(Progress):
    """Ends a training after some batches."""

    def __init__(self, steps):
        self.left = steps

    def advance(self, done=1, **fields):
        self.left -= done
        if self.left <= 0:
            raise Interrupted


@pytest.mark.parametrize("expression", ["zoo:kd", "times(no(l2(feat)), 1)"])
def test_a_resumed_distillation_ends_with_the_same_bits(expression, tmp_path):
    machine = training.Machine(DEVICE, threads=1)
    teacher = tmp_path / "teacher"
    training.train("digits", "digits_cnn_32", out=teacher, changes={"epochs": 2}, machine=machine)
    pair = training.Pair("digits", "digits_cnn_4", "digits_cnn_32", str(teacher / "student.safetensors"),
                         changes={"epochs": 4})  # fmt: skip
    whole = training.distill(pair, expression, out=tmp_path / "whole", machine=machine)
    with pytest.raises(Interrupted):
        training.distill(pair, expression, out=tmp_path / "cut", machine=machine, progress=StopAfter(35))
    resumed = training.distill(pair, expression, out=tmp_path / "cut", machine=machine)
    assert resumed.test == whole.test
    weights = [(tmp_path / name / "student.safetensors").read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]
