"""What a language model is told: templates of the folder ``prompts``, filled from the catalogue, the pair and the run.

Only names and numbers of ours, expressions that were parsed, and the screens' reasons reach a prompt. Names of classes,
layers, networks and files never do, nor what an exception says, since anybody may have written them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from kdzero_gp.compiler import fits, zoo
from kdzero_gp.evolution import Grammar
from primitives import CATALOGUE, MAGNITUDE, TEMPERATURE, Operation, PairType, ValueType
from primitives.types import RANKS

# The files' version: an answer belongs to the words that it was given to, so a changed text is a new file.
VERSION = 1
# Between what never changes in a search, which a server can keep, and what does.
_CUT = "===\n"
ROLES = {
    "transform": "Transforms (pair -> pair)",
    "distance": "Distances (pair -> loss)",
    "calibration": "Calibrations (loss -> loss)",
    "combination": "Combinations",
}
KINDS = ("real", "logits", "probability", "log_probability")
# What an unknown reason is called, and the characters of a known one.
ERROR = "an error in its training"
_REASON = re.compile(r"[A-Za-z0-9 ',.%×-]{1,100}")
MOST_GOAL = 500

Message = dict[str, str]
# Distillers with their fitness.
Examples = Sequence[tuple[float, str]]
Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Situation:
    """What a search has found: the ``good`` with their fitness, the ``bad`` with the reason, and what was ``known``
    already of the model's own proposals; all of it expressions."""

    good: Examples = ()
    bad: Sequence[tuple[str, str]] = ()
    known: Sequence[str] = ()
    goal: str = ""


@dataclass(frozen=True)
class Prompts:
    """The messages of one search: what stays the same is worked out once. ``relative``: how magnitudes are meant."""

    grammar: Grammar
    student_shapes: Shapes
    teacher_shapes: Shapes
    relative: bool = True
    count: int = 5

    def propose(self, situation: Situation) -> list[Message]:
        """Ask for ``count`` distillers."""
        whole = _template("propose").render(
            self._facts, count=self.count, good=[(f"{fitness:.3f}", text) for fitness, text in situation.good],
            bad=[(plain_reason(reason), text) for text, reason in situation.bad], known=situation.known,
            goal=json.dumps(situation.goal[:MOST_GOAL], ensure_ascii=False) if situation.goal else "",
        )  # fmt: skip
        system, user = whole.split(_CUT, 1)
        return [{"role": "system", "content": system.strip()}, {"role": "user", "content": user.strip()}]

    def repair(self, asked: list[Message], answer: str, error: str) -> list[Message]:
        """Ask again, with the parser's error about an ``answer`` without any distiller."""
        text = _template("repair").render(error=error, count=self.count)
        answered = {"role": "assistant", "content": answer[:2000]}
        return [*asked, answered, {"role": "user", "content": text.strip()}]

    @cached_property
    def _facts(self) -> dict[str, Any]:
        grammar = self.grammar
        named = {operation.name for operation, _, _ in grammar.rules}
        roles = [
            (title, [_line(o, grammar) for o in CATALOGUE.of_role(role) if o.name in named])
            for role, title in ROLES.items()
        ]
        sizes = [
            (name, _sizes(self.student_shapes[name]), _sizes(self.teacher_shapes[name]), str(kind))
            for name, kind in grammar.knowledge.items()
        ]
        return {
            "knowledge": sizes, "roles": [(title, lines) for title, lines in roles if lines],
            "size": grammar.limits.size, "depth": grammar.limits.depth, "relative": self.relative,
            "temperatures": _numbers(grammar.constants[TEMPERATURE]),
            "magnitudes": _numbers(grammar.constants[MAGNITUDE]),
            "zoo": [(n, str(e)) for n, e in zoo.items() if fits(e, grammar.knowledge) and grammar.contains(e)],
        }  # fmt: skip


def compare(good: Examples, bad: Examples, first: str, second: str) -> list[Message]:
    """Ask which of two distillers is fitter, A or B; ``good`` and ``bad`` are others with their fitness."""
    examples = [[(f"{fitness:.3f}", text) for fitness, text in part] for part in (good, bad)]
    text = _template("judge").render(good=examples[0], bad=examples[1], first=first, second=second)
    return [{"role": "user", "content": text.strip()}]


@cache
def _template(name: str) -> Any:
    environment = Environment(
        loader=PackageLoader("kdzero_gp.language_model", "prompts"), undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, autoescape=False, keep_trailing_newline=True,
    )  # fmt: skip
    return environment.get_template(f"{name}_{VERSION}.txt")


def plain_reason(reason: str) -> str:
    """A screen's reason without its numbers; what is not of our own words is only called an error.

    >>> plain_reason("the loss keeps too much memory: 9.0 MiB for a batch"), plain_reason("ValueError: obey me")
    ('the loss keeps too much memory', 'an error in its training')
    """
    head = re.split(r"[:(]", reason, maxsplit=1)[0].strip()
    return head if " " in head and _REASON.fullmatch(head) else ERROR


def _line(operation: Operation, grammar: Grammar) -> tuple[str, str, str, str]:
    """How an operation is called, what it takes, what it gives, and its formula."""
    rules = [(slots[0].type, made.type) for o, slots, made in grammar.rules if o.name == operation.name]
    constants = ["T" if constant == TEMPERATURE else "MAGNITUDE" for constant in operation.parameters]
    call = f"{operation.name}({', '.join([*['x', 'y'][: operation.arity - len(constants)], *constants])})"
    takes, gives = _types([first for first, _ in rules]), _types([made for _, made in rules])
    kept = all(
        isinstance(first, PairType) and isinstance(made, PairType) and first.rank == made.rank for first, made in rules
    )
    return call, takes, gives.partition(": ")[2] if kept else gives, operation.formula.rstrip(".")


def _types(found: Sequence[ValueType]) -> str:
    """Types in short: ranks and kinds of pairs, the words of others.

    >>> _types([PairType("matrix", "probability", "C"), PairType("map")])
    'matrix/map: real/probability over C'
    """
    pairs = [one for one in found if isinstance(one, PairType)]
    if not pairs:
        return " or ".join(dict.fromkeys(str(one) for one in found))
    ranks = [rank for rank in RANKS if any(pair.rank == rank for pair in pairs)]
    axes = {pair.axis for pair in pairs if pair.axis}
    over = f" over {axes.pop()}" if len(axes) == 1 else ""
    kinds = [kind for kind in KINDS if any(pair.kind == kind for pair in pairs)]
    named = "any" if len(kinds) == len(KINDS) else "/".join(kinds).replace("_", "-") + over
    return f"{'/'.join(ranks)}: {named}"


def _sizes(shape: Sequence[int]) -> str:
    return "×".join(str(int(size)) for size in shape)


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
