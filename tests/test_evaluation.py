"""An evaluation is a function of its request: metrics as their formulas say, magnitudes as the mode says, nothing left
behind for the next request, and a reason instead of an exception for whatever a distiller does.

The bench here is tiny and random, since what is tested holds for any.
"""

import itertools
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from evaluations import Outcome, Request, evaluator_on
from kdzero_gp.compiler import source_of, terms, zoo
from kdzero_gp.compiler.loading import load_source
from kdzero_gp.engine import teacher as teachers
from kdzero_gp.engine.batches import Kept
from kdzero_gp.engine.outputs import FLOAT32, TensorSplit, outputs
from kdzero_gp.engine.recipe import Recipe
from kdzero_gp.errors import RunError, SettingError
from kdzero_gp.families.agreement import linear_cka
from kdzero_gp.families.classification import CLASSIFICATION
from kdzero_gp.models import build
from kdzero_gp.models.taps import Tapped
from kdzero_gp.proxy.evaluator import Evaluator, Probe, Probed, Train, Trained
from kdzero_gp.proxy.executor import Executor
from kdzero_gp.proxy.fitness import check_weights, fitness
from kdzero_gp.proxy.students import student_builder
from kdzero_gp.proxy.task import ProxyTask
from kdzero_gp.tasks.plan import PAPER_WEIGHTS, annealed

CLASSES = 4
PROBE = 64
ONE_SENTENCE = 300


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """As in a worker."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def part(count, seed, teacher=None):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 1, 8, 8, generator=generator)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    return TensorSplit(images, labels, {} if teacher is None else outputs(teacher, images))


def small_bench():
    """Two probe batches of training images; a teacher with twice the student's channels."""
    torch.manual_seed(0)
    example = torch.randn(2, 1, 8, 8)
    teacher = Tapped(build("digits_cnn_4", CLASSES, 1), example)
    spec = {"task": "digits", "name": "digits_cnn_2", "classes": CLASSES, "channels": 1, "taps": {}}
    student = student_builder(spec, example)()
    proxy = annealed(2, 0.05)
    return ProxyTask(
        train=part(4 * PROBE, 1, teacher),
        validation=part(64, 2, teacher),
        test=part(64, 3),
        student=spec,
        student_shapes=dict(student.shapes),
        teacher_shapes=dict(teacher.shapes),
        recipes={"warm": proxy, "proxy": proxy, "race": replace(proxy, epochs=1)},
        warm={name: tensor.clone() for name, tensor in student.network.state_dict().items()},
    )


@pytest.fixture(scope="module")
def bench():
    return small_bench()


@pytest.fixture(scope="module")
def evaluator(bench):
    return evaluator_on(bench)


def request_of(bench, name, **changes):
    """A proxy of a published method."""
    return Request(source_of(zoo[name], bench.student_shapes, bench.teacher_shapes), 7, **changes)


def all_metrics(student, teacher, labels):
    return CLASSIFICATION.measure([(student, labels)]) | CLASSIFICATION.compare(student, teacher, labels)


def results(outcome):
    """What of an outcome has to be reproducible."""
    return outcome.metrics, outcome.magnitudes, outcome.reason


# --- metrics and fitness --------------------------------------------------------------------------------------


def quadruple_hsic(one, other):
    """The definition of the unbiased estimator: a mean over all ordered quadruples of different samples."""
    values = [
        one[i, j] * (other[i, j] + other[q, r] - 2 * other[i, q])
        for i, j, q, r in itertools.permutations(range(len(one)), 4)
    ]
    return sum(values) / len(values)


def test_cka_is_the_quotient_of_unbiased_estimates():
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(8, size, generator=generator).double() for size in (3, 5))
    right[:, :3] += left
    one, other = (left @ left.t()).numpy(), (right @ right.t()).numpy()
    crossed, alone, beside = (quadruple_hsic(*pair) for pair in ((one, other), (one, one), (other, other)))
    assert linear_cka(left, right) == pytest.approx(crossed / math.sqrt(alone * beside), rel=1e-9)


def test_cka_of_batches_is_the_quotient_of_their_sums():
    generator = torch.Generator().manual_seed(1)
    left = torch.randn(15, 3, generator=generator).double()
    right = left[:, :2] + 0.3 * torch.randn(15, 2, generator=generator).double()
    sums = [0.0, 0.0, 0.0]
    for start in (0, 6):  # the three samples that are left are too few for an estimate
        one, other = (x[start : start + 6] @ x[start : start + 6].t() for x in (left, right))
        for index, (a, b) in enumerate(((one, other), (one, one), (other, other))):
            sums[index] += quadruple_hsic(a.numpy(), b.numpy())
    assert linear_cka(left, right, batch=6) == pytest.approx(sums[0] / math.sqrt(sums[1] * sums[2]), rel=1e-9)


@pytest.mark.parametrize("count", [5, 256, 700])
def test_cka_is_one_up_to_rotation_and_scale_and_near_zero_for_strangers(count):
    generator = torch.Generator().manual_seed(2)
    emb = torch.randn(count, 6, generator=generator)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=generator))[0]
    assert linear_cka(emb, -3.7 * emb @ rotation) == pytest.approx(1, abs=1e-5)
    if count > 200:
        assert abs(linear_cka(emb, torch.randn(count, 9, generator=generator))) < 0.15


def test_the_other_metrics_follow_their_formulas():
    generator = torch.Generator().manual_seed(3)
    student, teacher = (torch.randn(9, CLASSES, generator=generator).double() * 3 for _ in range(2))
    labels = torch.randint(CLASSES, (9,), generator=generator)
    rows, others = student.tolist(), teacher.tolist()
    sharpness = [math.log(sum(map(math.exp, row))) for row in rows]
    expected = {
        "cross_entropy": sum(s - row[y] for s, row, y in zip(sharpness, rows, labels.tolist(), strict=True)) / 9,
        "accuracy": sum(row.index(max(row)) == y for row, y in zip(rows, labels.tolist(), strict=True)) / 9,
        "sharpness_gap": sum(
            abs(s - math.log(sum(map(math.exp, row)))) for s, row in zip(sharpness, others, strict=True)
        )
        / 9,
    }
    on_a_grid = min(
        sum(math.log(sum(math.exp(b * z) for z in r)) - b * r[y] for r, y in zip(rows, labels.tolist(), strict=True))
        / 9
        for b in (math.exp(k / 400) for k in range(-2000, 1200))
    )
    found = all_metrics({"logits": student}, {"logits": teacher}, labels)
    assert found.pop("calibrated") == pytest.approx(on_a_grid, rel=1e-5)
    assert found == pytest.approx(expected)
    both = all_metrics({"logits": student, "emb": student}, {"logits": teacher, "emb": student}, labels)
    assert both["cka_gap"] == pytest.approx(0, abs=1e-9)


def test_fitness_is_one_for_the_baseline_and_a_weighted_mean_of_ratios():
    baseline = {"cross_entropy": 0.5, "sharpness_gap": 2.0, "cka_gap": 0.1}
    found = {"cross_entropy": 0.25, "sharpness_gap": 1.0, "cka_gap": 0.3}
    assert fitness(baseline, baseline, PAPER_WEIGHTS) == pytest.approx(1)
    assert fitness(found, baseline, PAPER_WEIGHTS) == pytest.approx((0.5 + 0.5 + 3) / 3)
    assert fitness(found, baseline, {"cross_entropy": 2, "sharpness_gap": 0, "cka_gap": 6}) == pytest.approx(
        (2 * 0.5 + 6 * 3) / 8
    )
    assert fitness(found | {"calibrated": 3.0}, baseline | {"calibrated": 2.0}, {"calibrated": 1}) == 1.5
    without = {name: value for name, value in found.items() if name != "cka_gap"}
    assert fitness(without, baseline, PAPER_WEIGHTS) == pytest.approx(0.5)


def test_fitness_is_the_same_to_the_last_bit_in_whatever_order_its_weights_are_kept():
    metrics = {"cross_entropy": 2.241346597671509, "sharpness_gap": 7.191900730133057, "cka_gap": 0.7424255852066303}
    baseline = {"cross_entropy": 2.2359, "sharpness_gap": 7.21, "cka_gap": 0.79}
    orders = [dict(order) for order in itertools.permutations(PAPER_WEIGHTS.items())]
    assert len({fitness(metrics, baseline, weights) for weights in orders}) == 1


@pytest.mark.parametrize(
    "weights", [{"cka_gap": 0.0}, {"cka_gap": -1.0}, {"cka_gap": math.nan}, {"taste": 1.0}], ids=str
)
def test_fitness_weights_that_make_no_sense_are_refused(weights):
    with pytest.raises(SettingError):
        check_weights({"cross_entropy": 0.0} | weights, CLASSIFICATION.metrics)


# --- recipes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("steps", [10, 20, 137])
def test_rates_rise_to_the_peak_and_fall_to_zero(schedule, steps):
    recipe = Recipe(epochs=1, batch_size=2, learning_rate=0.3, schedule=schedule, warmup=0.1)
    rates = [recipe.rate(step, steps) for step in range(steps)]
    rising = round(0.1 * steps)
    assert rates[:rising] == pytest.approx([0.3 * (step + 1) / rising for step in range(rising)])
    assert max(rates) == pytest.approx(0.3) and min(rates) > 0
    falling = rates[rising:]
    assert falling == sorted(falling, reverse=True)
    left = len(falling)
    # the step after the last would have the rate 0
    last = {"constant": 1.0, "linear": 1 / left, "cosine": 0.5 * (1 - math.cos(math.pi / left))}[schedule]
    assert falling[-1] == pytest.approx(0.3 * last)


def test_a_recipe_counts_whole_batches_and_every_epoch_sees_an_image_once():
    recipe = Recipe(epochs=2.5, batch_size=64, learning_rate=0.1)
    split = TensorSplit(torch.arange(900.0).view(-1, 1), torch.zeros(900, dtype=torch.long))
    batches = Kept(split, CLASSES, recipe, torch.device("cpu"), FLOAT32)
    assert batches.steps == 14 and recipe.steps(batches.steps) == 35

    def order(seed, epoch):
        return torch.cat([batch.indices for batch in batches.epoch(seed, epoch)])

    assert len(order(5, 0).unique()) == 14 * 64
    assert torch.equal(order(5, 0), order(5, 0))
    assert not torch.equal(order(5, 0), order(5, 1)) and not torch.equal(order(5, 0), order(6, 0))
    few = Kept(TensorSplit(split.images[:10], split.labels[:10]), CLASSES, recipe, torch.device("cpu"), FLOAT32)
    assert few.steps == 1 and few.batch_size == 10 and recipe.steps(few.steps) == 2


def test_half_an_epoch_is_trained_half(bench):
    evaluator = evaluator_on(
        replace(bench, recipes=bench.recipes | {"proxy": replace(bench.recipes["proxy"], epochs=1.5)})
    )
    seen = []
    evaluator.on_step = lambda step, own, distilled: seen.append(step)
    assert not evaluator(request_of(bench, "kd")).reason
    assert seen == list(range(6))


@pytest.mark.parametrize(
    "change", [{"epochs": 0}, {"batch_size": 1}, {"learning_rate": 0.0}, {"schedule": "staircase"}], ids=str
)
def test_a_recipe_that_makes_no_sense_is_refused(change):
    with pytest.raises(SettingError):
        Recipe(**({"epochs": 1, "batch_size": 2, "learning_rate": 0.1} | change))


# --- one request, one outcome -------------------------------------------------------------------------------------

COSTS = ("seconds", "stages", "step_milliseconds")
# Adapters, noise, batch statistics of a race, an exception: what could leave something behind.
OTHERS = ("fitnet", "at", "itrd")


def test_the_same_request_gives_the_same_outcome_to_the_last_bit_whatever_came_before(bench, evaluator):
    warm = {name: tensor.clone() for name, tensor in bench.warm.items()}
    requests = [request_of(bench, "kd"), request_of(bench, "fitnet"), request_of(bench, "rkd", recipe="race")]
    noisy = source_of("times(no(l2(mask(drop(feat)))), 1)", bench.student_shapes, bench.teacher_shapes)
    requests += [Request("", 7), Request("", 7, "race"), Request(noisy, 7)]
    first = [evaluator(request) for request in requests]
    assert not any(outcome.reason for outcome in first)
    for name in OTHERS:
        evaluator(request_of(bench, name, magnitude="joint", factor=3.0))
    for term in ("float('nan') * student['logits'].sum()", "1 / 0"):
        assert evaluator(Request(hand_written(term), 3)).reason
    evaluator.probe(requests[1].probe)
    torch.manual_seed(99)
    again = [evaluator(request) for request in reversed(requests)]
    fresh = evaluator_on(bench)
    for one, other, request in zip(first, reversed(again), requests, strict=True):
        assert results(one) == results(other) == results(fresh(request))
    assert all(torch.equal(bench.warm[name], tensor) for name, tensor in warm.items())


def test_another_seed_gives_another_outcome(bench, evaluator):
    request = request_of(bench, "kd")
    assert results(evaluator(request)) != results(evaluator(replace(request, seed=8)))


def test_a_bench_comes_back_from_its_file_and_a_damaged_one_is_named(bench, evaluator, tmp_path):
    path = tmp_path / "bench.pt"
    bench.save(path)
    loaded = evaluator_on(ProxyTask.load(path))
    for request in (request_of(bench, "kd"), Request("", 3, "race")):
        assert results(loaded(request)) == results(evaluator(request))
    assert [found.name for found in tmp_path.iterdir()] == ["bench.pt"]
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(RunError, match="damaged"):
        ProxyTask.load(path)
    with pytest.raises(RunError, match="cannot write"):
        bench.save(tmp_path / "missing" / "bench.pt")


@pytest.mark.parametrize("name", ["kd", "fitnet", "at", "nst", "dkd", "rkd"])
def test_targets_prepared_once_are_those_prepared_for_each_batch(bench, evaluator, monkeypatch, name):
    once = evaluator(request_of(bench, name))
    monkeypatch.setattr(teachers, "TARGET_BYTES", 0)
    assert evaluator(request_of(bench, name)).metrics == pytest.approx(once.metrics, rel=1e-4, abs=1e-5)


class Poison:
    """Test images that remember whether they were touched."""

    touched = False

    def __getattr__(self, name):
        type(self).touched = True
        raise AssertionError("test images were touched")


def test_a_proxy_never_touches_test_images(bench):
    poisoned = evaluator_on(replace(bench, test=Poison()))
    for name in ("kd", "fitnet"):
        for magnitude in ("relative", "joint", "absolute"):
            outcome = poisoned(request_of(bench, name, magnitude=magnitude))
            assert outcome.reason == "" and not any(name.startswith("test_") for name in outcome.metrics)
    poisoned.probe(request_of(bench, "kd").probe)
    assert not Poison.touched


def test_a_race_reports_the_test_accuracy(bench, evaluator):
    seen = {}
    started = evaluator.start
    try:
        evaluator.start = lambda request: seen.setdefault("student", started(request))
        outcome = evaluator(request_of(bench, "kd", recipe="race"))
    finally:
        evaluator.start = started
    with torch.no_grad():
        logits = seen["student"].eval()(bench.test.images)["logits"]
    right = sum(int(row.argmax()) == int(label) for row, label in zip(logits, bench.test.labels, strict=True))
    assert outcome.metrics["test_accuracy"] == pytest.approx(right / len(bench.test.labels))


# --- magnitudes --------------------------------------------------------------------------------------------------


def gradients(bench, source):
    """Mean gradient norms on the two probe batches at the warm student, computed by plain backward passes: of each
    term at γ = 1, of the distiller's loss, of the cross-entropy."""
    torch.manual_seed(7)
    distiller = load_source(source)
    norms = []
    for start in (0, PROBE):
        rows = slice(start, start + PROBE)
        images, labels = bench.train.images[rows], bench.train.labels[rows]
        teacher = {name: tensor[rows] for name, tensor in bench.train.teacher.items()}
        found = []
        for which in range(len(distiller.magnitudes) + 2):
            student = student_builder(bench.student, bench.train.images[:2])()
            student.network.load_state_dict(bench.warm)
            student.train()
            seen = student(images)
            if which < len(distiller.magnitudes):
                loss = distiller.terms(seen, distiller.prepare(teacher, labels), labels)[which]
            elif which == len(distiller.magnitudes):
                loss = distiller(seen, teacher, labels)
            else:
                loss = F.cross_entropy(seen["logits"], labels)
            loss.backward()
            reached = [p.grad.flatten() for p in student.parameters() if p.grad is not None]
            found.append(torch.cat(reached).norm().item())
        norms.append(found)
    means = [sum(pair) / 2 for pair in zip(*norms, strict=True)]
    return means[:-2], means[-2], means[-1]


@pytest.mark.parametrize("name", ["kd", "rkd", "dkd", "fitnet"])
def test_relative_magnitudes_give_every_term_its_share_of_the_gradient(bench, evaluator, name):
    request = request_of(bench, name)
    parts, _, hard = gradients(bench, request.source)
    wanted = [term.arguments[1] for term in terms(zoo[name])]
    found = evaluator(request).magnitudes
    assert [m * norm / hard for m, norm in zip(found, parts, strict=True)] == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("factor", [0.3, 1.0, 3.0])
def test_joint_magnitudes_scale_the_sum_and_keep_the_ratios(bench, evaluator, factor):
    request = request_of(bench, "rkd", magnitude="joint", factor=factor)
    _, total, hard = gradients(bench, request.source)
    found = evaluator(request).magnitudes
    assert found[0] / found[1] == pytest.approx(50 / 25)
    assert found[0] * total / 50 == pytest.approx(factor * hard, rel=1e-3)


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_absolute_magnitudes_are_the_numbers_that_were_given(bench, evaluator, factor):
    request = request_of(bench, "rkd", magnitude="absolute", factor=factor)
    assert evaluator(request).magnitudes == (50 * factor, 25 * factor)


def test_relative_magnitudes_are_worth_the_same_whatever_a_loss_is_multiplied_by(bench, evaluator):
    plain, scaled = (hand_written(f"{scale} * student['logits'].square().mean()") for scale in (1.0, 4096.0))
    one, other = evaluator(Request(plain, 1)), evaluator(Request(scaled, 1))
    assert one.magnitudes[0] == pytest.approx(4096 * other.magnitudes[0])
    assert one.metrics == pytest.approx(other.metrics, rel=1e-4)


# --- what a distiller may do ------------------------------------------------------------------------------------------

_WRITTEN = """
import torch
import torch.nn.functional as F
from torch import nn

class Distiller(nn.Module):
    KNOWLEDGE = ("logits", "feat")

    def __init__(self):
        super().__init__()
        self.magnitudes, self.calls = (1.0,), 0

    def prepare(self, teacher, labels):
        return {{name: teacher[name] for name in ("logits", "feat")}}

    def terms(self, student, targets, labels):
        self.calls += 1
        return ({term},)

    def loss(self, student, targets, labels):
        return self.magnitudes[0] * self.terms(student, targets, labels)[0]
"""


def hand_written(term):
    """The source of a distiller with one term, a Python expression."""
    return _WRITTEN.format(term=term)


BAD = {
    "nan": ("student['logits'].sum() * float('nan')", "not finite"),
    "infinite": ("student['logits'].sum() * float('inf')", "not finite"),
    "nan-gradient": ("(student['logits'] - student['logits']).square().sum().sqrt()", "gradient is not finite"),
    "zero": ("student['logits'].sum() * 0", "no gradient"),
    "constant": ("targets['logits'].sum()", "no gradient"),
    "unreachable": ("student['logits'].detach().sum()", "no gradient"),
    "nan-later": ("student['logits'].sum() * (float('nan') if self.calls > 4 else 1)", "loss became nan at step"),
    "exploding": ("student['logits'].sum() * 10.0 ** min(300, self.calls ** 3)", "loss became"),
    "shapes": ("(student['feat'] - targets['feat']).square().mean()", "RuntimeError"),
    "division": ("1 / 0", "ZeroDivisionError"),
    "name": ("student['attention'].sum()", "KeyError"),
    "index": ("[student['logits'].sum()][3]", "IndexError"),
    "attribute": ("student['logits'].softsum()", "AttributeError"),
    "type": ("student['logits'] + 'a'", "TypeError"),
    "assertion": ("(_ for _ in ()).throw(AssertionError('a\\nb'))", "AssertionError"),
    "recursion": ("self.terms(student, targets, labels)[0]", "RecursionError"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("magnitude", ["relative", "absolute"])
def test_whatever_a_distiller_does_becomes_a_reason_of_one_sentence(bench, evaluator, name, magnitude):
    term, words = BAD[name]
    outcome = evaluator(Request(hand_written(term), 1, magnitude=magnitude))
    assert isinstance(outcome, Outcome)
    assert words in outcome.reason and "\n" not in outcome.reason
    assert len(outcome.reason) < ONE_SENTENCE and outcome.metrics == {}
    assert not evaluator(request_of(bench, "kd")).reason, "the next request is served as ever"


def test_a_student_that_a_distiller_destroyed_is_rejected(bench):
    fast = replace(bench, recipes=bench.recipes | {"proxy": replace(bench.recipes["proxy"], learning_rate=1.0)})
    source = hand_written("-student['logits'].square().sum()")
    outcome = evaluator_on(fast)(Request(source, 1, magnitude="absolute", factor=10.0))
    assert "the student was destroyed" in outcome.reason and outcome.metrics == {}


@pytest.mark.parametrize("source", ["class Distiller(", "x = 1", "import nowhere_to_be_found"])
def test_a_source_that_cannot_be_loaded_becomes_a_reason(evaluator, source):
    reason = evaluator(Request(source, 1)).reason
    assert reason and "\n" not in reason and len(reason) < ONE_SENTENCE


# --- worker processes --------------------------------------------------------------------------------------------


def test_workers_answer_like_this_process_and_survive_what_kills_one(bench, evaluator, tmp_path):
    bench.save(tmp_path / "bench.pt")
    probes = [request_of(bench, name).probe for name in ("kd", "fitnet")]
    trains = [request_of(bench, name).train((1.0,)) for name in ("kd", "fitnet")]
    deadly = Train("import os\nos.kill(os.getpid(), 9)", 1)
    endless = Probe("import time\ntime.sleep(600)", 1)
    bad = Probe(hand_written("1 / 0"), 1)
    with Executor(tmp_path / "bench.pt", workers=2, timeout=6.0) as executor:
        answers = dict(executor.map([*probes, deadly, *trains, endless, bad]))
        assert executor.arrived(wait=False) is None
    assert sorted(answers) == list(range(7))
    for place, request in ((0, probes[0]), (1, probes[1]), (3, trains[0]), (4, trains[1])):
        assert without_cost(answers[place]) == without_cost(evaluator(request))
    assert isinstance(answers[2], Trained) and "SIGKILL" in answers[2].reason and "on two workers" in answers[2].reason
    assert isinstance(answers[5], Probed) and "took longer than 6 s, on two workers" in answers[5].reason
    assert "ZeroDivisionError" in answers[6].reason


def without_cost(answer):
    """What of an answer has to be reproducible."""
    return {name: value for name, value in vars(answer).items() if name not in COSTS}


def test_the_error_is_what_the_deciding_measure_lacks(bench):
    evaluator = Evaluator(bench, student_builder(bench.student, bench.train.images[:2]))
    trained = evaluator.train(Train("", 0))
    assert trained.metrics["error"] == pytest.approx(1.0 - trained.metrics["accuracy"])
    weights = {"error": 1.0}
    assert fitness(trained.metrics, {"error": 0.5}, weights) == pytest.approx(trained.metrics["error"] / 0.5)
