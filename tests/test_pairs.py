"""Any pair, from the look at it to a comparison: ten pairs through the command line on a small folder of images.

Every pair has networks of other families: convolutional and transformer both ways, other resolutions, a network
without maps, the user's own with odd names. Teachers have random weights, since nothing here asks for a good student.
"""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from commands import command
from kdzero_gp import models
from kdzero_gp.engine import checks
from kdzero_gp.engine.machine import Machine
from kdzero_gp.errors import ModelError
from kdzero_gp.models.weights import save_weights
from kdzero_gp.progress import Progress
from kdzero_gp.tasks import TASKS
from kdzero_gp.training.api import Pair, distill
from kdzero_gp.training.pair import describe_pair

SIZE = 16
# Teacher, student, an expression over what both have, the module that the file of weights needs (None: built in).
PAIRS = [
    ("resnet20", "vgg8", "times(no(l2(feat)), 1)"),
    ("wrn_16_2", "mobilenet_v2", "times(no(l2(emb)), 1)"),
    ("resnet8x4", "shufflenet_v2", "times(no(l2(mm(feat))), 1)"),
    ("resnet20", "odd_networks:Bishop", "times(no(l2(feat)), 1)"),
    ("odd_networks:Bishop", "resnet20", "times(no(l2(feat)), 1)"),
    ("vgg8", "odd_networks:Gremlin", "times(no(l2(norm_HW(mean_C(pow2(feat))))), 1)"),
    ("odd_networks:lighthouse", "odd_networks:Gremlin", "times(no(l2(feat)), 1)"),
    ("odd_networks:Gremlin", "odd_networks:Pancake", "times(no(l2(emb)), 1)"),
    ("torchvision:shufflenet_v2_x0_5", "odd_networks:Bishop", "times(no(l2(feat)), 1)"),
    ("timm:test_vit", "resnet20", "times(no(l2(feat)), 1)"),
    ("odd_networks:Gremlin", "timm:test_vit", "times(no(l2(emb)), 1)"),
]
# A search trains some thirty students: the same kinds of networks, the large ones replaced by smaller ones.
SEARCHED = [
    ("digits_cnn_16", "digits_cnn_4"),
    ("digits_cnn_8", "odd_networks:Gremlin"),
    ("resnet20", "odd_networks:Bishop"),
    ("odd_networks:Bishop", "digits_cnn_4"),
    ("odd_networks:Bishop", "odd_networks:Bishop"),
    ("odd_networks:lighthouse", "odd_networks:Gremlin"),
    ("odd_networks:Gremlin", "odd_networks:Pancake"),
    ("odd_networks:Pancake", "digits_cnn_4"),
    ("timm:test_vit", "odd_networks:Gremlin"),
]


def names(pairs):
    return [f"{teacher}-{student}".replace("odd_networks:", "") for teacher, student, *_ in pairs]


pytestmark = pytest.mark.timeout(600)


def succeed(*arguments):
    code, output, errors = command(*arguments)
    assert code in (0, None), errors or output
    return output


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two classes, bright above and bright below, 96 and 24 images of 16x16."""
    root = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for part, count in (("train", 96), ("test", 24)):
        for index in range(count):
            name = ("above", "below")[index % 2]
            pixels = generator.integers(0, 120, (SIZE, SIZE, 3), dtype=np.uint8)
            pixels[slice(0, 8) if index % 2 == 0 else slice(8, 16)] += 100
            path = root / part / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return root


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """The user's directory, with their module in it."""
    (tmp_path / "odd_networks.py").write_text(Path(__file__).with_name("odd_networks.py").read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDZERO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(checks, "BETTER_LOSS", math.inf)  # these teachers only guess
    return tmp_path


def options(images, teacher, student):
    """The options that name a pair, with the teacher's weights in a file."""
    for name in (teacher, student):
        library = name.partition(":")[0]
        if library in ("timm", "torchvision"):
            pytest.importorskip(library)
    torch.manual_seed(0)
    save_weights(models.build(teacher, 2), "teacher.safetensors")
    return ("--task", "folder", "--data", images, "--teacher", teacher, "--teacher-weights", "teacher.safetensors",
            "--student", student)  # fmt: skip


@pytest.mark.parametrize(("teacher", "student", "expression"), PAIRS, ids=names(PAIRS))
def test_a_pair_is_described_distilled_and_compared(teacher, student, expression, images, workplace):
    pair = options(images, teacher, student)
    described = json.loads(succeed("pair", *pair[:6], *pair[8:], "--json"))
    shared = {knowledge["name"] for knowledge in described["knowledge"] if knowledge["type"]}
    assert {"logits", "emb"} <= shared
    assert ("feat" in shared) == ("Pancake" not in student)

    tiny = ("--epochs", 1, "--batch-size", 32, "--threads", 1)
    assert "test " in succeed("distill", *pair, "--distiller", expression, *tiny, "--out", "student")
    kept = load_file(workplace / "student" / "student.safetensors")
    assert kept.keys() == models.build(student, 2).state_dict().keys()

    compared = ("--distiller", expression, "--factors", "1", "--seeds", 1, "--workers", 1)
    succeed("compare", *pair, *compared, *tiny, "--out", "comparison")
    rows = json.loads((workplace / "comparison" / "compare.json").read_text())["table"]
    assert {row["name"] for row in rows} == {"ce", "kd", expression}
    assert all(row["test"] is not None and not row["reason"] for row in rows)


@pytest.mark.parametrize(("teacher", "student"), SEARCHED, ids=names(SEARCHED))
def test_a_pair_is_searched(teacher, student, images, workplace, monkeypatch, inline_workers):
    task = TASKS["folder"]
    quick = dataclasses.replace(task.plan, race_zoo=0, baseline_seeds=1)
    monkeypatch.setitem(TASKS, "folder", dataclasses.replace(task, plan=quick))
    succeed(
        "evolve", *options(images, teacher, student), "--generations", 1, "--pop", 2, "--images", 64,
        "--validation-images", 64, "--race-seeds", 1,
        "--fresh-seeds", 0, "--prune", 0, "--race-top", 1, "--workers", 1, "--out", "run",
    )  # fmt: skip
    shown = json.loads(succeed("show", "run", "--json"))
    assert shown["finished"]
    assert shown["counts"]["trained"] >= 1, shown["reasons"]

    tiny = ("--epochs", 1, "--batch-size", 32, "--threads", 1, "--out", "student")
    succeed("distill", *options(images, teacher, student), "--distiller", "run:run#1", *tiny)
    used = json.loads((workplace / "student" / "result.json").read_text())
    assert used["settings"]["distiller"] == "run#1" and used["settings"]["magnitude"] == "absolute"
    # Where all births were published methods, the first of the search is meant.
    winner = next((entry for entry in shown["race"] if entry["kind"] == "evolved"), shown["top"][0])
    assert used["magnitudes"] == pytest.approx(winner["magnitudes"], rel=1e-4)


def test_a_teacher_of_the_users_own_may_bring_its_weights(images, workplace):
    named = options(images, "odd_networks:Gremlin", "odd_networks:Bishop")
    without = tuple(part for part in named if part not in ("--teacher-weights", "teacher.safetensors"))
    output = succeed("distill", *without, "--distiller", "kd", "--epochs", 1, "--threads", 1, "--out", "student")
    result = json.loads((workplace / "student" / "result.json").read_text())
    assert result["settings"]["teacher_weights"] is None and f"test {100 * result['test']['accuracy']:.2f}" in output


class Interrupt(Progress):
    """Presses Ctrl-C after so many reports."""

    def __init__(self, after):
        self.left = after

    def advance(self, done=1, **fields):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("teacher", "student", "threads"), [(*PAIRS[3][:2], 1), (*PAIRS[5][:2], 2)])
def test_a_resumed_training_with_a_live_teacher_ends_with_the_same_bits(teacher, student, threads, images, workplace):
    """Crops, dropout, mixed precision and channels last, which the digits have not."""
    options(images, teacher, student)
    pair = Pair("folder", student, teacher, "teacher.safetensors", str(images), changes={"epochs": 3, "batch_size": 16})
    settings = {"distiller": "times(no(l2(feat)), 1)", "machine": Machine(threads=threads)}
    whole = distill(pair, out="whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        distill(pair, out="cut", progress=Interrupt(4), **settings)
    assert Path("cut/checkpoint.pt").exists()
    torch.manual_seed(99)
    resumed = distill(pair, out="cut", **settings)
    one, other = (load_file(Path(name) / "student.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert (whole.magnitudes, whole.validation) == (resumed.magnitudes, resumed.validation)


@pytest.mark.parametrize("recipe", ["vit", "imagenet", "cifar100"])
def test_every_recipe_distils_a_student(recipe, images, workplace):
    pytest.importorskip("timm")
    arguments = (*options(images, "resnet20", "odd_networks:Bishop"), "--distiller", "zoo:kd", "--recipe", recipe)
    tiny = ("--epochs", 1, "--batch-size", 16, "--image-size", 32, "--set", "teacher_image_size=16", "--threads", 1)
    succeed("distill", *arguments, *tiny, "--out", "student")
    settings = json.loads((workplace / "student" / "result.json").read_text())["settings"]
    assert settings["recipe"]["image_size"] == 32 and settings["recipe"]["mixup"] == (0.8 if recipe == "vit" else 0.0)


def test_taps_can_be_named_on_one_side_or_both(images):
    sizes = ("--classes", 3, "--image-size", 32, "--teacher", "resnet32", "--student", "resnet20", "--json")
    found = json.loads(succeed("pair", *sizes, "--tap", "feat=layer2", "--student-tap", "feat=layer1"))
    feature = next(knowledge for knowledge in found["knowledge"] if knowledge["name"] == "feat")
    assert feature["teacher"] == {"layer": "layer2", "shape": [32, 16, 16]}
    assert feature["student"] == {"layer": "layer1", "shape": [16, 32, 32]}
    assert feature["adapter"] == "pooled to 16×16 + 1×1 conv 16→32"


def test_the_table_of_a_pair_names_layers_types_and_adapters():
    output = succeed("pair", "--task", "cifar100", "--teacher", "resnet56", "--student", "vgg8")
    assert "861,620 parameters" in output
    for part in ("linear 512→64", "pooled to 8×8 + 1×1 conv 512→64", "N×C×H×W map", "one side only", "layer3"):
        assert part in output


def test_a_pair_in_python_takes_modules_and_the_sizes_of_their_images():
    teacher, student = models.build("resnet20", 4), models.build("resnet8x4", 4)
    found = describe_pair(teacher, student, classes=4, image_size=64, teacher_image_size=32)
    by_name = {knowledge.name: knowledge for knowledge in found.knowledge}
    assert by_name["feat"].teacher.shape == (64, 8, 8)
    assert by_name["feat"].student.shape == (256, 16, 16)
    assert by_name["logits"].adapter == "none"
    assert str(by_name["logits"].type) == "N×C matrix of logits"


def test_tokens_that_are_no_square_stay_tokens():
    pytest.importorskip("timm")
    found = describe_pair("resnet20", "timm:deit_tiny_distilled_patch16_224", classes=4, image_size=32)
    feature = next(knowledge for knowledge in found.knowledge if knowledge.name == "feat")
    assert feature.type.startswith("N×C×M tokens")


def test_the_patches_of_a_transformer_are_no_stage():
    pytest.importorskip("timm")
    found = describe_pair("resnet20", "timm:vit_tiny_patch16_224", classes=4, image_size=64)
    assert {k.name for k in found.knowledge if k.student is not None} == {"logits", "emb", "feat"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--teacher", "resnet20", "--student", "resnet20"), "give --task, or --classes and --image-size"),
        (("--teacher", "resnet2", "--student", "resnet20", "--task", "digits"), "no network 'resnet2'"),
        (
            ("--teacher", "resnet20", "--student", "resnet20", "--classes", 2, "--image-size", 0),
            "--image-size takes pixels",
        ),
        (("--teacher", "resnet20", "--student", "resnet20", "--data", "x"), "--data belongs to a task"),
        (("--teacher", "resnet20", "--student", "resnet20", "--task", "digits", "--tap", "feat"), "NAME=LAYER"),
        (("--teacher", "resnet20", "--student", "vgg8", "--task", "cifar10", "--tap", "feat=layer3"), "no layer"),
    ],
)
def test_a_pair_that_cannot_be_described_gets_one_sentence(arguments, message):
    code, _, errors = command("pair", *arguments)
    assert code == 2
    assert errors.startswith("Error: ") and len(errors.splitlines()) == 1
    assert message in errors


def test_a_network_that_cannot_take_the_images_is_named():
    pytest.importorskip("timm")
    with pytest.raises(ModelError, match=r"cannot take images of shape \(3, 32, 32\).*image size"):
        describe_pair("resnet20", "timm:mixer_s16_224", classes=4, image_size=32)


def test_networks_of_other_classes_are_refused():
    with pytest.raises(ModelError, match="5 outputs and the data have 4 classes"):
        describe_pair(models.build("resnet20", 5), models.build("resnet20", 4), classes=4)
