"""Wide residual networks at CIFAR size (Zagoruyko and Komodakis 2016, arXiv:1605.07146).

Tensor names are those of the CRD checkpoints (``block1.layer.0.convShortcut.weight`` and so on).
"""

from functools import partial

from torch import Tensor, nn

from kdzero_gp.models.layers import Factory, conv1x1, conv3x3, global_average, initialise, relu


class WideBlock(nn.Module):
    """A block with normalisation and ReLU in front of each 3×3 convolution, N×C×H×W to N×C'×H'×W'."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.convShortcut = conv1x1(inputs, outputs, stride) if inputs != outputs else None

    def forward(self, images: Tensor) -> Tensor:
        """Applies the block; a block that changes the width feeds the activated input to its shortcut too."""
        active = relu(self.bn1(images))
        shortcut = images if self.convShortcut is None else self.convShortcut(active)
        return shortcut + self.conv2(relu(self.bn2(self.conv1(active))))


class WideStage(nn.Module):
    """The blocks of one resolution; the first one changes width and resolution."""

    def __init__(self, inputs: int, outputs: int, blocks: int, stride: int):
        super().__init__()
        first = WideBlock(inputs, outputs, stride)
        self.layer = nn.Sequential(first, *(WideBlock(outputs, outputs, 1) for _ in range(blocks - 1)))

    def forward(self, images: Tensor) -> Tensor:
        """Applies the blocks in order."""
        return self.layer(images)


class WideResNet(nn.Module):
    """A wide ResNet of 6n+4 layers, images N×C×H×W to logits N×K; the last map has a quarter of H and W."""

    def __init__(self, depth: int, factor: int, classes: int, channels: int = 3):
        super().__init__()
        blocks = (depth - 4) // 6
        self.conv1 = conv3x3(channels, 16)
        self.block1 = WideStage(16, 16 * factor, blocks, stride=1)
        self.block2 = WideStage(16 * factor, 32 * factor, blocks, stride=2)
        self.block3 = WideStage(32 * factor, 64 * factor, blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(64 * factor)
        self.fc = nn.Linear(64 * factor, classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits N×K of images N×C×H×W."""
        maps = self.block3(self.block2(self.block1(self.conv1(images))))
        return self.fc(global_average(relu(self.bn1(maps))))


NETWORKS: dict[str, Factory] = {
    f"wrn_{depth}_{factor}": partial(WideResNet, depth, factor) for depth, factor in ((16, 2), (40, 1), (40, 2))
}
