"""Is anything lost, or different, when a search is killed at random moments and resumed, under whatever engine?

A small search of digits is carried out once without disturbance. Then it is begun again and again; at random moments
its driver, one of its workers or (with Ray) the local cluster's raylet is killed with SIGKILL, and it is resumed with
another number of workers and perhaps another engine, until it is finished; its rows are then compared with those of the
first. Counts are added to ``result.json``, so that cycles can be run in parts.

    python experiments/kills/run.py --cycles 20 --work /tmp/kills
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
TABLES = ("facts", "births", "evaluations", "measurements")
OPTIONS = ("--generations", "6", "--pop", "5", "--race-top", "2", "--race-seeds", "2", "--fresh-seeds", "0", "--images",
           "128", "--validation-images", "64", "--seed", "3")  # fmt: skip
# The command with one magnitude of each published method and short trainings.
COMMAND = """
from dataclasses import replace
from kdzero_gp.cli import main
from kdzero_gp.tasks import TASKS
task = TASKS["digits"]
plan = replace(task.plan, teacher_recipe=replace(task.plan.teacher_recipe, epochs=8), zoo_factors=(1.0,),
               baseline_seeds=2, race=replace(task.plan.race, epochs=6))
TASKS["digits"] = replace(task, plan=plan)
main(prog_name="kdzero-gp")
"""


def started(*arguments):
    """The command in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def rows(folder):
    """All that a run found; what arrives in an order of its own is sorted."""
    with contextlib.closing(sqlite3.connect(f"file:{folder / 'run.sqlite'}?mode=ro", uri=True)) as database:
        found = {table: database.execute(f"SELECT * FROM {table} ORDER BY rowid").fetchall() for table in TABLES}
    return {table: sorted(found[table]) if table in ("facts", "measurements") else found[table] for table in TABLES}


def descendants(process):
    """The processes below one, with their command lines."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            parents[int(folder.name)] = parent, (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    below, todo = {}, [process]
    while todo:
        parent = todo.pop()
        children = {one: line for one, (its, line) in parents.items() if its == parent}
        below |= children
        todo += children
    return below


def victims(process):
    """What can be killed of a run, by kind."""
    below = descendants(process)
    named = {"raylet": "raylet/raylet", "worker": "ray::_Actor"}
    found = {kind: [one for one, line in below.items() if mark in line] for kind, mark in named.items()}
    found["worker"] += [one for one, line in below.items() if "multiprocessing.spawn" in line]
    return {"driver": [process]} | {kind: processes for kind, processes in found.items() if processes}


def unfinished(reference, folder):
    """A run that has its teacher and its warm student and nothing else yet."""
    shutil.copytree(reference, folder)
    (folder / "distiller.py").unlink()
    with contextlib.closing(sqlite3.connect(folder / "run.sqlite")) as database, database:
        for table in (*TABLES[1:], "answers", "costs"):
            database.execute(f"DELETE FROM {table}")
        database.execute("DELETE FROM facts WHERE name NOT IN ('settings', 'versions')")


def resumed(folder, chance, engines, seconds, counts):
    """Go on with a run for a while; whether it came to its end."""
    engine = chance.choice(engines)
    process = started("resume", folder, "--workers", chance.choice((1, 2, 3)), "--engine", engine)
    end = time.monotonic() + 600
    while time.monotonic() < end:
        with contextlib.suppress(subprocess.TimeoutExpired):
            output, _ = process.communicate(timeout=chance.random() * seconds)
            if process.returncode not in (0, -9):
                counts[f"ended with {process.returncode}"] += 1
                print(output[-600:], flush=True)
            return process.returncode == 0
        known = victims(process.pid)
        kind = chance.choice(sorted(known))
        with contextlib.suppress(ProcessLookupError):
            os.kill(chance.choice(known[kind]), signal.SIGKILL)
            counts[f"{kind} killed ({engine})"] += 1
        counts["cycles"] += 1
        if kind == "driver":
            process.communicate()
            return False
    process.kill()
    raise SystemExit(f"{folder} came to no end in 10 minutes")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cycles", type=int, default=20)
    parser.add_argument("--engines", nargs="+", default=["local", "ray"])
    parser.add_argument("--seconds", type=float, default=40.0, help="at most between two kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, required=True)
    given = parser.parse_args()
    reference, chance = given.work / "reference", random.Random(given.seed)
    if not (reference / "distiller.py").exists():
        shutil.rmtree(reference, ignore_errors=True)
        process = started("evolve", *OPTIONS, "--workers", 1, "--out", reference)
        output, _ = process.communicate()
        if process.returncode:
            raise SystemExit(output)
    expected, result = rows(reference), HERE / "result.json"
    counts = Counter(json.loads(result.read_text()) if result.exists() else {})
    last = counts["cycles"] + given.cycles
    while counts["cycles"] < last:
        folder = given.work / "run"
        shutil.rmtree(folder, ignore_errors=True)
        unfinished(reference, folder)
        while not resumed(folder, chance, given.engines, given.seconds, counts):
            result.write_text(json.dumps(counts, indent=1, sort_keys=True) + "\n")
        counts["runs"] += 1
        counts["runs with a row lost or different"] += rows(folder) != expected
        result.write_text(json.dumps(counts, indent=1, sort_keys=True) + "\n")
        print(dict(counts), flush=True)


if __name__ == "__main__":
    main()
