"""How fast is the driver, and what does a request cost?

A search of a whole run's parts (breeding, decisions, database) on outcomes that are made up and cost nothing: settled
births a second and memory as the run grows. Then what a request costs that is answered at once, with processes and with
Ray.

    python experiments/scaling/driver.py --births 20000 --ray
"""

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections import deque
from pathlib import Path

HERE = Path(__file__).parent
TESTS = HERE.parents[1] / "tests"
sys.path.insert(0, str(TESTS))
os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), str(TESTS), os.environ.get("PYTHONPATH", "")])

from kdzero_gp.evolution import Search, SearchSettings  # noqa: E402
from kdzero_gp.search.candidates import CandidateQueue  # noqa: E402
from kdzero_gp.search.settings import RunSettings  # noqa: E402
from kdzero_gp.search.storage import Database, StoredBirth  # noqa: E402
from kdzero_gp.workers.dispatch import Dispatcher  # noqa: E402
from kdzero_gp.workers.engine import Event, News  # noqa: E402
from kdzero_gp.workers.local import LocalEngine  # noqa: E402
from test_candidates import BASELINE  # noqa: E402
from test_evolution import grammar_of  # noqa: E402
from test_same_run import Workers  # noqa: E402

REQUESTS = 2000


def settled(births, lanes, screens):
    """Births a second and MiB, a tenth of the search at a time."""
    search = SearchSettings(births // 20, 20, lanes=lanes)
    run, rows = RunSettings(teacher="t", student="s", search=search, screens=screens), []
    with tempfile.TemporaryDirectory() as folder, Database.create(Path(folder)) as database:
        judge = CandidateQueue(run, database, Workers(lanes, 0), BASELINE, BASELINE, str, steps=80)
        keep = lambda b: database.add_births([StoredBirth(  # noqa: E731
            b.number, b.generation, b.operator, b.parents, str(b.expression), b.digest, b.duplicate_of)])  # fmt: skip
        begin, before = time.perf_counter(), time.process_time()
        for generation in Search(grammar_of(), search, judge.start, on_birth=keep).run():
            part = births // 10
            if generation.births % part == 0:
                now, used = time.perf_counter(), time.process_time()
                memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
                rows.append({"births": generation.births, "a_second": round(part / (now - begin), 1),
                             "a_cpu_second": round(part / (used - before), 1), "mib": round(memory)})  # fmt: skip
                begin, before = now, used
                print(rows[-1], flush=True)
    return rows


def echo(worker):
    """A setup that answers at once."""
    return lambda request: request


def a_request(engine):
    """Milliseconds a request, one after the other: the median, the first decile (other programs rarely disturb it) and
    what the driver's processor does."""
    dispatcher = Dispatcher(engine, 1)
    try:
        list(dispatcher.map(range(10)))

        def asked(number):
            dispatcher.submit(number, "x" * 4000)
            dispatcher.arrived()

        return timed(asked)
    finally:
        dispatcher.close()


class Immediate:
    """An engine without workers: what it is asked is answered when it is looked at, one at a time."""

    def __init__(self):
        self.news = deque()

    def start(self, worker):
        self.news.append(Event(worker, News.READY))

    def send(self, worker, request):
        self.news.append(Event(worker, News.ANSWER, request))

    def events(self, seconds):
        return [self.news.popleft()] if self.news else []

    def silent(self, worker):
        return False

    def place(self, worker):
        return "here"


def dispatched(workers):
    """Milliseconds of the dispatcher alone for a request, while all workers are busy."""
    dispatcher = Dispatcher(Immediate(), workers, 600.0)
    for number in range(workers):
        dispatcher.submit(number, number)

    def asked(number):
        dispatcher.arrived()
        dispatcher.submit(number, number)

    for number in range(workers):
        asked(number)
    return timed(asked)


def timed(ask):
    """What each of many requests took."""
    before, taken = time.process_time(), []
    for number in range(REQUESTS):
        begin = time.perf_counter()
        ask(number)
        taken.append(1000 * (time.perf_counter() - begin))
    used = 1000 * (time.process_time() - before) / REQUESTS
    deciles = statistics.quantiles(taken, n=10)
    return {"median": round(deciles[4], 3), "first_decile": round(deciles[0], 3), "driver_cpu": round(used, 3)}


def bare(ray, cluster):
    """The same with nothing but Ray."""
    actor = ray.remote(cluster._Actor).options(num_cpus=1).remote()
    facts = cluster.versions()
    ray.get(actor.begin.remote(facts, None, driver.echo, (), 0))
    return timed(lambda number: ray.get(actor.answer.remote("x" * 4000)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--births", type=int, default=20000, help="0: requests alone")
    parser.add_argument("--lanes", type=int, default=64)
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--output", type=Path, default=HERE / "driver.json")
    given = parser.parse_args()
    found = json.loads(given.output.read_text()) if given.output.exists() else {}
    if given.births:
        found["lanes"] = given.lanes
        found["without surrogate"] = settled(given.births, given.lanes, ("finite", "equivalence", "rejection", "short"))
        found["with surrogate"] = settled(given.births // 10, given.lanes, ("finite", "equivalence", "surrogate"))
        given.output.write_text(json.dumps(found, indent=1) + "\n")
    found["the dispatcher alone, by workers"] = {str(count): dispatched(count) for count in (1, 64, 1000)}
    print(found["the dispatcher alone, by workers"], flush=True)
    found["a request, processes"] = a_request(LocalEngine(driver.echo))
    print(found["a request, processes"], flush=True)
    if given.ray:
        from kdzero_gp.workers import cluster

        _, started = cluster.connect(None, 2, "cpu")
        found["a request, Ray alone"] = bare(cluster._ray(), cluster)
        print(found["a request, Ray alone"], flush=True)
        found["a request, Ray"] = a_request(cluster.RayEngine(driver.echo, (), "cpu", started))
        print(found["a request, Ray"], flush=True)
    given.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    import driver  # by name, so that workers can import it

    main()
