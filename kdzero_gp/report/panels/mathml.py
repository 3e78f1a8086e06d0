r"""The formulas of ``draw.to_latex`` as MathML, which browsers set without a script or a font from elsewhere.

Only the part of LaTeX that ``draw.formula`` writes is known here; an unknown command stands as its name.
"""

from __future__ import annotations

import re
from html import escape

_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|[0-9]+(?:\.[0-9]+)?|\S")
_SYMBOLS = {
    "sigma": "σ", "varphi": "φ", "rho": "ρ", "delta": "δ", "cdot": "·", "times": "×", "odot": "⊙", "langle": "⟨",
    "rangle": "⟩", "|": "‖", "{": "{", "}": "}", "top": "⊤", "pm": "±", "setminus": "∖", "to": "→", "sum": "∑",
}  # fmt: skip
_IDENTIFIERS = ("sigma", "varphi", "rho", "delta", "top")
_FUNCTIONS = ("log", "cos", "max", "exp")
_SPACES = {",": "0.17em", " ": "0.3em", "quad": "1em"}
_LETTERS = {"mathbb": {"E": "𝔼"}, "mathcal": {"L": "ℒ"}}


def to_mathml(latex: str, kind: str = "") -> str:
    r"""A formula as a ``<math>`` element, of the class ``kind`` for the style sheet.

    >>> to_mathml(r"\mathcal{L} = z_T^{2}")
    '<math><mrow><mi>ℒ</mi><mo>=</mo><msubsup><mi>z</mi><mi>T</mi><mn>2</mn></msubsup></mrow></math>'
    """
    start = f'<math class="{kind}">' if kind else "<math>"
    return f"{start}{_Reader(latex).row()}</math>"


class _Reader:
    """Reads LaTeX from left to right."""

    def __init__(self, latex: str):
        self.tokens = _TOKEN.findall(latex)
        self.place = 0

    def peek(self) -> str:
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.place += 1
        return token

    def row(self, end: str = "") -> str:
        """Everything up to ``end``, which is taken too, as one row."""
        parts = []
        while self.peek() and self.peek() != end:
            parts.append(self.scripted())
        self.take()
        return f"<mrow>{''.join(parts)}</mrow>"

    def scripted(self) -> str:
        """An atom with what stands below and above it."""
        base = self.atom()
        scripts: dict[str, str] = {}
        while self.peek() in ("_", "^"):
            place = self.take()
            scripts[place] = self.group()
        if len(scripts) == 2:
            return f"<msubsup>{base}{scripts['_']}{scripts['^']}</msubsup>"
        if scripts:
            tag = "msub" if "_" in scripts else "msup"
            return f"<{tag}>{base}{next(iter(scripts.values()))}</{tag}>"
        return base

    def group(self) -> str:
        """An argument: braces, or one atom. A single element needs no row."""
        if self.peek() != "{":
            return self.atom()
        self.take()
        inner = self.row("}")
        content = inner.removeprefix("<mrow>").removesuffix("</mrow>")
        return content if re.fullmatch(r"<m[ion]>[^<]*</m[ion]>", content) else inner

    def words(self) -> str:
        """The plain letters of a braced argument."""
        self.take()
        found = ""
        while self.peek() and self.peek() != "}":
            found += self.take()
        self.take()
        return found

    def atom(self) -> str:
        token = self.take()
        if not token.startswith("\\"):
            return self.plain(token)
        name = token[1:]
        if name == "frac":
            upper, lower = self.group(), self.group()
            return f"<mfrac>{upper}{lower}</mfrac>"
        if name == "bar":
            return f'<mover>{self.group()}<mo stretchy="true">¯</mo></mover>'
        if name in ("mathrm", *_LETTERS):
            return self.letters(name)
        if name == "left":
            return self.fenced()
        if name in _SPACES:
            return f'<mspace width="{_SPACES[name]}"/>'
        if name in _SYMBOLS:
            tag = "mi" if name in _IDENTIFIERS else "mo"
            return f"<{tag}>{_SYMBOLS[name]}</{tag}>"
        return f'<mi mathvariant="normal">{escape(name)}</mi>'

    def letters(self, name: str) -> str:
        words = self.words()
        if name == "mathrm":
            return f'<mi mathvariant="normal">{escape(words)}</mi>'
        return f"<mi>{_LETTERS[name].get(words, escape(words))}</mi>"

    def plain(self, token: str) -> str:
        if token == "{":
            return self.row("}")
        if token[0].isdigit():
            return f"<mn>{token}</mn>"
        if token.isalpha():
            return f"<mi>{escape(token)}</mi>"
        return f"<mo>{escape('−' if token == '-' else token)}</mo>"

    def fenced(self) -> str:
        opening = self.fence()
        parts = []
        while self.peek() and self.peek() != "\\right":
            parts.append(self.scripted())
        self.take()
        return f"<mrow>{opening}{''.join(parts)}{self.fence()}</mrow>"

    def fence(self) -> str:
        token = self.take().removeprefix("\\")
        return f'<mo stretchy="true">{escape(_SYMBOLS.get(token, token))}</mo>'
