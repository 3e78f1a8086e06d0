"""The verifier: gives every node its type, or names the node that is wrong, what it wants and what it got."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from kdzero_gp.compiler.expression import Expression, terms
from kdzero_gp.compiler.knowledge import CLASSIFICATION_KNOWLEDGE, kind_of_pair, spec_of
from kdzero_gp.errors import ExpressionError, ExpressionTypeError
from primitives import CATALOGUE, CONSTANTS, LEVEL, LOSS, Operation, PairType, ValueType

KnowledgeTypes = Mapping[str, PairType]


def knowledge_type(name: str, knowledge: KnowledgeTypes | None = None) -> PairType:
    """The type of a knowledge leaf: as the pair offers it, or as convolutional networks have it."""
    if knowledge is not None:
        if name not in knowledge:
            offered = ", ".join(knowledge)
            raise ExpressionTypeError(f"this pair has no knowledge {name!r}; it offers {offered}")
        return knowledge[name]
    spec = spec_of(name, CLASSIFICATION_KNOWLEDGE)
    if spec is None:
        raise ExpressionError(f"unknown knowledge {name!r}; there are logits, emb, feat, feat1, feat2, …")
    return PairType(spec.ranks[0], spec.kind)


def is_knowledge(name: str, knowledge: KnowledgeTypes | None = None) -> bool:
    """Whether ``name`` is a knowledge leaf: of the pair, or logits, emb, feat, feat1, feat2, …

    >>> [is_knowledge(name) for name in ("logits", "feat12", "feat01", "features")]
    [True, True, False, False]
    """
    return name in (knowledge or ()) or spec_of(name, CLASSIFICATION_KNOWLEDGE) is not None


@lru_cache(maxsize=65536)
def _default_type(node: Expression) -> ValueType:
    return _type_of_call(node, None) if node.arguments else knowledge_type(node.name)


def type_of(node: Expression, knowledge: KnowledgeTypes | None = None) -> ValueType:
    """The type of ``node``'s value. Raises ``ExpressionTypeError`` where an operation is not defined for what it
    gets, and ``ExpressionError`` for unknown names, wrong arity and unlisted constants."""
    if knowledge is None:
        return _default_type(node)
    return _type_of_call(node, knowledge) if node.arguments else knowledge_type(node.name, knowledge)


def _type_of_call(node: Expression, knowledge: KnowledgeTypes | None) -> ValueType:
    if node.name not in CATALOGUE:
        raise ExpressionError(f"unknown operation {node.name!r}")
    operation = CATALOGUE[node.name]
    check_arity(operation, len(node.arguments))
    if knowledge is not None and not operation.serves(kind := kind_of_pair(knowledge)):
        raise ExpressionTypeError(f"{node.name} is {_for(operation)}, and this one labels {kind}")
    for name in operation.reads(kind_of_pair(knowledge)) if knowledge is not None else ():
        knowledge_type(name, knowledge)
    given: list[ValueType] = []
    for index, argument in enumerate(node.arguments):
        if isinstance(argument, Expression):
            given.append(_argument_type(operation, argument, knowledge))
        else:
            given.append(constant_type(operation, index, argument))
    result = operation.overloads.get(tuple(given))
    if result is None:
        raise ExpressionTypeError(explain_mismatch(operation, given))
    return result


def _argument_type(operation: Operation, argument: Expression, knowledge: KnowledgeTypes | None) -> ValueType:
    found = type_of(argument, knowledge)
    takes_level = (LEVEL,) in operation.overloads and not argument.arguments
    return LEVEL if takes_level and isinstance(found, PairType) and found.rank == "map" else found


def _for(operation: Operation) -> str:
    kinds = {"maps": "pairs that label every place", "boxes": "detectors"}
    named = " and ".join(kinds[kind] for kind in operation.dense)
    return f"for {named}" if named else "for pairs with a label for each of the logits"


def check_arity(operation: Operation, count: int) -> None:
    """Raise unless ``operation`` takes ``count`` arguments."""
    if count != operation.arity:
        noun = "argument" if operation.arity == 1 else "arguments"
        raise ExpressionError(f"{operation.name} takes {operation.arity} {noun}, got {count}")


def constant_type(operation: Operation, index: int, value: float) -> ValueType:
    """The type of constant number ``index`` of a call; raises when no constant belongs there or it is not listed."""
    wanted = next(iter(operation.overloads))[index]
    if wanted not in CONSTANTS:
        raise ExpressionTypeError(f"{operation.name} takes an expression as argument {index + 1}, got {value:g}")
    if value not in CONSTANTS[wanted]:
        listed = ", ".join(f"{number:g}" for number in CONSTANTS[wanted])
        raise ExpressionError(f"{value:g} is not a listed {str(wanted).removeprefix('a ')}; choose one of {listed}")
    return wanted


def explain_mismatch(operation: Operation, given: list[ValueType]) -> str:
    """Why ``operation`` cannot be applied: what it got and what it is defined for."""
    got = ", ".join(str(argument) for argument in given if argument not in CONSTANTS)
    if operation.compares_distributions:
        return f"{operation.name} compares distributions (put a softmax in front), got {got}"
    firsts = {overload[0] for overload in operation.overloads}
    ranks = sorted({first.rank for first in firsts if isinstance(first, PairType)})
    first = given[0]
    if isinstance(first, PairType) and first.rank in ranks:
        return f"{operation.name} is not defined for {got}: it would change nothing or have no meaning"
    wanted = " or ".join(dict.fromkeys(ranks)) or " or ".join(str(first) for first in sorted(firsts, key=str))
    return f"{operation.name} is defined for {wanted}, got {got}"


def check(root: Expression, knowledge: KnowledgeTypes | None = None) -> None:
    """Raise unless ``root`` is a whole distiller: a weighted loss or a sum of them."""
    root_type = type_of(root, knowledge)
    if root_type != LOSS:
        raise ExpressionTypeError(
            f"a distiller is a sum of times(loss, magnitude), got {root_type}; "
            "for example times(no(kl(softmax_C(logits, 4))), 1)"
        )


def may_be_negative(root: Expression, knowledge: KnowledgeTypes | None = None) -> bool:
    """Whether the value of a distiller can be below 0, as no distance is: then only its gradient says something.

    >>> logits = Expression("softmax_N", (Expression("logits"), 1.0))
    >>> kl = Expression("kl", (logits,))
    >>> [may_be_negative(Expression("times", (Expression(name, (kl,)), 1.0))) for name in ("no", "conf")]
    [False, True]
    """
    return any(_is_signed(term, knowledge) for term in terms(root))


def _is_signed(term: Expression, knowledge: KnowledgeTypes | None) -> bool:
    calibration = term.children[0]
    comparison = calibration.children[0]
    if len(comparison.children) > 1:  # under weights of places
        comparison = comparison.children[0]
    operation, given = CATALOGUE[comparison.name], type_of(comparison.children[0], knowledge)
    weighed = bool(CATALOGUE[calibration.name].needs)  # else the plain mean of all samples
    return operation.signed or (weighed and getattr(given, "axis", "") in operation.signed_over)


def fits(root: Expression, knowledge: KnowledgeTypes | None = None) -> bool:
    """Whether ``root`` is a whole distiller for a pair with this knowledge."""
    try:
        check(root, knowledge)
    except ExpressionError:
        return False
    return True
