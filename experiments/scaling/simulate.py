"""How busy are 5, 64 and 1,000 workers under the virtual clock?

A discrete-event simulation of machines around the search's own ``VirtualClock``: births of which one in five is
trained, at the costs of CIFAR-100 (screens 0.3 s, a training 4 s), on machines of equal or mixed speed, with stragglers
or without, and with a driver that takes its time for each birth. Efficiency: the work that was of use over what the
workers could have done in the time.

    python experiments/scaling/simulate.py
"""

import argparse
import heapq
import itertools
import json
import random
from collections import deque
from pathlib import Path
from types import SimpleNamespace

from kdzero_gp.evolution import Pending
from kdzero_gp.evolution.clock import VirtualClock
from kdzero_gp.workers.dispatch import BACKUP_FACTOR, BACKUP_SECONDS, URGENT_FACTOR

HERE = Path(__file__).parent
PROBE, TRAIN, TRAINED, UNITS = 0.3, 4.0, 0.2, 14.0
# Coefficients of variation of one cost on one machine, and of the machines' speeds.
SAME, MIXED = (0.1, 0.0), (0.1, 0.3)
# A straggler takes so many times as long; a copy is begun as the dispatcher does it: after so many times the usual time
# where a worker is idle, later in any case, never before so many seconds.
SLOW, BACKUP, URGENT, LEAST = 10.0, BACKUP_FACTOR, URGENT_FACTOR, BACKUP_SECONDS


class Machines:
    """Workers in simulated time; requests wait in one queue."""

    def __init__(self, count, spread, stragglers, copies, seed):
        self.random, self.copies, self.stragglers, self.spread = random.Random(seed), copies, stragglers, spread[0]
        self.speeds = [max(0.3, self.random.gauss(1.0, spread[1])) for _ in range(count)]
        self.idle, self.queue, self.events, self.now, self.used = deque(range(count)), deque(), [], 0.0, 0.0
        # copies that are due: of what takes very long, and of what takes long, for workers that have nothing else to do
        self.late, self.spare, self.order = deque(), deque(), itertools.count()

    def ask(self, job):
        self.queue.append(job)
        self._hand_out()

    def _hand_out(self):
        while self.idle and (self.late or self.queue or self.spare):
            waiting = self.late or self.queue or self.spare
            job = waiting.popleft()
            if not job.done and (waiting is self.queue or job.copies == 1):
                self._begin(self.idle.popleft(), job)

    def _begin(self, worker, job):
        seconds = job.seconds * max(0.2, self.random.gauss(1.0, self.spread)) / self.speeds[worker]
        seconds *= SLOW if self.random.random() < self.stragglers else 1.0
        job.copies += 1
        heapq.heappush(self.events, (self.now + seconds, next(self.order), worker, job))
        if self.copies and job.copies == 1:
            for factor, urgent in ((BACKUP, False), (URGENT, True)):
                due = self.now + max(LEAST, factor * job.seconds)
                heapq.heappush(self.events, (due, next(self.order), None, (job, urgent)))

    def step(self, until=None):
        """The next thing that happens, or nothing until a moment."""
        if until is not None and (not self.events or self.events[0][0] > until):
            self.now = until
            return False
        self.now, _, worker, job = heapq.heappop(self.events)
        if worker is None:
            job, urgent = job
            if not job.done and job.copies == 1:
                (self.late if urgent else self.spare).append(job)
            self._hand_out()
            return True
        self.idle.append(worker)
        if not job.done:
            job.done = True
            self.used += job.seconds
            job.then()
        self._hand_out()
        return True


def simulated(workers, lanes, spread, stragglers=0.0, copies=False, driver=0.0, births=None, seed=0):
    """The share of the workers' time that was of use, in the middle of a search, and the seconds of the whole."""
    machines, clock, chance = Machines(workers, spread, stragglers, copies, seed), VirtualClock(), random.Random(seed)
    births = births or max(2000, 30 * lanes)
    number, marks = 0, {}
    while clock.busy or number < births:
        while number < births and clock.busy < lanes:
            until = machines.now + driver
            while driver and machines.step(until):
                pass
            trained = chance.random() < TRAINED
            probe, train = (SimpleNamespace(seconds=s, copies=0, done=False) for s in (PROBE, TRAIN))
            probe.then = (lambda job: lambda: machines.ask(job))(train) if trained else lambda: None
            train.then = lambda: None
            machines.ask(probe)

            def units(probe=probe, trained=trained):
                while not probe.done:
                    machines.step()
                return 1.0 + UNITS if trained else 1.0

            def score(train=train, trained=trained):
                while trained and not train.done:
                    machines.step()

            clock.start(SimpleNamespace(number=number, duplicate_of=None), Pending(score, units))
            number += 1
            if number in (births // 5, births):  # neither the beginning nor the end
                marks[number] = machines.now, machines.used
        _, pending = clock.next()
        pending.score()
    (begin, before), (end, after) = (marks[n] for n in sorted(marks))
    # a machine of speed s does s seconds of work a second
    return round((after - before) / (sum(machines.speeds) * (end - begin)), 3), machines.now


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--driver", type=float, default=0.002, help="seconds that the driver takes for a birth")
    parser.add_argument("--cases", nargs="+")
    parser.add_argument("--workers", nargs="+", type=int, default=[5, 64, 1000])
    parser.add_argument("--births", type=int, help="for each lane [default: 30, at least 2,000 in all]")
    given = parser.parse_args()
    cases = {
        "same machines": {"spread": SAME}, "mixed machines": {"spread": MIXED},
        "mixed, 1 % ten times as long": {"spread": MIXED, "stragglers": 0.01},
        "mixed, 1 % ten times as long, copies": {"spread": MIXED, "stragglers": 0.01, "copies": True},
    }  # fmt: skip
    output = HERE / "simulated.json"
    known = json.loads(output.read_text()) if output.exists() else []
    rows = {(row["machines"], row["workers"], row["driver_seconds"]): row for row in known}
    cases = {name: cases[name] for name in given.cases or cases}
    for (name, options), workers, driver in itertools.product(cases.items(), given.workers, (0.0, given.driver)):
        found = {}
        for k in (1, 2, 4):
            births = max(2000, given.births * k * workers) if given.births else None
            found[f"{k} N"] = simulated(workers, k * workers, driver=driver, births=births, **options)[0]
        row = {"machines": name, "workers": workers, "driver_seconds": driver, "efficiency_by_lanes": found}
        rows[name, workers, driver] = row
        print(name, workers, driver, found, flush=True)
        output.write_text(json.dumps(list(rows.values()), indent=1) + "\n")


if __name__ == "__main__":
    main()
