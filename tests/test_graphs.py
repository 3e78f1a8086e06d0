"""A captured training step: the same bits as the step itself, and a way on where nothing can be captured."""

import os
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kdzero_gp
from kdzero_gp.engine.batches import Kept
from kdzero_gp.engine.graphs import WARM_UP_STEPS, CapturedStep
from kdzero_gp.engine.loop import Trainer
from kdzero_gp.engine.outputs import FLOAT32, TensorSplit
from kdzero_gp.engine.recipe import Recipe
from kdzero_gp.engine.teacher import KeptTeacher
from kdzero_gp.families.classification import CLASSIFICATION
from kdzero_gp.models import build
from kdzero_gp.models.taps import Tapped

STEPS = 12
FEATURES, CLASSES, BATCH = 12, 5, 16


def training(device, dropout=0.0, peeks=False):
    """A step of a small network with normalisation, and the tensors that it changes."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(FEATURES, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(dropout), nn.Linear(32, CLASSES)
    ).to(device)
    parameters = list(network.parameters())
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    total = torch.zeros((), device=device)

    def step(batch):
        loss = F.cross_entropy(network(batch["x"]), batch["y"])
        for parameter in parameters:
            parameter.grad.zero_()
        loss.backward()
        with torch.no_grad():
            if peeks and loss.item() > 1e9:
                return
            for parameter in parameters:
                parameter.sub_(batch["rate"] * parameter.grad)
            total.add_(loss.detach())

    return step, [*parameters, *network.buffers(), total]


def batches(device, count=STEPS):
    generator = torch.Generator().manual_seed(1)
    for index in range(count):
        yield {
            "x": torch.randn(BATCH, FEATURES, generator=generator).to(device),
            "y": torch.randint(CLASSES, (BATCH,), generator=generator).to(device),
            "rate": torch.tensor(0.1 / (index + 1), device=device),
        }


def trained(device, captured, **options):
    """What a training ends with, and how it stepped."""
    step, state = training(device, **options)
    call = CapturedStep(step, device) if captured else step
    torch.manual_seed(2)
    for batch in batches(device):
        call(batch)
    return [tensor.detach().cpu().clone() for tensor in state], call


def assert_same_bits(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)


def test_on_a_cpu_every_step_is_taken_without_a_graph_and_the_reason_is_told():
    ours, step = trained(torch.device("cpu"), captured=True)
    theirs, _ = trained(torch.device("cpu"), captured=False)
    assert_same_bits(ours, theirs)
    assert not step.captured
    assert step.reason == "there are no graphs on a cpu device"


def test_an_error_of_the_step_is_not_hidden_by_the_fall_back():
    step = CapturedStep(lambda batch: batch["missing"], torch.device("cpu"))
    with pytest.raises(KeyError, match="missing"):
        step({})


class Pretended:
    """Stands for torch.cuda: captures that fail or not, replays that do nothing but count, a step that waits or not."""

    def __init__(self, fails, waits=False):
        self.fails = fails
        self.waits = waits
        self.mode = 0
        self.replays = 0

    def install(self, monkeypatch):
        outer = self

        class Context:
            def __init__(self, *_):
                pass

            def __enter__(self):
                return self

            def __exit__(self, *_):
                return False

            def wait_stream(self, _):
                pass

            def capture_begin(self, *_, **__):
                pass

            def capture_end(self):
                if outer.fails:
                    raise RuntimeError("operation not permitted when stream is capturing\nmore")

            def replay(self):
                outer.replays += 1

        def set_mode(mode):
            outer.mode = mode
            if mode == "warn" and outer.waits:
                warnings.warn("called a synchronizing CUDA operation", stacklevel=1)

        for name in ("Stream", "CUDAGraph", "stream"):
            monkeypatch.setattr(torch.cuda, name, Context)
        monkeypatch.setattr("kdzero_gp.engine.graphs._shared", lambda device: (Context(), None))
        monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: outer.mode)
        monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_mode)
        monkeypatch.setattr(torch.cuda, "current_stream", Context)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)


@pytest.mark.parametrize("fails", [True, False])
def test_warm_up_steps_are_true_ones_and_a_capture_that_fails_goes_on_without(fails, monkeypatch):
    pretended = Pretended(fails)
    pretended.install(monkeypatch)
    calls = []
    step = CapturedStep(lambda batch: calls.append(batch["x"].item()), torch.device("cuda"))
    for index in range(STEPS):
        step({"x": torch.tensor(index)})
    assert calls[:WARM_UP_STEPS] == list(range(WARM_UP_STEPS))
    if fails:
        assert step.reason == "operation not permitted when stream is capturing"
        # the capture itself calls the step once, on a device without running anything
        assert calls[WARM_UP_STEPS + 1 :] == list(range(WARM_UP_STEPS, STEPS))
        assert pretended.replays == 0
    else:
        assert step.reason == "" and step.captured
        assert len(calls) == WARM_UP_STEPS + 1
        assert pretended.replays == STEPS - WARM_UP_STEPS


def test_a_step_that_waits_for_the_device_is_never_captured(monkeypatch):
    pretended = Pretended(fails=True, waits=True)
    pretended.install(monkeypatch)
    calls = []
    step = CapturedStep(lambda batch: calls.append(batch["x"].item()), torch.device("cuda"))
    for index in range(STEPS):
        step({"x": torch.tensor(index)})
    assert calls == list(range(STEPS))
    assert step.reason.startswith("the step waits for the device (line")
    assert pretended.mode == 0


def test_a_batch_of_another_form_is_refused(monkeypatch):
    Pretended(fails=False).install(monkeypatch)
    step = CapturedStep(lambda batch: None, torch.device("cuda"), warm_up=1)
    for _ in range(2):
        step({"x": torch.zeros(4)})
    with pytest.raises(ValueError, match=r"x as torch.float32 \(4,\), got torch.float32 \(3,\); train an incomplete"):
        step({"x": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"takes \['x'\], got \['y'\]"):
        step({"y": torch.zeros(4)})


def engine_training(device, graphs):
    """Two epochs of the engine with a distiller: the student's weights, and the losses of the last step."""
    torch.manual_seed(0)
    count, classes = 64, 10
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(count, 1, 8, 8, generator=generator)
    labels = torch.randint(classes, (count,), generator=generator)
    student = Tapped(build("digits_cnn_4", classes, 1), images[:2]).to(device)
    taught = {name: torch.randn(count, *shape, generator=generator) for name, shape in student.shapes.items()}
    split = TensorSplit(images, labels, taught).to(device, FLOAT32)
    recipe = Recipe(2, 8, 0.05, nesterov=True, warmup=0.1, clip=5.0)
    batches = Kept(split, classes, recipe, device, FLOAT32)
    distiller = kdzero_gp.compile("times(no(kl(softmax_C(logits, 4))), 1)", student.shapes, student.shapes)
    kept = {name: tensor[None] for name, tensor in split.teacher.items()}
    teacher = KeptTeacher(distiller.to(device), CLASSIFICATION, kept, split.labels)
    trainer = Trainer(student, CLASSIFICATION, batches, FLOAT32, teacher, graphs=graphs)
    if graphs and device.type == "cpu":  # the way that steps go on a device whose graphs cannot be captured
        trainer.captured, trainer._losses = CapturedStep(trainer._take_tensors, device), torch.zeros(2)
    losses = []
    trainer.train(0, lambda step, own, distilled: losses.append((own, distilled)))
    weights = torch.cat([p.detach().flatten().cpu() for p in student.parameters()])
    return weights, torch.tensor([[own, distilled] for own, distilled in losses]), trainer


def test_the_engine_s_steps_by_tensors_are_its_steps():
    weights, losses, _ = engine_training(torch.device("cpu"), graphs=True)
    expected, expected_losses, _ = engine_training(torch.device("cpu"), graphs=False)
    torch.testing.assert_close(weights, expected)
    torch.testing.assert_close(losses, expected_losses)
    assert (losses[1:] != losses[:-1]).all(), "every step tells its own losses"


GPU = torch.device(os.environ.get("KDZERO_TEST_DEVICE", "cuda"))


@pytest.mark.gpu
@pytest.mark.filterwarnings("default::UserWarning")
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_captured_step_ends_with_the_bits_of_the_step_itself(dropout):
    ours, step = trained(GPU, captured=True, dropout=dropout)
    theirs, _ = trained(GPU, captured=False, dropout=dropout)
    assert step.captured or GPU.type == "cpu", step.reason
    assert_same_bits(ours, theirs)


@pytest.mark.gpu
@pytest.mark.filterwarnings("default::UserWarning")
def test_a_step_that_looks_at_a_value_goes_on_without_a_graph():
    ours, step = trained(GPU, captured=True, peeks=True, dropout=0.5)
    theirs, _ = trained(GPU, captured=False, peeks=True, dropout=0.5)
    assert not step.captured and step.reason
    assert_same_bits(ours, theirs)


@pytest.mark.gpu
@pytest.mark.filterwarnings("default::UserWarning")
def test_the_engine_trains_with_a_graph_as_without():
    weights, losses, trainer = engine_training(GPU, graphs=True)
    expected, expected_losses, _ = engine_training(GPU, graphs=False)
    assert trainer.captured.captured or GPU.type == "cpu", trainer.captured.reason
    torch.testing.assert_close(weights, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(losses, expected_losses, rtol=1e-4, atol=1e-5)
    again, _, _ = engine_training(GPU, graphs=True)
    assert torch.equal(again, weights), "equal trainings end with equal bits"
