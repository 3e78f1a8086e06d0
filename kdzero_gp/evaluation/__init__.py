"""Proxy trainings: what scores a distiller. Knows source text, tensors and numbers; nothing of trees."""

from kdzero_gp.evaluation.bench import Bench, Part, outputs
from kdzero_gp.evaluation.fitness import FitnessWeights, fitness
from kdzero_gp.evaluation.proxy import Evaluator, Outcome, Request, measure_terms
from kdzero_gp.evaluation.recipe import Recipe
from kdzero_gp.evaluation.training import Precision, train

__all__ = [
    "Bench",
    "Evaluator",
    "FitnessWeights",
    "Outcome",
    "Part",
    "Precision",
    "Recipe",
    "Request",
    "fitness",
    "measure_terms",
    "outputs",
    "train",
]
