"""Evolution of distillers with DEAP: grammar, variation, aging, search."""

from kdzero_gp.evolution.grammar import SPACES, Grammar, Limits, Slot
from kdzero_gp.evolution.individual import Birth, Score
from kdzero_gp.evolution.search import Generation, Guest, Proposal, Proposer, Search
from kdzero_gp.evolution.selection import nondominated
from kdzero_gp.evolution.settings import SearchSettings

__all__ = [
    "SPACES",
    "Birth",
    "Generation",
    "Grammar",
    "Guest",
    "Limits",
    "Proposal",
    "Proposer",
    "Score",
    "Search",
    "SearchSettings",
    "Slot",
    "nondominated",
]
