"""Mean and deviation of what teachers and students see: said, known of weights, or found by trying."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

import kdzero_gp
from kdzero_gp import models, tasks, training
from kdzero_gp.cli import main
from kdzero_gp.data.own import own_dataset
from kdzero_gp.engine.machine import Machine
from kdzero_gp.engine.networks import expected_input, for_student, mended, taught
from kdzero_gp.errors import SettingError
from kdzero_gp.families.classification import CLASSIFICATION
from kdzero_gp.models.contract import InputContract
from kdzero_gp.models.normalisation import IMAGENET, IMAGENET_GREY, NONE, for_channels, parse_statistics
from kdzero_gp.models.weights import save_weights
from kdzero_gp.progress import Progress
from kdzero_gp.search.options import settings_from
from kdzero_gp.search.prepare import open_data, prepare
from kdzero_gp.training.api import Pair
from kdzero_gp.training.normalising import normalised
from kdzero_gp.training.opening import open_for, open_teacher

ONE = Machine(threads=1)
CPU = torch.device("cpu")
OPTIONS = [f"--{role}-{part}" for role in ("teacher", "student") for part in ("mean", "std")]
SEEN = InputContract(3, (8, 8), (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), ("a", "b", "c"))


class Notes(Progress):
    """Keeps what is told."""

    def __init__(self):
        self.told = []

    def note(self, text):
        self.told.append(text)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Weights without a record of a teacher of the digits that saw them on the scale [0, 1]."""
    path = tmp_path_factory.mktemp("plain") / "teacher.pt"
    split = tasks.get("digits").load(None).train
    images, labels = split.images.float() / 255, split.labels
    torch.manual_seed(0)
    network = models.build("digits_cnn_8", 10, 1)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(15):
        for batch in torch.randperm(len(labels)).split(100):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images[batch]), labels[batch]).backward()
            optimizer.step()
    torch.save(network.state_dict(), path)
    return path


# --- what options say ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mean", "std", "expected"),
    [
        (None, None, None),
        ("imagenet", None, IMAGENET),
        (None, "imagenet", IMAGENET),
        ("none", None, NONE),
        ("0.5", "0.25", ((0.5,), (0.25,))),
        ("0.1,0.2,0.3", "1", ((0.1, 0.2, 0.3), (1.0,))),
        ("0.1,0.2,0.3", "imagenet", ((0.1, 0.2, 0.3), IMAGENET.std)),
    ],
)
def test_options_are_numbers_or_names(mean, std, expected):
    assert parse_statistics("teacher", mean, std) == expected


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ("0.5", None, "--teacher-std is missing"),
        (None, "0.5", "--teacher-mean is missing"),
        ("cifar", "1", "--teacher-mean takes a number"),
        ("0.5,0.5", "1,1,1", "equally many"),
        ("0.5", "0", "--teacher-std must be above 0"),
        ("nan", "1", "finite"),
    ],
)
def test_other_options_are_refused(mean, std, message):
    with pytest.raises(SettingError, match=message):
        settings_from({"teacher_mean": mean, "teacher_std": std})


def test_channels_decide_how_many_numbers():
    assert for_channels(IMAGENET, 1, "teacher") == IMAGENET_GREY and for_channels(NONE, 3, "teacher").std == (1.0,) * 3
    with pytest.raises(SettingError, match="hold 3 values and the student's images have 4 channels"):
        for_channels(IMAGENET, 4, "student")


@pytest.mark.parametrize("name", ["evolve", "distill", "compare", "suggest"])
def test_every_command_with_weights_has_the_options(name):
    assert set(OPTIONS) <= {text for option in main.commands[name].params for text in option.opts}


# --- what networks see --------------------------------------------------------------------------------------------


def test_a_teacher_sees_images_as_is_said():
    raw = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    seen = (raw - torch.tensor(SEEN.mean).view(3, 1, 1)) / torch.tensor(SEEN.std).view(3, 1, 1)
    network = taught(CLASSIFICATION, "digits_cnn_4", SEEN, replace(SEEN, mean=(0.0,) * 3), seen, given=IMAGENET).eval()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET)
    torch.testing.assert_close(network(seen)["logits"], network.network((raw - mean) / std), atol=1e-4, rtol=1e-4)
    with pytest.raises(SettingError, match="for images"):
        taught(CLASSIFICATION, "x", SEEN, None, torch.rand(2, 5), given=IMAGENET)


def test_a_student_sees_images_as_is_said_and_its_teacher_does_not(plain):
    settings = Pair("digits", "digits_cnn_4", "digits_cnn_8", str(plain), student_mean="none").taught()
    batches = open_for(settings, CPU)
    assert batches.example.min() == 0 and batches.example.max() == 1 and batches.contract.mean == (0.0,)
    teacher = open_teacher(settings, batches)
    usual = tasks.get("digits").load(None)
    torch.testing.assert_close(teacher.conversion(batches.example), usual.normalise(usual.train.images[:2]))
    dataset = open_data(settings_from({"student_mean": "none"}))
    assert torch.equal(dataset.normalise(dataset.train.images[:2]), batches.example)


def test_the_users_own_data_are_changed_only_as_is_said():
    images, labels = torch.rand(40, 3, 8, 8), torch.arange(40) % 2
    dataset = own_dataset((images, labels))
    assert torch.equal(for_student(dataset, None, "x", None).normalise(images), images)
    changed = for_student(dataset, parse_statistics("student", "0.5", "0.5"), "x", None)
    torch.testing.assert_close(changed.normalise(images), 2 * images - 1)
    assert changed.usual_statistics == NONE  # its teacher sees them as they are
    seen = InputContract(3, (8, 8), classes=("0", "1"))
    teacher = taught(CLASSIFICATION, "digits_cnn_4", seen, None, images[:2], given=NONE._replace(mean=(0.5,)))
    torch.testing.assert_close(teacher.conversion(images), images - 0.5)
    with pytest.raises(SettingError, match="for images"):
        for_student(own_dataset((torch.rand(40, 5), labels)), IMAGENET, "x", None)


def test_weights_of_a_student_say_what_it_saw(tmp_path):
    save_weights(
        models.build("digits_cnn_4", 10, 1), tmp_path / "s.safetensors", InputContract(1, (8, 8), (0.25,), (2,))
    )
    pair = Pair("digits", "digits_cnn_4", student_weights=str(tmp_path / "s.safetensors"))
    assert open_for(pair.settings(), CPU).contract.mean == (0.25,)
    assert open_data(settings_from({"student_weights": str(tmp_path / "s.safetensors")})).statistics.std == (2,)
    said = replace(pair, student_mean="none")
    assert open_for(said.settings(), CPU).contract.mean == (0.0,)


# --- what is known ------------------------------------------------------------------------------------------------


def test_libraries_record_what_their_weights_saw(tmp_path):
    pytest.importorskip("timm")
    from torchvision.models import ResNet18_Weights

    weights = tmp_path / "w.safetensors"
    weights.touch()
    for name in ("torchvision:resnet18", "timm:resnet18.a1_in1k"):
        known = expected_input(name, weights, 1000)
        assert (known.channels, known.size, known.mean, known.std) == (3, (224, 224), *IMAGENET)
        assert expected_input(name, weights, 10) is None and expected_input(name, None, 1000) is None
    assert known.mean == tuple(ResNet18_Weights.DEFAULT.transforms().mean)
    assert expected_input("timm:vit_tiny_patch16_224", weights, 1000).mean == (0.5,) * 3
    assert expected_input("resnet20", weights, 100) is None


def test_a_module_of_timm_carries_its_record():
    timm = pytest.importorskip("timm")

    from kdzero_gp.models.own import OwnNetwork

    made = OwnNetwork(timm.create_model("resnet18", pretrained=False, num_classes=1000), "teacher")
    with kdzero_gp.objects.known({"own:ResNet-1": made}):
        assert expected_input("own:ResNet-1", None, 1000) == InputContract(mean=IMAGENET.mean, std=IMAGENET.std)
        assert expected_input("own:ResNet-1", None, 10) is None


@pytest.mark.parametrize(
    ("name", "stored", "mean"),
    [
        ("config.json", {"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 8, 8]}}, (0.5,) * 3),
        ("preprocessor_config.json", {"image_mean": [0.1] * 3, "image_std": [1.0] * 3}, (0.1,) * 3),
        ("preprocessor_config.json", {"do_normalize": False, "image_mean": [0.1] * 3}, (0.0,)),
        ("config.json", {"hidden_size": 8}, None),
        ("config.json", [], None),
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_published_folders_say_what_their_weights_saw(name, stored, mean, whole, tmp_path):
    torch.save({}, tmp_path / "pytorch_model.bin")
    (tmp_path / name).write_text(json.dumps(stored))
    known = expected_input("resnet20", tmp_path if whole else tmp_path / "pytorch_model.bin", 10)
    assert (known and known.mean) == mean


# --- what is found ------------------------------------------------------------------------------------------------


def test_what_nobody_says_is_tried_and_named(plain):
    notes, pair = Notes(), Pair("digits", "digits_cnn_4", "digits_cnn_8", str(plain))
    found = normalised(pair, ONE, notes)
    assert (found.teacher_mean, found.teacher_std) == ("0", "1")
    (told,) = [text for text in notes.told if "nothing says" in text]
    assert "does best with none: accuracy " in told and "their own mean and deviation" in told
    assert "--teacher-mean 0 --teacher-std 1 says it at once" in told
    assert normalised(found, ONE, Progress()) is found
    assert mended(open_teacher(found.taught(), open_for(found.taught(), CPU)))[0].startswith("its own mean 0 ")


def test_a_search_tries_it_too_and_its_run_says_it(plain, tmp_path):
    notes = Notes()
    options = {"teacher": "digits_cnn_8", "teacher_weights": str(plain), "warm_epochs": 0.5}
    bench = prepare(tmp_path, settings_from(options), CPU, notes)
    assert bench.teacher_statistics == {"teacher_mean": "0", "teacher_std": "1"}
    assert bench.teacher["validation_accuracy"] > 0.8 and [text for text in notes.told if "does best with none" in text]


def test_what_was_trained_here_is_known(tmp_path, monkeypatch):
    training.train("digits", "digits_cnn_8", out=tmp_path, changes={"epochs": 1}, machine=ONE)
    monkeypatch.setattr("kdzero_gp.training.normalising.find_statistics", None)
    pair = Pair("digits", "digits_cnn_4", "digits_cnn_8", str(tmp_path / "network.safetensors"))
    assert normalised(pair, ONE, Progress()) is pair
