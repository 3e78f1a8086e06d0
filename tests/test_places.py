"""Operations, zoo entries and weights of pairs that label every place, against formulas written with loops."""

import runpy
import sys
from pathlib import Path
from random import Random

import pytest
import torch
from matplotlib.mathtext import MathTextParser

import kdzero_gp
from devices import OnDevice, fake_batch, loss_on_cuda, pretended_cuda
from kdzero_gp.compiler import compile_distiller, export, pair_shapes
from kdzero_gp.compiler.canonical import canonical
from kdzero_gp.draw import describe, to_latex, to_svg
from kdzero_gp.errors import ExpressionTypeError
from kdzero_gp.evolution.grammar import Grammar, Slot
from kdzero_gp.families.segmentation import SEGMENTATION
from primitives import CATALOGUE, LOSS, PairType
from primitives.relations import at_places

sys.path.append(str(Path(__file__).parent.parent / "experiments" / "segmentation"))
import trees

DENSE = [operation for operation in CATALOGUE if "maps" in operation.dense]
SHAPES = {"logits": (4, 6, 5), "feat": (3, 6, 5)}


@pytest.fixture
def batch():
    """Outputs of both networks in float64, and labels of which some are none."""
    generator = torch.Generator().manual_seed(3)
    sides = [
        {name: torch.randn(2, *shape, generator=generator, dtype=torch.float64) for name, shape in SHAPES.items()}
        for _ in range(2)
    ]
    labels = torch.randint(-1, 4, (2, 6, 5), generator=generator)
    for tensor in sides[0].values():
        tensor.requires_grad_()
    return *sides, labels


def centre_of(x, labels, n, i, j):
    members = [x[n, :, a, b] for a in range(6) for b in range(5) if labels[n, a, b] == labels[n, i, j]]
    return sum(members) / len(members)


def class_centres(x, labels):
    rows = torch.zeros_like(x)
    for n, i, j in (labels >= 0).nonzero().tolist():
        rows[n, :, i, j] = centre_of(x, labels, n, i, j)
    return rows


def centre_similarity(x, labels):
    found = torch.zeros_like(x[:, :1])
    for n, i, j in (labels >= 0).nonzero().tolist():
        one, centre = x[n, :, i, j], centre_of(x, labels, n, i, j)
        found[n, 0, i, j] = (one @ centre) / (one.norm() * centre.norm())
    return found


def prototypes(x, labels):
    columns = torch.zeros(*x.shape[:2], 256, dtype=x.dtype)
    for n, i, j in (labels >= 0).nonzero().tolist():
        columns[n, :, labels[n, i, j]] = centre_of(x, labels, n, i, j)
    return columns


def quarters(x):
    cells = [x[:, :, a, b].amax((2, 3)) for a in (slice(0, 3), slice(3, 6)) for b in (slice(0, 3), slice(2, 5))]
    return torch.stack(cells, 2).view(*x.shape[:2], 2, 2)


TRANSFORMS = {
    "maxpool_2": lambda x, labels: quarters(x),
    "places": lambda x, labels: torch.einsum("ncp,ncq->npq", x.flatten(2), x.flatten(2)),
    "class_centres": class_centres,
    "centre_similarity": centre_similarity,
    "prototypes": prototypes,
}


def applied(operation, x, labels):
    return operation.function(x, *([labels] if operation.needs else []))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_equals_its_formula_with_its_gradient(name, batch):
    student, _, labels = batch
    x = student["feat"]
    given, expected = applied(CATALOGUE[name], x, labels), TRANSFORMS[name](x, labels)
    torch.testing.assert_close(given, expected)
    cotangent = torch.randn(given.shape, dtype=given.dtype, generator=torch.Generator().manual_seed(1))
    gradients = [torch.autograd.grad((y * cotangent).sum(), x)[0] for y in (given, expected)]
    torch.testing.assert_close(*gradients)
    assert torch.autograd.gradcheck(lambda x: applied(CATALOGUE[name], x, labels), [x], fast_mode=True)


def test_places_are_at_most_32_a_side_so_that_large_maps_have_relations():
    x = torch.randn(1, 2, 64, 33, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    cells = [slice(i * 33 // 32, -(-(i + 1) * 33 // 32)) for i in range(32)]
    pooled = torch.stack([x[:, :, a : a + 2, b].mean((2, 3)) for a in range(0, 64, 2) for b in cells], dim=2)
    given = CATALOGUE["places"].function(x)
    torch.testing.assert_close(given, torch.einsum("ncp,ncq->npq", pooled, pooled))
    assert torch.autograd.gradcheck(CATALOGUE["places"].function, [x], fast_mode=True)
    assert CATALOGUE["places"].function(torch.zeros(1, 3, 128, 128, device="meta")).shape == (1, 1024, 1024)


def neighbours(labels, n, i, j, width):
    rows, columns = range(max(0, i - width), min(6, i + width + 1)), range(max(0, j - width), min(5, j + width + 1))
    return {int(labels[n, a, b]) for a in rows for b in columns} - {-1}


WEIGHTS = {
    "boundary_1": lambda p, labels, n, i, j: float(len(neighbours(labels, n, i, j, 1)) > 1),
    "boundary_3": lambda p, labels, n, i, j: float(len(neighbours(labels, n, i, j, 3)) > 1),
    "balanced": lambda p, labels, n, i, j: 1.0 / float((labels[n] == labels[n, i, j]).sum()),
    "sure": lambda p, labels, n, i, j: float(p.max()),
    "unsure": lambda p, labels, n, i, j: float(-(p * p.log()).sum() / torch.tensor(4.0).log()),
    "right": lambda p, labels, n, i, j: float(p[labels[n, i, j]]),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_weight_equals_its_formula_and_is_zero_without_a_label(name, batch):
    _, teacher, labels = batch
    given = CATALOGUE[name].function(teacher["logits"], labels)
    assert (given >= 0).all() and (given[labels < 0] == 0).all()
    for n, i, j in (labels >= 0).nonzero().tolist():
        p = teacher["logits"][n, :, i, j].softmax(0)
        assert given[n, i, j].item() == pytest.approx(WEIGHTS[name](p, labels, n, i, j))


@pytest.mark.parametrize("name", ["l2_at", "cos_at", "kl_at"])
def test_a_distance_of_places_has_the_mean_of_the_one_of_samples(name, batch):
    student, teacher, _ = batch
    given = PairType("map", "log_probability", "C") if name == "kl_at" else PairType("map")
    sides = [s["logits"].log_softmax(1) if name == "kl_at" else s["logits"] for s in (student, teacher)]
    extra = [given] if name == "kl_at" else []
    by_place = CATALOGUE[name].function(*sides, *extra)
    assert by_place.shape == (2, 6, 5)
    torch.testing.assert_close(by_place.mean((1, 2)), CATALOGUE[name[:-3]].function(*sides, *extra))
    assert torch.autograd.gradcheck(lambda x: CATALOGUE[name].function(x, sides[1], *extra), [sides[0]], fast_mode=True)


def test_weigh_is_a_weighted_mean_and_zero_where_all_weights_are(batch):
    losses = torch.rand(2, 4, 6, dtype=torch.float64, requires_grad=True)
    weights = torch.zeros(2, 2, 3, dtype=torch.float64)
    weights[0, 0, 1] = 2.0
    given = CATALOGUE["weigh"].function(losses, weights)
    torch.testing.assert_close(given, torch.stack([losses[0, :2, 2:4].mean(), torch.zeros((), dtype=torch.float64)]))
    assert torch.autograd.gradcheck(lambda x: CATALOGUE["weigh"].function(x, weights), [losses], fast_mode=True)


def test_disagreement_of_maps_is_zero_without_a_label(batch):
    student, teacher, labels = batch
    given = CATALOGUE["gap"].function(teacher["logits"], student["logits"], labels)
    assert not given.requires_grad and (given[labels < 0] == 0).all()
    for n, i, j in (labels >= 0).nonzero().tolist():
        p, q = (side["logits"][n, :, i, j].softmax(0) for side in (teacher, student))
        assert given[n, i, j].item() == pytest.approx(float((p - q).detach().abs().max()))


def test_disagreement_of_maps_of_two_sizes_is_that_of_what_is_compared():
    shapes = {"logits": (4, 3, 3)}, {"logits": (4, 6, 6)}
    sides = [{"logits": torch.randn(2, *side["logits"])} for side in shapes]
    text = "times(no(weigh_sum(kl_at(softmax_C(logits, 1)), gap(logits))), 1)"
    distiller = kdzero_gp.compile(text, *shapes, knowledge=SEGMENTATION.knowledge)
    same = {"logits": sides[0]["logits"].repeat_interleave(2, 2).repeat_interleave(2, 3)}
    distiller_of_equal = kdzero_gp.compile(text, shapes[1], shapes[1], knowledge=SEGMENTATION.knowledge)
    labels = torch.randint(4, (2, 6, 6))  # places without one are left out at either size
    torch.testing.assert_close(distiller(*sides, labels), distiller_of_equal(same, sides[1], labels))


def test_every_operation_for_label_maps_is_checked_here():
    checked = {*TRANSFORMS, *WEIGHTS, "l2_at", "cos_at", "kl_at", "gap", "weigh", "weigh_sum"}
    assert {o.name for o in DENSE} == checked


def cwd_logits(student, teacher, labels):
    """Over the labelled places alone."""
    total = 0.0
    for n in range(len(labels)):
        p, q = (side["logits"][n][:, labels[n] >= 0].div(4).softmax(1) for side in (teacher, student))
        total += 16 * (p * (p.log() - q.log())).sum() / len(p)
    return total / len(labels)


def skd(student, teacher, labels):
    sides = []
    for side in (student, teacher):
        nodes = quarters(side["feat"])
        nodes = nodes / nodes.square().sum(1, keepdim=True).sqrt()
        sides.append(torch.einsum("icm,icn->imn", nodes.flatten(2), nodes.flatten(2)))
    return ((sides[1] - sides[0]) ** 2 / 4**2 / len(labels)).sum()


def ifvd(student, teacher, labels):
    gap = (centre_similarity(student["feat"], labels) - centre_similarity(teacher["feat"], labels))[:, 0] ** 2
    return torch.stack([one[at >= 0].mean() for one, at in zip(gap, labels, strict=True)]).mean()


def pixel_kd(student, teacher, labels):
    """Each image's mean over its labelled places."""
    p, q = (side["logits"].div(4).softmax(1) for side in (teacher, student))
    terms = (p * (p.log() - q.log())).sum(1)
    return 16 * torch.stack([one[at >= 0].mean() for one, at in zip(terms, labels, strict=True)]).mean()


@pytest.mark.parametrize("name, formula", [("kd", pixel_kd), ("cwd_logits", cwd_logits), ("skd", skd), ("ifvd", ifvd)])
def test_the_zoo_equals_its_independent_formula(name, formula, batch):
    student, teacher, labels = batch
    entry = kdzero_gp.zoo.entries[name]
    distiller = kdzero_gp.compile(entry.text, SHAPES, SHAPES, knowledge=SEGMENTATION.knowledge).double()
    given, expected = distiller(student, teacher, labels), formula(student, teacher, labels)
    torch.testing.assert_close(given, expected)
    leaf = student["logits" if "logits" in entry.text else "feat"]
    gradients = [torch.autograd.grad(value, leaf)[0] for value in (given, expected)]
    torch.testing.assert_close(*gradients)


def test_weights_are_of_the_teacher_alone_and_ignored_places_count_nowhere(batch):
    student, teacher, labels = batch
    text = "times(no(weigh(kl_at(softmax_C(logits, 4)), boundary_3(logits))), 1)"
    distiller = kdzero_gp.compile(text, SHAPES, SHAPES, knowledge=SEGMENTATION.knowledge).double()
    teacher["logits"].requires_grad_()
    distiller(student, teacher, labels).backward()
    gradient = student["logits"].grad
    assert teacher["logits"].grad is None
    assert gradient.abs().sum() > 0 and (gradient.transpose(0, 1)[:, labels < 0] == 0).all()
    student["logits"].grad = None
    value = distiller(student, teacher, torch.full_like(labels, -1))
    value.backward()
    assert value.item() == 0.0 and (student["logits"].grad == 0).all()
    types = kdzero_gp.compiler.pair_shapes(SHAPES, SHAPES, SEGMENTATION.knowledge).types
    sentence = describe(kdzero_gp.parse(text, types), types)
    assert "by KL divergence at each place, weighted near another class" in sentence


def logits_gradient(expression, number, kind, seed=0):
    """A distiller's value, the gradient of the student's logits, and which of their places have a label."""
    shapes = trees.PAIRS[number]
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (trees.batch(side, 3, generator) for side in shapes[:2])
    labels = trees.label_maps(kind, 3, shapes[2], generator)
    student["logits"].requires_grad_()
    distiller = compile_distiller(expression, *shapes[:2], knowledge=SEGMENTATION.knowledge)
    value = distiller(student, teacher, labels)
    (gradient,) = torch.autograd.grad(value, student["logits"], allow_unused=True) if value.requires_grad else (None,)
    return value, gradient, at_places(labels, student["logits"]) >= 0


@pytest.mark.parametrize("space", ["open", "kdzero"])
def test_no_distiller_of_a_space_teaches_logits_without_a_label(space):
    taught = 0
    for index, (number, tree) in enumerate(trees.trees(150, seed=3, space=space)):
        if not any(node.name == "logits" for node in tree.walk() if not node.arguments):
            continue
        value, gradient, labelled = logits_gradient(tree, number, ("some", "one")[index % 2], index)
        if gradient is not None:
            assert (gradient.transpose(0, 1)[:, ~labelled] == 0).all(), str(tree)
            taught += bool(gradient.abs().sum() > 0)
        value, gradient, _ = logits_gradient(tree, number, "none", index)
        if {node.name for node in tree.walk() if not node.arguments} != {"logits"}:
            continue  # maps of places without a label may be taught
        assert value == 0 and (gradient is None or (gradient == 0).all()), str(tree)
    assert taught > 30


@pytest.mark.parametrize("name", ["kd", "mse", "cwd_logits", "dkd", "wsld"])
@pytest.mark.parametrize("number", range(len(trees.PAIRS)))
def test_what_stands_at_places_without_a_label_changes_nothing(name, number):
    """Of pairs of one size; of others the teacher's logits there reach into the places next to them."""
    student_shapes, teacher_shapes, size = trees.PAIRS[number]
    if student_shapes["logits"] != teacher_shapes["logits"]:
        return
    generator = torch.Generator().manual_seed(1)
    student, teacher = (trees.batch(side, 3, generator) for side in (student_shapes, teacher_shapes))
    labels = trees.label_maps("one", 3, size, generator)
    void = (at_places(labels, student["logits"]) < 0)[:, None]
    distiller = compile_distiller(kdzero_gp.zoo[name], student_shapes, teacher_shapes, knowledge=SEGMENTATION.knowledge)
    value = distiller(student, teacher, labels)
    other = [
        {**side, "logits": side["logits"].masked_fill(void, fill)} for side, fill in ((student, 3.0), (teacher, -5.0))
    ]
    assert value > 0
    if name != "wsld":  # whose cross-entropy is the teacher's entropy where both agree
        torch.testing.assert_close(distiller(*other, labels), value)


def test_an_exported_file_leaves_out_the_same_places(tmp_path):
    student, teacher, size = trees.PAIRS[1]
    text = kdzero_gp.zoo.entries["cwd_logits"].text
    export(tmp_path / "distiller.py", text, student, teacher, knowledge=SEGMENTATION.knowledge)
    names = runpy.run_path(str(tmp_path / "distiller.py"))
    outputs = trees.batch(student, 3, torch.Generator().manual_seed(0))
    logits = outputs["logits"].requires_grad_()
    labels = trees.label_maps("one", 3, size, torch.Generator().manual_seed(1))
    names["Distiller"]()(outputs, trees.batch(teacher, 3, torch.Generator().manual_seed(2)), labels).backward()
    void = at_places(labels, logits) < 0
    assert logits.grad.abs().sum() > 0 and (logits.grad.transpose(0, 1)[:, void] == 0).all()


def test_labels_are_read_at_the_centre_of_a_coarser_place():
    labels = torch.arange(36).view(1, 6, 6)
    assert at_places(labels, torch.zeros(1, 1, 2, 2)).tolist() == [[[7, 10], [25, 28]]]


def test_pairs_that_label_images_have_none_of_these_operations():
    classification = {"logits": PairType("matrix", "logits"), "feat": PairType("map")}
    assert not {operation.name for operation, _, _ in Grammar("open", classification).rules} & {o.name for o in DENSE}
    dense = {"logits": PairType("map", "logits"), "feat": PairType("map")}
    assert {operation.name for operation, _, _ in Grammar("open", dense).rules} >= {o.name for o in DENSE}
    with pytest.raises(ExpressionTypeError, match="for pairs that label every place"):
        kdzero_gp.parse("times(no(l2(centre_similarity(feat))), 1)", classification)


def test_the_canonical_form_means_the_same(batch):
    """On the pair without adapters, whose first weights would depend on the form."""
    student, teacher, labels = batch
    grammar = Grammar("open", pair_shapes(SHAPES, SHAPES, SEGMENTATION.knowledge).types)
    random, wrong, changed = Random(5), [], 0
    for _ in range(300):
        tree = grammar.to_expression(grammar.grow(Slot(LOSS), random.randint(4, 8), random))
        names = {node.name for node in tree.walk()}
        if canonical(tree) == tree or names & {"mask", "drop"} or not names & {operation.name for operation in DENSE}:
            continue
        values = [
            compile_distiller(form, SHAPES, SHAPES, knowledge=SEGMENTATION.knowledge).double()(student, teacher, labels)
            for form in (tree, canonical(tree))
        ]
        changed += 1
        if not torch.allclose(*values, rtol=1e-4, atol=1e-8, equal_nan=True):
            wrong.append(f"{tree}: {values}")
    assert changed > 10
    assert wrong == []


def trees_by_operation():
    """For each operation a distiller that has it, and the number of its pair."""
    found = {}
    for number, tree in trees.trees(400, seed=9):
        for node in tree.walk():
            found.setdefault(node.name, (tree, number))
    return found


def test_every_operation_is_drawn_and_written():
    found = trees_by_operation()
    for operation in DENSE:
        tree, number = found[operation.name]
        shapes = pair_shapes(*trees.PAIRS[number][:2], SEGMENTATION.knowledge)
        formula = to_latex(tree, shapes.types)
        MathTextParser("path").parse(f"${formula}$")
        assert "<" not in formula and operation.words.split("<")[0] in describe(tree, shapes.types)
        assert operation.name in to_svg(tree, shapes=shapes)


def on_device(expression, number):
    student, teacher, places = trees.PAIRS[number]
    knowledge = SEGMENTATION.knowledge
    loss_on_cuda(
        lambda: compile_distiller(expression, student, teacher, knowledge=knowledge), (student, teacher), 3, places
    )


def test_every_operation_and_method_for_label_maps_stays_on_the_device():
    found = trees_by_operation()
    for operation in DENSE:
        on_device(*found[operation.name])
    for entry in kdzero_gp.zoo.entries.values():
        if "maps" in entry.dense:
            on_device(entry.expression, 0)


def test_the_family_s_own_numbers_stay_on_the_device():
    student, teacher, places = trees.PAIRS[1]
    with pretended_cuda():
        *sides, labels = fake_batch((student, teacher), 3, places=places)
        with OnDevice("cuda"):
            assert SEGMENTATION.own_loss(sides[0], labels).device.type == "cuda"


def test_random_trees_compile_and_train_a_step_on_odd_shapes():
    """5,000 by experiments/segmentation/trees.py."""
    wrong = [
        (str(expression), result)
        for index, (pair, expression) in enumerate(trees.trees(60, seed=7))
        if (result := trees.outcome(expression, pair, index)) != "fine"
    ]
    assert wrong == []
