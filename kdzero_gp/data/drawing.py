"""Randomness of other people's code, which draws from global generators."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def drawing_from(seed: int) -> Iterator[None]:
    """Python's, numpy's and torch's generators seeded, and afterwards as before."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        torch.default_generator.manual_seed(seed)  # torch.manual_seed takes long, since it asks all devices
        random.seed(seed)
        np.random.seed(seed % (1 << 32))
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
