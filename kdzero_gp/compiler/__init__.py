"""The language of distillers and its compiler: text ⇄ typed tree → steps → Python source → torch module."""

from kdzero_gp.compiler.canonical import canonical, digest
from kdzero_gp.compiler.checking import check, fits, is_knowledge, may_be_negative, type_of
from kdzero_gp.compiler.expression import Expression, summed, terms
from kdzero_gp.compiler.genotype import from_genotype
from kdzero_gp.compiler.knowledge import CLASSIFICATION_KNOWLEDGE, KnowledgeSpec
from kdzero_gp.compiler.loading import (
    NEGATIVE,
    DistillerModule,
    compile_distiller,
    export,
    load_source,
    source_of,
)
from kdzero_gp.compiler.parsing import parse
from kdzero_gp.compiler.shapes import PairShapes, pair_shapes
from kdzero_gp.compiler.zoo import Zoo, ZooEntry, zoo

__all__ = [
    "CLASSIFICATION_KNOWLEDGE",
    "DistillerModule",
    "Expression",
    "NEGATIVE",
    "KnowledgeSpec",
    "PairShapes",
    "Zoo",
    "ZooEntry",
    "canonical",
    "check",
    "compile_distiller",
    "digest",
    "export",
    "fits",
    "from_genotype",
    "is_knowledge",
    "load_source",
    "may_be_negative",
    "pair_shapes",
    "parse",
    "source_of",
    "summed",
    "terms",
    "type_of",
    "zoo",
]
