"""Requests answered in worker processes, one thread each; answers are taken as they arrive."""

from __future__ import annotations

import functools
import queue
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from kdzero_gp.proxy.evaluator import Answer, Evaluator, Request
from kdzero_gp.proxy.students import student_builder
from kdzero_gp.proxy.task import ProxyTask
from kdzero_gp.workers.pool import Pool, TookTooLong, WorkerDied

# Gives a worker's evaluator for a recipe, which is made when it is first needed.
_evaluator_for: Any = None


class Executor:
    """A pool of workers on one proxy task.

    Every worker computes with one thread, so that a result does not depend on how many there are. A worker that
    takes longer than ``timeout`` seconds for one request is killed and the request fails; one that dies (say, for lack
    of memory) is replaced and its request tried once more.
    """

    def __init__(self, proxy_task: Path, workers: int, device: str = "cpu", timeout: float = 600.0):
        self.timeout = timeout
        self._pool = Pool(workers, _start_worker, (proxy_task, device), timeout)
        self._arrivals: queue.SimpleQueue[tuple[Any, Request, bool, Any]] = queue.SimpleQueue()

    def submit(self, key: Any, request: Request, again: bool = True) -> None:
        """Ask for an answer, which arrives under this ``key``."""
        future = self._pool.submit(_answer, request)
        future.add_done_callback(lambda done: self._arrivals.put((key, request, again, done)))

    def arrived(self, wait: bool = True) -> tuple[Any, Answer] | None:
        """The next answer and its key, in the order in which they are found; None where none is there and nobody
        waits."""
        while True:
            try:
                key, request, again, future = self._arrivals.get(block=wait)
            except queue.Empty:
                return None
            try:
                return key, self._pool.result(future)
            except TookTooLong as error:
                return key, request.failed(str(error), self.timeout)
            except WorkerDied as error:
                if not again:
                    return key, request.failed(f"the worker process died twice ({error})")
                self.submit(key, request, again=False)

    def map(self, requests: Sequence[Request]) -> Iterator[tuple[int, Any]]:
        """The answers to ``requests`` with their places there, as they arrive."""
        for place, request in enumerate(requests):
            self.submit(place, request)
        for _ in requests:
            arrival = self.arrived()
            assert arrival is not None
            yield arrival

    def close(self) -> None:
        """Stop the workers at once."""
        self._pool.close()

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _start_worker(path: Path, device: str) -> None:
    """Load the proxy task once per process."""
    torch.set_num_threads(1)
    # equal requests give equal bits on a GPU too
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    loaded = ProxyTask.load(path)

    @functools.cache
    def evaluator(whole: bool) -> Evaluator:
        used = loaded.of("race" if whole else "proxy")
        return Evaluator(used, student_builder(used.student, used.train.images[:2]), device)

    global _evaluator_for
    # without maps both recipes train the same student on the same images
    _evaluator_for = lambda recipe: evaluator(recipe == "race" or not loaded.maps)  # noqa: E731


def _answer(request: Request) -> Answer:
    return _evaluator_for(getattr(request, "recipe", "proxy"))(request)  # type: ignore[no-any-return]
