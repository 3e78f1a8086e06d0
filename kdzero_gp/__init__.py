"""kdzero-gp: evolves the distillation loss that suits a teacher, a student and their data."""

from kdzero_gp.compiler import (
    Expression,
    canonical,
    check,
    digest,
    export,
    from_genotype,
    parse,
    source_of,
    zoo,
)
from kdzero_gp.compiler import compile_distiller as compile
from kdzero_gp.errors import KdzeroError
from primitives import CATALOGUE as catalogue

__version__ = "0.1.0"

__all__ = [
    "Expression",
    "KdzeroError",
    "canonical",
    "catalogue",
    "check",
    "compile",
    "digest",
    "export",
    "from_genotype",
    "parse",
    "source_of",
    "zoo",
]
