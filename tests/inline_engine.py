"""Workers that are no processes: for tests of what a run does, not of where it is computed.

A process of its own costs some five seconds of imports; that processes give the same run is shown by test_runs,
test_workers and test_users.
"""

import contextlib
import sys
from pathlib import Path

import pytest
import torch

from kdzero_gp import objects
from kdzero_gp.engine.machine import computing_as

sys.path.append(str(Path(__file__).parent.parent / "experiments" / "scaling"))
from in_process import InProcess


class InlineEngine(InProcess):
    """The studies' engine in this process; objects take the way that they take to processes."""

    def __init__(self, setup, arguments=()):
        super().__init__(setup, arguments)
        path = objects.packed()
        if path is not None:
            objects.unpack(path)
            path.unlink()


@contextlib.contextmanager
def inline():
    """For a while, local workers compute in this process, which keeps its number of threads."""
    with computing_as(torch.get_num_threads()), pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdzero_gp.workers.crew.LocalEngine", InlineEngine)
        yield
