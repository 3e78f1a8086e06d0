"""Requests go to workers, answers come back, and what goes wrong on the way is sorted out: the machine's faults from
the request's.

Answers follow from requests alone, so that a request can be asked again elsewhere, or twice at once. A worker that
dies, hangs or runs out of memory is replaced, and its request is tried once more, on another worker where there is one.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from kdzero_gp.errors import RunError
from kdzero_gp.workers.engine import Engine, Event, News

# How long news are waited for at a time. The dispatcher's own clock advances by no more than this from look to look, so
# that a program that was stopped, or was busy otherwise, finds no time-outs of its own making.
LOOK = 0.5
# All workers are looked at so often, for what hangs or is overdue, and not at each answer: of these there are thousands
# a second.
ROUND = 0.1
# A request is tried so often when only machines fail; then something is wrong with them.
MOST_TRIES = 5
# So many workers in a row that die while they start: the machine cannot have so many.
START_LOSSES = 3
# Seconds in which some worker has to be ready.
START_SECONDS = 300.0
# A second copy of a request is asked for when the first takes so many times as long as such requests usually do, and so
# many seconds: where a worker has nothing else to do, and later even where others wait, since the order of a search
# waits for it. Early copies keep more workers busy than late ones (experiments/scaling). The median is of so many
# latest ones.
BACKUP_FACTOR, URGENT_FACTOR, BACKUP_SECONDS, LATEST, LEAST_LATEST = 1.5, 2.5, 0.5, 50, 10


@dataclass(frozen=True)
class Lost:
    """What comes in place of an answer where a request is to blame: the ``reason``, and the ``seconds`` it took."""

    reason: str
    seconds: float = 0.0


@dataclass(eq=False)
class _Job:
    """A request: ``copies`` workers are trying it, ``tried`` are or were."""

    key: Any
    request: Any
    over: bool = False
    tried: set[int] = field(default_factory=set)
    losses: list[str] = field(default_factory=list)
    suspicions: int = 0
    first_loss: float = 0.0
    copies: int = 0

    @property
    def kind(self) -> tuple[Any, ...]:
        """Requests that take about as long as each other."""
        return type(self.request), getattr(self.request, "recipe", None)


@dataclass(frozen=True)
class _Try:
    """A request that a worker is busy with, and since when by the dispatcher's clock."""

    job: _Job
    since: float


class Dispatcher:
    """``workers`` workers of an engine. Each request is stopped after ``timeout`` seconds. Without ``copies`` no two
    workers are asked the same at once: for requests that write files."""

    def __init__(self, engine: Engine, workers: int, timeout: float | None = None, copies: bool = True):
        self.engine, self.timeout, self._copied = engine, timeout, copies
        self._alive = set(range(workers))
        self._idle: dict[int, None] = {}  # the latest last
        self._running: dict[int, _Try] = {}
        self._queue: deque[_Job] = deque()
        # what takes so long that others should be asked for it: before the queue, or if there is nothing else to do
        self._urgent: deque[_Job] = deque()
        self._spare: deque[_Job] = deque()
        # requests that failed twice, until it is known that workers can answer others
        self._suspects: list[_Job] = []
        self._arrivals: deque[tuple[Any, Any]] = deque()
        self._durations: dict[Any, deque[float]] = defaultdict(lambda: deque(maxlen=LATEST))
        self._answered: _Job | None = None
        self._control: _Job | None = None
        self._last_answer = -1.0
        self._start_losses = 0
        self._clock, self._looked, self._round = 0.0, time.monotonic(), 0.0
        self._ready_at = 0.0
        for worker in range(workers):
            engine.start(worker)

    # --- questions and answers ------------------------------------------------------------------------------

    def submit(self, key: Any, request: Any) -> None:
        """Ask for an answer, which arrives under this ``key``."""
        self._queue.append(_Job(key, request))
        self._hand_out()

    def arrived(self, wait: bool = True) -> tuple[Any, Any] | None:
        """The next answer, or ``Lost``, and its key, as they come; None where none is there and nobody waits. Raises
        what a worker raised, and RunError where workers cannot work."""
        if not self._arrivals:
            self._look(0.0)
        while wait and not self._arrivals:
            self._look(LOOK)
        return self._arrivals.popleft() if self._arrivals else None

    def map(self, requests: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """The answers to ``requests`` with their places there, as they arrive."""
        for place, request in enumerate(requests):
            self.submit(place, request)
        for _ in requests:
            arrival = self.arrived()
            assert arrival is not None
            yield arrival

    def close(self) -> None:
        """Stop the workers at once."""
        self.engine.close()

    # --- what happens ---------------------------------------------------------------------------------------

    def _look(self, seconds: float) -> None:
        events = self.engine.events(seconds)
        now = time.monotonic()
        self._clock += min(now - self._looked, 2 * LOOK)
        self._looked = now
        for event in events:
            self._hear(event)
        if self._clock - self._round >= ROUND:
            self._round = self._clock
            self._look_at_all()
        if self._queue and not self._idle and not self._running and self._clock - self._ready_at > START_SECONDS:
            raise RunError(
                f"no worker was ready within {START_SECONDS:.0f} s; look at the machines, or give fewer --workers"
            )
        self._hand_out()

    def _hear(self, event: Event) -> None:
        worker = event.worker
        if event.news is News.READY:
            self._start_losses, self._ready_at = 0, self._clock
            self._idle[worker] = None
        elif event.news is News.RAISED:
            raise event.value
        elif event.news is News.ANSWER:
            self._take(worker, event.value)
        elif event.news is News.EXHAUSTED:
            self._lose(worker, f"ran out of memory ({event.value})")
        elif worker in self._running:
            self._lose(worker, f"ended its worker, which {event.value}", suspicious=event.news is not News.GONE)
        else:
            self._idle.pop(worker, None)
            self._start_lost(worker, event.value)

    def _take(self, worker: int, answer: Any) -> None:
        ended = self._running.pop(worker)
        job = ended.job
        job.copies -= 1
        self._idle[worker] = None
        self._last_answer = self._ready_at = self._clock
        self._durations[job.kind].append(self._clock - ended.since)
        if job is self._control:
            self._control = None
        elif not job.over:  # else its other copy was the first
            self._answered = job
            self._arrivals.append((job.key, answer))
        job.over = True
        # workers can answer, so those that could not be answered are to blame
        for suspect in self._suspects:
            self._blame(suspect)
        self._suspects.clear()

    def _look_at_all(self) -> None:
        """Give up what takes too long or of which nothing is heard."""
        for worker in self._alive - self._idle.keys() - self._running.keys():
            if self.engine.silent(worker):
                self._start_lost(worker, "hung")
        for worker, one in [*self._running.items()]:
            if self.engine.silent(worker):
                self._lose(worker, "was on a worker that hung", suspicious=False)
            elif self.timeout is not None and self._clock - one.since > self.timeout:
                self._lose(worker, f"took longer than {self.timeout:g} s")
        if self._copied:
            self._find_slow()

    def _find_slow(self) -> None:
        """Find what others should be asked for, too."""
        usual = {
            kind: statistics.median(known) for kind, known in self._durations.items() if len(known) >= LEAST_LATEST
        }
        for waiting, factor in ((self._urgent, URGENT_FACTOR), (self._spare, BACKUP_FACTOR)):
            waiting.clear()
            for one in self._running.values() if usual else ():
                least = max(factor * usual.get(one.job.kind, math.inf), BACKUP_SECONDS)
                if self._clock - one.since > least and one.job.copies == 1:
                    waiting.append(one.job)

    def _lose(self, worker: int, what: str, suspicious: bool = True) -> None:
        """A try that ended without an answer."""
        job = self._running.pop(worker).job
        job.copies -= 1
        self._replace(worker)
        if job.over or job.copies:
            return
        job.first_loss = job.first_loss if job.losses else self._clock
        job.losses.append(what)
        job.suspicions += suspicious
        if job is self._control or len(job.losses) >= MOST_TRIES:
            raise RunError(
                f"workers cannot work: the last request {what}, as others did before; free memory, give fewer "
                "--workers or look at the machines, then resume"
            )
        if job.suspicions < 2:
            self._queue.appendleft(job)
        elif self._last_answer > job.first_loss:
            self._blame(job)
        else:
            self._suspects.append(job)

    def _blame(self, job: _Job) -> None:
        """A request that failed on two workers while others were answered."""
        first, last = job.losses[0], job.losses[-1]
        how = f"{last}, on two workers" if first == last else f"{first}; tried again it {last}"
        self._arrivals.append((job.key, Lost(how, self.timeout if self.timeout and "took longer" in last else 0.0)))

    def _replace(self, worker: int) -> None:
        self._idle.pop(worker, None)
        self.engine.stop(worker)
        self.engine.start(worker)

    def _start_lost(self, worker: int, how: str) -> None:
        """A worker that ended before it was ready, or while it had nothing to do."""
        self._start_losses += 1
        if self._start_losses < START_LOSSES:
            self._replace(worker)
            return
        self.engine.stop(worker)
        self._alive.discard(worker)
        if not self._alive or not (self._idle or self._running):
            raise RunError(
                f"worker processes die at start-up, possibly out of memory (the last {how}); free memory or give fewer "
                "--workers"
            )

    # --- who does what --------------------------------------------------------------------------------------

    def _hand_out(self) -> None:
        if self._suspects and not (self._queue or self._running) and self._control is None:
            self._ask_what_is_known()
        self._give(self._urgent, 1)
        self._give(self._queue, 0)
        if not self._queue:
            self._give(self._spare, 1)

    def _give(self, waiting: deque[_Job], copies: int) -> None:
        """Ask idle workers for what waits and is tried by so many others; whoever answers first gives the same."""
        later = []
        while waiting and self._idle:
            job = waiting.popleft()
            if job.over or job.copies != copies:
                continue
            worker = self._place_for(job)
            if worker is None:
                later.append(job)
            else:
                self._send(worker, job)
        waiting.extendleft(reversed(later))

    def _place_for(self, job: _Job) -> int | None:
        """An idle worker that did not fail at this request, if possible on another machine; any, where all did."""
        if not job.tried:
            return next(reversed(self._idle))
        fresh = not self._alive <= job.tried
        idle = [worker for worker in self._idle if not (fresh and worker in job.tried)]
        before = {self.engine.place(worker) for worker in job.tried}
        return min(idle, key=lambda worker: self.engine.place(worker) in before, default=None)

    def _send(self, worker: int, job: _Job) -> None:
        del self._idle[worker]
        self._running[worker] = _Try(job, self._clock)
        job.tried.add(worker)
        job.copies += 1
        self.engine.send(worker, job.request)

    def _ask_what_is_known(self) -> None:
        """Where nothing but suspects is left: can workers answer what they answered before?"""
        if self._answered is None:
            raise RunError(
                f"workers cannot work: the first request {self._suspects[0].losses[-1]}, on two workers; free memory, "
                "give fewer --workers or look at the machines, then resume"
            )
        self._control = _Job(None, self._answered.request)
        self._queue.append(self._control)
