"""What does a training step cost on a machine that others use too, by number of threads and by how threads wait?

A ResNet-20 step as in ``train`` (64 images of CIFAR size, the machine's fastest precision, SGD), while 0, 1 or 4
processes spin beside it. Every setting has a fresh process; they take turns, and wait asleep for theirs.

    python experiments/threads/run.py [--rounds 3] [--seconds 2]
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CLASSES, BATCH, RATE = 100, 64, 0.01
LOADS = (0, 1, 4)
# The weights after so many steps are compared, bit by bit.
CHECKED_STEPS = 2
# "spin" is what libgomp (Linux) and LLVM's OpenMP (macOS, Windows) do by themselves; "ours" leaves it to kdzero_gp.
POLICIES = {
    "spin": {"GOMP_SPINCOUNT": "300000", "KMP_BLOCKTIME": "200"},
    "sleep": {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"},
    "ours": {},
}


class Child:
    """A process with one setting that measures when it is told to."""

    def __init__(self, threads: int, policy: str, precision: str):
        self.setting = {"threads": threads, "policy": policy}
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--child", str(threads), precision],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=clean | POLICIES[policy],
        )  # fmt: skip
        self.answer()

    def answer(self) -> dict[str, Any]:
        """What it says next."""
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def measured(self, load: int, seconds: float) -> dict[str, Any]:
        """A row of the result, with ``load`` processes spinning."""
        assert self.process.stdin is not None
        with spinning(load) as spinners:
            before, start = others_seconds([self.process.pid, *spinners]), time.perf_counter()
            print(seconds, file=self.process.stdin, flush=True)
            row = self.answer()
            busy = others_seconds([self.process.pid, *spinners]) - before
        return self.setting | {"load": load, **row, "others": round(busy / (time.perf_counter() - start), 2)}

    def close(self) -> None:
        """End it."""
        self.process.communicate()


@contextlib.contextmanager
def spinning(count: int) -> Iterator[list[int]]:
    """The ids of so many processes that do nothing as fast as they can."""
    spinners = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(count)]
    try:
        time.sleep(0.3 if count else 0.0)
        yield [spinner.pid for spinner in spinners]
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


def others_seconds(ours: Sequence[int]) -> float:
    """Processor seconds that processes other than ``ours`` have used so far (NaN where the system does not tell)."""
    try:
        total = [int(ticks) for ticks in Path("/proc/stat").read_text().split()[1:9]]
        # after the name in brackets: user and system time are the 12th and 13th field
        own = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13] for pid in ours]
    except OSError:
        return float("nan")
    busy = sum(total) - total[3] - total[4]  # idle, waiting for a disk
    return (busy - sum(int(ticks) for pair in own for ticks in pair)) / os.sysconf("SC_CLK_TCK")


def child(threads: int, name: str) -> None:
    """Measure for as many seconds as each line of the input says."""
    from kdzero_gp.engine.outputs import Precision  # before torch: it says how threads wait

    # isort: split
    import torch

    torch.set_num_threads(threads)
    precision = Precision(name, channels_last=True)
    new_training(precision)()  # what a first step prepares is not counted
    print("{}", flush=True)
    for line in sys.stdin:
        step = new_training(precision)
        begin, used, times, digest = time.perf_counter(), time.process_time(), [], ""
        while time.perf_counter() - begin < float(line) or len(times) < CHECKED_STEPS:
            start = time.perf_counter()
            weights = step()
            times.append(time.perf_counter() - start)
            if len(times) == CHECKED_STEPS:
                digest = hashlib.sha256(b"".join(weight.numpy().tobytes() for weight in weights)).hexdigest()[:12]
        processor = (time.process_time() - used) / len(times)
        figures = {"milliseconds": statistics.median(times), "fastest": min(times), "processor_milliseconds": processor}
        row = {name: round(1000 * value, 1) for name, value in figures.items()}
        print(json.dumps(row | {"steps": len(times), "weights": digest}), flush=True)


def new_training(precision: Any) -> Callable[[], list[Any]]:
    """A training from its beginning: a function that takes a step and returns the weights."""
    import torch
    import torch.nn.functional as F

    from kdzero_gp.models import build
    from kdzero_gp.models.taps import Tapped

    torch.manual_seed(0)
    student = Tapped(build("resnet20", CLASSES), torch.zeros(2, 3, 32, 32))
    student = student.to(memory_format=precision.memory_format).train()
    images = torch.randn(BATCH, 3, 32, 32).to(memory_format=precision.memory_format)
    labels = torch.randint(CLASSES, (BATCH,))
    parameters = list(student.parameters())
    optimizer = torch.optim.SGD(parameters, RATE, 0.9, weight_decay=5e-4, fused=True)

    def step() -> list[Any]:
        loss = F.cross_entropy(precision.forward(student, images)["logits"], labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return [parameter.detach() for parameter in parameters]

    return step


def machine() -> dict[str, Any]:
    """What a step's time depends on besides the settings."""
    import torch

    from kdzero_gp import tasks
    from kdzero_gp.engine.precision import precision_for
    from kdzero_gp.models import build
    from kdzero_gp.models.taps import Tapped
    from kdzero_gp.threads import cores

    example = torch.zeros(2, 3, 32, 32)
    family, labels = tasks.get("cifar100").family, torch.arange(2)
    precision = precision_for("resnet20", Tapped(build("resnet20", CLASSES), example), family, example, labels)
    return {"processor": platform.processor() or platform.machine(), "cores": cores(), "torch": torch.__version__,
            "capability": torch.backends.cpu.get_cpu_capability(), "precision": precision.name,
            "openmp": torch.__config__.parallel_info().partition("OpenMP ")[2].splitlines()[0]}  # fmt: skip


def summary(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By setting: the medians of the rounds' milliseconds for each load, those relative to the quiet spinning step
    with all threads (today's), and whether all rounds ended with the same weights."""
    names = list(dict.fromkeys((row["threads"], row["policy"]) for row in rows))
    table: dict[str, dict[str, Any]] = {}
    for threads, policy in names:
        same = [row for row in rows if row["threads"] == threads and row["policy"] == policy]
        times = {load: statistics.median(row["milliseconds"] for row in same if row["load"] == load)
                 for load in LOADS if any(row["load"] == load for row in same)}  # fmt: skip
        table[f"{threads} {policy}"] = {"milliseconds": times, "weights": sorted({row["weights"] for row in same})}
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--output", type=Path, default=HERE / "result.json")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        return child(int(arguments.child[0]), arguments.child[1])
    result: dict[str, Any] = {"machine": machine(), "rows": []}
    print(json.dumps(result["machine"]), flush=True)
    cores, precision = result["machine"]["cores"], result["machine"]["precision"]
    children = [Child(1, "ours", precision), *(Child(cores, policy, precision) for policy in POLICIES)]
    for number in range(arguments.rounds):
        for load in LOADS:
            # the order turns, so that no setting always follows the same other one
            for turn in range(len(children)):
                row = children[(turn + number) % len(children)].measured(load, arguments.seconds)
                print(json.dumps(row), flush=True)
                result["rows"].append(row)
                result["summary"] = summary(result["rows"])
                arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for process in children:
        process.close()
    print(json.dumps(result["summary"], indent=1))


if __name__ == "__main__":
    main()
