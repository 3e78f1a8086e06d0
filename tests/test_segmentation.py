"""Segmentation: label maps from files, networks of every kind, losses and measures that leave out ignored pixels."""

import numpy as np
import pytest
import torch
from PIL import Image

from kdzero_gp import tasks
from kdzero_gp.data.dataset import Dataset
from kdzero_gp.data.label_maps import LabelSettings, with_settings
from kdzero_gp.engine.batches import Resident
from kdzero_gp.engine.recipe import Recipe
from kdzero_gp.errors import DataError
from kdzero_gp.families.segmentation import SEGMENTATION, scores
from label_maps import write
from tiny_segmentation import Own

LOAD = tasks.get("segmentation").load


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("maps"), {"train": 24, "val": 6, "test": 6})


@pytest.fixture
def dataset(data) -> Dataset:
    return LOAD(str(data))


def test_parts_classes_and_ignored_pixels_are_read(dataset):
    assert [len(s) for s in (dataset.train, dataset.validation, dataset.test)] == [24, 6, 6]
    assert dataset.classes == ("0", "1", "2")
    assert (dataset.train.labels[:, 0] == -1).all() and dataset.train.labels.max() == 2


def test_misfit_label_maps_are_named_once_and_left_out(tmp_path):
    root = write(tmp_path, {"train": 40, "val": 4, "test": 4})
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(root / "labels" / "train" / "003.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 9, (24, 32, 3)).astype(np.uint8)).save(
        root / "labels" / "train" / "005.png"
    )
    notes = " ".join(LOAD(str(root)).account.notes)
    assert "1 of another size than their images (labels/train/003.png)" in notes
    assert "1 coded by colours (labels/train/005.png)" in notes
    for number in range(10):
        (root / "labels" / "train" / f"{number:03d}.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="too many label maps"):
        LOAD(str(root))


def test_settings_travel_with_the_path():
    assert with_settings("a.zip", "11", "sky,road") == "a.zip?ignore=11&classes=sky,road"
    assert LabelSettings.of("a.zip?ignore=0,11").ignore == (0, 11)
    with pytest.raises(DataError, match="add --data"):
        with_settings(None, "11", None)


def test_label_maps_move_with_windows_and_flips(dataset):
    recipe = Recipe(1, 8, 0.1, crop="window", crop_size=16, flip=True)
    batch = next(Resident(dataset, SEGMENTATION, recipe, torch.device("cpu")).epoch(0, 0))
    assert batch.images.shape == (8, 3, 16, 16) and batch.labels.shape == (8, 16, 16)
    red = (batch.images[:, 0] - batch.images[:, 2])[batch.labels == 1].mean()
    assert red > (batch.images[:, 0] - batch.images[:, 2])[batch.labels == 2].mean() + 1


@pytest.mark.parametrize(
    "name, size", [("segmenter_4", (8, 10)), ("deeplabv3plus_mobilenet_v2", (8, 10)),
                   ("lraspp_mobilenet_v3_large", (4, 5)), ("tiny_segmentation:Own", (16, 20))],
)  # fmt: skip
def test_logits_are_read_before_they_are_enlarged(name, size):
    network = Own(5) if ":" in name else SEGMENTATION.build(name, 5, 3)
    tapped = SEGMENTATION.tap(network, torch.randn(2, 3, 32, 40), None, 5)
    assert tapped.shapes["logits"] == (5, *size) and "feat" in tapped.shapes


def test_a_batch_without_labels_costs_nothing_and_moves_nothing():
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = SEGMENTATION.own_loss({"logits": logits}, torch.full((2, 8, 8), -1))
    loss.backward()
    assert loss.item() == 0 and (logits.grad == 0).all()
    assert SEGMENTATION.measure([({"logits": logits.detach()}, torch.full((2, 8, 8), -1))]) == {}


def test_mean_iou_is_that_of_the_whole_set():
    found = scores(torch.tensor([[3, 1, 0], [1, 2, 0], [0, 0, 0]]))
    assert found["miou"] == pytest.approx((3 / 5 + 2 / 4) / 2)
    assert found["pixel_accuracy"] == pytest.approx(5 / 7) and "iou_2" not in found
