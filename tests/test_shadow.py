"""Shadow heads: copies are the student's own head, the loss equals its formula, and nothing of them stays."""

import copy
import json

import pytest
import torch
from torch import nn

from commands import command
from kdzero_gp.compiler import compile_distiller, parse, zoo
from kdzero_gp.compiler.shapes import pair_shapes
from kdzero_gp.engine.batches import Batch
from kdzero_gp.engine.shadow import ShadowOnStudent, ShadowOnTeacher
from kdzero_gp.engine.teacher import KeptTeacher
from kdzero_gp.errors import ModelError
from kdzero_gp.families.detection import DETECTION
from kdzero_gp.families.segmentation import SEGMENTATION
from kdzero_gp.models.heads import copied_head
from label_maps import write

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
FEW = ("--precision", "float32", "--threads", "1", "--batch-size", "8")


def tapped(family, name, classes=3, seed=0, images=IMAGES):
    torch.manual_seed(seed)
    return family.tap(family.build(name, classes, 3), images, None, classes)


FIVE = ("fpn3", "fpn4", "fpn5", "fpn6", "fpn7")


@pytest.mark.parametrize(
    "family, name, reads, side",
    [(SEGMENTATION, "segmenter_4", ("low", "feat"), 64), (SEGMENTATION, "segmenter_4", ("low", "feat"), 160),
     (SEGMENTATION, "lraspp_mobilenet_v3_large", ("low", "feat"), 160),
     (SEGMENTATION, "deeplabv3plus_mobilenet_v2", ("low", "feat"), 160),
     (SEGMENTATION, "deeplabv3_mobilenet_v3_large", ("feat",), 64),
     (DETECTION, "fcos_small_4", ("fpn3", "fpn4", "fpn5"), 64),
     (DETECTION, "fcos_small_4", ("fpn3", "fpn4", "fpn5"), 160),
     (DETECTION, "retinanet_small_4", ("fpn3", "fpn4", "fpn5"), 64),
     (DETECTION, "torchvision:retinanet_resnet50_fpn", FIVE, 64),
     (DETECTION, "torchvision:retinanet_resnet50_fpn", FIVE, 160),
     (DETECTION, "torchvision:fcos_resnet50_fpn", FIVE, 160),
     (DETECTION, "torchvision:ssdlite320_mobilenet_v3_large", ("fpn4", "fpn5", "fpn6", "fpn7", "fpn8", "fpn9"), 320)],
)  # fmt: skip
def test_a_copy_says_what_the_head_says_and_is_trained_apart(family, name, reads, side):
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    student = tapped(family, name, images=images)
    head = copied_head(student, images)
    student.eval(), head.eval()
    with torch.no_grad():
        outputs = student(images)
        given = head(outputs)
    assert head.reads == reads
    wanted = outputs["logits"]
    assert torch.allclose(given, wanted, atol=1e-4)
    own = {id(parameter) for parameter in student.parameters()}
    assert not own & {id(parameter) for parameter in head.parameters()}


class Sealed(nn.Module):
    """Whose head nobody can tell from the rest."""

    def __init__(self):
        super().__init__()
        self.all = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.Upsample(scale_factor=2))

    def forward(self, images):
        return self.all(images)


class Concatenated(nn.Module):
    """Whose classifier takes more than the backbone gives."""

    def __init__(self):
        super().__init__()
        self.backbone, self.classifier = nn.Conv2d(3, 4, 3, 4, 1), nn.Conv2d(8, 3, 1)

    def forward(self, images):
        feat = self.backbone(images)
        return self.classifier(torch.cat([feat, -feat], dim=1))


def test_what_has_no_shadow_is_told_in_a_sentence():
    own = SEGMENTATION.tap(Concatenated(), IMAGES, {"feat": "backbone", "logits": "classifier"}, 3)
    with pytest.raises(ModelError, match="the class head of Concatenated takes something else than the maps feat"):
        copied_head(own, IMAGES)
    with pytest.raises(ModelError, match="the class head of Sealed cannot be copied"):
        copied_head(SEGMENTATION.tap(Sealed(), IMAGES, None, 3), IMAGES)
    with pytest.raises(ModelError, match="the class head of TwoStageDetector cannot be copied"):
        copied_head(tapped(DETECTION, "fasterrcnn_small_4"), IMAGES)
    student = tapped(SEGMENTATION, "segmenter_4")
    with pytest.raises(ModelError, match="the teacher has no map low"):
        copied_head(student, IMAGES, {"logits": (3, 8, 8), "feat": (9, 8, 8)})
    small = {name: (shape[0], *(2 * side for side in shape[1:])) for name, shape in _detector().shapes.items()}
    with pytest.raises(ModelError, match="no map fpn3 of the student's size"):
        copied_head(_detector(), IMAGES, small)


def _detector():
    return tapped(DETECTION, "fcos_small_4")


def _pair(family, expression, on_teacher):
    """A student's outputs with their graph, the teacher with its outputs kept, a batch, both tapped networks and the
    head."""
    names = ("segmenter_4", "segmenter_8") if family is SEGMENTATION else ("fcos_small_4", "fcos_small_8")
    student, teacher = (tapped(family, name, seed=seed) for seed, name in enumerate(names))
    types = pair_shapes(student.shapes, teacher.shapes, family.knowledge).types
    expression = zoo[expression] if expression in zoo else parse(expression, types)
    distiller = compile_distiller(expression, student.shapes, teacher.shapes, knowledge=family.knowledge)
    with torch.no_grad():
        said = teacher.eval()(IMAGES)
    if family is SEGMENTATION:
        labels = torch.randint(-1, 3, (2, 64, 64), generator=torch.Generator().manual_seed(1))
    else:
        labels = torch.tensor([[[0.1, 0.1, 0.6, 0.7, 2.0]], [[0.0, 0.0, 0.0, 0.0, -1.0]]])
    kept = KeptTeacher(distiller, family, {name: tensor[None] for name, tensor in said.items()}, labels)
    batch = Batch(IMAGES, labels, torch.arange(2))
    head = copied_head(student, IMAGES, teacher.shapes if on_teacher else None)
    return student.train()(IMAGES), kept, batch, student, teacher, said, head.train()


@pytest.mark.parametrize("family, expression", [(SEGMENTATION, "kd"), (DETECTION, "crosskd")])
def test_a_head_on_the_teacher_teaches_and_learns_and_the_student_sees_two_teachers(family, expression):
    outputs, kept, batch, student, teacher, said, head = _pair(family, expression, True)
    frozen = {name: p.clone() for name, p in teacher.named_parameters()}
    loss = ShadowOnTeacher(kept, head).loss(outputs, batch, IMAGES, batch.labels)

    with torch.no_grad():
        shadow = copy.deepcopy(head)(said)
        plain = kept.distiller(outputs, said, batch.labels)
        proxy = kept.distiller(outputs, {**said, "logits": shadow}, batch.labels)
        own = family.own_loss({**outputs, "logits": shadow}, batch.labels)
        mean = (shadow - said["logits"]).square().mean()
        wanted = (plain + proxy) / 2 + own + family.mimic(shadow, outputs["logits"]) + mean
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-4)

    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
    learnt = [p.grad.clone() for p in student.parameters() if p.grad is not None]
    assert any(gradient.abs().sum() > 0 for gradient in learnt)
    assert all(torch.equal(p, frozen[name]) and p.grad is None for name, p in teacher.named_parameters())


@pytest.mark.parametrize("family, expression", [(SEGMENTATION, "kd"), (DETECTION, "crosskd")])
def test_a_head_on_the_student_alone_takes_the_distiller(family, expression):
    outputs, kept, batch, student, _, said, head = _pair(family, expression, False)
    shadowed = ShadowOnStudent(kept, head)
    assert shadowed.trained == [kept.distiller, head]
    outputs["logits"].retain_grad()
    loss = shadowed.loss(outputs, batch, IMAGES, batch.labels)
    loss.backward()
    assert loss.item() == pytest.approx(kept.distiller({**outputs, "logits": head(outputs)}, said, batch.labels).item())
    assert outputs["logits"].grad is None, "the head that stays hears nothing of the teacher"
    assert all(p.grad is not None for p in head.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters())


def run(*arguments):
    code, output, errors = command(*arguments)
    return code, output + errors


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    root = tmp_path_factory.mktemp("shadow")
    write(root / "maps", {"train": 16, "val": 4, "test": 4})
    data = ("--task", "segmentation", "--data", str(root / "maps"))
    assert run("train", *data, "--model", "segmenter_8", "--epochs", 6, "--out", root / "teacher", *FEW)[0] == 0
    return (*data, "--teacher", "segmenter_8", "--teacher-weights", root / "teacher" / "network.safetensors",
            "--student", "segmenter_4", *FEW)  # fmt: skip


@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_a_training_with_a_shadow_keeps_the_student_and_goes_on_with_equal_bits(kind, pair, tmp_path, monkeypatch):
    from safetensors.torch import load_file

    from kdzero_gp.training import folder as files

    asked = (*pair, "--distiller", "zoo:kd", "--shadow", kind, "--epochs", 2)
    assert run("distill", *asked, "--out", tmp_path / "whole")[0] == 0
    save, count = files.save_checkpoint, iter(range(9))

    def interrupted(folder, state):
        save(folder, state)
        assert "shadow" in state
        if next(count) == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(files, "save_checkpoint", interrupted)
    assert run("distill", *asked, "--out", tmp_path / "parts")[0] != 0
    assert run("distill", *asked, "--out", tmp_path / "parts")[0] == 0
    one, other = (load_file(tmp_path / name / "student.safetensors") for name in ("whole", "parts"))
    assert one.keys() == other.keys() == SEGMENTATION.build("segmenter_4", 3, 3).state_dict().keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert json.loads((tmp_path / "whole" / "settings.json").read_text())["settings"]["shadow"] == kind
    assert f"one more class head on the {kind}'s maps" in (tmp_path / "whole" / "distiller.py").read_text()


def test_a_comparison_gives_shadows_to_those_that_read_logits_and_the_rest_is_refused(pair, tmp_path):
    out = tmp_path / "compared"
    code, told = run("compare", *pair, "--distiller", "zoo:fitnet", "--shadow", "student", "--seeds", 1, "--factors", 1,
                     "--workers", 1, "--epochs", 1, "--out", out)  # fmt: skip
    assert code == 0, told
    asked = {path.parent.name.split("-")[0]: json.loads(path.read_text())["settings"]["shadow"]
             for path in out.glob("trainings/*/settings.json")}  # fmt: skip
    assert asked == {"ce": None, "kd": "student", "fitnet": None}
    code, told = run("distill", *pair, "--distiller", "zoo:fitnet", "--shadow", "teacher", "--out", tmp_path / "no")
    assert code == 2 and "reads no logits" in told and not (tmp_path / "no").exists()
    code, told = run("distill", "--task", "digits", "--teacher-weights", "x", "--distiller", "zoo:kd", "--shadow",
                     "teacher", "--out", tmp_path / "no")  # fmt: skip
    assert code == 2 and "--shadow is for segmentation and detection and not for classification" in told
