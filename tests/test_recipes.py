"""Recipes: the published numbers, overrides, learning rates; and the images that a recipe asks for."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from kdzero_gp.data.augmentation import Geometry, cropped
from kdzero_gp.data.dataset import Dataset, Split
from kdzero_gp.engine.batches import Resident, Streamed
from kdzero_gp.engine.recipe import Recipe, load_recipe, names
from kdzero_gp.errors import DataError, SettingError
from kdzero_gp.families.classification import CLASSIFICATION
from kdzero_gp.training import opening
from kdzero_gp.training.opening import open_batches

CPU = torch.device("cpu")


def opened(task, data, recipe, **options):
    return open_batches(task, str(data), recipe, CPU, **options)


# --- the files ----------------------------------------------------------------------------------------------


def test_the_recipes_are_those_of_the_supplements_section_f():
    assert names() == ("cifar100", "cityscapes", "coco", "imagenet", "short", "vit")
    cifar = load_recipe("cifar100", "cifar100", "resnet20")
    assert (cifar.epochs, cifar.batch_size, cifar.optimizer) == (240, 64, "sgd")
    assert (cifar.learning_rate, cifar.momentum, cifar.nesterov, cifar.weight_decay) == (0.05, 0.9, False, 5e-4)
    assert (cifar.schedule, cifar.milestones, cifar.decay) == ("steps", (150, 180, 210), 0.1)
    assert (cifar.crop, cifar.padding, cifar.flip) == ("pad", 4, True)
    imagenet = load_recipe("imagenet")
    assert (imagenet.epochs, imagenet.batch_size, imagenet.learning_rate) == (100, 256, 0.1)
    assert (imagenet.milestones, imagenet.weight_decay) == ((30, 60, 90), 1e-4)
    assert (imagenet.image_size, imagenet.crop, imagenet.flip) == (224, "resized", True)
    vit = load_recipe("vit", "cifar100", "timm:deit_tiny_patch16_224")
    assert (vit.epochs, vit.batch_size, vit.optimizer, vit.learning_rate) == (300, 128, "adamw", 5e-4)
    assert (vit.weight_decay, vit.schedule, vit.image_size, vit.teacher_image_size) == (0.05, "cosine", 224, 32)
    assert vit.augment.startswith("rand-") and vit.mixup == 0.8
    coco = load_recipe("coco", "detection", "fasterrcnn_mobilenet_v2")
    assert (coco.epochs, coco.milestones, coco.flip, coco.crop) == (24, (16, 22), True, "none")
    assert load_recipe("coco", "detection", "torchvision:retinanet_resnet50_fpn").learning_rate == 0.01
    cityscapes = load_recipe("cityscapes", "segmentation")
    assert (cityscapes.crop, cityscapes.crop_size, cityscapes.batch_size) == ("window", 512, 8)
    assert cityscapes.schedule == "poly" and cityscapes.steps(371) == cityscapes.steps(45) == 40_000
    assert cityscapes.passes(371) == pytest.approx(cityscapes.epochs, abs=0.02) and cityscapes.passes(400) == 100
    assert cityscapes.rate(39_999, 45) < 1e-4 < cityscapes.rate(30_000, 45)
    assert "40,000 iterations" in cityscapes.summary and Recipe.from_dict(cityscapes.as_dict()) == cityscapes
    few = load_recipe("cityscapes", "segmentation", changes={"epochs": 2})
    assert few.steps(45) == 90 and "iterations" not in few.as_dict()
    changed = load_recipe("cityscapes", "segmentation", changes={"iterations": 7})
    assert changed.steps(45) == 7


@pytest.mark.parametrize("student", ["mobilenet_v2", "shufflenet_v1", "timm:mobilenetv3_small_050"])
def test_light_students_start_lower_as_in_crd(student):
    assert load_recipe("cifar100", "cifar100", student).learning_rate == 0.01


def test_digits_are_not_mirrored():
    assert load_recipe("short", "cifar10").flip
    short = load_recipe("short", "digits")
    assert not short.flip and short.crop == "none" and short.cacheable


def test_every_field_can_be_overridden_by_a_value_or_its_text():
    changes = {"learning_rate": "0.2", "nesterov": "true", "milestones": "3,5", "crop": "none", "epochs": "9"}
    recipe = load_recipe("cifar100", changes=changes)
    assert (recipe.learning_rate, recipe.nesterov, recipe.milestones) == (0.2, True, (3, 5))
    assert (recipe.crop, recipe.epochs) == ("none", 9)
    assert Recipe.from_dict(recipe.as_dict()) == recipe


def test_milestones_move_along_with_the_number_of_epochs():
    assert load_recipe("cifar100", changes={"epochs": 24}).milestones == (15, 18, 21)


def test_a_recipe_file_of_the_user_is_read(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'epochs = 3\nbatch_size = 8\nlearning_rate = 0.1\n[[overrides]]\ntask = "d*"\nstudent = "a"\nclip = 1\n'
    )
    assert load_recipe(str(path), "digits", "a").clip == 1.0
    assert load_recipe(str(path), "digits", "b").clip == 0.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epoch": 3}, "no field 'epoch': did you mean epochs"),
        ({"epochs": 0}, "epochs must be above 0, got 0"),
        ({"epochs": "many"}, "epochs has to be a number, got 'many'"),
        ({"batch_size": 1.5}, "batch_size has to be a whole number"),
        ({"flip": "perhaps"}, "flip has to be true or false"),
        ({"learning_rate": -1}, "learning_rate must be above 0"),
        ({"learning_rate": "nan"}, "learning_rate must be above 0"),
        ({"schedule": "cosin"}, "schedule must be one of steps, cosine, linear, poly, constant, got 'cosin'"),
        ({"milestones": "a"}, "milestones has to be whole numbers"),
        ({"weight_decay": -1}, "weight_decay must be at least 0"),
        ({"warmup": 1}, "shares below 1"),
    ],
)
def test_a_wrong_value_gets_one_sentence(changes, message):
    with pytest.raises(SettingError, match=message):
        load_recipe("short", changes=changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs = ", "is not TOML"),
        ("batch_size = 3\nlearning_rate = 1", "has no epochs"),
        ("epochs = 3\nbatch_size = 3\nlearning_rate = 1\nwarm = 2", "no field 'warm': did you mean warmup"),
    ],
)
def test_a_wrong_recipe_file_gets_one_sentence(text, message, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(SettingError, match=message):
        load_recipe(str(path))


@pytest.mark.parametrize("name", ["cifar", "missing.toml"])
def test_a_recipe_that_does_not_exist_gets_the_names(name):
    with pytest.raises(SettingError, match="cifar100, cityscapes, coco, imagenet, short, vit"):
        load_recipe(name)


# --- learning rates -----------------------------------------------------------------------------------------


def test_steps_decay_at_the_milestones():
    recipe = load_recipe("cifar100")
    rates = [recipe.rate(epoch * 781, 781) for epoch in (0, 149, 150, 179, 180, 209, 210, 239)]
    assert rates == pytest.approx([0.05, 0.05, 5e-3, 5e-3, 5e-4, 5e-4, 5e-5, 5e-5])
    assert recipe.rate(150 * 781 - 1, 781) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("distillation", "factors"), [("constant", [1, 1, 1, 1, 1, 1]), ("early", [1, 1, 1, 1, 0, 0]),
                                  ("linear", [1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])]
)  # fmt: skip
def test_the_distillers_weight_follows_the_recipe(distillation, factors):
    recipe = Recipe(3, 64, 0.1, distillation=distillation)
    assert [recipe.distilled(step, 2) for step in range(6)] == pytest.approx(factors)


def test_one_cycle_rises_and_falls_to_nothing():
    recipe = load_recipe("short", changes={"epochs": 10})
    rates = [recipe.rate(step, 10) for step in range(100)]
    assert rates.index(max(rates)) in (29, 30)
    assert max(rates) == recipe.learning_rate
    assert rates[:30] == sorted(rates[:30]) and rates[30:] == sorted(rates[30:], reverse=True)
    assert rates[0] == pytest.approx(recipe.learning_rate / 30)
    assert rates[-1] < 0.001 * recipe.learning_rate


# --- images in memory ---------------------------------------------------------------------------------------


def dataset(count=12, size=6, channels=3):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, channels, size, size), generator=generator, dtype=torch.uint8)
    split = Split(images, torch.arange(count) % 2)
    return Dataset("made up", ("a", "b"), split, split, split, (0.5,) * channels, (0.25,) * channels)


def test_crops_and_flips_are_those_of_one_image_at_a_time():
    images = dataset().train.images
    generator = torch.Generator().manual_seed(1)
    offsets = torch.randint(5, (12, 2), generator=generator)
    flipped = torch.rand(12, generator=generator) < 0.5
    found = cropped(images, Geometry(offsets, flipped, 2))
    for image, (row, column), mirror, result in zip(images, offsets.tolist(), flipped, found, strict=True):
        padded = torch.zeros(3, 10, 10, dtype=torch.uint8)
        padded[:, 2:8, 2:8] = image
        expected = padded[:, row : row + 6, column : column + 6]
        assert torch.equal(result, expected.flip(2) if mirror else expected)
    centred = torch.full((12, 2), 2)
    assert torch.equal(cropped(images, Geometry(centred, torch.zeros(12, dtype=torch.bool), 2)), images)


def test_an_epoch_depends_on_seed_and_number_alone():
    recipe = load_recipe("short", "cifar10", changes={"batch_size": 4})
    images = Resident(dataset(), CLASSIFICATION, recipe, CPU)
    torch.manual_seed(5)
    once = list(images.epoch(3, 7))
    torch.manual_seed(6)
    again = list(images.epoch(3, 7))
    assert len(once) == images.steps == 3
    assert all(
        torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) for a, b in zip(once, again, strict=True)
    )
    for seed, epoch in ((3, 8), (4, 7)):
        assert not torch.equal(once[0].images, next(images.epoch(seed, epoch)).images)
    assert sorted(torch.cat([batch.indices for batch in once]).tolist()) == list(range(12))


def test_images_can_be_seen_at_another_size():
    images = Resident(dataset(), CLASSIFICATION, load_recipe("short", changes={"image_size": 12, "batch_size": 4}), CPU)
    assert next(images.epoch(0, 0)).images.shape == (4, 3, 12, 12)
    assert next(images.evaluation("test"))[0].shape == (12, 3, 12, 12)


# --- ImageNet's layout --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """``{train,val}/<class>/<image>.JPEG`` as ImageNet has it: sizes of their own, one grey image."""
    pytest.importorskip("torchvision")
    root = tmp_path_factory.mktemp("imagenet")
    generator = np.random.default_rng(0)
    for part, count in (("train", 20), ("val", 6)):
        for index in range(count):
            shape = (20 + index, 34 - index, 3)
            pixels = generator.integers(0, 256, shape[: 2 if index == 3 else 3], dtype=np.uint8)
            path = root / part / f"n{index % 2:08d}" / f"{part}_{index}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return root


IMAGENET = {"image_size": 16, "batch_size": 6, "epochs": 1}


def test_imagenets_layout_is_read_one_batch_at_a_time(tree, monkeypatch):
    read = []
    open_image = opening.open_image
    monkeypatch.setattr(
        opening, "open_image", lambda path, channels: read.append(path.name) or open_image(path, channels)
    )
    images = opened("folder", tree, load_recipe("imagenet", changes=IMAGENET))
    assert isinstance(images, Streamed)
    assert (images.train, images.validation, images.test, images.classes) == (18, 2, 6, 2)
    read.clear()
    batches = images.epoch(0, 0)
    first = next(batches)
    assert first.images.shape == (6, 3, 16, 16) and first.images.dtype == torch.float32
    assert len(read) <= 12  # the batch, and at most one ahead
    test, labels = next(images.evaluation("test"))
    assert test.shape == (6, 3, 16, 16) and sorted(labels.tolist()) == [0, 0, 0, 1, 1, 1]


def test_what_an_image_becomes_does_not_depend_on_who_reads_it(tree):
    recipe = load_recipe("imagenet", changes=IMAGENET)
    alone, helped = (opened("folder", tree, recipe, readers=readers) for readers in (0, 2))
    for one, other in zip(alone.epoch(1, 2), helped.epoch(1, 2), strict=True):
        assert torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)


def test_an_image_is_another_one_in_every_epoch(tree):
    images = opened("folder", tree, load_recipe("imagenet", changes=IMAGENET))
    one, other = (
        {
            int(i): image
            for batch in images.epoch(1, epoch)
            for i, image in zip(batch.indices, batch.images, strict=True)
        }
        for epoch in (2, 3)
    )
    assert sum(torch.equal(one[index], other[index]) for index in one) <= 1


def test_reading_leaves_the_global_generators_alone(tree):
    import random

    images = opened("folder", tree, load_recipe("imagenet", changes=IMAGENET))
    states = random.getstate(), np.random.get_state()[1].tolist()
    next(images.epoch(0, 0))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states


def test_test_images_are_resized_and_cropped_around_the_centre(tree):
    from torchvision.transforms import functional

    images = opened("folder", tree, load_recipe("imagenet", changes=IMAGENET))
    found = next(images.evaluation("test"))[0][0]
    path = tree / "val" / "n00000000" / "val_0.JPEG"
    resized = functional.resize(Image.open(path), 18, functional.InterpolationMode.BICUBIC)
    expected = functional.pil_to_tensor(functional.center_crop(resized, [16, 16]))
    assert torch.allclose(found, images.dataset.normalise(expected))


def test_without_validation_all_images_are_trained_on(tree):
    images = opened("folder", tree, load_recipe("imagenet", changes=IMAGENET), validate=False)
    assert (images.train, images.validation) == (20, 0)
    assert list(images.evaluation("validation")) == []


def test_policies_of_timm_are_applied(tree):
    pytest.importorskip("timm")
    plain = load_recipe("imagenet", changes=IMAGENET)
    policy = dataclasses.replace(plain, augment="rand-m9-mstd0.5-inc1")
    one, other, again = (next(opened("folder", tree, r).epoch(0, 0)).images for r in (plain, policy, policy))
    assert torch.equal(other, again)
    assert not torch.equal(one, other)
    with pytest.raises(SettingError, match=r"not a policy of timm.*rand-m9"):
        next(opened("folder", tree, dataclasses.replace(plain, augment="wild")).epoch(0, 0))


@pytest.mark.parametrize(
    ("change", "remedy"),
    [({"data": "nowhere"}, "give the folder with --data"), ({"image_size": 0}, "--image-size 224")],
)
def test_a_folder_that_cannot_be_read_gets_one_sentence(tree, change, remedy):
    recipe = load_recipe("imagenet", changes=IMAGENET | {k: v for k, v in change.items() if k == "image_size"})
    with pytest.raises(DataError, match=remedy):
        opened("folder", change.get("data", tree), recipe)


def test_a_damaged_image_is_named(tmp_path, tree):
    import shutil

    shutil.copytree(tree, tmp_path / "copy")
    (tmp_path / "copy" / "train" / "n00000001" / "train_1.JPEG").write_bytes(b"nothing")
    images = opened("folder", tmp_path / "copy", load_recipe("imagenet", changes=IMAGENET), validate=False)
    with pytest.raises(DataError, match=r"train_1\.JPEG cannot be decoded"):
        list(images.epoch(0, 0))
