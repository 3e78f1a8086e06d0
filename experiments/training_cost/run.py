"""What does training with each method cost? The paper's Table 3: a batch's time, as a ratio to KD in one run.

Students ResNet-20, ResNet-32 and VGG-8 with the teachers that the paper pairs them with, batches of 64 CIFAR images,
the teacher run live on every batch for all. The methods take turns step by step; the median of each round's ratio to
KD cancels the machine's drift. Weights are random: what a step costs does not depend on them.

    python experiments/training_cost/run.py [--rounds 15] [--distiller FILE|EXPRESSION|zoo:NAME ...]
"""

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

import rivals
import torch
import torch.nn.functional as F

import kdzero_gp
from kdzero_gp import tasks
from kdzero_gp.compiler import compile_distiller, load_source, zoo
from kdzero_gp.engine.precision import precision_for
from kdzero_gp.models import build
from kdzero_gp.models.taps import Tapped

HERE = Path(__file__).parent
PAIRS = {"R20": ("resnet56", "resnet20"), "R32": ("resnet110", "resnet32"), "VGG8": ("vgg13", "vgg8")}
BATCH, CLASSES, IMAGES = 64, 100, 50_000
RATE = 0.01


def distiller_of(text, student, teacher):
    """A distiller from an exported file (its expression, for this pair's shapes), a zoo name or an expression."""
    if text.endswith(".py"):
        text = load_source(Path(text).read_text(encoding="utf-8")).EXPRESSION
    name = text.removeprefix("zoo:")
    return compile_distiller(zoo.get(name, text), student.shapes, teacher.shapes)


class Method:
    """A training step of one method: its student, its own networks, one optimiser."""

    def __init__(self, names, loss, precision, device):
        torch.manual_seed(0)
        example = torch.randn(2, 3, 32, 32)
        form = precision.memory_format
        teacher, student = names
        self.teacher = Tapped(build(teacher, CLASSES), example).to(device, memory_format=form).eval()
        self.student = Tapped(build(student, CLASSES), example).to(device, memory_format=form).train()
        self.precision = precision
        self.loss = loss(self.student, self.teacher) if loss is not None else None
        own = list(self.loss.parameters()) if isinstance(self.loss, torch.nn.Module) else []
        if isinstance(self.loss, torch.nn.Module):
            self.loss.to(device)
        self.parameters = [*self.student.parameters(), *own]
        self.optimizer = torch.optim.SGD(self.parameters, RATE, 0.9, weight_decay=5e-4, fused=True)

    def step(self, images, labels, indices):
        """One batch."""
        found = self.precision.forward(self.student, images)
        loss = F.cross_entropy(found["logits"], labels)
        if isinstance(self.loss, rivals.Mutual):
            loss = loss + self.loss(found, self.precision.forward(self.loss.peer, images), labels)
        elif self.loss is not None:
            with torch.no_grad():
                wanted = self.precision.forward(self.teacher, images)
            loss = loss + (self.loss(found, wanted, indices) if isinstance(self.loss, rivals.Contrastive)
                           else self.loss(found, wanted, labels))  # fmt: skip
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()


def methods_of(pair, distillers):
    """Every method by name, as a function of (student, teacher)."""

    def peer():
        return Tapped(build(PAIRS[pair][1], CLASSES), torch.randn(2, 3, 32, 32))

    found = {"CE": None}
    for name in ("kd", "pkt", "rkd"):
        found[name.upper()] = lambda s, t, name=name: distiller_of(f"zoo:{name}", s, t)
    found |= {"CRD": lambda s, t: rivals.Contrastive(s, t, IMAGES), "DML": lambda s, t: rivals.Mutual(peer)}
    for text in distillers:
        found[f"evolved: {Path(text).name if text.endswith('.py') else text}"] = lambda s, t, text=text: distiller_of(
            text, s, t
        )
    return found


def measured(pair, distillers, rounds, device):
    """Median milliseconds of a batch, and the median ratio to KD, by method."""
    example = torch.zeros(2, 3, 32, 32, device=device)
    student = Tapped(build(PAIRS[pair][1], CLASSES), example.cpu()).to(device)
    family, labels = tasks.get("cifar100").family, torch.arange(2, device=device)
    precision = precision_for(PAIRS[pair][1], student, family, example, labels)
    methods = {
        name: Method(PAIRS[pair], loss, precision, device) for name, loss in methods_of(pair, distillers).items()
    }
    images = torch.randn(BATCH, 3, 32, 32, device=device).to(memory_format=precision.memory_format)
    labels = torch.randint(CLASSES, (BATCH,), device=device)
    times = {name: [] for name in methods}
    for number in range(rounds + 2):
        # the order turns, so that no method always follows the same other one
        names = list(methods)[number % len(methods) :] + list(methods)[: number % len(methods)]
        for name in names:
            indices = torch.randint(IMAGES, (BATCH,), device=device)
            start = time.perf_counter()
            methods[name].step(images, labels, indices)
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number >= 2:
                times[name].append(time.perf_counter() - start)
    costs = {name: {"ms": 1000 * statistics.median(seconds),
                   "ratio_to_kd": statistics.median(a / b for a, b in zip(seconds, times["KD"], strict=True))}
            for name, seconds in times.items()}  # fmt: skip
    return {"precision": str(precision), "methods": costs}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--pairs", nargs="+", default=list(PAIRS), choices=PAIRS)
    parser.add_argument("--distiller", nargs="*", default=[], help="evolved distillers")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=HERE / "result.json")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = {"machine": {"device": torch.cuda.get_device_name() if device.type == "cuda" else platform.machine(),
                         "threads": given.threads, "cores": os.cpu_count(), "torch": torch.__version__,
                         "kdzero_gp": kdzero_gp.__version__},
             "rounds": given.rounds, "pairs": {}}  # fmt: skip
    for pair in given.pairs:
        found["pairs"][pair] = measured(pair, given.distiller, given.rounds, device)
        print(pair, json.dumps(found["pairs"][pair], indent=1, ensure_ascii=False), flush=True)
        given.output.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
