"""Which short training predicts the end of a long one best, per second?

Trains ResNet-20 by cross-entropy and by ten published distillers in many kinds of short trainings (proxies), measures
several predictors after each, and keeps them in ``results.json``; cells that are there are skipped. ``report.py``
turns them into the table and the figure. The truth is the published ranking after 240 epochs; test images are not
read.

    python experiments/proxy_choice/run.py --data cifar100.zip --teacher-weights resnet56_cifar100.safetensors
        [--only NAME ...] [--warm-seeds 0 1 2] [--seeds 0 1]
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from proxies import GROUPS, PROXIES, PUBLISHED_WEIGHTS, TRUTH, Proxy
from torch import Tensor, nn

import kdzero_gp
from kdzero_gp.data.cache import cache_folder
from kdzero_gp.data.sources import cifar100
from kdzero_gp.engine.batches import Kept
from kdzero_gp.engine.loop import Trainer
from kdzero_gp.engine.outputs import Precision, TensorSplit, outputs
from kdzero_gp.engine.recipe import Recipe
from kdzero_gp.engine.teacher import KeptTeacher
from kdzero_gp.families.classification import CLASSIFICATION
from kdzero_gp.models import build
from kdzero_gp.models.split import halves
from kdzero_gp.models.taps import Tapped
from kdzero_gp.models.weights import load_weights
from kdzero_gp.proxy.evaluator import Evaluator
from kdzero_gp.proxy.task import ProxyTask
from kdzero_gp.tasks.plan import annealed

HERE = Path(__file__).parent
PRECISION = Precision("bfloat16", channels_last=True)
KEPT = ("logits", "emb", "feat")
# The last stage of a ResNet of CIFAR size is what comes after this layer; where its knowledge is read.
CUT, TAPS = "layer2", {"logits": "", "emb": "fc:input", "feat": "layer3"}
# The teacher's outputs are kept for so many images; no proxy needs more.
POOL = 20_000
# Warm students: constant learning rate; the snapshots of one training are the stages to start from.
WARM_RATE = 0.05
# Weight average with a tail that grows with the training (Shamir & Zhang 2013, arXiv:1212.1824, section 4.1).
AVERAGE_TAIL = 8.0
# A head is read out of the embedding by ridge regression with this regularisation, relative to the mean eigenvalue.
RIDGE = 0.1


@dataclass
class Pool:
    """Images with their teacher: ``train`` (the first POOL training images) and ``validation``."""

    train: TensorSplit
    validation: TensorSplit


def make_pool(data: Path, weights: Path, folder: Path) -> Pool:
    """The images, and what the teacher says of them; computed once."""
    path = folder / f"pool-{POOL}.pt"
    if not path.exists():
        dataset = cifar100(data)
        teacher = build("resnet56", 100)
        load_weights(teacher, weights)
        parts = {}
        for name, split in (("train", dataset.train), ("validation", dataset.validation)):
            images = dataset.normalise(split.images[:POOL])
            tapped = Tapped(teacher, images[:2]).to(memory_format=torch.channels_last)
            found = evaluate(tapped, images.contiguous(memory_format=torch.channels_last))
            kept = {key: found[key].half() for key in KEPT if name == "train" or key != "feat"}
            parts[name] = vars(TensorSplit(images, split.labels[:POOL].clone(), kept))
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(parts, path)
    parts = torch.load(path, weights_only=True)
    return Pool(TensorSplit(**parts["train"]), TensorSplit(**parts["validation"]))


@torch.no_grad()
def evaluate(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Outputs of a tapped network in evaluation mode and in the precision of training."""

    class Cast(nn.Module):
        def forward(self, batch: Tensor) -> dict[str, Tensor]:
            return PRECISION.forward(network, batch)

    network.eval()
    return outputs(Cast(), images, batch=250, keep=(*KEPT, "maps"))


def select(part: TensorSplit, proxy: Proxy, start: int, count: int) -> TensorSplit:
    """Images ``start`` to ``start + count`` of those of the proxy's classes, at its size."""
    indices = (part.labels < proxy.classes).nonzero().flatten()[start : start + count]
    images = part.images[indices]
    if proxy.size != images.shape[-1]:
        images = F.interpolate(images, (proxy.size, proxy.size), mode="area")
    teacher = {name: tensor[indices].float() for name, tensor in part.teacher.items()}
    return TensorSplit(images.contiguous(memory_format=torch.channels_last), part.labels[indices], teacher)


def trainer(student: nn.Module, part: TensorSplit, recipe: Recipe, teacher: KeptTeacher | None = None) -> Trainer:
    """A training on images that are ready."""
    batches = Kept(part, 100, recipe, torch.device("cpu"), PRECISION)
    return Trainer(student, CLASSIFICATION, batches, PRECISION, teacher)


def warm_student(proxy: Proxy, pool: Pool, seed: int, folder: Path) -> dict[str, Tensor]:
    """The weights after ``proxy.warm_epochs`` of cross-entropy (0: new ones). All stages come from one training."""
    torch.manual_seed(seed)
    student = Tapped(build("resnet20", 100), torch.zeros(2, 3, proxy.size, proxy.size))
    if proxy.warm_epochs == 0:
        return student.network.state_dict()
    like = (proxy.size, proxy.classes, proxy.warm_images)
    key = "-".join(map(str, ("warm", *like, seed)))
    path = folder / f"{key}-{proxy.warm_epochs}.pt"
    if not path.exists():
        part = select(pool.train, proxy, 0, proxy.warm_images)
        epochs = max(p.warm_epochs for p in PROXIES.values() if (p.size, p.classes, p.warm_images) == like)
        recipe = annealed(epochs, WARM_RATE, "constant")
        per_epoch, begin = len(part.labels) // 64, time.process_time()

        def snapshot(step: int, *_: Any) -> None:
            if (step + 1) % per_epoch == 0:
                torch.save(student.network.state_dict(), folder / f"{key}-{(step + 1) // per_epoch}.pt")

        trainer(student.to(memory_format=torch.channels_last), part, recipe).train(seed, snapshot)
        print(f"{key}: {epochs} epochs in {time.process_time() - begin:.0f} CPU seconds", flush=True)
    return torch.load(path, weights_only=True)


def bench_of(proxy: Proxy, pool: Pool, warm_seed: int, folder: Path) -> tuple[ProxyTask, Callable[[], nn.Module]]:
    """What a proxy trains on and is measured on, and how its student is built."""
    start = proxy.warm_images if proxy.fresh else 0
    train_part = select(pool.train, proxy, start, proxy.images)
    validation = select(pool.validation, proxy, 0, proxy.validation)
    warm = warm_student(proxy, pool, warm_seed, folder)
    network = build("resnet20", 100)
    if proxy.tail:
        network.load_state_dict(warm)
        trunk = halves(network, CUT, TAPS)[0].to(memory_format=torch.channels_last)
        for part in (train_part, validation):
            part.images = evaluate(trunk, part.images).pop("maps").bfloat16()
            part.images = part.images.contiguous(memory_format=torch.channels_last)
        warm = {name: tensor for name, tensor in warm.items() if name.startswith(("layer3", "fc"))}
    example = train_part.images[:2].float()

    def builder() -> nn.Module:
        fresh = build("resnet20", 100)
        return Tapped(halves(fresh, CUT, TAPS)[1], example, TAPS) if proxy.tail else Tapped(fresh, example)

    student = builder()
    shapes = {name: student.shapes[name] for name in KEPT}
    teacher_shapes = {name: tuple(tensor.shape[1:]) for name, tensor in train_part.teacher.items()}
    empty = TensorSplit(validation.images[:0], validation.labels[:0])
    spec = {"task": "cifar100", "name": "resnet20", "classes": 100, "channels": 3}
    recipes = {"proxy": proxy.recipe}
    return ProxyTask(train_part, validation, empty, spec, shapes, teacher_shapes, recipes, warm, PRECISION), builder


class Average:
    """A running average of a student's weights and statistics, weighted towards the later ones."""

    def __init__(self, student: nn.Module, network: nn.Module):
        pairs = zip(network.state_dict().values(), student.state_dict().values(), strict=True)
        self.pairs = [(mean, now) for mean, now in pairs if mean.is_floating_point()]

    def update(self, step: int) -> None:
        share = min(1.0, (AVERAGE_TAIL + 1.0) / (step + 1.0 + AVERAGE_TAIL))
        means, now = zip(*self.pairs, strict=True)
        torch._foreach_lerp_(means, now, 1.0 if step == 0 else share)


def predictors(network: nn.Module, part: TensorSplit) -> dict[str, float]:
    """All that may predict, from one pass over the validation images."""
    found = evaluate(network, part.images)
    logits, labels, teacher = found["logits"], part.labels, part.teacher
    result = CLASSIFICATION.measure([(found, labels)]) | CLASSIFICATION.compare(found, teacher, labels)
    log_student, log_teacher = logits.log_softmax(1), teacher["logits"].log_softmax(1)
    result["teacher_kl"] = F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True).item()
    result["agreement"] = (logits.argmax(1) == teacher["logits"].argmax(1)).float().mean().item()
    result["top5"] = (logits.topk(5).indices == labels[:, None]).any(1).float().mean().item()
    result["readout"] = readout(found["emb"], labels)
    return result


def readout(embedding: Tensor, labels: Tensor) -> float:
    """Accuracy of a ridge regression from the embedding to the labels, two-fold over the images."""
    x = F.pad(embedding.double(), (0, 1), value=1.0)
    targets, right = F.one_hot(labels, 100).double(), 0.0
    halves = (torch.arange(len(x)) % 2 == 0, torch.arange(len(x)) % 2 == 1)
    for fit, other in (halves, halves[::-1]):
        gram = x[fit].t() @ x[fit]
        gram += RIDGE * gram.diag().mean() * torch.eye(len(gram), dtype=torch.double)
        head = torch.linalg.solve(gram, x[fit].t() @ targets[fit])
        right += ((x[other] @ head).argmax(1) == labels[other]).sum().item()
    return right / len(x)


def magnitudes(evaluator: Evaluator, distiller: nn.Module, name: str, proxy: Proxy) -> tuple[float, ...]:
    """The factors of a distiller's terms: ``relative`` or ``published``."""
    given = tuple(float(m) for m in distiller.magnitudes)
    if proxy.magnitude == "published":
        return tuple(proxy.factor * PUBLISHED_WEIGHTS[name] * m for m in given)
    probed = evaluator.prober.measure(evaluator.teacher(distiller))  # in units of the cross-entropy's gradient
    # relative: every term alike, whatever the published ratio of the terms
    return tuple(proxy.factor / norm for norm in probed.terms)


def run_cell(evaluator: Evaluator, proxy: Proxy, loss: str, seed: int) -> dict[str, Any]:
    """One training and what it predicts at its points."""
    begin = time.process_time()
    torch.manual_seed(seed)
    distiller, factors = None, ()
    if loss != "ce":
        bench = evaluator.bench
        distiller = kdzero_gp.compile(kdzero_gp.zoo[loss], bench.student_shapes, bench.teacher_shapes)
        distiller.train()
        distiller.magnitudes = factors = magnitudes(evaluator, distiller, loss, proxy)
    student = evaluator.student
    student.network.load_state_dict(evaluator.bench.warm)
    steps = proxy.recipe.steps(len(evaluator.train_split.labels) // proxy.recipe.batch_size)
    wanted = {round(share * steps) for share in proxy.points}
    averaged = evaluator.build_student().to(memory_format=torch.channels_last)
    average = Average(student.network, averaged.network)
    points, measuring = [], 0.0
    if distiller is not None and proxy.ramp > 0:
        distiller.magnitudes = tuple(factor / (proxy.ramp * steps) for factor in factors)

    def on_step(step: int, *_: Any) -> None:
        nonlocal measuring
        average.update(step)
        if distiller is not None and proxy.ramp > 0:
            share = min(1.0, (step + 2) / (proxy.ramp * steps))
            distiller.magnitudes = tuple(share * factor for factor in factors)
        if step + 1 not in wanted:
            return
        trained = time.process_time() - begin - measuring
        for kind, network in (("final", student), ("average", averaged)):
            if kind == "final" and step + 1 < steps:
                continue
            start = time.process_time()
            found = predictors(network, evaluator.validation)
            spent = time.process_time() - start
            measuring += spent
            points.append({"steps": step + 1, "kind": kind, "seconds": trained + spent, "metrics": found})
        student.train()

    teacher = None if distiller is None else evaluator.teacher(distiller)
    trainer(student, evaluator.train_split, proxy.recipe, teacher).train(seed, on_step)
    for point in points:
        point["seconds"] = round(point["seconds"], 2)
        point["metrics"] = {name: round(value, 5) for name, value in point["metrics"].items()}
    return {"loss": loss, "magnitudes": [float(f"{m:.4g}") for m in factors], "points": points}


class Results:
    """``results.json``: one row per proxy, warm seed, seed and loss."""

    def __init__(self, path: Path):
        self.path = path
        self.rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.exists() else []
        self.known = {self.key(row) for row in self.rows}

    @staticmethod
    def key(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["proxy"], row["warm_seed"], row["seed"], row["loss"]

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self.known.add(self.key(row))
        head = {"machine": platform.processor() or platform.machine(), "torch": torch.__version__, "threads": 1}
        lines = ",\n".join(json.dumps(row) for row in self.rows)
        text = json.dumps(head)[:-1] + ', "rows": [\n' + lines + "\n]}\n"
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(text)
        temporary.replace(self.path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--teacher-weights", type=Path, required=True)
    parser.add_argument("--only", nargs="+", default=["explored"], help="proxies or groups: " + ", ".join(GROUPS))
    parser.add_argument("--warm-seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--output", type=Path, default=HERE / "results.json")
    parser.add_argument(
        "--work", type=Path, default=cache_folder() / "proxy_choice", help="teacher outputs, warm students"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pool = make_pool(arguments.data, arguments.teacher_weights, arguments.work)
    results = Results(arguments.output)
    for name in [n for entry in arguments.only for n in GROUPS.get(entry, [entry])]:
        proxy = PROXIES[name]
        for warm_seed in arguments.warm_seeds:
            evaluator: Evaluator | None = None
            for seed in arguments.seeds:
                begin = time.process_time()
                missing = [loss for loss in TRUTH if (name, warm_seed, seed, loss) not in results.known]
                for loss in missing:
                    if evaluator is None:
                        evaluator = Evaluator(*bench_of(proxy, pool, warm_seed, arguments.work))
                    row = {"proxy": name, "warm_seed": warm_seed, "seed": seed}
                    try:
                        row |= run_cell(evaluator, proxy, loss, seed)
                    except Exception as error:  # a loss that diverges is a result
                        row |= {"loss": loss, "failed": f"{type(error).__name__}: {error}"[:200], "points": []}
                    results.add(row)
                if missing:
                    print(
                        f"{name} warm {warm_seed} seed {seed}: {time.process_time() - begin:.0f} CPU seconds",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
