"""Trainings one after the other in this process, or several at once in processes of their own."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from kdzero_gp.engine.machine import Machine
from kdzero_gp.errors import RunError, SettingError
from kdzero_gp.training.run import run
from kdzero_gp.training.settings import Settings, TrainingResult


@dataclass(frozen=True)
class Job:
    """One training and its folder, and where the teacher's outputs may be that it shares with others."""

    settings: Settings
    folder: Path
    shared: Path | None = None


def results(jobs: Sequence[Job], machine: Machine, workers: int) -> Iterator[tuple[int, TrainingResult]]:
    """The results of jobs with their positions, each as soon as it is there. They do not depend on ``workers``.

    A training that cannot be measured or whose loss is no longer finite gives a result with a reason; other errors
    end them all. Raises RunError when a process dies.
    """
    if workers == 1 or len(jobs) < 2:
        for index, job in enumerate(jobs):
            yield index, _run(job, machine)
        return
    before = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), context, _start, (os.getpid(),)) as pool:
        try:
            with _interrupts_ignored():
                futures = {pool.submit(_run, job, machine): index for index, job in enumerate(jobs)}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            raise RunError(
                "a training process died, perhaps for lack of memory; give the same command with fewer --workers"
            ) from None
        except BaseException:
            for child in set(multiprocessing.active_children()) - before:
                child.kill()  # every training has its checkpoint
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _run(job: Job, machine: Machine) -> TrainingResult:
    try:
        return run(job.settings, job.folder, machine, shared=job.shared)
    except SettingError as error:
        return TrainingResult(reason=str(error))


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Processes that start meanwhile never see Ctrl-C; it is the parent's business."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _start(parent: int) -> None:
    """Without a parent there is nothing to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()


def _leave_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
