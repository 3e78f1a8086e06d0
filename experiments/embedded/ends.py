"""What do the distillers of a search end with, and would another way to the winner have found a better one?

Candidates of finished runs (the fittest, those spread over the fitness, and the tuned published methods) are trained
as a race trains, on seeds of their own. One line a training in ``ends.jsonl``; given again, the command goes on.

    python experiments/embedded/ends.py train RUN ... --fittest 60 --spread 30 --seeds 8
    python experiments/embedded/ends.py report
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from kdzero_gp.common import ALONE
from kdzero_gp.compiler import digest, source_of, zoo
from kdzero_gp.proxy.evaluator import Train
from kdzero_gp.proxy.executor import Executor
from kdzero_gp.proxy.task import ProxyTask
from kdzero_gp.search.prepare import PROXY_TASK
from kdzero_gp.search.race import Competitor, diverse, tuned_zoo
from kdzero_gp.search.storage import Database, Status

HERE = Path(__file__).parent
ROWS = HERE / "ends.jsonl"
# apart from all that a run trains on
FIRST_SEED = 9_000_000


def candidates(database: Database, fittest: int, spread: int) -> list[tuple[str, Competitor]]:
    """Which distillers are trained to the end, each with the group it belongs to."""
    published = {digest(expression) for expression in zoo.values()}
    trained = [e for e in database.evaluations() if e.status is Status.TRAINED and e.digest not in published]
    trained.sort(key=lambda e: e.fitness)
    best = list(diverse(trained))[:fittest]
    rest = [e for e in trained if e not in best]
    places = np.linspace(0, len(rest) - 1, min(spread, len(rest))).astype(int) if spread else []
    found = [("fittest", e) for e in best] + [("spread", rest[place]) for place in dict.fromkeys(places)]
    listed = [(group, Competitor.of(e)) for group, e in found]
    tuned = [("zoo", entry) for entry in tuned_zoo(database).values()]
    return [*listed, *tuned, ("alone", Competitor(ALONE, "baseline"))]


def train(folders: Sequence[Path], fittest: int, spread: int, seeds: int, workers: int) -> None:
    known = {(row["run"], row["name"], row["seed"]) for row in read()}
    for folder in folders:
        with Database.read(folder) as database:
            listed = candidates(database, fittest, spread)
        bench = ProxyTask.load(folder / PROXY_TASK)
        todo = [
            (group, entry, FIRST_SEED + index)
            for index in range(seeds) for group, entry in listed
            if (folder.name, entry.name, FIRST_SEED + index) not in known
        ]  # fmt: skip
        shapes = bench.student_shapes, bench.teacher_shapes
        knowledge = bench.family.knowledge
        sources = [
            source_of(e.expression, *shapes, e.magnitudes, knowledge=knowledge) if e.expression else ""
            for _, e, _ in todo
        ]
        requests = [Train(source, seed, recipe="race") for source, (_, _, seed) in zip(sources, todo, strict=True)]
        with Executor(folder / PROXY_TASK, workers, "cpu", 600.0) as executor, ROWS.open("a") as file:
            for place, trained in executor.map(requests):
                group, entry, seed = todo[place]
                row = {"run": folder.name, "group": group, "name": entry.name, "expression": entry.expression,
                       "fitness": entry.fitness, "seed": seed, "reason": trained.reason,
                       **{name: round(value, 5) for name, value in trained.metrics.items()}}  # fmt: skip
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                file.flush()


def read() -> list[dict]:
    return [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []


def report() -> None:
    rows = [row for row in read() if not row["reason"]]
    for run in dict.fromkeys(row["run"] for row in rows):
        table: dict[str, dict[int, dict]] = {}
        for row in rows:
            if row["run"] == run:
                table.setdefault(row["name"], {})[row["seed"]] = row
        whole = {name: found for name, found in table.items() if len(found) == max(map(len, table.values()))}
        seeds = sorted(next(iter(whole.values())))
        print(f"\n{run}: {len(whole)} distillers, {len(seeds)} seeds")
        end = {name: statistics.fmean(r["test_accuracy"] for r in found.values()) for name, found in whole.items()}
        fit = {name: found[seeds[0]]["fitness"] for name, found in whole.items()}
        group = {name: found[seeds[0]]["group"] for name, found in whole.items()}
        for wanted in (("fittest",), ("fittest", "spread"), ("zoo",), ("fittest", "spread", "zoo")):
            names = [name for name in whole if group[name] in wanted and fit[name] is not None]
            rho = spearmanr([-fit[n] for n in names], [end[n] for n in names]).statistic
            print(f"  Spearman of fitness with the end, {'+'.join(wanted)} ({len(names)}): {rho:.2f}")
        for name in sorted(end, key=lambda n: -end[n])[:12]:
            expression = whole[name][seeds[0]]["expression"]
            print(f"  {end[name]:.4f} {group[name]:8s} {fit[name] or 1:.3f} {expression[:110]}")
        for name in ("kd", "dist", "wsld"):
            if name in end:
                print(f"  {name}: {100 * end[name]:.2f}")
        judged = {name: value for name, value in fit.items() if value is not None and name != ALONE}
        first = min(judged, key=lambda n: judged[n])
        print(f"  the fittest of all ends with {100 * end[first]:.2f}, to kd {100 * (end[first] - end['kd']):+.2f}")
        best = []
        for _ in range(300):
            drawn = random.Random(len(best)).sample(seeds, len(seeds))
            half, rest = drawn[: len(drawn) // 2], drawn[len(drawn) // 2 :]
            name = max(judged, key=lambda n: statistics.fmean(whole[n][s]["test_accuracy"] for s in half))
            best.append(
                statistics.fmean(whole[name][s]["test_accuracy"] - whole["kd"][s]["test_accuracy"] for s in rest)
            )
        print(f"  the best by half of the seeds, on the other half: {100 * statistics.fmean(best):+.2f} to kd")
        _policies(whole, group, fit, seeds)


def _policies(whole, group, fit, seeds) -> None:
    """Test accuracy of whom a way would have named, on seeds that it did not use, less kd's; means over draws of the
    seeds."""
    evolved = sorted((n for n in whole if group[n] == "fittest"), key=lambda n: fit[n])
    generator = random.Random(0)
    for heat, raced in ((10, 10), (20, 10), (40, 10), (60, 10), (20, 20), (40, 5), (60, 5)):
        gains = []
        for _ in range(300):
            drawn = generator.sample(seeds, len(seeds))
            heat_seed, race, fresh = drawn[:1], drawn[1:5], drawn[5:]
            names = evolved[:heat]
            if heat > raced:
                names = sorted(names, key=lambda n: -whole[n][heat_seed[0]]["accuracy"])[:raced]
                race = heat_seed + race
            best = max(names, key=lambda n: statistics.fmean(whole[n][s]["accuracy"] for s in race))
            paired = [whole[best][s]["test_accuracy"] - whole["kd"][s]["test_accuracy"] for s in fresh]
            gains.append(statistics.fmean(paired))
        print(f"  {heat} by fitness, {raced} raced: {100 * statistics.fmean(gains):+.2f} to kd")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("train")
    one.add_argument("runs", nargs="+", type=Path)
    one.add_argument("--fittest", type=int, default=60)
    one.add_argument("--spread", type=int, default=30)
    one.add_argument("--seeds", type=int, default=8)
    one.add_argument("--workers", type=int, default=2)
    commands.add_parser("report")
    given = parser.parse_args()
    if given.command == "train":
        train(given.runs, given.fittest, given.spread, given.seeds, given.workers)
    else:
        report()


if __name__ == "__main__":
    main()
