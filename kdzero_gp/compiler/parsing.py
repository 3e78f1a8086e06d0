"""The strict parser. It evaluates nothing: text is split into names, numbers and punctuation, and anything that is
not a call of a known operation gives one error with its position."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from kdzero_gp.compiler.checking import KnowledgeTypes, check, check_arity, constant_type, is_knowledge, type_of
from kdzero_gp.compiler.expression import Expression
from kdzero_gp.errors import ExpressionError
from primitives import CATALOGUE

MAX_CHARACTERS = 20_000
MAX_DEPTH = 64
MAX_NODES = 1_000

_BLANKS = " \t\r\n"
_TOKEN = re.compile(
    r"[ \t\r\n]*(?:(?P<name>[A-Za-z_][A-Za-z_0-9]*)|(?P<number>\d+(?:\.\d+)?)|(?P<mark>[(),]))", re.ASCII
)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    position: int


def _tokens(text: str) -> Iterator[_Token]:
    position = 0
    end = len(text.rstrip(_BLANKS))
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None:
            position += len(text[position:]) - len(text[position:].lstrip(_BLANKS))
            raise ExpressionError(f"unexpected character {text[position]!r}", position)
        kind = str(match.lastgroup)
        yield _Token(kind, match[kind], match.start(kind))
        position = match.end()
    while True:
        yield _Token("end", "", end)


class _Parser:
    def __init__(self, text: str, knowledge: KnowledgeTypes | None):
        self.tokens = _tokens(text)
        self.ahead = next(self.tokens)
        self.knowledge = knowledge
        self.nodes = 0

    def next(self) -> _Token:
        token, self.ahead = self.ahead, next(self.tokens)
        return token

    def expect(self, mark: str) -> None:
        token = self.next()
        if token.text != mark or token.kind != "mark":
            raise ExpressionError(f"expected {mark!r}, got {_shown(token)}", token.position)

    def call(self, depth: int) -> Expression:
        token = self.next()
        if token.kind != "name":
            raise ExpressionError(f"expected the name of an operation, got {_shown(token)}", token.position)
        if token.text not in CATALOGUE and not is_knowledge(token.text, self.knowledge):
            suggestion = _suggestion(token.text, self.knowledge)
            raise ExpressionError(f"unknown operation {_short(token.text)}{suggestion}", token.position)
        if depth > MAX_DEPTH:
            raise ExpressionError(f"nested deeper than {MAX_DEPTH} calls", token.position)
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise ExpressionError(f"more than {MAX_NODES} operations", token.position)
        if token.text in CATALOGUE:
            node = Expression(token.text, self.arguments(token, depth))
        else:
            node = Expression(token.text)
        try:
            type_of(node, self.knowledge)
        except ExpressionError as error:
            raise _at(error, token.position) from None
        return node

    def arguments(self, caller: _Token, depth: int) -> tuple[Expression | float, ...]:
        operation = CATALOGUE[caller.text]
        self.expect("(")
        arguments: list[Expression | float] = []
        while True:
            token = self.ahead
            if token.kind == "number":
                value = float(self.next().text)
                try:
                    constant_type(operation, min(len(arguments), operation.arity - 1), value)
                except ExpressionError as error:
                    raise _at(error, token.position) from None
                arguments.append(value)
            else:
                arguments.append(self.call(depth + 1))
            following = self.next()
            if following.text == ")":
                break
            if following.text != ",":
                raise ExpressionError(f"expected ',' or ')', got {_shown(following)}", following.position)
        try:
            check_arity(operation, len(arguments))
        except ExpressionError as error:
            raise _at(error, caller.position) from None
        return tuple(arguments)


def _at(error: ExpressionError, position: int) -> ExpressionError:
    """The same error with a position, unless it has one."""
    return error if error.position is not None else type(error)(str(error), position)


def _shown(token: _Token) -> str:
    return repr(token.text) if token.text else "the end of the text"


def _short(name: str) -> str:
    return repr(name if len(name) <= 40 else name[:37] + "...")


def _suggestion(name: str, knowledge: KnowledgeTypes | None) -> str:
    names = [operation.name for operation in CATALOGUE] + list(knowledge or ("logits", "emb", "feat"))
    close = difflib.get_close_matches(name[:40], names, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def parse(text: str, knowledge: KnowledgeTypes | None = None) -> Expression:
    """Read a distiller such as ``times(no(kl(softmax_C(logits, 4))), 1)``.

    Raises ``ExpressionError`` (its ``position`` is an offset into ``text``) for anything but a well-typed distiller
    of at most 20,000 characters, 64 levels and 1,000 operations. Takes milliseconds for any text and runs nothing.

    >>> str(parse("times( no(l2(logits)),1.0 )"))
    'times(no(l2(logits)), 1)'
    """
    if not isinstance(text, str):
        raise ExpressionError(f"a distiller is a text, got {type(text).__name__}", 0)
    if len(text) > MAX_CHARACTERS:
        raise ExpressionError(f"longer than {MAX_CHARACTERS} characters", MAX_CHARACTERS)
    parser = _Parser(text, knowledge)
    root = parser.call(1)
    left = parser.next()
    if left.kind != "end":
        raise ExpressionError(f"unexpected {left.text!r} after the end of the distiller", left.position)
    try:
        check(root, knowledge)
    except ExpressionError as error:
        raise _at(error, 0) from None
    return root
