"""What stands before a term: the number of the exported file, and the relative magnitude that it comes from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kdzero_gp.compiler.expression import Expression, terms

# Numbers that were measured are shown in so many digits; a file has six.
DIGITS = 4


@dataclass(frozen=True)
class Factor:
    """``number``: what the loss is multiplied with; ``relative``: its gradient in units of the cross-entropy's, None
    where the number is no measured one."""

    number: float
    relative: float | None = None

    @property
    def text(self) -> str:
        """The number as it is shown.

        >>> Factor(1477620.0, 2.0).text, Factor(2.80123, 10.0).text, Factor(0.01).text
        ('1.478e+06', '2.801', '0.01')
        """
        return f"{self.number:g}" if self.relative is None else f"{self.number:.{DIGITS}g}"

    @property
    def latex(self) -> str:
        r"""The number in a formula.

        >>> Factor(1477620.0, 2.0).latex
        '1.478 \\times 10^{6}'
        """
        digits, _, exponent = self.text.partition("e")
        return rf"{digits} \times 10^{{{int(exponent)}}}" if exponent else digits


def factors_of(expression: Expression, numbers: Sequence[float] = ()) -> list[Factor]:
    """The factor of each term; ``numbers`` are those of the exported file, () where there is none."""
    written = [float(term.arguments[1]) if term.name == "times" else 1.0 for term in terms(expression)]  # type: ignore[arg-type]
    if len(numbers) != len(written):
        return [Factor(number) for number in written]
    return [
        Factor(own) if math.isclose(own, number, rel_tol=1e-5) else Factor(number, own)
        for own, number in zip(written, numbers, strict=True)
    ]
