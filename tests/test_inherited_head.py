"""``--inherit-head``: students start with the teacher's neck and head, alone, distilled and in a search."""

import json

import pytest
import torch
from safetensors.torch import load_file

from commands import command
from kdzero_gp.errors import ModelError
from kdzero_gp.families.classification import CLASSIFICATION
from kdzero_gp.families.detection import DETECTION
from kdzero_gp.families.segmentation import SEGMENTATION
from kdzero_gp.models.weights import inherited
from kdzero_gp.proxy.students import student_builder
from kdzero_gp.proxy.task import ProxyTask
from label_maps import write

SMALL = ("--precision", "float32", "--threads", "1")


def built(family, name, seed=0):
    torch.manual_seed(seed)
    return family.build(name, 3, 3)


@pytest.mark.parametrize(
    "family, student, teacher, parts",
    [(SEGMENTATION, "segmenter_4", "segmenter_4", {"head"}),
     (DETECTION, "fcos_small_4", "fcos_small_4", {"backbone.fpn", "head"}),
     (SEGMENTATION, "lraspp_mobilenet_v3_large", "lraspp_mobilenet_v3_large", {"classifier"})],
)  # fmt: skip
def test_what_fits_of_neck_and_head_is_taken_and_nothing_of_the_backbone(family, student, teacher, parts):
    student, teacher = built(family, student), built(family, teacher, 1)
    found = inherited(student, teacher)
    assert {next((part for part in parts if name.startswith(f"{part}.")), name) for name in found} == parts
    student.load_state_dict(found, strict=False)
    own, its = student.state_dict(), teacher.state_dict()
    assert all(torch.equal(own[name], its[name]) for name in found)
    assert len(found) == sum(name.startswith(tuple(f"{part}." for part in parts)) for name in own)


@pytest.mark.parametrize(
    "family, student, teacher, words",
    [(SEGMENTATION, "segmenter_4", "segmenter_8", "no layer of the teacher's head has the name and shape"),
     (CLASSIFICATION, "digits_cnn_4", "digits_cnn_4", "the student .* has no part called backbone")],
)  # fmt: skip
def test_heads_that_do_not_fit_are_told_in_a_sentence(family, student, teacher, words):
    with pytest.raises(ModelError, match=words):
        inherited(family.build(student, 10, 1), family.build(teacher, 10, 1))


def run(*arguments):
    code, output, errors = command(*arguments)
    return code, output + errors


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    root = tmp_path_factory.mktemp("inherited")
    write(root / "maps", {"train": 16, "val": 4, "test": 4})
    data = ("--data", str(root / "maps"))
    code, told = run("train", "--task", "segmentation", *data, "--model", "segmenter_4", "--epochs", 6,
                     "--batch-size", 8, "--out", root / "teacher", *SMALL)  # fmt: skip
    assert code == 0, told
    weights = root / "teacher" / "network.safetensors"
    teacher = load_file(weights)
    head = {name: tensor for name, tensor in teacher.items() if name.startswith("head.") and tensor.dim() > 1}
    assert len(head) == 2
    return (*data, "--teacher", "segmenter_4", "--teacher-weights", weights, *SMALL), head, teacher["low.0.weight"]


def test_every_student_of_a_comparison_starts_with_the_teachers_head(pair, tmp_path):
    named, head, first = pair
    asked = ("compare", "--task", "segmentation", *named, "--student", "segmenter_4", "--seeds", 1, "--factors", 1,
             "--workers", 1, "--epochs", 1, "--batch-size", 8, "--lr", 1e-9)  # fmt: skip
    for options, same in (("--inherit-head",), True), ((), False):
        out = tmp_path / f"compared-{same}"
        code, told = run(*asked, *options, "--out", out)
        assert code == 0, told
        students = {path.parent.name: load_file(path) for path in out.glob("trainings/*/student.safetensors")}
        assert len(students) == 2, "kd and the student alone"
        for student in students.values():
            assert all(torch.allclose(student[name], head[name], atol=1e-5) is same for name in head)
            assert not torch.allclose(student["low.0.weight"], first, atol=1e-5)
    code, told = run(*asked, "--out", tmp_path / "compared-True")
    assert code == 2 and "inherit_head true and inherit_head false was asked for" in told


def test_a_search_starts_its_students_with_the_teachers_head_and_distill_takes_it_from_the_run(pair, tmp_path):
    named, head, _ = pair
    code, told = run("evolve", "--task", "tiny_segmentation:TINY", *named, "--student", "segmenter_4", "--inherit-head",
                     "--generations", 1, "--pop", 2, "--fresh-seeds", 0, "--prune", 0, "--workers", 1,
                     "--out", tmp_path / "run")  # fmt: skip
    assert code == 0, told
    task = ProxyTask.load(tmp_path / "run" / "proxy_task.pt")
    student = student_builder(task.student, task.train.images[:2])().network.state_dict()
    assert all(torch.equal(student[name], head[name]) for name in head)
    code, told = run("distill", "--distiller", f"run:{tmp_path / 'run'}", "--epochs", 1, "--out", tmp_path / "end")
    assert code == 0, told
    assert json.loads((tmp_path / "end" / "settings.json").read_text())["settings"]["inherit_head"] is True
    assert "starts with the teacher's head" in " ".join((tmp_path / "end" / "distiller.py").read_text().split())


def test_a_head_that_does_not_fit_is_refused_before_a_search(pair, tmp_path):
    named, *_ = pair
    code, told = run("evolve", "--task", "tiny_segmentation:TINY", *named, "--student", "segmenter_8", "--inherit-head",
                     "--generations", 1, "--pop", 2, "--out", tmp_path / "run")  # fmt: skip
    assert code == 2 and "leave --inherit-head out" in told
