"""Operations and published methods of detectors, against formulas written with loops."""

import math
import sys
from pathlib import Path

import pytest
import torch
from torchvision.ops import box_iou, generalized_box_iou

import kdzero_gp
from kdzero_gp.compiler import pair_shapes, parse, rendering
from kdzero_gp.draw import describe, to_latex
from kdzero_gp.errors import ExpressionTypeError
from kdzero_gp.evolution.grammar import Grammar
from kdzero_gp.families.detection import DETECTION
from primitives import BOXES, CATALOGUE, MAPS
from primitives.boxes import region_classes

sys.path.append(str(Path(__file__).parent.parent / "experiments" / "detection"))
import detector_trees

SIZES = {3: (6, 8), 4: (3, 4), 5: (2, 2)}
SHAPES = {f"fpn{level}": (4, *size) for level, size in SIZES.items()}
SHAPES |= {"logits": (3, 12), "deltas": (4, 12), "boxes": (4, 12), "grid": (4, 12), "edges": (6, 4, 12)}
REGIONS = SHAPES | {"proposals": (4, 12), "regions": (5, 12), "region_logits": (4, 12)}
# image 0 has three objects, of which two overlap, and a crowd; image 1 has one object; image 2 is empty
TRUTH = torch.tensor(
    [
        [[0.1, 0.1, 0.4, 0.6, 0], [0.3, 0.3, 0.9, 0.9, 1], [0.96, 0.97, 1.0, 1.0, 2], [0.6, 0.0, 1.0, 0.2, -3]],
        [[0.0, 0.0, 0.5, 0.5, 1], [0, 0, 0, 0, -1], [0, 0, 0, 0, -1], [0, 0, 0, 0, -1]],
        [[0, 0, 0, 0, -1]] * 4,
    ],
    dtype=torch.float64,
)


def boxes_of(generator):
    corner = torch.rand(3, 2, 12, generator=generator, dtype=torch.float64) * 0.6
    return torch.cat([corner, corner + 0.05 + 0.4 * torch.rand(corner.shape, generator=generator)], dim=1)


@pytest.fixture
def batch():
    """Outputs of both networks in float64, and boxes."""
    generator = torch.Generator().manual_seed(3)
    sides = []
    for _ in range(2):
        side = {n: torch.randn(3, *s, generator=generator, dtype=torch.float64) for n, s in SHAPES.items()}
        sides.append(side | {"boxes": boxes_of(generator), "grid": boxes_of(torch.Generator().manual_seed(5))})
    for tensor in sides[0].values():
        tensor.requires_grad_()
    return *sides, TRUTH


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def bce(s, t):
    p, q = sigmoid(t), sigmoid(s)
    return -(p * math.log(q) + (1 - p) * math.log(1 - q))


def channel_attention(t):
    shares = torch.stack([t[c].abs().mean() / 0.5 for c in range(len(t))]).exp()
    return len(t) * shares / shares.sum()


ANCHORS = {  # (student's column, teacher's column) -> number
    "bce_at": ("logits", lambda s, t: sum(bce(a, b) for a, b in zip(s, t, strict=True))),
    "qfl_at": ("logits", lambda s, t: sum(abs(sigmoid(b) - sigmoid(a)) * bce(a, b) for a, b in zip(s, t, strict=True))),
    "l1_at": ("deltas", lambda s, t: sum(abs(a - b) for a, b in zip(s, t, strict=True))),
    "giou_at": ("boxes", lambda s, t: 1 - float(generalized_box_iou(torch.tensor([s]), torch.tensor([t])))),
}


@pytest.mark.parametrize("name", ANCHORS)
def test_a_distance_of_anchors_equals_its_formula(name, batch):
    student, teacher, _ = batch
    leaf, formula = ANCHORS[name]
    given = CATALOGUE[name].function(student[leaf], teacher[leaf])
    for n in range(3):
        for m in range(12):
            wanted = formula(student[leaf][n, :, m].tolist(), teacher[leaf][n, :, m].tolist())
            assert given[n, m].item() == pytest.approx(wanted, rel=1e-6)
    assert torch.autograd.gradcheck(
        lambda x: CATALOGUE[name].function(x, teacher[leaf]), [student[leaf]], fast_mode=True
    )


def test_generalised_overlap_is_finite_where_boxes_have_no_area():
    flat = torch.zeros(1, 4, 1, requires_grad=True)
    loss = CATALOGUE["giou_at"].function(flat, torch.zeros(1, 4, 1)).sum()
    loss.backward()
    assert loss.isfinite() and flat.grad.isfinite().all()


def test_attended_differences_weigh_channels_by_the_teacher(batch):
    student, teacher, _ = batch
    operation = CATALOGUE["attended_l2_at"].function
    given = operation(student["fpn3"], teacher["fpn3"])
    for n in range(3):
        weights = channel_attention(teacher["fpn3"][n])
        gap = (student["fpn3"][n] - teacher["fpn3"][n]) ** 2
        torch.testing.assert_close(given[n], sum(weights[c] * gap[c] for c in range(4)))
    assert torch.autograd.gradcheck(lambda x: operation(x, teacher["fpn3"]), [student["fpn3"]], fast_mode=True)


def edges_kl(s, t, temperature):
    """The mean over the four edges of KL(softmax(t / T) ‖ softmax(s / T)), of bins × 4 each."""
    total = 0
    for edge in range(4):
        p, q = ((side[:, edge] / temperature).exp() for side in (t, s))
        p, q = p / p.sum(), q / q.sum()
        total = total + (p * (p / q).log()).sum() / 4
    return total


@pytest.mark.parametrize("temperature", [1.0, 8.0])
def test_divergences_of_edges_equal_their_formula(temperature, batch):
    student, teacher, _ = batch

    def losses(x):
        sides = (CATALOGUE["logsoftmax_bins"].function(side, temperature) for side in (x, teacher["edges"]))
        return CATALOGUE["edges_kl_at"].function(*sides)

    given = losses(student["edges"])
    for n in range(3):
        for m in range(12):
            wanted = edges_kl(student["edges"][n, :, :, m], teacher["edges"][n, :, :, m], temperature)
            torch.testing.assert_close(given[n, m], wanted)
    assert torch.autograd.gradcheck(losses, [student["edges"]], fast_mode=True)


def ld(s, t, truth):
    """T² KL of softened edges, the mean over the anchors near objects."""
    total = 0
    for n in range(3):
        members = near(t["grid"][n], truth[n])
        losses = [64 * edges_kl(s["edges"][n, :, :, m], t["edges"][n, :, :, m], 8) for m in members]
        total = total + sum(losses) / max(1, len(losses)) / 3
    return total


def test_edges_of_other_bins_are_no_pair():
    types = pair_shapes(SHAPES, SHAPES | {"edges": (7, 4, 12)}, DETECTION.knowledge).types
    assert "edges" not in types and "boxes" in types
    assert "edges" in pair_shapes(SHAPES, SHAPES, DETECTION.knowledge).types


@pytest.mark.parametrize("shape", [(5,), (1, 4, 3)])
def test_sums_of_absolute_differences_equal_their_formula(shape):
    student, teacher = torch.randn(2, 3, *shape, dtype=torch.float64)
    given = CATALOGUE["l1_sum"].function(student.requires_grad_(), teacher)
    for n in range(3):
        pairs = zip(student[n].flatten().tolist(), teacher[n].flatten().tolist(), strict=True)
        assert given[n].item() == pytest.approx(sum(abs(a - b) for a, b in pairs))
    assert torch.autograd.gradcheck(lambda x: CATALOGUE["l1_sum"].function(x, teacher), [student], fast_mode=True)


def touching(row, height, width):
    """The places of a map that a box touches."""
    left, top, right, bottom = row[0] * width, row[1] * height, row[2] * width, row[3] * height
    return {
        (i, j) for i in range(height) for j in range(width) if i < bottom and i + 1 > top and j < right and j + 1 > left
    }


def foreground(rows, height, width):
    found = torch.zeros(height, width, dtype=torch.float64)
    for row in rows:
        places = touching(row, height, width) if row[4] >= 0 else ()
        for i, j in places:
            found[i, j] = max(found[i, j].item(), 1 / len(places))
    return found


def background(rows, height, width):
    taken = set().union(*(touching(row, height, width) for row in rows if row[4] != -1))
    free = [(i, j) for i in range(height) for j in range(width) if (i, j) not in taken]
    found = torch.zeros(height, width, dtype=torch.float64)
    for i, j in free:
        found[i, j] = 1 / len(free)
    return found


def centre(rows, height, width):
    found = torch.zeros(height, width, dtype=torch.float64)
    for left, top, right, bottom, number in rows:
        if number < 0:
            continue
        wide, high = max(0.5, (right - left) * width / 6), max(0.5, (bottom - top) * height / 6)
        for i in range(height):
            for j in range(width):
                y, x = i + 0.5 - (top + bottom) / 2 * height, j + 0.5 - (left + right) / 2 * width
                bell = math.exp(-((x / wide) ** 2 + (y / high) ** 2) / 2)
                found[i, j] = max(found[i, j].item(), bell)
    return found


def attention(level):
    height, width = level.shape[1:]
    powers = (level.abs().mean(0) / 0.5).exp()
    return height * width * powers / powers.sum()


PLACES = {
    "foreground": lambda rows, level: foreground(rows, *level.shape[1:]),
    "background": lambda rows, level: background(rows, *level.shape[1:]),
    "inside": lambda rows, level: (foreground(rows, *level.shape[1:]) > 0).double(),
    "centre": lambda rows, level: centre(rows, *level.shape[1:]),
    "attention": lambda rows, level: attention(level),
    "attended_foreground": lambda rows, level: foreground(rows, *level.shape[1:]) * attention(level),
    "attended_background": lambda rows, level: background(rows, *level.shape[1:]) * attention(level),
}


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("level", SIZES)
def test_a_weight_of_places_equals_its_formula(name, level, batch):
    _, teacher, truth = batch
    given = CATALOGUE[name].function(teacher[f"fpn{level}"], truth)
    assert (given >= 0).all()
    for n in range(3):
        torch.testing.assert_close(given[n], PLACES[name](truth[n].tolist(), teacher[f"fpn{level}"][n]))


def test_all_objects_count_alike_however_small(batch):
    _, teacher, truth = batch
    weights = CATALOGUE["foreground"].function(teacher["fpn3"], truth[1:2])
    assert weights.sum().item() == pytest.approx(1.0)
    corner = torch.tensor([[[1.0, 1.0, 1.0, 1.0, 0.0]]], dtype=torch.float64)
    assert CATALOGUE["foreground"].function(teacher["fpn3"][:1], corner)[0, -1, -1] == 1.0


def test_weights_of_anchors_equal_their_formulas(batch):
    _, teacher, truth = batch
    rich = CATALOGUE["rich"].function(teacher["logits"], truth)
    overlap = CATALOGUE["overlap"].function(teacher["boxes"], truth)
    assert (CATALOGUE["every"].function(teacher["logits"], truth) == torch.ones(3, 12)).all()
    for n in range(3):
        real = truth[n][truth[n][:, 4] >= 0][:, :4]
        for m in range(12):
            assert rich[n, m].item() == pytest.approx(max(map(sigmoid, teacher["logits"][n, :, m].tolist())))
            best = float(box_iou(teacher["boxes"][n, :, m][None], real).max()) if len(real) else 0.0
            assert overlap[n, m].item() == pytest.approx(best)


def positive(grid, rows):
    """Numbers of the anchors that hold an object: by half of it, or better than any other anchor."""
    found = set()
    for row in rows[rows[:, 4] >= 0]:
        shares = box_iou(grid.T, row[None, :4])[:, 0].tolist()
        found |= {m for m, share in enumerate(shares) if share >= 0.5 or share == max(shares) > 0}
    return found


def near(grid, rows):
    """Numbers of the anchors that overlap an object half as much as its best one."""
    found = set()
    for row in rows[rows[:, 4] >= 0]:
        shares = box_iou(grid.T, row[None, :4])[:, 0].tolist()
        found |= {m for m, share in enumerate(shares) if share > 0 and share >= max(shares) / 2}
    return found


OF_GRID = {"positives": positive, "near_anchor": near}


@pytest.mark.parametrize("name", OF_GRID)
def test_a_weight_of_the_grid_equals_its_formula(name, batch):
    _, teacher, truth = batch
    grid = teacher["grid"]
    grid[0, :, :2] = truth[0, :2, :4].T + 0.02  # two that overlap by more than half
    given = CATALOGUE[name].function(grid, truth)
    sizes = []
    for n in range(3):
        members = OF_GRID[name](grid[n], truth[n])
        assert given[n].tolist() == [float(m in members) for m in range(12)]
        sizes.append(len(members))
    assert 2 <= sizes[0] < 12 and sizes[1] >= 1 and sizes[2] == 0


def test_disagreement_is_that_of_the_class_with_the_largest_and_has_no_gradient(batch):
    student, teacher, truth = batch
    given = CATALOGUE["gap"].function(teacher["logits"], student["logits"], truth)
    assert not given.requires_grad
    for n in range(3):
        for m in range(12):
            sides = zip(teacher["logits"][n, :, m].tolist(), student["logits"][n, :, m].tolist(), strict=True)
            assert given[n, m].item() == pytest.approx(max(abs(sigmoid(a) - sigmoid(b)) for a, b in sides))


def test_a_weight_of_both_sides_follows_the_student(batch):
    student, teacher, truth = batch
    text = "times(no(weigh_sum(l1_at(deltas), gap(logits))), 1)"
    distiller = kdzero_gp.compile(text, SHAPES, SHAPES, knowledge=DETECTION.knowledge).double()
    kept = distiller.prepare(teacher, truth)
    for logits in (student["logits"], student["logits"] + 1, teacher["logits"]):
        weights = (teacher["logits"].sigmoid() - logits.sigmoid()).abs().amax(1)
        expected = ((student["deltas"] - teacher["deltas"]).abs().sum(1) * weights).sum(1).mean()
        given = distiller.loss(student | {"logits": logits}, kept, truth)
        torch.testing.assert_close(given, expected)
    given.backward()
    assert student["logits"].grad is None


def test_means_and_sums_under_weights():
    losses = torch.rand(2, 5, dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([[0.0, 2.0, 0.0, 1.0, 0.5], [0.0] * 5], dtype=torch.float64)
    total = 2 * losses[0, 1] + losses[0, 3] + 0.5 * losses[0, 4]
    for name, expected in (("weigh", total / 3.5), ("weigh_sum", total)):
        given = CATALOGUE[name].function(losses, weights)
        torch.testing.assert_close(given[0], expected)
        assert given[1] == 0
        assert torch.autograd.gradcheck(lambda x: CATALOGUE[name].function(x, weights), [losses], fast_mode=True)  # noqa: B023


def test_a_sum_under_weights_of_another_size_keeps_their_sum():
    losses, weights = torch.full((1, 2, 2), 3.0), torch.zeros(1, 4, 6)
    weights[0, 1:3, 2:5] = 1 / 6
    assert CATALOGUE["weigh_sum"].function(losses, weights).item() == pytest.approx(3.0)


@pytest.mark.parametrize("counts", [(3, 1), (2, 0), (0, 0)])
def test_a_batch_s_sum_over_its_positive_anchors(counts):
    losses, weights = torch.rand(2, 2, 5, dtype=torch.float64).unbind()
    holds = torch.stack([(torch.arange(5) < count).double() for count in counts])
    given = CATALOGUE["by_positives"].function(losses.requires_grad_(), weights, holds)
    total = sum(a * b for a, b in zip(losses.flatten().tolist(), weights.flatten().tolist(), strict=True))
    assert given.mean().item() == pytest.approx(total / max(1, sum(counts)))
    function = CATALOGUE["by_positives"].function
    assert torch.autograd.gradcheck(lambda x: function(x, weights, holds), [losses], fast_mode=True)


def test_background_does_not_decide_how_much_a_sum_by_positives_is(batch):
    """Ten times as many anchors, of which no more are positive, with the same losses each."""
    student, teacher, truth = batch
    text = "times(no(by_positives(bce_at(logits), positives(grid))), 1)"
    distiller = kdzero_gp.compile(text, SHAPES, SHAPES, knowledge=DETECTION.knowledge).double()
    given = distiller(student, teacher, truth)
    far = torch.zeros(3, 4, 108, dtype=torch.float64)  # boxes of no area
    more = [
        {"logits": side["logits"].repeat(1, 1, 10), "grid": torch.cat([side["grid"], far], 2)}
        for side in (student, teacher)
    ]
    torch.testing.assert_close(distiller(*more, truth), given)
    losses = CATALOGUE["bce_at"].function(student["logits"], teacher["logits"])
    members = [positive(teacher["grid"][n], truth[n]) for n in range(3)]
    total = sum(losses[n, m] for n in range(3) for m in members[n])
    torch.testing.assert_close(given, total / sum(map(len, members)))


def test_every_operation_for_detectors_is_checked_here():
    checked = {*ANCHORS, *PLACES, *OF_GRID, "attended_l2_at", "l1_sum", "rich", "overlap", "every", "by_positives"}
    checked |= {"logsoftmax_bins", "edges_kl_at"}
    assert {o.name for o in CATALOGUE if o.dense == BOXES} == checked


# --- the zoo ------------------------------------------------------------------------------------------------


def standardised(x):
    rows = x.transpose(0, 1).flatten(1)
    rows = (rows - rows.mean(1, keepdim=True)) / (rows.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    return rows.view(x.shape[1], x.shape[0], *x.shape[2:]).transpose(0, 1)


def pkd(s, t, truth):
    return sum(((standardised(s[n]) - standardised(t[n])) ** 2).mean() for n in ("fpn3", "fpn4", "fpn5"))


def cwd_fpn(s, t, truth):
    total = 0
    for n in ("fpn3", "fpn4", "fpn5"):
        q, p = (side[n].flatten(2).softmax(2) for side in (s, t))
        total = total + (p * (p.log() - q.log())).sum() / (p.shape[0] * p.shape[1])
    return total


def fgd(s, t, truth):
    """Equations 3 to 8 of the paper: α Σ M S A^S A^C (t − s)² on objects, β on the background, and
    γ (|A^S_t − A^S_s| + |A^C_t − A^C_s|), all of them sums over places and channels and means over images."""
    total = 0
    for name in ("fpn3", "fpn4", "fpn5"):
        for one, other, rows in zip(s[name], t[name], truth.tolist(), strict=True):
            _, height, width = one.shape
            area = [len(touching(row, height, width)) for row in rows]
            for i in range(height):
                for j in range(width):
                    holding = [area[k] for k, row in enumerate(rows)
                               if row[4] >= 0 and (i, j) in touching(row, height, width)]  # fmt: skip
                    free = background(rows, height, width)[i, j]
                    scale = 1.0 / min(holding) if holding else 0.5 * free
                    gaps = channel_attention(other) * (other[:, i, j] - one[:, i, j]) ** 2
                    total = total + scale * attention(other)[i, j] * gaps.sum() / len(truth)
            total = total + (attention(other) - attention(one)).abs().sum() / len(truth)
            total = total + (channel_attention(other) - channel_attention(one)).abs().sum() / len(truth)
    return total


@pytest.mark.parametrize("count", [1, 4, 8])
def test_every_object_adds_to_fgd(count):
    """An object's weights sum to 1, so that as many equal objects give as many times the loss of one."""
    side = {"fpn3": torch.zeros(1, 2, 4, 8, dtype=torch.float64)}
    rows = torch.tensor([[[0.125 * k, 0.0, 0.125 * k + 0.125, 0.5, 0.0] for k in range(count)]], dtype=torch.float64)
    text = "times(no(weigh_sum(l2_at(fpn3), foreground(fpn3))), 1)"
    shapes = {"fpn3": (2, 4, 8)}
    distiller = kdzero_gp.compile(text, shapes, shapes, knowledge=DETECTION.knowledge).double()
    assert distiller({"fpn3": side["fpn3"] + 1}, side, rows).item() == pytest.approx(count)


def detkds(s, t, truth):
    total = 0
    for n in ("fpn3", "fpn4", "fpn5"):
        sides = []
        for side in (s, t):
            rows = torch.stack([channel_attention(one) for one in side[n]])
            sides.append(rows / rows.square().sum(0, keepdim=True).sqrt())
        total = total + (sides[0] - sides[1]).abs().mean()
    return total


def crosskd(s, t, truth):
    """Quality focal losses of all anchors, and 1 − GIoU times the teacher's largest score, each summed over the batch
    and divided by its positive anchors (``avg_factor`` of the published code)."""
    total = 0
    for n in range(3):
        p, q = t["logits"][n].sigmoid(), s["logits"][n].sigmoid()
        cross_entropy = -(p * q.log() + (1 - p) * (1 - q).log())
        total = total + ((p - q).abs() * cross_entropy).sum()
        overlap = torch.diagonal(generalized_box_iou(s["boxes"][n].T, t["boxes"][n].T))
        total = total + ((1 - overlap) * p.amax(0)).sum()
    return total / sum(len(positive(t["grid"][n], truth[n])) for n in range(3))


@pytest.mark.parametrize("formula", [pkd, cwd_fpn, fgd, detkds, crosskd, ld], ids=lambda f: f.__name__)
def test_the_zoo_equals_its_independent_formula(formula, batch):
    student, teacher, truth = batch
    entry = kdzero_gp.zoo.entries[formula.__name__]
    distiller = kdzero_gp.compile(entry.text, SHAPES, SHAPES, knowledge=DETECTION.knowledge).double()
    given, expected = distiller(student, teacher, truth), formula(student, teacher, truth)
    torch.testing.assert_close(given, expected)
    source = kdzero_gp.compiler.source_of(entry.expression, SHAPES, SHAPES, knowledge=DETECTION.knowledge)
    assert max(map(len, source.splitlines())) <= 110
    for name in entry.knowledge:
        if name in entry.text and name != "grid":  # which is read for weights alone
            pair = (torch.autograd.grad(value, student[name], retain_graph=True)[0] for value in (given, expected))
            torch.testing.assert_close(*pair)


def class_of(box, rows):
    """Of a proposal 1 + the class of its object, 0 without one, −1 where it is none or half of it is in a crowd."""
    if box[2] <= box[0]:
        return -1
    objects = [(float(box_iou(box[None], row[None, :4])), int(row[4])) for row in rows if row[4] >= 0]
    best, number = max(objects, key=lambda one: one[0], default=(0.0, 0))
    if best >= 0.5:
        return number + 1
    for row in rows[rows[:, 4] < -1]:
        inner = [min(box[2], row[2]) - max(box[0], row[0]), min(box[3], row[3]) - max(box[1], row[1])]
        if max(inner[0], 0) * max(inner[1], 0) * 2 >= (box[2] - box[0]) * (box[3] - box[1]):
            return -1
    return 0


@pytest.fixture
def regions(batch):
    """The batch of two stages: proposals near objects, far, in a crowd, and none."""
    student, teacher, truth = batch
    generator = torch.Generator().manual_seed(11)
    proposals = boxes_of(generator)
    proposals[:, :, 0] = truth[:, 0, :4] + 0.01
    proposals[0, :, 1] = torch.tensor([0.7, 0.0, 0.9, 0.1])
    proposals[0, :, 2] = truth[0, 1, :4]
    proposals[1, :, 9:] = 0.0
    for side, wide in ((student, 5), (teacher, 5)):
        side["proposals"] = proposals
        side["regions"] = torch.randn(3, wide, 12, generator=generator, dtype=torch.float64)
        side["region_logits"] = torch.randn(3, 4, 12, generator=generator, dtype=torch.float64)
    student["region_logits"].requires_grad_()
    student["regions"].requires_grad_()
    return student, teacher, truth


def test_proposals_have_the_classes_of_their_objects_and_background(regions):
    _, teacher, truth = regions
    given = region_classes(teacher["proposals"], truth)
    wanted = [[class_of(box, rows) for box in boxes.T] for boxes, rows in zip(teacher["proposals"], truth, strict=True)]
    assert given.tolist() == wanted
    assert {-1, 0, 1, 2} <= set(wanted[0]) and wanted[1][9:] == [-1, -1, -1] and set(wanted[2]) == {-1, 0}


def dkd_regions(s, t, truth):
    """KL of (p_y, 1 − p_y) plus 0.25 times KL of the other classes among themselves, the mean over proposals."""
    total = []
    for n in range(3):
        losses = []
        for m in range(12):
            y = class_of(t["proposals"][n, :, m], truth[n])
            if y < 0:
                continue
            p, q = (side["region_logits"][n, :, m].softmax(0) for side in (t, s))
            others = [k for k in range(4) if k != y]
            two = [torch.stack([side[y], side[others].sum()]) for side in (p, q)]
            rest = [side[others] / side[others].sum() for side in (p, q)]
            kl = [(a * (a / b).log()).sum() for a, b in (two, rest)]
            losses.append(kl[0] + 0.25 * kl[1])
        total.append(sum(losses) / len(losses))
    return sum(total) / 3


def test_the_zoo_s_method_for_regions_equals_its_independent_formula(regions):
    student, teacher, truth = regions
    entry = kdzero_gp.zoo.entries["dkd_regions"]
    distiller = kdzero_gp.compile(entry.text, REGIONS, REGIONS, knowledge=DETECTION.knowledge).double()
    given, expected = distiller(student, teacher, truth), dkd_regions(student, teacher, truth)
    torch.testing.assert_close(given, expected)
    leaf = student["region_logits"]
    gradients = [torch.autograd.grad(value, leaf, retain_graph=True)[0] for value in (given, expected)]
    torch.testing.assert_close(*gradients)
    empty = torch.zeros(3, 4, 12, dtype=torch.float64)
    nothing = distiller(student | {"proposals": empty}, teacher | {"proposals": empty}, truth)
    assert nothing.item() == 0
    # what crosses to another process or a file is the same distiller
    source = kdzero_gp.compiler.source_of(entry.expression, REGIONS, REGIONS, knowledge=DETECTION.knowledge)
    torch.testing.assert_close(kdzero_gp.compiler.load_source(source)(student, teacher, truth), expected)


def test_regions_are_tokens_and_need_proposals_where_labels_are_read(regions):
    student, teacher, truth = regions
    types = dict(pair_shapes(REGIONS, REGIONS, DETECTION.knowledge).types)
    known = {operation.name for operation, _, _ in Grammar("open", types).rules}
    assert {"target", "nontarget", "softmax_C", "bce_at"} <= known and not known & {"conf", "class_centres"}
    del types["proposals"]
    assert not {o.name for o, _, _ in Grammar("open", types).rules} & {"target", "nontarget"}
    with pytest.raises(ExpressionTypeError, match="this pair has no knowledge 'proposals'"):
        kdzero_gp.parse("times(no(kl(target(region_logits, 1))), 1)", types)
    other = REGIONS | {"regions": (9, 12)}
    distiller = kdzero_gp.compile("times(no(l2(regions)), 1)", REGIONS, other, knowledge=DETECTION.knowledge).double()
    wide = teacher | {"regions": torch.randn(3, 9, 12, dtype=torch.float64)}
    assert distiller(student, wide, truth).isfinite()


def test_what_a_file_may_need_of_the_catalogue_keeps_its_width():
    lines = [line for source in rendering._catalogue_sources().values() for line in source.splitlines()]
    assert max(map(len, lines)) <= 110, max(lines, key=len)


# --- the space ----------------------------------------------------------------------------------------------


def test_the_space_of_detectors_has_their_operations_and_none_that_needs_labels_of_images():
    types = pair_shapes(SHAPES, SHAPES, DETECTION.knowledge).types
    for space in ("open", "kdzero"):
        known = {operation.name for operation, _, _ in Grammar(space, types).rules}
        assert not known & {o.name for o in CATALOGUE if o.dense == MAPS or (o.needs and not o.dense)}
        assert (space == "open") == (known >= {o.name for o in CATALOGUE if "boxes" in o.dense})
    with pytest.raises(ExpressionTypeError, match="conf is for pairs with a label for each of the logits"):
        kdzero_gp.parse("times(conf(l2(fpn3)), 1)", types)
    with pytest.raises(ExpressionTypeError):  # a weight is of a level as it is
        kdzero_gp.parse("times(no(weigh(l2_at(fpn3), foreground(abs(fpn3)))), 1)", types)


def test_detectors_with_other_anchors_have_levels_in_common():
    other = SHAPES | {"logits": (3, 4), "deltas": (4, 4), "boxes": (4, 4), "grid": (4, 4), "edges": (6, 4, 4)}
    types = pair_shapes(SHAPES, other, DETECTION.knowledge).types
    assert set(types) == {"fpn3", "fpn4", "fpn5"}
    known = {operation.name for operation, _, _ in Grammar("open", types).rules}
    assert {"weigh", "foreground", "attended_l2_at"} <= known
    assert not known & {"giou_at", "rich", "conf", "positives", "by_positives"}
    without = dict(pair_shapes(SHAPES, SHAPES, DETECTION.knowledge).types)
    del without["grid"]
    assert "by_positives" not in {operation.name for operation, _, _ in Grammar("open", without).rules}
    with pytest.raises(ExpressionTypeError, match="this pair has no knowledge 'grid'"):
        kdzero_gp.parse("times(no(by_positives(bce_at(logits), rich(logits))), 1)", without)


def test_weights_are_of_the_teacher_alone_and_a_tree_has_words_and_a_formula(batch):
    student, teacher, truth = batch
    text = "times(no(weigh(l2_at(fpn3), attended_foreground(fpn3))), 1)"
    distiller = kdzero_gp.compile(text, SHAPES, SHAPES, knowledge=DETECTION.knowledge).double()
    teacher["fpn3"].requires_grad_()
    loss = distiller(student, teacher, truth)
    loss.backward()
    assert teacher["fpn3"].grad is None and student["fpn3"].grad[:2].abs().sum() > 0
    assert (student["fpn3"].grad[2] == 0).all(), "an image without objects gives nothing here"
    types = pair_shapes(SHAPES, SHAPES, DETECTION.knowledge).types
    expression = kdzero_gp.parse(text, types)
    assert "at each place, weighted where the teacher looks at objects, all of them alike" in describe(
        expression, types
    )
    assert to_latex(expression, types)


def test_random_trees_compile_and_train_a_step_on_odd_shapes():
    """5,000 by experiments/detection/detector_trees.py."""
    wrong = [
        (str(expression), result)
        for index, (pair, expression) in enumerate(detector_trees.trees(60, seed=7))
        if (result := detector_trees.outcome(expression, pair, index)) != "fine"
    ]
    assert wrong == []


def test_regions_have_the_plain_softmax_over_space():
    """Labels of regions are no map."""
    student, teacher = detector_trees.PAIRS[5]
    text = "times(no(l2_rows(softmax_HW(nontarget(region_logits, 4), 2))), 0.5)"
    expression = parse(text, pair_shapes(student, teacher, DETECTION.knowledge).types)
    assert detector_trees.outcome(expression, 5, 964) == "fine"
