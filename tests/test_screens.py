"""What stands between a candidate and its training: each screen turns away what it is for, and says so."""

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from evaluations import Request, evaluator_on
from kdzero_gp.compiler import source_of, zoo
from kdzero_gp.compiler.loading import load_source
from kdzero_gp.engine.batches import Batch, Kept
from kdzero_gp.engine.gradients import SKETCH, Prober, _counted
from kdzero_gp.engine.loop import Trainer
from kdzero_gp.engine.outputs import outputs
from kdzero_gp.engine.teacher import KeptTeacher
from kdzero_gp.proxy import screens
from kdzero_gp.proxy.evaluator import Probe, Rung, Train
from kdzero_gp.proxy.screens import PROBES, SAME_GRADIENT, Fingerprints, Rejected, must_lead_to_the_teacher
from kdzero_gp.proxy.students import student_builder
from strategies import IMAGE_ZOO
from test_evaluation import CLASSES, request_of

BASELINE = {"cross_entropy": 1.0, "sharpness_gap": 1.0, "cka_gap": 1.0}


def source(bench, text):
    return source_of(text, bench.student_shapes, bench.teacher_shapes)


def fingerprint(evaluator, text, seed=7):
    return np.frombuffer(evaluator.probe(Probe(source(evaluator.bench, text), seed)).fingerprint, dtype=np.float32)


# --- equivalence --------------------------------------------------------------------------------------------


def test_an_equal_gradient_is_found_and_another_is_not(bench):
    evaluator, prints = evaluator_on(bench), Fingerprints()
    prints.append(fingerprint(evaluator, "times(no(kl(softmax_C(logits, 4))), 1)"), 0.5)
    # a mean over classes in place of a sum is a factor, which the relative magnitude takes out
    for text, known in (("times(no(kl_mean(softmax_C(logits, 4))), 1)", True),
                        ("times(no(kl(softmax_C(logits, 4))), 2)", False),
                        ("times(no(kl(softmax_C(logits, 8))), 1)", False),
                        ("times(no(l2(logits)), 1)", False)):  # fmt: skip
        assert (prints.find(fingerprint(evaluator, text), 1) is not None) is known, text
        assert prints.find(fingerprint(evaluator, text), 0) is None


def test_a_fingerprint_keeps_lengths_and_finds_the_first_row_within_the_tolerance():
    prints = Fingerprints()
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((5, SKETCH * PROBES)).astype(np.float32)
    for row in (*rows, rows[2]):
        prints.append(row, 0.5)
    length = np.linalg.norm(rows[2])
    direction = generator.standard_normal(len(rows[2]))
    direction /= np.linalg.norm(direction)
    near = (rows[2] + 0.9 * SAME_GRADIENT * length * direction).astype(np.float32)
    far = (rows[2] + 1.2 * SAME_GRADIENT * length * direction).astype(np.float32)
    assert prints.find(near, 6) == 2
    assert prints.find(near, 2) is None
    assert prints.find(far, 6) is None
    assert prints.find(2 * rows[2], 6) is None
    assert prints.find(np.zeros_like(near), 6) is None
    assert prints.find(np.full_like(near, np.nan), 6) is None


@pytest.mark.parametrize("seed", range(8))
def test_the_cells_lose_no_equal_gradient(seed):
    """Beside a search through all, with gradients as near to one another as equal ones may be, and nearly so."""
    generator, prints = np.random.default_rng(seed), Fingerprints()
    rows = generator.standard_normal((60, SKETCH * PROBES)) * np.exp(generator.normal(0, 2, (60, 1)))
    rows[:, 6:] *= generator.choice([0.0, 0.01, 1.0], (60, 1))  # some lie nearly all in the axes of the cells
    apart = generator.standard_normal(rows.shape)
    apart *= np.linalg.norm(rows, axis=1, keepdims=True) / np.linalg.norm(apart, axis=1, keepdims=True)
    others = rows + apart * SAME_GRADIENT * generator.choice([0.0, 0.9, 0.999, 1.001], (60, 1))
    for row in rows.astype(np.float32):
        prints.append(row, 0.5)
    known, found = prints.first(60)[0], 0
    for other in others.astype(np.float32):
        close = np.flatnonzero(np.linalg.norm(known - other, axis=1) <= SAME_GRADIENT * float(np.linalg.norm(other)))
        assert prints.find(other, 60) == (close[0] if len(close) else None)
        found += len(close)
    assert 30 < found < 60


def test_the_folded_gradient_is_linear_in_the_magnitudes(bench):
    evaluator = evaluator_on(bench)

    def probed(text):
        return evaluator.prober.measure(evaluator.teacher(load_source(source(bench, text))))

    both = probed("add(times(no(kl(softmax_C(logits, 4))), 1), times(no(l2(logits)), 1))").fingerprint((2.0, 3.0))
    one = probed("times(no(kl(softmax_C(logits, 4))), 1)").fingerprint((2.0,))
    other = probed("times(no(l2(logits)), 1)").fingerprint((3.0,))
    assert np.allclose(both, one + other, rtol=1e-4, atol=1e-5)


# --- rejection ----------------------------------------------------------------------------------------------


def rejected(prober, teacher):
    try:
        must_lead_to_the_teacher(prober, teacher, CLASSES)
    except Rejected as reason:
        assert reason.screen == "rejection"
        return str(reason)
    return ""


@pytest.fixture(scope="module")
def trained(bench):
    """The evaluator of a teacher and a student that know something: on images that tell their class."""
    generator = torch.Generator().manual_seed(5)
    patterns = torch.randn(CLASSES, 1, 8, 8, generator=generator)
    images = bench.train.images * 0.5 + patterns[bench.train.labels]
    recipe = replace(bench.recipes["warm"], epochs=12)
    split = replace(bench.train, images=images, teacher={})
    networks = {}
    for name, epochs in (("digits_cnn_4", 12), ("digits_cnn_2", 3)):
        torch.manual_seed(1)
        network = student_builder(bench.student | {"name": name}, images[:2])()
        batches = Kept(split, CLASSES, replace(recipe, epochs=epochs), torch.device("cpu"), bench.precision)
        Trainer(network, bench.family, batches).train(0)
        networks[name] = network
    weights = {name: tensor.clone() for name, tensor in networks["digits_cnn_2"].network.state_dict().items()}
    return evaluator_on(
        replace(bench, train=replace(split, teacher=outputs(networks["digits_cnn_4"], images)), warm=weights)
    )


# Through an adapter that nobody trained, or on statistics of the batch, outputs need not come nearer by CKA.
INDIRECT = {"cc", "cwd", "fitnet", "ickd", "itrd", "nst"}


@pytest.mark.parametrize("name", sorted(INDIRECT))
def test_what_compares_features_indirectly_does_not_harm_the_classification(trained, name):
    teacher = trained.teacher(load_source(source(trained.bench, str(zoo[name]))))
    assert "raise its own loss" not in rejected(trained.prober, teacher)


@pytest.mark.parametrize("name", sorted(IMAGE_ZOO.keys() - INDIRECT))
def test_what_leads_to_the_teacher_passes_and_its_opposite_does_not(trained, name):
    teacher = trained.teacher(load_source(source(trained.bench, str(zoo[name]))))
    assert rejected(trained.prober, teacher) == ""
    teacher.distiller.magnitudes = tuple(-m for m in teacher.distiller.magnitudes)
    assert rejected(trained.prober, teacher)


def test_a_loss_that_ruins_the_classification_is_rejected(bench, monkeypatch):
    evaluator = evaluator_on(bench)
    student = evaluator.start(Train("", 0)).train()
    images = bench.train.images[:64]
    with torch.no_grad():
        student.network.fc.weight.mul_(30.0)
        labels = student(images)["logits"].argmax(dim=1)
    # the student is right and the teacher is sure of a wrong class: following it raises the cross-entropy
    wrong = {name: tensor[None, :64] for name, tensor in bench.train.teacher.items()}
    wrong["logits"] = 20.0 * torch.eye(CLASSES)[(labels + 1) % CLASSES][None]
    prober = Prober(student, bench.family, [Batch(images, labels, torch.arange(64))], evaluator.precision)
    distiller = load_source(source(bench, "times(no(l2(logits)), 1)"))
    teacher = KeptTeacher(distiller, bench.family, wrong, labels)
    monkeypatch.setattr(screens, "REJECTION_OWN_LOSS", 0.01)
    assert "raise its own loss" in rejected(prober, teacher)
    monkeypatch.setattr(screens, "REJECTION_OWN_LOSS", 100.0)
    assert rejected(prober, teacher) == ""


def test_rejection_leaves_the_distiller_and_the_outputs_as_they_were(bench):
    evaluator = evaluator_on(bench)
    prober, distiller = evaluator.prober, load_source(source(bench, "times(no(l2(feat)), 1)"))
    before = {name: tensor.clone() for name, tensor in distiller.state_dict().items()}
    computed = {name: tensor.detach().clone() for name, tensor in prober.outputs[0].items()}
    assert before, "this one has an adapter"
    rejected(prober, evaluator.teacher(distiller))
    assert all(torch.equal(tensor, before[name]) for name, tensor in distiller.state_dict().items())
    assert all(torch.equal(prober.outputs[0][name], tensor) for name, tensor in computed.items())


# --- the short proxy ----------------------------------------------------------------------------------------


def test_the_rung_stops_what_is_above_the_bound_and_keeps_what_it_measured(bench):
    stopped = evaluator_on(bench)(request_of(bench, "kd", rung=Rung(0.2, 0.0, BASELINE)))
    assert stopped.screen == "short" and stopped.reason.startswith("stopped after a part of the proxy: gaps ")
    assert stopped.metrics == {}
    expected = (stopped.short["sharpness_gap"] + stopped.short["cka_gap"]) / 2
    assert stopped.short["gaps"] == pytest.approx(expected)


@pytest.mark.parametrize("name", ["kd", "fitnet"])
def test_looking_at_the_rung_does_not_change_the_training(bench, name):
    evaluator = evaluator_on(bench)
    whole = evaluator(request_of(bench, name, rung=Rung(0.2, 1e9, BASELINE)))
    alone = evaluator(request_of(bench, name))
    assert whole.metrics == alone.metrics and whole.magnitudes == alone.magnitudes
    assert whole.short and not alone.short


def test_the_rung_stands_where_its_share_says(bench):
    evaluator = evaluator_on(bench)
    seen = []
    evaluator.on_step = lambda step, hard, soft: seen.append(step)
    for share, last in ((0.25, 1), (0.5, 3), (1e-9, 0)):  # of 8 steps
        seen.clear()
        assert evaluator(request_of(bench, "kd", rung=Rung(share, 0.0, BASELINE))).screen == "short"
        assert seen == list(range(last + 1))


# --- each by itself -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("screens", [(), ("finite",), ("rejection",), ("finite", "rejection")])
def test_a_screen_that_is_off_is_not_asked(bench, screens):
    probed = evaluator_on(bench).probe(request_of(bench, "kd", screens=screens).probe)
    # gradients are always measured, since magnitudes need them
    assert set(probed.stages) == {"finite", *screens}
    assert probed.fingerprint and not probed.reason


def test_a_loss_without_a_gradient_is_turned_away_by_finite_and_trained_without_it(bench):
    text = "times(no(l2(relu(log(sigmoid(logits))))), 1)"  # a logarithm of a share is never positive
    for chosen, reason in ((("finite",), "no gradient reaches the student"), ((), "")):
        assert evaluator_on(bench)(Request(source(bench, text), 7, screens=chosen)).reason == reason


def test_a_loss_that_keeps_too_much_memory_is_turned_away(bench):
    request = request_of(bench, "rkd")
    kept = evaluator_on(bench)(request).metrics["memory"]
    assert kept > 0.01
    for allowed, passes in ((1.1 * kept, True), (0.9 * kept, False)):
        outcome = evaluator_on(bench)(replace(request, memory=allowed))
        assert bool(outcome.metrics) == passes
        assert passes or outcome.reason.startswith("the loss keeps too much memory: ")


def test_memory_counts_each_tensor_that_backward_needs_once_and_holds_none_of_them():
    x = torch.randn(256, 1024, requires_grad=True)
    with _counted() as kept:
        loss = (x.sigmoid() * x).sum()  # keeps x and sigmoid(x), both twice
    assert kept.bytes == 2 * 256 * 1024 * 4
    (gradient,) = torch.autograd.grad(loss, x, retain_graph=True)
    assert torch.allclose(gradient, x.sigmoid() * (1 + x * (1 - x.sigmoid())), atol=1e-5)


class _Marked(torch.autograd.Function):
    """The identity, with something in its graph node that can be watched."""

    @staticmethod
    def forward(ctx, x, mark):
        ctx.mark = mark
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def test_memory_counting_frees_the_loss():
    class Mark:
        pass

    mark = Mark()
    watched = weakref.ref(mark)
    with _counted():
        # sigmoid keeps its own result, which would hold its node in turn
        loss = _Marked.apply(torch.randn(8, requires_grad=True), mark).sigmoid().sum()
    assert loss.requires_grad
    del mark, loss
    gc.collect()
    assert watched() is None


def test_probing_does_not_change_the_warm_student(bench):
    evaluator = evaluator_on(bench)
    student: nn.Module = evaluator.prober.student
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    for name in ("kd", "fitnet", "rkd"):
        evaluator.prober.measure(evaluator.teacher(load_source(source(bench, str(zoo[name])))))
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())
