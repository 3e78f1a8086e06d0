"""kdzero-gp: evolves the distillation loss that suits a teacher, a student and their data."""

from typing import TYPE_CHECKING, Any

from kdzero_gp import threads  # noqa: F401  how torch's threads wait has to be said before torch is imported

# isort: split
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
from kdzero_gp.version import __version__
from primitives import CATALOGUE as catalogue

if TYPE_CHECKING:
    from kdzero_gp.analysis.run import Run


__all__ = [
    "Expression",
    "KdzeroError",
    "Run",
    "__version__",
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


def __getattr__(name: str) -> Any:
    if name == "Run":  # late, since it needs the whole tool
        from kdzero_gp.analysis.run import Run

        return Run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
