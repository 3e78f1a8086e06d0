"""Is the winner of the own-pair tutorial better than ``kd`` on its pair?

The page's own blocks are run as they are written, in ``--work``, up to its training loop; in place of its last lines
the winner, ``kd`` and the student alone are trained by that loop on the same fresh seeds. ``kd``'s weight is tuned on
validation images over other seeds. Where the run exports a published method, its best evolved distiller is trained,
too. One line a training in ``rows.jsonl``; given again, the command goes on.

    python experiments/own_pair/run.py train --work /tmp/own-pair --search-seeds 0 1 2
    python experiments/own_pair/run.py report
"""

from __future__ import annotations

import argparse
import json
import os
import re
import runpy
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from kdzero_gp.common import interval

HERE = Path(__file__).parent
ROWS = HERE / "rows.jsonl"
PAGE = HERE.parents[1] / "docs" / "tutorials" / "own-pair.md"
BLOCK = re.compile(r"^```(bash|python)(?: file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Where the page's last block begins to train; what stands before it is kept.
COMPARISON = "weight = max("
WEIGHTS = (1, 3, 10, 30, 100)
TUNING_SEEDS = range(100, 105)
FRESH_SEEDS = range(1000, 1020)


def read() -> list[dict[str, Any]]:
    return [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []


def page_until_its_loop(folder: Path, search_seed: int) -> dict[str, Any]:
    """Do what the page says in an empty folder, with another ``--seed`` of the search than its own where that is not 0;
    its names."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    sys.path.insert(0, "")
    names: dict[str, Any] = {"__name__": "__main__"}
    for language, file, code in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if file:
            Path(file).write_text(code, encoding="utf-8")
        elif language == "bash":
            if not Path("distiller.py").exists():
                begun = time.monotonic()
                subprocess.run(["bash", "-euc", code.replace("evolve ", f"evolve --seed {search_seed} ")], check=True)
                print(f"{code.split()[1]}: {time.monotonic() - begun:.0f} s", flush=True)
        else:
            exec(code.split(COMPARISON)[0], names)
    return names


def train(work: Path, search_seeds: list[int]) -> None:
    for search_seed in search_seeds:
        done = subprocess.run([sys.executable, __file__, "one", str(work.resolve() / f"seed-{search_seed}"),
                               str(search_seed)])  # fmt: skip
        if done.returncode:
            sys.exit(done.returncode)


def one(folder: Path, search_seed: int) -> None:
    """One search and its trainings: in a process of its own, since the page's files are imported."""
    known = {(row["search_seed"], row["distiller"], row["weight"], row["seed"]) for row in read()}
    names = page_until_its_loop(folder, search_seed)
    trained, accuracy, kd, winner = names["trained"], names["accuracy"], names["kd"], names["Distiller"]
    subprocess.run(["kdzero-gp", "export", "runs/own", "--rank", "1", "-o", "evolved.py"], check=True)
    made = {"alone": lambda: None, "kd": kd, "winner": winner, "evolved": runpy.run_path("evolved.py")["Distiller"]}

    def keep(distiller: str, weight: float, seed: int) -> None:
        if (search_seed, distiller, weight, seed) in known:
            return
        student = trained(seed, made[distiller](), weight)
        row = {
            "search_seed": search_seed, "distiller": distiller, "weight": weight, "seed": seed,
            "validation": round(100 * accuracy(student, "val"), 3), "test": round(100 * accuracy(student, "test"), 3),
            "expression": made[distiller].EXPRESSION if distiller in ("winner", "evolved") else "",
        }  # fmt: skip
        with ROWS.open("a") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")

    for weight in WEIGHTS:
        for seed in TUNING_SEEDS:
            keep("kd", weight, seed)
    best = tuned(read(), search_seed)
    for seed in FRESH_SEEDS:
        keep("alone", 1, seed)
        keep("kd", best, seed)
        keep("winner", 1, seed)
        if made["evolved"].EXPRESSION != winner.EXPRESSION:
            keep("evolved", 1, seed)


def tuned(rows: list[dict[str, Any]], search_seed: int) -> float:
    """``kd``'s weight that is best by validation images over the seeds for tuning."""
    found: dict[float, list[float]] = {}
    for row in rows:
        if row["search_seed"] == search_seed and row["distiller"] == "kd" and row["seed"] in TUNING_SEEDS:
            found.setdefault(row["weight"], []).append(row["validation"])
    return max(found, key=lambda weight: statistics.fmean(found[weight]))


def report() -> None:
    rows = read()
    for search_seed in sorted({row["search_seed"] for row in rows}):
        best = tuned(rows, search_seed)
        of = {
            name: {r["seed"]: r for r in rows
                   if r["search_seed"] == search_seed and r["distiller"] == name and r["seed"] in FRESH_SEEDS}
            for name in ("alone", "kd", "winner", "evolved")
        }  # fmt: skip
        means = [
            f"{name} {statistics.fmean(r['test'] for r in found.values()):.2f}" for name, found in of.items() if found
        ]
        print(f"search seed {search_seed}: {', '.join(means)} (kd at weight {best:g})")
        for name in ("winner", "evolved"):
            leads = [row["test"] - of["kd"][seed]["test"] for seed, row in of[name].items()]
            if leads:
                what = next(iter(of[name].values()))["expression"]
                lead = f"{statistics.fmean(leads):+.2f} ± {interval(leads):.2f} points"
                print(f"  {name} - kd: {lead}, {len(leads)} paired seeds: {what}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    trains = commands.add_parser("train")
    trains.add_argument("--work", type=Path, required=True)
    trains.add_argument("--search-seeds", type=int, nargs="+", default=[0])
    single = commands.add_parser("one")
    single.add_argument("folder", type=Path)
    single.add_argument("search_seed", type=int)
    commands.add_parser("report")
    given = parser.parse_args()
    if given.command == "train":
        train(given.work, given.search_seeds)
    elif given.command == "one":
        one(given.folder, given.search_seed)
    else:
        report()
