"""Small pairs of detectors end to end, from files to a distilled student, by the real command line."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from commands import command
from drawn_boxes import write_coco, write_voc
from kdzero_gp.engine import checks
from kdzero_gp.families.detection import DETECTION
from kdzero_gp.models.weights import save_weights

FEW = ("--precision", "float32", "--threads", "1", "--batch-size", "4", "--epochs", "1")


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    """With a box of no area and an image without boxes."""
    root = tmp_path_factory.mktemp("voc") / "data"
    return write_voc(root, {"train": 12, "val": 4, "test": 4}, more={0: [(5, 5, 5, 9, "red")]})  # left = right


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """With crowds, and images of other sizes."""
    root = tmp_path_factory.mktemp("coco") / "data"
    return write_coco(root, {"train": 12, "val": 4, "test": 4}, crowds={1, 13}, sizes={3: (48, 80), 4: (128, 128)})


LEVEL = "times(no(weigh(l2_at(fpn3), foreground(fpn3))), 1)"
OBJECTNESS = "times(no(weigh(bce_at(objectness), rich(objectness))), 1)"
PAIRS = {
    "equal-anchors": ("voc", "fcos_small_4", "fcos_small_4", "zoo:crosskd"),
    "other-anchors": ("coco", "fcos_small_4", "retinanet_small_4", "zoo:fgd"),
    "own-detector": ("coco", "fcos_small_4", "tiny_detection:Own", LEVEL),
    "two-stages": ("voc", "fasterrcnn_small_4", "fasterrcnn_small_4", OBJECTNESS),
    "mobilenet-to-small": ("voc", "retinanet_mobilenet_v2", "retinanet_small_4", "zoo:pkd"),
    "one-stage-anchors": ("voc", "retinanet_small_4", "retinanet_small_4", "zoo:cwd_fpn"),
    "ssdlite": ("coco", "fcos_small_4", "torchvision:ssdlite320_mobilenet_v3_large", "times(no(l1(catt(fpn4))), 1)"),
}


# Of the teacher: this one knows its loss to be small soon, and takes long.
EPOCHS = {"retinanet_mobilenet_v2": "3"}
# What the account of the data says of what is odd in them.
TOLD = {"voc": ("1 boxes of no area", "images without boxes"), "coco": ("1 crowds", "images without boxes")}


def run(*arguments):
    code, output, errors = command(*arguments)
    assert code == 0, output + errors
    return output + errors


@pytest.fixture(scope="module")
def weights_of(tmp_path_factory):
    """Trains a teacher on data, once for all pairs that have it."""
    found = {}

    def train(teacher, data):
        if (teacher, data) not in found:
            out = tmp_path_factory.mktemp("teacher") / "out"
            run("train", *data, "--model", teacher, "--out", out, *FEW, "--epochs", EPOCHS.get(teacher, "12"))
            found[teacher, data] = out / "network.safetensors"
        return found[teacher, data]

    return train


@pytest.mark.parametrize("name", PAIRS)
def test_a_pair_is_distilled_and_measured(name, tmp_path, request, weights_of):
    kind, teacher, student, distiller = PAIRS[name]
    data = ("--task", "detection", "--data", str(request.getfixturevalue(kind)), "--image-size", "64")
    told = run("distill", *data, "--teacher", teacher, "--teacher-weights", weights_of(teacher, data),
               "--student", student, "--distiller", distiller, "--out", tmp_path / "student", *FEW)  # fmt: skip
    assert all(words in told for words in TOLD[kind]), told
    found = json.loads((tmp_path / "student" / "result.json").read_text())
    assert {"ap", "ap50", "detection_loss"} <= found["test"].keys() and found["test"]["detection_loss"] > 0


@pytest.fixture
def untrained(tmp_path, monkeypatch):
    """The weights of a Faster R-CNN with a MobileNetV2 that was never trained, accepted as a teacher."""
    monkeypatch.setattr(checks, "BETTER_LOSS", math.inf)
    torch.manual_seed(0)
    save_weights(DETECTION.build("fasterrcnn_mobilenet_v2", 2, 3), tmp_path / "teacher.safetensors")
    return "--teacher", "fasterrcnn_mobilenet_v2", "--teacher-weights", tmp_path / "teacher.safetensors"


def test_regions_are_distilled_from_a_live_teacher(untrained, voc, tmp_path):
    data = ("--task", "detection", "--data", str(voc), "--image-size", "64", "--student", "fasterrcnn_small_4")
    told = run("distill", *data, *untrained, "--distiller", "zoo:dkd_regions", "--out", tmp_path / "student",
               *FEW, "--epochs", "2")  # fmt: skip
    assert "asked on every batch, since its region_logits are of the student's proposals and cannot be kept" in told
    assert not (tmp_path / "student" / "teacher.pt").exists()
    found = json.loads((tmp_path / "student" / "result.json").read_text())
    assert found["test"]["detection_loss"] > 0 and all(math.isfinite(m) and m > 0 for m in found["magnitudes"])


def test_a_pair_of_two_stages_is_searched_without_regions(untrained, voc, tmp_path, inline_workers):
    search = ("evolve", "--task", "tiny_detection:TINY_TWO_STAGES", "--data", str(voc), "--image-size", "64",
              *untrained, "--generations", "1", "--pop", "2", "--workers", "1", "--race-seeds", "1",
              "--fresh-seeds", "0", "--prune", "0", "--precision", "float32", "--threads", "1")  # fmt: skip
    run(*search, "--out", tmp_path / "run")
    shown = json.loads(command("show", tmp_path / "run", "--json")[1])
    assert shown["finished"] and shown["counts"]["trained"] >= 1, shown["reasons"]
    code, _, errors = command(*search, "--knowledge", "region_logits", "--out", tmp_path / "other")
    assert code == 2 and "its region_logits are of the student's proposals; leave region_logits out" in errors


@pytest.mark.parametrize("shadow", ["teacher", "student"])
def test_a_detector_is_distilled_with_a_shadow_head(shadow, tmp_path, voc, weights_of):
    data = ("--task", "detection", "--data", str(voc), "--image-size", "64")
    teacher = ("--teacher", "fcos_small_4", "--teacher-weights", weights_of("fcos_small_4", data))
    run("distill", *data, *teacher, "--student", "fcos_small_4", "--distiller", "zoo:crosskd", "--shadow", shadow,
        "--out", tmp_path, *FEW)  # fmt: skip
    found = json.loads((tmp_path / "result.json").read_text())
    assert found["test"]["detection_loss"] > 0
    names = load_file(tmp_path / "student.safetensors").keys()
    assert names == DETECTION.build("fcos_small_4", 3, 3).state_dict().keys(), "nothing of the shadow is kept"
