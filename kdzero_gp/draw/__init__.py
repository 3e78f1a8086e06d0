"""Distillers to look at: as a graph, a picture, a formula and a sentence.

>>> from kdzero_gp.compiler import zoo
>>> describe(zoo["mse"])
"Matches the teacher's logits by mean squared difference, averaged over the batch, with magnitude 1."
"""

from kdzero_gp.draw.diagrams import to_dot, to_mermaid
from kdzero_gp.draw.formula import to_latex
from kdzero_gp.draw.graphs import graph
from kdzero_gp.draw.render import to_pdf, to_png, to_svg
from kdzero_gp.draw.save import SUFFIXES, write
from kdzero_gp.draw.sentence import bullets, clauses, describe

__all__ = [
    "SUFFIXES",
    "bullets",
    "clauses",
    "describe",
    "graph",
    "to_dot",
    "to_latex",
    "to_mermaid",
    "to_pdf",
    "to_png",
    "to_svg",
    "write",
]
