"""Evaluations in worker processes of their own: killable, one thread each, results in the order of the requests."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, resource_tracker
from pathlib import Path
from typing import Any

from pebble import ProcessExpired, ProcessPool

from kdzero_gp.errors import RunError
from kdzero_gp.proxy.evaluator import Outcome, Request

# Gradient norms of a source that cannot be measured.
NO_GRADIENT: dict[str, Any] = {"terms": [], "total": 0.0}

# Gives a worker's evaluator for a recipe, which is made when it is first needed.
_evaluator_for: Any = None


class Executor:
    """A pool of workers on one bench file.

    Every worker computes with one thread, so that a result does not depend on how many there are. A worker that
    takes longer than ``timeout`` seconds for one evaluation is killed and the evaluation rejected; one that dies
    (say, for lack of memory) is replaced and its evaluation tried once more.
    """

    def __init__(
        self,
        bench: Path,
        workers: int,
        device: str = "cpu",
        timeout: float = 600.0,
        fingerprints: Path | None = None,
    ):
        self.timeout = timeout
        self._pool = ProcessPool(
            max_workers=workers,
            initializer=_start_worker,
            initargs=(bench, device, os.getpid(), fingerprints),
            context=get_context("spawn"),
        )

    def submit(self, request: Request) -> Callable[[], Outcome]:
        """Start one evaluation; the function it gives waits for the outcome."""
        future = self._schedule(_evaluate, request)
        return lambda: self._outcome(future, request)

    def map(self, requests: Sequence[Request]) -> Iterator[Outcome]:
        """The outcomes of ``requests``, each as soon as it and all before it are there."""
        futures = [self._schedule(_evaluate, request) for request in requests]
        try:
            for request, future in zip(requests, futures, strict=True):
                yield self._outcome(future, request)
        finally:
            for future in futures:
                future.cancel()

    def term_norms(self, sources: Sequence[str]) -> list[dict[str, Any]]:
        """The relative gradient norms of each source's terms; a total of 0 where a source has no usable gradient."""
        return [self._norms(future) for future in [self._schedule(_measure_terms, source) for source in sources]]

    def _norms(self, future: Any) -> dict[str, Any]:
        try:
            return future.result()  # type: ignore[no-any-return]
        except (TimeoutError, FutureTimeoutError, ProcessExpired):
            return dict(NO_GRADIENT)
        except BrokenProcessPool:
            raise _broken() from None

    def _schedule(self, function: Any, argument: Any) -> Any:
        try:
            with _interrupts_held():
                return self._pool.schedule(function, args=(argument,), timeout=self.timeout)
        except RuntimeError:
            raise _broken() from None

    def _outcome(self, future: Any, request: Request, again: bool = True) -> Outcome:
        try:
            return future.result()
        except (TimeoutError, FutureTimeoutError):
            return Outcome(reason=f"took longer than {self.timeout:g} s", seconds=self.timeout)
        except ProcessExpired as expired:
            if again:
                return self._outcome(self._schedule(_evaluate, request), request, again=False)
            return Outcome(reason=f"the worker process died twice (exit code {expired.exitcode})")
        except BrokenProcessPool:
            raise _broken() from None

    def close(self) -> None:
        """Stop the workers at once."""
        with contextlib.suppress(Exception):
            self._pool.stop()
            self._pool.join(timeout=10)

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _broken() -> RunError:
    return RunError(
        "the worker processes die before they begin, perhaps for lack of memory; free some, then resume with fewer "
        "--workers"
    )


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back for a moment. The pool's threads and processes that start meanwhile inherit that and never
    see it, not even while they import torch; it is the parent's business."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # when it starts it lets SIGINT through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(bench: Path, device: str, parent: int, fingerprints: Path | None) -> None:
    """Load the bench once per process. Ctrl-C is the parent's business; without a parent there is nothing to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()
    import torch

    from kdzero_gp.proxy.students import student_builder
    from kdzero_gp.proxy.evaluator import Evaluator
    from kdzero_gp.proxy.screens import Fingerprints
    from kdzero_gp.proxy.task import ProxyTask

    torch.set_num_threads(1)
    loaded = ProxyTask.load(bench)

    @functools.cache
    def evaluator(whole: bool) -> Evaluator:
        used = loaded.of("race" if whole else "proxy")
        build = student_builder(used.student, used.train.images[:2])
        return Evaluator(used, build, device, Fingerprints(fingerprints) if fingerprints else None)

    global _evaluator_for
    # without maps both recipes train the same student on the same images
    _evaluator_for = lambda recipe: evaluator(recipe == "race" or not loaded.maps)  # noqa: E731


def _leave_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _evaluate(request: Request) -> Outcome:
    return _evaluator_for(request.recipe)(request)  # type: ignore[no-any-return]


def _measure_terms(source: str) -> dict[str, Any]:
    from kdzero_gp.proxy.evaluator import Rejected, measure_terms

    try:
        return measure_terms(_evaluator_for("proxy"), source)
    except (Rejected, RuntimeError, ValueError, ArithmeticError, MemoryError):
        return dict(NO_GRADIENT)
