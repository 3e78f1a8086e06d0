"""Classes in another order: finds the order in which a network's answers fit the labels, and names it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

GAIN = 0.1
"""Another order has to raise the accuracy by so much to be believed."""
SHOWN = 6
"""So many classes of an order are written out."""


@dataclass(frozen=True)
class Reordering:
    """``order``: for each output of the network the index of the class of the data that it stands for; ``accuracy``
    with it, ``words`` that describe it, the ``kind`` of mistake, and an ``example`` of the file that mends it."""

    order: tuple[int, ...]
    accuracy: float
    words: str
    kind: str
    example: str


def natural_key(name: str) -> list[Any]:
    """What sorts 2 before 10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


ORDERS: tuple[tuple[str, Callable[[Sequence[str]], list[str]]], ...] = (
    ("by number", lambda names: sorted(names, key=natural_key)),
    ("by letters, 10 before 2", sorted),
    ("regardless of upper and lower case", lambda names: sorted(names, key=str.lower)),
    ("backwards", lambda names: list(reversed(names))),
)
"""Orders that tools and people give classes, by what they are called."""


def reordering(predicted: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> Reordering | None:
    """The order of outputs that fits far better than the one that is used, or None.

    Orders that tools give classes are tried first; then the one of most agreement, found on one half of the images and
    judged by the other, so that chance agreement is not taken for an order.
    """
    count = len(classes)
    if count < 2 or len(labels) < 2 or labels.ndim != 1:
        return None
    inside = (predicted < count) & (labels >= 0) & (labels < count)
    predicted, labels = predicted[inside], labels[inside]
    place = {name: index for index, name in enumerate(classes)}
    now = _accuracy(np.arange(count), predicted, labels)
    for words, sort in ORDERS:
        order = np.array([place[name] for name in sort(classes)])
        accuracy = _accuracy(order, predicted, labels)
        if accuracy > now + max(GAIN, _noise(now, len(labels))):
            return _found(order, accuracy, f"its classes were ordered {words}", classes)
    return _assigned(predicted, labels, classes, now)


def _assigned(predicted: np.ndarray, labels: np.ndarray, classes: Sequence[str], now: float) -> Reordering | None:
    """The order of most agreement (linear assignment on the confusion matrix), where both halves believe in it."""
    count, half = len(classes), np.arange(len(labels)) % 2 == 0
    bound = _confusion(predicted, labels, count).max(axis=1).sum() / max(1, len(labels))
    if bound <= now + GAIN:  # no order can be that much better
        return None
    gains = []
    for fitted, judged in ((half, ~half), (~half, half)):
        order = _assignment(_confusion(predicted[fitted], labels[fitted], count))
        gains.append(_accuracy(order, predicted[judged], labels[judged]) - now)
    if min(gains) <= max(GAIN, _noise(now, len(labels) // 2)):
        return None
    order = _assignment(_confusion(predicted, labels, count))
    return _found(order, _accuracy(order, predicted, labels), "", classes)


def _confusion(predicted: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """How many images were answered with output i and are of class j."""
    return np.bincount(predicted * count + labels, minlength=count * count).reshape(count, count)


def _assignment(confusion: np.ndarray) -> np.ndarray:
    from scipy.optimize import linear_sum_assignment  # late: its import takes longer than all checks

    # of equal orders the one that changes least
    return linear_sum_assignment(confusion + 1e-6 * np.eye(len(confusion)), maximize=True)[1]  # type: ignore[no-any-return]


def _accuracy(order: np.ndarray, predicted: np.ndarray, labels: np.ndarray) -> float:
    return float((order[predicted] == labels).mean()) if len(labels) else 0.0


def _noise(share: float, count: int) -> float:
    """Three standard errors of a share."""
    return 3 * float(np.sqrt(max(share * (1 - share), 1 / max(count, 1)) / max(count, 1)))


def _found(order: np.ndarray, accuracy: float, words: str, classes: Sequence[str]) -> Reordering:
    names = [classes[index] for index in order]
    moved = [index for index in range(len(order)) if order[index] != index]
    swapped = len(moved) == 2
    if swapped:
        words = f"{classes[moved[0]]} and {classes[moved[1]]} changed places"
    elif not words:
        pairs = [f"{classes[index]} means {names[index]}" for index in moved[:SHOWN]]
        words = ", ".join(pairs) + (" and so on" if len(moved) > SHOWN else "")
    listed = names if len(names) <= SHOWN else [*names[:SHOWN], "…"]
    example = json.dumps({"classes": listed}, ensure_ascii=False)
    return Reordering(tuple(order.tolist()), accuracy, words, "swapped" if swapped else "ordered otherwise", example)
