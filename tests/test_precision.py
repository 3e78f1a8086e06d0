"""The fastest setting is measured once on a machine and remembered."""

import json

import pytest
import torch

from kdzero_gp.engine import precision
from kdzero_gp.engine.outputs import FLOAT32, Precision
from kdzero_gp.models import build
from kdzero_gp.models.taps import Tapped

IMAGES = torch.zeros(2, 3, 32, 32)


@pytest.fixture
def student(monkeypatch, tmp_path):
    monkeypatch.setenv("KDZERO_CACHE", str(tmp_path / "cache"))
    return Tapped(build("resnet8x4", 10), IMAGES)


def test_a_machine_is_asked_once_for_each_student_and_size(student, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(precision, "_milliseconds", lambda *given: asked.append(given[3]) or 10.0 / len(asked))
    first = precision.precision_for("resnet8x4", student, IMAGES, 10)
    assert len(asked) == 4 and first[0] == Precision("bfloat16", True)
    assert precision.precision_for("resnet8x4", student, IMAGES, 10) == first
    assert len(asked) == 4
    precision.precision_for("resnet8x4", student, torch.zeros(2, 3, 16, 16), 10)
    assert len(asked) == 8
    assert len(json.loads((tmp_path / "cache" / "precision.json").read_text())) == 2


def test_measuring_leaves_the_student_and_the_threads_as_they_were(student):
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    threads = torch.get_num_threads()
    found, milliseconds = precision.precision_for("resnet8x4", student, IMAGES, 10)
    assert torch.get_num_threads() == threads
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())
    assert found == precision.fastest(milliseconds)
    assert set(milliseconds) == {precision.label(Precision(n, c)) for n in ("float32", "bfloat16") for c in (0, 1)}


def test_noise_does_not_decide():
    close = {"float32, channels first": 10.0, "float32, channels last": 9.6, "bfloat16, channels first": 9.5}
    assert precision.fastest(close) == FLOAT32
    assert precision.fastest(close | {"bfloat16, channels last": 4.0}) == Precision("bfloat16", True)
    assert precision.fastest(close | {"float32, channels last": 5.0}) == Precision("float32", True)


def test_a_network_that_cannot_compute_in_bfloat16_computes_in_float32(student):
    class Strict(torch.nn.Module):
        def forward(self, images):
            hidden = student(images)["logits"]
            if hidden.dtype != torch.float32:
                raise RuntimeError("expected scalar type Float but found BFloat16")
            return {"logits": hidden}

    found, milliseconds = precision.precision_for("strict", Strict(), IMAGES, 10)
    assert found.name == "float32"
    assert milliseconds["bfloat16, channels last"] == float("inf")


def test_large_images_are_measured_in_small_batches(student, monkeypatch):
    seen = []
    monkeypatch.setattr(precision, "_milliseconds", lambda student, images, *more: seen.append(len(images)) or 1.0)
    precision.precision_for("large", student, torch.zeros(2, 3, 224, 224), 10)
    assert set(seen) == {5}


def test_small_images_are_not_measured(student, tmp_path):
    assert precision.precision_for("any", student, torch.zeros(2, 1, 8, 8), 10) == (FLOAT32, {})
    assert not (tmp_path / "cache" / "precision.json").exists()


@pytest.mark.parametrize("content", ["", "[]", "{"])
def test_a_damaged_memory_is_made_anew(student, tmp_path, content):
    path = tmp_path / "cache" / "precision.json"
    path.parent.mkdir()
    path.write_text(content)
    precision.precision_for("resnet8x4", student, torch.zeros(2, 3, 16, 16), 10)
    assert len(json.loads(path.read_text())) == 1
