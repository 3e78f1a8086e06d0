"""What a language model's answer holds: distillers, and why each of the others is useless. Nothing in it is run."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from kdzero_gp.compiler import Expression, parse
from kdzero_gp.errors import ExpressionError, ExpressionTypeError
from kdzero_gp.evolution import Grammar
from kdzero_gp.evolution.variation import within_limits

# More parts of one answer are not read.
MOST_PARTS = 50
# What may stand before an expression in a list of a text: a number, a dash, quotes, a code mark.
_BEFORE = re.compile(r"^(?:[-*•]\s+|\d+[.):]\s+)?[`\"']*")
# A text of a JSON list, to its end.
_WHOLE = re.compile(r'"([^"\\]*)"\s*(?=[,\]])')


@dataclass
class ReadAnswer:
    """The distillers of an answer in its order, how many of its parts were useless by reason, and the first error,
    which a model can be told."""

    distillers: list[Expression] = field(default_factory=list)
    useless: Counter[str] = field(default_factory=Counter)
    error: str = ""


def read_answer(text: str, grammar: Grammar) -> ReadAnswer:
    """Read a JSON list of texts, or one expression a line, strictly. Raises nothing for any text.

    Reasons: ``no expression`` (an empty answer or one of prose), ``no text`` (another value in a list), ``syntax``,
    ``type``, ``outside the space`` (its limits, too), ``not read`` (too many).
    """
    reading = ReadAnswer()
    parts = _parts(text)
    for part in parts[:MOST_PARTS]:
        if isinstance(part, str):
            _read(part, grammar, reading)
        else:
            reading.useless["no text"] += 1
            reading.error = reading.error or f"a distiller is a text, got {type(part).__name__}"
    if len(parts) > MOST_PARTS:
        reading.useless["not read"] += len(parts) - MOST_PARTS
    if not reading.distillers and not reading.useless:
        reading.useless["no expression"] += 1
    return reading


def _read(part: str, grammar: Grammar, reading: ReadAnswer) -> None:
    try:
        simplest = within_limits(parse(part, grammar.knowledge), grammar)
    except ExpressionError as error:
        reading.useless["type" if isinstance(error, ExpressionTypeError) else "syntax"] += 1
        reading.error = reading.error or f"{part[:200]}: {error}"
        return
    if simplest is None:
        reading.useless["outside the space"] += 1
    else:
        reading.distillers.append(simplest)


def _parts(text: str) -> list[Any]:
    """What an answer gives as distillers: all that stands in its list, or its lines that are no prose."""
    begin, end = text.find("["), text.rfind("]")
    if begin >= 0 and end < begin:
        # a list that was cut off: what is whole in it, and the rest where it is more than a word
        whole = _WHOLE.findall(text, begin)
        if whole:
            return [*whole, *_calls([_WHOLE.sub("", text[begin + 1 :]).strip(' ,"\n')])]
    if 0 <= begin < end:
        try:
            found = json.loads(text[begin : end + 1])
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, list) and any(isinstance(one, str) for one in found):
            return [one.strip() if isinstance(one, str) else one for one in found]
    return _calls([_BEFORE.sub("", line.strip()).rstrip("`\"',;. ") for line in text.splitlines()])


def _calls(lines: list[str]) -> list[str]:
    return [line for line in lines if "(" in line]
