"""The fastest setting is measured once on a machine and remembered."""

import json

import pytest
import torch

from kdzero_gp.engine import precision
from kdzero_gp.engine.outputs import FLOAT32, Precision
from kdzero_gp.families.classification import CLASSIFICATION
from kdzero_gp.models import build
from kdzero_gp.models.taps import Tapped

IMAGES = torch.zeros(2, 3, 32, 32)
LABELS = torch.zeros(2, dtype=torch.long)


@pytest.fixture
def student(monkeypatch, tmp_path):
    monkeypatch.setenv("KDZERO_CACHE", str(tmp_path / "cache"))
    return Tapped(build("resnet8", 10), IMAGES)


def test_a_machine_is_asked_once_for_each_student_and_size(student, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(precision, "_milliseconds", lambda *given: asked.append(given[4]) or 10.0 / len(asked))
    first = precision.precision_for("resnet8x4", student, CLASSIFICATION, IMAGES, LABELS)
    assert len(asked) == 4 and first == Precision("bfloat16", True)
    assert precision.precision_for("resnet8x4", student, CLASSIFICATION, IMAGES, LABELS) == first
    assert len(asked) == 4
    precision.precision_for("resnet8x4", student, CLASSIFICATION, torch.zeros(2, 3, 16, 16), LABELS)
    assert len(asked) == 8
    assert len(json.loads((tmp_path / "cache" / "precision.json").read_text())) == 2


def test_measuring_leaves_the_student_and_the_threads_as_they_were(student, tmp_path):
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    threads = torch.get_num_threads()
    chosen = precision.precision_for("resnet8x4", student, CLASSIFICATION, IMAGES, LABELS)
    assert torch.get_num_threads() == threads
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())
    (milliseconds,) = json.loads((tmp_path / "cache" / "precision.json").read_text()).values()
    assert chosen == precision.fastest(milliseconds)
    assert set(milliseconds) == {str(Precision(n, c)) for n in ("float32", "bfloat16") for c in (False, True)}


def test_noise_does_not_decide():
    close = {"float32": 10.0, "float32,channels-last": 9.6, "bfloat16": 9.5}
    assert precision.fastest(close) == FLOAT32
    assert precision.fastest(close | {"bfloat16,channels-last": 4.0}) == Precision("bfloat16", True)
    assert precision.fastest(close | {"float32,channels-last": 5.0}) == Precision("float32", True)


def test_a_network_that_cannot_compute_in_bfloat16_computes_in_float32(student, tmp_path):
    class Strict(torch.nn.Module):
        def forward(self, images):
            hidden = student(images)["logits"]
            if hidden.dtype != torch.float32:
                raise RuntimeError("expected scalar type Float but found BFloat16")
            return {"logits": hidden}

    chosen = precision.precision_for("strict", Strict(), CLASSIFICATION, IMAGES, LABELS)
    assert chosen.name == "float32"
    (milliseconds,) = json.loads((tmp_path / "cache" / "precision.json").read_text()).values()
    assert milliseconds["bfloat16,channels-last"] == float("inf")


def test_large_images_are_measured_in_small_batches(student, monkeypatch):
    seen = []
    monkeypatch.setattr(
        precision, "_milliseconds", lambda student, family, images, *more: seen.append(len(images)) or 1.0
    )
    precision.precision_for("large", student, CLASSIFICATION, torch.zeros(2, 3, 224, 224), LABELS)
    assert set(seen) == {5}


def test_small_images_are_not_measured(student, tmp_path):
    assert precision.precision_for("any", student, CLASSIFICATION, torch.zeros(2, 1, 8, 8), LABELS) == FLOAT32
    assert not (tmp_path / "cache" / "precision.json").exists()


@pytest.mark.parametrize("content", ["", "[]", "{"])
def test_a_damaged_memory_is_made_anew(student, tmp_path, content):
    path = tmp_path / "cache" / "precision.json"
    path.parent.mkdir()
    path.write_text(content)
    precision.precision_for("resnet8x4", student, CLASSIFICATION, torch.zeros(2, 3, 16, 16), LABELS)
    assert len(json.loads(path.read_text())) == 1
