"""Random inputs of the tests: well-typed trees, genotypes of the paper, tensors of a type, pairs of shapes.

Everything is made by a ``choose`` function that picks one of a list, so the same generators serve Hypothesis
(``trees()``, ``genotypes()``: failures shrink) and plain seeds (``random_trees``: thousands in a second).
"""

import random

import torch
from hypothesis import strategies as st

from kdzero_gp.compiler import Expression, zoo
from primitives import BATCH, CATALOGUE, CONSTANTS, LOGITS, MAGNITUDES, SAMPLE, PairType
from primitives.types import RANKS

# The published methods for pairs of images; those for label maps are in test_places.py.
IMAGE_ZOO = {name: entry.expression for name, entry in zoo.entries.items() if not entry.dense}

# --- pairs of shapes, per sample ----------------------------------------------------------------------------

_WIDE = {"logits": (100,), "emb": (64,), "feat": (64, 8, 8)}
EQUAL = (_WIDE, dict(_WIDE))
CROSS = (
    {"logits": (100,), "emb": (64,), "feat": (16, 8, 8)},
    {"logits": (100,), "emb": (512,), "feat": (512, 4, 4)},
)
_NARROW = {"logits": (7,), "emb": (6,), "feat": (3, 4, 4)}
SMALL_EQUAL = (_NARROW, dict(_NARROW))
SMALL_CROSS = (
    {"logits": (7,), "emb": (5,), "feat": (2, 6, 6)},
    {"logits": (7,), "emb": (9,), "feat": (4, 3, 3)},
)
# A convolutional student and a transformer as the teacher: 192 channels, 17 tokens (16 and a class token: no square).
TOKENS = (
    {"logits": (10,), "emb": (16,), "feat": (16, 8, 8)},
    {"logits": (10,), "emb": (192,), "feat": (192, 17)},
)
PAIRS = {"equal": EQUAL, "cross": CROSS, "tokens": TOKENS}
SMALL_PAIRS = {"equal": SMALL_EQUAL, "cross": SMALL_CROSS}

KNOWLEDGE = {"logits": LOGITS, "emb": PairType("matrix"), "feat": PairType("map")}
TOKEN_KNOWLEDGE = KNOWLEDGE | {"feat": PairType("tokens")}


def batch_of(pair, count=4, seed=0, dtype=torch.float64):
    """(student, teacher, labels) of ``count`` samples; the student's tensors require a gradient."""
    generator = torch.Generator().manual_seed(seed)
    sides = [
        {name: torch.randn(count, *shape, generator=generator, dtype=dtype) for name, shape in side.items()}
        for side in pair
    ]
    labels = torch.randint(pair[0]["logits"][0], (count,), generator=generator)
    for tensor in sides[0].values():
        tensor.requires_grad_()
    return sides[0], sides[1], labels


# --- tensors of a type --------------------------------------------------------------------------------------

SIZES = {"N": 3, "C": 4, "M": 6, "H": 3, "W": 5}


def shape_of(rank, **sizes):
    """The shape of a tensor of ``rank``; ``sizes`` replace the usual N, C, M, H, W."""
    n, c, m, h, w = ({**SIZES, **sizes}[axis] for axis in "NCMHW")
    return {
        "matrix": (n, c),
        "tokens": (n, c, m),
        "map": (n, c, h, w),
        "plane": (n, 1, h, w),
        "relation": (n, n),
        "columns": (c, n),
    }[rank]


def normalised(x, kind, rank, axis):
    """``x`` as a tensor of ``kind``: for distributions its softmax or log-softmax over the named axis."""
    if kind not in ("probability", "log_probability"):
        return x
    dimensions = RANKS[rank].dimensions[axis]
    flat = x.flatten(dimensions[0], dimensions[-1])
    function = torch.softmax if kind == "probability" else torch.log_softmax
    return function(flat, dim=dimensions[0]).view_as(x)


def tensor_of(given, generator, dtype=torch.float64, **sizes):
    """A random tensor of a pair type, away from zero, where most operations have their kinks."""
    x = torch.randn(shape_of(given.rank, **sizes), generator=generator, dtype=torch.float64)
    x = x.sign() * (x.abs() + 0.2)
    return normalised(x, given.kind, given.rank, given.axis).to(dtype)


# --- trees --------------------------------------------------------------------------------------------------


def _legal(role, given, searchable_only, without):
    """The operations of ``role`` that are defined for ``given``, with the type that each gives."""
    found = []
    for operation in CATALOGUE.of_role(role):
        result = operation.overloads.get((given, *operation.parameters))
        skipped = operation.dense or operation.name in without or (searchable_only and not operation.searchable)
        if result is not None and not skipped:
            found.append((operation, result))
    return found


def random_term(choose, knowledge=None, longest=4, searchable_only=True, without=()):
    """One weighted loss: at most ``longest`` transforms, a distance, a calibration, a magnitude."""
    knowledge = knowledge or KNOWLEDGE
    name = choose(sorted(knowledge))
    node, given = Expression(name), knowledge[name]
    for _ in range(choose(list(range(longest + 1)))):
        legal = _legal("transform", given, searchable_only, without)
        if not legal:
            break
        operation, given = choose(legal)
        constants = tuple(choose(list(CONSTANTS[parameter])) for parameter in operation.parameters)
        node = Expression(operation.name, (node, *constants))
    operation, losses = choose(_legal("distance", given, searchable_only, without))
    node = Expression(operation.name, (node,))
    assert losses in (SAMPLE, BATCH)
    operation, _ = choose(_legal("calibration", losses, searchable_only, without))
    node = Expression(operation.name, (node,))
    return Expression("times", (node, choose(list(MAGNITUDES))))


def random_tree(choose, most=4, **options):
    """A distiller of at most ``most`` terms, summed up in a random order."""
    parts = [random_term(choose, **options) for _ in range(choose(list(range(1, most + 1))))]
    while len(parts) > 1:
        left = parts.pop(choose(list(range(len(parts)))))
        right = parts.pop(choose(list(range(len(parts)))))
        parts.append(Expression("add", (left, right)))
    return parts[0]


def random_trees(count, seed=0, **options):
    """``count`` trees, the same for the same seed."""
    choose = random.Random(seed).choice
    return [random_tree(choose, **options) for _ in range(count)]


@st.composite
def trees(draw, **options):
    """Well-typed distillers."""
    return random_tree(lambda some: draw(st.sampled_from(some)), **options)


# --- genotypes of the paper ---------------------------------------------------------------------------------

# As the supplement's listing 1 and its text spell them, with their inconsistencies.
GENOTYPE = {
    "knowledge_input": ["feat", "emb", "emd", "logit"],
    "trans": [
        *("exp", "mish", "leaky", "relu", "tanh", "sigmoid", "swish", "abs", "pow2", "pow4", "log", "sqrt"),
        *("drop", "no", "satt", "natt", "catt", "mask", "bmm", "mm", "batch", "channel", "scale"),
        *("scale_r1", "scale_r2", "scale_r4", "multi_scale_r4", "local_s1", "local_s2", "local_s4"),
        *("norm_HW", "norm_C", "norm_N", "softmax_N", "softmax_C", "softmax_HW"),
        *("logsoftmax_N", "logsoftmax_C", "logsoftmax_HW", "min_max_normalize", "batchnorm"),
    ],
    "distance_func": ["l1", "l2", "kl", "hard", "smooth_l1", "cos", "pear", "cor"],
    "weight": ["entropy", "focal", "sim", "conf", "no"],
    "temperature": [1, 4, 8, 16],
    "magnitude": [100, 50, 25, 10, 5, 1, 0.1, 0.01],
}


def random_genotype(choose):
    """One genotype of the paper."""
    transforms = {f"trans_func{index}": choose(GENOTYPE["trans"]) for index in (1, 2, 3)}
    return transforms | {name: choose(values) for name, values in GENOTYPE.items() if name != "trans"}


@st.composite
def genotypes(draw):
    """Genotypes of the paper."""
    return random_genotype(lambda some: draw(st.sampled_from(some)))
