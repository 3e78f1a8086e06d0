"""kdzero-gp: evolves the distillation loss that suits a teacher, a student and their data."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kdzero_gp import threads  # noqa: F401  how torch's threads wait has to be said before torch is imported
from kdzero_gp.errors import KdzeroError
from kdzero_gp.version import __version__

if TYPE_CHECKING:
    from kdzero_gp.api.knowledge import knowledge
    from kdzero_gp.api.search import Run, evolve
    from kdzero_gp.api.suggest import suggest
    from kdzero_gp.api.training import compare, distill
    from kdzero_gp.compiler import Expression, canonical, check, digest, export, from_genotype, parse, source_of, zoo
    from kdzero_gp.compiler import compile_distiller as compile
    from primitives import CATALOGUE as catalogue

# Imported when it is asked for, since torch takes seconds: the help of a command needs none of it.
_LATE = {
    "Expression": "kdzero_gp.compiler",
    "Run": "kdzero_gp.api.search",
    "canonical": "kdzero_gp.compiler",
    "catalogue": "primitives:CATALOGUE",
    "check": "kdzero_gp.compiler",
    "compare": "kdzero_gp.api.training",
    "compile": "kdzero_gp.compiler:compile_distiller",
    "digest": "kdzero_gp.compiler",
    "distill": "kdzero_gp.api.training",
    "evolve": "kdzero_gp.api.search",
    "export": "kdzero_gp.compiler",
    "from_genotype": "kdzero_gp.compiler",
    "knowledge": "kdzero_gp.api.knowledge",
    "parse": "kdzero_gp.compiler",
    "source_of": "kdzero_gp.compiler",
    "suggest": "kdzero_gp.api.suggest",
    "zoo": "kdzero_gp.compiler",
}
_PARTS = ("compiler", "models", "tasks", "training")

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
    if name in _PARTS:
        return import_module(f"kdzero_gp.{name}")
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, other = _LATE[name].partition(":")
    found = getattr(import_module(module), other or name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PARTS})
