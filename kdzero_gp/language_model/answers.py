"""What a language model's answer holds: distillers, and why each of the others is useless. Nothing in it is run."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field

from kdzero_gp.compiler import Expression, parse
from kdzero_gp.errors import ExpressionError, ExpressionTypeError
from kdzero_gp.evolution import Grammar
from kdzero_gp.evolution.variation import within_limits

# More lines of one answer are not read.
MOST_LINES = 50
# What may stand before an expression in a list of a text: a number, a dash, quotes, a code mark.
_BEFORE = re.compile(r"^(?:[-*•]\s+|\d+[.):]\s+)?[`\"']*")
# A text of a JSON list, to its end.
_WHOLE = re.compile(r'"([^"\\]*)"\s*(?=[,\]])')


@dataclass
class ReadAnswer:
    """The distillers of an answer in its order, how many of its lines were useless by reason, and the first error of
    the parser, which a model can be told."""

    distillers: list[Expression] = field(default_factory=list)
    useless: Counter[str] = field(default_factory=Counter)
    error: str = ""


def read_answer(text: str, grammar: Grammar) -> ReadAnswer:
    """Read a JSON list of texts, or one expression a line, strictly. Raises nothing for any text.

    Reasons: ``no expression`` (an empty answer or one of prose), ``syntax``, ``type``, ``outside the space``
    (its limits, too), ``not read`` (too many).
    """
    reading = ReadAnswer()
    lines = _lines(text)
    for line in lines[:MOST_LINES]:
        if "(" not in line:
            continue
        try:
            simplest = within_limits(parse(line, grammar.knowledge), grammar)
        except ExpressionError as error:
            reading.useless["type" if isinstance(error, ExpressionTypeError) else "syntax"] += 1
            reading.error = reading.error or f"{line[:200]}: {error}"
            continue
        if simplest is None:
            reading.useless["outside the space"] += 1
        else:
            reading.distillers.append(simplest)
    if len(lines) > MOST_LINES:
        reading.useless["not read"] += len(lines) - MOST_LINES
    if not reading.distillers and not reading.useless:
        reading.useless["no expression"] += 1
    return reading


def _lines(text: str) -> list[str]:
    """The parts of an answer that may be expressions."""
    begin, end = text.find("["), text.rfind("]")
    if begin >= 0 and end < begin:
        # a list that was cut off: what is whole in it
        whole = _WHOLE.findall(text, begin)
        if whole:
            return [*whole, _WHOLE.sub("", text[begin + 1 :]).strip(' ,"\n')]
    if 0 <= begin < end:
        try:
            found = json.loads(text[begin : end + 1])
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, list):
            return [one.strip() for one in found if isinstance(one, str)]
    return [_BEFORE.sub("", line.strip()).rstrip("`\"',;. ") for line in text.splitlines() if line.strip()]
