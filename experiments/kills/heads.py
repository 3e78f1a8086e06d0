"""Is anything lost when the head of a cluster of several machines is killed, with all that it knows?

A head without room for workers and two nodes with one processor each, all processes of this machine. A search
(``made_up.py``) is begun on it; at a random moment the head's process (``gcs_server``) is killed with SIGKILL. The
driver has to end with a sentence of its own; the search is resumed on a new cluster, until it is finished, and its rows
are compared with those of an undisturbed one. Counts are added to ``result.json``, as ``run.py`` does.

    python experiments/kills/heads.py --cycles 10 --work /tmp/kills
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from run import HERE, descendants, rows, started

NAME = "head of a cluster"
UNTIL = "seconds until the sentence, median", "seconds until the end of the driver, median"
CLUSTER = """
import sys
from ray.cluster_utils import Cluster
small = {"object_store_memory": 80 * 2**20}
made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
for _ in range(2):
    made.add_node(num_cpus=1, **small)
print(made.address, flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def cluster(paths):
    """A cluster's process and its address; what is left of it is killed at the end."""
    # In a session of its own, and with the environment that kdzero-gp gives Ray.
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, start_new_session=True,
        env=os.environ | {"PYTHONPATH": paths, "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0",
                          "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    below = {}
    try:
        yield process, process.stdout.readline().strip()
        below = descendants(process.pid)
    finally:
        for one in [*(below or descendants(process.pid)), process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        process.communicate()


def killed(folder, chance, counts, waited):
    """Go on with a search on a new cluster until its head is killed; whether it came to its end before."""
    paths = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
    with cluster(paths) as (process, address):
        driver = started("made-up", True, folder, 2, "ray", "--address", address)
        births = folder / "run.sqlite"
        while driver.poll() is None and not births.exists():
            time.sleep(0.1)
        before, goal = len(rows(folder)["births"]), chance.randrange(1, 150)
        while driver.poll() is None and len(rows(folder)["births"]) < before + goal:
            time.sleep(0.05)
        if driver.poll() is None:
            [head] = [one for one, line in descendants(process.pid).items() if "gcs_server" in line.split(" ")[0]]
            os.kill(head, signal.SIGKILL)
            counts["cycles"] += 1
            begin = time.monotonic()
        output, told = "", None
        for line in driver.stdout:
            output, told = output + line, time.monotonic() if line.startswith("Error:") else told
        if driver.wait() == 0:
            return True
        waited.append(((told or time.monotonic()) - begin, time.monotonic() - begin))
        how = "ended by a sentence" if "Error: the head of the Ray cluster" in output else "ended otherwise"
        counts[how] += 1
        print(how, "seconds until it was there and until the end:", waited[-1], output.strip()[-300:], flush=True)
        return False


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cycles", type=int, default=10)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=HERE / "result.json")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    reference, folder = given.work / "reference-made-up", given.work / "run-heads"
    if not (reference / "finished").exists():
        shutil.rmtree(reference, ignore_errors=True)
        process = started("made-up", False, reference, 1, "local")
        output, _ = process.communicate()
        if process.returncode:
            raise SystemExit(output)
        (reference / "finished").touch()
    known = json.loads(given.output.read_text()) if given.output.exists() else {}
    counts, waited, expected = Counter(known.get(NAME, {})), [], rows(reference)
    for what in UNTIL:
        counts.pop(what, None)
    chance = random.Random(f"heads/{counts['cycles']}")
    while counts["cycles"] < given.cycles:
        shutil.rmtree(folder, ignore_errors=True)
        while not killed(folder, chance, counts, waited):
            pass
        counts["runs"] += 1
        counts["runs with a row lost or different"] += rows(folder) != expected
        found = dict(sorted(counts.items()))
        if waited:
            medians = [round(statistics.median(values), 1) for values in zip(*waited, strict=True)]
            found |= dict(zip(UNTIL, medians, strict=True))
        given.output.write_text(json.dumps(known | {NAME: found}, indent=1) + "\n")
        print(found, flush=True)


if __name__ == "__main__":
    main()
