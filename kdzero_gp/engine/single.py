"""Images transformed one by one: random resized crops of torchvision and the policies of timm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from kdzero_gp.data.decoding import fit
from kdzero_gp.data.drawing import drawing_from
from kdzero_gp.engine.recipe import Recipe
from kdzero_gp.errors import SettingError, install

# The part of an image that is looked at in a test: 224 of 256 pixels, as for ImageNet.
CENTRE_SHARE = 0.875
INSTALL = install("vision")


class SingleImages(Dataset):  # type: ignore[type-arg]
    """Images as uint8 CxHxW of the recipe's size: augmented from ``state``, or resized and cropped around the
    centre where it is None. What is random about an image depends on ``state`` and its index alone, so that it does
    not matter which process reads it. Raises SettingError without torchvision, or without timm for a policy."""

    def __init__(self, opened: Callable[[int], Any], channels: int, recipe: Recipe, state: int | None):
        self.opened = opened
        self.mode = "L" if channels == 1 else "RGB"
        self.state = state
        self.transform = _still(recipe) if state is None else _augmenting(recipe)

    def __getitem__(self, index: int) -> Tensor:
        """The image of this index."""
        image = self.opened(index).convert(self.mode)
        if self.state is None:
            return self.transform(image)  # type: ignore[no-any-return]
        with drawing_from(hash((self.state, index)) % (1 << 62)):
            return self.transform(image)  # type: ignore[no-any-return]


def _transforms() -> Any:
    try:
        from torchvision import transforms
    except ImportError:
        raise SettingError(f"recipes that crop at random sizes need torchvision; install it with: {INSTALL}") from None
    return transforms


def _augmenting(recipe: Recipe) -> Callable[[Any], Tensor]:
    kinds = _transforms()
    size = recipe.size or (0, 0)
    steps: list[Any] = []
    if recipe.crop == "resized":
        steps.append(kinds.RandomResizedCrop(size, interpolation=kinds.InterpolationMode.BICUBIC))
    else:
        padding = recipe.padding if recipe.crop == "pad" else 0
        steps += [Fitted(size), kinds.RandomCrop(size, padding)]
    if recipe.flip:
        steps.append(kinds.RandomHorizontalFlip())
    if recipe.augment:
        steps.append(_policy(recipe))
    return kinds.Compose([*steps, kinds.PILToTensor()])  # type: ignore[no-any-return]


def _still(recipe: Recipe) -> Callable[[Any], Tensor]:
    kinds = _transforms()
    height, width = recipe.size or (0, 0)
    if recipe.crop != "resized":
        return kinds.Compose([Fitted((height, width)), kinds.PILToTensor()])  # type: ignore[no-any-return]
    steps: list[Any] = [Fitted((round(height / CENTRE_SHARE), round(width / CENTRE_SHARE)))]
    if height == width:
        steps = [kinds.Resize(round(height / CENTRE_SHARE), interpolation=kinds.InterpolationMode.BICUBIC)]
    return kinds.Compose([*steps, kinds.CenterCrop((height, width)), kinds.PILToTensor()])  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Fitted:
    """A Pillow image at this height and width. An object, no closure, so that reader processes can be given it."""

    size: tuple[int, int]

    def __call__(self, image: Any) -> Any:
        return fit(image, self.size)


def _policy(recipe: Recipe) -> Callable[[Any], Any]:
    """A policy of timm: RandAugment (arXiv:1909.13719), AutoAugment (arXiv:1805.09501) or AugMix."""
    try:
        from timm.data.auto_augment import (
            augment_and_mix_transform,
            auto_augment_transform,
            rand_augment_transform,
        )
    except ImportError:
        raise SettingError(f"augment = {recipe.augment!r} needs timm; install it with: {INSTALL}") from None
    settings = {"translate_const": int(recipe.image_size * 0.45), "img_mean": (124, 116, 104)}
    kinds = {"rand": rand_augment_transform, "augmix": augment_and_mix_transform}
    make = kinds.get(recipe.augment.partition("-")[0], auto_augment_transform)
    try:
        return make(recipe.augment, settings)  # type: ignore[no-any-return]
    except (AssertionError, ValueError, KeyError) as error:
        raise SettingError(
            f"augment = {recipe.augment!r} is not a policy of timm ({error}); for example "
            "rand-m9-mstd0.5-inc1 or original"
        ) from None
