"""Worker processes: killable, deaf to Ctrl-C, gone when their parent is."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from pebble import ProcessExpired, ProcessPool

from kdzero_gp import objects
from kdzero_gp.errors import RunError
from kdzero_gp.workers.processes import QuietContext


class TookTooLong(Exception):
    """Work that was stopped after its time."""


class WorkerDied(Exception):
    """The process of some work ended, say for lack of memory; the message tells its exit code."""


class Pool:
    """``workers`` processes that call functions which can be imported.

    ``start`` is called once in each new process, with ``arguments``; the user's own objects are known there. Work that
    takes longer than ``timeout`` seconds is stopped with its process; a process that dies is replaced.
    """

    def __init__(
        self,
        workers: int,
        start: Callable[..., None] | None = None,
        arguments: tuple[Any, ...] = (),
        timeout: float | None = None,
    ):
        self.timeout = timeout
        self._objects = objects.packed()
        self._context = QuietContext()
        self._pool = ProcessPool(
            max_workers=workers,
            initializer=_start,
            initargs=(os.getpid(), self._objects, start, arguments),
            context=self._context,
        )

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Start some work; its future is for ``result``. Raises ``RunError`` where no process can be started."""
        try:
            with _interrupts_held():
                return self._pool.schedule(function, args=arguments, timeout=self.timeout)
        except RuntimeError:
            raise _broken() from None

    def result(self, future: Any) -> Any:
        """What some work gave. Raises what it raised, ``TookTooLong`` or ``WorkerDied``."""
        try:
            return future.result()
        except (TimeoutError, FutureTimeoutError):
            raise TookTooLong(f"took longer than {self.timeout:g} s") from None
        except ProcessExpired as expired:
            raise WorkerDied(f"exit code {expired.exitcode}") from None
        except BrokenProcessPool:
            raise _broken() from None

    def close(self) -> None:
        """Stop the workers at once."""
        with contextlib.suppress(Exception):
            self._pool.stop()
            # else one that is still starting misses the locks that the pool takes away first, and says so
            self._context.kill()
            self._pool.join(timeout=10)
        if self._objects is not None:
            self._objects.unlink(missing_ok=True)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _broken() -> RunError:
    return RunError("worker processes die at start-up, possibly out of memory; free memory or give fewer --workers")


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


def _start(
    parent: int, own_objects: Path | None, start: Callable[..., None] | None, arguments: tuple[Any, ...]
) -> None:
    """Ctrl-C is the parent's business; without a parent there is nothing to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()
    if own_objects is not None:
        objects.unpack(own_objects)
    if start is not None:
        start(*arguments)


def _leave_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
