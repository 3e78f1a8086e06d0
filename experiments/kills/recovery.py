"""How long does a candidate wait for its answer when its worker is lost?

Two workers answer requests of a second. One that has just been asked is killed (SIGKILL) or stopped (SIGSTOP) half a
second later; what counts are the seconds until the answer is there from another worker, of which one is the answer's
own. Once with copies of slow requests, as in a search, and once without, where a stopped worker is told by its missing
signs of life.

    python experiments/kills/recovery.py --times 5
    python experiments/kills/recovery.py --times 5 --ray
"""

import argparse
import contextlib
import json
import os
import signal
import statistics
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])

from kdzero_gp.workers.dispatch import Dispatcher  # noqa: E402
from kdzero_gp.workers.local import LocalEngine  # noqa: E402

SECONDS, BEFORE = 1.0, 0.5


def answering(worker):
    """A setup: an answer takes a second and tells whose it is."""

    def answer(request):
        time.sleep(SECONDS)
        return worker, os.getpid()

    return answer


def recovered(dispatcher, how, number):
    """Seconds from the loss of a worker to the answer of another."""
    while len(dispatcher._idle) < 2:
        dispatcher.arrived(wait=False)
        time.sleep(0.05)
    processes = dict(answer for _, answer in dispatcher.map([0.0] * 12))
    dispatcher.submit(number, 0.0)
    [lost] = dispatcher._running
    end = time.monotonic() + BEFORE
    while time.monotonic() < end:
        dispatcher.arrived(wait=False)
        time.sleep(0.05)
    os.kill(processes[lost], how)
    begin = time.monotonic()
    key, (_, process) = dispatcher.arrived()
    assert key == number and process != processes[lost]
    return time.monotonic() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--output", type=Path, default=HERE / "recovery.json")
    given = parser.parse_args()
    found = json.loads(given.output.read_text()) if given.output.exists() else {}
    for copies in (True, False):
        if given.ray:
            from kdzero_gp.workers import cluster

            _, started = cluster.connect(None, 2, "cpu")
            made = cluster.RayEngine(recovery.answering, (), "cpu", started)
        else:
            made = LocalEngine(recovery.answering)
        with contextlib.closing(Dispatcher(made, 2, 600.0, copies)) as dispatcher:
            for how in (signal.SIGKILL, signal.SIGSTOP):
                taken = [recovered(dispatcher, how, number) for number in range(given.times)]
                name = f"{'Ray' if given.ray else 'local'}, {how.name}, {'with' if copies else 'without'} copies"
                seconds = [round(one, 1) for one in taken]
                found[name] = {"seconds": seconds, "median": statistics.median(seconds), "longest": max(seconds)}
                print(name, found[name], flush=True)
                given.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    import recovery  # by name, so that workers can import it

    main()
