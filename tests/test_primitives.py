"""Every operation of the catalogue keeps what its declaration promises."""

import dataclasses
import inspect
import itertools
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import references
from primitives import (
    BATCH,
    CATALOGUE,
    CONSTANTS,
    LOGITS,
    SAMPLE,
    Catalogue,
    DuplicateOperationError,
    PairType,
    distances,
)
from primitives.types import DISTRIBUTIONS, RANKS
from strategies import SIZES, normalised, shape_of, tensor_of

TOLERANCE = 1e-6
CLASSES = SIZES["C"]


def labels_of(count, classes=CLASSES):
    return torch.arange(count) * 3 % classes


def labels_for(x):
    """One label for each place of logits N×C(×…)."""
    places = x[:, 0]
    return labels_of(places.numel(), x.shape[1]).view(places.shape).to(x.device)


def call(operation, x, temperature=4.0, noise=None, labels=None):
    """Apply a transform to one side, with what it needs besides the tensor."""
    extra = [temperature for _ in operation.parameters]
    if operation.noise is not None:
        extra.append(operation.noise(x) if noise is None else noise)
    if operation.needs:
        extra.append(labels_for(x) if labels is None else labels)
    return operation.function(x, *extra)


def losses_of(operation, student, teacher, pair):
    """Apply a distance; those that are specialised by type get the type."""
    return operation.function(student, teacher, *([pair] if operation.specialise else []))


def generator_of(*key):
    return torch.Generator().manual_seed(sum(map(ord, "".join(map(str, key)))))


def plain(role):
    """The operations for any pair; those for label maps are in test_places.py."""
    return [operation for operation in CATALOGUE.of_role(role) if not operation.dense]


def cases(role):
    """operation × overload, as test parameters."""
    return [
        pytest.param(operation, given[0], result, id=f"{operation.name}-{describe(given[0])}")
        for operation in plain(role)
        for given, result in operation.overloads.items()
    ]


def rank_cases(role):
    """operation × what its function sees of a type: the rank, or the whole type where it is specialised."""
    found = {}
    for operation in plain(role):
        for pair, *_ in operation.overloads:
            seen = pair if operation.specialise else pair.rank
            found.setdefault((operation.name, seen), (operation, pair))
    return [pytest.param(*case, id=f"{case[0].name}-{describe(case[1])}") for case in found.values()]


def describe(pair):
    return "-".join(part for part in (pair.rank, pair.kind, pair.axis) if part)


def kind_cases(role):
    """operation × rank, each with all kinds that it has there and the result for each: {type: result}."""
    found = {}
    for operation in plain(role):
        for (pair, *_), result in operation.overloads.items():
            found.setdefault((operation.name, pair.rank), {})[pair] = result
    return [pytest.param(CATALOGUE[name], kinds, id=f"{name}-{rank}") for (name, rank), kinds in found.items()]


transforms = pytest.mark.parametrize(("operation", "pair", "result"), cases("transform"))
transforms_by_rank = pytest.mark.parametrize(("operation", "pair"), rank_cases("transform"))
transforms_with_kinds = pytest.mark.parametrize(("operation", "kinds"), kind_cases("transform"))
distances_by_type = pytest.mark.parametrize(("operation", "pair", "result"), cases("distance"))
distances_by_rank = pytest.mark.parametrize(("operation", "pair"), rank_cases("distance"))
distances_with_kinds = pytest.mark.parametrize(("operation", "kinds"), kind_cases("distance"))
calibrations = pytest.mark.parametrize("operation", CATALOGUE.of_role("calibration"), ids=lambda o: o.name)


# --- declarations -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", CATALOGUE, ids=lambda operation: operation.name)
def test_docstring_begins_with_the_formula_and_states_the_shapes(operation):
    docstring = inspect.getdoc(operation.function)
    first, blank, *body = docstring.splitlines()
    assert first == operation.formula
    assert first.endswith(".")
    assert blank == ""
    assert re.search(r"N×|N losses|to N\b|[Aa]ny (shape|rank)|[Ss]calar", " ".join(body)), "says no shape"


@pytest.mark.parametrize("operation", CATALOGUE, ids=lambda operation: operation.name)
def test_every_operation_names_its_source(operation):
    """A paper's section or listing, an arXiv number, or authors with their year; what is the language's own says so."""
    pattern = r"supplement, (listing|section) \w|arXiv:\d{4}\.\d{5}|\b(19|20)\d\d\b|^sum of losses, so that"
    assert re.search(pattern, operation.source), operation.source
    assert operation.overloads


def test_every_operation_has_an_independent_reference():
    tables = {
        "transform": references.TRANSFORMS,
        "distance": references.DISTANCES,
        "calibration": references.CALIBRATIONS,
        "combination": references.COMBINATIONS,
    }
    for role, table in tables.items():
        assert set(table) == {operation.name for operation in plain(role)}
    assert {operation.role for operation in CATALOGUE if not operation.dense} == set(tables)


def test_the_paper_has_all_of_its_operations():
    """The supplement's listings 1 to 4, under the names of DESIGN section 5."""
    listed = {
        "transform": "exp mish leaky_relu relu tanh sigmoid swish abs pow2 pow4 log sqrt drop satt natt catt "
        "mask bmm mm batch channel scale_r1 scale_r2 scale_r4 local_s1 local_s2 local_s4 norm_HW norm_C "
        "norm_N "
        "softmax_N softmax_C softmax_HW logsoftmax_N logsoftmax_C logsoftmax_HW scale min_max_normalize "
        "batchnorm",
        "distance": "l1 l2 kl hard smooth_l1 cos pear cor",
        "calibration": "entropy focal sim conf no",
    }
    for role, names in listed.items():
        assert {operation.name for operation in CATALOGUE.of_role(role) if operation.paper} == set(names.split())


def test_declaring_a_name_twice_raises():
    catalogue = Catalogue()
    catalogue.declare(CATALOGUE["relu"])
    with pytest.raises(DuplicateOperationError, match="relu"):
        catalogue.declare(dataclasses.replace(CATALOGUE["tanh"], name="relu"))
    assert catalogue["relu"] is CATALOGUE["relu"]


# --- transforms ---------------------------------------------------------------------------------------------


def assert_is_of_type(x, given, count):
    """The tensor has the rank, the batch size and the kind that the type declares."""
    dimensions = {"matrix": 2, "tokens": 3, "map": 4, "plane": 4, "relation": 2, "columns": 2}
    assert x.dim() == dimensions[given.rank], given
    assert x.shape[1 if given.rank == "columns" else 0] == count, given
    if given.rank == "plane":
        assert x.shape[1] == 1, given
    if given.rank == "relation":
        assert x.shape[1] == count, given
    if given.kind in DISTRIBUTIONS:
        probability = x.exp() if given.kind == "log_probability" else x
        assert (probability >= 0).all()
        sums = probability.sum(dim=RANKS[given.rank].dimensions[given.axis])
        torch.testing.assert_close(sums, torch.ones_like(sums), rtol=1e-9, atol=1e-9)


@transforms_with_kinds
def test_transform_gives_the_declared_type(operation, kinds):
    for pair, result in kinds.items():
        x = tensor_of(pair, generator_of(operation.name, pair))
        assert_is_of_type(x, pair, SIZES["N"])
        assert_is_of_type(call(operation, x), result, SIZES["N"])


@transforms
def test_transform_equals_its_reference(operation, pair, result):
    x = tensor_of(pair, generator_of(operation.name, pair)).requires_grad_()
    noise = operation.noise(x.detach()) if operation.noise is not None else None
    labels = labels_for(x) if operation.needs else None
    extra = [
        *(4.0 for _ in operation.parameters),
        *(one for one in (noise, labels) if one is not None),
    ]
    y, expected = call(operation, x, 4.0, noise, labels), references.TRANSFORMS[operation.name](x, *extra)
    assert_equal_with_gradients(y, expected, [x])


# The canonical form leaves these out where they change nothing.
LEFT_OUT = ("scale_r1", "channel", "local_s1", "over")


@transforms_with_kinds
def test_transform_changes_what_it_is_defined_for(operation, kinds):
    """No tree contains a silent no-op, says DESIGN section 5: T = 1 is where a second softmax would be one."""
    for pair in kinds:
        x = tensor_of(pair, generator_of(operation.name, pair))
        y = call(operation, x, 1.0)
        assert operation.name in LEFT_OUT or y.shape != x.shape or not torch.allclose(y, x), pair


@transforms_with_kinds
def test_result_of_a_transform_depends_on_the_values(operation, kinds):
    """The mean of probabilities over their own axis would be the same for every input."""
    for pair in kinds:
        generator = generator_of(operation.name, pair)
        x, other = tensor_of(pair, generator), tensor_of(pair, generator)
        noise = operation.noise(x) if operation.noise is not None else None
        y, another = (call(operation, one, 1.0, noise) for one in (x, other))
        assert not torch.allclose(y, another, rtol=1e-6, atol=1e-9), pair


def assert_equal_with_gradients(y, expected, inputs):
    torch.testing.assert_close(y, expected, rtol=TOLERANCE, atol=1e-9)
    cotangent = torch.randn(y.shape, generator=generator_of("cotangent"), dtype=y.dtype)
    ours = torch.autograd.grad((y * cotangent).sum(), inputs, retain_graph=True)
    theirs = torch.autograd.grad((expected * cotangent).sum(), inputs)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=TOLERANCE, atol=TOLERANCE * other.abs().max().item() + 1e-12)


@transforms_by_rank
def test_transform_keeps_the_dtype(operation, pair):
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x = tensor_of(pair, generator_of(operation.name), dtype)
        assert call(operation, x).dtype == dtype


@transforms_by_rank
def test_transform_keeps_the_device(operation, pair):
    """On the device without data."""
    x = tensor_of(pair, generator_of(operation.name)).to("meta")
    y = call(operation, x)
    assert y.device.type == "meta"
    assert y.shape == call(operation, tensor_of(pair, generator_of(operation.name))).shape


@pytest.mark.gpu
@transforms_by_rank
def test_transform_on_a_gpu_equals_the_one_on_the_processor(operation, pair):
    x = tensor_of(pair, generator_of(operation.name))
    noise = operation.noise(x) if operation.noise is not None else None
    labels = labels_for(x) if operation.needs else None
    there = [None if one is None else one.cuda() for one in (noise, labels)]
    y = call(operation, x.cuda(), 4.0, *there)
    assert y.is_cuda
    torch.testing.assert_close(y.cpu(), call(operation, x, 4.0, noise, labels))


@transforms_by_rank
def test_transform_passes_gradcheck(operation, pair):
    x = tensor_of(pair, generator_of("gradcheck", operation.name)).requires_grad_()
    noise = operation.noise(x.detach()) if operation.noise is not None else None
    assert torch.autograd.gradcheck(lambda x: call(operation, x, 4.0, noise), [x], fast_mode=True)


SPACES = {"1×1": (1, 1), "1×5": (1, 5), "3×3": (3, 3), "7×7": (7, 7)}


def hard_inputs(given, dtype, batch, space):
    """Zeros, ±10⁴, constant rows, one-hot rows: as they are, or as the distributions that they lead to."""
    h, w = SPACES[space]
    shape = shape_of(given.rank, N=batch, M=h * w, H=h, W=w)
    zeros = torch.zeros(shape)
    signs = 1.0 - 2.0 * (torch.arange(zeros.numel()).view(shape) % 2)
    one_hot = zeros.clone()
    one_hot.view(shape[0], -1)[:, 0] = 1.0
    constant = zeros + torch.arange(1.0, shape[0] + 1.0).view(-1, *[1] * (len(shape) - 1))
    raw = {
        "zeros": zeros,
        "huge": 1e4 * signs,
        "one-hot": one_hot,
        "constant": constant,
        "huge alone": 1e4 * one_hot,
    }
    for name, x in raw.items():
        yield name, normalised(x.to(torch.float64), given.kind, given.rank, given.axis).to(dtype)


def all_hard_inputs(given):
    """Inputs by name, one dictionary for each dtype, batch size and (of what has space) spatial size."""
    spaces = SPACES if given.rank in ("tokens", "map", "plane") else ["1×1"]
    for batch, space in itertools.product((1, 2), spaces):
        yield dict(hard_inputs(given, torch.float32, batch, space))
    yield dict(hard_inputs(given, torch.float64, 2, "3×3"))


@transforms_with_kinds
def test_transform_is_finite_on_hard_inputs(operation, kinds):
    for pair in kinds:
        for inputs in all_hard_inputs(pair):
            for name, x in inputs.items():
                x.requires_grad_()
                y = call(operation, x)
                where = f"{name} {tuple(x.shape)} {x.dtype}, {pair}"
                assert y.isfinite().all(), where
                y.sum().backward()
                assert x.grad.isfinite().all(), f"gradient at {where}"


def row_dependence(operation, pair):
    """Whether row 0 of the result changes with the other samples."""
    generator = generator_of("rows", operation.name, pair)
    x = tensor_of(pair, generator, N=4)
    other = tensor_of(pair, generator, N=4)
    if pair.kind in DISTRIBUTIONS and pair.axis == "N":
        other = other[[0, 2, 3, 1]]
        other[0] = x[0]
    changed = torch.cat((x[:1], other[1:]))
    noise = operation.noise(x) if operation.noise is not None else None
    one, two = call(operation, x, 4.0, noise), call(operation, changed, 4.0, noise)
    return not torch.equal(one[0], two[0])


@transforms_with_kinds
def test_transform_that_is_declared_per_sample_sees_one_sample_alone(operation, kinds):
    for pair in kinds:
        assert not (operation.per_sample and row_dependence(operation, pair)), pair


@transforms_with_kinds
def test_transform_that_is_not_declared_per_sample_sees_the_others(operation, kinds):
    """Or its teacher's part would be computed again at every step for nothing."""
    belongs_to_the_batch = next(iter(kinds)).rank == "relation"
    assert operation.per_sample or belongs_to_the_batch or any(row_dependence(operation, pair) for pair in kinds)


NOISY = [
    pytest.param(operation, rank, id=f"{operation.name}-{rank}")
    for operation in CATALOGUE
    for rank in RANKS
    if operation.noise is not None and (PairType(rank), *operation.parameters) in operation.overloads
]


@pytest.mark.parametrize(("operation", "rank"), NOISY)
def test_noise_fits_every_tensor_that_agrees_on_the_declared_axes(operation, rank):
    """One draw for both sides, whatever the axes are on which they need not agree."""
    given = PairType(rank)
    free = {"C": {"C": 9}, "HW": {"M": 11, "H": 5, "W": 2}}
    changed = {size: value for axis in free if axis not in operation.agree for size, value in free[axis].items()}
    draw = operation.noise(tensor_of(given, generator_of("student")))
    teacher = tensor_of(given, generator_of("teacher"), **changed)
    assert operation.function(teacher, draw).shape == teacher.shape


def test_mask_hides_sixty_five_percent_of_the_places_in_all_channels():
    x = torch.ones(40, 3, 20, 20)
    hidden = CATALOGUE["mask"].function(x, CATALOGUE["mask"].noise(x)) == 0
    assert (hidden == hidden[:, :1]).all()
    assert abs(hidden.double().mean().item() - 0.65) < 0.02


def test_drop_keeps_the_mean_and_drops_a_tenth_of_the_channels():
    x = torch.ones(40, 300, 2, 2)
    y = CATALOGUE["drop"].function(x, CATALOGUE["drop"].noise(x))
    dropped = (y == 0).flatten(2)
    assert (dropped == dropped[:, :, :1]).all()
    assert abs(dropped.double().mean().item() - 0.1) < 0.02
    assert abs(y.mean().item() - 1.0) < 0.02


# --- distances ----------------------------------------------------------------------------------------------


def two_sides(operation, pair, **sizes):
    """A student that requires a gradient, and a teacher."""
    generator = generator_of("sides", operation.name, pair)
    student = tensor_of(pair, generator, **sizes)
    return student.requires_grad_(), tensor_of(pair, generator, **sizes)


@distances_with_kinds
def test_distance_gives_one_loss_for_each_sample_or_losses_of_the_batch(operation, kinds):
    for pair, result in kinds.items():
        losses = losses_of(operation, *two_sides(operation, pair), pair)
        assert losses.shape == (SIZES["N"],) if result == SAMPLE else losses.dim() <= 1, pair


@distances_by_type
def test_distance_equals_its_reference(operation, pair, result):
    student, teacher = two_sides(operation, pair)
    expected = references.DISTANCES[operation.name](student, teacher, pair)
    assert_equal_with_gradients(losses_of(operation, student, teacher, pair), expected, [student])


def test_mmd_compares_different_numbers_of_channels():
    student = torch.randn(3, 2, 6, dtype=torch.float64)
    teacher = torch.randn(3, 5, 6, dtype=torch.float64)
    expected = references.DISTANCES["mmd"](student, teacher, None)
    torch.testing.assert_close(distances.mmd(student, teacher), expected)


@distances_by_rank
def test_distance_keeps_the_dtype(operation, pair):
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        student, teacher = (side.detach().to(dtype) for side in two_sides(operation, pair))
        assert losses_of(operation, student, teacher, pair).dtype == dtype


@distances_by_rank
def test_distance_keeps_the_device(operation, pair):
    student, teacher = (side.detach().to("meta") for side in two_sides(operation, pair))
    assert losses_of(operation, student, teacher, pair).device.type == "meta"


@distances_by_rank
def test_distance_passes_gradcheck(operation, pair):
    student, teacher = two_sides(operation, pair)
    check = torch.autograd.gradcheck
    assert check(lambda student: losses_of(operation, student, teacher, pair), [student], fast_mode=True)


@distances_with_kinds
def test_distance_is_finite_on_hard_inputs(operation, kinds):
    for pair in kinds:
        for inputs in all_hard_inputs(pair):
            for (name, x), other in itertools.product(inputs.items(), ("zeros", "huge", "one-hot")):
                student = x.clone().requires_grad_()
                losses = losses_of(operation, student, inputs[other], pair)
                where = f"{name} against {other} {tuple(x.shape)} {x.dtype}, {pair}"
                assert losses.isfinite().all(), where
                losses.sum().backward()
                assert student.grad.isfinite().all(), f"gradient at {where}"


# A cross-entropy has the teacher's entropy as its least value, and cor is a logarithm.
@distances_with_kinds
def test_distance_between_equal_sides_is_zero(operation, kinds):
    for pair in kinds:
        if operation.name not in ("hard", "soft_cross_entropy", "cor"):
            _, teacher = two_sides(operation, pair)
            losses = losses_of(operation, teacher, teacher, pair)
            # cos and pear have 10⁻⁸ in the denominator.
            torch.testing.assert_close(losses, torch.zeros_like(losses), rtol=0.0, atol=1e-4)


@distances_with_kinds
def test_loss_of_a_sample_does_not_depend_on_the_others(operation, kinds):
    for pair, result in kinds.items():
        if result == SAMPLE:
            student, teacher = (side.detach().clone() for side in two_sides(operation, pair))
            one = losses_of(operation, student, teacher, pair)
            student[1:], teacher[1:] = student[1:].flip(0), teacher[1:].flip(0) * 0.5
            assert losses_of(operation, student, teacher, pair)[0] == one[0], pair


@pytest.mark.parametrize("pair", [given[0] for given in CATALOGUE["kl"].overloads], ids=describe)
@pytest.mark.parametrize("name", ["kl", "kl_mean"])
def test_divergence_of_distributions_is_never_negative(name, pair):
    operation = CATALOGUE[name]
    losses = losses_of(operation, *two_sides(operation, pair), pair)
    # Of a distribution over the batch, or by its mean, a sample has a part of a sum alone.
    assert losses.mean() > 0
    assert pair.axis == "N" or (losses > 0).all()


@distances_by_type
def test_a_distance_is_negative_only_where_it_is_declared_so(operation, pair, result):
    """Far and near sides. Of a distribution over the batch a sample has a part of a sum alone."""
    least, least_mean, size = 0.0, 0.0, 0.0
    for seed, near in itertools.product(range(6), (0.0, 0.9, 0.999)):
        student, teacher = (tensor_of(pair, torch.Generator().manual_seed(2 * seed + side)) for side in (0, 1))
        student = normalised((1 - near) * student + near * teacher, pair.kind, pair.rank, pair.axis)
        losses = losses_of(operation, student, teacher, pair)
        least, least_mean = min(least, losses.min().item()), min(least_mean, losses.mean().item())
        size = max(size, losses.abs().max().item())
    rounding = 1e-6 * (1 + size)  # what guards against 0 cost
    assert (least_mean < -rounding) is operation.signed
    assert (least < -rounding) is (operation.signed or pair.axis in operation.signed_over)


def vectors(size):
    number = st.floats(-100.0, 100.0, width=32)
    return st.lists(number, min_size=size, max_size=size).filter(lambda numbers: max(map(abs, numbers)) > 0.1)


@given(st.integers(2, 12).flatmap(lambda size: st.tuples(vectors(size), vectors(size))))
@settings(deadline=None)
def test_squared_distance_of_unit_vectors_is_twice_the_cosine_distance(both):
    """‖p̂ − q̂‖² = 2 (1 − cos); equations 8 to 11 of the supplement drop a factor."""
    p, q = (torch.tensor(one, dtype=torch.float64)[None] for one in both)
    squared = (p / p.norm() - q / q.norm()).square().sum()
    # The 10⁻⁸ in the denominator of cos counts for lengths near 0.1.
    torch.testing.assert_close(2.0 * distances.cos(p, q)[0], squared, rtol=0.0, atol=4e-6)


# --- calibrations -------------------------------------------------------------------------------------------


def calibration_inputs(count=5, classes=7, seed=0, dtype=torch.float64, space=()):
    generator = torch.Generator().manual_seed(seed)
    shape = (count, classes, *space)
    student = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    teacher = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    losses = torch.rand(count, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    return losses, student, teacher, labels_for(student)


def calibrate(operation, losses, student, teacher, labels):
    given = {"student_logits": student, "teacher_logits": teacher, "labels": labels}
    return operation.function(losses, *(given[need] for need in operation.needs))


@calibrations
@pytest.mark.parametrize("space", [(), (6,), (3, 4)], ids=["matrix", "tokens", "map"])
@pytest.mark.parametrize("unlabelled", [False, True])
def test_calibration_equals_its_reference(operation, space, unlabelled):
    inputs = calibration_inputs(space=space)
    if unlabelled:  # a whole sample, and of others a place where there are places
        inputs[3][1] = -1
        inputs[3].view(-1)[::7] = -255
    expected = references.CALIBRATIONS[operation.name](*inputs)
    assert_equal_with_gradients(calibrate(operation, *inputs), expected, inputs[:1])


@calibrations
def test_no_gradient_flows_through_the_weights_to_the_student(operation):
    losses, student, teacher, labels = calibration_inputs()
    calibrate(operation, losses, student, teacher.detach(), labels).backward()
    assert losses.grad.abs().sum() > 0
    assert student.grad is None or not student.grad.any()


@calibrations
def test_no_gradient_flows_through_the_weights_to_the_teacher(operation):
    losses, student, teacher, labels = calibration_inputs()
    calibrate(operation, losses, student, teacher.detach(), labels).backward()
    assert teacher.grad is None or not teacher.grad.any()


@calibrations
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_calibration_gives_a_scalar_of_the_same_dtype(operation, dtype):
    found = calibrate(operation, *calibration_inputs(dtype=dtype))
    assert found.shape == ()
    assert found.dtype == dtype


@calibrations
def test_calibration_accepts_the_losses_that_it_declares(operation):
    accepted = {given[0] for given in operation.overloads}
    assert SAMPLE in accepted
    if BATCH in accepted:
        assert operation.function(torch.rand(9)).shape == ()


@calibrations
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("classes", [1, 2, 100])
def test_calibration_is_finite_on_hard_logits(operation, count, classes):
    given = PairType("matrix", "logits")
    for dtype in (torch.float32, torch.float64):
        logits = {name: x[:, :1].expand(count, classes) for name, x in hard_inputs(given, dtype, count, "1×1")}
        logits["one class"] = torch.zeros(count, classes, dtype=dtype).index_fill(1, torch.tensor([0]), 1e4)
        for student in logits.values():
            for teacher in logits.values():
                losses = torch.ones(count, dtype=dtype, requires_grad=True)
                found = calibrate(operation, losses, student, teacher, labels_of(count, classes))
                found.backward()
                assert found.isfinite()
                assert losses.grad.isfinite().all()


def test_weights_of_a_batch_without_labels_are_zero():
    losses, student, teacher, labels = calibration_inputs(space=(3,))
    found = calibrate(CATALOGUE["focal"], losses, student, teacher, labels.fill_(-1))
    assert found == 0
    assert not torch.autograd.grad(found, losses)[0].any()


@pytest.mark.parametrize("name", ["entropy", "focal", "conf"])
def test_weights_lie_between_zero_and_one(name):
    for seed in range(20):
        losses, *rest = calibration_inputs(seed=seed)
        (weights,) = torch.autograd.grad(calibrate(CATALOGUE[name], losses, *rest), losses)
        weights = weights * len(losses)
        assert (weights >= 0).all()
        assert (weights <= 1 + 1e-12).all()


# --- combinations and constants -----------------------------------------------------------------------------


def test_combinations_equal_their_references():
    one, two = torch.tensor(3.0), torch.tensor(0.5)
    assert CATALOGUE["times"].function(one, 8.0) == references.COMBINATIONS["times"](one, 8.0)
    assert CATALOGUE["add"].function(one, two) == references.COMBINATIONS["add"](one, two)


def test_constants_are_sorted_and_print_as_they_are_written():
    for listed in CONSTANTS.values():
        assert list(listed) == sorted(set(listed))
        assert all(float(f"{number:g}") == number for number in listed)


def test_target_and_nontarget_decompose_the_divergence_of_the_logits():
    """KL = KL(target) + (1 − p_y) KL(non-target), the identity that DKD starts from."""
    generator = generator_of("dkd")
    student, teacher = (tensor_of(LOGITS, generator, N=6) for _ in range(2))
    labels = labels_of(6)

    def divergence(name):
        sides = (call(CATALOGUE[name], side, 4.0, labels=labels) for side in (student, teacher))
        return distances.kl(*sides, PairType("matrix", "log_probability", "C"))

    both = [torch.log_softmax(side / 4.0, dim=1) for side in (student, teacher)]
    whole = distances.kl(*both, PairType("matrix", "log_probability", "C"))
    rest = 1.0 - both[1].exp()[torch.arange(6), labels]
    torch.testing.assert_close(divergence("target") + rest * divergence("nontarget"), whole)


@pytest.mark.parametrize("rank", ["matrix", "tokens", "map"])
@pytest.mark.parametrize("name", ["target", "nontarget"])
def test_places_without_a_label_are_never_indexed_and_have_no_gradient(name, rank):
    x = tensor_of(PairType(rank, "logits"), generator_of(name, rank)).requires_grad_()
    labels = labels_for(x)
    labels.view(-1)[::2] = torch.tensor([-1, -100]).repeat(labels.numel())[: len(labels.view(-1)[::2])]
    y = call(CATALOGUE[name], x, labels=labels)
    (gradient,) = torch.autograd.grad((y * torch.randn_like(y)).sum(), x)
    ignored = (labels < 0).unsqueeze(1).expand_as(gradient)
    assert not gradient[ignored].any()
    assert gradient[~ignored].any()
    other = call(CATALOGUE[name], torch.where(ignored, float("nan"), x), labels=labels)
    assert torch.equal(other, y)
    whole = call(CATALOGUE[name], x, labels=labels_for(x))
    same = (labels >= 0).unsqueeze(1).expand_as(y)
    assert torch.equal(y[same], whole[same])


def test_an_operation_cannot_need_what_its_role_has_not():
    with pytest.raises(ValueError, match="a transform may need labels"):
        dataclasses.replace(CATALOGUE["relu"], needs=("student_logits",))
