"""Data as they lie on disks: layouts, formats and damage of all kinds are read, or refused with what was seen."""

import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import drawn_boxes
import label_maps
from commands import command
from kdzero_gp.data import decoding, images
from kdzero_gp.data.account import DataAccount
from kdzero_gp.data.dataset import Dataset
from kdzero_gp.data.decoding import open_image
from kdzero_gp.data.roles import is_plain, role
from kdzero_gp.errors import DataError
from loading import load

PER_FOLDER = 10


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDZERO_CACHE", str(tmp_path / "cache"))


def write(path: Path, pixels: np.ndarray | None = None, **settings: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if pixels is None:
        pixels = np.random.default_rng(len(str(path))).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **settings)
    return path


def make(root: Path, *folders: str, suffix: str = ".png", count: int = PER_FOLDER) -> Path:
    for folder in folders:
        for index in range(count):
            write(root / folder / f"{folder.replace('/', '_')}_{index}{suffix}")
    return root


def both(*parts: str) -> list[str]:
    return [f"{part}/{name}" for part in parts for name in ("ant", "bee")]


def loaded(root: Path, **options: Any) -> tuple[Dataset, list[int]]:
    """The data set and the sizes of its splits."""
    found = load("folder", root, **options)
    return found, [len(split) for split in (found.train, found.validation, found.test)]


def test_the_names_of_parts_in_their_spellings():
    spelled = {
        "train": "Train TRAINING training_set trainset train-images seg_train trainval train2017 TrainData",
        "validation": "val valid Validation dev val2017 validation_set images_dev",
        "test": "Test Testing test_set testset TestImages seg_test",
        None: "apple trainer contest testament 001 devil valley",
    }
    for part, names in spelled.items():
        assert {name: role(name) for name in names.split()} == dict.fromkeys(names.split(), part)
    assert is_plain("training_set")
    assert not is_plain("bullet_train")


@pytest.mark.parametrize(
    ("folders", "sizes"),
    [
        (both("Training", "Testing"), [18, 2, 20]),
        (both("training_set", "test_set"), [18, 2, 20]),
        (both("seg_train/seg_train", "seg_test/seg_test"), [18, 2, 20]),
        (both("train", "dev"), [18, 2, 20]),
        (both("train", "val", "test"), [20, 20, 20]),
        (both("images_train", "images_val", "images_test"), [20, 20, 20]),
        (both("a/b/train", "a/b/test"), [18, 2, 20]),
        (both("train/images", "test/images"), [18, 2, 20]),
        (["ant/train", "ant/test", "bee/train", "bee/test"], [18, 2, 20]),
        ([*both("train"), "test/bee"], [18, 2, 10]),
        (["set/train/ant/images", "set/train/bee/images"], [14, 2, 4]),
        (both("my_test/Train", "my_test/Valid"), [18, 2, 20]),
    ],
)
def test_parts_are_read_by_their_names(folders: list[str], sizes: list[int], tmp_path: Path):
    found, lengths = loaded(make(tmp_path / "d", *folders))
    assert (found.classes, lengths) == (("ant", "bee"), sizes)


@pytest.mark.parametrize(
    ("folders", "told"),
    [
        ([*both("train", "test"), "unlabelled"], "10 images of unlabelled"),
        ([*both("archive/data/train", "archive/data/test"), "archive/docs"], "10 images of archive/docs"),
        ([*both("train"), "test"], "10 images of test have no labels"),
        (["animal/cat", "animal/dog", "plant/oak"], r"animal \(cat, dog\), plant \(oak\)"),
        ([*both("train", "test"), "train/cat"], "test has no images of 1 classes: cat"),
        ([*both("train", "test"), "extra/ant"], "10 images of extra/ant"),
    ],
)
def test_what_is_not_used_is_told(folders: list[str], told: str, tmp_path: Path):
    assert re.search(told, "; ".join(load("folder", make(tmp_path / "d", *folders)).account.notes))


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (both("fold_0", "fold_1"), r"same folders \(ant, bee\) in each of fold_0, fold_1"),
        (both("color", "grayscale", "segmented"), "same folders"),
        (both("train/color", "train/grey", "test/color", "test/grey"), "same folders"),
        (["fold1", "fold2", "fold3"], "look like pieces of one data set"),
        (["train", "test"], "no class folders"),
        (["images", "masks"], "no class folders"),
        (["images/train", "labels/train"], "images, labels hold kinds of files"),
        (both("train_1", "train_2"), "two train parts"),
        (both("x/train", "y/train"), r"several data sets \(x, y\)"),
        (both("val", "test"), "no folder 'train'"),
    ],
)
def test_what_has_two_meanings_is_refused(folders: list[str], message: str, tmp_path: Path):
    with pytest.raises(DataError, match=message):
        load("folder", make(tmp_path / "d", *folders))


@pytest.mark.parametrize("classes", [("bus", "train"), ("bullet train", "bus"), ("exam", "test"), ("s", "x")])
def test_classes_may_be_called_like_parts(classes: tuple[str, ...], tmp_path: Path):
    assert loaded(make(tmp_path / "d", *classes))[0].classes == classes


# Tables of labels


def labelled(names: list[str]) -> list[tuple[str, str]]:
    return [(name, ("ant", "bee")[index % 2]) for index, name in enumerate(names)]


@pytest.mark.parametrize(
    "rows",
    [
        lambda names: ["file,label", *(f"{name},{label}" for name, label in labelled(names))],
        lambda names: ["id;size;species", *(f"{n.removesuffix('.png')};3;{c}" for n, c in labelled(names))],
        lambda names: [f"{name}\t{label}\t0\t0" for name, label in labelled(names)],
        lambda names: [f"{name} {label}" for name, label in labelled(names)],
        lambda names: ["label,path", *(f"{c},/kaggle/input/train/{n}" for n, c in labelled(names))],
        lambda names: ["image,ant,bee", *(f"{n},{float(c == 'ant')},{float(c == 'bee')}" for n, c in labelled(names))],
        lambda names: ["\ufefffile,class", *(f'"train\\{name}","{label}"' for name, label in labelled(names))],
    ],
)
def test_labels_are_read_from_tables(rows: Callable[[list[str]], list[str]], tmp_path: Path):
    root = make(tmp_path / "d", "train", "test")
    names = sorted(path.name for path in (root / "train").iterdir())
    (root / "train.csv").write_text("\n".join(rows(names)))
    (root / "sample_submission.csv").write_text("file,label\n" + "\n".join(f"test_{i}.png,ant" for i in range(10)))
    found, sizes = loaded(root)
    assert found.classes == ("ant", "bee")
    assert sum(sizes) == PER_FOLDER
    assert "train.csv" in found.account.origins["train"]


def test_tables_may_say_the_part_and_numbers_are_in_their_order(tmp_path: Path):
    root = make(tmp_path / "d", "images", count=30)
    rows = [f"images_{i}.png,{(2, 10)[i % 2]},{('train', 'valid', 'test')[i // 2 % 3]}" for i in range(30)]
    (root / "meta.csv").write_text("\n".join(["filename,class,split", *rows]))
    found, sizes = loaded(root)
    assert (found.classes, sizes) == (("2", "10"), [10, 10, 10])


def test_tiny_imagenet_is_read(tmp_path: Path):
    root = make(tmp_path / "tiny", "train/n1/images", "train/n2/images", "val/images", "test/images")
    rows = [f"val_images_{i}.png\tn{1 + i % 2}\t0\t0\t62\t62" for i in range(10)]
    (root / "val/val_annotations.txt").write_text("\n".join(rows))
    found, sizes = loaded(root)
    assert (found.classes, sizes) == (("n1", "n2"), [18, 2, 10])
    assert found.account.images["test"] == (5, 5)


def test_a_table_with_several_possible_labels_is_refused(tmp_path: Path):
    root = make(tmp_path / "d", "train")
    rows = [f"train_{i}.png,{i % 2},{i % 3}" for i in range(10)]
    (root / "t.csv").write_text("\n".join(["file,colour,shape", *rows]))
    with pytest.raises(DataError, match=r"several columns .*'colour', 'shape'.*call the right one 'label'"):
        load("folder", root)


# The account


def test_the_account_tells_what_was_read_and_stays_with_the_cache(tmp_path: Path):
    root = make(tmp_path / "d", *both("train", "val", "test"))
    (root / "readme.txt").write_text("hello")
    first = load("folder", root).account
    assert first == load("folder", root).account == DataAccount.from_dict(first.as_dict())
    assert first.images == {"train": (10, 10), "validation": (10, 10), "test": (10, 10)}
    lines = first.lines()
    assert lines[0] == "2 classes: ant, bee"
    assert lines[3].startswith("test: 20 images, 10 a class, from test")
    assert "1 .txt" in lines[4]


def test_a_split_off_part_says_so(tmp_path: Path):
    origins = load("folder", make(tmp_path / "d", "ant", "bee")).account.origins
    assert "each taken as a class" in origins["train"]
    assert "20%" in origins["test"]
    assert "split off" in origins["validation"]


def test_the_account_names_what_differs(tmp_path: Path):
    root = make(tmp_path / "d", *both("train", "test"))
    before = load("folder", root).account.as_dict()
    write(root / "train/ant/train_ant_0.png", np.zeros((8, 8, 3), np.uint8))
    assert "other content" in load("folder", root).account.difference(before)
    make(root, "train/cat", "test/cat")
    assert "classes differ (cat)" in load("folder", root).account.difference(before)
    shutil.rmtree(root / "train/cat"), shutil.rmtree(root / "test/cat")
    make(root, "test/ant", count=12)
    assert load("folder", root).account.difference(before) == "test has 22 images and had 20"
    assert DataAccount.from_dict(before).difference(before) == ""


@pytest.mark.parametrize("suffix", [".jfif", ".avif", ".JPE", ".tga", ".PNM"])
def test_images_of_unusual_suffixes_are_read(suffix: str, tmp_path: Path):
    root = make(tmp_path / "d", "ant", "cat")
    for file in make(root, "bee", suffix=".jpg").joinpath("bee").iterdir():
        file.rename(file.with_suffix(suffix))
    assert loaded(root)[0].classes == ("ant", "bee", "cat")


@pytest.mark.parametrize(("suffix", "message"), [(".heic", "10 .heic"), (".npy", "10 .npy"), ("", "it is empty")])
def test_a_class_without_readable_images_is_named(suffix: str, message: str, tmp_path: Path):
    root = make(tmp_path / "d", "train/ant", "train/bee", "train/cat")
    for file in (root / "train/bee").iterdir():
        file.rename(file.with_suffix(suffix)) if suffix else file.unlink()
    with pytest.raises(DataError, match=f"no image for the class 'bee' .*{message}"):
        load("folder", root)


def test_half_a_class_that_is_not_read_is_told(tmp_path: Path):
    root = make(tmp_path / "d", "train/ant", "train/bee")
    for file in sorted((root / "train/bee").iterdir())[:5]:
        file.rename(file.with_suffix(".heic"))
    account = load("folder", root).account
    assert "class 'bee' are not read (5 .heic)" in "; ".join(account.notes) and account.skipped == {".heic": 5}


# Zips and links


def zipped(path: Path, name: Callable[[str, int], str], patch: tuple[int, int] | None = None) -> Path:
    buffer = BytesIO()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(buffer, "PNG")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for label in ("a", "é"):
            for index in range(5):
                entry = zipfile.ZipInfo("x")
                entry.filename, entry.compress_type = name(label, index), zipfile.ZIP_DEFLATED
                archive.writestr(entry, buffer.getvalue())
    if patch:
        raw = bytearray(path.read_bytes())
        for sign, offset in ((b"PK\x03\x04", patch[0]), (b"PK\x01\x02", patch[0] + 2)):
            at = -1
            while (at := raw.find(sign, at + 1)) >= 0:
                raw[at + offset] = patch[1]
        path.write_bytes(raw)
    return path


@pytest.mark.parametrize(
    "form",
    [
        "train/{}/{}.png",
        "train\\{}\\{}.png",
        "./train/{}/{}.png",
        "x/y/train/{}/{}.png",
        "/train/{}/{}.PNG",
        "{}/{}.png",
    ],
)
def test_zips_of_every_common_form_are_read(form: str, tmp_path: Path):
    assert loaded(zipped(tmp_path / "d.zip", form.format))[0].classes == ("a", "é")


def test_decomposed_accents_are_the_composed_ones(tmp_path: Path):
    path = zipped(
        tmp_path / "d.zip", lambda c, i: f"{('train', 'test')[i % 2]}/{c if i % 2 else c.replace('é', 'é')}/{i}.png"
    )
    found, sizes = loaded(path)
    assert (found.classes, sizes) == (("a", "é"), [5, 1, 4])


@pytest.mark.parametrize(
    ("form", "patch", "message"),
    [
        ("../train/{}/{}.png", None, r"\.\./train/a/0\.png, which leads out of it"),
        ("train/{}/{}.png", (6, 1), "is encrypted; unpack it"),
        ("train/{}/{}.png", (8, 9), "compressed with deflate64"),
        ("train/{}/{}.png", (8, 98), "compressed with PPMd"),
        ("train/{}/{}.png", (8, 77), "compressed with method 77"),
        ("train/{}/{}.png", (8, 99), "is encrypted"),
        ("train/{}/{}.zip", None, r"no images.*10 \.zip"),
    ],
)
def test_zips_that_cannot_be_read_say_why(form: str, patch: tuple[int, int] | None, message: str, tmp_path: Path):
    with pytest.raises(DataError, match=message):
        load("folder", zipped(tmp_path / "d.zip", form.format, patch))


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"Rar!\x1a", "a RAR archive"),
        (b"7z\xbc\xaf\x27", "a 7z archive"),
        (b"\x1f\x8b\x08", "a gzip file"),
        (b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"PK\x03\x04 cut", "a damaged zip"),
        (bytes(257) + b"ustar", "a tar archive"),
    ],
)
def test_files_given_by_mistake_are_recognised(content: bytes, kind: str, tmp_path: Path):
    (tmp_path / "d.zip").write_bytes(content)
    with pytest.raises(DataError, match=f"is {kind}"):
        load("folder", tmp_path / "d.zip")


@pytest.mark.parametrize(
    ("target", "place", "message"),
    [
        ("/nowhere.png", "train/ant/z.png", "leads to /nowhere.png, which is not there"),
        ("..", "train/ant/up", "leads back to a folder above it"),
        ("z.png", "train/ant/z.png", "cannot be read|which is not there"),
        (".", "train/here", "leads back"),
        ("../..", "train/ant/top", "leads back"),
    ],
)
def test_links_that_lead_nowhere_or_back_are_named(target: str, place: str, message: str, tmp_path: Path):
    root = make(tmp_path / "d", *both("train"))
    (root / place).symlink_to(target)
    with pytest.raises(DataError, match=message):
        load("folder", root)


def test_permissions_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = make(tmp_path / "d", *both("train"))

    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(images.os, "scandir", refuse)
    with pytest.raises(DataError, match=r"d cannot be read \(Permission denied\); change its permissions"):
        load("folder", root)


# Pixels


def grey_ramp(top: float, kind: type) -> np.ndarray:
    return (np.linspace(0, 1, 1024).reshape(32, 32) * top).astype(kind)


@pytest.mark.parametrize(
    ("suffix", "pixels"),
    [
        (".png", grey_ramp(65535, np.uint16)),
        (".tif", grey_ramp(65535, np.uint16)),
        (".tif", grey_ramp(4095, np.uint16)),
        (".tif", grey_ramp(1, np.float32)),
        (".tif", grey_ramp(255, np.float32)),
        (".tif", grey_ramp(2, np.float32) - 1),
        (".tif", grey_ramp(70_000, np.int32)),
        (".png", grey_ramp(255, np.uint8)),
    ],
)
def test_deep_images_are_scaled_by_their_range(suffix: str, pixels: np.ndarray, tmp_path: Path):
    for name in ("a", "b"):
        for index in range(10):
            write(tmp_path / "d" / name / f"{index}{suffix}", pixels)
    found = loaded(tmp_path / "d")[0]
    assert found.train.images.shape[1] == 1
    assert found.mean[0] == pytest.approx(0.5, abs=0.01)
    assert len(found.train.images.unique()) > 250


def opened(image: Image.Image, form: str, channels: int = 3, **settings: object) -> np.ndarray:
    buffer = BytesIO()
    image.save(buffer, form, **settings)
    buffer.seek(0)
    return np.asarray(open_image(buffer, channels))


def test_hidden_colours_do_not_come_through():
    hidden = np.zeros((4, 4, 4), np.uint8)
    hidden[..., 0] = 200
    assert (opened(Image.fromarray(hidden), "PNG") == 255).all()
    half = hidden.copy()
    half[..., 3] = 255
    assert (opened(Image.fromarray(half), "PNG")[..., 0] == 200).all()
    grey = Image.merge("LA", [Image.new("L", (4, 4), 9), Image.new("L", (4, 4), 0)])
    assert (opened(grey, "PNG", 1) == 255).all()
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([9, 9, 9] * 256)
    assert (opened(palette, "PNG", transparency=0) == 255).all()
    assert (opened(palette, "PNG") == 9).all()
    assert (opened(Image.new("RGB", (4, 4), (1, 2, 3)), "PNG", transparency=(1, 2, 3)) == 255).all()


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "TIFF", "WEBP"])
def test_images_are_turned_as_exif_says(turn: int, form: str):
    from PIL import ImageOps

    pixels = np.zeros((16, 32), np.uint8)
    pixels[:8, :16], pixels[8:, :16], pixels[8:, 16:] = 255, 160, 80
    exif = Image.Exif()
    exif[decoding.ORIENTATION] = turn
    buffer = BytesIO()
    Image.fromarray(pixels).convert("RGB").save(buffer, form, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(BytesIO(buffer.getvalue()))).convert("L"), dtype=int)
    assert np.abs(np.asarray(open_image(BytesIO(buffer.getvalue()), 1), dtype=int) - expected).max() < 10


def test_cmyk_and_other_modes_are_decoded():
    red = Image.new("RGB", (8, 8), (250, 10, 10))
    for mode, form in (("CMYK", "JPEG"), ("CMYK", "TIFF"), ("YCbCr", "JPEG"), ("P", "GIF"), ("RGB", "BMP")):
        pixels = opened(red.convert(mode), form)
        assert pixels[..., 0].min() > 200, mode
        assert pixels[..., 1].max() < 60, mode
    frames = [Image.new("L", (8, 8), value) for value in (30, 200)]
    assert (opened(frames[0], "GIF", 1, save_all=True, append_images=frames[1:]) == 30).all()


def test_images_without_contrast_and_with_frames_are_told(tmp_path: Path):
    frames = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (0, 200)]
    for name in ("a", "b"):
        for index in range(10):
            path = tmp_path / "d" / name / f"{index}.gif"
            path.parent.mkdir(parents=True, exist_ok=True)
            frames[0].save(path, save_all=True, append_images=frames[1:])
    notes = " ".join(loaded(tmp_path / "d")[0].account.notes)
    assert "20 images have several frames" in notes
    assert "14 of 14 training images are of one colour" in notes


def test_all_damaged_files_are_listed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = make(tmp_path / "d", *both("train", "test"))
    good = write(tmp_path / "good.png", np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    bad = {"empty": b"", "text": b"no image", "cut": good.read_bytes()[:2000], "page": b"<html>"}
    for name, content in bad.items():
        (root / "train/ant" / f"{name}.png").write_bytes(content)
    (root / "test/bee/late.png").write_bytes(good.read_bytes()[:2000])
    write(root / "train/bee/bomb.png", np.zeros((200, 200, 3), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    with pytest.raises(DataError) as caught:
        load("folder", root)
    assert str(caught.value).startswith("6 images cannot be decoded")
    assert all(name in str(caught.value) for name in (*bad, "late", "bomb"))


def test_grey_images_become_colour_when_asked(tmp_path: Path):
    for name in ("a", "b"):
        for index in range(5):
            write(tmp_path / "d" / name / f"{index}.png", grey_ramp(255, np.uint8))
    found = load("folder", tmp_path / "d", channels=3)
    assert found.train.images.shape[1:] == (3, 32, 32)
    assert len(found.mean) == len(found.std) == 3
    assert found.normalise(found.train.images).shape[1] == 3
    assert load("digits", channels=3).test.images.shape[1] == 3
    with pytest.raises(DataError, match="3 channels and cannot be given 1"):
        load("folder", make(tmp_path / "colour", "a", "b"), channels=1)


# Size and memory


@pytest.mark.parametrize("size", [7, (5, 9), (9, 5), 64])
def test_a_size_asked_for_is_a_size_got(size: int | tuple[int, int], tmp_path: Path):
    for name in ("a", "b"):
        for index in range(5):
            write(tmp_path / "d" / name / f"{index}.png", np.zeros((48, 64, 3), np.uint8))
    expected = size if isinstance(size, tuple) else (size, size)
    assert loaded(tmp_path / "d", image_size=size)[0].train.images.shape[2:] == expected
    assert loaded(tmp_path / "d")[0].test.images.shape[2:] == (48, 64)


def test_large_jpegs_are_decoded_small(monkeypatch: pytest.MonkeyPatch):
    buffer = BytesIO()
    Image.fromarray(np.zeros((800, 1200, 3), np.uint8)).save(buffer, "JPEG")
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(decoding, "fit", lambda image, size: seen.append(image.size) or image)
    open_image(buffer, 3, (32, 32))
    assert max(seen[0]) <= 150


def test_long_images_take_no_more_memory_than_short_ones():
    strip = Image.new("L", (20_000, 1), 7)
    assert np.asarray(decoding.fit(strip, (64, 64))).tolist() == [[7] * 64] * 64


def test_images_that_do_not_fit_into_memory_are_refused_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = make(tmp_path / "d", "a", "b")
    monkeypatch.setattr(decoding, "free_memory", lambda: 5000.0)
    with pytest.raises(DataError, match=r"20 images of 8x8 pixels need .* set an image size \(--image-size\) of 5"):
        load("folder", root)
    assert loaded(root, image_size=5)[1] == [14, 2, 4]


# The cache


def plain(root: Path, greys: dict[str, int]) -> Path:
    for name, grey in greys.items():
        for index in range(10):
            path = root / "train" / name / f"{index}.bmp"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (grey,) * 3).save(path)
            os.utime(path, (1.7e9, 1.7e9))
    return root


def means(root: Path) -> list[float]:
    found = loaded(root)[0].train
    return [float(found.images[found.labels == label].float().mean()) for label in (0, 1)]


def swap_folders(root: Path) -> None:
    for old, new in (("ant", "x"), ("bee", "ant"), ("x", "bee")):
        (root / "train" / old).rename(root / "train" / new)


def rewrite(root: Path) -> None:
    plain(root, {"ant": 255, "bee": 0})


def swap_files(root: Path) -> None:
    for index in range(10):
        one, other = (root / "train" / name / f"{index}.bmp" for name in ("ant", "bee"))
        one.rename(root / "kept"), other.rename(one), (root / "kept").rename(other)


def copy_over(root: Path) -> None:
    plain(root.parent / "new", {"ant": 255, "bee": 0})
    shutil.rmtree(root)
    shutil.copytree(root.parent / "new", root)


@pytest.mark.parametrize("change", [swap_folders, rewrite, swap_files, copy_over])
def test_content_of_equal_size_and_time_is_noticed(change: Callable[[Path], None], tmp_path: Path):
    root = plain(tmp_path / "d", {"ant": 0, "bee": 255})
    assert means(root) == [0, 255]
    change(root)
    assert means(root) == [255, 0]


def test_a_zip_with_equal_size_and_time_is_noticed(tmp_path: Path):
    def pack(greys: dict[str, int]) -> Path:
        with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
            for file in sorted(plain(tmp_path / "d", greys).rglob("*.bmp")):
                archive.writestr(zipfile.ZipInfo(str(file.relative_to(tmp_path / "d"))), file.read_bytes())
        os.utime(tmp_path / "d.zip", (1.7e9, 1.7e9))
        return tmp_path / "d.zip"

    assert means(pack({"ant": 0, "bee": 255})) == [0, 255]
    assert means(pack({"ant": 255, "bee": 0})) == [255, 0]


def test_a_changed_table_is_noticed(tmp_path: Path):
    root = make(tmp_path / "d", "train")
    rows = [f"train_{i}.png,{i % 2}" for i in range(10)]
    (root / "t.csv").write_text("\n".join(["file,label", *rows]))
    first = torch.bincount(loaded(root)[0].train.labels)
    (root / "t.csv").write_text("\n".join(["file,label", *(row[:-1] + str(int(i > 1)) for i, row in enumerate(rows))]))
    assert not torch.equal(torch.bincount(loaded(root)[0].train.labels), first)


@pytest.mark.parametrize("task, part", [(t, p) for t in ("segmentation", "detection") for p in ("train", "val")])
def test_a_part_without_any_label_is_told_when_it_is_read(task: str, part: str, tmp_path: Path):
    """Maps that are ignored all over, and images without boxes (or with a crowd alone)."""
    root = tmp_path / "data"
    if task == "segmentation":
        label_maps.write(root, {"train": 6, "val": 2, "test": 2})
        if part == "train":
            Image.new("L", (32, 24), 1).save(root / "labels" / "val" / "000.png")
        for path in (root / "labels" / part).iterdir():
            Image.new("L", (32, 24), 255).save(path)
        asked, noun = ("--ignore", "255", "--classes", "ground,box,disc"), "a pixel with a label"
    else:
        drawn_boxes.write_coco(root, {"train": 6, "val": 2, "test": 2}, crowds={0, 6})
        table = root / "annotations" / f"instances_{part}.json"
        content = json.loads(table.read_text())
        content["annotations"] = [one for one in content["annotations"] if one["iscrowd"]]
        table.write_text(json.dumps(content))
        asked, noun = (), "a box"
    model = {"segmentation": "segmenter_4", "detection": "fcos_small_4"}[task]
    code, _, errors = command("train", "--task", task, "--data", str(root), *asked, "--model", model, "--out",
                              str(tmp_path / "out"), "--epochs", "1")  # fmt: skip
    name = {"train": "train", "val": "validation"}[part]
    assert code == 2 and len(errors.strip().splitlines()) == 1, errors
    assert re.search(rf"none of the \d {name} images of .* has {noun}", errors), errors
