"""Requests answered by workers, one thread each; answers are taken as they arrive."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from kdzero_gp.proxy.evaluator import Answer, Evaluator, Request
from kdzero_gp.proxy.students import student_builder
from kdzero_gp.proxy.task import ProxyTask
from kdzero_gp.workers.crew import MakeEngine
from kdzero_gp.workers.dispatch import Dispatcher, Lost
from kdzero_gp.workers.local import LocalEngine


class Executor(Dispatcher):
    """Workers on one proxy task.

    Every worker computes with one thread, so that a result does not depend on how many there are. Where a request
    takes longer than ``timeout`` seconds on one worker and then on another, or ends both, its answer says so.
    """

    def __init__(
        self, proxy_task: Path, workers: int, device: str = "cpu", timeout: float = 600.0,
        engine: MakeEngine | None = None,
    ):  # fmt: skip
        super().__init__((engine or LocalEngine)(evaluator, (proxy_task, device)), workers, timeout)

    def submit(self, key: Any, request: Request) -> None:
        super().submit((key, request), request)

    def arrived(self, wait: bool = True) -> tuple[Any, Answer] | None:
        arrival = super().arrived(wait)
        if arrival is None:
            return None
        (key, request), answer = arrival
        return key, request.failed(answer.reason, answer.seconds) if isinstance(answer, Lost) else answer

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def device_of(worker: int, devices: int) -> str:
    """Worker i, counted from 0, computes on CUDA device i mod ``devices``; on the CPU where there are none.

    >>> [device_of(worker, 2) for worker in range(4)], device_of(3, 0)
    (['cuda:0', 'cuda:1', 'cuda:0', 'cuda:1'], 'cpu')
    """
    return f"cuda:{worker % devices}" if devices else "cpu"


def evaluator(path: Path, device: str, worker: int) -> Callable[[Request], Answer]:
    """What answers in a worker; the proxy task is loaded once per process."""
    torch.set_num_threads(1)
    # equal requests give equal bits on a GPU too
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    loaded = ProxyTask.load(path)
    if device == "cuda":
        device = device_of(worker, torch.cuda.device_count())

    @functools.cache
    def evaluator_for(whole: bool) -> Evaluator:
        used = loaded.of("race" if whole else "proxy")
        return Evaluator(used, student_builder(used.student, used.train.images[:2]), device)

    def answer(request: Request) -> Answer:
        # without maps both recipes train the same student on the same images
        return evaluator_for(getattr(request, "recipe", "proxy") == "race" or not loaded.maps)(request)

    return answer
