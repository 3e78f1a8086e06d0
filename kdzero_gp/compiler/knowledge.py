"""What networks may expose: a table from names of knowledge to their ranks and kind. A task family brings its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from primitives.types import MAP_LOGITS, RANKS, PairType


@dataclass(frozen=True)
class KnowledgeSpec:
    """A knowledge by its name, or by a pattern: ``*`` stands for a whole number or nothing (feat, feat1, feat2, …).

    ``ranks``, out of matrix, tokens, map, and those of detectors (``AT_ANCHORS``): the forms that it may have; where a
    map or tokens fit, square tokens are the map that they were cut from, and a map beside other tokens becomes tokens.
    The first is its rank where no pair is known. ``kind`` is ``real`` or ``logits`` (dimension 1 holds classes).
    ``adapted``: whether a student's tensor may be brought to the teacher's shape.
    """

    ranks: tuple[str, ...] = ("matrix",)
    kind: str = "real"
    adapted: bool = True

    def __post_init__(self) -> None:
        if not self.ranks or any(rank not in SIZES for rank in self.ranks) or self.kind not in ("real", "logits"):
            raise ValueError(
                f"{self} is not a knowledge; its ranks are out of {', '.join(SIZES)}, its kind real or logits"
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many sizes a tensor may have per sample: one layout of space can be turned into the other."""
        found = [1] if "matrix" in self.ranks else []
        if {"tokens", "map"} & set(self.ranks):
            return (*found, 2, 3)
        return (*found, 2) if set(AT_ANCHORS) & set(self.ranks) else tuple(found)

    @property
    def shapes(self) -> str:
        """The shapes per sample as messages write them."""
        return " or ".join({1: "C", 2: "C×M", 3: "C×H×W"}[size] for size in self.sizes)


AT_ANCHORS = ("anchors", "boxes", "grid", "proposals")
"""Ranks with a column for each anchor, or proposal, of a detector."""
# rank of a knowledge -> its sizes per sample
SIZES = {rank: len(re.findall("×", RANKS[rank].text)) for rank in ("matrix", "tokens", "map", *AT_ANCHORS)}

# The levels of a detector's pyramid are named so, with the binary logarithm of their stride.
PYRAMID = "fpn"

KnowledgeTable = Mapping[str, KnowledgeSpec]

CLASSIFICATION_KNOWLEDGE: KnowledgeTable = {
    "logits": KnowledgeSpec(("matrix",), "logits", adapted=False),
    "emb": KnowledgeSpec(("matrix",)),
    "feat*": KnowledgeSpec(("map", "tokens")),
}


def spec_of(name: str, knowledge: KnowledgeTable) -> KnowledgeSpec | None:
    """What a table says of a knowledge; None where it has no such name.

    >>> spec_of("feat2", CLASSIFICATION_KNOWLEDGE).ranks, spec_of("feat02", CLASSIFICATION_KNOWLEDGE)
    (('map', 'tokens'), None)
    """
    return next((spec for pattern, spec in knowledge.items() if _pattern(pattern).fullmatch(name)), None)


@lru_cache(maxsize=256)
def _pattern(pattern: str) -> re.Pattern[str]:
    # names become variables of the generated source
    if not re.fullmatch(r"[A-Za-z][A-Za-z_]*\*?|[A-Za-z][A-Za-z_0-9]*", pattern, re.ASCII):
        raise ValueError(f"{pattern!r} names no knowledge; use letters, and * at the end for a number")
    return re.compile(pattern.replace("*", "(?:[1-9][0-9]*)?"), re.ASCII)


def kind_of_pair(types: Mapping[str, PairType]) -> str:
    """What a pair's labels are for: the places of ``maps``, ``boxes`` (a pair with anchors or a pyramid), ``images``.

    >>> kind_of_pair({"fpn3": PairType("map")}), kind_of_pair({"logits": PairType("map", "logits")})
    ('boxes', 'maps')
    """
    if MAP_LOGITS in types.values():
        return "maps"
    detects = any(name.startswith(PYRAMID) or pair.rank in AT_ANCHORS for name, pair in types.items())
    return "boxes" if detects else "images"
