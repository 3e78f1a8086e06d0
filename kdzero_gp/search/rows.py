"""The rows of a run's database, and how they are kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, TypeVar

import cattrs


class Status(str, Enum):
    """What became of a distiller that was not born before. Set once, where the verdict is made.

    ``TRAINED``: its proxy ended with metrics. ``EQUIVALENT``: it has the gradient of an earlier distiller, and that
    one's result, good or bad. ``PREDICTED``: it was not trained, since the surrogate's fitness is
    enough, or since a judge found it less fit than one of the population.
    ``REJECTED``: a screen turned it away, before its training or early in it. ``FAILED``: its training diverged,
    destroyed the student, took too long or broke.
    """

    TRAINED = "trained"
    EQUIVALENT = "equivalent"
    PREDICTED = "predicted"
    REJECTED = "rejected"
    FAILED = "failed"


@dataclass(frozen=True)
class StoredBirth:
    """One row of ``births``."""

    number: int
    generation: int
    operator: str
    parents: tuple[int, ...]
    expression: str
    digest: str
    duplicate_of: int | None


@dataclass(frozen=True)
class StoredEvaluation:
    """One row of ``evaluations``: a distiller's status, its fitness (None without a training that ended, its own or an
    equivalent one's), metrics and magnitudes; the ``reason`` why there is none, and the ``screen`` that gave it.

    ``equivalent_to``: the digest of an earlier distiller with the same gradient, whose fitness and metrics these are.
    ``short``: what was learnt before the end of the proxy: the metrics at the rung, their ``gaps``, and the surrogate's
    ``predicted`` fitness and ``score``. ``fingerprint``: the gradient folded, float32. ``units``: what it costs on the
    virtual clock.
    """

    digest: str
    expression: str
    status: Status
    fitness: float | None
    reason: str
    metrics: dict[str, float]
    magnitudes: tuple[float, ...]
    screen: str = ""
    equivalent_to: str = ""
    short: dict[str, float] = field(default_factory=dict)
    fingerprint: bytes = b""
    units: float = 1.0


@dataclass(frozen=True)
class StoredAnswer:
    """One row of ``answers``: what a worker said of a distiller when it was asked for a ``probe`` or a ``train``. It is
    kept from its arrival until the distiller is judged."""

    digest: str
    request: str
    answer: dict[str, Any]


@dataclass(frozen=True)
class StoredReply:
    """One row of ``replies``: what a language model said to the request with this digest when it was asked for the
    ``ordinal``-th time, counted from 0, or why it said nothing, and what that took (see ``language_model.Reply``)."""

    request: str
    ordinal: int
    text: str
    failure: str
    calls: int
    tokens_in: int
    tokens_out: int


@dataclass(frozen=True)
class StoredMeasurement:
    """One row of ``measurements``: a training outside the evolution, such as a zoo baseline or a race."""

    kind: str
    name: str
    seed: int
    factor: float
    reason: str
    metrics: dict[str, float]
    magnitudes: tuple[float, ...]


@dataclass(frozen=True)
class StoredCost:
    """One row of ``costs``: what a training took, and its evaluation's seconds by stage."""

    kind: str
    name: str
    seconds: float
    step_milliseconds: float
    stages: dict[str, float] = field(default_factory=dict)


Row = TypeVar("Row", StoredBirth, StoredEvaluation, StoredAnswer, StoredReply, StoredMeasurement, StoredCost)
TABLES: dict[type, str] = {
    StoredBirth: "births", StoredEvaluation: "evaluations", StoredAnswer: "answers",
    StoredReply: "replies", StoredMeasurement: "measurements", StoredCost: "costs",
}  # fmt: skip
# The columns of each row's table, in the order of its fields.
COLUMNS = {kind: [column.name for column in fields(kind)] for kind in TABLES}
# Columns of these Python types are kept as JSON.
_AS_JSON = ("tuple", "dict")
_JSON_COLUMNS = {
    kind: {column.name for column in fields(kind) if str(column.type).startswith(_AS_JSON)} for kind in TABLES
}


def stored_values(row: Any) -> dict[str, Any]:
    """A row's values as SQLite keeps them."""
    as_json = _JSON_COLUMNS[type(row)]
    return {name: json.dumps(value, sort_keys=True) if name in as_json else value for name, value in vars(row).items()}


def row_of(kind: type[Row], values: Mapping[str, Any]) -> Row:
    """The row that ``stored_values`` gave."""
    as_json = _JSON_COLUMNS[kind]
    found = {name: json.loads(values[name]) if name in as_json else values[name] for name in COLUMNS[kind]}
    return cattrs.structure(found, kind)
