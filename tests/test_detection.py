"""Detection: boxes from files, detectors of every kind in one pass, their losses against torchvision's, and average
precision against pycocotools."""

import contextlib
import io

import numpy as np
import pytest
import torch
from torchvision.models import detection as torchvision_detectors
from torchvision.models.detection import roi_heads, rpn
from torchvision.models.detection.image_list import ImageList

from drawn_boxes import write_coco, write_voc
from kdzero_gp import tasks
from kdzero_gp.data.augmentation import Geometry
from kdzero_gp.data.boxes import FIRST_CROWD, NOTHING
from kdzero_gp.engine.batches import Resident
from kdzero_gp.engine.recipe import Recipe
from kdzero_gp.errors import DataError, ModelError
from kdzero_gp.families.boxes import detections
from kdzero_gp.families.detection import DETECTION
from kdzero_gp.families.precision import average_precision
from kdzero_gp.models.contract import Conversion, InputContract
from kdzero_gp.models.detection import as_detector, fasterrcnn, fcos, retinanet
from kdzero_gp.models.levels import named_levels
from kdzero_gp.models.pyramids import SmallStages, pyramid

LOAD = tasks.get("detection").load


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    more = {0: [(5, 5, 5, 9, "red")], 1: [(60, 30, 500, 70, "red")], 31: [(2, 2, 30, 30, "green")]}
    return write_voc(tmp_path_factory.mktemp("voc") / "data", {"train": 24, "val": 6, "test": 6}, more=more)


@pytest.fixture(scope="module")
def dataset(voc):
    return LOAD(str(voc))


# --- files --------------------------------------------------------------------------------------------------


def test_voc_is_read_by_its_lists_and_what_is_left_out_is_named(dataset):
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [24, 6, 6]
    assert dataset.classes == ("blue", "red") and dataset.train.images.shape[1:] == (3, 64, 96)
    boxes, number = dataset.train.labels[..., :4], dataset.train.labels[..., 4]
    assert ((boxes >= 0) & (boxes <= 1)).all() and (boxes[number == NOTHING] == 0).all()
    assert (number == NOTHING).all(dim=1).any(), "an image without boxes stays"
    notes = " ".join(dataset.account.notes)
    assert "1 boxes of no area (JPEGImages/0000.png)" in notes
    assert "1 boxes of classes that training does not have (green in JPEGImages/0031.png)" in notes
    assert "1 boxes reach beyond their image" in notes
    assert "images without boxes" in dataset.account.lines()[1]


def test_boxes_lie_on_what_was_drawn(dataset):
    reds = [(n, row) for n, rows in enumerate(dataset.train.labels) for row in rows if row[4] == 1]
    shares = []
    for n, row in reds:
        left, top, right, bottom = (row[:4] * torch.tensor([96, 64, 96, 64])).round().int().tolist()
        inner = dataset.train.images[n, :, top:bottom, left:right].float().mean((1, 2))
        shares.append(float(inner[0] - inner[2]))
    assert np.median(shares) > 100


def test_coco_has_crowds_and_images_of_another_size_keep_their_proportions(tmp_path):
    root = write_coco(tmp_path / "c", {"train": 12, "val": 4}, crowds={2, 13}, sizes={5: (32, 64), 6: (128, 128)})
    dataset = LOAD(str(root))
    assert [len(s) for s in (dataset.train, dataset.validation, dataset.test)] == [10, 4, 2]
    labels = torch.cat([split.labels for split in (dataset.train, dataset.validation, dataset.test)])
    crowds = labels[labels[..., 4] <= FIRST_CROWD]
    assert len(crowds) == 2 and torch.allclose(crowds[:, :4], torch.tensor([0.0, 0.0, 0.5, 1.0]))
    grey = [(image[:, 32:] == 114).all() for split in (dataset.train, dataset.test) for image in split.images]
    assert sum(grey) == 1, "an image twice as wide as high leaves the lower half free"
    assert "crowds" in " ".join(dataset.account.lines())


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda root: [p.unlink() for p in root.glob("Annotations/*")], "holds no boxes"),
        (lambda root: [p.write_text("<a") for p in sorted(root.glob("Annotations/*"))[:9]], "9 files of"),
        (lambda root: (root / "ImageSets" / "Main" / "train.txt").unlink(), "has no training part"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(tmp_path, damage, message):
    root = write_voc(tmp_path / "v", {"train": 12, "val": 3, "test": 3})
    damage(root)
    with pytest.raises(DataError, match=message):
        LOAD(str(root))
    with pytest.raises(DataError, match="multiples of 32, such as 64x96"):
        LOAD(str(root), (60, 90))


def test_boxes_move_with_windows_flips_and_sizes(voc, dataset):
    recipe = Recipe(1, 8, 0.1, crop="window", crop_size=64, flip=True)
    still = Recipe(1, 8, 0.1)
    assert LOAD(str(voc), (128, 192)).train.labels.allclose(dataset.train.labels, atol=0.02)
    for chosen in (recipe, still):
        batch = next(Resident(dataset, DETECTION, chosen, torch.device("cpu")).epoch(0, 0))
        side = batch.images.new_tensor([batch.images.shape[3], batch.images.shape[2]] * 2)
        tops = []
        for image, rows in zip(batch.images, batch.labels, strict=True):
            for row in rows[rows[:, 4] == 1]:
                left, top, right, bottom = (row[:4] * side).round().int().tolist()
                tops.append(float((image[0] - image[2])[top:bottom, left:right].mean()))
        assert np.median(tops) > 1
    everything, gone = torch.tensor([[[0.0, 0.0, 1.0, 1.0, 0.0]]]), torch.tensor([[[0.0, 0.0, 0.4, 0.4, 1.0]]])
    image, corner = torch.zeros(1, 3, 64, 64), torch.tensor([[24, 24]])
    for rows, expected in ((everything, 0.0), (gone, NOTHING)):
        _, moved = DETECTION.crop(image, rows, Geometry.windows(corner, (32, 32)))
        assert moved[0, 0, 4] == expected


# --- networks -----------------------------------------------------------------------------------------------


def small(head, classes=3):
    torch.manual_seed(0)
    return head(pyramid(SmallStages(4), 16), classes)


def batch(count=3, rows=4, seed=0):
    """Images, targets with an empty image, and the same targets as torchvision takes them."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, 96, 128, generator=generator)
    corner = torch.rand(count, rows, 2, generator=generator) * 0.6
    boxes = torch.cat([corner, corner + 0.1 + 0.3 * torch.rand(count, rows, 2, generator=generator)], 2).clamp(max=1)
    number = torch.randint(3, (count, rows, 1), generator=generator).float()
    targets = torch.cat([boxes, number], dim=2)
    targets[0] = torch.tensor([0, 0, 0, 0, NOTHING])
    targets[1:2, 2:] = targets[0, 2:]
    pixels = torch.tensor([128, 96, 128, 96])
    listed = [{"boxes": r[r[:, 4] >= 0][:, :4] * pixels, "labels": r[r[:, 4] >= 0][:, 4].long()} for r in targets]
    return images, targets, listed


def theirs(model, images, listed):
    """torchvision's own loss on the same images, without its transform."""
    levels = list(model.backbone(images).values())
    said = model.head(levels)
    anchors = model.anchor_generator(ImageList(images, [tuple(images.shape[2:])] * len(images)), levels)
    if isinstance(model, torchvision_detectors.FCOS):
        losses = model.compute_loss(listed, said, anchors, [level[0, 0].numel() for level in levels])
    elif isinstance(model, torchvision_detectors.ssd.SSD):
        listed = [one | {"labels": one["labels"] + 1} for one in listed]
        matched = []
        for places, one in zip(anchors, listed, strict=True):
            none = torch.full((len(places),), -1)
            overlap = torchvision_detectors.ssd.box_ops.box_iou(one["boxes"], places)
            matched.append(model.proposal_matcher(overlap) if len(one["boxes"]) else none)
        losses = model.compute_loss(listed, said, anchors, matched)
    else:
        losses = model.compute_loss(listed, said, anchors)
    return sum(losses.values())


def ssdlite():
    torch.manual_seed(0)
    return torchvision_detectors.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4)


@pytest.mark.parametrize("make", [lambda: small(retinanet), lambda: small(fcos), ssdlite])
def test_losses_equal_torchvisions_in_value_and_gradient(make):
    model = make().eval()  # its norms are the same function of an image in both calls
    images, targets, listed = batch()
    own, other = DETECTION.own_loss(as_detector(model)(images), targets), theirs(model, images, listed)
    torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)
    weight = next(p for n, p in model.named_parameters() if "head" in n and p.dim() > 1)
    torch.testing.assert_close(*(torch.autograd.grad(loss, weight)[0] for loss in (own, other)), rtol=1e-3, atol=1e-5)


def test_losses_of_two_stages_equal_torchvisions_where_it_draws_everything(monkeypatch):
    monkeypatch.setattr("kdzero_gp.families.boxes.SAMPLED", 10**6)
    monkeypatch.setattr("kdzero_gp.families.boxes.POSITIVE_SHARE", 1.0)
    model = small(fasterrcnn).eval()
    model.rpn.fg_bg_sampler.batch_size_per_image, model.rpn.fg_bg_sampler.positive_fraction = 10**6, 1.0
    images, targets, listed = batch()
    outputs = as_detector(model)(images)
    maps = model.backbone(images)
    levels = list(maps.values())
    objectness, deltas = rpn.concat_box_prediction_layers(*model.rpn.head(levels))
    sizes = [tuple(images.shape[2:])] * 3
    anchors = model.rpn.anchor_generator(ImageList(images, sizes), levels)
    wanted, boxes = model.rpn.assign_targets_to_anchors(anchors, listed)
    expected = sum(model.rpn.compute_loss(objectness, deltas, wanted, model.rpn.box_coder.encode(boxes, anchors)))
    given = (outputs["proposals"].transpose(1, 2) * torch.tensor([128, 96, 128, 96])).unbind()
    proposals = [rows[rows[:, 2] > rows[:, 0]] for rows in given]
    truth = [one["boxes"] for one in listed]
    matched, number = model.roi_heads.assign_targets_to_proposals(proposals, truth, [o["labels"] + 1 for o in listed])
    boxes = [t[m] if len(t) else torch.zeros(len(m), 4) for t, m in zip(truth, matched, strict=True)]
    said = model.roi_heads.box_predictor(
        model.roi_heads.box_head(model.roi_heads.box_roi_pool(maps, proposals, sizes))
    )  # fmt: skip
    encoded = model.roi_heads.box_coder.encode(boxes, proposals)
    expected = expected + sum(roi_heads.fastrcnn_loss(*said, number, encoded))
    torch.testing.assert_close(DETECTION.own_loss(outputs, targets), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", [retinanet, fcos, fasterrcnn])
def test_a_crowd_neither_rewards_nor_punishes_and_empty_batches_are_finite(head):
    detector = as_detector(small(head)).eval()
    images, _, _ = batch(1)
    outputs = {name: tensor.detach().requires_grad_() for name, tensor in detector(images).items()}
    everywhere = torch.tensor([[[0.0, 0.0, 1.0, 1.0, FIRST_CROWD - 1]]])
    loss = DETECTION.own_loss(outputs, everywhere)
    assert torch.isfinite(DETECTION.own_loss(outputs, torch.tensor([[[0.0, 0.0, 0.0, 0.0, NOTHING]]])))
    covered = torch.autograd.grad(loss, outputs["objectness" if "objectness" in outputs else "logits"])[0]
    inner = covered.abs().sum(dim=(0, 1))
    places = outputs["anchors" if "anchors" in outputs else "points"][0]
    inside = (places.clamp(min=0).minimum(torch.tensor([[128.0], [96.0], [128.0], [96.0]])) == places).all(dim=0)
    assert inside.any() and (inner[inside] == 0).all()
    nothing = torch.tensor([[[0.0, 0.0, 0.0, 0.0, NOTHING]]])
    assert torch.isfinite(DETECTION.own_loss(outputs, nothing))
    assert DETECTION.measure([(outputs, nothing)]) == {}


@pytest.mark.parametrize("make", [lambda: small(retinanet), lambda: small(fcos), ssdlite, lambda: small(fasterrcnn)])
def test_detections_are_torchvisions(make):
    model = make().eval()
    two_stages = hasattr(model, "roi_heads")
    for name, parameter in (model.roi_heads.box_predictor if two_stages else model.head).named_parameters():
        if parameter.dim() > 1:
            parameter.data *= 3.0  # so that an untrained head finds something
        elif name.endswith("cls_logits.bias"):
            parameter.data *= 0.0
    model.transform.image_mean, model.transform.image_std = [0.0] * 3, [1.0] * 3
    model.transform.fixed_size, model.transform.size_divisible = None, 1
    model.transform.min_size, model.transform.max_size = (96,), 128
    if two_stages:
        model.rpn._post_nms_top_n["testing"] = 256
    model.score_thresh, model.topk_candidates, model.detections_per_img = 0.05, 1000, 100
    images, _, _ = batch(2)
    with torch.no_grad():
        found, expected = detections(as_detector(model)(images)), model(list(images))
    for rows, one in zip(found, expected, strict=True):
        assert len(one["scores"]) > 5
        count = min(len(rows), len(one["scores"]), 20)
        torch.testing.assert_close(rows[:count, 4], one["scores"][:count], rtol=1e-3, atol=1e-4)
    ssd = isinstance(model, torchvision_detectors.ssd.SSD)
    shift = 1 if two_stages or ssd else 0
    if ssd:
        return  # untrained, it gives many equal scores, in any order
    torch.testing.assert_close(found[0][:5, :4], expected[0]["boxes"][:5], rtol=1e-3, atol=0.05)
    assert (found[0][:5, 5].long() + shift == expected[0]["labels"][:5]).all()


def test_one_pass_serves_both_modes_and_levels_are_named_by_stride():
    tapped = DETECTION.tap(DETECTION.build("fcos_small_4", 3, 3), torch.randn(2, 3, 64, 96), None, 3)
    assert {name: shape[1:] for name, shape in tapped.shapes.items() if name.startswith("fpn")} == {
        "fpn3": (8, 12), "fpn4": (4, 6), "fpn5": (2, 3)
    }  # fmt: skip
    images = torch.randn(2, 3, 64, 96)
    assert set(tapped.train()(images)) == set(tapped.eval()(images)) >= {"logits", "deltas", "boxes", "size"}
    with pytest.raises(ModelError, match="tells 3 classes apart and the data have 5"):
        DETECTION.tap(DETECTION.build("fcos_small_4", 3, 3), torch.randn(2, 3, 64, 96), None, 5)


def test_a_two_stage_detector_answers_at_another_one_s_proposals():
    torch.manual_seed(1)
    student, teacher = (as_detector(fasterrcnn(pyramid(SmallStages(width), 16), 3)).eval() for width in (4, 6))
    images, _, _ = batch(2)
    with torch.no_grad():
        own, asked = teacher(images), student(images)["proposals"]
        answered = teacher(images, asked)
        again = teacher(images, own["proposals"])
    assert torch.equal(answered["proposals"], asked) and not torch.equal(answered["proposals"], own["proposals"])
    assert not torch.allclose(answered["region_logits"], own["region_logits"])
    for name in ("regions", "region_logits", "region_deltas"):
        assert answered[name].shape[2] == asked.shape[2]
        torch.testing.assert_close(again[name], own[name], rtol=1e-4, atol=1e-4)
    for name in ("objectness", "boxes", "fpn3"):
        torch.testing.assert_close(answered[name], own[name])
    swapped = teacher(images, asked.flip(2))
    torch.testing.assert_close(swapped["region_logits"].flip(2), answered["region_logits"], rtol=1e-4, atol=1e-5)


def test_a_teacher_with_classes_in_another_order_is_read_in_that_of_the_data():
    contracts = (InputContract(classes=names) for names in (("a", "b", "c"), ("c", "a", "b")))
    conversion = Conversion(*contracts)
    said = {"region_logits": torch.tensor([[[9.0], [3.0], [1.0], [2.0]]]), "boxes": torch.ones(1, 4, 1)}
    said |= {"region_deltas": torch.arange(12.0).view(1, 12, 1)}
    ordered = conversion.ordered(said)
    assert ordered["region_logits"].flatten().tolist() == [9, 1, 2, 3]
    assert ordered["region_deltas"].flatten().tolist() == [4, 5, 6, 7, 8, 9, 10, 11, 0, 1, 2, 3]
    assert torch.equal(ordered["boxes"], said["boxes"])


@pytest.mark.parametrize(
    "side, sizes, numbers",
    [(160, (20, 10, 5, 3, 2), (3, 4, 5, 6, 7)), (64, (8, 4, 2, 1, 1), (3, 4, 5, 6, 7)),
     (320, (20, 10, 5, 3, 2, 1), (4, 5, 6, 7, 8, 9)), (512, (64, 32, 16, 8, 4), (3, 4, 5, 6, 7))],
)  # fmt: skip
def test_no_level_is_lost_where_strides_round_to_one_number(side, sizes, numbers):
    """Of FCOS and RetinaNet, and of SSDlite at 320 pixels."""
    named = named_levels(torch.zeros(1, 3, side, side), [torch.zeros(1, 2, size, size) for size in sizes])
    assert {name: level.shape[2] for name, level in named.items()} == {
        f"fpn{number}": size for number, size in zip(numbers, sizes, strict=True)
    }


@pytest.mark.parametrize(
    "name, message",
    [("retina", "there is no detector"), ("torchvision:fcos_resnet", "did you mean fcos_resnet50_fpn"),
     ("fcos_no_such_net", "has no classifier"), ("builtins:dict", "."), ("torch.nn:Identity", "gives no")],
)  # fmt: skip
def test_a_wrong_network_is_one_sentence(name, message):
    with pytest.raises(ModelError, match=message):
        DETECTION.tap(DETECTION.build(name, 3, 3), torch.randn(2, 3, 64, 64), None, 3)


# --- average precision --------------------------------------------------------------------------------------


def random_scenes(seed):
    """Detections and truth with crowds, empty images, ties of scores, and more than 100 detections."""
    generator = np.random.default_rng(seed)
    found, truth = [], []
    for image in range(6):
        rows = np.zeros((5, 5), np.float32)
        for row in rows:
            corner = generator.random(2) * 60
            row[:] = [*corner, *(corner + 5 + generator.random(2) * 40), generator.integers(3)]
        rows[0, 4] = FIRST_CROWD - rows[0, 4] if image % 2 else NOTHING
        if image == 3:
            rows[:, 4] = NOTHING
        near = np.repeat(rows[:, :4], 30 if image == 1 else 3, axis=0)
        near = near + generator.normal(0, 3, near.shape)
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        score, kind = generator.integers(1, 10, (len(near), 1)) / 10, generator.integers(0, 3, (len(near), 1))
        boxes = np.concatenate([near, score, kind], axis=1) if image != 4 else np.zeros((0, 6))
        truth.append(torch.from_numpy(rows))
        found.append(torch.from_numpy(boxes[np.argsort(-boxes[:, 4], kind="stable")][:100].astype(np.float32)))
    return found, truth


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_equals_pycocotools(seed):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    found, truth = random_scenes(seed)
    mine = average_precision(found, truth, 3)
    annotations, results = [], []
    for image, (boxes, rows) in enumerate(zip(found, truth, strict=True)):
        for left, top, right, bottom, number in rows.tolist():
            if number != -1:
                crowd = number < -1
                annotations.append({
                    "id": len(annotations) + 1, "image_id": image + 1, "iscrowd": int(crowd),
                    "category_id": int(-2 - number if crowd else number) + 1,
                    "bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top),
                })  # fmt: skip
        for left, top, right, bottom, score, number in boxes.tolist():
            results.append({"image_id": image + 1, "category_id": int(number) + 1, "score": score,
                            "bbox": [left, top, right - left, bottom - top]})  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        wanted = COCO()
        wanted.dataset = {"images": [{"id": n + 1} for n in range(6)], "annotations": annotations, "info": {},
                          "categories": [{"id": n + 1} for n in range(3)]}  # fmt: skip
        wanted.createIndex()
        judge = COCOeval(wanted, wanted.loadRes(results), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    assert mine["ap"] == pytest.approx(judge.stats[0], abs=1e-6)
    assert mine["ap50"] == pytest.approx(judge.stats[1], abs=1e-6)


def test_perfect_detections_have_all_precision_and_none_have_none():
    truth = [torch.tensor([[0.0, 0.0, 10.0, 10.0, 1.0]])]
    perfect = [torch.tensor([[0.0, 0.0, 10.0, 10.0, 0.9, 1.0]])]
    assert average_precision(perfect, truth, 2) == pytest.approx({"ap": 1.0, "ap50": 1.0, "ap_1": 1.0})
    assert average_precision([torch.zeros(0, 6)], truth, 2)["ap"] == 0.0
    assert average_precision(perfect, [truth[0] * 0 - 1], 2) == {}
