"""ResNets at CIFAR size (He et al. 2016, arXiv:1512.03385, section 4.2), with 1x1-convolution shortcuts.

The wide ones (8x4, 32x4) are those of the CRD tables (Tian et al. 2020, arXiv:1910.10699). Tensor names are
the usual ones, so published checkpoints load.
"""

from functools import partial

from torch import Tensor, nn

from kdzero_gp.models.layers import Factory, conv1x1, conv3x3, global_average, initialise, relu

NARROW = (16, 16, 32, 64)
"""Channels of the stem and of the three stages."""
WIDE = (32, 64, 128, 256)
"""Channels of the variants with four times the width."""


class BasicBlock(nn.Module):
    """Two 3×3 convolutions around a shortcut, N×C×H×W to N×C'×H'×W'."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs))

    def forward(self, images: Tensor) -> Tensor:
        """Applies the block."""
        shortcut = images if self.downsample is None else self.downsample(images)
        hidden = relu(self.bn1(self.conv1(images)))
        return relu(self.bn2(self.conv2(hidden)) + shortcut)


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))


class ResNet(nn.Module):
    """A CIFAR ResNet of 6n+2 layers, images N×C×H×W to logits N×K; the last map has a quarter of H and W."""

    def __init__(self, depth: int, widths: tuple[int, int, int, int], classes: int, channels: int = 3):
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = conv3x3(channels, widths[0])
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = _stage(widths[0], widths[1], blocks, stride=1)
        self.layer2 = _stage(widths[1], widths[2], blocks, stride=2)
        self.layer3 = _stage(widths[2], widths[3], blocks, stride=2)
        self.fc = nn.Linear(widths[3], classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits N×K of images N×C×H×W."""
        maps = relu(self.bn1(self.conv1(images)))
        maps = self.layer3(self.layer2(self.layer1(maps)))
        return self.fc(global_average(maps))


NETWORKS: dict[str, Factory] = {
    **{f"resnet{depth}": partial(ResNet, depth, NARROW) for depth in (8, 20, 32, 44, 56, 110)},
    **{f"resnet{depth}x4": partial(ResNet, depth, WIDE) for depth in (8, 32)},
}
