"""Small pairs of segmenters end to end, from files to a distilled student, by the real command line; and what they
predict, kept and drawn."""

import json

import pytest
import torch
from PIL import Image

from commands import command
from kdzero_gp.engine.predictions import FILE, NO_LABEL, Predictions, packed
from kdzero_gp.families.classification import CLASSIFICATION
from kdzero_gp.families.segmentation import SEGMENTATION
from kdzero_gp.models.contract import InputContract
from kdzero_gp.search.pictures import Pictures, begin, of_run
from kdzero_gp.search.race import Competitor
from kdzero_gp.search.seeds import FRESH, RACE, seeds_of
from label_maps import write

FEW = ("--precision", "float32", "--threads", "1", "--batch-size", "6", "--epochs", "1")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Label maps with 255 along the upper edge; one has no label at all, one image with its map is twice as large."""
    root = write(tmp_path_factory.mktemp("maps"), {"train": 18, "val": 6, "test": 6})
    Image.new("L", (32, 24), NO_LABEL).save(root / "labels" / "train" / "002.png")
    for kind in ("images", "labels"):
        path = root / kind / "train" / "004.png"
        with Image.open(path) as opened:
            larger = opened.resize((64, 48), Image.Resampling.NEAREST)
        larger.save(path)
    return ("--task", "segmentation", "--data", str(root))


def run(*arguments):
    code, output, errors = command(*arguments)
    assert code == 0, output + errors
    return output + errors


@pytest.fixture(scope="module")
def weights_of(tmp_path_factory, data):
    found = {}

    def train(teacher):
        if teacher not in found:
            out = tmp_path_factory.mktemp("teacher") / "out"
            run(
                "train", *data, "--model", teacher, "--out", out, *FEW, "--epochs", "2" if "deeplab" in teacher else "6"
            )
            found[teacher] = out / "network.safetensors"
        return found[teacher]

    return train


BOUNDARY = "times(no(weigh(kl_at(softmax_C(logits, 1)), boundary_1(logits))), 1)"
PAIRS = {
    "deeplab-to-lraspp": ("deeplabv3plus_mobilenet_v2", "lraspp_mobilenet_v3_large", "zoo:kd"),
    "own-segmenter": ("segmenter_8", "tiny_segmentation:Own", "zoo:cwd_logits"),
    "small-to-smaller": ("segmenter_8", "segmenter_4", BOUNDARY),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_pair_is_distilled_measured_and_its_predictions_are_kept(name, tmp_path, data, weights_of):
    teacher, student, distiller = PAIRS[name]
    told = run("distill", *data, "--teacher", teacher, "--teacher-weights", weights_of(teacher), "--student", student,
               "--distiller", distiller, "--out", tmp_path / "out", *FEW)  # fmt: skip
    assert "1 of 18 training images have another size" in told
    found = json.loads((tmp_path / "out" / "result.json").read_text())
    assert {"miou", "iou_0", "cross_entropy"} <= found["test"].keys() and 0 < found["test"]["cross_entropy"] < 10
    kept = Predictions.load(tmp_path / "out" / FILE)
    assert list(kept.said) == ["teacher", "student"] and kept.images.shape == (4, 3, 24, 32)
    assert (kept.truth[:, 0] == NO_LABEL).all() and kept.truth[:, 1:].max() == 2
    assert all(maps.shape == (4, 24, 32) and maps.dtype == torch.uint8 for maps in kept.said.values())
    assert kept.measured["student"]["iou_0"] == found["validation"]["iou_0"]


def test_a_comparison_shows_what_its_networks_predict(tmp_path, data, weights_of):
    pair = ("--teacher", "segmenter_8", "--teacher-weights", weights_of("segmenter_8"), "--student", "segmenter_4")
    run("compare", *data, *pair, "--distiller", "zoo:skd", "--seeds", 1, "--factors", 1, "--workers", 1,
        "--out", tmp_path / "compared", *FEW)  # fmt: skip
    run("report", tmp_path / "compared")
    page = (tmp_path / "compared" / "report.html").read_text()
    assert page.count("data:image/jpeg") == 4 and page.count("data:image/png") == 4 * 4
    titles = [title for title in ("truth", "teacher", "cross-entropy alone") if f'<th scope="col">{title}</th>' in page]
    assert len(titles) == 3 and "IoU %" in page


def test_a_run_keeps_what_students_of_its_first_seeds_say_and_a_damaged_file_is_left_out(tmp_path):
    """That a search writes these files and its page draws them is seen in tests/test_tutorials.py."""
    images, labels = torch.randn(4, 3, 8, 8), torch.zeros(4, 8, 8).long()
    network = SEGMENTATION.build("segmenter_4", 3, 3).eval()
    contract = InputContract(3, None, (0.5,) * 3, (0.2,) * 3, ("x", "y", "z"))
    tapped = SEGMENTATION.tap(network, images, None, 3)
    begin(tmp_path, SEGMENTATION, images, labels, contract, tapped, tapped)
    pictures = Pictures(tmp_path, SEGMENTATION, 7)
    first, second = seeds_of(RACE, 7, 2)
    assert pictures.wanted("race", first) and not pictures.wanted("race", second)
    assert pictures.wanted("fresh", *seeds_of(FRESH, 7, 1))
    assert not Pictures(tmp_path, CLASSIFICATION, 7).wanted("race", 0)
    alone = {"cross-entropy alone": Competitor("alone", "baseline")}
    assert list(of_run(tmp_path, alone).said) == ["teacher", "warm student"], "nothing was raced yet"
    maps = torch.ones(4, 8, 8).byte()
    pictures.keep("race", "alone", packed(0 * maps))
    pictures.keep("fresh", "alone", packed(maps))
    found = of_run(tmp_path, alone)
    assert list(found.said) == ["teacher", "cross-entropy alone"] and found.classes == ("x", "y", "z")
    assert torch.equal(found.said["cross-entropy alone"], maps), "fresh seeds come first"
    (tmp_path / "predictions" / "fresh-alone.safetensors").write_bytes(b"damaged")
    assert list(of_run(tmp_path, alone).said) == ["teacher", "warm student"]
    assert of_run(tmp_path / "earlier", alone) is None


def test_predictions_come_back_from_their_file_and_a_damaged_one_is_none(tmp_path):
    images, maps = torch.randint(256, (2, 3, 4, 5)).byte(), torch.randint(3, (2, 4, 5)).byte()
    before = Predictions(images, maps, {"z": maps, "a": maps}, ("x", "y"), {"z": {"iou_0": 0.5}})
    before.save(tmp_path / FILE)
    after = Predictions.load(tmp_path / FILE)
    assert torch.equal(after.images, images) and list(after.said) == ["z", "a"] and after.measured == before.measured
    assert after.classes == ("x", "y") and list(after.named({"a": "b"}).said) == ["b"]
    (tmp_path / FILE).write_bytes(b"{}")
    assert Predictions.load(tmp_path / FILE) is None and Predictions.load(tmp_path / "missing") is None
