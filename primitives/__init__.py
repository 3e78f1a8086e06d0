"""The catalogue of operations: pure functions on tensors that a distiller is built from.

Users reach everything here through ``kdzero_gp``.
"""

from primitives import calibrations, distances, elementwise, normalization, places, relations, spatial
from primitives.declaration import (
    CATALOGUE,
    CONSTANTS,
    MAGNITUDES,
    PAPER_CONSTANTS,
    TEMPERATURES,
    Catalogue,
    DuplicateOperationError,
    Operation,
)
from primitives.types import (
    BATCH,
    LOGITS,
    LOSS,
    MAGNITUDE,
    MAP_LOGITS,
    PLACE,
    SAMPLE,
    SCALAR,
    TEMPERATURE,
    WEIGHT,
    ConstantType,
    LossType,
    PairType,
    ValueType,
    WeightType,
    pairs,
)

__all__ = [
    "BATCH",
    "CATALOGUE",
    "CONSTANTS",
    "LOGITS",
    "LOSS",
    "MAGNITUDE",
    "MAGNITUDES",
    "MAP_LOGITS",
    "PAPER_CONSTANTS",
    "PLACE",
    "SAMPLE",
    "SCALAR",
    "TEMPERATURE",
    "TEMPERATURES",
    "WEIGHT",
    "Catalogue",
    "ConstantType",
    "DuplicateOperationError",
    "LossType",
    "Operation",
    "PairType",
    "ValueType",
    "WeightType",
    "calibrations",
    "distances",
    "elementwise",
    "normalization",
    "pairs",
    "places",
    "relations",
    "spatial",
]
