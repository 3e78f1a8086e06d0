"""Workers that are no processes: for tests of what a run does, not of where it is computed.

A process of its own costs some five seconds of imports; that processes give the same run is shown by test_runs,
test_workers and test_users.
"""

import contextlib

import pytest
import torch

from kdzero_gp import objects
from kdzero_gp.engine.machine import computing_as
from kdzero_gp.workers.engine import Event, News, answered


class InlineEngine:
    """The workers' interface, in this process; objects take the way that they take to processes."""

    def __init__(self, setup, arguments=()):
        self.setup, self.arguments, self.news = setup, arguments, []
        path = objects.packed()
        if path is not None:
            objects.unpack(path)
            path.unlink()

    def start(self, worker):
        self.answer = self.setup(*self.arguments, worker=worker)
        self.news.append(Event(worker, News.READY))

    def send(self, worker, request):
        self.news.append(Event(worker, *answered(self.answer, request)))

    def events(self, seconds):
        news, self.news = self.news, []
        return news

    def silent(self, worker):
        return False

    def place(self, worker):
        return "here"

    def close(self):
        pass


@contextlib.contextmanager
def inline():
    """For a while, local workers compute in this process, which keeps its number of threads."""
    with computing_as(torch.get_num_threads()), pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdzero_gp.workers.crew.LocalEngine", InlineEngine)
        yield
