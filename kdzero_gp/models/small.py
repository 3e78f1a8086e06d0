"""Small convolutional networks for the 8x8 one-channel digits, of a few hundred parameters and more."""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from kdzero_gp.models.layers import Factory, conv3x3, global_average, initialise

WIDTHS = (2, 4, 8, 16, 32, 64)
"""Channels of the first stage in the members of the family."""


def _stage(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(conv3x3(inputs, outputs), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class DigitsCNN(nn.Module):
    """Two convolution stages of N and 2N channels; images N×C×8×8, last map N×(2N)×4×4, logits N×K."""

    def __init__(self, width: int, classes: int, channels: int = 1):
        super().__init__()
        self.stage1 = _stage(channels, width)
        self.stage2 = _stage(width, 2 * width)
        self.fc = nn.Linear(2 * width, classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits N×K of images N×C×8×8."""
        maps = self.stage2(F.max_pool2d(self.stage1(images), 2))
        return self.fc(global_average(maps))


NETWORKS: dict[str, Factory] = {f"digits_cnn_{width}": partial(DigitsCNN, width) for width in WIDTHS}
