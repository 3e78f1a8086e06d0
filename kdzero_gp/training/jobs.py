"""Trainings one after the other in this process, or several at once in processes of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path

from kdzero_gp.data.account import DataAccount
from kdzero_gp.engine.machine import Machine
from kdzero_gp.errors import RunError, SettingError
from kdzero_gp.training.run import run
from kdzero_gp.training.settings import Settings, TrainingResult
from kdzero_gp.workers.pool import Pool, WorkerDied


@dataclass(frozen=True)
class Job:
    """One training and its folder, where the teacher's outputs may be that it shares with others, and the account of
    the data where it is known."""

    settings: Settings
    folder: Path
    shared: Path | None = None
    account: DataAccount | None = None


def results(jobs: Sequence[Job], machine: Machine, workers: int) -> Iterator[tuple[int, TrainingResult]]:
    """The results of jobs with their positions, each as soon as it is there. They do not depend on ``workers``.

    A training that cannot be measured or whose loss is no longer finite gives a result with a reason; other errors
    end them all. Raises RunError when a process dies.
    """
    if workers == 1 or len(jobs) < 2:
        for index, job in enumerate(jobs):
            yield index, _run(job, machine)
        return
    with Pool(min(workers, len(jobs))) as pool:
        futures = {pool.submit(_run, job, machine): index for index, job in enumerate(jobs)}
        for future in as_completed(futures):
            try:
                yield futures[future], pool.result(future)
            except WorkerDied:
                raise RunError(
                    "a training process died, perhaps for lack of memory; give the same command with fewer --workers"
                ) from None


def _run(job: Job, machine: Machine) -> TrainingResult:
    try:
        return run(job.settings, job.folder, machine, shared=job.shared, account=job.account)
    except SettingError as error:
        return TrainingResult(reason=str(error))
