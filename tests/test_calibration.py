"""An exported file sets its magnitudes for any batch size, and reads both networks, with torch alone."""

import importlib.util
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import kdzero_gp
from kdzero_gp.compiler import load_source
from kdzero_gp.models.taps import FORMS, Tapped

# A relation over the batch, its square (which the batch size scales), one that the batch correlates, and plain kd.
EXPRESSION = "add(add(times(no(l2(mm(feat))), 2), times(no(cor(logits)), 10)), times(no(kl(softmax_C(logits, 4))), 1))"
SHARES = (2.0, 10.0, 1.0)
BATCHES = 8


class Network(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.stage = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width), nn.ReLU())
        self.head = nn.Linear(2 * width, 10)

    def forward(self, images):
        return self.head(self.stage(self.stem(images)).mean((2, 3)))


def trained(width, epochs, images, labels):
    torch.manual_seed(width)
    network = Network(width)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    for _ in range(epochs):
        for batch in torch.randperm(len(labels)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(network(images[batch]), labels[batch]).backward()
            optimizer.step()
    return network


@pytest.fixture(scope="module")
def pair():
    digits = load_digits()
    images, labels = torch.tensor(digits.images).float()[:, None] / 8 - 1, torch.tensor(digits.target)
    student, teacher = trained(4, 2, images, labels), trained(16, 4, images, labels).eval()
    return Tapped(student, images[:2]), Tapped(teacher, images[:2]), images, labels


@pytest.fixture(scope="module")
def file(pair, tmp_path_factory):
    student, teacher, _, _ = pair
    path = tmp_path_factory.mktemp("exported") / "distiller.py"
    forms = {form.__name__: form for form in FORMS} | {"": None}
    layers = {
        side: {name: (layer, keys, forms[form]) for name, (layer, keys, form) in network.layers.items()}
        for side, network in (("student", student), ("teacher", teacher))
    }
    kdzero_gp.export(path, EXPRESSION, student.shapes, teacher.shapes, (1.0, 1.0, 1.0), shares=SHARES, layers=layers)
    return path


def module_of(path):
    spec = importlib.util.spec_from_file_location("distiller", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def batches_of(pair, size, count, seed):
    """What one step has, again and again."""
    student, teacher, images, labels = pair
    generator = torch.Generator().manual_seed(seed)
    student.train()
    for _ in range(count):
        chosen = torch.randperm(len(labels), generator=generator)[:size]
        with torch.no_grad():
            taught = teacher(images[chosen])
        yield student(images[chosen]), taught, labels[chosen]


def measured_shares(distiller, pair, size):
    """An independent measurement: the gradients of the weighted terms on the student's parameters, over those of the
    cross-entropy, on batches that set nothing."""
    parameters = list(pair[0].network.parameters())

    def norm(loss):
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        return torch.cat([g.flatten() for g in gradients if g is not None]).norm()

    sums = torch.zeros(len(distiller.magnitudes) + 1)
    for student, teacher, labels in batches_of(pair, size, BATCHES, seed=99):
        terms = distiller.terms(student, distiller.prepare(teacher, labels), labels)
        weighted = [m * term for m, term in zip(distiller.magnitudes, terms, strict=True)]
        sums += torch.stack([norm(one) for one in (*weighted, F.cross_entropy(student["logits"], labels))]).detach()
    return (sums[:-1] / sums[-1]).tolist()


@pytest.mark.parametrize("size", [64, 256, 1024])
def test_shares_are_what_was_searched_at_any_batch_size(pair, file, size):
    distiller = module_of(file).Distiller()
    assert measured_shares(distiller, pair, size) != pytest.approx(SHARES, rel=0.5)
    for student, teacher, labels in batches_of(pair, size, BATCHES, seed=1):
        magnitudes = distiller.calibrate(student, teacher, labels)
    assert distiller.magnitudes == magnitudes
    assert measured_shares(distiller, pair, size) == pytest.approx(SHARES, rel=0.1)


def test_one_batch_has_the_shares_exactly_and_another_size_starts_anew(pair, file):
    distiller = module_of(file).Distiller()
    for size in (32, 200):
        step = next(batches_of(pair, size, 1, seed=2))
        magnitudes = distiller.calibrate(*step)
    fresh = module_of(file).Distiller()
    assert fresh.calibrate(*step) == pytest.approx(magnitudes)


def test_calibrating_leaves_gradients_and_adapters_as_they_were_and_the_step_can_go_on(pair):
    source = kdzero_gp.source_of("times(no(l2(feat)), 1)", pair[0].shapes, pair[1].shapes, shares=(1.0,))
    distiller = load_source(source)
    before = {name: value.clone() for name, value in distiller.state_dict().items()}
    assert any("running" in name for name in before)
    pair[0].zero_grad()
    student, teacher, labels = next(batches_of(pair, 64, 1, seed=3))
    distiller.calibrate(student, teacher, labels)
    assert all(torch.equal(before[name], value) for name, value in distiller.state_dict().items())
    assert all(parameter.grad is None for parameter in pair[0].parameters())
    (distiller(student, teacher, labels) + F.cross_entropy(student["logits"], labels)).backward()


def test_a_loss_of_the_users_own_takes_the_place_of_the_cross_entropy(pair, file):
    student, teacher, labels = next(batches_of(pair, 64, 1, seed=4))
    found = {}
    for factor in (1.0, 3.0):
        distiller = module_of(file).Distiller()
        found[factor] = distiller.calibrate(
            student, teacher, labels, loss=factor * F.cross_entropy(student["logits"], labels)
        )
    assert found[3.0] == pytest.approx([3 * m for m in found[1.0]], rel=1e-5)


def test_what_cannot_be_calibrated_is_said(pair, file):
    student, teacher, labels = next(batches_of(pair, 64, 1, seed=5))
    distiller = module_of(file).Distiller()
    with pytest.raises(ValueError, match="graph"):
        distiller.calibrate({name: tensor.detach() for name, tensor in student.items()}, teacher, labels)
    unknown = load_source(kdzero_gp.source_of("times(no(l2(logits)), 1)", pair[0].shapes, pair[1].shapes))
    assert unknown.SHARES == ()
    with pytest.raises(ValueError, match="shares"):
        unknown.calibrate(student, teacher, labels)
    assert unknown.calibrate(student, teacher, labels, shares=[1.0])[0] > 0


def test_the_reader_gives_what_the_search_read(pair, file):
    module = module_of(file)
    for side, network in (("STUDENT", pair[0]), ("TEACHER", pair[1])):
        network.eval()
        images = pair[2][:8]
        bare = Network(4 if side == "STUDENT" else 16)
        bare.load_state_dict(network.network.state_dict())
        found = module.Reader(bare.eval(), getattr(module, f"{side}_LAYERS"))(images)
        expected = network(images)
        assert set(found) == {"feat", "logits"}
        for name, tensor in found.items():
            torch.testing.assert_close(tensor, expected[name])


def test_a_file_with_hooks_passes_a_linter(file):
    for command in (["check", "--select", "E,F,W,I,B"], ["format", "--diff"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--isolated", "--line-length", "110", "--no-cache", str(file)],
            capture_output=True, encoding="utf-8",
        )  # fmt: skip
        assert done.returncode == 0, done.stdout


def test_the_file_runs_where_there_is_only_torch(file):
    code = """
import sys
class Refuse:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("kdzero_gp", "primitives"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import torch
from torch import nn
from distiller import Distiller, Reader, STUDENT_LAYERS, TEACHER_LAYERS
def network(width):
    stage = lambda i, o, s: nn.Sequential(nn.Conv2d(i, o, 3, s, 1), nn.BatchNorm2d(o), nn.ReLU())
    made = nn.Sequential()
    for name, part in (("stem", stage(1, width, 1)), ("stage", stage(width, 2 * width, 2)),
                       ("pool", nn.AdaptiveAvgPool2d(1)), ("flat", nn.Flatten()), ("head", nn.Linear(2 * width, 10))):
        made.add_module(name, part)
    return made
student, teacher = Reader(network(4), STUDENT_LAYERS), Reader(network(16).eval(), TEACHER_LAYERS)
images, labels, distiller = torch.randn(32, 1, 8, 8), torch.arange(32) % 10, Distiller()
with torch.no_grad():
    taught = teacher(images)
seen = student(images)
print(distiller.calibrate(seen, taught, labels))
(nn.functional.cross_entropy(seen["logits"], labels) + distiller(seen, taught, labels)).backward()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=file.parent, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
