"""The catalogue of operations: pure functions on tensors that a distiller is built from.

Users reach everything here through ``kdzero_gp``.
"""

from primitives import calibrations, distances, elementwise, normalization, relations, spatial
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
    SAMPLE,
    SCALAR,
    TEMPERATURE,
    ConstantType,
    LossType,
    PairType,
    ValueType,
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
    "PAPER_CONSTANTS",
    "SAMPLE",
    "SCALAR",
    "TEMPERATURE",
    "TEMPERATURES",
    "Catalogue",
    "ConstantType",
    "DuplicateOperationError",
    "LossType",
    "Operation",
    "PairType",
    "ValueType",
    "calibrations",
    "distances",
    "elementwise",
    "normalization",
    "pairs",
    "relations",
    "spatial",
]
