"""kdzero-gp: evolves the distillation loss that suits a teacher, a student and their data."""

from importlib import import_module
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
    from kdzero_gp.api.knowledge import knowledge
    from kdzero_gp.api.search import Run, evolve
    from kdzero_gp.api.suggest import suggest
    from kdzero_gp.api.training import compare, distill

# What needs the whole tool is imported when it is asked for.
_LATE = {
    "Run": "search",
    "compare": "training",
    "distill": "training",
    "evolve": "search",
    "knowledge": "knowledge",
    "suggest": "suggest",
}

__all__ = [
    "Expression",
    "KdzeroError",
    "Run",
    "__version__",
    "canonical",
    "catalogue",
    "check",
    "compare",
    "compile",
    "digest",
    "distill",
    "evolve",
    "export",
    "from_genotype",
    "knowledge",
    "parse",
    "source_of",
    "suggest",
    "zoo",
]


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return getattr(import_module(f"kdzero_gp.api.{_LATE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
