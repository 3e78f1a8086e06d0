"""Training for real: a network alone, a student with a distiller, several distillers compared fairly."""

from kdzero_gp.engine.machine import Machine
from kdzero_gp.engine.recipe import Recipe, load_recipe
from kdzero_gp.training.api import Pair, distill, train
from kdzero_gp.training.compare import Comparison, compare
from kdzero_gp.training.distillers import Distiller, NamedDistiller
from kdzero_gp.training.pair import PairDescription, describe_pair
from kdzero_gp.training.settings import TrainingResult

__all__ = [
    "Comparison",
    "Distiller",
    "NamedDistiller",
    "Machine",
    "Pair",
    "PairDescription",
    "TrainingResult",
    "Recipe",
    "compare",
    "describe_pair",
    "distill",
    "load_recipe",
    "train",
]
