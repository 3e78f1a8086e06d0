"""A language model that proposes distillers: its endpoint, the grammar of its answers, how they are read and kept, and
the proposer of a search."""

from kdzero_gp.language_model.answers import ReadAnswer, read_answer
from kdzero_gp.language_model.endpoint import Endpoint, Reply
from kdzero_gp.language_model.gbnf import gbnf
from kdzero_gp.language_model.settings import ModelSettings

__all__ = ["Endpoint", "ModelSettings", "ReadAnswer", "Reply", "gbnf", "read_answer"]
