"""Teachers, sizes and folders as people have them: checked, mended and told, or refused in one sentence."""

import dataclasses
import io
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from kdzero_gp import models, training
from kdzero_gp.cli import main
from kdzero_gp.cli.search import _conclusion
from kdzero_gp.data.resizing import parse_size, resized
from kdzero_gp.engine.checks import Answers, check_teacher
from kdzero_gp.engine.machine import Machine
from kdzero_gp.engine.networks import mended, network_channels, taught
from kdzero_gp.engine.recipe import load_recipe
from kdzero_gp.errors import KdzeroError, ModelError, RunError, SettingError
from kdzero_gp.families.classification import CLASSIFICATION
from kdzero_gp.models.contract import InputContract, read_contract
from kdzero_gp.models.reordering import reordering
from kdzero_gp.models.weights import save_weights
from kdzero_gp.progress import Progress
from kdzero_gp.search.options import evolve_command, settings_from
from kdzero_gp.search.prepare import open_data
from kdzero_gp.search.race import Competitor, RaceResult
from kdzero_gp.search.run import RunResult
from kdzero_gp.search.settings import RunSettings
from kdzero_gp.training import folder as files
from kdzero_gp.training.api import Pair
from kdzero_gp.training.opening import open_batches, open_for

ONE = Machine(threads=1)
CPU = torch.device("cpu")
TINY = {"epochs": 1, "batch_size": 64}


class Notes(Progress):
    """Keeps what is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a teacher of the digits that was trained on them as RGB."""
    out = tmp_path_factory.mktemp("teacher") / "out"
    training.train("digits", "digits_cnn_8", out=out, changes={"epochs": 6}, channels=3, machine=ONE)
    return out / "network.safetensors"


# Kind 3: a teacher is checked like a colleague

COUNTED = tuple(str(n) for n in range(12))
NUMBERED = tuple(sorted(COUNTED))


def answers(order: list[int], classes: int, right: float, count: int = 600) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and what a teacher answers whose output i stands for class ``order[i]`` and that is so often right."""
    generator = np.random.default_rng(0)
    labels = np.arange(count) % classes
    meant = np.where(generator.random(count) < right, labels, generator.integers(0, classes, count))
    return np.argsort(order)[meant], labels


def by_name(names: tuple[str, ...], asked: list[str]) -> list[int]:
    return [names.index(name) for name in asked]


CASES = ("Bee", "Dog", "ant", "cat")


@pytest.mark.parametrize(
    ("names", "order", "right", "words", "kind"),
    [
        (("cat", "dog"), [1, 0], 1.0, "cat and dog changed places", "swapped"),
        (("cat", "dog"), [1, 0], 0.4, "cat and dog changed places", "swapped"),
        (NUMBERED, by_name(NUMBERED, list(COUNTED)), 0.9, "ordered by number", "ordered otherwise"),
        (tuple(map(str, range(12))), by_name(tuple(map(str, range(12))), list(NUMBERED)), 0.5, "10 before 2", "order"),
        (
            tuple(sorted(CASES)),
            by_name(tuple(sorted(CASES)), sorted(CASES, key=str.lower)),
            0.8,
            "upper and low",
            "ord",
        ),
        (("a", "b", "c", "d"), [3, 2, 1, 0], 0.9, "backwards", "ordered otherwise"),
        (("a", "b", "c", "d", "e"), [0, 3, 2, 1, 4], 0.9, "b and d changed places", "swapped"),
        (("a", "b", "c", "d", "e"), [2, 0, 1, 4, 3], 0.7, "a means c, b means a, c means b", "ordered otherwise"),
    ],
)
def test_another_order_of_classes_is_named(
    names: tuple[str, ...], order: list[int], right: float, words: str, kind: str
):
    found = reordering(*answers(order, len(names), right), names)
    assert found is not None and found.order == tuple(order)
    assert words in found.words and kind in found.kind
    assert found.accuracy == pytest.approx(right + (1 - right) / len(names), abs=0.06)
    assert json.loads(found.example)["classes"][:2] == [names[order[0]], names[order[1]]]


@pytest.mark.parametrize(
    ("classes", "right", "count"),
    [
        (2, 0.1, 40),
        (2, 0, 200),
        (3, 0.2, 30),
        (10, 0, 50),
        (10, 0.15, 600),
        (100, 0, 1000),
        (100, 0.6, 1000),
        (5, 1, 7),
    ],
)
def test_honest_weak_and_guessing_teachers_have_no_other_order(classes: int, right: float, count: int):
    names = tuple(f"c{n}" for n in range(classes))
    assert reordering(*answers(list(range(classes)), classes, right, count), names) is None


def checked(logits: torch.Tensor, labels: torch.Tensor, weights: str | None = "w.pt") -> list[str]:
    """What is told of a teacher with these outputs. Raises ModelError."""
    seen, notes = Answers(CLASSIFICATION), Notes()
    measures = CLASSIFICATION.measure(seen.of([({"logits": logits}, labels)]))
    classes = tuple(f"c{n}" for n in range(logits.shape[1]))
    check_teacher(CLASSIFICATION, {"validation": (measures, seen)}, classes, "net", notes, weights)
    return notes.told


def said(labels: torch.Tensor, classes: int, right: float, sure: float) -> torch.Tensor:
    """Logits of a teacher that is so often right and as sure as its logits are large."""
    generator = torch.Generator().manual_seed(0)
    guess = torch.randint(classes, labels.shape, generator=generator)
    answer = torch.where(torch.rand(labels.shape, generator=generator) < right, labels, guess)
    return sure * nn.functional.one_hot(answer, classes).float()


BALANCED = {classes: torch.arange(400) % classes for classes in (2, 3, 10)}
RARE = (torch.arange(400) % 20 == 0).long()


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize(("right", "warned"), [(0.9, False), (0.5, False), (0.2, None)])
def test_the_accuracy_is_told_and_an_honest_weak_teacher_teaches(classes: int, right: float, warned: bool | None):
    told = checked(said(BALANCED[classes], classes, right, 2.0 if right > 0.4 else 0.4), BALANCED[classes])
    assert told[0].startswith("teacher net: accuracy ") and told[0].endswith("% on validation images")
    if warned is not None:
        assert len(told) == 1


def test_a_teacher_at_the_majority_teaches_with_a_warning():
    hints = torch.stack([torch.full((400,), 3.0), RARE.float() * 2.5], 1)
    told = checked(hints, RARE)
    assert "warning: the teacher's accuracy is 95.00 %, no better than naming one class always" in told[1]


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (said(BALANCED[2], 2, 0.0, 5.0), BALANCED[2], "near guessing"),
        (said(BALANCED[3], 3, 0.0, 5.0), BALANCED[3], "near guessing"),
        (torch.zeros(400, 10), BALANCED[10], "near guessing"),
        (said(BALANCED[2], 2, 1.0, 5.0).flip(1), BALANCED[2],
         r'is 0\.00 % and would be 100\.00 % if c0 and c1 changed places; its labels look swapped: write its order of '
         r'classes to w\.pt\.json as \{"classes": \["c1", "c0"\]\}'),
        (torch.where(BALANCED[3][:, None] == 1, torch.nan, said(BALANCED[3], 3, 1.0, 5.0)), BALANCED[3], "not finite"),
        (said(BALANCED[3], 3, 1.0, torch.inf), BALANCED[3], "not finite"),
        (said(RARE, 2, 0.0, 5.0), RARE, "near guessing"),
    ],
)  # fmt: skip
def test_a_teacher_that_would_do_harm_is_refused(logits: torch.Tensor, labels: torch.Tensor, message: str):
    with pytest.raises(ModelError, match=message):
        checked(logits, labels)


def test_without_weights_the_remedy_is_no_file():
    with pytest.raises(ModelError, match="give the weights that were trained on these"):
        checked(said(BALANCED[2], 2, 1.0, 5.0).flip(1), BALANCED[2], None)


# Kind 4: the input contract travels with weights

SEEN = InputContract(3, (12, 12), (0.2, 0.3, 0.4), (0.5, 0.2, 0.1), ("a", "b", "c"))
OWN = {
    "statistics": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
    "one number for all": {"mean": (0.5,), "std": (0.25,)},
    "none at all": {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)},
    "order": {"classes": ("c", "a", "b")},
    "size": {"size": (8, 8)},
    "proportions": {"size": (8, 12)},
    "grey": {"channels": 1, "mean": (0.4,), "std": (0.3,)},
    "grey, statistics unknown": {"channels": 1},
    "everything": {"channels": 1, "mean": (0.1,), "std": (0.3,), "size": (6, 6), "classes": ("b", "c", "a")},
}


def normalised(raw: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    return (raw - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)


def as_wanted(raw: torch.Tensor, own: InputContract) -> torch.Tensor:
    """Raw RGB images in [0, 1] as a network expects them, written independently of the conversion."""
    if own.channels == 1:
        red, green, blue = raw.unbind(1)
        raw = (0.299 * red + 0.587 * green + 0.114 * blue)[:, None]
        if not own.mean:
            kept = normalised(torch.ones(1, 3, 1, 1), SEEN.mean, SEEN.std)
            assert kept.shape[1] == 3
    return resized(normalised(raw, own.mean or SEEN.mean, own.std or SEEN.std), own.size or SEEN.size)


@pytest.mark.parametrize("name", [name for name in OWN if name != "grey, statistics unknown"])
def test_a_teacher_sees_what_it_was_trained_on(name: str):
    own = InputContract(**OWN[name])
    raw = torch.rand(5, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    images = normalised(raw, SEEN.mean, SEEN.std)
    torch.manual_seed(0)
    network = taught(CLASSIFICATION, "digits_cnn_4", SEEN, own, images).eval()
    expected = network.network(as_wanted(raw, own))
    columns = [(own.classes or SEEN.classes).index(label) for label in SEEN.classes]
    torch.testing.assert_close(network(images)["logits"], expected[:, columns], atol=1e-4, rtol=1e-4)
    assert len(mended(network)) == len(OWN[name].keys() & {"channels", "size", "mean", "classes"})


@pytest.mark.parametrize("own", [None, InputContract(), SEEN, InputContract(mean=SEEN.mean, std=SEEN.std)])
def test_what_agrees_is_left_as_it_is(own: InputContract | None):
    network = taught(CLASSIFICATION, "digits_cnn_4", SEEN, own, torch.zeros(2, 3, 12, 12))
    assert type(network).__name__ == "Tapped" and mended(network) == []


def test_what_cannot_be_mended_is_told_or_refused():
    example = torch.zeros(2, 3, 12, 12)
    other = taught(CLASSIFICATION, "digits_cnn_4", SEEN, InputContract(classes=("a", "x", "c")), example)
    assert mended(other) == ["its classes have other names (x); their order is trusted"]
    with pytest.raises(ModelError, match="images of 4 channels and these have 3"):
        taught(CLASSIFICATION, "digits_cnn_4", SEEN, InputContract(channels=4), example)
    grey = taught(CLASSIFICATION, "digits_cnn_4", SEEN, InputContract(**OWN["grey, statistics unknown"]), example)
    assert grey.network.stage1[0].in_channels == 1


def test_a_contract_is_read_from_weights_or_a_file_beside_them(tmp_path: Path):
    network = models.build("digits_cnn_2", 3, 3)
    save_weights(network, tmp_path / "w.safetensors", SEEN)
    assert read_contract(tmp_path / "w.safetensors") == SEEN
    torch.save(network.state_dict(), tmp_path / "w.pt")
    assert read_contract(tmp_path / "w.pt") is None and read_contract(None) is None
    (tmp_path / "w.pt.json").write_text(json.dumps({"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}))
    assert read_contract(tmp_path / "w.pt") == InputContract(3, None, (0.5,) * 3, (0.5,) * 3)
    assert read_contract(f"{tmp_path / 'w.pt'}#ema") == read_contract(tmp_path / "w.pt")
    save_file(dict(network.state_dict()), tmp_path / "w.safetensors")
    assert read_contract(tmp_path / "w.safetensors") is None


@pytest.mark.parametrize(
    "text",
    ["[]", "{", '{"norm": 1}', '{"mean": [1, 2, 3]}', '{"mean": [0], "std": [0]}', '{"size": [3]}', '{"mean": "x"}',
     '{"channels": 1, "mean": [1, 2, 3], "std": [1, 1, 1]}'],
)  # fmt: skip
def test_a_contract_that_is_none_is_refused(text: str, tmp_path: Path):
    (tmp_path / "w.pt.json").write_text(text)
    (tmp_path / "w.pt").write_bytes(b"")
    with pytest.raises(ModelError, match=r"w\.pt\.json"):
        read_contract(tmp_path / "w.pt")


def test_own_weights_teach_as_well_as_they_were_trained(teacher: Path, tmp_path: Path):
    contract = read_contract(teacher)
    assert contract is not None and (contract.channels, contract.size, len(contract.classes)) == (3, (8, 8), 10)
    own = json.loads((teacher.parent / "result.json").read_text())["validation"]["accuracy"]
    pair, notes = Pair("digits", "digits_cnn_2", "digits_cnn_8", str(teacher), changes=TINY), Notes()
    result = training.distill(pair, "zoo:kd", out=tmp_path / "grey", machine=ONE, progress=notes)
    assert "teacher digits_cnn_8: grey images are given to it as RGB" in notes.told
    assert result.teacher["accuracy"] == pytest.approx(own)
    deviation = tuple(2 * value for value in contract.std)
    other = dataclasses.replace(contract, classes=tuple(reversed(contract.classes)), std=deviation)
    weights = {
        key: (value.flip(0) if key.startswith("fc.") else value).contiguous()
        for key, value in load_file(teacher).items()
    }
    weights["stage1.0.weight"] = weights["stage1.0.weight"] * 2  # of numbers half as large
    save_file(weights, tmp_path / "other.safetensors", other.as_metadata())
    notes = Notes()
    pair = dataclasses.replace(pair, teacher_weights=str(tmp_path / "other.safetensors"))
    result = training.distill(pair, "zoo:kd", out=tmp_path / "other", machine=ONE, progress=notes)
    assert any("its own mean" in told and "are used, not those of these images" in told for told in notes.told)
    assert any("classes are in another order" in told for told in notes.told)
    assert result.teacher["accuracy"] == pytest.approx(own)


# Kind 6: size and channels in every command


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Grey images of 12 rows and 16 columns, dark and bright, in a folder where the user works."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDZERO_CACHE", str(tmp_path / "cache"))
    generator = np.random.default_rng(0)
    for label, dark in (("dark", 0), ("light", 120)):
        for index in range(30):
            path = tmp_path / "d" / label / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((generator.integers(0, 99, (12, 16)) + dark).astype(np.uint8)).save(path)
    (tmp_path / "rgb.py").write_text(
        "from torch import nn\ndef net(num_classes):\n    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), "
        "nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))\n"
    )
    yield tmp_path / "d"
    sys.modules.pop("rgb", None)


def test_sizes_are_read_and_refused():
    texts = ("32", "48x64", "48X64", 7, "3×5")
    assert [parse_size(text) for text in texts] == [(32, 32), (48, 64), (48, 64), (7, 7), (3, 5)]
    for wrong in ("0", "x4", "4x", "-3", "3x4x5", "big", "4.5", ""):
        if wrong == "4x":
            continue
        with pytest.raises(SettingError, match="--image-size takes"):
            parse_size(wrong)


@pytest.mark.parametrize(
    ("size", "cut"),
    [((6, 8), (12, 16)), ((12, 16), (12, 16)), ((24, 24), (12, 12)), ((6, 16), (6, 16)), ((12, 4), (12, 4))],
)
def test_tensors_are_resized_by_the_rule_of_files(size: tuple[int, int], cut: tuple[int, int]):
    rows, columns = torch.arange(12.0).view(-1, 1), torch.arange(16.0)
    image = (rows**2 + 3 * columns**2)[None, None]  # whose mean tells what was cut off
    found = resized(image, size)
    assert found.shape[2:] == size
    top, left = (12 - cut[0]) // 2, (16 - cut[1]) // 2
    kept = image[..., top : top + cut[0], left : left + cut[1]]
    assert found.mean().item() == pytest.approx(kept.mean().item(), 0.05)


@pytest.mark.parametrize(
    ("recipe", "options", "shape"),
    [
        ("short", {}, (1, 12, 16)),
        ("short", {"image_size": 8}, (1, 8, 8)),
        ("short", {"image_size": 8, "image_width": 12}, (1, 8, 12)),
        ("short", {"channels": 3}, (3, 12, 16)),
        ("cifar100", {"image_size": 24, "image_width": 32, "channels": 3}, (3, 24, 32)),
        ("imagenet", {"image_size": 8}, (3, 8, 8)),
        ("imagenet", {"image_size": 8, "image_width": 12}, (3, 8, 12)),
        ("imagenet", {"image_size": 8, "channels": 1}, (1, 8, 8)),
        ("imagenet", {"image_size": 8, "image_width": 6, "crop": "pad"}, None),
    ],
)
def test_a_size_asked_for_is_a_size_got_in_every_recipe(
    recipe: str, options: dict[str, Any], shape: tuple[int, ...] | None, images: Path
):
    channels = options.pop("channels", None)
    loaded = load_recipe(recipe, changes=options)
    batches = open_batches("folder", str(images), loaded, CPU, channels=channels)
    assert tuple(batches.example.shape[1:]) == (shape or (1, 8, 6))
    assert tuple(next(iter(batches.epoch(0, 0))).images.shape[1:]) == tuple(batches.example.shape[1:])
    assert (batches.contract.channels, batches.contract.size) == (batches.example.shape[1], batches.example.shape[2:])
    assert batches.contract.classes == ("dark", "light")


def test_grey_images_are_rgb_for_networks_that_need_it(images: Path):
    for name, channels in (("rgb:net", 3), ("resnet20", 1), ("torchvision:resnet18", 3), ("timm:resnet18", 1)):
        assert network_channels(CLASSIFICATION, name, 2, 1) == channels
        assert network_channels(CLASSIFICATION, name, 2, 3) == 3
    batches = open_for(Pair("folder", "rgb:net", data=str(images)).settings(), CPU)
    assert batches.example.shape[1:] == (3, 12, 16)
    assert "grey images are given to networks as RGB" in batches.account.notes
    dataset = open_data(RunSettings(task="folder", data=str(images), student="rgb:net", image_size="6x8"))
    assert dataset.train.images.shape[1:] == (3, 6, 8)


def command(*arguments: object) -> tuple[int, str]:
    """Exit code and everything that a command writes, in this process."""
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as left:
        patch.setattr(sys, "stdout", output), patch.setattr(sys, "stderr", output)
        main.main(args=[str(argument) for argument in arguments], prog_name="kdzero-gp")
    return int(left.value.code or 0), output.getvalue()


def test_size_and_channels_pass_through_the_commands(images: Path, tmp_path: Path):
    common = ("--task", "folder", "--data", images, "--image-size", "8x12", "--channels", 3, "--epochs", 1)
    code, told = command("train", *common, "--model", "rgb:net", "--batch-size", 8, "--lr", 0.5, "--out", "T")
    assert code == 0, told
    contract = read_contract(tmp_path / "T/network.safetensors")
    assert contract is not None and (contract.channels, contract.size) == (3, (8, 12))
    kept = json.loads((tmp_path / "T/settings.json").read_text())["settings"]
    assert (kept["channels"], kept["recipe"]["image_size"], kept["recipe"]["image_width"]) == (3, 8, 12)
    code, told = command("pair", "--task", "folder", "--data", images, "--teacher", "resnet20", "--student", "resnet20")
    assert code == 0 and "images 1×12×16, 2 classes" in told
    for name in ("train", "distill", "compare", "evolve", "pair"):
        assert {"--image-size", "--channels"} <= {o for p in main.commands[name].params for o in p.opts}
    settings = settings_from({"task": "folder", "data": "d", "image_size": "8x12", "channels": 3})
    assert "--image-size 8x12 --channels 3" in evolve_command(settings)
    for wrong in ({"image_size": "wide"}, {"channels": 0}):
        with pytest.raises(SettingError):
            settings_from(wrong)


def test_other_data_are_resized_as_a_whole():
    dataset = open_data(RunSettings(student="digits_cnn_2", image_size="4x6", channels=3))
    assert [tuple(split.images.shape[1:]) for split in (dataset.train, dataset.test)] == [(3, 4, 6)] * 2
    assert dataset.train.images.dtype == torch.uint8
    with pytest.raises(KdzeroError, match="GB of memory"):
        open_data(RunSettings(student="digits_cnn_2", image_size="90000"))


# Kind 7: folders know content


def distilled(teacher: Path, out: Path, **changes: object) -> object:
    pair = Pair("digits", "digits_cnn_2", "digits_cnn_8", str(teacher), changes=TINY | changes)
    return training.distill(pair, "zoo:kd", out=out, machine=ONE)


def doubled(path: Path) -> None:
    weights = {key: value * 2 if value.is_floating_point() else value for key, value in load_file(path).items()}
    save_file(weights, path, (read_contract(path) or InputContract()).as_metadata())


def beside(path: Path) -> None:
    path.with_name(path.name + ".json").write_text('{"channels": 3}')


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("change", [doubled, beside])
def test_weights_that_were_replaced_are_noticed(
    change: Callable[[Path], None], finished: bool, teacher: Path, tmp_path: Path
):
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(teacher.read_bytes())
    times = weights.stat()
    first = distilled(weights, tmp_path / "out")
    assert distilled(weights, tmp_path / "out") == first
    if not finished:
        (tmp_path / "out/result.json").unlink()
    change(weights)
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(RunError, match=r"teacher's weights changed since .*out was begun; give what it was begun with"):
        distilled(weights, tmp_path / "out")


def mend(root: Path) -> None:
    Image.new("L", (16, 12), 3).save(root / "dark/0.png")


def add(root: Path) -> None:
    Image.new("L", (16, 12), 3).save(root / "dark/99.png")


def add_class(root: Path) -> None:
    (root / "new").mkdir()
    for index in range(9):
        Image.new("L", (16, 12), 3).save(root / "new" / f"{index}.png")


def swap(root: Path) -> None:
    for old, new in (("dark", "x"), ("light", "dark"), ("x", "light")):
        (root / old).rename(root / new)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (mend, "other content"),
        (swap, "other content"),
        (add, r"train has \d+ images and had \d+|test has"),
        (add_class, r"the classes differ \(new\)"),
    ],
)
def test_data_that_changed_are_noticed(change: Callable[[Path], None], message: str, images: Path, tmp_path: Path):
    def train() -> object:
        return training.train(
            "folder", "digits_cnn_2", out=tmp_path / "out", data=str(images), changes=TINY, machine=ONE
        )

    assert train() == train()
    change(images)
    with pytest.raises(RunError, match=f"data changed since .*out was begun: .*({message})"):
        train()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"momentum": 0.5}, r"recipe\.momentum 0\.9 and recipe\.momentum 0\.5"),
        ({"clip": 0}, r"recipe\.clip 5\.0 and recipe\.clip 0"),
        ({"epochs": 2}, r"recipe\.epochs 1\.0 and recipe\.epochs 2"),
        ({"image_size": 6}, r"recipe\.image_size 0 and recipe\.image_size 6"),
        ({"augment": "rand-m9-mstd0.5-inc1"}, r'recipe\.augment "" and recipe\.augment "rand'),
        ({"milestones": "3,4"}, r"recipe\.milestones \[\] and recipe\.milestones \[3, 4\]"),
    ],
)
def test_the_field_that_differs_is_named(changes: dict[str, Any], message: str, tmp_path: Path):
    def claimed(**changes: object) -> None:
        settings = Pair("digits", "digits_cnn_2", changes=TINY | changes).settings()
        files.claim(tmp_path / "out", "training", settings.as_dict())

    claimed()
    with pytest.raises(RunError, match=message):
        claimed(**changes)


def test_long_values_are_cut_to_where_they_differ(tmp_path: Path):
    same = "x" * 300
    files.claim(tmp_path / "out", "training", {"source": same + "one" + same})
    with pytest.raises(RunError) as caught:
        files.claim(tmp_path / "out", "training", {"source": same + "two" + same})
    assert "xone" in str(caught.value) and "xtwo" in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


# Kind 10


@pytest.mark.parametrize(
    "arguments",
    [
        ("zoo",),
        ("primitives",),
        ("evolve", "--help"),
        ("show", "nowhere"),
        ("pair", "--task", "digits", "--teacher", "digits_cnn_4", "--student", "digits_cnn_2"),
    ],
)
def test_ascii_terminals_get_question_marks(arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch):
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0]), monkeypatch.setattr(sys, "stderr", streams[1])
    with pytest.raises(SystemExit):
        main.main(args=list(arguments), prog_name="kdzero-gp")
    for stream in streams:
        stream.flush()
        assert b"unexpected" not in stream.buffer.getvalue()


def test_a_search_of_nothing_but_published_methods_says_so(tmp_path: Path):
    def conclusion(*results: RaceResult) -> str:
        return _conclusion(RunResult(tmp_path, CLASSIFICATION, list(results), None, None))[0]

    kd = RaceResult(Competitor("kd", "zoo"), 1, {"accuracy": (0.5, math.nan)})
    assert "nothing but published methods was bred and trained; give more --generations" in conclusion(kd)
    failed = RaceResult(Competitor("x", "evolved", "times(no(l2(feat)), 1)"), 1, reason="not finite")
    assert "no evolved distiller finished the race; look at the reasons" in conclusion(kd, failed)
