"""Proxy trainings: what scores a distiller. Knows source text, tensors and numbers; nothing of trees."""

from kdzero_gp.evaluation.bench import Bench, Part, Precision, outputs
from kdzero_gp.evaluation.fitness import FitnessWeights, fitness
from kdzero_gp.evaluation.proxy import Evaluator, Outcome, Request, Screening, measure_terms
from kdzero_gp.evaluation.recipe import Recipe
from kdzero_gp.evaluation.screens import SCREENS, Fingerprints
from kdzero_gp.evaluation.training import train

__all__ = [
    "SCREENS",
    "Bench",
    "Evaluator",
    "Fingerprints",
    "FitnessWeights",
    "Outcome",
    "Part",
    "Precision",
    "Recipe",
    "Request",
    "Screening",
    "fitness",
    "measure_terms",
    "outputs",
    "train",
]
