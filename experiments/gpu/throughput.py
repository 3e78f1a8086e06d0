"""How many candidates a second does one device score, and by which means?

1. ``strategy``: milliseconds a proxy step and student: as it is, as a graph, and with several students stacked.
2. ``workers``: seconds a candidate with 1, 2, 4, 8, 16 worker processes on the device, as a search evaluates.
3. ``plain``: the training loop of a tutorial (whole student, teacher on every batch), for one candidate.
4. ``projection``: what 2,000 births take if all are trained, and the share of the device's peak.
"""

import argparse
import multiprocessing
import os
import statistics
import time

import common
import stacked
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from kdzero_gp.compiler import zoo
from kdzero_gp.models import build
from kdzero_gp.models.taps import Tapped

BIRTHS = 2000
# Nvidia's number for dense bfloat16 on the H100 and H200 (SXM).
DATASHEET = 989e12


def strategies(task, device, results, tiny):
    """The table that decides how steps are taken; returns the lowest milliseconds a step and student."""
    proxy, kd = task.of("proxy"), common.source_for(task, zoo["kd"])
    warm, steps, repeats = (1, 1, 1) if tiny else (6, 100, 3)
    best = float("inf")
    for label, precision in common.precisions().items():
        for captured in (False, True):
            counts = (1, 2) if tiny else (1, 4, 16, 64)
            for count in counts:
                name = "one" if count == 1 else f"stacked {count}"
                try:
                    if count == 1:
                        training = common.Training(proxy, device, precision, kd, captured)
                    else:
                        training = stacked.Stacked(proxy, device, precision, count, captured)
                    training.run(warm)
                    milliseconds = statistics.median(training.run(steps) for _ in range(repeats))
                    reason = training.reason if captured else ""
                    best = min(best, milliseconds / count)
                    results.add("strategy", kind=name, precision=label, captured=captured and not reason,
                                reason=reason, students=count, step_milliseconds=milliseconds,
                                milliseconds_a_student=milliseconds / count)  # fmt: skip
                except Exception as error:  # a strategy that cannot be had is a result too
                    results.add("strategy", kind=name, precision=label, captured=captured,
                                reason=f"{type(error).__name__}: {str(error)[:200]}")  # fmt: skip
                training = None
                if device.type == "cuda":
                    torch.cuda.empty_cache()
    return best


def work(path, device, requests, answers):
    """A worker process: says that it is ready, then answers lists of (source, seed) until it gets None."""
    torch.set_num_threads(1)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    evaluator = common.load_evaluator(path, torch.device(device))
    reason, _ = common.evaluated(evaluator, "", 0)
    answers.put(("ready", reason, {}))
    while (wanted := requests.get()) is not None:
        for source, seed in wanted:
            answers.put(("done", *common.evaluated(evaluator, source, seed)))


def workers(task, path, device, results, tiny):
    """Seconds a candidate by number of workers; returns the fewest."""
    sources = [common.source_for(task, zoo[name]) for name in ("kd", "dist", "at", "sp", "dkd", "cc")]
    sources.append(common.source_for(task, common.searched_expression()))
    numbers, each = ((1, 2), 1) if tiny else ((1, 2, 4, 8, 16), 5)
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    queues = [context.Queue() for _ in range(max(numbers))]
    processes = [context.Process(target=work, args=(path, str(device), queue, answers), daemon=True)
                 for queue in queues]  # fmt: skip
    start = time.perf_counter()
    for process in processes:
        process.start()
    for _ in processes:
        answers.get(timeout=120)
    results.add("workers", ready=len(processes), seconds_to_start=time.perf_counter() - start)
    best = float("inf")
    for number in numbers:
        start = time.perf_counter()
        for index, queue in enumerate(queues[:number]):
            queue.put([(sources[(index + turn) % len(sources)], index * 100 + turn) for turn in range(each)])
        found = [answers.get(timeout=200) for _ in range(number * each)]
        seconds = (time.perf_counter() - start) / (number * each)
        stages = {name: statistics.fmean(f[2].get(name, 0.0) for f in found) for name in found[0][2]}
        rejected = sum(bool(reason) for _, reason, _ in found)
        best = min(best, seconds)
        results.add("workers", workers=number, candidates=number * each, rejected=rejected,
                    seconds_a_candidate=seconds, stages=stages)  # fmt: skip
    for queue in queues:
        queue.put(None)
    for process in processes:
        process.join(timeout=10)
    return best


def steps_of(task):
    """Steps of a proxy training."""
    recipe = task.recipes["proxy"]
    return recipe.steps(len(task.train.labels) // recipe.batch_size)


def plain(task, weights, device, results, tiny):
    """What people write: torch's SGD, the teacher on every batch, float32, nothing kept. One candidate by kd."""
    images, labels = task.train.images.to(device), task.train.labels.to(device)
    teacher = common.load_teacher(weights, images[:2], device)
    student = Tapped(build(common.STUDENT, 100, 3).to(device), images[:2]).train()
    recipe = task.recipes["proxy"]
    optimizer = torch.optim.SGD(student.parameters(), recipe.learning_rate, recipe.momentum,
                                weight_decay=recipe.weight_decay, nesterov=True)  # fmt: skip
    steps = steps_of(task)
    taken = 0
    common.wait(device)
    start = time.perf_counter()
    while taken < steps:
        for indices in torch.randperm(len(labels), device=device).split(recipe.batch_size)[: steps - taken]:
            x, y = images[indices], labels[indices]
            with torch.no_grad():
                wanted = F.softmax(teacher(x)["logits"] / 4, dim=1)
            logits = student(x)["logits"]
            soft = F.kl_div(F.log_softmax(logits / 4, dim=1), wanted, reduction="batchmean") * 16
            optimizer.zero_grad()
            (F.cross_entropy(logits, y) + soft).backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), recipe.clip)
            optimizer.step()
            taken += 1
            if tiny and taken >= 2:
                steps = taken
    common.wait(device)
    seconds = time.perf_counter() - start
    results.add("plain", steps=steps, seconds_a_candidate=seconds, step_milliseconds=1000 * seconds / steps)
    return seconds


def peak(device, size):
    """Operations a second of a bfloat16 matrix product."""
    one, other = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(8):
        common.wait(device)
        start = time.perf_counter()
        one @ other
        common.wait(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def operations(task, device):
    """Floating-point operations of one candidate's proxy training."""
    training = common.Training(task.of("proxy"), device, common.precisions()["float32"],
                               common.source_for(task, zoo["kd"]))  # fmt: skip
    with FlopCounterMode(display=False) as counter:
        training.step(training.batches[0])
    return counter.get_total_flops() * training.trainer.steps


def main():
    options = common.arguments(argparse.ArgumentParser(description=__doc__.splitlines()[0]))
    results = common.Results(options.results, options.device)
    start = time.perf_counter()
    task = common.open_task(options.work / "task", options.data, options.weights, options.device, options.tiny)
    seconds = time.perf_counter() - start
    results.add("prepare", seconds=seconds, precision=str(task.precision),
                last_stage=bool(task.maps), images=len(task.train.labels), cores=os.cpu_count())  # fmt: skip
    path = common.task_file(options.work / "task")
    slowest = plain(task, options.weights, options.device, results, options.tiny)
    fastest_step = strategies(task, options.device, results, options.tiny)
    best = workers(task, path, options.device, results, options.tiny)
    flops, rate = operations(task, options.device), peak(options.device, 512 if options.tiny else 8192)
    steps = steps_of(task)
    results.add(
        "projection", births=BIRTHS, seconds_a_candidate=best, minutes=BIRTHS * best / 60,
        minutes_with_the_fastest_step=BIRTHS * steps * fastest_step / 60e3, minutes_plain=BIRTHS * slowest / 60,
        operations_a_candidate=flops, operations_a_second=flops / best, measured_peak=rate,
        share_of_measured_peak=flops / best / rate, share_of_datasheet=flops / best / DATASHEET,
    )  # fmt: skip


if __name__ == "__main__":
    main()
