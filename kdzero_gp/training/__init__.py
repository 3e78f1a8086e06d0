"""Training for real: a network alone, a student with a distiller, several distillers compared fairly."""

from kdzero_gp.training.api import Pair, distill, train
from kdzero_gp.training.compare import Comparison, compare
from kdzero_gp.training.distillers import Distiller, Found
from kdzero_gp.training.machine import Machine
from kdzero_gp.training.pair import PairDescription, describe_pair
from kdzero_gp.training.recipe import TrainingRecipe, load_recipe
from kdzero_gp.training.settings import Result

__all__ = [
    "Comparison",
    "Distiller",
    "Found",
    "Machine",
    "Pair",
    "PairDescription",
    "Result",
    "TrainingRecipe",
    "compare",
    "describe_pair",
    "distill",
    "load_recipe",
    "train",
]
