"""Text, canonical form and genotypes: what is written is what is read, and nothing that is read is run."""

import builtins
import itertools
import os
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings

import kdzero_gp
from kdzero_gp.compiler import (
    Expression,
    canonical,
    check,
    digest,
    from_genotype,
    is_knowledge,
    parse,
    summed,
    terms,
    type_of,
)
from kdzero_gp.compiler.canonical import repeats_a_loss
from kdzero_gp.compiler.parsing import MAX_CHARACTERS, MAX_DEPTH, MAX_NODES
from kdzero_gp.engine.gradients import MAGNITUDE_MODES, Gradients, scaled
from kdzero_gp.errors import ExpressionError, ExpressionTypeError, GenotypeError, KdzeroError
from primitives import CATALOGUE, CONSTANTS, PairType
from strategies import (
    GENOTYPE,
    IMAGE_ZOO,
    KNOWLEDGE,
    SMALL_CROSS,
    SMALL_EQUAL,
    TOKEN_KNOWLEDGE,
    batch_of,
    genotypes,
    random_genotype,
    random_trees,
    trees,
)

KD = "times(no(kl(softmax_C(logits, 4))), 1)"
# These draw random numbers, so two evaluations of one tree differ.
STOCHASTIC = ("mask", "drop")


def in_distiller(transformed):
    """A whole distiller around the text of a transformed knowledge."""
    return f"times(no(l2({transformed})), 1)"


# --- text ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("searchable_only", [True, False])
def test_text_of_a_random_tree_reads_back_as_the_tree(searchable_only):
    for tree in random_trees(1000, seed=1, searchable_only=searchable_only):
        assert parse(str(tree)) == tree


def test_text_of_a_tree_on_tokens_reads_back_with_their_types():
    for tree in random_trees(300, seed=2, knowledge=TOKEN_KNOWLEDGE):
        assert parse(str(tree), TOKEN_KNOWLEDGE) == tree


@given(trees(searchable_only=False))
@settings(deadline=None)
def test_reading_what_was_written_gives_the_same_text(tree):
    assert str(parse(str(tree))) == str(tree)


def test_spaces_and_spellings_of_numbers_do_not_matter():
    assert parse("\n times ( no(kl(softmax_C(logits ,\t4.0))),1.00 ) ") == parse(KD)
    assert str(parse("times(no(l2(logits)), 0.10)")) == "times(no(l2(logits)), 0.1)"


@pytest.mark.parametrize("constant", sorted(set(itertools.chain(*CONSTANTS.values()))))
def test_every_listed_constant_survives_the_text(constant):
    for parameter, listed in CONSTANTS.items():
        if constant in listed:
            magnitude, temperature = (constant, 4) if parameter.name == "magnitude" else (1, constant)
            text = f"times(no(l2(over(logits, {temperature:g}))), {magnitude:g})"
            assert str(parse(text)) == text


@pytest.mark.parametrize("name", ["logits", "emb", "feat", "feat1", "feat2", "feat10"])
def test_knowledge_leaves_are_read(name):
    assert is_knowledge(name)
    assert parse(in_distiller(name)).children[0].children[0].children[0] == Expression(name)


@pytest.mark.parametrize("name", ["logit", "emd", "feat0", "feat01", "features", "feat²", "feat-1", "FEAT"])
def test_other_names_are_no_knowledge(name):
    assert not is_knowledge(name)
    with pytest.raises(ExpressionError):
        parse(in_distiller(name))


# --- what is refused ----------------------------------------------------------------------------------------

# text, the position of the first wrong character, a word of the message
REFUSED = {
    "an import": ("__import__('os').system('touch /tmp/kdzero-was-here')", 0, "unknown operation"),
    "attributes of a tuple": ("().__class__.__bases__[0].__subclasses__()", 0, "expected the name"),
    "an unknown call": ("eval(logits)", 0, "unknown operation"),
    "a call in the middle": ("times(no(l2(exec(logits))), 1)", 12, "unknown operation"),
    "a dunder name": ("times(no(l2(__builtins__)), 1)", 12, "unknown operation"),
    "an attribute": ("times(no(l2(logits.data)), 1)", 18, "unexpected character"),
    "a keyword argument": ("times(no(l2(over(logits, temperature=4))), 1)", 36, "unexpected character"),
    "a lambda": ("(lambda: 0)()", 0, "expected the name"),
    "an unknown operation": ("times(no(l2(softmax_Z(logits, 4))), 1)", 12, "softmax_"),
    "an unknown knowledge": ("times(no(l2(hidden)), 1)", 12, "unknown"),
    "the empty text": ("", 0, "end of the text"),
    "blanks alone": ("  \n ", 0, "end of the text"),
    "a number alone": ("1", 0, "name of an operation"),
    "a leaf alone": ("logits", 0, "a distiller is"),
    "a loss without its magnitude": ("no(l2(logits))", 0, "a distiller is"),
    "an open bracket": ("times(no(l2(logits)), 1", 23, "end of the text"),
    "a bracket too many": ("times(no(l2(logits)), 1))", 24, "after the end"),
    "two distillers": (KD + " " + KD, 39, "after the end"),
    "a missing comma": ("times(no(l2(logits)) 1)", 21, "expected"),
    "a trailing comma": ("times(no(l2(logits)), 1,)", 24, "name of an operation"),
    "no arguments": ("times()", 6, "name of an operation"),
    "an argument too few": ("times(no(l2(logits)))", 0, "takes 2 arguments, got 1"),
    "an argument too many": ("times(no(l2(logits)), 1, 1)", 0, "takes 2 arguments, got 3"),
    "a leaf that is called": ("times(no(l2(logits())), 1)", 18, None),
    "an operation that is not called": ("times(no(l2(relu)), 1)", 16, "expected '('"),
    "an unlisted magnitude": ("times(no(l2(logits)), 3)", 22, "not a listed magnitude"),
    "an unlisted temperature": ("times(no(kl(softmax_C(logits, 5))), 1)", 30, "not a listed temperature"),
    "a magnitude as a temperature": (
        "times(no(kl(softmax_C(logits, 100))), 1)",
        30,
        "not a listed temperature",
    ),
    "nan": ("times(no(l2(logits)), nan)", 22, "unknown"),
    "infinity": ("times(no(l2(logits)), inf)", 22, "unknown"),
    "a number beyond the floats": ("times(no(l2(logits)), 1" + "0" * 400 + ")", 22, "not a listed magnitude"),
    "an exponent": ("times(no(l2(logits)), 1e2)", 23, None),
    "a negative number": ("times(no(l2(logits)), -1)", 22, "unexpected character '-'"),
    "a hexadecimal number": ("times(no(l2(logits)), 0x1)", 22, "not a listed magnitude"),
    "a leading point": ("times(no(l2(logits)), .1)", 22, "unexpected character '.'"),
    "arabic digits": ("times(no(l2(logits)), \u0661)", 22, "unexpected character"),
    "full-width letters": ("times(no(l2(\uff4cogits)), 1)", 12, "unexpected character"),
    "a null byte": ("times(no(l2(logits\x00)), 1)", 18, "unexpected character"),
    "a null byte at the end": (KD + "\x00", 38, "unexpected character"),
    "a no-break space": ("times(no(l2(\u00a0logits)), 1)", 12, "unexpected character"),
    "a string": ("times(no(l2('logits')), 1)", 12, "unexpected character"),
    "a number for a knowledge": ("times(no(l2(4)), 1)", 12, "takes an expression"),
    "a knowledge for a number": ("times(no(l2(logits)), logits)", 0, None),
    "a divergence of raw numbers": ("times(no(kl(logits)), 1)", 9, "put a softmax in front"),
    "space where there is none": ("times(no(l2(norm_HW(emb))), 1)", 12, "norm_HW"),
    "a silent no-op": ("times(no(l2(relu(softmax_C(logits, 4)))), 1)", 12, "relu"),
    "ten thousand levels": ("abs(" * 10_000 + "logits" + ")" * 10_000, None, "longer than"),
    "six thousand levels": ("l2(" * 6_000 + "feat", 3 * MAX_DEPTH, "nested deeper"),
    "brackets alone": ("(" * 10_000, 0, "name of an operation"),
    "ten megabytes of brackets": ("(" * 10_000_000, MAX_CHARACTERS, "longer than"),
    "ten megabytes of blanks": (" " * 10_000_000, MAX_CHARACTERS, "longer than"),
    "one long name": ("a" * MAX_CHARACTERS, 0, "unknown operation"),
    "one long number": ("times(no(l2(logits)), " + "9" * 15_000 + ")", 22, "not a listed"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_hostile_text_gets_one_error_with_its_position(what):
    text, position, words = REFUSED[what]
    with pytest.raises(KdzeroError) as caught:
        parse(text)
    assert caught.value.position is not None
    assert position is None or caught.value.position == position, caught.value
    message = str(caught.value)
    assert f"position {caught.value.position}" in message
    assert words is None or words in message
    assert "\n" not in message
    assert len(message) < 500
    # One error, not a chain of them with a foreign traceback.
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("what", REFUSED)
def test_hostile_text_runs_nothing(what, monkeypatch):
    def forbidden(*_, **__):
        raise AssertionError("the parser ran something")

    text, *_ = REFUSED[what]
    for module, name in ((builtins, "eval"), (builtins, "exec"), (builtins, "compile"), (os, "system")):
        monkeypatch.setattr(module, name, forbidden)
    monkeypatch.setattr(builtins, "__import__", forbidden)
    try:
        with pytest.raises(KdzeroError):
            parse(text)
    finally:
        monkeypatch.undo()


NO_TEXT = {
    "nothing": None,
    "a number": 1.5,
    "bytes": b"times",
    "a list": ["times"],
    "an object": object(),
    "a tree": Expression("logits"),
}


@pytest.mark.parametrize("what", NO_TEXT)
def test_what_is_no_text_gets_the_same_kind_of_error(what):
    with pytest.raises(KdzeroError):
        parse(NO_TEXT[what])


def test_every_prefix_and_every_changed_character_gets_an_error_or_a_distiller():
    """A thousand damaged texts: none ends in another exception."""
    rng = random.Random(0)
    whole = str(parse("add(times(no(l2(pool_2(feat))), 1), times(focal(kl(softmax_C(logits, 4))), 0.5))"))
    damaged = [whole[:end] for end in range(len(whole))]
    for _ in range(1000):
        place = rng.randrange(len(whole))
        damaged.append(whole[:place] + rng.choice("()., \t01459abz_\x00é\u0661") + whole[place + rng.randrange(2) :])
    for text in damaged:
        try:
            check(parse(text))
        except ExpressionError as error:
            assert 0 <= error.position <= len(text)


def sum_of(count):
    """A balanced sum of ``count`` terms of four nodes each."""
    level = ["times(no(l2(logits)), 1)"] * count
    while len(level) > 1:
        left = [f"add({one}, {two})" for one, two in itertools.pairwise(level)][::2]
        level = left + ([level[-1]] if len(level) % 2 else [])
    return level[0]


def test_limits_are_where_they_are_said_to_be():
    deepest = "abs(" * (MAX_DEPTH - 4) + "emb" + ")" * (MAX_DEPTH - 4)
    parse(in_distiller(deepest))
    with pytest.raises(ExpressionError, match="nested deeper than"):
        parse(in_distiller(f"abs({deepest})"))
    # n terms of four operations and n − 1 sums
    most = (MAX_NODES + 1) // 5
    assert parse(sum_of(most))
    with pytest.raises(ExpressionError, match="more than"):
        parse(sum_of(most + 1))


def test_unknown_names_get_a_suggestion():
    with pytest.raises(ExpressionError, match="did you mean 'softmax_C'"):
        parse("times(no(kl(sofmax_C(logits, 4))), 1)")


def test_knowledge_that_the_pair_lacks_is_named_with_what_it_has():
    with pytest.raises(ExpressionTypeError, match=r"no knowledge 'feat3'; it offers .*logits"):
        parse(in_distiller("feat3"), KNOWLEDGE)


def test_type_errors_say_what_was_expected_and_what_came():
    with pytest.raises(ExpressionTypeError, match=r"norm_HW is defined for .*map.*, got N×C matrix"):
        parse(in_distiller("norm_HW(emb)"))


def test_trees_built_by_hand_are_checked_as_text_is():
    for leaf in ("eval", "relu", "logits["):
        wrong = Expression("times", (Expression("no", (Expression("l2", (Expression(leaf),)),)), 1.0))
        for knowledge in (KNOWLEDGE, None):
            with pytest.raises(ExpressionError):
                check(wrong, knowledge)


def test_trees_built_by_hand_with_whole_numbers_are_checked_or_compiled():
    by_hand = Expression("times", (Expression("no", (Expression("l2", (Expression("logits"),)),)), 1))
    assert value_and_gradients(by_hand, SMALL_EQUAL)[0] > 0


# --- the canonical form -------------------------------------------------------------------------------------


def value_and_gradients(tree, pair, seed=0):
    """The loss on random tensors, and the student's gradient by knowledge."""
    student, teacher, labels = batch_of(pair, 4, seed)
    torch.manual_seed(0)  # the adapters' weights
    distiller = kdzero_gp.compile(tree, *pair).double()
    value = distiller(student, teacher, labels)
    gradients = torch.autograd.grad(value, list(student.values()), allow_unused=True)
    return value, [torch.zeros(()) if gradient is None else gradient for gradient in gradients]


DETERMINISTIC = random_trees(400, seed=3, most=1, searchable_only=False, without=STOCHASTIC)


def means_the_same(one, other, pair):
    """Equal loss and gradient, within what guards cost (10⁻⁶ in min_max_normalize, 10⁻⁷ in divergences)."""
    (value, gradients), (expected, wanted) = value_and_gradients(one, pair), value_and_gradients(other, pair)
    scale = max(gradient.abs().max().item() for gradient in wanted)
    return torch.allclose(value, expected, rtol=1e-4, atol=1e-8) and all(
        torch.allclose(gradient, want.expand_as(gradient), rtol=1e-3, atol=1e-3 * scale + 1e-8)
        for gradient, want in zip(gradients, wanted, strict=True)
    )


def changed_in_meaning(trees, pair):
    """The trees whose canonical form means something else or nothing, as text."""
    wrong = []
    for tree in trees:
        try:
            same = means_the_same(tree, canonical(tree), pair)
        except KdzeroError:
            same = False
        if not same:
            wrong.append(f"{tree} -> {canonical(tree)}")
    return wrong


def changed_by_canonical():
    return [tree for tree in DETERMINISTIC if canonical(tree) != tree]


def test_some_random_trees_are_not_canonical():
    """Or the tests below would show nothing."""
    assert len(changed_by_canonical()) > 30


@given(trees(searchable_only=False))
@settings(deadline=None)
def test_canonical_form_is_idempotent(tree):
    once = canonical(tree)
    assert canonical(once) == once


def test_canonical_trees_type_check():
    wrong = []
    for tree in random_trees(1500, seed=4, searchable_only=False):
        try:
            check(canonical(tree))
        except ExpressionError as error:
            wrong.append(f"{tree} -> {canonical(tree)}: {error}")
    assert wrong == []


def test_canonical_form_of_a_searched_tree_is_a_searched_tree():
    """What the search may write down it may also read back and vary."""
    searched = {operation.name for operation in CATALOGUE if operation.searchable}
    for tree in random_trees(1000, seed=5):
        assert {node.name for node in canonical(tree).walk() if node.arguments} <= searched


def test_canonical_tree_has_the_value_and_gradient_of_the_tree():
    assert changed_in_meaning(changed_by_canonical(), SMALL_EQUAL) == []


# A knowledge of each rank to start from.
STARTS = ("logits", "emb", "feat", "channel(feat)", "mean_C(feat)", "mm(emb)", "softmax_C(logits, 4)")


def chains_behind(start, longest=2):
    """Every legal chain of at most ``longest`` transforms behind ``start``; T is 4, and also 1 where that is all."""
    yield start
    for operation in CATALOGUE.of_role("transform") if longest else ():
        if operation.name not in STOCHASTIC and not operation.dense:
            for constant in (4.0, 1.0) if operation.name == "over" else (4.0,):
                node = Expression(operation.name, (start, *[constant] * len(operation.parameters)))
                try:
                    type_of(node, KNOWLEDGE)
                except ExpressionTypeError:
                    continue
                yield from chains_behind(node, longest - 1)


def compared(chain):
    """The chain under every distance that is defined for it."""
    for operation in CATALOGUE.of_role("distance"):
        if not operation.dense and (type_of(chain, KNOWLEDGE),) in operation.overloads:
            yield Expression(operation.name, (chain,))


def simplified_at_its_root(node):
    """Whether the canonical form does more than what it does to the arguments."""
    return canonical(node) != Expression(node.name, (canonical(node.children[0]), *node.arguments[1:]))


def weighted(distance):
    return Expression("times", (Expression("no", (distance,)), 1.0))


@pytest.mark.parametrize("start", STARTS)
def test_every_simplification_means_the_same(start):
    """Of all chains of two transforms behind each rank, and of the distances behind them: one for each two names
    of which the outer is simplified."""
    found = {}
    for chain in chains_behind(parse(in_distiller(start)).children[0].children[0].children[0]):
        distances = list(compared(chain))
        for node in (chain, *distances):
            if node.arguments and simplified_at_its_root(node):
                distance = node if node is not chain else distances[0]
                found.setdefault((node.name, node.children[0].name), weighted(distance))
    assert found
    assert changed_in_meaning(found.values(), SMALL_EQUAL) == []


@pytest.mark.parametrize("start", STARTS)
def test_every_simplification_type_checks(start):
    wrong = []
    for chain in chains_behind(parse(in_distiller(start)).children[0].children[0].children[0]):
        for distance in compared(chain):
            try:
                check(canonical(weighted(distance)), KNOWLEDGE)
            except ExpressionError as error:
                wrong.append(f"{distance}: {error}")
    assert wrong == []


def test_canonical_tree_has_the_value_and_gradient_of_the_tree_with_adapters():
    assert changed_in_meaning(changed_by_canonical()[:60], SMALL_CROSS) == []


def test_canonical_tree_has_the_value_of_the_tree_when_only_the_number_of_features_agrees():
    """64 numbers each: 4×4×4 against 16×2×2. What flattens them needs no adapter, and what does not does."""
    pair = ({"logits": (7,), "feat": (4, 4, 4)}, {"logits": (7,), "feat": (16, 2, 2)})
    texts = ("l2(batch(feat))", "l1(local_s1(feat))", "smooth_l1(batch(feat))", "l2(channel(feat))")
    assert changed_in_meaning([parse(f"times(no({text}), 1)") for text in texts], pair) == []


def test_canonical_tree_has_the_value_of_the_tree_for_maps_of_one_channel():
    """``cos`` and ``pear`` compare such maps along space."""
    pair = ({"logits": (7,), "feat": (1, 4, 4)},) * 2
    texts = ("cos(channel(feat))", "pear(channel(feat))", "cos(scale_r1(feat))", "l2_rows(channel(feat))")
    assert changed_in_meaning([parse(f"times(no({text}), 1)") for text in texts], pair) == []


def test_canonical_tree_keeps_the_temperature_that_the_loss_is_multiplied_by():
    texts = ("l2(over(softmax_C(logits, 4), 1))", "l2(over(over(emb, 8), 1))", "l1(abs(over(abs(emb), 1)))")
    assert changed_in_meaning([parse(f"times(no({text}), 1)") for text in texts], SMALL_EQUAL) == []


SAME = {
    "sums commute": (f"add({KD}, times(no(l2(emb)), 5))", f"add(times(no(l2(emb)), 5), {KD})"),
    "sums associate": (
        f"add(add({KD}, times(no(l2(emb)), 5)), times(no(l1(emb)), 5))",
        f"add({KD}, add(times(no(l1(emb)), 5), times(no(l2(emb)), 5)))",
    ),
    "multi-scale with ratio 1": (in_distiller("scale_r1(feat)"), in_distiller("feat")),
    "space as one axis": (in_distiller("channel(feat)"), in_distiller("feat")),
    "division by one": (in_distiller("over(logits, 1)"), in_distiller("logits")),
    "two absolute values": (in_distiller("abs(abs(emb))"), in_distiller("abs(emb)")),
    "absolute value of a square": (in_distiller("abs(pow2(emb))"), in_distiller("pow2(emb)")),
    "relu of a sigmoid": (in_distiller("relu(sigmoid(emb))"), in_distiller("sigmoid(emb)")),
    "two normalisations": (in_distiller("norm_C(norm_C(emb))"), in_distiller("norm_C(emb)")),
    "exponential of a log-softmax": (
        in_distiller("exp(logsoftmax_C(emb, 4))"),
        in_distiller("softmax_C(emb, 4)"),
    ),
    "divergence of a log-softmax": (KD.replace("softmax", "logsoftmax"), KD),
    "rows of a relation": (in_distiller("mm(batch(feat))"), in_distiller("mm(feat)")),
    "patches of one pixel": ("times(no(cor(local_s1(feat))), 1)", "times(no(cor(batch(feat))), 1)"),
    "no-ops in a row": (in_distiller("scale_r1(scale_r1(abs(abs(feat))))"), in_distiller("abs(feat)")),
    "one loss at two magnitudes": (f"add({KD}, {KD.replace(', 1)', ', 4)')})", KD.replace(", 1)", ", 5)")),
    "one loss in two spellings": (
        f"add(add(times(no(l2(emb)), 0.25), {KD}), times(no(l2(over(emb, 1))), 0.25))",
        f"add({KD}, times(no(l2(emb)), 0.5))",
    ),
}


@pytest.mark.parametrize("what", SAME)
def test_variants_without_effect_share_one_digest_and_mean_the_same(what):
    one, other = map(parse, SAME[what])
    assert one != other
    assert canonical(one) == canonical(other)
    assert digest(one) == digest(other)
    assert means_the_same(one, other, SMALL_EQUAL)


@pytest.mark.parametrize("mode", MAGNITUDE_MODES)
def test_equal_losses_that_are_put_together_have_the_same_gradient_whatever_magnitudes_mean(mode):
    """A magnitude in units of its own gradient, of the whole's, or as it is."""
    choose, changed = random.Random(0).choice, 0
    # the sum of the last two is none that may be written
    magnitudes = [(0.25, 0.25), (1.0, 4.0), (5.0, 5.0), (25.0, 25.0), (0.1, 1.0)]
    for tree in random_trees(40, seed=8, most=2, searchable_only=False, without=STOCHASTIC):
        losses = {term.arguments[0]: choose(magnitudes) for term in terms(tree)}
        whole = summed([Expression("times", (loss, one)) for loss, two in losses.items() for one in two])
        forms = [total_gradient(form, mode) for form in (whole, canonical(whole))]
        if forms[0] is not None and forms[1] is not None:
            changed += len(terms(canonical(whole))) < len(terms(whole))
            torch.testing.assert_close(forms[1], forms[0], rtol=2e-3, atol=2e-3 * forms[0].abs().max().item())
    assert changed > 5, "nothing was put together"


def total_gradient(tree, mode):
    """The gradient of a distiller with the magnitudes that an engine gives it in this mode; None without one."""
    student, teacher, labels = batch_of(SMALL_EQUAL)
    torch.manual_seed(0)
    distiller = kdzero_gp.compile(tree, *SMALL_EQUAL).double()
    found = distiller.terms(student, distiller.prepare(teacher, labels), labels)
    inputs = list(student.values())
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(term, inputs, retain_graph=True, materialize_grads=True)])
        for term in found
    ]
    stacked = torch.stack(rows)
    own = torch.tensor(distiller.magnitudes, dtype=torch.float64)
    norms = tuple(stacked.norm(dim=1).tolist())
    gradients = Gradients(norms, (own @ stacked).norm().item(), stacked, 0.0)
    if not gradients.usable:
        return None
    return torch.tensor(scaled(mode, 1.0, own.tolist(), gradients), dtype=torch.float64) @ stacked


def test_equal_losses_whose_magnitudes_add_up_to_no_listed_one_stay_apart():
    text = f"add({KD}, {KD.replace(', 1)', ', 0.1)')})"
    assert len(terms(canonical(parse(text)))) == 2 and repeats_a_loss(parse(text)) and not repeats_a_loss(parse(KD))


DIFFERENT = [
    (KD, KD.replace("4", "8")),
    (KD, KD.replace(", 1)", ", 2)")),
    (KD, KD.replace("kl", "l2")),
    (in_distiller("relu(emb)"), in_distiller("emb")),
    (in_distiller("norm_C(norm_N(emb))"), in_distiller("norm_N(norm_C(emb))")),
    (in_distiller("batch(pool_2(feat))"), in_distiller("pool_4(feat)")),
    (in_distiller("pow2(pow2(emb))"), in_distiller("pow2(emb)")),
    ("times(no(cor(batch(feat))), 1)", "times(no(cor(mean_HW(feat))), 1)"),
    (f"add({KD}, {KD})", KD),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_distillers_that_differ_have_different_digests(one, other):
    assert digest(parse(one)) != digest(parse(other))


def test_digests_stay_the_same():
    """Runs on disk are found by them: the zoo, and random distillers, by the digests of the first release."""
    lines = Path(__file__).with_name("digests.txt").read_text(encoding="utf-8").splitlines()
    assert {text: digest(parse(text)) for _, text in (line.split(" ", 1) for line in lines)} == {
        text: pinned for pinned, text in (line.split(" ", 1) for line in lines)
    }
    assert set(map(str, IMAGE_ZOO.values())) <= {line.split(" ", 1)[1] for line in lines}


def test_digest_is_sixteen_hexadecimal_digits_and_stable():
    assert len(digest(parse(KD))) == 16
    assert int(digest(parse(KD)), 16) >= 0
    assert digest(parse(KD)) == digest(parse(f" {KD} "))


def test_digests_of_many_canonical_trees_do_not_collide():
    forms = {canonical(tree) for tree in random_trees(1500, seed=6)}
    assert len({digest(form) for form in forms}) == len(forms)


@given(trees())
@settings(deadline=None)
def test_terms_of_a_sum_are_its_weighted_losses(tree):
    assert all(term.name == "times" for term in terms(tree))
    assert len(terms(tree)) == 1 + sum(node.name == "add" for node in tree.walk())


# --- genotypes of the paper ---------------------------------------------------------------------------------


def test_every_random_genotype_becomes_a_distiller_or_gets_one_sentence():
    rng = random.Random(0)
    read = 0
    for _ in range(5000):
        genotype = random_genotype(rng.choice)
        try:
            tree = from_genotype(**genotype)
        except GenotypeError as error:
            sentence = str(error)
            assert "\n" not in sentence
            assert 20 < len(sentence) < 400, genotype
            assert ". " not in sentence
            assert error.__suppress_context__ or error.__context__ is None
        else:
            read += 1
            check(tree)
            assert parse(str(tree)) == tree
    # The listings return their input where an operation does not apply; here that has no meaning.
    assert 500 < read < 4500


@given(genotypes())
@settings(deadline=None)
def test_genotypes_that_have_a_meaning_compile(genotype):
    try:
        tree = from_genotype(**genotype)
    except GenotypeError:
        return
    student, teacher, labels = batch_of(SMALL_EQUAL)
    assert kdzero_gp.compile(tree, *SMALL_EQUAL)(student, teacher, labels).shape == ()


def test_temperature_of_a_genotype_belongs_to_its_softmax():
    hinton = from_genotype("logit", "softmax_C", distance_func="kl", temperature=4)
    assert str(hinton) == KD
    assert hinton == kdzero_gp.zoo["kd"]


def test_temperature_of_a_genotype_without_softmax_divides():
    assert str(from_genotype("emb", "norm_C", temperature=8, magnitude=0.01)) == (
        "times(no(l2(over(norm_C(emb), 8))), 0.01)"
    )


SPELLINGS = {
    "emd": ({"knowledge_input": "emd"}, {"knowledge_input": "emb"}),
    "logit": ({"knowledge_input": "logit"}, {"knowledge_input": "logits"}),
    "leaky": (
        {"knowledge_input": "emb", "trans_func1": "leaky"},
        {"knowledge_input": "emb", "trans_func1": "leaky_relu"},
    ),
    "multi_scale_r4": (
        {"knowledge_input": "feat", "trans_func2": "multi_scale_r4"},
        {"knowledge_input": "feat", "trans_func2": "scale_r4"},
    ),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_other_spellings_of_the_supplement_are_read(spelling):
    given_as, meant = SPELLINGS[spelling]
    assert from_genotype(**given_as) == from_genotype(**meant)


@pytest.mark.parametrize("name", GENOTYPE["trans"])
def test_every_transform_of_the_paper_is_read_from_feature_maps(name):
    tree = from_genotype("feat", name, temperature=1)
    kinds = {node.name for node in tree.walk()}
    meant = {"leaky": "leaky_relu", "multi_scale_r4": "scale_r4", "no": "feat"}.get(name, name)
    assert meant in kinds


WRONG_GENOTYPES = {
    "knowledge": ({"knowledge_input": "pixels"}, "pixels"),
    "transform": ({"knowledge_input": "emb", "trans_func3": "softmin"}, "softmin"),
    "a transform that is ours": ({"knowledge_input": "emb", "trans_func1": "transpose"}, "transpose"),
    "distance": ({"knowledge_input": "emb", "distance_func": "emd"}, "emd"),
    "a distance that is ours": ({"knowledge_input": "feat", "distance_func": "mmd"}, "mmd"),
    "weight": ({"knowledge_input": "emb", "weight": "none"}, "none"),
    "temperature": ({"knowledge_input": "emb", "temperature": 3}, "3"),
    "a temperature that is ours": ({"knowledge_input": "emb", "temperature": 2}, "2"),
    "magnitude": ({"knowledge_input": "emb", "magnitude": 8}, "8"),
    "not a number": ({"knowledge_input": "emb", "magnitude": float("nan")}, "nan"),
    "text for a number": ({"knowledge_input": "emb", "temperature": "4"}, "4"),
    "space of an embedding": ({"knowledge_input": "emb", "trans_func1": "satt"}, "satt"),
    "a divergence without a softmax": ({"knowledge_input": "emb", "distance_func": "kl"}, "softmax"),
}


@pytest.mark.parametrize("what", WRONG_GENOTYPES)
def test_wrong_genotypes_get_a_sentence_that_names_what_is_wrong(what):
    genotype, words = WRONG_GENOTYPES[what]
    with pytest.raises(GenotypeError, match=words):
        from_genotype(**genotype)


# --- types --------------------------------------------------------------------------------------------------


def test_every_operation_can_stand_in_a_distiller():
    """Reachability: none is declared that no tree can hold. Those for label maps are in test_places.py."""
    seen = {node.name for tree in random_trees(2000, seed=7, searchable_only=False) for node in tree.walk()}
    assert {operation.name for operation in CATALOGUE if not operation.dense} <= seen


def test_types_print_what_they_are():
    assert str(PairType("map", "probability", "HW")) == "N×C×H×W map of probabilities over HW"
    assert str(PairType("relation")) == "N×N relation of real numbers"
