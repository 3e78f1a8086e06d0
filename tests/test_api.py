"""The calls of ``kdzero_gp``: the same as the commands, with defaults from a run, and what they refuse."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn
from torch.utils.data import Dataset

import kdzero_gp
from kdzero_gp import objects
from kdzero_gp.api import search, training
from kdzero_gp.api.given import given
from kdzero_gp.cli import main
from kdzero_gp.data.inputs import NamedInputs
from kdzero_gp.data.own import own_dataset
from kdzero_gp.engine import loop
from kdzero_gp.engine.batches import Batch
from kdzero_gp.engine.machine import Machine
from kdzero_gp.engine.recipe import load_recipe
from kdzero_gp.errors import SettingError
from kdzero_gp.models import build
from kdzero_gp.models.own import OwnNetwork
from kdzero_gp.models.weights import save_weights
from kdzero_gp.progress import Progress
from kdzero_gp.proxy.students import student_builder
from kdzero_gp.search.options import evolve_command, settings_from
from kdzero_gp.search.run import Work
from kdzero_gp.training.opening import open_batches
from kdzero_gp.training.run import Opened
from kdzero_gp.training.settings import Settings
from synthetic import synthetic_run

CPU = torch.device("cpu")


@pytest.fixture
def vectors():
    """Vectors of three classes, easily told apart."""
    labels = torch.arange(90) % 3
    return nn.functional.one_hot(labels, 5).float() + 0.1 * torch.randn(90, 5), labels


def linear(width=3):
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, width))


# --- one way for names and objects --------------------------------------------------------------------------------


def caught(monkeypatch, where, name):
    """What a function is called with, in place of calling it."""
    calls = []

    class Stop(Exception):
        pass

    def catch(*arguments, progress=None, **options):
        calls.append((arguments[:2] if name == "start" else arguments, options))
        raise Stop

    monkeypatch.setattr(where, name, catch)
    monkeypatch.setattr(training, "normalised", lambda pair, *_: pair)  # weights are not read
    return calls, Stop


def test_the_command_evolve_is_the_call(monkeypatch, tmp_path):
    calls, stop = caught(monkeypatch, search, "start")
    CliRunner().invoke(main, ["evolve", "--generations", "3", "--weight", "cka_gap=0.5", "--screens", "none",
                              "--no-seed-zoo", "--out", str(tmp_path / "a")])  # fmt: skip
    with pytest.raises(stop):
        kdzero_gp.evolve(train="digits", generations=3, weight={"cka_gap": 0.5}, screens=[], seed_zoo=False,
                         out=tmp_path / "a", verbose=False)  # fmt: skip
    assert len(calls) == 2 and calls[0] == calls[1]


@pytest.mark.parametrize(("name", "function"), [("distill", "trainings.distill"), ("compare", "compare_trainings")])
def test_the_other_commands_are_the_calls(name, function, monkeypatch, tmp_path):
    where = training.trainings if function == "trainings.distill" else training
    calls, stop = caught(monkeypatch, where, function.rpartition(".")[2])
    weights = tmp_path / "teacher.safetensors"
    words = ["--teacher", "digits_cnn_32", "--teacher-weights", str(weights), "--epochs", "2", "--distiller", "zoo:kd"]
    CliRunner().invoke(main, [name, *words, "--out", str(tmp_path / "a")])
    chosen = ["zoo:kd"] if name == "compare" else "zoo:kd"
    with pytest.raises(stop):
        getattr(kdzero_gp, name)("digits_cnn_32", None, chosen, teacher_weights=str(weights), epochs=2,
                                 out=tmp_path / "a", verbose=False)  # fmt: skip
    options = [{**one[1], "machine": None, "factors": list(one[1].get("factors", ()))} for one in calls]
    assert len(calls) == 2 and calls[0][0] == calls[1][0] and options[0] == options[1]
    assert calls[0][0][0].student == "digits_cnn_4"


def test_a_run_brings_its_task_networks_taps_and_weights(monkeypatch, tmp_path):
    calls, stop = caught(monkeypatch, training.trainings, "distill")
    folder = synthetic_run(tmp_path / "run", 20, 10)
    (folder / "teacher.safetensors").touch()
    with pytest.raises(stop):
        kdzero_gp.distill(distiller=f"run:{folder}#2", verbose=False)
    (pair, distiller), options = calls[0]
    assert (pair.task, pair.teacher, pair.student) == ("digits", "digits_cnn_32", "digits_cnn_4")
    assert pair.teacher_weights == str(folder / "teacher.safetensors")
    assert distiller.name == "run#2" and str(options["out"]) == "runs/run-distill"
    with pytest.raises(stop):
        kdzero_gp.Run(folder).fit(student="resnet8", teacher_weights="other", verbose=False)
    assert calls[1][0][0].student == "resnet8" and calls[1][0][0].teacher_weights == "other"


def test_a_run_is_distilled_as_its_race_trained_and_by_its_winner(monkeypatch, tmp_path):
    calls, stop = caught(monkeypatch, training.trainings, "distill")
    folder = synthetic_run(tmp_path / "run", 20, 10)
    (folder / "teacher.safetensors").touch()
    plan, winner = kdzero_gp.Run(folder).settings.plan, kdzero_gp.Run(folder).winner
    for call in (
        lambda: kdzero_gp.distill(distiller=f"run:{folder}", verbose=False),
        lambda: kdzero_gp.Run(folder).fit(verbose=False),
        lambda: kdzero_gp.Run(folder).fit(epochs=3, verbose=False),
        lambda: kdzero_gp.distill(distiller=f"run:{folder}", recipe="short", verbose=False),
    ):
        with pytest.raises(stop):
            call()
    recipes = [pair.settings().recipe for (pair, _), _ in calls]
    assert plan.race_from_scratch and recipes[0] == recipes[1] == plan.race
    assert recipes[2] == plan.race.with_epochs(3) and recipes[3] == load_recipe("short", "digits", "digits_cnn_4")
    for (_, distiller), _ in calls:
        assert (distiller.expression, distiller.magnitudes, distiller.shares) == (winner[0], *winner[2:])


def test_a_distiller_that_is_none_is_told_before_a_teacher_is_trained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, words in (("zoo:kdd", "did you mean zoo:kd"), ("none.py", "no such file"), ("kdd", "not a file")):
        with pytest.raises(SettingError, match=words):
            kdzero_gp.distill(task="digits", distiller=name, verbose=False)
    with pytest.raises(SettingError, match="clip has to be a number, got 'abc'"):
        kdzero_gp.compare(task="digits", distillers=["zoo:kd"], changes={"clip": "abc"}, verbose=False)
    assert not list(tmp_path.iterdir())


def test_student_weights_are_the_start_everywhere(tmp_path):
    torch.manual_seed(7)
    start = build("digits_cnn_4", 10, 1)
    save_weights(start, tmp_path / "start.safetensors")
    weights = str(tmp_path / "start.safetensors")
    recipe = load_recipe("short", "digits")
    settings = Settings(task="digits", student="digits_cnn_4", recipe=recipe, student_weights=weights)
    opened = Opened(settings, Machine(device="cpu", precision="float32"))
    spec = {"task": "digits", "name": "digits_cnn_4", "classes": 10, "channels": 1, "weights": weights}
    built = student_builder(spec, torch.zeros(2, 1, 8, 8))()
    for network in (opened.student.network, built.network):
        assert all(torch.equal(a, b) for a, b in zip(network.parameters(), start.parameters(), strict=True))


# --- objects ------------------------------------------------------------------------------------------------------


def test_names_follow_weights_and_data_and_nothing_else(vectors):
    inputs, labels = vectors
    network = linear()
    first = given(network, linear, vectors)
    assert first == replace(given(network, linear, (inputs.numpy(), labels.numpy())), objects=first.objects)
    with torch.no_grad():
        network[0].bias.add_(1)
    changed = given(network, linear, (inputs + 1, labels))
    assert first.teacher != changed.teacher and first.task != changed.task and first.student == changed.student
    frozen = linear()
    frozen[0].requires_grad_(False)
    assert OwnNetwork(frozen).name(3) != OwnNetwork(frozen.requires_grad_(True)).name(3)


def test_objects_are_known_only_while_a_call_lasts(vectors):
    chosen = given(linear(), linear, vectors)
    with chosen.known():
        assert build(chosen.teacher, 3) is not build(chosen.teacher, 3)
    with pytest.raises(kdzero_gp.KdzeroError, match="is an object of a Python session"):
        build(chosen.teacher, 3)


def test_the_users_network_stays_as_it_is(vectors):
    network = linear().half()
    made = OwnNetwork(network, "teacher")
    made.build(3).requires_grad_(False)
    assert network[0].weight.dtype == torch.float16 and network[0].weight.requires_grad
    assert "float16" in made.note and made.build(3)[0].weight.dtype == torch.float32


def test_objects_travel_in_a_file_that_is_gone_afterwards(vectors):
    chosen = given(linear(), lambda: linear(), vectors)
    with chosen.known():
        path = objects.packed()
        try:
            unpacked = torch.load(path, mmap=True, weights_only=False)
        finally:
            path.unlink()
    assert unpacked.keys() == chosen.objects.keys() and objects.packed() is None
    assert torch.equal(unpacked[chosen.task].train.images, chosen.objects[chosen.task].train.images)


def test_a_run_of_objects_is_repeated_by_a_call(vectors):
    chosen = given(linear(), "resnet8", vectors)
    with chosen.known():
        names = {name: getattr(chosen, name) for name in ("task", "teacher", "student")}
        settings = settings_from(names | {"pop": 6, "teacher_tap": ("feat=0",)})
    call = evolve_command(settings)
    shown = "teacher, 'resnet8', train, generations=100, pop=6, teacher_tap={'feat': '0'}, seed=0"
    assert call == f"kdzero_gp.evolve({shown})"


class Interrupted(Progress):
    """Stops as a person does, at the first birth."""

    def begin(self, what, total):
        if what == "births":
            raise KeyboardInterrupt


@pytest.mark.parametrize("notebook", [True, False])
def test_a_stopped_run_is_given_back_in_a_notebook(notebook, vectors, monkeypatch, tmp_path, inline_workers):
    monkeypatch.setattr(search, "in_notebook", lambda: notebook)
    monkeypatch.setattr(Work, "measure_zoo", lambda self: None)
    teacher = linear()
    with torch.no_grad():
        for layer in (teacher[0], teacher[2]):
            layer.weight.copy_(torch.eye(*layer.weight.shape))
            layer.bias.zero_()
    tiny = {
        "generations": 1,
        "pop": 2,
        "fresh_seeds": 1,
        "prune": 2,
        "out": tmp_path / "run",
        "progress": Interrupted(),
    }
    if not notebook:
        with pytest.raises(KeyboardInterrupt):
            kdzero_gp.evolve(teacher, linear, vectors, **tiny)
        return
    run = kdzero_gp.evolve(teacher, linear, vectors, **tiny)
    assert not run.finished and run.result is None
    assert run.resume(verbose=False).finished


# --- data ---------------------------------------------------------------------------------------------------------


def test_splits_that_are_not_given_are_taken_out_of_the_training_data(vectors):
    data = own_dataset(vectors)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [65, 7, 18]
    assert data.classes == ("0", "1", "2") and data.account.noun == "samples"
    rows = torch.cat([split.images for split in (data.train, data.validation, data.test)])
    assert len(torch.unique(rows, dim=0)) == 90
    given_all = own_dataset(vectors, vectors, vectors)
    assert [len(split) for split in (given_all.train, given_all.validation, given_all.test)] == [90] * 3


def test_whole_numbers_stay_whole_and_bytes_become_shares():
    tokens = own_dataset(({"ids": torch.arange(30).view(10, 3), "x": np.ones((10, 2))}, torch.arange(10) % 2))
    seen = tokens.normalise(tokens.train.images)
    assert isinstance(seen, NamedInputs)
    assert {name: tensor.dtype for name, tensor in seen.fields.items()} == {"ids": torch.int64, "x": torch.float32}
    images = own_dataset((torch.full((10, 1, 4, 6), 255, dtype=torch.uint8), torch.arange(10) % 2))
    assert images.normalise(images.train.images).unique().tolist() == [1.0]
    assert "divided by 255" in " ".join(images.account.lines())


class Noisy(Dataset):
    classes = ("cat", "dog")

    def __len__(self):
        return 20

    def __getitem__(self, index):
        return torch.randn(4) + index, index % 2


def test_random_transforms_are_found_and_draws_follow_from_the_seed():
    before = torch.get_rng_state()
    first, second = own_dataset(Noisy()), own_dataset(Noisy())
    assert torch.equal(before, torch.get_rng_state())
    assert first.account.content == second.account.content and first.classes == ("cat", "dog")
    chosen = given(None, None, Noisy())
    with chosen.known():
        batches = open_batches(chosen.task, None, load_recipe("short", chosen.task), CPU)
        (one,), (again,), (other,) = (list(batches.epoch(0, epoch)) for epoch in (0, 0, 1))
    assert torch.equal(one.images, again.images) and not batches.cacheable
    assert not torch.equal(one.images[one.indices.argsort()], other.images[other.indices.argsort()])


class Unseeded(Noisy):
    def __getitem__(self, index):
        return torch.tensor(np.random.default_rng().normal(size=4)), index % 2


def test_draws_that_do_not_follow_from_seeds_are_said_and_take_no_part_in_the_name():
    first, second = own_dataset(Unseeded()), own_dataset(Unseeded())
    assert first.account.content == second.account.content
    assert "does not follow from the seeds" in " ".join(first.account.lines())


def test_a_graph_takes_and_gives_back_inputs_by_name():
    images = NamedInputs({"ids": torch.zeros(2, 3), "mask": torch.ones(2, 3)})
    batch = Batch(images, torch.zeros(2), torch.arange(2))
    tensors = loop._tensors(batch)
    assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())
    again = loop._batch(tensors)
    assert again.images.fields.keys() == images.fields.keys() and torch.equal(again.indices, batch.indices)


REFUSED = {
    "no target": ({"x": torch.zeros(4, 2)}, "without a target"),
    "soft labels": ((torch.zeros(4, 2), torch.full((4, 2), 0.5)), "that are not one-hot"),
    "a fraction": ((torch.zeros(4, 2), torch.tensor([0, 1, 0.5, 1])), "not whole numbers"),
    "negative": ((torch.zeros(4, 2), torch.tensor([0, 1, -1, 1])), "numbered from 0"),
    "lengths": ((torch.zeros(5, 2), torch.zeros(4).long()), "4 targets and inputs of shape"),
    "nan": ((torch.full((4, 2), torch.nan), torch.arange(4)), "not finite"),
    "shapes": ([(torch.zeros(2), 0), (torch.zeros(3), 1), (torch.zeros(2), 1)], "bring all to one shape"),
    "text": ([("a text", 0)] * 4, "holds a str"),
    "nothing": ([], "are empty"),
    "a number": (7, "are a int"),
}


@pytest.mark.parametrize(("data", "message"), REFUSED.values(), ids=REFUSED)
def test_impossible_data_are_refused(data, message):
    with pytest.raises(kdzero_gp.KdzeroError, match=message):
        own_dataset(data)


def test_impossible_calls_are_refused(vectors):
    calls = {
        "there is no student": lambda: kdzero_gp.evolve(linear(), None, vectors, verbose=False),
        "no option 'generation'; did you mean generations": lambda: kdzero_gp.evolve(generation=3),
        "the teacher is a int": lambda: kdzero_gp.evolve(3, linear, vectors, verbose=False),
        "there is no task family 'regression'": lambda: given(linear(), linear, vectors, family="regression"),
        "validation and test belong to data": lambda: given(None, None, "digits", vectors),
        "there is no distiller": lambda: kdzero_gp.distill(linear(), linear, None, vectors),
        "the student lambda made a int": lambda: given(linear(), lambda: 3, vectors),
        "the recipe has flip, which is for images": lambda: kdzero_gp.distill(
            linear(), linear, "zoo:kd", vectors, flip=True, verbose=False, out="nowhere"
        ),
    }
    for message, call in calls.items():
        with pytest.raises(kdzero_gp.KdzeroError, match=re.escape(message)):
            call()


def test_a_network_says_what_it_exposes():
    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.norm, self.head = nn.Embedding(9, 6), nn.LayerNorm(6), nn.Linear(6, 4)

        def forward(self, ids):
            return self.head(self.norm(self.embed(ids)).mean(1))

    shown = kdzero_gp.knowledge(Text(), {"ids": torch.zeros(2, 5, dtype=torch.long)})
    assert [(one.name, one.shape, one.layer) for one in shown] == [
        ("logits", (4,), "(output)"), ("emb", (6,), "head:input"), ("feat", (6, 5), "norm"),
    ]  # fmt: skip
    assert "head:input" in repr(shown) and "<table" in shown._repr_html_()
