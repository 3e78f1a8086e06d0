"""What all kinds of workers have in common: local processes, and actors of a Ray cluster."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

import torch

# Called once in each worker, with the arguments of the engine and ``worker``, its number; it can be imported, and gives
# the function that answers requests.
Setup = Callable[..., Callable[[Any], Any]]


class News(str, Enum):
    """What is heard of a worker. ``READY``: it can be asked. ``ANSWER``: the value. ``RAISED``: the exception, which
    ends the work. ``EXHAUSTED``: there was no memory left; the message. ``LOST``: the worker is gone, ``GONE``: with
    its whole machine; the reason."""

    READY = "ready"
    ANSWER = "answer"
    RAISED = "raised"
    EXHAUSTED = "exhausted"
    LOST = "lost"
    GONE = "gone"


@dataclass(frozen=True)
class Event:
    """News of one worker."""

    worker: int
    news: News
    value: Any = None


class Engine(Protocol):
    """Workers by their numbers. All calls but ``events`` return at once; a worker is asked one thing at a time."""

    def start(self, worker: int) -> None:
        """Begin to start a worker; ``READY`` follows, or ``LOST``."""

    def send(self, worker: int, request: Any) -> None:
        """Ask a worker that is ready and has nothing to do."""

    def stop(self, worker: int) -> None:
        """End a worker at once; nothing more is heard of it."""

    def events(self, seconds: float) -> Sequence[Event]:
        """What happened, after waiting for it at most so long."""

    def silent(self, worker: int) -> bool:
        """Whether a worker that should be alive gives no sign of life."""

    def place(self, worker: int) -> str:
        """The machine that a worker is on."""

    def close(self) -> None:
        """End all workers at once."""


def exhausted(error: BaseException) -> str | None:
    """The message of an error that says that there is no memory left, of the processor or of the GPU."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error):
        return (str(error).splitlines() or [type(error).__name__])[0][:200]
    return None


def answered(function: Callable[[Any], Any], request: Any) -> tuple[News, Any]:
    """What a worker says to a request."""
    try:
        return News.ANSWER, function(request)
    except Exception as error:
        message = exhausted(error)
        return (News.RAISED, error) if message is None else (News.EXHAUSTED, message)


def ended(code: int | None) -> str:
    """How a process ended, by its exit code.

    >>> ended(-9), ended(1)
    ('was killed by SIGKILL, perhaps for lack of memory', 'ended with exit code 1')
    """
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"was killed by {name}" + (", perhaps for lack of memory" if name == "SIGKILL" else "")
    return f"ended with exit code {code}"
