"""The proposer ``model``: distillers from a language model, as births of a search."""

from __future__ import annotations

import bisect
from collections import Counter, deque
from collections.abc import Callable, Collection
from typing import Any

from kdzero_gp.compiler import Expression, digest
from kdzero_gp.evolution import Grammar, Proposal
from kdzero_gp.language_model.answers import read_answer
from kdzero_gp.language_model.correspondence import Correspondence
from kdzero_gp.language_model.gbnf import breaks, gbnf
from kdzero_gp.language_model.prompting import Examples, Message, Prompts, Situation, plain_reason

# Distillers of one call, and of a prompt's examples.
PROPOSALS, EXAMPLES = 5, 5
# Tokens of an answer: an expression has some 30, the longest of the limits' size some 200.
MOST_TOKENS = 1000
SCHEMA = {
    "type": "object", "properties": {"distillers": {"type": "array", "items": {"type": "string"}}},
    "required": ["distillers"], "additionalProperties": False,
}  # fmt: skip
JSON_FORM = {"type": "json_schema", "json_schema": {"name": "distillers", "strict": True, "schema": SCHEMA}}


class ModelProposer:
    """Asks a model for five distillers at a time; each birth that the draw gives it takes the next one that is new.

    What it knows comes from births that were settled, in their order, so that the same prompts follow when a run is
    carried out again. ``useless`` counts what came to nothing, by reason; such a birth is bred as in a search without
    it. ``with_parents``: whether the prompt shows what the search has found.
    """

    name = "model"

    def __init__(
        self, grammar: Grammar, prompts: Prompts, correspondence: Correspondence, share: float, seed: int,
        with_parents: bool = True,
    ):  # fmt: skip
        self.grammar, self.prompts, self.correspondence = grammar, prompts, correspondence
        self.share, self.seed, self.with_parents = share, seed, with_parents
        self.gbnf = gbnf(grammar, prompts.count)
        self.useless: Counter[str] = Counter()
        # what a judge with the same model did: children, and those that were less fit
        self.judged: Counter[str] = Counter()
        self.asked_births = self.born = 0
        # whether a birth is settled already, so that its answer must be kept
        self.is_past: Callable[[int], bool] = lambda birth: False
        self.goal = ""
        self._waiting: deque[Expression] = deque()
        self._good: list[tuple[float, str]] = []
        self._worst: list[tuple[float, str]] = []
        self._turned_away: dict[str, str] = {}
        self._known: deque[str] = deque(maxlen=EXAMPLES)

    # --- births ---------------------------------------------------------------------------------------------

    def propose(self, birth: int, known: Collection[str]) -> Proposal | None:
        """The next new distiller; None where a call gives none."""
        self.asked_births += 1
        found = self._next(known)
        if found is None:
            self._waiting.extend(self.call(birth))
            found = self._next(known)
        self.born += found is not None
        return None if found is None else (found, ())

    def _next(self, known: Collection[str]) -> Expression | None:
        while self._waiting:
            expression = self._waiting.popleft()
            if digest(expression) not in known:
                return expression
            self.useless["known already"] += 1
            self._known.append(str(expression))
        return None

    def call(self, birth: int) -> list[Expression]:
        """The distillers of one call, or of a second one that quotes the parser's error where there are none."""
        asked = self.prompts.propose(self.situation if self.with_parents else Situation())
        options = self._options(birth)
        found, error, text = self._read(asked, options, birth)
        if not found and error:
            found, _, _ = self._read(self.prompts.repair(asked, text, error), options, birth)
        return found

    def _read(self, messages: list[Message], options: dict[str, Any], birth: int) -> tuple[list[Expression], str, str]:
        reply = self.correspondence.ask(messages, options, self.is_past(birth))
        if reply is None:
            return [], "", ""
        if reply.failure:
            self.useless[f"no answer: {reply.failure}"] += 1
            return [], "", ""
        reading = read_answer(reply.text, self.grammar)
        self.useless.update(reading.useless)
        if breaks(reply.text, reading):
            self.correspondence.refuse("grammar")
        return reading.distillers, reading.error, reply.text

    def _options(self, birth: int) -> dict[str, Any]:
        seed = (self.seed * 1_000_003 + birth) % 2**31
        return {"temperature": 1.0, "seed": seed, "max_tokens": MOST_TOKENS, "grammar": self.gbnf,
                "response_format": JSON_FORM}  # fmt: skip

    # --- what it has seen -----------------------------------------------------------------------------------

    @property
    def situation(self) -> Situation:
        """What the settled births say: the best, and those that were turned away, the latest of each reason, filled up
        with the worst of the trained."""
        good, worst = self.extremes
        bad = [(text, reason) for reason, text in reversed(self._turned_away.items())][:EXAMPLES]
        bad += [(text, f"fitness {fitness:.3f}") for fitness, text in reversed(worst)][: EXAMPLES - len(bad)]
        return Situation(tuple(good), tuple(bad), tuple(self._known), self.goal)

    @property
    def extremes(self) -> tuple[Examples, Examples]:
        """The best of the trained, and the worst that are not among them, with their fitness, the fittest first."""
        shown = {text for _, text in self._good}
        return tuple(self._good), [one for one in self._worst if one[1] not in shown]

    def settled(self, operator: str, expression: str, fitness: float | None, reason: str, equivalent: bool) -> None:
        """Hear of a birth that was judged: trained (a ``fitness``), turned away (a ``reason``), or the same distiller
        as an earlier one."""
        if equivalent:
            if operator == self.name:
                self._known.append(expression)
        elif fitness is not None:
            bisect.insort(self._good, (fitness, expression))
            del self._good[EXAMPLES:]
            bisect.insort(self._worst, (fitness, expression))
            del self._worst[:-EXAMPLES]
        elif reason:
            head = plain_reason(reason)
            self._turned_away.pop(head, None)
            self._turned_away[head] = expression

    # --- the account ----------------------------------------------------------------------------------------

    @property
    def account(self) -> dict[str, Any]:
        """What was asked, what came of it, what it cost, and why it was stopped."""
        return {
            "births": self.asked_births, "born": self.born, "useless": dict(sorted(self.useless.items())),
            "stopped": self.correspondence.stopped, **self.correspondence.used, **self.judged,
        }  # fmt: skip
