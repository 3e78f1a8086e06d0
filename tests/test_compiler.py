"""Distillers are compiled for a pair: their value, their gradients, their adapters, their source."""

import ast
import copy
import dataclasses
import itertools
import json
import linecache
import os
import random
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
import torch

import kdzero_gp
import references
from kdzero_gp.compiler import from_genotype, load_source, parse, terms, type_of
from kdzero_gp.compiler.lowering import lower
from kdzero_gp.compiler.shapes import pair_shapes
from kdzero_gp.errors import (
    ExpressionError,
    ExpressionTypeError,
    GenotypeError,
    KdzeroError,
    RunError,
    ShapeError,
)
from primitives.types import DISTRIBUTIONS, RANKS
from strategies import (
    CROSS,
    EQUAL,
    IMAGE_ZOO,
    KNOWLEDGE,
    PAIRS,
    SMALL_CROSS,
    SMALL_EQUAL,
    SMALL_PAIRS,
    TOKEN_KNOWLEDGE,
    TOKENS,
    batch_of,
    random_genotype,
    random_trees,
)
from verifying import verify

LONG = os.environ.get("KDZERO_LONG") == "1"
TREES = 20_000 if LONG else 200
EXPORTED_TREES = 200 if LONG else 20
EVALUATED = 1000 if LONG else 120
TOLERANCE = 1e-6
STOCHASTIC = ("mask", "drop")

zoo = pytest.mark.parametrize("name", IMAGE_ZOO)
pairs = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
small_pairs = pytest.mark.parametrize("pair", SMALL_PAIRS.values(), ids=SMALL_PAIRS)


def compiled(expression, pair, dtype=torch.float64, seed=0):
    """A distiller in ``dtype`` whose adapters, if any, have the weights of ``seed``."""
    torch.manual_seed(seed)
    return kdzero_gp.compile(expression, *pair).to(dtype)


def gradients(value, student):
    """The gradient for each knowledge; None where the loss does not depend on it."""
    return dict(zip(student, torch.autograd.grad(value, list(student.values()), allow_unused=True), strict=True))


def knowledge_of(expression):
    return {node.name for node in expression.walk() if not node.arguments}


# --- the zoo ------------------------------------------------------------------------------------------------


def test_zoo_has_the_published_distillers():
    assert set(IMAGE_ZOO) == set(references.ZOO)
    for entry in kdzero_gp.zoo.entries.values():
        assert entry.description
        assert entry.reference


@zoo
@pytest.mark.parametrize("pair", [EQUAL, SMALL_EQUAL], ids=["usual", "small"])
def test_zoo_equals_its_independent_formula_without_adapters(name, pair):
    student, teacher, labels = batch_of(pair, count=5, seed=1)
    distiller = compiled(kdzero_gp.zoo[name], pair)
    assert list(distiller.children()) == []
    value, expected = distiller(student, teacher, labels), references.ZOO[name](student, teacher, labels)
    assert value.shape == ()
    torch.testing.assert_close(value, expected, rtol=TOLERANCE, atol=0.0)
    wanted = gradients(expected, student)
    for knowledge, gradient in gradients(value, student).items():
        want = wanted[knowledge]
        assert (gradient is None) == (want is None)
        if want is not None:
            assert (gradient - want).norm() <= TOLERANCE * want.norm()


@zoo
def test_zoo_is_finite_with_confident_networks_in_single_precision(name):
    student, teacher, labels = batch_of(EQUAL, count=4, dtype=torch.float32)
    distiller = compiled(kdzero_gp.zoo[name], EQUAL, torch.float32)
    student = {key: (30.0 * x).detach().requires_grad_() for key, x in student.items()}
    value = distiller(student, {key: 30.0 * x for key, x in teacher.items()}, labels)
    assert value.isfinite()
    assert all(gradient is None or gradient.isfinite().all() for gradient in gradients(value, student).values())


@zoo
@pytest.mark.parametrize("count", [1, 2])
def test_zoo_is_finite_on_the_smallest_batches(name, count):
    student, teacher, labels = batch_of(EQUAL, count=count, dtype=torch.float32)
    value = compiled(kdzero_gp.zoo[name], EQUAL, torch.float32)(student, teacher, labels)
    assert value.isfinite()
    assert all(gradient is None or gradient.isfinite().all() for gradient in gradients(value, student).values())


# The attention of at is over a map, which 17 tokens are not.
TRAINED = [
    pytest.param(name, pair, id=f"{name}-{kind}")
    for kind, pair in (("cross", CROSS), ("tokens", TOKENS))
    for name in IMAGE_ZOO
    if (name, kind) != ("at", "tokens")
]


@pytest.mark.parametrize(("name", "pair"), TRAINED)
def test_zoo_trains_any_pair(name, pair):
    student, teacher, labels = batch_of(pair, count=4)
    distiller = compiled(kdzero_gp.zoo[name], pair)
    distiller(student, teacher, labels).backward()
    used = knowledge_of(kdzero_gp.zoo[name])
    assert all(student[key].grad.abs().sum() > 0 for key in used)
    assert all(parameter.grad is not None for parameter in distiller.parameters())


# --- adapters -----------------------------------------------------------------------------------------------


def adapters_of(expression, pair):
    """The names of an expression's adapters, and how many parameters they learn."""
    distiller = compiled(expression, pair)
    return {name for name, _ in distiller.named_children()}, sum(1 for _ in distiller.parameters())


@pytest.mark.parametrize("name", ["kd", "mse", "dist", "dkd", "wsld", "sp", "rkd", "pkt"])
def test_no_adapter_is_inserted_where_the_tree_makes_the_shapes_agree(name):
    assert adapters_of(kdzero_gp.zoo[name], CROSS) == (set(), 0)


def test_spatial_attention_of_other_widths_needs_no_adapter():
    wide = ({"logits": (100,), "feat": (16, 8, 8)}, {"logits": (100,), "feat": (512, 8, 8)})
    assert adapters_of(kdzero_gp.zoo["at"], wide) == (set(), 0)
    assert adapters_of(kdzero_gp.zoo["nst"], wide) == (set(), 0)


@pytest.mark.parametrize("name", ["at", "nst"])
def test_other_resolutions_are_pooled_where_widths_do_not_matter(name):
    assert adapters_of(kdzero_gp.zoo[name], CROSS) == ({"pool_feat"}, 0)


@pytest.mark.parametrize("text", ["mean_C(pool_2(feat))", "mm(feat)", "pdist(batch(feat))", "pool_4(mean_C(feat))"])
def test_pooling_by_the_tree_itself_needs_no_adapter(text):
    assert adapters_of(f"times(no(l2({text})), 1)", CROSS) == (set(), 0)


@pytest.mark.parametrize(("name", "leaf"), [("fitnet", "feat"), ("cwd", "feat"), ("ickd", "feat"), ("cc", "emb")])
def test_one_learnable_adapter_is_inserted_where_it_is_needed(name, leaf):
    names, parameters = adapters_of(kdzero_gp.zoo[name], CROSS)
    assert names == {f"adapt_{leaf}"}
    assert parameters > 0


def test_two_terms_share_one_adapter():
    names, _ = adapters_of("add(times(no(l2(feat)), 1), times(no(kl(softmax_HW(feat, 4))), 1))", CROSS)
    assert names == {"adapt_feat"}


def test_each_term_has_the_least_adapter_that_it_needs():
    names, _ = adapters_of("add(times(no(l2(feat)), 1), times(no(l2(mm(feat))), 1))", CROSS)
    assert names == {"adapt_feat"}
    names, _ = adapters_of("add(times(no(l2(mean_C(feat))), 1), times(no(l2(feat)), 1))", CROSS)
    assert names == {"pool_feat", "adapt_feat"}


def test_adapters_are_trained_with_the_student():
    student, teacher, labels = batch_of(SMALL_CROSS)
    distiller = compiled(kdzero_gp.zoo["fitnet"], SMALL_CROSS)
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.05)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = distiller(student, teacher, labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


# --- the teacher --------------------------------------------------------------------------------------------


SOME_TREES = random_trees(60, seed=11, searchable_only=False)


@small_pairs
def test_teacher_never_gets_a_gradient(pair):
    for tree in [*IMAGE_ZOO.values(), *SOME_TREES]:
        student, teacher, labels = batch_of(pair)
        for tensor in teacher.values():
            tensor.requires_grad_()
        value = compiled(tree, pair)(student, teacher, labels)
        if value.requires_grad:
            value.backward()
        assert all(tensor.grad is None for tensor in teacher.values()), str(tree)


def test_targets_carry_no_gradient():
    for tree in SOME_TREES:
        _, teacher, labels = batch_of(SMALL_EQUAL)
        for tensor in teacher.values():
            tensor.requires_grad_()
        prepared = compiled(tree, SMALL_EQUAL).prepare(teacher, labels)
        assert not any(target.requires_grad for target in prepared.values())


@small_pairs
def test_prepared_targets_belong_to_one_sample_each(pair):
    """So that they can be computed once and drawn in any order."""
    rows = torch.tensor([3, 0, 4])
    for tree in [*IMAGE_ZOO.values(), *SOME_TREES, *random_trees(EVALUATED, seed=12)]:
        _, teacher, labels = batch_of(pair, count=6)
        distiller = compiled(tree, pair)
        whole = distiller.prepare(teacher, labels)
        part = distiller.prepare({name: x[rows] for name, x in teacher.items()}, labels[rows])
        assert whole.keys() == part.keys()
        for name in whole:
            torch.testing.assert_close(part[name], whole[name][rows], msg=lambda text, tree=tree: f"{tree}\n{text}")


def test_loss_from_prepared_targets_is_the_loss():
    for tree in random_trees(60, seed=13, without=STOCHASTIC):
        student, teacher, labels = batch_of(SMALL_CROSS)
        distiller = compiled(tree, SMALL_CROSS).eval()
        prepared = {name: target.clone() for name, target in distiller.prepare(teacher, labels).items()}
        whole = distiller(student, teacher, labels)
        assert torch.equal(distiller.loss(student, prepared, labels), whole)
        parts = distiller.terms(student, prepared, labels)
        assert len(parts) == len(terms(tree)) == len(distiller.magnitudes)
        assert all(part.shape == () for part in parts)
        total = sum(magnitude * part for magnitude, part in zip(distiller.magnitudes, parts, strict=True))
        torch.testing.assert_close(total, whole)


@pytest.mark.parametrize(
    "transform", ["mask(feat)", "drop(feat)", "drop(emb)", "mask(channel(feat))", "mask(drop(feat))"]
)
def test_noise_is_shared_by_both_sides_and_drawn_anew_at_each_step(transform):
    student, _, labels = batch_of(EQUAL, count=4)
    same = {name: x.detach() for name, x in student.items()}
    other = {name: x + 1.0 for name, x in same.items()}
    distiller = compiled(f"times(no(l2({transform})), 1)", EQUAL)
    assert distiller(student, same, labels) == 0
    assert distiller(student, other, labels) != distiller(student, other, labels)


def test_equal_subtrees_are_computed_once():
    source = kdzero_gp.source_of("add(times(no(l2(mm(feat))), 1), times(no(l1(mm(feat))), 1))", *EQUAL)
    assert source.count("= mm(feat_s)") == 1


# --- random trees -------------------------------------------------------------------------------------------


@pytest.mark.timeout(3600)
@pairs
def test_programs_of_random_trees_define_every_name_and_have_the_declared_shapes(pair):
    knowledge = TOKEN_KNOWLEDGE if pair is TOKENS else KNOWLEDGE
    for tree in random_trees(TREES if pair is not TOKENS else TREES // 4, seed=14, knowledge=knowledge):
        program = lower(tree, pair_shapes(*pair))
        verify(program)
        assert knowledge_of(tree) <= set(program.knowledge) <= knowledge_of(tree) | {"logits"}, str(tree)


@zoo
@pytest.mark.parametrize("pair", [EQUAL, CROSS, SMALL_CROSS], ids=["equal", "cross", "small"])
def test_programs_of_the_zoo_define_every_name_and_have_the_declared_shapes(name, pair):
    verify(lower(kdzero_gp.zoo[name], pair_shapes(*pair)))


def broken_programs():
    """A program of kd and of fitnet with adapters, each with one thing wrong."""
    for text, change in {
        "uses logits_s before": lambda p: p.steps.pop(0),
        "no step gives the target": lambda p: p.targets.append("other"),
        "defined twice": lambda p: p.steps.append(p.steps[-1]),
        "not a scalar": lambda p: p.results.append("kl_losses"),
        "1 terms have 2 magnitudes": lambda p: p.magnitudes.append(1.0),
        "has the shape": lambda p: p.steps.__setitem__(1, dataclasses.replace(p.steps[1], shape=(1009, 3))),
        "uses targets": lambda p: p.targets.clear(),
    }.items():
        yield pytest.param(text, change, id=text)


@pytest.mark.parametrize(("words", "change"), broken_programs())
def test_verifier_finds_what_is_wrong_with_a_program(words, change):
    program = lower(kdzero_gp.zoo["kd"], pair_shapes(*EQUAL))
    change(program)
    with pytest.raises(ValueError, match=words.replace("targets", "logsoftmax_C_t")):
        verify(program)


@pytest.mark.timeout(3600)
@pairs
def test_random_genotypes_of_the_paper_train_the_student(pair):
    knowledge = TOKEN_KNOWLEDGE if pair is TOKENS else KNOWLEDGE
    rng = random.Random(15)
    made = 0
    while made < (TREES if LONG else 100):
        try:
            tree = from_genotype(**random_genotype(rng.choice))
            type_of(tree, knowledge)
        except (GenotypeError, ExpressionTypeError):
            continue
        made += 1
        student, teacher, labels = batch_of(pair, count=2, dtype=torch.float32)
        value = kdzero_gp.compile(tree, *pair)(student, teacher, labels)
        (leaf,) = knowledge_of(tree)
        gradient = gradients(value, student)[leaf]
        assert value.shape == () and gradient is not None, str(tree)
        assert value.isfinite() or any(name in str(tree) for name in ("pow4", "exp", "pow2")), str(tree)


@small_pairs
@pytest.mark.parametrize("count", [1, 5])
def test_random_trees_give_a_scalar_and_gradients_of_the_right_shape(pair, count):
    """Depth overflows any range (pow4 of pow4), so finiteness is asked of operations and not of trees."""
    for tree in random_trees(EVALUATED, seed=16, searchable_only=False):
        student, teacher, labels = batch_of(pair, count)
        distiller = compiled(tree, pair)
        value = distiller.eval()(student, teacher, labels)
        assert value.shape == (), str(tree)
        used = knowledge_of(tree)
        for name, gradient in gradients(value, student).items():
            assert gradient is None or (name in used | {"logits"} and gradient.shape == student[name].shape)


def test_random_trees_on_small_numbers_are_finite():
    """One transform at most, where nothing overflows: then value and gradient are numbers."""
    for tree in random_trees(EVALUATED, seed=17, longest=1):
        student, teacher, labels = batch_of(SMALL_EQUAL, 4, dtype=torch.float32)
        value = compiled(tree, SMALL_EQUAL, torch.float32)(student, teacher, labels)
        assert value.isfinite(), str(tree)
        assert all(g is None or g.isfinite().all() for g in gradients(value, student).values()), str(tree)


DIVERGENCES = {
    "kl_terms": False,
    "cross_entropy_terms": False,
    "log_kl_terms": True,
    "log_cross_entropy_terms": True,
}


def watched(distiller, pair_type, seen):
    """Wrap the divergences in the module of a distiller so that they check what they are given."""
    dimensions = RANKS[pair_type.rank].dimensions[pair_type.axis]

    def watch(function, logarithmic):
        def checked(student, teacher):
            for x in (student, teacher):
                sums = (x.exp() if logarithmic else x).sum(dim=dimensions)
                seen.append((sums - 1.0).abs().max().item())
            return function(student, teacher)

        return checked

    namespace = type(distiller).terms.__globals__
    for name, logarithmic in DIVERGENCES.items():
        if name in namespace:
            namespace[name] = watch(namespace[name], logarithmic)


def divergences_in(trees):
    """The terms with a divergence, and the type that it compares."""
    for tree in trees:
        for term in terms(tree):
            distance = term.children[0].children[0]
            given = type_of(distance.children[0])
            if distance.name in ("kl", "kl_mean", "soft_cross_entropy"):
                assert given.kind in DISTRIBUTIONS
                yield term, given


@small_pairs
def test_no_divergence_gets_what_is_not_normalised(pair):
    trees = [*IMAGE_ZOO.values(), *random_trees(TREES, seed=18, searchable_only=False)]
    checked = 0
    for term, given in list(divergences_in(trees))[:EVALUATED]:
        seen = []
        distiller = compiled(term, pair)
        watched(distiller, given, seen)
        distiller(*batch_of(pair))
        assert len(seen) == 2, str(term)
        assert max(seen) < 1e-9, str(term)
        checked += 1
    assert checked > 25


def test_divergence_of_a_softmax_is_exact_where_probabilities_underflow():
    student, teacher, labels = batch_of(EQUAL, dtype=torch.float32)
    far = {"logits": 1000.0 * teacher["logits"]}
    (gradient,) = torch.autograd.grad(
        compiled("times(no(kl(softmax_C(logits, 1))), 1)", EQUAL, torch.float32)(student, far, labels),
        student["logits"],
    )
    expected = (torch.softmax(student["logits"], 1) - torch.softmax(far["logits"], 1)) / len(labels)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("temperature", [1, 2, 4, 8, 16])
def test_loss_is_multiplied_by_the_squared_temperature(temperature):
    student, teacher, labels = batch_of(EQUAL)
    for text in ("kl(softmax_C(logits, {}))", "l2(over(emb, {}))", "pear(transpose(softmax_C(logits, {})))"):
        distiller = compiled(f"times(no({text.format(temperature)}), 1)", EQUAL)
        assert (f"{float(temperature)!r}**2" in kdzero_gp.source_of(distiller.EXPRESSION, *EQUAL)) == (temperature > 1)
    value = compiled(f"times(no(l2(over(emb, {temperature}))), 1)", EQUAL)(student, teacher, labels)
    torch.testing.assert_close(value, ((student["emb"] - teacher["emb"]) ** 2).mean())


# --- source and export --------------------------------------------------------------------------------------

# Runs where there is torch and nothing of ours: neither an installed nor an importable kdzero_gp.
RUNNER = """
import importlib.util, json, sys
from pathlib import Path

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("kdzero_gp", "primitives"):
            raise ModuleNotFoundError(f"hidden: {name}", name=name)

sys.meta_path.insert(0, Hidden())
import torch

folder = Path(sys.argv[1])
for name in ("kdzero_gp", "primitives"):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{name} can be imported here")

found = {}
for file in sorted(folder.glob("*.py")):
    case = torch.load(folder / f"{file.stem}.pt")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    distiller = module.Distiller().double()
    distiller.load_state_dict(case["state"])
    student = {key: x.requires_grad_() for key, x in case["student"].items()}
    torch.manual_seed(0)
    value = distiller(student, case["teacher"], case["labels"])
    gradients = torch.autograd.grad(value, list(student.values()), allow_unused=True)
    found[file.stem] = {"value": value.detach(), "gradients": dict(zip(student, gradients))}
assert not any(name.partition(".")[0] in ("kdzero_gp", "primitives") for name in sys.modules)
torch.save(found, folder / "found.results")
print(json.dumps(sorted(found)))
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Exported distillers in one folder: {name: (expression, pair)}, and the folder."""
    folder = tmp_path_factory.mktemp("exported")
    cases = {f"zoo_{name}": (tree, EQUAL) for name, tree in IMAGE_ZOO.items()}
    cases |= {f"cross_{name}": (tree, SMALL_CROSS) for name, tree in IMAGE_ZOO.items()}
    for number, tree in enumerate(random_trees(EXPORTED_TREES, seed=19, searchable_only=False)):
        cases[f"tree_{number:03}"] = (tree, SMALL_CROSS if number % 2 else SMALL_EQUAL)
    for name, (tree, pair) in cases.items():
        kdzero_gp.export(folder / f"{name}.py", tree, *pair, provenance={"pair": "a test", "run": 'with """quotes"""'})
    return cases, folder


def test_exported_files_give_the_same_losses_and_gradients_without_kdzero_gp(exported):
    cases, folder = exported
    expected = {}
    for name, (tree, pair) in cases.items():
        student, teacher, labels = batch_of(pair, seed=2)
        distiller = compiled(tree, pair)
        state = copy.deepcopy(distiller.state_dict())
        torch.manual_seed(0)
        value = distiller(student, teacher, labels)
        expected[name] = (value, gradients(value, student))
        case = {"student": student, "teacher": teacher, "labels": labels, "state": state}
        case["student"] = {key: x.detach() for key, x in student.items()}
        torch.save(case, folder / f"{name}.pt")
    outcome = subprocess.run(
        [sys.executable, "-I", "-c", RUNNER, str(folder)], capture_output=True, encoding="utf-8", timeout=240
    )
    assert outcome.returncode == 0, outcome.stderr
    assert json.loads(outcome.stdout) == sorted(cases)
    found = torch.load(folder / "found.results")
    for name, (value, wanted) in expected.items():
        torch.testing.assert_close(found[name]["value"], value, rtol=1e-12, atol=0.0, equal_nan=True)
        for key, gradient in wanted.items():
            there = found[name]["gradients"][key]
            assert (there is None) == (gradient is None)
            if gradient is not None:
                torch.testing.assert_close(there, gradient, rtol=1e-12, atol=1e-14, equal_nan=True)


def ruff(*arguments):
    command = [sys.executable, "-m", "ruff", *arguments, "--isolated", "--line-length", "110", "--no-cache"]
    return subprocess.run([str(part) for part in command], capture_output=True, encoding="utf-8", timeout=120)


def test_exported_files_pass_a_linter(exported):
    outcome = ruff("check", "--select", "E,F,W,I,B", exported[1])
    assert outcome.returncode == 0, outcome.stdout[-4000:]


def test_exported_files_are_formatted(exported):
    outcome = ruff("format", "--diff", exported[1])
    assert outcome.returncode == 0, outcome.stdout[-4000:]


def test_exported_files_tell_where_they_come_from(exported):
    cases, folder = exported
    source = (folder / "zoo_kd.py").read_text(encoding="utf-8")
    compile(source, "zoo_kd.py", "exec")
    for fact in (str(cases["zoo_kd"][0]), kdzero_gp.digest(cases["zoo_kd"][0]), "a test"):
        assert fact in source
    for line in source.splitlines():
        if line.startswith(("import", "from")):
            assert line.split()[1].partition(".")[0] in {"torch", "math", "collections", "typing"}


def test_evaluated_source_is_the_exported_source(tmp_path):
    """But for the docstring, which tells where the file comes from."""
    expression = kdzero_gp.zoo["dkd"]
    exported_source = kdzero_gp.export(tmp_path / "dkd.py", expression, *EQUAL)
    evaluated = "".join(linecache.getlines(type(compiled(expression, EQUAL)).forward.__code__.co_filename))
    assert (tmp_path / "dkd.py").read_text(encoding="utf-8") == exported_source
    assert exported_source.split('"""', 2)[2] == evaluated.split('"""', 2)[2]


def test_export_that_cannot_be_written_says_so_and_leaves_nothing(tmp_path):
    with pytest.raises(RunError, match="cannot write"):
        kdzero_gp.export(tmp_path / "missing" / "kd.py", kdzero_gp.zoo["kd"], *EQUAL)
    (tmp_path / "taken").mkdir()
    with pytest.raises(RunError):
        kdzero_gp.export(tmp_path / "taken", kdzero_gp.zoo["kd"], *EQUAL)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize(
    ("text", "signed"),
    [
        ("times(no(cor(logits)), 1)", True),
        ("add(times(no(l2(emb)), 0.01), times(no(cor(logits)), 100))", True),
        ("times(conf(kl(softmax_N(logits, 4))), 1)", True),
        ("times(no(kl(softmax_N(logits, 4))), 1)", False),
        ("times(conf(kl(softmax_C(logits, 4))), 1)", False),
        (str(kdzero_gp.zoo["nst"]), False),
    ],
)
def test_a_file_says_where_its_value_may_be_negative(text, signed):
    """And there it can be, by random tensors, of sides that are near each other too; elsewhere it never was."""
    source = kdzero_gp.source_of(text, *SMALL_EQUAL, provenance={})
    assert ("value: may be negative; only its gradient counts" in source) is signed
    distiller = kdzero_gp.compile(text, *SMALL_EQUAL).double()
    least = 0.0
    for seed, near in itertools.product(range(30), (0.0, 0.9, 0.999)):
        student, teacher, labels = batch_of(SMALL_EQUAL, 4, seed)
        student = {name: (1 - near) * own + near * teacher[name] for name, own in student.items()}
        least = min(least, distiller(student, teacher, labels).item())
    assert (least < -1e-6) is signed


@pytest.mark.parametrize("fact", ['"""', "\\", "\\N{DIGIT ONE}", 'ends with "', "two\nlines", "'''", "\x00", "é×‖"])
def test_provenance_cannot_break_the_source(fact):
    source = kdzero_gp.source_of(kdzero_gp.zoo["kd"], *EQUAL, provenance={"run": fact, "note": f"{fact} and more"})
    trees = [ast.parse(text) for text in (source, kdzero_gp.source_of(kdzero_gp.zoo["kd"], *EQUAL))]
    assert ast.get_docstring(trees[0]) != ast.get_docstring(trees[1])
    assert [ast.dump(node) for node in trees[0].body[1:]] == [ast.dump(node) for node in trees[1].body[1:]]


def test_source_is_the_same_for_the_same_distiller():
    for tree in random_trees(20, seed=20):
        assert kdzero_gp.source_of(tree, *CROSS) == kdzero_gp.source_of(parse(str(tree)), *CROSS)


def test_lines_of_the_source_keep_within_the_width():
    for tree in random_trees(100, seed=21, most=4, longest=8):
        for line in kdzero_gp.source_of(tree, *CROSS).splitlines():
            assert len(line) <= 110, line


@zoo
def test_zoo_runs_under_torch_compile_as_one_graph(name):
    torch.compiler.reset()
    student, teacher, labels = batch_of(SMALL_EQUAL)
    distiller = compiled(kdzero_gp.zoo[name], SMALL_EQUAL)
    fast = torch.compile(distiller, fullgraph=True, backend="eager")
    value, expected = fast(student, teacher, labels), distiller(student, teacher, labels)
    torch.testing.assert_close(value, expected)
    for key, gradient in gradients(value, student).items():
        wanted = gradients(distiller(student, teacher, labels), student)[key]
        assert (gradient is None and wanted is None) or torch.allclose(gradient, wanted)


# --- as a module --------------------------------------------------------------------------------------------


def test_magnitudes_replace_those_of_the_expression():
    expression = kdzero_gp.zoo["dkd"]
    student, teacher, labels = batch_of(SMALL_EQUAL)
    one, two = (
        kdzero_gp.compile(expression, *SMALL_EQUAL, magnitudes=magnitudes)(student, teacher, labels)
        for magnitudes in ((1.0, 0.0), (0.0, 1.0))
    )
    assert kdzero_gp.compile(expression, *SMALL_EQUAL).magnitudes == (8.0, 1.0)
    torch.testing.assert_close(compiled(expression, SMALL_EQUAL)(student, teacher, labels), 8.0 * one + two)


def test_a_loaded_source_takes_magnitudes_and_says_what_it_needs():
    source = kdzero_gp.source_of("add(times(focal(l2(feat)), 4), times(no(l2(emb)), 1))", *EQUAL)
    distiller = load_source(source, (0.5, 1e-3))
    assert distiller.MAGNITUDES == (4.0, 1.0) and distiller.magnitudes == (0.5, 0.001)
    assert distiller.KNOWLEDGE == ("feat", "logits", "emb")
    assert load_source(source).magnitudes == (4.0, 1.0)
    student, teacher, labels = batch_of(EQUAL, dtype=torch.float32)
    parts = distiller.terms(student, distiller.prepare(teacher, labels), labels)
    torch.testing.assert_close(distiller(student, teacher, labels), 0.5 * parts[0] + 0.001 * parts[1])
    for magnitudes in ((1.0,), (float("nan"), 1.0)):
        with pytest.raises(ShapeError):
            load_source(source, magnitudes)


@pytest.mark.parametrize("magnitudes", [(), (1.0,), (1.0, 2.0, 3.0)])
def test_a_wrong_number_of_magnitudes_is_refused(magnitudes):
    with pytest.raises(KdzeroError):
        kdzero_gp.compile(kdzero_gp.zoo["dkd"], *SMALL_EQUAL, magnitudes=magnitudes)


@pytest.mark.parametrize("magnitude", [float("nan"), float("inf"), -float("inf")])
def test_magnitudes_that_are_no_numbers_are_refused(magnitude):
    with pytest.raises(KdzeroError):
        kdzero_gp.compile(kdzero_gp.zoo["kd"], *SMALL_EQUAL, magnitudes=[magnitude])


@pytest.mark.parametrize("magnitude", [1e-9, 0.0, 123456.789, 1e20, -0.5])
def test_any_finite_magnitude_is_kept_in_six_digits(magnitude):
    (kept,) = kdzero_gp.compile(kdzero_gp.zoo["kd"], *SMALL_EQUAL, magnitudes=[magnitude]).magnitudes
    assert kept == pytest.approx(magnitude, rel=1e-5)


@small_pairs
def test_copies_are_independent_and_equal(pair):
    student, teacher, labels = batch_of(pair)
    for name in ("kd", "fitnet", "rkd"):
        distiller = compiled(kdzero_gp.zoo[name], pair)
        other = copy.deepcopy(distiller)
        assert torch.equal(other(student, teacher, labels), distiller(student, teacher, labels))
        for parameter in other.parameters():
            parameter.data.zero_()
        assert all(parameter.abs().sum() > 0 for parameter in distiller.parameters() if parameter.dim() > 1)


def test_shapes_may_be_given_as_tensors_or_with_the_batch_axis():
    student, teacher, _ = batch_of(CROSS, count=3)
    with_batch = [{name: (9, *shape) for name, shape in side.items()} for side in CROSS]
    sources = {kdzero_gp.source_of(kdzero_gp.zoo["fitnet"], *pair) for pair in (CROSS, with_batch, (student, teacher))}
    assert len(sources) == 1


def test_knowledge_that_is_not_used_need_not_be_passed():
    student, teacher, labels = batch_of(EQUAL)
    whole = compiled(kdzero_gp.zoo["fitnet"], EQUAL)(student, teacher, labels)
    alone = compiled(kdzero_gp.zoo["fitnet"], EQUAL)({"feat": student["feat"]}, {"feat": teacher["feat"]}, labels)
    assert torch.equal(whole, alone)


def test_distiller_works_in_lower_precision():
    for name, tree in IMAGE_ZOO.items():
        student, teacher, labels = batch_of(SMALL_EQUAL, dtype=torch.bfloat16)
        assert compiled(tree, SMALL_EQUAL, torch.bfloat16)(student, teacher, labels).isfinite(), name


def test_tokens_of_a_transformer_meet_the_map_of_a_convolution():
    student, teacher, labels = batch_of(TOKENS)
    for text in (
        "l2(feat)",
        "l2(mm(feat))",
        "kl(softmax_HW(feat, 4))",
        "mmd(norm_HW(feat))",
        "cos(mean_HW(feat))",
    ):
        distiller = compiled(f"times(no({text}), 1)", TOKENS)
        distiller(student, teacher, labels).backward()
        assert student["feat"].grad.shape == student["feat"].shape


def test_every_zoo_distiller_has_a_meaning_for_a_transformer_and_a_convolution():
    """Any pair works, says DESIGN section 6."""
    without = []
    square = {**TOKENS[1], "feat": (192, 16)}
    for name, tree in IMAGE_ZOO.items():
        try:
            type_of(tree, pair_shapes(TOKENS[0], square).types)
        except ExpressionTypeError:
            without.append(name)
    assert without == []


def test_comments_show_the_batch_as_n_and_other_sizes_as_numbers():
    pair = ({"feat": (5, 4, 5)},) * 2
    source = kdzero_gp.source_of("times(no(l2(mm(feat))), 1)", *pair)
    assert "# N×5×4×5" in source
    assert "# N×N\n" in source


def test_square_tokens_of_a_student_are_pooled_to_another_grid():
    """The tokens become the map that they were cut from, and this is brought to the teacher's size."""
    pair = ({"logits": (3,), "feat": (12, 16)}, {"logits": (3,), "feat": (8, 2, 2)})
    student, teacher, labels = batch_of(pair)
    compiled("times(no(l2(feat)), 1)", pair)(student, teacher, labels).backward()
    assert student["feat"].grad.shape == student["feat"].shape


def test_tokens_on_the_students_side_work_as_well():
    pair = (TOKENS[1], TOKENS[0])
    student, teacher, labels = batch_of(pair)
    compiled("times(no(l2(feat)), 1)", pair)(student, teacher, labels).backward()
    assert student["feat"].grad.abs().sum() > 0


# --- errors -------------------------------------------------------------------------------------------------


def one_logit(classes):
    return {"logits": (classes,)}


SHAPE_ERRORS = {
    "other numbers of classes": (one_logit(10), one_logit(100), "10 classes and the teacher 100"),
    "nothing in common": ({"emb": (4,)}, {"logits": (4,)}, "no common knowledge"),
    "nothing at all": ({}, {}, "no common knowledge"),
    "a size of zero": ({"logits": (0,)}, {"logits": (0,)}, "shape"),
    "a negative size": ({"emb": (-3,)}, {"emb": (4,)}, "shape"),
    "too many axes": ({"feat": (3, 4, 4, 4, 4)}, {"feat": (3, 4, 4)}, "shape"),
    "a map for an embedding": ({"emb": (3, 4, 4)}, {"emb": (3,)}, "shape"),
    "a vector for a map": ({"feat": (3,)}, {"feat": (3, 4, 4)}, "shape"),
}


@pytest.mark.parametrize("what", SHAPE_ERRORS)
def test_wrong_shapes_get_one_sentence(what):
    student, teacher, words = SHAPE_ERRORS[what]
    with pytest.raises(ShapeError, match=words) as caught:
        kdzero_gp.compile("times(no(l2(feat)), 1)", student, teacher)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [None, 5, "abc", ("a",), (3.5,)], ids=repr)
def test_what_is_no_shape_gets_one_sentence(shape):
    with pytest.raises(ShapeError):
        kdzero_gp.compile("times(no(l2(emb)), 1)", {"emb": shape}, {"emb": (4,)})


def test_missing_knowledge_is_named_with_what_the_pair_has():
    without = ({"logits": (10,)}, {"logits": (10,), "feat": (3, 4, 4)})
    with pytest.raises(ExpressionTypeError, match="no knowledge 'feat'; it offers logits"):
        kdzero_gp.compile(kdzero_gp.zoo["at"], *without)
    with pytest.raises(ExpressionTypeError, match="no knowledge 'feat'"):
        kdzero_gp.compile(str(kdzero_gp.zoo["at"]), *without)


@pytest.mark.parametrize("calibration", ["focal", "entropy", "sim", "conf"])
def test_weights_need_logits_and_say_so(calibration):
    pair = ({"feat": (3, 4, 4)}, {"feat": (3, 4, 4)})
    with pytest.raises(KdzeroError, match="logits"):
        kdzero_gp.compile(f"times({calibration}(l2(feat)), 1)", *pair)


def test_half_a_distiller_does_not_compile():
    with pytest.raises(ExpressionError, match="a distiller is"):
        kdzero_gp.compile("kl(softmax_C(logits, 4))", *EQUAL)


def test_names_of_knowledge_cannot_carry_code():
    name = 'feat"]; raise SystemExit; x = ["'
    tree = parse("times(no(l2(feat)), 1)")
    leaf = type(tree)(name)
    tree = type(tree)("times", (type(tree)("no", (type(tree)("l2", (leaf,)),)), 1.0))
    with pytest.raises(KdzeroError):
        kdzero_gp.source_of(tree, {name: (3, 4, 4)}, {name: (3, 4, 4)})


def test_traceback_of_an_error_inside_shows_the_generated_line():
    student, teacher, labels = batch_of(EQUAL)
    distiller = compiled("times(no(l2(mm(feat))), 1)", EQUAL)
    teacher["feat"] = teacher["feat"][:2]
    with pytest.raises(RuntimeError) as caught:
        distiller(student, teacher, labels)
    text = "".join(traceback.format_exception(caught.value))
    assert "l2_losses = l2(mm_s, mm_t)" in text
    assert "(student - teacher)" in text
    assert "kdzero-gp distiller" in text


def test_traceback_lines_survive_a_check_of_the_cache():
    distiller = compiled(kdzero_gp.zoo["kd"], EQUAL)
    filename = type(distiller).forward.__code__.co_filename
    linecache.checkcache()
    assert any("class Distiller" in line for line in linecache.getlines(filename))
    assert not Path(filename).exists()
