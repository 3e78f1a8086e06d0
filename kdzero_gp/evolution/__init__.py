"""Evolution of distillers with DEAP: grammar, variation, aging, search."""

from kdzero_gp.evolution.grammar import SPACES, Grammar, Limits, Slot
from kdzero_gp.evolution.search import Birth, Generation, Search, SearchSettings, Verdict

__all__ = [
    "SPACES",
    "Birth",
    "Generation",
    "Grammar",
    "Limits",
    "Search",
    "SearchSettings",
    "Slot",
    "Verdict",
]
