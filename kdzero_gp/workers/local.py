"""Worker processes on this machine: killable, deaf to Ctrl-C, gone when their parent is."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from multiprocessing import connection, resource_tracker
from pathlib import Path
from typing import Any

from kdzero_gp import objects
from kdzero_gp.errors import RunError
from kdzero_gp.workers.engine import Event, News, Setup, answered, ended
from kdzero_gp.workers.processes import QuietContext

# A worker gives a sign of life every so many seconds, also while it computes; one that gives none for so long hangs.
BEAT, SILENCE = 2.0, 20.0
# … but for the first sign: importing torch can take long on a busy machine.
PATIENCE = 240.0
# What only says that a worker lives.
_ALIVE = "alive"


class _Worker:
    """A process, this end of its pipe, and when something was heard of it, in seconds of listening."""

    def __init__(self, process: Any, pipe: connection.Connection, heard: float):
        self.process, self.pipe, self.heard = process, pipe, heard


class LocalEngine:
    """Processes that are started anew, know the user's own objects, and answer by ``setup(*arguments, worker=…)``."""

    def __init__(self, setup: Setup, arguments: tuple[Any, ...] = ()):
        self._setup, self._arguments = setup, arguments
        self._context = QuietContext()
        self._objects = objects.packed()
        self._workers: dict[int, _Worker] = {}
        self._looked, self._listened = time.monotonic(), 0.0
        # also where nobody closes it: the interpreter would wait for its children
        self._end = weakref.finalize(self, _end, self._workers, self._objects)

    def start(self, worker: int) -> None:
        ours, theirs = self._context.Pipe()
        arguments = (theirs, os.getpid(), self._objects, self._setup, self._arguments, worker)
        process = self._context.Process(target=_serve, args=arguments)
        try:
            with _interrupts_held():
                process.start()
        except OSError as error:
            raise RunError(f"no worker process can be started: {error.strerror}; give fewer --workers") from None
        theirs.close()
        self._workers[worker] = _Worker(process, ours, self._listened + PATIENCE - SILENCE)

    def send(self, worker: int, request: Any) -> None:
        with contextlib.suppress(OSError):  # it died, which is heard next
            self._workers[worker].pipe.send(request)

    def stop(self, worker: int) -> None:
        known = self._workers.pop(worker, None)
        if known is not None:
            known.process.kill()
            known.process.join()
            known.pipe.close()

    def events(self, seconds: float) -> list[Event]:
        ends = {end: who for who, known in self._workers.items() for end in (known.pipe, known.process.sentinel)}
        ready = connection.wait([*ends], seconds) if ends else []
        # time in which this process did not listen, since it was stopped, say, is nobody's silence
        now = time.monotonic()
        self._listened, self._looked = self._listened + min(now - self._looked, seconds + BEAT), now
        found: list[Event] = []
        for worker in dict.fromkeys(ends[end] for end in ready):
            known = self._workers[worker]
            dead = not known.process.is_alive()
            found += self._read(worker, known)
            if dead:
                found.append(Event(worker, News.LOST, ended(known.process.exitcode)))
                self.stop(worker)
        return found

    def _read(self, worker: int, known: _Worker) -> Iterator[Event]:
        """What a worker said since it was last listened to."""
        with contextlib.suppress(EOFError, OSError):
            while known.pipe.poll():
                said = known.pipe.recv()
                known.heard = self._listened
                if said != _ALIVE:
                    yield Event(worker, *said)

    def silent(self, worker: int) -> bool:
        return worker in self._workers and self._listened - self._workers[worker].heard > SILENCE

    def place(self, worker: int) -> str:
        return "here"

    def close(self) -> None:
        self._end()


def _end(workers: dict[int, _Worker], own_objects: Path | None) -> None:
    for known in workers.values():
        known.process.kill()
    for known in workers.values():
        known.process.join()
        known.pipe.close()
    workers.clear()
    if own_objects is not None:
        own_objects.unlink(missing_ok=True)


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back for a moment. Processes that start meanwhile inherit that and never see it, not even while they
    import torch; it is the parent's business."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # when it starts it lets SIGINT through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(
    pipe: connection.Connection, parent: int, own_objects: Path | None, setup: Setup, arguments: tuple[Any, ...],
    worker: int,
) -> None:  # fmt: skip
    """A worker's life: Ctrl-C is the parent's business; without a parent there is nothing to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    speaking = threading.Lock()

    def say(what: Any) -> None:
        with speaking:
            pipe.send(what)

    threading.Thread(target=_live_with, args=(parent, lambda: say(_ALIVE)), daemon=True).start()
    try:
        if own_objects is not None:
            objects.unpack(own_objects)
        answer = setup(*arguments, worker=worker)
    except Exception as error:
        say((News.RAISED, error))
        return
    say((News.READY, None))
    with contextlib.suppress(EOFError, OSError):
        while True:
            said = answered(answer, pipe.recv())
            try:
                say(said)
            except (TypeError, AttributeError, ValueError) as error:  # what cannot be pickled
                say((News.RAISED, RunError(f"a worker's answer cannot be sent: {error}")))
    os._exit(0)


def _live_with(parent: int, beat: Callable[[], None]) -> None:
    last = time.monotonic()
    while os.getppid() == parent:
        if time.monotonic() - last >= BEAT:
            last = time.monotonic()
            with contextlib.suppress(OSError):
                beat()
        time.sleep(1.0)
    os._exit(1)
