"""Training for real: a network alone, a student with a distiller, several distillers compared fairly."""

from kdzero_gp.training.pair import PairDescription, describe_pair
from kdzero_gp.training.recipe import TrainingRecipe, load_recipe

__all__ = [
    "PairDescription",
    "TrainingRecipe",
    "describe_pair",
    "load_recipe",
]
