"""Trainings one after the other in this process, or several at once in processes of their own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdzero_gp.data.account import DataAccount
from kdzero_gp.engine.machine import Machine
from kdzero_gp.errors import SettingError
from kdzero_gp.training.run import run
from kdzero_gp.training.settings import Settings, TrainingResult
from kdzero_gp.workers.dispatch import Dispatcher, Lost
from kdzero_gp.workers.local import LocalEngine


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
    end them all. A training whose process dies is gone on with in another; where that dies, too, while others come to
    their end, this is the reason, which is not kept in its folder: the next call tries it again. Raises RunError where
    none comes to its end.
    """
    if workers == 1 or len(jobs) < 2:
        for index, job in enumerate(jobs):
            yield index, _run(job, machine)
        return
    made = Dispatcher(LocalEngine(_trainer, (machine,)), min(workers, len(jobs)), copies=False)
    with contextlib.closing(made) as dispatcher:
        for index, result in dispatcher.map(jobs):
            if isinstance(result, Lost):
                how = f"the training {result.reason}; the same command with fewer --workers tries it again"
                result = TrainingResult(reason=how)
            yield index, result


def _trainer(machine: Machine, worker: int) -> Callable[[Job], TrainingResult]:
    return lambda job: _run(job, machine)


def _run(job: Job, machine: Machine) -> TrainingResult:
    try:
        return run(job.settings, job.folder, machine, shared=job.shared, account=job.account)
    except SettingError as error:
        return TrainingResult(reason=str(error))
