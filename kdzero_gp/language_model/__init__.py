"""A language model that proposes distillers: its endpoint, the grammar of its answers, and how they are read."""

from kdzero_gp.language_model.answers import Reading, read_answer
from kdzero_gp.language_model.endpoint import Endpoint, Reply
from kdzero_gp.language_model.gbnf import gbnf

__all__ = ["Endpoint", "Reading", "Reply", "gbnf", "read_answer"]
