"""How much faster is a search than the plain loop (see plain.py) with the same proxy?

``candidate``: one candidate of a run's pair, the plain loop with all threads against our workers (one thread each),
in turn; the median ratio of the pairs. The folder is that of a run, whose bench (images, warm student, recipes) both
use. ``training``: what distillers cost in such a training beside cross-entropy alone. ``search``: how many full proxy
trainings either search needs for the same best fitness; of several runs, each with its own seed.

    python experiments/search_speed/run.py candidate RUN --teacher-weights resnet56.safetensors
    python experiments/search_speed/run.py training RUN
    python experiments/search_speed/run.py search RUN RUN RUN --births 2000
"""

import argparse
import json
import math
import os
import platform
import statistics
import time
from pathlib import Path

import plain
import torch

import kdzero_gp
from kdzero_gp.common import interval
from kdzero_gp.compiler import pair_shapes, source_of, zoo
from kdzero_gp.evolution import Grammar
from kdzero_gp.models import build
from kdzero_gp.models.split import halves
from kdzero_gp.models.taps import Tapped
from kdzero_gp.models.weights import load_weights
from kdzero_gp.proxy.evaluator import Evaluator, Probe, Train
from kdzero_gp.proxy.executor import Executor
from kdzero_gp.proxy.fitness import fitness
from kdzero_gp.proxy.students import student_builder
from kdzero_gp.proxy.task import ProxyTask
from kdzero_gp.search.prepare import PROXY_TASK
from kdzero_gp.search.storage import Database

HERE = Path(__file__).parent
METHODS = ("kd", "at", "mse", "fitnet")


def teacher_of(folder, weights, example, bench):
    """The run's teacher, as its settings name it."""
    with Database.read(folder) as database:
        settings = database.fact("settings")
    network = build(settings["teacher"], bench.student["classes"], bench.student["channels"])
    load_weights(network, weights or settings["teacher_weights"] or folder / "teacher.safetensors")
    return Tapped(network, example).eval()


def plain_candidate(bench, teacher, grammar, name, magnitude):
    """One candidate by the plain loop, and its metrics."""
    torch.set_num_threads(os.cpu_count() or 1)
    student = student_builder(bench.student, bench.train.images[:2])()
    student.network.load_state_dict(bench.warm)
    loss, frozen = plain.compiled(grammar, zoo[name]), None
    if bench.maps:
        frozen = halves(student.network, bench.tail["cut"], bench.tail["taps"])[0].requires_grad_(False)
    images, labels, recipe = bench.train.images, bench.train.labels, bench.recipes["proxy"]
    plain.train(student, teacher, images, labels, recipe, 0, loss, magnitude, frozen)
    return plain.measure(student, teacher, bench.validation.images, bench.validation.labels)


def candidates(folder, weights, pairs):
    """Seconds a candidate of both, in turn, and the ratio of each pair."""
    bench = ProxyTask.load(folder / PROXY_TASK)
    example = bench.train.images[:2]
    teacher = teacher_of(folder, weights, example, bench)
    grammar = Grammar("open", pair_shapes(bench.student_shapes, bench.teacher_shapes).types)
    workers = os.cpu_count() or 1
    rows = []
    with Executor(folder / PROXY_TASK, workers) as executor:
        sources = {name: source_of(zoo[name], bench.student_shapes, bench.teacher_shapes) for name in METHODS}
        # the first evaluation of a worker loads libraries
        list(executor.map([Train("", seed) for seed in range(workers)]))
        for pair in range(pairs):
            name = METHODS[pair % len(METHODS)]
            start = time.perf_counter()
            probed = dict(executor.map([Probe(sources[name], seed) for seed in range(workers)]))
            trains = [Train(sources[name], seed, probed[seed].magnitudes) for seed in range(workers)]
            outcomes = dict(executor.map(trains))
            ours = (time.perf_counter() - start) / workers
            magnitude = probed[0].magnitudes[0]
            start = time.perf_counter()
            found = plain_candidate(bench, teacher, grammar, name, magnitude)
            theirs = time.perf_counter() - start
            accuracies = {"accuracy_ours": outcomes[0].metrics["accuracy"], "accuracy_plain": found["accuracy"]}
            rows.append({"method": name, "ours_s": ours, "plain_s": theirs, "ratio": theirs / ours, **accuracies})
            print(json.dumps(rows[-1]), flush=True)
    ratios = [row["ratio"] for row in rows]
    return {"pairs": rows, "median_ratio": statistics.median(ratios), "precision": str(bench.precision)}


def searches(folders, births):
    """The plain search on every run's bench, and the geometric mean of the shares of its trainings that runs need."""
    rows = []
    for folder in folders:
        rows.append(search(folder, births))
        print(json.dumps(rows[-1]), flush=True)
    # where a run never comes as low, it needs more than all of its trainings
    shares = [row["share"] or row["ours_trainings"] / row["plain_best_after"] for row in rows]
    logs = [math.log(share) for share in shares]
    mean, half = statistics.fmean(logs), interval(logs)
    return {"runs": rows, "share": math.exp(mean), "share_interval": [math.exp(mean - half), math.exp(mean + half)]}


def search(folder, births):
    """The plain search on a run's bench: the best fitness after each of its full trainings, and the run's own."""
    bench = ProxyTask.load(folder / PROXY_TASK).of("proxy")
    shapes = pair_shapes(bench.student_shapes, bench.teacher_shapes)
    evaluator = Evaluator(bench, student_builder(bench.student, bench.train.images[:2]))
    torch.set_num_threads(1)
    with Database.read(folder) as database:
        settings = database.fact("settings")
        baseline = [m.metrics for m in database.measurements("baseline")]
        known = {e.digest: e for e in database.evaluations()}
        ours = [known[b.digest] for b in database.births() if b.duplicate_of is None]
    means = {name: statistics.fmean(m[name] for m in baseline) for name in baseline[0]}
    weights = settings["plan"]["weights"]
    theirs = []

    def evaluate(expression):
        _, trained = evaluator.evaluate(source_of(expression, bench.student_shapes, bench.teacher_shapes), seed)
        return 1e9 if trained.reason else fitness(trained.metrics, means, weights)

    population, seed = settings["search"]["population"], settings["search"]["seed"]
    plain.evolve(Grammar("open", shapes.types), evaluate, population, births // population, seed, theirs.append)
    best_plain, own, best, trained = min(theirs), [], 1e9, 0
    for found in ours:
        full = not found.equivalent_to and not found.screen
        trained += full
        if full and found.fitness is not None and found.fitness < best:
            best = found.fitness
            own.append([trained, best])
    needed = next((count for count, value in own if value <= best_plain), None)
    reached = next(index for index, value in enumerate(theirs, 1) if value == best_plain)
    return {"seed": seed, "plain_trainings": len(theirs), "plain_best": best_plain, "plain_best_after": reached,
            "ours_trainings": trained, "ours_births": len(ours), "ours_best": best, "ours_for_plains_best": needed,
            "share": None if needed is None else needed / reached}  # fmt: skip


def trainings(folder, pairs, top):
    """Milliseconds of a proxy's step with each distiller and with cross-entropy alone, in turn, and their ratio."""
    torch.set_num_threads(1)
    bench = ProxyTask.load(folder / PROXY_TASK).of("proxy")
    evaluator = Evaluator(bench, student_builder(bench.student, bench.train.images[:2]))
    with Database.read(folder) as database:
        evolved = [e for e in database.evaluations() if e.fitness is not None and not e.equivalent_to][:top]
    sources = {name: source_of(zoo[name], bench.student_shapes, bench.teacher_shapes) for name in METHODS}
    sources |= {e.expression: source_of(e.expression, bench.student_shapes, bench.teacher_shapes) for e in evolved}
    ratios = {name: [] for name in sources}
    for seed in range(pairs):
        for name, source in sources.items():
            alone = evaluator.train(Train("", seed)).step_milliseconds
            ratios[name].append(evaluator.evaluate(source, seed)[1].step_milliseconds / alone)
        print(seed, {name[:40]: round(values[-1], 3) for name, values in ratios.items()}, flush=True)
    return {"ratio_to_cross_entropy": {name: statistics.median(values) for name, values in ratios.items()},
            "evolved": [e.expression for e in evolved], "pairs": pairs}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("candidate", "training", "search"))
    parser.add_argument("folders", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--teacher-weights", type=Path)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--top", type=int, default=3, help="how many of the run's evolved distillers")
    parser.add_argument("--births", type=int, default=2000)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    if given.what == "candidate":
        found = candidates(given.folders[0], given.teacher_weights, given.pairs)
    elif given.what == "training":
        found = trainings(given.folders[0], given.pairs, given.top)
    else:
        found = searches(given.folders, given.births)
    found["machine"] = {"processor": platform.processor(), "cores": os.cpu_count(), "torch": torch.__version__,
                        "kdzero_gp": kdzero_gp.__version__}  # fmt: skip
    print(json.dumps(found, indent=1))
    output = given.output or HERE / f"{given.what}.json"
    output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
