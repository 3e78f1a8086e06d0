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

HERE = Path(__file__).parent
PROBE, TRAIN, TRAINED, UNITS = 0.3, 4.0, 0.2, 14.0
# Coefficients of variation of one cost on one machine, and of the machines' speeds.
SAME, MIXED = (0.1, 0.0), (0.1, 0.3)
# A straggler takes so many times as long; a copy is begun after so many times the usual time where a worker is idle,
# and later in any case, as the dispatcher does it.
SLOW, BACKUP, URGENT = 10.0, 3.0, 6.0


class Machines:
    """Workers in simulated time; requests wait in one queue."""

    def __init__(self, count, spread, stragglers, copies, seed):
        self.random, self.copies, self.stragglers, self.spread = random.Random(seed), copies, stragglers, spread[0]
        self.speeds = [max(0.3, self.random.gauss(1.0, spread[1])) for _ in range(count)]
        self.idle, self.queue, self.events, self.now, self.used = deque(range(count)), deque(), [], 0.0, 0.0
        self.late, self.order = deque(), itertools.count()

    def ask(self, job):
        self.queue.append(job)
        self._hand_out()

    def _hand_out(self):
        while self.idle and (self.late or self.queue):
            job = (self.late or self.queue).popleft()
            if not job.done:
                self._begin(self.idle.popleft(), job)

    def _begin(self, worker, job):
        seconds = job.seconds * max(0.2, self.random.gauss(1.0, self.spread)) / self.speeds[worker]
        seconds *= SLOW if self.random.random() < self.stragglers else 1.0
        job.copies += 1
        job.began = self.now if job.copies == 1 else job.began
        heapq.heappush(self.events, (self.now + seconds, next(self.order), worker, job))
        if self.copies and job.copies == 1:
            for factor in (BACKUP, URGENT):
                heapq.heappush(self.events, (self.now + factor * job.seconds, next(self.order), None, job))

    def step(self, until=None):
        """The next thing that happens, or nothing until a moment."""
        if until is not None and (not self.events or self.events[0][0] > until):
            self.now = until
            return False
        self.now, _, worker, job = heapq.heappop(self.events)
        if worker is None:
            if not job.done and job.copies == 1:
                if self.idle:
                    self._begin(self.idle.popleft(), job)
                elif self.now >= job.began + (BACKUP + URGENT) / 2 * job.seconds and job not in self.late:
                    self.late.append(job)
            return True
        self.idle.append(worker)
        if not job.done:
            job.done = True
            self.used += job.seconds
            job.then()
        self._hand_out()
        return True


def efficiency(workers, lanes, spread, stragglers=0.0, copies=False, driver=0.0, births=None, seed=0):
    """The share of the workers' time that was of use, in the middle of a search."""
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
    return round((after - before) / (sum(machines.speeds) * (end - begin)), 3)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--driver", type=float, default=0.002, help="seconds that the driver takes for a birth")
    parser.add_argument("--cases", nargs="+")
    given = parser.parse_args()
    cases = {
        "same machines": {"spread": SAME}, "mixed machines": {"spread": MIXED},
        "mixed, 1 % ten times as long": {"spread": MIXED, "stragglers": 0.01},
        "mixed, 1 % ten times as long, copies": {"spread": MIXED, "stragglers": 0.01, "copies": True},
    }  # fmt: skip
    rows = []
    cases = {name: cases[name] for name in given.cases or cases}
    for (name, options), workers, driver in itertools.product(cases.items(), (5, 64, 1000), (0.0, given.driver)):
        found = {f"{k} N": efficiency(workers, k * workers, driver=driver, **options) for k in (1, 2, 4)}
        rows.append({"machines": name, "workers": workers, "driver_seconds": driver, "efficiency_by_lanes": found})
        print(name, workers, driver, found, flush=True)
    (HERE / "simulated.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
