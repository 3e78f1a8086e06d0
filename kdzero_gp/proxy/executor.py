"""Evaluations in worker processes, one thread each, results in the order of the requests."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from kdzero_gp.proxy.evaluator import Evaluator, Outcome, Request, measure_terms
from kdzero_gp.proxy.screens import Fingerprints, Rejected
from kdzero_gp.proxy.students import student_builder
from kdzero_gp.proxy.task import ProxyTask
from kdzero_gp.workers.pool import Pool, TookTooLong, WorkerDied

# Gradient norms of a source that cannot be measured.
NO_GRADIENT: dict[str, Any] = {"terms": [], "total": 0.0}

# Gives a worker's evaluator for a recipe, which is made when it is first needed.
_evaluator_for: Any = None


class Executor:
    """A pool of workers on one proxy task.

    Every worker computes with one thread, so that a result does not depend on how many there are. A worker that
    takes longer than ``timeout`` seconds for one evaluation is killed and the evaluation rejected; one that dies
    (say, for lack of memory) is replaced and its evaluation tried once more.
    """

    def __init__(
        self, proxy_task: Path, workers: int, device: str = "cpu", timeout: float = 600.0,
        fingerprints: Path | None = None,
    ):  # fmt: skip
        self.timeout = timeout
        self._pool = Pool(workers, _start_worker, (proxy_task, device, fingerprints), timeout)

    def submit(self, request: Request) -> Callable[[], Outcome]:
        """Start one evaluation; the function it gives waits for the outcome."""
        future = self._pool.submit(_evaluate, request)
        return lambda: self._outcome(future, request)

    def map(self, requests: Sequence[Request]) -> Iterator[Outcome]:
        """The outcomes of ``requests``, each as soon as it and all before it are there."""
        futures = [self._pool.submit(_evaluate, request) for request in requests]
        try:
            for request, future in zip(requests, futures, strict=True):
                yield self._outcome(future, request)
        finally:
            for future in futures:
                future.cancel()

    def term_norms(self, sources: Sequence[str]) -> list[dict[str, Any]]:
        """The relative gradient norms of each source's terms; a total of 0 where a source has no usable gradient."""
        return [self._norms(future) for future in [self._pool.submit(_measure_terms, source) for source in sources]]

    def _norms(self, future: Any) -> dict[str, Any]:
        try:
            return self._pool.result(future)  # type: ignore[no-any-return]
        except (TookTooLong, WorkerDied):
            return dict(NO_GRADIENT)

    def _outcome(self, future: Any, request: Request, again: bool = True) -> Outcome:
        try:
            return self._pool.result(future)  # type: ignore[no-any-return]
        except TookTooLong as error:
            return Outcome(reason=str(error), seconds=self.timeout)
        except WorkerDied as error:
            if again:
                return self._outcome(self._pool.submit(_evaluate, request), request, again=False)
            return Outcome(reason=f"the worker process died twice ({error})")

    def close(self) -> None:
        """Stop the workers at once."""
        self._pool.close()

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _start_worker(path: Path, device: str, fingerprints: Path | None) -> None:
    """Load the proxy task once per process."""
    torch.set_num_threads(1)
    # equal requests give equal bits on a GPU too
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    loaded = ProxyTask.load(path)

    @functools.cache
    def evaluator(whole: bool) -> Evaluator:
        used = loaded.of("race" if whole else "proxy")
        build = student_builder(used.student, used.train.images[:2])
        return Evaluator(used, build, device, Fingerprints(fingerprints) if fingerprints else None)

    global _evaluator_for
    # without maps both recipes train the same student on the same images
    _evaluator_for = lambda recipe: evaluator(recipe == "race" or not loaded.maps)  # noqa: E731


def _evaluate(request: Request) -> Outcome:
    return _evaluator_for(request.recipe)(request)  # type: ignore[no-any-return]


def _measure_terms(source: str) -> dict[str, Any]:
    try:
        return measure_terms(_evaluator_for("proxy"), source)
    except (Rejected, RuntimeError, ValueError, ArithmeticError, MemoryError):
        return dict(NO_GRADIENT)
