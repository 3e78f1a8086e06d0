"""Which knowledge there is comes from a table: logits on maps and tokens, other names, what is never adapted."""

import re
from pathlib import Path

import pytest
import torch

import kdzero_gp
import references
from kdzero_gp import draw
from kdzero_gp.compiler import load_source, parse, source_of
from kdzero_gp.compiler.lowering import lower
from kdzero_gp.compiler.shapes import CLASSIFICATION_KNOWLEDGE, KnowledgeSpec, pair_shapes
from kdzero_gp.errors import ExpressionError, ShapeError
from primitives import CATALOGUE, PairType
from verifying import verify

ROOT = Path(kdzero_gp.__file__).parent
SEGMENTATION = {
    "logits": KnowledgeSpec(("map",), "logits", adapted=False),
    "feat*": KnowledgeSpec(("map",)),
    "fpn*": KnowledgeSpec(("map",)),
}
ANCHORS = SEGMENTATION | {"logits": KnowledgeSpec(("tokens",), "logits", adapted=False)}
PIXELS = {"logits": (2, 4, 4), "feat": (3, 4, 4), "fpn2": (3, 2, 2)}
BOXES = {"logits": (5, 16), "feat": (3, 4, 4)}
CASES = [pytest.param(SEGMENTATION, PIXELS, id="pixels"), pytest.param(ANCHORS, BOXES, id="anchors")]
KD = "times(no(kl(softmax_C(logits, 4))), 1)"
DKD = "add(times(no(kl(nontarget(logits, 4))), 8), times(no(kl(target(logits, 4))), 1))"


def batch(shapes, count=3):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (
        {name: torch.randn(count, *shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
        for _ in range(2)
    )
    for x in student.values():
        x.requires_grad_()
    classes, *places = shapes["logits"]
    return student, teacher, torch.randint(classes, (count, *places), generator=generator)


def loaded(text, shapes, table):
    """Through every stage: text, tree, program, source, module."""
    pair = pair_shapes(shapes, shapes, table)
    verify(lower(parse(text, pair.types), pair), shapes["logits"][1:])
    return load_source(source_of(text, shapes, shapes, knowledge=table)).double()


def place_by_place(x):
    """N×C×… as rows of classes."""
    return x.flatten(2).transpose(1, 2).flatten(0, 1)


@pytest.mark.parametrize(("table", "shapes"), CASES)
@pytest.mark.parametrize("name", ["kd", "dkd", "wsld"])
def test_published_distillers_of_logits_are_means_over_places(name, table, shapes):
    student, teacher, labels = batch(shapes)
    distiller = loaded(str(kdzero_gp.zoo[name]), shapes, table)
    value = distiller(student, teacher, labels)
    if name == "wsld":  # the weight is a sample's, so that only its value on one place is the reference's
        assert value.isfinite() and value > 0
    else:
        rows = [{"logits": place_by_place(side["logits"])} for side in (student, teacher)]
        torch.testing.assert_close(value, references.ZOO[name](*rows, labels.flatten()))
    value.backward()
    assert student["logits"].grad.abs().sum() > 0
    assert distiller.KNOWLEDGE == ("logits",)


@pytest.mark.parametrize(("table", "shapes"), CASES)
def test_places_without_a_label_are_left_out_of_the_mean(table, shapes):
    """Each sample has as many labelled places, so that the mean of means is the mean."""
    student, teacher, labels = batch(shapes)
    labels.view(3, -1)[:, ::2] = -1
    value = loaded(DKD, shapes, table)(student, teacher, labels)
    counted = labels.flatten() >= 0
    rows = [{"logits": place_by_place(side["logits"])[counted]} for side in (student, teacher)]
    torch.testing.assert_close(value, references.ZOO["dkd"](*rows, labels.flatten()[counted]))
    value.backward()
    assert not place_by_place(student["logits"].grad)[~counted].any()
    assert place_by_place(student["logits"].grad)[counted].any()


@pytest.mark.parametrize("calibration", ["no", "entropy", "focal", "conf", "sim"])
def test_samples_without_a_label_are_left_out_of_the_mean(calibration):
    shapes = {"logits": (5,)}
    student, teacher, labels = batch(shapes, 6)
    labels[[1, 4]] = -1
    distiller = kdzero_gp.compile(f"times({calibration}(kl(nontarget(logits, 4))), 1)", shapes, shapes)
    counted = labels >= 0
    some = [{"logits": side["logits"][counted]} for side in (student, teacher)]
    torch.testing.assert_close(distiller(student, teacher, labels), distiller(*some, labels[counted]))


def test_labels_may_have_the_shape_of_the_logits_in_another_layout():
    """Logits N×C×M of a square number of tokens are a map here, and their labels stay N×M."""
    table = SEGMENTATION | {"logits": KnowledgeSpec(("map", "tokens"), "logits", adapted=False)}
    shapes = {"logits": (3, 16)}
    student, teacher, labels = batch(shapes)
    assert pair_shapes(shapes, shapes, table).types == {"logits": PairType("map", "logits")}
    value = kdzero_gp.compile(DKD, shapes, shapes, knowledge=table).double()(student, teacher, labels)
    rows = [{"logits": place_by_place(side["logits"])} for side in (student, teacher)]
    torch.testing.assert_close(value, references.ZOO["dkd"](*rows, labels.flatten()))


def test_other_names_are_read_drawn_and_adapted():
    teacher = PIXELS | {"fpn2": (6, 2, 2)}
    pair = pair_shapes(PIXELS, teacher, SEGMENTATION)
    tree = parse("times(no(l2(fpn2)), 1)", pair.types)
    assert lower(tree, pair).adapters["adapt_fpn2"].channels == (3, 6)
    assert "pyramid level 2" in draw.describe(tree, pair.types)
    assert r"\mathrm{fpn}_{2,T}" in draw.to_latex(tree, pair.types)
    assert draw.to_svg(tree, shapes=pair)
    with pytest.raises(ExpressionError):
        parse("times(no(l2(fpn2)), 1)")
    with pytest.raises(ExpressionError, match="did you mean 'fpn2'"):
        parse("times(no(l2(fpn)), 1)", pair.types)


def test_logits_are_never_adapted():
    teacher = PIXELS | {"logits": (2, 8, 8)}
    with pytest.raises(ShapeError, match="cannot compare logits"):
        kdzero_gp.compile(KD, PIXELS, teacher, knowledge=SEGMENTATION)
    with pytest.raises(ShapeError, match="sim compares logits"):
        kdzero_gp.compile("times(sim(l2(feat)), 1)", PIXELS, teacher, knowledge=SEGMENTATION)
    with pytest.raises(ShapeError, match="2 classes and the teacher 3"):
        pair_shapes(PIXELS, PIXELS | {"logits": (3, 4, 4)}, SEGMENTATION)


def test_sentence_of_a_map_of_logits_speaks_of_classes():
    types = pair_shapes(PIXELS, PIXELS, SEGMENTATION).types
    assert "softmax over classes of the logits" in draw.describe(parse(KD, types), types)


def test_batch_axis_of_maps_is_seen():
    batched = {name: (9, *shape) for name, shape in PIXELS.items()}
    assert pair_shapes(batched, batched, SEGMENTATION).student == PIXELS


def test_a_shape_that_its_knowledge_cannot_have_gets_a_sentence():
    with pytest.raises(ShapeError, match=r"logits has shape \(2,\) per sample; expected C×M or C×H×W"):
        pair_shapes({"logits": (2,)}, {"logits": (2,)}, SEGMENTATION)
    with pytest.raises(ShapeError, match="expected map"):
        kdzero_gp.compile("times(no(l2(feat)), 1)", {"feat": (3, 5)}, {"feat": (3, 5)}, knowledge=SEGMENTATION)


@pytest.mark.parametrize("pattern", ["feat[0-9]*", "*", "", "1st", 'a"', "fe*at", "é"])
def test_a_pattern_that_could_carry_code_is_refused(pattern):
    with pytest.raises(ValueError, match="names no knowledge"):
        pair_shapes(PIXELS, PIXELS, {pattern: KnowledgeSpec()})


@pytest.mark.parametrize("spec", [{"ranks": ()}, {"ranks": ("plane",)}, {"kind": "probability"}])
def test_a_spec_without_sense_is_refused(spec):
    with pytest.raises(ValueError, match="is not a knowledge"):
        KnowledgeSpec(**spec)


def test_default_table_is_classifications():
    pair = pair_shapes({"logits": (3,), "cls": (4, 4)}, {"logits": (3,), "cls": (4, 4)})
    assert pair.knowledge is CLASSIFICATION_KNOWLEDGE and list(pair.types) == ["logits"]


# times, add and no are the form of every distiller; these files know no other operation by its name.
SPELLED = ["draw/formula.py", "draw/sentence.py", "draw/labels.py", "draw/graphs.py", "evolution/grammar.py"]
SPELLED += [f"compiler/{file}.py" for file in ("canonical", "genotype", "lowering", "checking", "rendering", "shapes")]


@pytest.mark.parametrize("file", SPELLED)
def test_no_operation_is_spelt_outside_its_declaration(file):
    code = re.sub(r'"""[\s\S]*?"""', "", (ROOT / file).read_text(encoding="utf-8"))
    names = {operation.name for operation in CATALOGUE} - {"times", "add", "no"}
    spelt = names & {name for text in re.findall(r'"([^"\n]*)"', code) for name in [text.strip("_")]}
    allowed = {
        "compiler/genotype.py": {"leaky_relu", "scale_r1", "scale_r2", "scale_r4", "l2"}
    }  # the paper's spellings, a default
    assert spelt - allowed.get(file, set()) - {"batch"} == set()  # "batch" is the name of a type of losses too
