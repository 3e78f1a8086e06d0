"""A task family that the package does not have: a class for every pixel of the digits, from one conv net to a smaller.

All that a family needs is in this file: it is what a user writes to add one.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdzero_gp.compiler.knowledge import KnowledgeSpec
from kdzero_gp.data import sources
from kdzero_gp.data.account import DataAccount
from kdzero_gp.data.dataset import Dataset, Split
from kdzero_gp.families import Measure, TaskFamily
from kdzero_gp.families.agreement import linear_cka
from kdzero_gp.tasks import Task
from kdzero_gp.tasks.plan import SearchPlan, annealed

KNOWLEDGE = {"logits": KnowledgeSpec(("map",), "logits", adapted=False), "feat*": KnowledgeSpec(("map",))}
WIDTHS = {"pixels_16": 16, "pixels_2": 2}


class PixelNet(nn.Module):
    """Images N×C×8×8 to logits N×K×8×8."""

    def __init__(self, width: int, classes: int, channels: int):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Conv2d(width, classes, 3, 1, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        feat = self.body(images)
        return {"logits": self.head(feat), "feat": feat}


class Exposed(nn.Module):
    """The network as the engine sees it."""

    def __init__(self, network: nn.Module, example: Tensor):
        super().__init__()
        self.network = network
        self.taps = {"logits": "head", "feat": "body"}
        with torch.no_grad():
            self.shapes = {name: tuple(tensor.shape[1:]) for name, tensor in network.eval()(example).items()}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.network(images)

    def untap(self) -> nn.Module:
        return self.network


class Pixels(TaskFamily):
    """Targets N×8×8 (int64), −1 where a pixel does not count."""

    name = "pixels"
    knowledge = KNOWLEDGE
    usual = ("logits", "feat")
    measures = (Measure("pixels", "right pixels", "%"), Measure("pixel_loss", "pixel loss", "nats", False))
    decides, breaks_ties, loss = "pixels", "pixel_loss", "pixel_loss"
    metrics = ("pixel_loss", "map_gap")
    read = ("logits", "feat")

    def build(self, name, classes, channels):
        return PixelNet(WIDTHS[name], classes, channels)

    def tap(self, network, example, taps, classes):
        return Exposed(network, example)

    def own_loss(self, outputs, targets, smoothing=0.0):
        return F.cross_entropy(outputs["logits"], targets, ignore_index=-1)

    def guessing(self, classes):
        return math.log(classes)

    def chance(self, targets, classes):
        return 1.1 / classes

    def crop(self, images, targets, geometry):
        """Targets move with their images."""
        moved, _ = super().crop(torch.cat([images, targets[:, None].to(images) + 1], 1), targets, geometry)
        return moved[:, :-1], moved[:, -1].long() - 1

    def measure(self, batches):
        right, loss, count = 0, 0.0, 0
        for outputs, targets in batches:
            counted = targets >= 0
            right += int(((outputs["logits"].argmax(1) == targets) & counted).sum())
            loss += float(F.cross_entropy(outputs["logits"].float(), targets, ignore_index=-1, reduction="sum"))
            count += int(counted.sum())
        return {"pixels": right / count, "pixel_loss": loss / count} if count else {}

    def compare(self, student, teacher, targets):
        return {"map_gap": self.disagreement("feat", student["feat"], teacher["feat"])}

    def disagreement(self, knowledge, student, teacher):
        if knowledge == "logits":
            return float(F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="batchmean"))
        return 1.0 - linear_cka(student.flatten(1), teacher.flatten(1))


def read(data: str | None) -> Dataset:
    """Noisy digits, and whether each pixel of the clean ones is dark, grey or bright."""
    digits = sources.digits()
    generator = torch.Generator().manual_seed(0)

    def pixels(split: Split) -> Split:
        labels = (split.images[:, 0].long() * 3 // 256).clamp(max=2)
        labels[:, 0, 0] = -1
        noise = torch.randint(-90, 90, split.images.shape, generator=generator)
        return Split((split.images.int() + noise).clamp(0, 255).to(torch.uint8), labels)

    parts = {name: pixels(getattr(digits, name)) for name in ("train", "validation", "test")}
    account = DataAccount(notes=("digits with noise",))
    return replace(digits, name="pixels", account=account, classes=("dark", "grey", "bright"), **parts)


PIXELS = Task(
    "pixels",
    Pixels(),
    read,
    SearchPlan(
        teacher="pixels_16", student="pixels_2", teacher_recipe=annealed(4, 0.1), warm=annealed(1, 0.05, "constant"),
        proxy=annealed(1, 0.05, "linear"), race=annealed(1, 0.05), weights={"pixel_loss": 1.0}, zoo_factors=(1.0,),
        baseline_seeds=2, race_seeds=2, race_top=1, images=256, validation_images=128,
    ),
)  # fmt: skip
