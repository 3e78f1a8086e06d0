"""What several network families share: initialisation, pooling and channel shuffling."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

Factory = Callable[[int, int], nn.Module]
"""Makes a network from the number of classes and the number of image channels."""

CLASSIFIER_DEVIATION = 0.01
"""Standard deviation of a classifier's first weights in VGG, MobileNetV2 and their CIFAR versions."""


def conv3x3(inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A 3×3 convolution without bias that keeps the resolution (or divides it by ``stride``)."""
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, groups=groups, bias=False)


def conv1x1(inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A 1×1 convolution without bias."""
    return nn.Conv2d(inputs, outputs, 1, stride=stride, groups=groups, bias=False)


def stem(channels: int, width: int) -> tuple[nn.Module, ...]:
    """The first layers of a small network: a 3×3 convolution to half the resolution, its norm and activation."""
    return conv3x3(channels, width, 2), nn.BatchNorm2d(width), nn.ReLU(inplace=True)


def separable(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Depthwise 3×3, then 1×1, each with a norm: few parameters and operations."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride, dilation, dilation, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        conv1x1(inputs, outputs),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def global_average(images: Tensor) -> Tensor:
    """Mean over space: N×C×H×W to N×C. Written as a mean, so that any image size is accepted."""
    return images.mean((2, 3))


def shuffle_channels(images: Tensor, groups: int) -> Tensor:
    """Interleaves the channels of ``groups`` groups, N×C×H×W to N×C×H×W (arXiv:1707.01083, figure 1)."""
    batch, channels, height, width = images.shape
    split = images.reshape(batch, groups, channels // groups, height, width)
    return split.transpose(1, 2).reshape(batch, channels, height, width)


def initialise(network: nn.Module, classifier_deviation: float | None = None) -> None:
    """He's normal initialisation by fan-out for convolutions (arXiv:1502.01852), as in the CIFAR ResNets.

    ``classifier_deviation`` also draws the linear layers, from N(0, deviation^2) with bias 0; without it they
    keep torch's own start.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * math.prod(module.kernel_size)
            nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear) and classifier_deviation is not None:
            nn.init.normal_(module.weight, 0.0, classifier_deviation)
            nn.init.zeros_(module.bias)


def relu(images: Tensor) -> Tensor:
    """ReLU that overwrites its input: only for tensors that nothing else reads."""
    return torch.relu_(images)
