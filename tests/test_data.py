"""Data: layouts that are read, splits, the cache, and what is said when a path holds something else."""

import hashlib
import http.server
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kdzero_gp.data import cache, downloading, sources
from kdzero_gp.data.dataset import Dataset, Split, split_off, stratified_order
from kdzero_gp.data.decoding import fit
from kdzero_gp.errors import DataError
from loading import load

CLASSES_100 = [f"class_{index:03d}" for index in range(100)]
TRAIN_PER_CLASS, TEST_PER_CLASS = 3, 1


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(folder))
    return folder


def splits(dataset: Dataset) -> dict[str, Split]:
    return {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}


def assert_equal(one: Dataset, other: Dataset) -> None:
    assert (one.name, one.classes, one.mean, one.std) == (other.name, other.classes, other.mean, other.std)
    for name, split in splits(one).items():
        assert torch.equal(split.images, splits(other)[name].images), name
        assert torch.equal(split.labels, splits(other)[name].labels), name


def write_image(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_tree(
    root: Path, parts: dict[str, int], classes: list[str], size: tuple[int, int] = (6, 6), grey: bool = False
) -> Path:
    """An image tree with so many random images a class in each part; a part "" has no folder."""
    generator = np.random.default_rng(0)
    for part, count in parts.items():
        for name in classes:
            for index in range(count):
                shape = size if grey else (*size, 3)
                pixels = generator.integers(0, 256, shape, dtype=np.uint8)
                write_image(root / part / name / f"{name}_{index}.png", pixels)
    return root


def write_zip(tree: Path, path: Path, prefix: str = "", compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("__MACOSX/" + prefix + "train/ghost/1.png", b"no image")
        for file in sorted(tree.rglob("*.*"), reverse=True):
            archive.write(file, prefix + file.relative_to(tree).as_posix())
    return path


def write_cifar100(folder: Path) -> Path:
    """The official layout in small: random rows in random order, pickled as the original, keys as bytes."""
    generator = np.random.default_rng(1)
    folder.mkdir(parents=True)
    for part, count in (("train", TRAIN_PER_CLASS), ("test", TEST_PER_CLASS)):
        labels = generator.permutation(np.repeat(np.arange(100), count)).tolist()
        seen = [0] * 100
        names = []
        for label in labels:
            # Against the order of the rows, as the original names are.
            names.append(f"{CLASSES_100[label]}_s_{999 - seen[label]:06d}.png".encode())
            seen[label] += 1
        content = {
            b"data": generator.integers(0, 256, (len(labels), 3072), dtype=np.uint8),
            b"fine_labels": labels,
            b"coarse_labels": [0] * len(labels),
            b"filenames": names,
        }
        (folder / part).write_bytes(pickle.dumps(content, protocol=4))
    names_of_classes = {b"fine_label_names": [name.encode() for name in CLASSES_100]}
    (folder / "meta").write_bytes(pickle.dumps(names_of_classes, protocol=4))
    return folder


def tree_of_archive(folder: Path, root: Path) -> Path:
    for part in ("train", "test"):
        content = pickle.loads((folder / part).read_bytes())
        for row, label, name in zip(content[b"data"], content[b"fine_labels"], content[b"filenames"], strict=True):
            pixels = row.reshape(3, 32, 32).transpose(1, 2, 0)
            write_image(root / part / CLASSES_100[label] / name.decode(), pixels)
    return root


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One small CIFAR-100 in every layout."""
    root = tmp_path_factory.mktemp("cifar")
    official = write_cifar100(root / "official" / "cifar-100-python")
    tree = tree_of_archive(official, root / "tree")
    packed = root / "cifar-100-python.tar.gz"
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(official, "cifar-100-python")
    wrapped = root / "wrapped"
    shutil.copytree(tree, wrapped / "cifar100")
    return {
        "folder": official,
        "parent": official.parent,
        "tar": packed,
        "tree": tree,
        "wrapped": wrapped,
        "zip": write_zip(tree, root / "tree.zip"),
        "wrapped zip": write_zip(tree, root / "wrapped.zip", "cifar100/", zipfile.ZIP_DEFLATED),
    }


# Splits


def test_every_prefix_of_the_order_is_stratified():
    labels = np.array([0] * 60 + [1] * 30 + [2] * 10)
    order = stratified_order(labels, seed=0)
    assert sorted(order) == list(range(100))
    for length in range(1, 101):
        counts = np.bincount(labels[order[:length]], minlength=3)
        assert np.abs(counts - length * np.array([0.6, 0.3, 0.1])).max() <= 1.0


def test_the_order_depends_on_the_seed_alone():
    labels = np.arange(40) % 4
    assert (stratified_order(labels, 0) == stratified_order(labels, 0)).all()
    assert (stratified_order(labels, 0) != stratified_order(labels, 1)).any()
    # Written down: it has to be the same on every machine and for every version of Python and numpy.
    assert stratified_order(np.arange(8) % 2, 0).tolist() == [3, 2, 7, 4, 5, 6, 1, 0]


def test_splitting_off_takes_each_image_once():
    labels = np.arange(50) % 5
    chosen, rest = split_off(labels, 20, seed=3)
    assert sorted([*chosen, *rest]) == list(range(50))
    assert np.bincount(labels[chosen]).tolist() == [4] * 5


# Digits


def test_digits_are_split_by_class_without_overlap():
    dataset = load("digits")
    assert [len(split) for split in splits(dataset).values()] == [600, 598, 599]
    assert dataset.classes == tuple("0123456789")
    everything = torch.cat([split.images for split in splits(dataset).values()])
    assert (everything.shape, everything.dtype) == ((1797, 1, 8, 8), torch.uint8)
    assert (everything.min(), everything.max()) == (0, 255)
    total = torch.bincount(torch.cat([split.labels for split in splits(dataset).values()]))
    for split in splits(dataset).values():
        counts = torch.bincount(split.labels)
        assert ((counts - total * len(split) / 1797).abs() <= 1.5).all()
    from sklearn.datasets import load_digits

    ours = sorted(image.tobytes() for image in everything.numpy())
    original = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)
    assert ours == sorted(image.tobytes() for image in original)


def test_normalised_digits_have_mean_zero_and_deviation_one():
    dataset = load("digits")
    images = dataset.normalise(dataset.train.images)
    assert images.dtype == torch.float32
    torch.testing.assert_close(images.mean(), torch.tensor(0.0), atol=1e-4, rtol=0)
    torch.testing.assert_close(images.std(), torch.tensor(1.0), atol=1e-3, rtol=0)
    assert dataset.train.images.dtype == torch.uint8


def test_normalising_acts_on_each_channel():
    nothing = Split(torch.zeros(0, 2, 1, 1, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))
    dataset = Dataset("x", ("a", "b"), nothing, nothing, nothing, (0.5, 0.2), (0.5, 0.1))
    images = torch.tensor([255, 51], dtype=torch.uint8).view(1, 2, 1, 1)
    torch.testing.assert_close(dataset.normalise(images).flatten(), torch.tensor([1.0, 0.0]), atol=1e-6, rtol=0)


# CIFAR


@pytest.mark.parametrize("layout", ["parent", "tar", "tree", "wrapped", "zip", "wrapped zip"])
def test_every_layout_of_cifar_gives_the_same_tensors(layout: str, cifar: dict[str, Path]):
    assert_equal(load("cifar100", cifar[layout]), load("cifar100", cifar["folder"]))


def test_cifar_is_split_by_class_and_keeps_its_test_images(cifar: dict[str, Path]):
    dataset = load("cifar100", str(cifar["folder"]))
    assert [len(split) for split in splits(dataset).values()] == [270, 30, 100]
    assert dataset.classes == tuple(CLASSES_100)
    assert dataset.mean == (0.5071, 0.4867, 0.4408)
    assert dataset.std == (0.2675, 0.2565, 0.2761)
    assert torch.bincount(dataset.validation.labels).max() == 1
    for part, expected in (("train", ("train", "validation")), ("test", ("test",))):
        content = pickle.loads((cifar["folder"] / part).read_bytes())
        pairs = {(row.tobytes(), label) for row, label in zip(content[b"data"], content[b"fine_labels"], strict=True)}
        ours = [
            (image.numpy().tobytes(), int(label))
            for name in expected
            for image, label in zip(splits(dataset)[name].images, splits(dataset)[name].labels, strict=True)
        ]
        assert len(ours) == len(set(ours)) == len(pairs)
        assert set(ours) == pairs


def test_the_seed_decides_the_validation_split_and_nothing_else(cifar: dict[str, Path]):
    one, other = (sources.cifar100(cifar["tree"], seed) for seed in (0, 1))
    assert not torch.equal(one.validation.images, other.validation.images)
    tests = [{image.numpy().tobytes() for image in dataset.test.images} for dataset in (one, other)]
    assert tests[0] == tests[1]


def test_cifar10_batches_are_read_in_all(tmp_path: Path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for index, file in enumerate([*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]):
        content = {"data": np.full((10, 3072), index, np.uint8), "labels": list(range(10))}
        (folder / file).write_bytes(pickle.dumps(content, protocol=4))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    dataset = load("cifar10", tmp_path)
    assert [len(split) for split in splits(dataset).values()] == [45, 5, 10]
    seen = torch.cat([dataset.train.images, dataset.validation.images])[:, 0, 0, 0]
    assert torch.bincount(seen).tolist() == [10] * 5
    assert (dataset.test.images == 5).all()
    assert dataset.mean == (0.4914, 0.4822, 0.4465)


def test_unpickling_runs_no_code(tmp_path: Path):
    folder = write_cifar100(tmp_path / "cifar-100-python")

    class Hostile:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "was_here"),)

    (folder / "train").write_bytes(pickle.dumps({"data": Hostile()}))
    with pytest.raises(DataError, match=r"file train .*asks for (posix|nt)\.mkdir"):
        load("cifar100", folder)
    assert not (tmp_path / "was_here").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "train").write_bytes(b"nonsense"), "file train .* cannot be read"),
        (lambda folder: (folder / "test").unlink(), "has no file 'test'"),
        (lambda folder: (folder / "test").write_bytes(pickle.dumps({b"data": 3})), "file test .* is damaged"),
        (lambda folder: (folder / "meta").write_bytes(pickle.dumps({})), "is damaged|holds 0 classes"),
    ],
)
def test_a_damaged_archive_is_named(damage: Callable[[Path], object], message: str, tmp_path: Path):
    folder = write_cifar100(tmp_path / "cifar-100-python")
    damage(folder)
    with pytest.raises(DataError, match=message):
        load("cifar100", tmp_path)


def test_another_or_cut_archive_is_refused(cifar: dict[str, Path], tmp_path: Path):
    with pytest.raises(DataError, match="has no cifar-10-batches-py/data_batch_1"):
        load("cifar10", cifar["tar"])
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(cifar["tar"].read_bytes()[:50_000])
    with pytest.raises(DataError, match=r"cut\.tar\.gz cannot be read"):
        load("cifar100", cut)


def test_a_tree_of_another_data_set_is_refused_as_cifar(tmp_path: Path):
    write_tree(tmp_path / "data", {"train": 2, "test": 1}, ["a", "b"])
    with pytest.raises(DataError, match=r"holds 2 classes and cifar100 has 100.*--task folder"):
        load("cifar100", tmp_path / "data")


# Image folders


def test_a_folder_and_its_zip_give_the_same_tensors(tmp_path: Path):
    tree = write_tree(tmp_path / "pets", {"train": 10, "val": 3}, ["dog", "cat"])
    packed = write_zip(tree, tmp_path / "pets.zip", "anything/")
    dataset = load("folder", tree)
    assert_equal(dataset, load("folder", packed))
    assert dataset.classes == ("cat", "dog")
    assert dataset.name == "pets"
    assert [len(split) for split in splits(dataset).values()] == [18, 2, 6]
    images = dataset.normalise(dataset.train.images)
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(images.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)


def test_images_keep_their_labels(tmp_path: Path):
    for part in ("train", "test"):
        for value, name in enumerate(["a", "b", "c"]):
            for index in range(4):
                write_image(tmp_path / "data" / part / name / f"{index}.png", np.full((4, 4, 3), value, np.uint8))
    for split in splits(load("folder", tmp_path / "data")).values():
        assert torch.equal(split.images[:, 0, 0, 0].long(), split.labels)


def test_three_parts_are_three_splits_and_classes_may_have_folders_inside(tmp_path: Path):
    write_tree(tmp_path / "data", {"train": 4, "test": 2, "val": 3}, ["a", "b"])
    shutil.move(tmp_path / "data/train/a/a_0.png", tmp_path / "data/train/a/deep.png")
    (tmp_path / "data/train/a/images").mkdir()
    shutil.move(tmp_path / "data/train/a/deep.png", tmp_path / "data/train/a/images/deep.png")
    assert [len(split) for split in splits(load("folder", tmp_path / "data")).values()] == [8, 6, 4]


@pytest.mark.parametrize("parts", [{"train": 10}, {"": 10}])
def test_without_a_test_part_a_fifth_becomes_the_test_split(parts: dict[str, int], tmp_path: Path):
    tree = write_tree(tmp_path / "data", parts, ["a", "b", "c"])
    dataset = load("folder", tree)
    assert [len(split) for split in splits(dataset).values()] == [22, 2, 6]
    assert torch.bincount(dataset.test.labels).tolist() == [2, 2, 2]
    everything = [image.numpy().tobytes() for split in splits(dataset).values() for image in split.images]
    assert len(set(everything)) == 30
    shutil.copytree(tree, tmp_path / "outer" / "data")
    assert torch.equal(load("folder", tmp_path / "outer").test.images, dataset.test.images)


def test_grey_images_have_one_channel_and_mixed_ones_three(tmp_path: Path):
    tree = write_tree(tmp_path / "data", {"train": 4, "test": 1}, ["a", "b"], grey=True)
    assert load("folder", tree).train.images.shape[1:] == (1, 6, 6)
    write_image(tree / "train/a/colour.png", np.zeros((6, 6, 3), np.uint8))
    assert load("folder", tree).train.images.shape[1:] == (3, 6, 6)


def test_images_of_other_sizes_are_brought_to_the_most_common_one(tmp_path: Path):
    tree = write_tree(tmp_path / "data", {"train": 4, "test": 1}, ["a", "b"], size=(5, 7))
    write_image(tree / "train/a/large.png", np.zeros((50, 50, 3), np.uint8))
    write_image(tree / "test/a/small.png", np.zeros((2, 3, 3), np.uint8))
    assert load("folder", tree).train.images.shape[1:] == (3, 5, 7)
    assert load("folder", tree).test.images.shape[1:] == (3, 5, 7)
    assert load("folder", tree, image_size=4).test.images.shape[1:] == (3, 4, 4)


def test_resizing_covers_the_size_and_crops_the_centre():
    pixels = np.zeros((4, 12, 3), np.uint8)
    pixels[:, 4:8] = 200
    assert (np.asarray(fit(Image.fromarray(pixels), (4, 4))) == 200).all()
    assert fit(Image.fromarray(pixels), (8, 8)).size == (8, 8)
    assert fit(Image.fromarray(pixels), (9, 5)).size == (5, 9)


def test_a_damaged_image_is_named(tmp_path: Path):
    tree = write_tree(tmp_path / "data", {"train": 4, "test": 1}, ["a", "b"])
    (tree / "train/b/broken.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"cannot be decoded: train/b/broken\.png \(no image"):
        load("folder", tree)


def test_layouts_that_are_none_get_the_reason(tmp_path: Path):
    def refused(path: Path, message: str) -> None:
        with pytest.raises(DataError, match=message):
            load("folder", path)

    empty = tmp_path / "empty"
    empty.mkdir()
    refused(empty, "training images of 0 classes .* --data")
    refused(write_tree(tmp_path / "one", {"train": 4}, ["a"]), "training images of 1 classes")
    refused(write_tree(tmp_path / "untrained", {"test": 4}, ["a", "b"]), "no folder 'train'")
    twice = write_tree(tmp_path / "twice" / "x", {"train": 1}, ["a", "b"]).parent
    write_tree(twice / "y", {"train": 1}, ["a", "b"])
    refused(twice, r"several data sets \(x, y\)")
    foreign = write_tree(tmp_path / "foreign", {"train": 4, "test": 1}, ["a", "b"])
    write_tree(foreign, {"test": 1}, ["z"])
    refused(foreign, "class 'z' .* no training images")
    refused(write_tree(tmp_path / "few", {"train": 1, "test": 1}, ["a", "b"]), "2 training images")
    text = tmp_path / "notes.txt"
    text.write_text("no images")
    refused(text, "neither a folder nor a zip")
    refused(tmp_path / "missing", "does not exist; .*--data")


# The front door


def test_wrong_requests_get_one_sentence_with_the_remedy(tmp_path: Path):
    for arguments, message in [
        (("cifar1000",), "no task 'cifar1000': did you mean cifar100"),
        (("zzz",), "there are digits, cifar10, cifar100, folder"),
        (("folder",), "needs data: give with --data"),
        (("cifar100",), "--data the archive cifar-100-python.tar.gz"),
        (("cifar10",), "--data the archive cifar-10-python.tar.gz"),
        (("digits", tmp_path), "takes no --data; .*--task"),
        (("cifar100", tmp_path / "missing.zip"), r"missing\.zip does not exist; .*--data"),
    ]:
        with pytest.raises(DataError, match=message):
            load(*arguments)
    with pytest.raises(DataError, match="image size of 0"):
        sources.folder(tmp_path, (0, 0))


@pytest.fixture
def served(cifar: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A server of this machine in place of the official one; what it was asked for."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any):
            super().__init__(*arguments, directory=str(cifar["tar"].parent))

        def log_message(self, *arguments: object) -> None:
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(downloading, "ADDRESS", f"http://127.0.0.1:{server.server_port}/")
    yield asked
    server.shutdown()
    server.server_close()


def test_a_download_is_checked_and_kept(
    cifar: dict[str, Path], served: list[str], cache_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(DataError, match=r"gave a file with the MD5 [0-9a-f]{32} in place of .*--data"):
        load("cifar100", "download")
    assert list((cache_folder / "downloads").iterdir()) == []
    md5 = hashlib.md5(cifar["tar"].read_bytes()).hexdigest()
    monkeypatch.setitem(
        downloading.DOWNLOADS, "cifar100", replace(downloading.DOWNLOADS["cifar100"], md5=md5)
    )  # fmt: skip
    assert_equal(load("cifar100", "download"), load("cifar100", cifar["folder"]))
    assert (cache_folder / "downloads" / "cifar-100-python.tar.gz").read_bytes() == cifar["tar"].read_bytes()
    asked = len(served)
    load("cifar100", "download")
    assert len(served) == asked
    with pytest.raises(DataError, match=r"cifar-10-python.tar.gz cannot be downloaded \(.*--data"):
        load("cifar10", "download")


def test_the_archives_are_those_that_torchvision_knows():
    datasets = pytest.importorskip("torchvision.datasets")
    for name, known in (("cifar10", datasets.CIFAR10), ("cifar100", datasets.CIFAR100)):
        wanted = downloading.DOWNLOADS[name]
        assert (downloading.ADDRESS + wanted.file, wanted.md5) == (known.url, known.tgz_md5)


def test_without_a_network_one_sentence_says_what_to_do(cache_folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(downloading, "ADDRESS", "http://127.0.0.1:9/")
    with pytest.raises(DataError, match=r"cannot be downloaded \(.*refused.*\); get the archive .*--data"):
        load("cifar10", "download")


def test_importing_the_tasks_needs_neither_scikit_learn_nor_pillow_nor_torchvision():
    late = {"sklearn", "PIL", "torchvision"}
    code = f"import sys, kdzero_gp.data, kdzero_gp.models; print({late} & sys.modules.keys())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


# The cache


def no_decoding(*arguments: object, **settings: object) -> None:
    raise AssertionError("decoded again")


def test_a_second_start_reads_the_cache(cifar: dict[str, Path], cache_folder: Path, monkeypatch: pytest.MonkeyPatch):
    first = load("cifar100", cifar["zip"])
    assert len(list(cache_folder.glob("*.safetensors"))) == 1
    monkeypatch.setattr(sources, "assemble", no_decoding)
    assert_equal(load("cifar100", cifar["zip"]), first)
    with pytest.raises(AssertionError, match="decoded again"):
        sources.cifar100(cifar["zip"], 1)


@pytest.mark.parametrize("change", ["touch", "add", "remove"])
def test_changed_files_are_decoded_again(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tree = write_tree(tmp_path / "data", {"train": 4, "test": 1}, ["a", "b"])
    load("folder", tree)
    monkeypatch.setattr(sources, "assemble", no_decoding)
    load("folder", tree)
    file = tree / "train/a/a_0.png"
    if change == "touch":
        os.utime(file, ns=(1, 1))
    elif change == "add":
        shutil.copy2(file, tree / "train/a/new.png")
    else:
        file.unlink()
    with pytest.raises(AssertionError, match="decoded again"):
        load("folder", tree)


def test_a_changed_zip_is_decoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    packed = write_zip(write_tree(tmp_path / "data", {"train": 4}, ["a", "b"]), tmp_path / "data.zip")
    load("folder", packed)
    monkeypatch.setattr(sources, "assemble", no_decoding)
    load("folder", packed)
    os.utime(packed, ns=(1, 1))
    with pytest.raises(AssertionError, match="decoded again"):
        load("folder", packed)


def test_another_image_size_is_another_entry(tmp_path: Path):
    tree = write_tree(tmp_path / "data", {"train": 4, "test": 1}, ["a", "b"])
    assert load("folder", tree, image_size=3).train.images.shape[-1] == 3
    assert load("folder", tree, image_size=5).train.images.shape[-1] == 5
    assert load("folder", tree, image_size=3).train.images.shape[-1] == 3


@pytest.mark.parametrize("damage", ["empty", "half", "header", "pixels", "folder"])
def test_a_damaged_cache_is_built_again_silently(damage: str, cache_folder: Path):
    first = load("digits")
    first = Dataset(
        first.name,
        first.classes,
        *(Split(split.images.clone(), split.labels.clone()) for split in splits(first).values()),
        first.mean,
        first.std,
    )
    (file,) = cache_folder.glob("*.safetensors")
    content = bytearray(file.read_bytes())
    file.unlink()
    if damage == "folder":
        file.mkdir()  # Nothing can be put in its place, so this one is worth a warning.
        with pytest.warns(UserWarning, match="cannot be written"):
            assert_equal(load("digits"), first)
        return
    if damage == "header":
        content[:16] = b"\xff" * 16
    if damage == "pixels":
        content[len(content) // 2] ^= 1
    file.write_bytes({"empty": b"", "half": bytes(content[: len(content) // 2])}.get(damage, bytes(content)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_equal(load("digits"), first)
        assert file.stat().st_size == len(content)
        assert_equal(load("digits"), first)


def test_an_unwritable_cache_warns_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    expected = load("digits")
    (tmp_path / "file").touch()
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="cannot be written .*set KDZERO_CACHE to a folder"):
        assert_equal(load("digits"), expected)


def test_a_full_disk_warns_and_leaves_nothing_behind(cache_folder: Path, monkeypatch: pytest.MonkeyPatch):
    def full(tensors: object, path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "save_file", full)
    with pytest.warns(UserWarning, match="No space left"):
        assert len(load("digits").train) == 600
    assert list(cache_folder.iterdir()) == []


def test_files_left_by_killed_processes_are_removed_in_time(cache_folder: Path):
    cache_folder.mkdir()
    for name, age in (("old.1-1.tmp", 1), ("new.2-2.tmp", None)):
        (cache_folder / name).touch()
        if age:
            os.utime(cache_folder / name, (age, age))
    load("digits")
    assert sorted(file.suffix for file in cache_folder.iterdir()) == [".json", ".safetensors", ".tmp"]
    assert (cache_folder / "new.2-2.tmp").exists()


def test_several_threads_may_fill_the_cache_at_once(cifar: dict[str, Path]):
    loaded: list[Dataset] = []
    threads = [threading.Thread(target=lambda: loaded.append(load("cifar100", cifar["zip"]))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loaded) == 4
    for dataset in loaded[1:]:
        assert_equal(dataset, loaded[0])


def test_writing_to_a_loaded_tensor_does_not_reach_the_cache():
    first = load("digits")
    first.train.images.zero_()
    assert load("digits").train.images.any()


def test_the_cache_folder_is_the_named_one_or_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert cache.cache_folder() == tmp_path / "cache"
    monkeypatch.delenv(cache.CACHE_VARIABLE)
    assert cache.cache_folder().name == "kdzero-gp"


# Real data


@pytest.mark.skipif("KDZERO_DATA" not in os.environ, reason="KDZERO_DATA names no folder with the real data")
def test_the_real_teacher_has_its_published_accuracy(monkeypatch: pytest.MonkeyPatch):
    from kdzero_gp import models
    from kdzero_gp.models.weights import load_weights

    monkeypatch.delenv(cache.CACHE_VARIABLE)  # The usual cache, so that only the first run decodes.
    data = Path(os.environ["KDZERO_DATA"])
    dataset = load("cifar100", data / "cifar100.zip")
    assert [len(split) for split in splits(dataset).values()] == [45_000, 5_000, 10_000]
    assert (torch.bincount(dataset.validation.labels) == 50).all()
    teacher = models.build("resnet56", classes=100).eval()
    load_weights(teacher, data / "resnet56_cifar100.safetensors")
    images, labels = dataset.test.images[:1000], dataset.test.labels[:1000]
    with torch.no_grad():
        correct = sum(
            int((teacher(dataset.normalise(batch)).argmax(1) == truth).sum())
            for batch, truth in zip(images.split(100), labels.split(100), strict=True)
        )
    assert abs(correct / 10 - 69.73) < 4.0
