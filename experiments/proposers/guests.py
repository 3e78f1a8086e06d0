"""The control arms: sources of births that need no language model, asked as often as one."""

from random import Random

from kdzero_gp.compiler import digest, parse
from kdzero_gp.evolution import Grammar, Slot
from kdzero_gp.evolution.search import NEW_HEIGHT, TRIES
from kdzero_gp.evolution.variation import within_limits
from primitives import LOSS

# The generator is fitted to so many of the fittest; what none of them has keeps this much of one count.
SURVIVORS, RARE = 20, 0.02


class _Guest:
    """A guest that draws distillers from a generator of its own until one is new."""

    name = "model"

    def __init__(self, grammar: Grammar, share: float, seed: int):
        self.grammar, self.share, self.seed = grammar, share, seed
        # as a language model's proposer has it, for `kdzero-gp show`
        self.account = {"births": 0, "born": 0, "calls": 0, "tokens": 0, "usd": 0.0, "useless": {}, "stopped": ""}

    def settled(self, operator, expression, fitness, reason, equivalent):
        """Hear of a judged birth."""

    def draw(self, random):
        """The nodes of a tree."""
        raise NotImplementedError

    def propose(self, birth, known):
        """A new distiller within the limits, if one is drawn in a few tries."""
        random = Random(f"{self.seed}/{birth}/guest")
        for _ in range(TRIES):
            simplest = within_limits(self.grammar.to_expression(self.draw(random)), self.grammar)
            if simplest is not None and digest(simplest) not in known:
                self.account = self.account | {"born": self.account["born"] + 1}
                return simplest, ()
        return None


class FreshTrees(_Guest):
    """Random trees, as the first population has them."""

    name = "fresh"

    def draw(self, random):
        return self.grammar.grow(Slot(LOSS), NEW_HEIGHT, random)


class FittedGrammar(_Guest):
    """A probabilistic grammar over the rules of the space, fitted to the run's fittest: how often each rule stands in
    them, plus a little for the others."""

    name = "generator"

    def __init__(self, grammar, share, seed):
        super().__init__(grammar, share, seed)
        self.best = []

    def settled(self, operator, expression, fitness, reason, equivalent):
        if fitness is not None and not equivalent:
            self.best = sorted([*self.best, (fitness, expression)])[:SURVIVORS]

    def draw(self, random):
        counts = {}
        for _, text in self.best:
            for node in self.grammar.to_nodes(parse(text, self.grammar.knowledge)):
                counts[node.name] = counts.get(node.name, 0) + 1
        return self._grown(Slot(LOSS), NEW_HEIGHT + 2, counts, random)

    def _grown(self, slot, height, counts, random):
        grammar = self.grammar
        fitting = [p for near in grammar.by_result.get(slot, {}).values() for p in near if self._height(p) <= height]
        options = [*grammar.terminals.get(slot, []), *fitting]
        if not options:
            return grammar.grow(slot, height, random)
        node = random.choices(options, [counts.get(option.name, 0) + RARE for option in options])[0]
        nodes = [node]
        for argument in getattr(node, "args", ()):
            nodes += self._grown(argument.slot, height - 1, counts, random)
        return nodes

    def _height(self, primitive):
        return 1 + max(self.grammar.heights[argument.slot] for argument in primitive.args)
