"""What does a compiled distiller cost beside the loss as people write it by hand?

One training step of a ResNet-20 on 64 images of CIFAR size (forward, cross-entropy plus distillation loss, backward,
optimiser) with the teacher's tensors at hand, timed in pairs: compiled, hand-written, compiled, … The ratio of each
pair cancels the machine's drift; its median is reported. Also: how long compiling takes.

    python experiments/step_cost/run.py [--pairs 30] [--losses-only]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kdzero_gp
from kdzero_gp.compiler import pair_shapes
from kdzero_gp.evolution import Grammar, Slot
from kdzero_gp.models import build
from kdzero_gp.models.taps import Tapped
from primitives import LOSS

SHAPES = {"logits": (100,), "emb": (64,), "feat": (64, 8, 8)}
Loss = Callable[[dict[str, Tensor], dict[str, Tensor], Tensor], Tensor]


def kd_by_hand(student: dict[str, Tensor], teacher: dict[str, Tensor], labels: Tensor) -> Tensor:
    """Hinton's loss as RepDistiller has it."""
    log_student = F.log_softmax(student["logits"] / 4.0, dim=1)
    soft_teacher = F.softmax(teacher["logits"] / 4.0, dim=1)
    return F.kl_div(log_student, soft_teacher, reduction="sum") * (4.0**2) / len(labels)


def at_by_hand(student: dict[str, Tensor], teacher: dict[str, Tensor], labels: Tensor) -> Tensor:
    """Attention transfer as RepDistiller has it."""

    def attention(feat: Tensor) -> Tensor:
        return F.normalize(feat.pow(2).mean(1).flatten(1))

    return (attention(student["feat"]) - attention(teacher["feat"])).pow(2).mean()


def step_with(loss: Loss, losses_only: bool) -> Callable[[], None]:
    """A training step as a function without arguments."""
    torch.manual_seed(0)
    images, labels = torch.randn(64, 3, 32, 32), torch.randint(0, 100, (64,))
    teacher = {name: torch.randn(64, *shape) for name, shape in SHAPES.items()}
    if losses_only:
        student = {name: torch.randn(64, *shape, requires_grad=True) for name, shape in SHAPES.items()}

        def only_loss() -> None:
            loss(student, teacher, labels).backward()

        return only_loss
    network: nn.Module = Tapped(build("resnet20", 100), images[:2])
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, nesterov=True)

    def step() -> None:
        found = network(images)
        total = F.cross_entropy(found["logits"], labels) + loss(found, teacher, labels)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()

    return step


def seconds(function: Callable[[], None]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def ratio(name: str, by_hand: Loss, pairs: int, losses_only: bool) -> dict[str, float]:
    """Medians of one distiller against its hand-written form."""
    compiled = step_with(kdzero_gp.compile(kdzero_gp.zoo[name], SHAPES, SHAPES), losses_only)
    plain = step_with(by_hand, losses_only)
    for function in (compiled, plain):
        function()
    found = []
    for index in range(pairs):
        # who goes first changes, since the second finds warmer caches
        if index % 2:
            plain_seconds, compiled_seconds = seconds(plain), seconds(compiled)
        else:
            compiled_seconds, plain_seconds = seconds(compiled), seconds(plain)
        found.append((compiled_seconds, plain_seconds))
    return {
        "compiled_milliseconds": 1000 * statistics.median(c for c, _ in found),
        "by_hand_milliseconds": 1000 * statistics.median(p for _, p in found),
        "ratio": statistics.median(c / p for c, p in found),
    }


def compile_times(count: int = 200) -> dict[str, float]:
    """Milliseconds to compile random open trees, none of them seen before."""
    from random import Random

    random = Random(0)
    grammar = Grammar("open", pair_shapes(SHAPES, SHAPES).types)
    trees = [grammar.to_expression(grammar.grow(Slot(LOSS), 8, random)) for _ in range(count + 20)]
    for tree in trees[:20]:
        kdzero_gp.compile(tree, SHAPES, SHAPES)
    times = []
    for tree in trees[20:]:
        start = time.perf_counter()
        kdzero_gp.compile(tree, SHAPES, SHAPES)
        times.append(1000 * (time.perf_counter() - start))
    times.sort()
    return {"median_milliseconds": statistics.median(times), "p95_milliseconds": times[int(0.95 * count)]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--losses-only", action="store_true", help="time the losses without the network")
    parser.add_argument("--output", type=Path, default=None, help="write the results as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, object] = {
        "machine": platform.processor() or platform.machine(), "torch": torch.__version__, "pairs": arguments.pairs,
        "losses_only": arguments.losses_only, "compile": compile_times(),
    }  # fmt: skip
    for name, by_hand in (("kd", kd_by_hand), ("at", at_by_hand)):
        results[name] = ratio(name, by_hand, arguments.pairs, arguments.losses_only)
    print(json.dumps(results, indent=1))
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
