"""How two distillers are compared, and how a genealogy is drawn."""

import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import pytest

from kdzero_gp import Run, parse, zoo
from kdzero_gp.analysis.comparison import change, compare
from kdzero_gp.analysis.genealogy import MOST_BOXES
from kdzero_gp.analysis.layered_layout import layered_layout
from kdzero_gp.errors import RunError
from kdzero_gp.search.storage import Database
from synthetic import synthetic_run

SVG = "{http://www.w3.org/2000/svg}"
BIRTHS, POPULATION = 400, 20


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of 400 births that was never trained."""
    return Run(synthetic_run(tmp_path_factory.mktemp("runs") / "synthetic", BIRTHS, POPULATION))


def svg_of(text):
    root = ElementTree.fromstring(text)
    assert root.tag == f"{SVG}svg"
    return root


# --- comparisons --------------------------------------------------------------------------------------------


def relations(a, b):
    return [(row.role, row.relation) for row in compare(parse(a), parse(b)).rows]


def test_equal_distillers_share_everything():
    found = compare(zoo["dkd"], zoo["dkd"])
    assert found.similarity == 1.0 and not found.differences and found.shared == (zoo["dkd"],)


def test_a_changed_and_an_added_operation_are_named():
    found = relations("times(no(l2(satt(feat))), 1)", "times(conf(l2(pow2(satt(feat)))), 1)")
    assert found == [
        ("knowledge", "same"), ("transform", "same"), ("transform", "only b"), ("distance", "same operation"),
        ("calibration", "changed"), ("combination", "same operation"),
    ]  # fmt: skip


def test_terms_are_matched_by_what_they_have_in_common():
    a = parse("add(times(no(kl(softmax_C(logits, 4))), 1), times(no(l2(feat)), 2))")
    b = parse("add(times(no(l2(feat)), 5), times(no(kl(softmax_C(logits, 8))), 1))")
    found = compare(a, b)
    assert [(str(row.a), str(row.b)) for row in found.differences if row.role == "transform"] == [
        ("softmax_C(logits, 4)", "softmax_C(logits, 8)")
    ]
    assert [row.relation for row in found.differences] == ["changed", "changed"]
    assert set(map(str, found.shared)) == {"logits", "no(l2(feat))"}


def test_a_term_without_partner_stands_alone():
    a, b = zoo["mse"], parse(f"add({zoo['fitnet']}, {zoo['mse']})")
    assert {row.relation for row in compare(a, b).rows if row.term == 2} == {"only b"}
    assert change(a, b) == "+ l2(feat)" and change(b, a) == "− l2(feat)"
    assert change(a, a) == "nothing changed"


def test_trees_without_anything_in_common_have_similarity_zero():
    found = compare(parse("times(no(l2(feat)), 1)"), parse("times(conf(kl(softmax_C(logits, 4))), 2)"))
    assert found.similarity == 0.0 and found.shared == ()


def test_a_run_compares_ranks_names_and_texts(run):
    found = run.compare(1, "kd")
    assert (found.a, found.b) == (run.best.expression, zoo["kd"])
    assert run.compare(zoo["at"], str(zoo["sp"])).name_a == "expression"
    assert run.compare(run.find(2), run.find(3).digest).name_b == "rank 3"
    assert "similarity" in str(found)


# --- genealogies --------------------------------------------------------------------------------------------


def test_a_genealogy_is_the_ancestors_of_the_winner(run):
    with Database.read(run.folder) as database:
        births = {birth.number: birth for birth in database.births()}
    found = run.genealogy()
    assert found.birth == run.best.birth
    expected, waiting = set(), [found.birth]
    while waiting:
        number = waiting.pop()
        if number not in expected:
            expected.add(number)
            waiting += births[number].parents
    assert set(found.graph) == expected
    assert all(parent in births[child].parents for parent, child in found.graph.edges)
    assert sum(found.counts.values()) == len(expected)


@pytest.mark.parametrize("birth", [0, 30, 120, BIRTHS - 1, None])
def test_pictures_of_genealogies_have_no_overlap(run, birth):
    found = run.genealogy(birth)
    root = svg_of(found._repr_svg_())
    frames = [group.find(f"{SVG}rect") for group in root.findall(f"{SVG}g")]
    boxes = [tuple(float(frame.get(name)) for name in ("x", "y", "width", "height")) for frame in frames]
    assert 1 <= len(boxes) <= min(2 * MOST_BOXES, len(found.graph))
    width, height = float(root.get("width")), float(root.get("height"))
    for index, (x, y, w, h) in enumerate(boxes):
        assert x >= 0 and x + w <= width and y >= 0 and y + h <= height
        for other_x, other_y, other_w, other_h in boxes[:index]:
            apart = x + w <= other_x or other_x + other_w <= x or y + h <= other_y or other_y + other_h <= y
            assert apart, "two births overlap"


def test_lines_pass_rows_beside_the_boxes(run):
    *_, where = run.genealogy(BIRTHS - 1)._plan
    for row in where.rows:
        places = sorted((where.places[key] for key in row), key=lambda place: place.x)
        for left, right in pairwise(places):
            assert left.x + left.width / 2 <= right.x - right.width / 2 + 1e-6


def test_rows_follow_generations_and_parents_stand_above(run):
    found = run.genealogy(60)
    where = layered_layout(found.graph, dict.fromkeys(found.graph, (50.0, 20.0)))
    row_of = {key: index for index, row in enumerate(where.rows) for key in row}
    assert list(where.generations) == sorted(where.generations)
    for node, generation in found.graph.nodes(data="generation"):
        assert where.generations[row_of[node]] == generation
    assert all(row_of[parent] < row_of[child] for parent, child in found.graph.edges)


def test_a_birth_that_is_not_there_is_an_error(run):
    with pytest.raises(RunError, match="births 0 to 399"):
        run.genealogy(BIRTHS)
