"""Is the simulator right, and what do two workers gain over one?

A search with a real driver, database and worker processes, whose answers are made up: a worker sleeps as long as a
probe or a training of the simulation takes, only so many times shorter, or computes for as many seconds of the
processor. Seconds of the whole search beside the simulator's, by workers and lanes, and births an hour of two workers
against one.

    python experiments/scaling/real.py --births 300
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "kills")]
os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), str(HERE.parent / "kills"), os.environ.get("PYTHONPATH", "")])

import made_up  # noqa: E402
import simulate  # noqa: E402

from kdzero_gp.compiler import pair_shapes  # noqa: E402
from kdzero_gp.evolution import Grammar, Search, SearchSettings  # noqa: E402
from kdzero_gp.proxy.evaluator import Probe  # noqa: E402
from kdzero_gp.search.candidates import CandidateQueue  # noqa: E402
from kdzero_gp.search.settings import RunSettings  # noqa: E402
from kdzero_gp.search.storage import Database, Status, StoredBirth  # noqa: E402
from kdzero_gp.workers.local import LocalEngine  # noqa: E402

# Probes and trainings of the simulation last so many times as long.
SHORTER = 10.0


def answering(shorter, computing, worker):
    """A worker's setup: sleeps, or computes, as long as the simulation says."""

    def answer(request):
        seconds = (simulate.PROBE if isinstance(request, Probe) else simulate.TRAIN) / shorter
        begin = time.process_time()
        while computing and time.process_time() - begin < seconds:
            sum(range(1000))
        time.sleep(0.0 if computing else seconds)
        return made_up.answer(request)

    return answer


def searched(workers, lanes, births, computing):
    """The seconds of a search, how many births were asked for and how many trained."""
    settings = RunSettings(teacher="t", student="s", screens=("finite", "equivalence", "rejection"),
                           search=SearchSettings(births // 10, 10, lanes=lanes))  # fmt: skip
    steps = round(10 * simulate.UNITS)
    with tempfile.TemporaryDirectory() as folder, Database.create(Path(folder)) as database:
        crew = made_up.Workers(LocalEngine(real.answering, (SHORTER, computing)), workers)
        try:
            while len(crew.dispatcher._idle) < workers:
                crew.dispatcher.arrived(wait=False)
            judge = CandidateQueue(settings, database, crew, made_up.BASELINE, made_up.BASELINE, str, steps=steps)

            def keep(b):
                row = b.number, b.generation, b.operator, b.parents, str(b.expression), b.digest, b.duplicate_of
                database.add_births([StoredBirth(*row)])

            grammar = Grammar("open", pair_shapes(made_up.STUDENT, made_up.TEACHER).types)
            begin, used = time.perf_counter(), time.process_time()
            for _ in Search(grammar, settings.search, judge.start, on_birth=keep).run():
                pass
            seconds, driver = time.perf_counter() - begin, time.process_time() - used
        finally:
            crew.dispatcher.close()
        rows = database.evaluations()
        trained = sum(row.status is Status.TRAINED or row.units > 1 for row in rows)
        return seconds, driver, len(rows), trained


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--births", type=int, default=300)
    parser.add_argument("--computing", action="store_true", help="workers compute; else they sleep")
    given = parser.parse_args()
    output = HERE / "real.json"
    known = json.loads(output.read_text()) if output.exists() else {}
    rows = []
    for workers, lanes in ((1, 2), (1, 4), (2, 2), (2, 4), (2, 8)):
        seconds, driver, births, trained = searched(workers, lanes, given.births, given.computing)
        simulate.TRAINED = trained / births
        simulated = simulate.simulated(workers, lanes, (0.0, 0.0), driver=SHORTER * driver / births, births=births)[1]
        row = {
            "workers": workers, "lanes": lanes, "births": births, "trained": trained, "seconds": round(seconds, 1),
            "simulated": round(simulated / SHORTER, 1), "driver_seconds_of_the_processor": round(driver, 1),
        }  # fmt: skip
        rows.append(row)
        print(row, flush=True)
    known["computing" if given.computing else "sleeping"] = rows
    output.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    import real  # by name, so that workers can import it

    main()
