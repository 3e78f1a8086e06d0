"""Networks as users write them: their own attribute names, no base class of ours, odd forms of output."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Gremlin(nn.Module):
    """A convolutional network with a list in place of stages, functional pooling and a tuple as output."""

    def __init__(self, num_classes: int, width: int = 6) -> None:
        super().__init__()
        self.maw = nn.Conv2d(3, width, 3, padding=1)
        self.teeth = nn.ModuleList([nn.Conv2d(width * 2**i, width * 2 ** (i + 1), 3, 2, 1) for i in range(2)])
        self.fur = nn.BatchNorm2d(width * 4)
        self.oracle = nn.Linear(width * 4, num_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        maps = F.relu(self.maw(x))
        for tooth in self.teeth:
            maps = F.relu(tooth(maps))
        maps = self.fur(maps)
        return self.oracle(maps.amax((2, 3))), maps


class Bishop(nn.Module):
    """A small vision transformer: patches of 4x4, a class token, positions of any number of patches."""

    def __init__(self, num_classes: int, dim: int = 12) -> None:
        super().__init__()
        self.mitre = nn.Conv2d(3, dim, 4, 4)
        self.crozier = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        layer = nn.TransformerEncoderLayer(dim, 2, 2 * dim, dropout=0.1, batch_first=True)
        self.chapter = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.blessing = nn.LayerNorm(dim)
        self.verdict = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.mitre(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.crozier.expand(len(x), -1, -1), tokens], 1)
        return self.verdict(self.blessing(self.chapter(tokens))[:, 0])


class Pancake(nn.Module):
    """A network without maps: pooled pixels through two linear layers."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.batter = nn.Linear(3 * 8 * 8, 16)
        self.syrup = nn.Linear(16, num_classes)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.syrup(torch.relu(self.batter(F.adaptive_avg_pool2d(x, 8).flatten(1))))}


def lighthouse(num_classes: int) -> nn.Module:
    """A sequence without names that never leaves the image's resolution."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 10, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, num_classes),
    )  # fmt: skip
