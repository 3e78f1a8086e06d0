"""A search whose outcomes are made up, with real workers, a real driver and a real database: what is killed.

Outcomes follow from the sources alone, as trainings do, and take some hundredths of a second.

    python experiments/kills/made_up.py FOLDER --workers 2 --engine local
"""

import argparse
import sys
import time
import zlib
from pathlib import Path

import numpy as np

from kdzero_gp.compiler import pair_shapes
from kdzero_gp.engine.gradients import SKETCH
from kdzero_gp.engine.machine import Machine
from kdzero_gp.errors import KdzeroError
from kdzero_gp.evolution import Grammar, Search, SearchSettings
from kdzero_gp.proxy.evaluator import Probe, Probed, Trained
from kdzero_gp.proxy.screens import PROBES
from kdzero_gp.search.candidates import CandidateQueue
from kdzero_gp.search.settings import RunSettings
from kdzero_gp.search.storage import DATABASE, Database, StoredBirth
from kdzero_gp.workers.crew import crew
from kdzero_gp.workers.dispatch import Dispatcher, Lost

BASELINE = {"cross_entropy": 1.0, "accuracy": 0.5, "calibrated": 1.0, "sharpness_gap": 1.0, "cka_gap": 1.0}
STUDENT = {"logits": [10], "emb": [8], "feat": [8, 4, 4]}
TEACHER = {"logits": [10], "emb": [64], "feat": [64, 4, 4]}
SETTINGS = RunSettings(
    teacher="t", student="s", search=SearchSettings(60, 10, seed=3, lanes=8),
    screens=("finite", "equivalence", "rejection", "surrogate"),
)  # fmt: skip


def answer(request):
    """An answer that follows from the source: one in three losses is sent away by its probe, one in ten has the
    gradient of another."""
    random = np.random.default_rng(zlib.crc32(request.source.encode()))
    kind = random.random()
    if not isinstance(request, Probe):
        return Trained(dict.fromkeys(BASELINE, 0.5 + random.random()))
    twin = np.random.default_rng(int(20 * kind)) if kind < 0.1 else random
    gradient = twin.standard_normal(SKETCH * PROBES).astype(np.float32)
    away = {"reason": "leads away", "screen": "rejection"} if kind > 0.67 else {}
    return Probed((1.0,), 1.0, (2.0,), gradient.tobytes(), 0.5, **away)


def answering(seconds, worker):
    """A worker's setup."""

    def slow(request):
        time.sleep(seconds * (0.5 + zlib.crc32(request.source.encode()) % 7 / 7))
        return answer(request)

    return slow


class Workers:
    """What an ``Executor`` is to a search, without a proxy task."""

    def __init__(self, made, workers):
        self.dispatcher = Dispatcher(made, workers, 60.0)

    def submit(self, key, request):
        self.dispatcher.submit((key, request), request)

    def arrived(self, wait=True):
        arrival = self.dispatcher.arrived(wait)
        if arrival is None:
            return None
        (key, request), found = arrival
        return key, request.failed(found.reason, found.seconds) if isinstance(found, Lost) else found


def carry_out(folder, machine, seconds):
    """Begin a search or go on with it, to its end."""
    if not (folder / DATABASE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        Database.create(folder, {"settings": SETTINGS.as_dict()}).close()
    count, make = crew(machine)
    with Database.open(folder) as database:
        workers = Workers(make(made_up.answering, (seconds,)), count)
        try:
            judge = CandidateQueue(SETTINGS, database, workers, BASELINE, BASELINE, str, steps=80)

            def keep(b):
                row = b.number, b.generation, b.operator, b.parents, str(b.expression), b.digest, b.duplicate_of
                database.add_births([StoredBirth(*row)])

            grammar = Grammar("open", pair_shapes(STUDENT, TEACHER).types)
            for _ in Search(grammar, SETTINGS.search, judge.start, on_birth=keep).run():
                pass
            database.set_fact("finished", True)
        finally:
            workers.dispatcher.close()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    import made_up  # by name, so that workers can import it

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--engine", default="local")
    parser.add_argument("--address", help="of a running Ray cluster")
    parser.add_argument("--seconds", type=float, default=0.05, help="what an answer takes on average")
    given = parser.parse_args()
    try:
        machine = Machine(device="cpu", workers=given.workers, engine=given.engine, address=given.address)
        carry_out(given.folder, machine, given.seconds)
    except KdzeroError as error:
        sys.exit(f"Error: {error}")
