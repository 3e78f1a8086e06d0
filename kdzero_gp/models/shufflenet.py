"""ShuffleNet V1 and V2 at CIFAR size, as in the CRD tables (arXiv:1910.10699).

V1 is Zhang et al. 2018 (arXiv:1707.01083) with 3 groups, V2 is Ma et al. 2018 (arXiv:1807.11164) at width 1.
At CIFAR size the stem is one 1×1 convolution without pooling. Tensor names fit the CRD checkpoints.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdzero_gp.models.layers import (
    Factory,
    conv1x1,
    conv3x3,
    global_average,
    initialise,
    relu,
    shuffle_channels,
)

STEM_CHANNELS = 24
GROUPS = 3
V1_STAGES = ((240, 4), (480, 8), (960, 4))
"""Channels and blocks of each stage (table 1 of the V1 paper, 3 groups)."""
V2_STAGES = ((116, 4), (232, 8), (464, 4))
"""Channels and blocks of each stage (table 5 of the V2 paper, 1x)."""
V2_HEAD_CHANNELS = 1024


class GroupedBlock(nn.Module):
    """A ShuffleNet V1 unit, N×C×H×W to N×C'×H'×W'; with stride 2 it concatenates the pooled input."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.stride = stride
        produced = outputs - inputs if stride == 2 else outputs
        middle = produced // 4
        # The first unit is not grouped: its input has too few channels (section 3.2 of the paper).
        self.groups = 1 if inputs == STEM_CHANNELS else GROUPS
        self.conv1 = conv1x1(inputs, middle, groups=self.groups)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = conv3x3(middle, middle, stride, groups=middle)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = conv1x1(middle, produced, groups=GROUPS)
        self.bn3 = nn.BatchNorm2d(produced)

    def forward(self, images: Tensor) -> Tensor:
        """Applies the unit."""
        hidden = shuffle_channels(relu(self.bn1(self.conv1(images))), self.groups)
        # CRD keeps a ReLU after the depthwise convolution, which the paper leaves out.
        hidden = self.bn3(self.conv3(relu(self.bn2(self.conv2(hidden)))))
        if self.stride == 2:
            pooled = F.avg_pool2d(images, 3, stride=2, padding=1)
            return relu(torch.cat([hidden, pooled], 1))
        return relu(hidden + images)


class SplitBlock(nn.Module):
    """A ShuffleNet V2 unit that keeps the shape: half of the channels pass, N×C×H×W to N×C×H×W."""

    def __init__(self, channels: int):
        super().__init__()
        half = channels // 2
        self.conv1 = conv1x1(half, half)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = conv3x3(half, half, groups=half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv1x1(half, half)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, images: Tensor) -> Tensor:
        """Applies the unit."""
        kept, changed = images.chunk(2, 1)
        hidden = relu(self.bn1(self.conv1(changed)))
        hidden = relu(self.bn3(self.conv3(self.bn2(self.conv2(hidden)))))
        return shuffle_channels(torch.cat([kept, hidden], 1), 2)


class DownBlock(nn.Module):
    """A ShuffleNet V2 unit with stride 2: both branches see the whole input, N×C×H×W to N×C'×(H/2)×(W/2)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        half = outputs // 2
        self.conv1 = conv3x3(inputs, inputs, 2, groups=inputs)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv2 = conv1x1(inputs, half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv1x1(inputs, half)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = conv3x3(half, half, 2, groups=half)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = conv1x1(half, half)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, images: Tensor) -> Tensor:
        """Applies the unit."""
        left = relu(self.bn2(self.conv2(self.bn1(self.conv1(images)))))
        right = relu(self.bn3(self.conv3(images)))
        right = relu(self.bn5(self.conv5(self.bn4(self.conv4(right)))))
        return shuffle_channels(torch.cat([left, right], 1), 2)


def _v1_stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(
        GroupedBlock(inputs, outputs, 2), *(GroupedBlock(outputs, outputs, 1) for _ in range(blocks - 1))
    )


def _v2_stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(DownBlock(inputs, outputs), *(SplitBlock(outputs) for _ in range(blocks - 1)))


class ShuffleNetV1(nn.Module):
    """Images N×C×H×W to logits N×K; the last map has an eighth of H and W."""

    def __init__(self, classes: int, channels: int = 3):
        super().__init__()
        self.conv1 = conv1x1(channels, STEM_CHANNELS)
        self.bn1 = nn.BatchNorm2d(STEM_CHANNELS)
        (first, second, third) = V1_STAGES
        self.layer1 = _v1_stage(STEM_CHANNELS, *first)
        self.layer2 = _v1_stage(first[0], *second)
        self.layer3 = _v1_stage(second[0], *third)
        self.linear = nn.Linear(third[0], classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits N×K of images N×C×H×W."""
        maps = relu(self.bn1(self.conv1(images)))
        return self.linear(global_average(self.layer3(self.layer2(self.layer1(maps)))))


class ShuffleNetV2(nn.Module):
    """Images N×C×H×W to logits N×K; the last map has an eighth of H and W."""

    def __init__(self, classes: int, channels: int = 3):
        super().__init__()
        self.conv1 = conv1x1(channels, STEM_CHANNELS)
        self.bn1 = nn.BatchNorm2d(STEM_CHANNELS)
        (first, second, third) = V2_STAGES
        self.layer1 = _v2_stage(STEM_CHANNELS, *first)
        self.layer2 = _v2_stage(first[0], *second)
        self.layer3 = _v2_stage(second[0], *third)
        self.conv2 = conv1x1(third[0], V2_HEAD_CHANNELS)
        self.bn2 = nn.BatchNorm2d(V2_HEAD_CHANNELS)
        self.linear = nn.Linear(V2_HEAD_CHANNELS, classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits N×K of images N×C×H×W."""
        maps = relu(self.bn1(self.conv1(images)))
        maps = self.layer3(self.layer2(self.layer1(maps)))
        return self.linear(global_average(relu(self.bn2(self.conv2(maps)))))


NETWORKS: dict[str, Factory] = {"shufflenet_v1": ShuffleNetV1, "shufflenet_v2": ShuffleNetV2}
