"""What users call: ``evolve``, ``distill``, ``compare`` and ``knowledge``, by names or with objects of their own. The
commands are the same functions."""
