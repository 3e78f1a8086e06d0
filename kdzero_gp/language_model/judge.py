"""The judge ``model``: which of two distillers is fitter, as a language model says before their training (ρ of the
paper's Algorithm 1)."""

from __future__ import annotations

import re

from kdzero_gp.language_model.prompting import compare
from kdzero_gp.language_model.proposer import ModelProposer

# How a comparison is asked for: a single letter.
OPTIONS = {"temperature": 0.0, "max_tokens": 2, "grammar": 'root ::= "A" | "B"'}
_LETTER = re.compile(r"\W*([AB])\b")


def chosen(text: str) -> int | None:
    """Which of two an answer names, 0 or 1; None where it names neither.

    >>> chosen("B"), chosen("**A**."), chosen("Both are fine")
    (1, 0, None)
    """
    letter = _LETTER.match(text)
    return None if letter is None else "AB".index(letter[1])


class ModelJudge:
    """Asks the model of a ``proposer``, within its budget and with what it has seen: the best and the worst that were
    trained. The proposer's account counts the children that were judged, and those that were found less fit."""

    def __init__(self, proposer: ModelProposer):
        self.proposer = proposer

    def __call__(self, birth: int, child: str, rival: str) -> bool:
        """Whether a child is less fit than a rival: it has to be said in both orders, so that nothing but a plain no
        takes a child away. The second order is asked only where the first says no."""
        self.proposer.judged["judged"] += 1
        less_fit = self._says(birth, (child, rival)) == 1 and self._says(birth, (rival, child)) == 0
        self.proposer.judged["less_fit"] += less_fit
        return less_fit

    def _says(self, birth: int, pair: tuple[str, str]) -> int | None:
        proposer = self.proposer
        messages = compare(*proposer.extremes, *pair)
        reply = proposer.correspondence.ask(messages, OPTIONS, proposer.is_past(birth))
        if reply is None:
            return None
        found = chosen(reply.text)
        if found is None:
            proposer.useless[f"no answer: {reply.failure}" if reply.failure else "neither A nor B"] += 1
        return found
