"""VGG networks at CIFAR size with batch normalisation and one linear layer (Simonyan and Zisserman 2015,
arXiv:1409.1556; VGG-8 and VGG-13 as in the CRD tables, arXiv:1910.10699). Tensor names fit the CRD
checkpoints.
"""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, fx, nn

from kdzero_gp.models.layers import CLASSIFIER_DEVIATION, Factory, global_average, initialise

STAGE_WIDTHS = (64, 128, 256, 512, 512)
CIFAR_SIDE = 32
"""Images of this side keep 4x4 at the end: the fourth pooling is left out for them, as in the CRD tables."""


@fx.wrap
def _pool_of_large(maps: Tensor) -> Tensor:
    """Maps of images that are larger than CIFAR's are pooled once more."""
    return F.max_pool2d(maps, 2) if maps.shape[-1] > CIFAR_SIDE // 8 else maps


def _stage(inputs: int, outputs: int, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index in range(depth):
        convolution = nn.Conv2d(inputs if index == 0 else outputs, outputs, 3, padding=1)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class VGG(nn.Module):
    """Five stages of 3×3 convolutions with 2×2 max pooling between them, images N×C×H×W to logits N×K."""

    def __init__(self, depths: tuple[int, int, int, int, int], classes: int, channels: int = 3):
        super().__init__()
        inputs = (channels, *STAGE_WIDTHS[:-1])
        stages = [_stage(*sizes) for sizes in zip(inputs, STAGE_WIDTHS, depths, strict=True)]
        self.block0, self.block1, self.block2, self.block3, self.block4 = stages
        self.classifier = nn.Linear(STAGE_WIDTHS[-1], classes)
        initialise(self, CLASSIFIER_DEVIATION)

    def forward(self, images: Tensor) -> Tensor:
        """Logits N×K of images N×C×H×W."""
        maps = F.max_pool2d(self.block0(images), 2)
        maps = F.max_pool2d(self.block1(maps), 2)
        maps = F.max_pool2d(self.block2(maps), 2)
        return self.classifier(global_average(self.block4(_pool_of_large(self.block3(maps)))))


NETWORKS: dict[str, Factory] = {
    "vgg8": partial(VGG, (1, 1, 1, 1, 1)),
    "vgg13": partial(VGG, (2, 2, 2, 2, 2)),
}
