"""Long trainings ResNet-56 → ResNet-20 with ``kd``, ``dkd``, ``dist`` and the distiller of the default search, several
at once on one device, each going on from its checkpoint.

The first start measures an epoch with all processes at work and chooses as many epochs as fit into ``--seconds``; they
are kept in ``plan.json``, so that later starts go on with the same trainings and, where there is time, further seeds.
Checkpoints are packed into ``long-0.tar`` … in the folder of the results as long as trainings go on.

    python experiments/gpu/long.py … --seconds 200 [--previous FOLDER]
"""

import argparse
import csv
import json
import multiprocessing
import queue
import shutil
import tarfile
import time
from pathlib import Path

import common
import torch

from kdzero_gp.training import Machine, Pair, distill

SEARCHED = "searched"
DISTILLERS = ("kd", SEARCHED, "dkd", "dist")
ARCHIVES = 4
PLAN = "plan.json"
# Most epochs of the recipe that published numbers are from.
LONGEST = 240
# Of the time that is left, what epochs are planned for: trainings also start, measure and write.
SHARE = 0.8
PACK_EVERY = 20.0


def pair(options, epochs):
    """The pair with the recipe of published numbers."""
    return Pair("cifar100", common.STUDENT, common.TEACHER, str(options.weights), str(options.data), "cifar100",
                {"epochs": epochs} | ({"batch_size": 8} if options.tiny else {}))  # fmt: skip


def one(options, epochs, name, seed, folder):
    """One training; gives its result as a mapping."""
    machine = Machine(options.device.type, threads=1)
    distiller = options.work / "searched.py" if name == SEARCHED else f"zoo:{name}"
    found = distill(pair(options, epochs), distiller, out=folder, seed=seed, machine=machine)
    return found.as_dict()


def work(options, jobs, answers):
    """A process: trainings one after the other."""
    torch.set_num_threads(1)
    answers.put(("ready", None))
    while (job := jobs.get()) is not None:
        try:
            answers.put((job, one(options, *job)))
        except Exception as error:  # one training's end is not the end of the others
            answers.put((job, {"reason": f"{type(error).__name__}: {str(error)[:300]}"}))


class Pool:
    """Processes that train; ended by their own handles when the time is over."""

    def __init__(self, options, count):
        context = multiprocessing.get_context("spawn")
        self.jobs, self.answers = context.Queue(), context.Queue()
        self.processes = [context.Process(target=work, args=(options, self.jobs, self.answers), daemon=True)
                          for _ in range(count)]  # fmt: skip
        for process in self.processes:
            process.start()
        for _ in self.processes:
            self.answers.get(timeout=120)

    def close(self):
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join(timeout=10)


def plan(options, pool, deadline, folder):
    """The epochs of all trainings, chosen once."""
    path = folder / PLAN
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))["epochs"], None
    if options.epochs:
        epochs, seconds = options.epochs, None
    else:
        places = [options.work / "calibration" / str(index) for index in range(len(pool.processes))]
        for index, place in enumerate(places):
            pool.jobs.put((1, DISTILLERS[index % len(DISTILLERS)], 0, place))
        for _ in places:
            pool.answers.get(timeout=max(1.0, deadline - time.time()))
        seconds = max(last_epoch(place) for place in places)
        epochs = max(2, min(LONGEST, int(SHARE * (deadline - time.time()) / seconds)))
    path.write_text(json.dumps({"epochs": epochs, "seconds_an_epoch": seconds}), encoding="utf-8")
    return epochs, seconds


def last_epoch(folder):
    """Seconds of a training's last epoch."""
    with (folder / "log.csv").open() as file:
        return float(list(csv.DictReader(file))[-1]["seconds"])


def pack(folder, out):
    """Settings, checkpoints, logs and results of all trainings as a few files; the teacher's outputs stay behind."""
    groups = [[] for _ in range(ARCHIVES)]
    for number, training in enumerate(sorted(path for path in folder.iterdir() if path.is_dir())):
        groups[number % ARCHIVES] += [f for f in training.iterdir() if f.name != "teacher.pt" and f.name[0] != "."]
    for number, files in enumerate(groups):
        temporary = out / f".long-{number}.tar"
        with tarfile.open(temporary, "w") as archive:
            for path in [folder / PLAN, *files]:
                try:
                    archive.add(path, path.relative_to(folder))
                except FileNotFoundError:  # a training has just ended and removed its checkpoint
                    continue
        temporary.replace(out / f"long-{number}.tar")


def unpack(previous, folder):
    """What an earlier start packed."""
    for path in sorted(Path(previous).glob("long-*.tar")):
        with tarfile.open(path) as archive:
            archive.extractall(folder, filter="data")


def wanted(folder, epochs, seeds):
    """The trainings without a result, whole seeds first."""
    jobs = [(epochs, name, seed, folder / f"{name}-seed{seed}") for seed in range(seeds) for name in DISTILLERS]
    return [job for job in jobs if not (job[3] / "result.json").exists()]


def progress(folder):
    """The epochs that each training has behind it."""
    return {log.parent.name: len(log.read_text().splitlines()) - 1 for log in sorted(folder.glob("*/log.csv"))}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--epochs", type=int, help="instead of as many as fit")
    parser.add_argument("--seeds", type=int, default=1, help="seeds of the first start; later ones add as many")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--previous", type=Path, help="the folder with long-0.tar, … of an earlier start")
    options = common.arguments(parser)
    deadline = time.time() + options.seconds - 8  # the last packing
    results = common.Results(options.results, options.device)
    folder, out = options.work / "long", options.results.parent
    folder.mkdir(parents=True, exist_ok=True)
    if options.previous:
        unpack(options.previous, folder)
    common.searched_file(options.work / "searched.py")
    begun = len(progress(folder)) // len(DISTILLERS)
    start = time.time()
    pool = Pool(options, options.processes)
    results.add("long", processes=options.processes, seconds_to_start=time.time() - start)
    try:
        epochs, seconds = plan(options, pool, deadline, folder)
        results.add("long", epochs=epochs, seconds_an_epoch=seconds, processes=options.processes)
        jobs = wanted(folder, epochs, begun + options.seeds)
        for job in jobs:
            pool.jobs.put(job)
        follow(pool, len(jobs), deadline, folder, out, results)
    finally:
        pool.close()
        pack(folder, out)
    results.add("long", epochs_behind=progress(folder))
    shutil.rmtree(options.work / "calibration", ignore_errors=True)


def follow(pool, left, deadline, folder, out, results):
    """Write down what ends until all has, or the time is over."""
    packed = time.time()
    while left and time.time() < deadline:
        try:
            job, found = pool.answers.get(timeout=1.0)
        except queue.Empty:
            job = None
        if job is not None:
            epochs, name, seed, _ = job
            left -= 1
            results.add("long", **found | {"distiller": name, "seed": seed, "epochs": epochs})
        if time.time() - packed > PACK_EVERY:
            pack(folder, out)
            packed = time.time()


if __name__ == "__main__":
    main()
