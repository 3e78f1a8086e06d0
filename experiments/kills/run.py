"""Is anything lost, or different, when a search is killed at random moments and resumed, under whatever engine?

A search is carried out once without disturbance. Then it is begun again and again; at random moments its driver, one of
its workers or (with Ray) the local cluster's raylet is killed with SIGKILL, and it is resumed with another number of
workers and perhaps another engine, until it is finished; its rows are then compared with those of the first. A cycle is
one kill and what follows until the next. Counts are added to ``result.json``, so that cycles can be run in parts; the
moments follow from how many there were.

The search is ``made_up.py``, whose outcomes take hundredths of a second, or with ``--search digits`` a small real one.

    python experiments/kills/run.py --cycles 200 --work /tmp/kills
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
# Seconds in which a search has to come to its end, or to a kill.
PATIENCE = 6 * 3600.0
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


def started(search, resume, folder, workers, engine, *options):
    """A search in a session of its own."""
    machine = "--workers", workers, "--engine", engine, *options
    if search == "digits":
        command = "-c", COMMAND, *(("resume", folder) if resume else ("evolve", *OPTIONS, "--out", folder)), *machine
    else:
        command = HERE / "made_up.py", folder, *machine
    paths = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, *map(str, command)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
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
    """A run of digits that has its teacher and its warm student and nothing else yet; of the other search nothing."""
    if not (reference / "distiller.py").exists():
        return
    shutil.copytree(reference, folder)
    (folder / "distiller.py").unlink()
    with contextlib.closing(sqlite3.connect(folder / "run.sqlite")) as database, database:
        for table in (*TABLES[1:], "answers", "costs"):
            database.execute(f"DELETE FROM {table}")
        database.execute("DELETE FROM facts WHERE name NOT IN ('settings', 'versions')")


def used(process):
    """Seconds of the processor that a process and those below it have used: on a machine that is busy otherwise kills
    have to come as often in the work as on another."""
    ticks = 0
    for one in [process, *descendants(process)]:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def left_behind(killed, counts, seconds=120.0):
    """Count what is there of killed drivers' processes so long after, and end it. Ray's agents look for their cluster
    for a minute."""
    while killed and killed[0][0] + seconds < time.monotonic():
        for one, (begin, line) in killed.pop(0)[1].items():
            if begin is not None and begun(one) == begin:
                counts["processes left behind for 2 minutes"] += 1
                print("left behind:", line[:60], flush=True)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one, signal.SIGKILL)


def begun(process):
    """When a process began, in ticks since the machine's start; None where it is gone."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    return None


def resumed(given, folder, chance, counts, killed, save):
    """Go on with a run for a while; whether it came to its end."""
    engine = chance.choice(given.engines)
    process = started(given.search, True, folder, chance.choice((1, 2, 3)), engine)
    seconds, end = given.seconds * (3 if engine == "ray" else 1), time.monotonic() + PATIENCE
    while time.monotonic() < end:
        until = used(process.pid) + chance.random() * seconds
        while process.poll() is None and used(process.pid) < until and time.monotonic() < end:
            time.sleep(0.1)
        if process.poll() is not None:
            output = process.communicate()[0]
            if process.returncode not in (0, -9):
                counts[f"ended by a sentence ({engine})" if "Error:" in output else "ended otherwise"] += 1
                print(output[-600:], flush=True)
            return process.returncode == 0
        below = {one: (begun(one), line) for one, line in descendants(process.pid).items()}
        known = victims(process.pid)
        kind = chance.choice(sorted(known))
        with contextlib.suppress(ProcessLookupError):
            os.kill(chance.choice(known[kind]), signal.SIGKILL)
            counts[f"{kind} killed ({engine})"] += 1
            counts["cycles"] += 1
            save()
        if kind == "driver":
            process.communicate()
            killed.append((time.monotonic(), below))
            return False
    process.kill()
    raise SystemExit(f"{folder} came to no end in {PATIENCE / 60:.0f} minutes")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cycles", type=int, default=200, help="those of before too")
    parser.add_argument("--search", choices=("made-up", "digits"), default="made-up")
    parser.add_argument("--engines", nargs="+", default=["local", "local", "ray"])
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="of the processor, at most between two kills; with Ray three times"
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=HERE / "result.json")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    reference = given.work / f"reference-{given.search}"
    if not (reference / "finished").exists():
        shutil.rmtree(reference, ignore_errors=True)
        process = started(given.search, False, reference, 1, "local")
        output, _ = process.communicate()
        if process.returncode:
            raise SystemExit(output)
        (reference / "finished").touch()
    expected, known = rows(reference), json.loads(given.output.read_text()) if given.output.exists() else {}
    counts, killed = Counter(known.get(given.search, {})), []

    def save():
        written = known | {given.search: dict(sorted(counts.items()))}
        given.output.write_text(json.dumps(written, indent=1) + "\n")

    chance, folder = random.Random(f"{given.search}/{counts['cycles']}"), given.work / f"run-{given.search}"
    while counts["cycles"] < given.cycles:
        shutil.rmtree(folder, ignore_errors=True)
        unfinished(reference, folder)
        while not resumed(given, folder, chance, counts, killed, save):
            left_behind(killed, counts)
        counts["runs"] += 1
        counts["runs with a row lost or different"] += rows(folder) != expected
        save()
        print(dict(counts), flush=True)
    time.sleep(120 if killed else 0)
    left_behind(killed, counts)
    save()


if __name__ == "__main__":
    main()
