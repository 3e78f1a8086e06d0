"""Evolution of distillers with DEAP: grammar, variation, aging, search."""

from kdzero_gp.evolution.clock import SCREENED, Pending
from kdzero_gp.evolution.grammar import SPACES, Grammar, Limits, Slot
from kdzero_gp.evolution.individual import Birth, Score
from kdzero_gp.evolution.search import Generation, Guest, Proposal, Proposer, Search
from kdzero_gp.evolution.selection import nondominated
from kdzero_gp.evolution.settings import SearchSettings

__all__ = [
    "SCREENED",
    "SPACES",
    "Birth",
    "Generation",
    "Grammar",
    "Guest",
    "Limits",
    "Pending",
    "Proposal",
    "Proposer",
    "Score",
    "Search",
    "SearchSettings",
    "Slot",
    "nondominated",
]
