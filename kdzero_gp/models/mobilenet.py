"""MobileNetV2 at CIFAR size (Sandler et al. 2018, arXiv:1801.04381), half as wide, as in the CRD tables.

Beside the width, the CRD version differs from the paper by ReLU instead of ReLU6 and by the strides, which
leave 2x2 of a 32x32 image. Tensor names fit the CRD checkpoints.
"""

from torch import Tensor, nn

from kdzero_gp.models.layers import (
    CLASSIFIER_DEVIATION,
    Factory,
    conv1x1,
    conv3x3,
    global_average,
    initialise,
)

STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels at full width, blocks and stride of each stage (table 2 of the paper)."""
STEM_CHANNELS = 32
HEAD_CHANNELS = 1280
"""Channels of the last convolution, which are not scaled with a width below one (section 4 of the paper)."""


class InvertedResidual(nn.Module):
    """Expand, depthwise 3×3, project; with a shortcut where the shape stays, N×C×H×W to N×C'×H'×W'."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int):
        super().__init__()
        hidden = inputs * expansion
        self.shortcut = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            conv1x1(inputs, hidden),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            conv3x3(hidden, hidden, stride, groups=hidden),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            conv1x1(hidden, outputs),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Applies the block."""
        return images + self.conv(images) if self.shortcut else self.conv(images)


class MobileNetV2(nn.Module):
    """Images N×C×H×W to logits N×K; the last map has a sixteenth of H and W."""

    def __init__(self, width: float, classes: int, channels: int = 3):
        super().__init__()
        inputs = int(STEM_CHANNELS * width)
        self.conv1 = nn.Sequential(conv3x3(channels, inputs, 2), nn.BatchNorm2d(inputs), nn.ReLU(inplace=True))
        stages = []
        for expansion, full_width, depth, stride in STAGES:
            outputs = int(full_width * width)
            first = InvertedResidual(inputs, outputs, stride, expansion)
            others = (InvertedResidual(outputs, outputs, 1, expansion) for _ in range(depth - 1))
            stages.append(nn.Sequential(first, *others))
            inputs = outputs
        self.blocks = nn.Sequential(*stages)
        head = max(HEAD_CHANNELS, int(HEAD_CHANNELS * width))
        self.conv2 = nn.Sequential(conv1x1(inputs, head), nn.BatchNorm2d(head), nn.ReLU(inplace=True))
        self.classifier = nn.Sequential(nn.Linear(head, classes))
        initialise(self, CLASSIFIER_DEVIATION)

    def forward(self, images: Tensor) -> Tensor:
        """Logits N×K of images N×C×H×W."""
        maps = self.conv2(self.blocks(self.conv1(images)))
        return self.classifier(global_average(maps))


def _half_width(classes: int, channels: int = 3) -> MobileNetV2:
    return MobileNetV2(0.5, classes, channels)


NETWORKS: dict[str, Factory] = {"mobilenet_v2": _half_width}
