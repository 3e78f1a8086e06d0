"""Reads the paper's genotypes: three transforms, one distance, one weight, a temperature and a magnitude."""

from __future__ import annotations

from kdzero_gp.compiler.checking import check
from kdzero_gp.compiler.expression import Expression
from kdzero_gp.errors import ExpressionError, GenotypeError
from primitives import CATALOGUE, PAPER_CONSTANTS, TEMPERATURE
from primitives.types import MAGNITUDE

# Spellings of the listings, the appendix and the paper's text for one operation.
_SPELLINGS = {
    "leaky": "leaky_relu",
    "multi_scale_r1": "scale_r1",
    "multi_scale_r2": "scale_r2",
    "multi_scale_r4": "scale_r4",
}
_INPUTS = {"feat": "feat", "emb": "emb", "emd": "emb", "logit": "logits", "logits": "logits"}


def paper_operations(role: str) -> tuple[str, ...]:
    """The names that the paper's space has for ``role`` (transform, distance or calibration)."""
    names = [operation.name for operation in CATALOGUE.of_role(role) if operation.paper]
    return ("no", *names) if role == "transform" else tuple(names)


def from_genotype(
    knowledge_input: str,
    trans_func1: str = "no",
    trans_func2: str = "no",
    trans_func3: str = "no",
    distance_func: str = "l2",
    weight: str = "no",
    temperature: float = 1,
    magnitude: float = 1,
) -> Expression:
    """The distiller of a genotype of the paper (supplement, listing 1, with its errors mended).

    T belongs to the last softmax of the chain (softmax(x/T)); a chain without one is divided by T before the
    distance. Raises ``GenotypeError`` with one sentence where the genotype has no meaning.

    >>> str(from_genotype("logits", trans_func1="softmax_C", distance_func="kl", temperature=4))
    'times(no(kl(softmax_C(logits, 4))), 1)'
    """
    chain = [_transform(name) for name in (trans_func1, trans_func2, trans_func3) if name != "no"]
    node = Expression(_one_of(knowledge_input, _INPUTS, "knowledge input"))
    _constant(temperature, PAPER_CONSTANTS[TEMPERATURE], "temperature")
    _constant(magnitude, PAPER_CONSTANTS[MAGNITUDE], "magnitude")
    softened = max((index for index, name in enumerate(chain) if CATALOGUE[name].parameters), default=None)
    for index, name in enumerate(chain):
        if CATALOGUE[name].parameters:
            node = Expression(name, (node, float(temperature) if index == softened else 1.0))
        else:
            node = Expression(name, (node,))
    if softened is None and temperature != 1:
        division = next(operation for operation in CATALOGUE if operation.division)
        node = Expression(division.name, (node, float(temperature)))
    distances = {name: name for name in paper_operations("distance")}
    weights = {name: name for name in paper_operations("calibration")}
    node = Expression(_one_of(distance_func, distances, "distance"), (node,))
    node = Expression(_one_of(weight, weights, "weight"), (node,))
    node = Expression("times", (node, float(magnitude)))
    try:
        check(node)
    except ExpressionError as error:
        raise GenotypeError(f"this genotype has no meaning: {error}") from None
    return node


def _transform(name: str) -> str:
    name = _SPELLINGS.get(str(name), name)
    if name not in paper_operations("transform"):
        raise GenotypeError(f"the paper has no transform {name!r}; it has {', '.join(paper_operations('transform'))}")
    return name


def _one_of(name: str, known: dict[str, str], what: str) -> str:
    if not isinstance(name, str) or name not in known:
        raise GenotypeError(f"the paper has no {what} {name!r}; it has {', '.join(known)}")
    return known[name]


def _constant(value: float, listed: tuple[float, ...], what: str) -> None:
    if value not in listed:
        raise GenotypeError(
            f"{value!r} is not a {what} of the paper; choose one of {', '.join(f'{number:g}' for number in listed)}"
        )
