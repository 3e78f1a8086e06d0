"""Valid inputs with a few things wrong."""

import copy
import json

from primitives import CATALOGUE

NAMES = [operation.name for operation in CATALOGUE]
TOKENS = [*NAMES, "(", ")", ",", " ", "1", "0.1", "4", "-", "nan", "1e999", "feat", "logits", "emb", "'", "\\", "\0",
          "__import__", "lambda", "é", "\u202e", "add(", "times(", "9" * 50, "((((((((" * 20]  # fmt: skip
# What stands where something else was.
HOSTILE = ("", "{", "[1", "null", '"x"', "1e999", "NaN", "[" * 3000, '{"a": 1}', -1, 2**62, b"\xff", None, "__import__")
VALUES = (None, True, -1, 0, 2**63, 1e308, 10**400, float("nan"), "", "x", "../../etc/passwd", "\0", "é" * 500, [], {},
          [[]] * 9, {"a": {"b": []}}, "__import__('os').system('true')")  # fmt: skip


def damaged(content, others, chance):
    """Bytes with a few things wrong."""
    content = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        place, how = chance.randrange(len(content) + 1), chance.randrange(6)
        length = min(chance.choice((1, 2, 4, 8, 64, 1024)), max(1, len(content) - place))
        if how == 0 and place < len(content):
            content[place] ^= 1 << chance.randrange(8)
        elif how == 1:
            del content[place : place + length]
        elif how == 2:
            content[place:place] = chance.randbytes(length)
        elif how == 3:
            content[place : place + length] = chance.choice((b"\xff", b"\0", b"\x7f")) * length
        elif how == 4:
            content[place:place] = content[place : place + length]
        else:
            other = chance.choice(others)
            content[place:] = other[chance.randrange(len(other) + 1) :]
    return bytes(content)


def garbled(text, chance):
    """A text of the language with a few tokens wrong."""
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        place = chance.randrange(len(text) + 1)
        text = text[:place] + chance.choice((chance.choice(TOKENS), "")) + text[place + chance.choice((0, 0, 1, 3)) :]
    return text


def changed(value, chance):
    """A value of JSON in which one or two parts are another kind of value, or gone."""
    value = copy.deepcopy(value)
    for _ in range(chance.choice((1, 1, 2))):
        holder, key = None, None
        inner = value
        while isinstance(inner, dict | list) and inner and (holder is None or chance.random() < 0.75):
            holder, key = inner, chance.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
            inner = holder[key]
        if holder is None:
            value = copy.deepcopy(chance.choice(VALUES))
        elif chance.random() < 0.2:
            del holder[key]
        else:
            holder[key] = copy.deepcopy(chance.choice(VALUES))
    return value


def damaged_json(content, others, chance):
    """Half of the time damaged bytes of a JSON text, else whole JSON with other values in it."""
    if chance.random() < 0.5:
        return damaged(content, others, chance)
    return json.dumps(changed(json.loads(content), chance)).encode()
