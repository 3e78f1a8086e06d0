"""Transforms of space and channels: attention, pooling, patches, masking, and changes of layout."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from primitives.declaration import operator, transform
from primitives.types import PairType, pairs

_SUPPLEMENT = "KD-Zero (NeurIPS 2023), supplement, listing 2"
_listed = partial(transform, source=_SUPPLEMENT, paper=True)
_MAPS = pairs("map")


def _except_over(axis: str, *ranks: str) -> list[PairType]:
    """Types to reduce over ``axis``: the mean of probabilities over their own axis is a constant."""
    return [given for given in pairs(*ranks) if not (given.kind == "probability" and given.axis == axis)]


@_listed(
    {given: PairType("plane") for given in _except_over("C", "tokens", "map") if given.rank == "map"},
    latex=operator("att", "HW"),
    words="spatial attention of <x>",
    non_negative=True,
    source=_SUPPLEMENT + ", eq. 1 (FGD)",
)
def satt(x: Tensor) -> Tensor:
    """H·W · softmax(mean |x| over channels / 0.5) over space.

    N×C×H×W to an N×1×H×W mask with mean 1.
    """
    attention = x.abs().mean(dim=1, keepdim=True)
    positions = attention.shape[2] * attention.shape[3]
    return positions * torch.softmax(attention.flatten(2) / 0.5, dim=2).view_as(attention)


@_listed(
    {given: PairType(given.rank) for given in pairs("matrix", "tokens", "map", "plane")},
    per_sample=False,
    latex=operator("att", "N"),
    words="batch attention of <x>",
    non_negative=True,
)
def natt(x: Tensor) -> Tensor:
    """N · softmax(x / 0.5) over the batch.

    Any rank with a batch axis, kept; mean 1 over dimension 0.
    """
    return x.shape[0] * torch.softmax(x / 0.5, dim=0)


@_listed(
    {given: PairType("matrix") for given in [*pairs("matrix"), *_except_over("HW", "tokens", "map")]},
    latex=operator("att", "C"),
    words="channel attention of <x>",
    non_negative=True,
    source=_SUPPLEMENT + ", eq. 2 (FGD)",
)
def catt(x: Tensor) -> Tensor:
    """C · softmax(mean |x| over space / 0.5) over channels.

    N×C×H×W or N×C×M to N×C (the listing keeps two axes of size 1); of N×C the softmax of x itself.
    """
    attention = x.abs().flatten(2).mean(dim=2) if x.dim() > 2 else x
    return attention.shape[1] * torch.softmax(attention / 0.5, dim=1)


def mask_noise(x: Tensor) -> Tensor:
    """1 with probability 0.35 and 0 otherwise, one draw for each position: N×1×M or N×1×H×W."""
    return (torch.rand_like(x[:, :1]) >= 0.65).to(x.dtype)


@_listed(
    {given: PairType(given.rank) for given in pairs("tokens", "map", "plane")},
    agree=("HW",),
    noise=mask_noise,
    latex=r"\left(M_{HW}\odot <x>\right)",
    words="randomly masked positions of <x>",
    source=_SUPPLEMENT + ", eq. 3 with λ = 0.65 (MGD)",
)
def mask(x: Tensor, noise: Tensor) -> Tensor:
    """x · M with M = 0 where R < 0.65, R uniform, one draw for each position.

    N×C×M, N×C×H×W or N×1×H×W, kept. Both sides share the draw.
    """
    return x * noise


def drop_noise(x: Tensor) -> Tensor:
    """0 with probability 0.1 and 1/0.9 otherwise, one draw for each sample and channel: N×C(×1×1)."""
    kept = torch.rand(x.shape[:2], device=x.device, dtype=x.dtype) >= 0.1
    return (kept.to(x.dtype) / 0.9).view(*x.shape[:2], *[1] * (x.dim() - 2))


@_listed(
    {given: PairType(given.rank) for given in pairs("matrix", "tokens", "map")},
    agree=("C",),
    noise=drop_noise,
    latex=r"\left(M_{C}\odot <x>\right)",
    words="randomly dropped <C> of <x>",
    source=_SUPPLEMENT + " (dropout2d, p = 0.1)",
)
def drop(x: Tensor, noise: Tensor) -> Tensor:
    """x · M / 0.9 with M = 0 for a tenth of the channels.

    N×C, N×C×M or N×C×H×W, kept. Both sides share the draw.
    """
    return x * noise


@transform(
    {given: PairType("plane") for given in _except_over("C", "map")},
    latex=operator("mean", "C"),
    words="mean over channels of <x>",
    source="Zagoruyko & Komodakis 2017, arXiv:1612.03928 (AT)",
)
def mean_C(x: Tensor) -> Tensor:
    """Mean over channels.

    N×C×H×W to N×1×H×W.
    """
    return x.mean(dim=1, keepdim=True)


@transform(
    {given: PairType("matrix") for given in _except_over("HW", "tokens", "map")},
    latex=operator("mean", "HW"),
    words="mean over space of <x>",
    source="global average pooling, Lin et al. 2014, arXiv:1312.4400",
)
def mean_HW(x: Tensor) -> Tensor:
    """Mean over space.

    N×C×M or N×C×H×W to N×C.
    """
    return x.flatten(2).mean(dim=2)


_POOLED = {given: PairType(given.rank) for given in pairs("map", "plane")}


@_listed(
    {given: given for given in pairs("map", "plane")},
    latex="<x>",
    words="full-size copy of <x>",
    identity=True,
    searchable=False,
)
def scale_r1(x: Tensor) -> Tensor:
    """x: the supplement's multi-scale with ratio 1.

    N×C×H×W, kept. The canonical form leaves it out.
    """
    return x


@_listed(
    _POOLED,
    latex=operator("maxpool", r"2\times 2"),
    words="2×2 max-pooling of <x>",
    source=_SUPPLEMENT + " (spatial pyramid, PSPNet)",
)
def scale_r2(x: Tensor) -> Tensor:
    """Maximum over blocks of 2×2.

    N×C×H×W to N×C×⌈H/2⌉×⌈W/2⌉; blocks at the border may be smaller.
    """
    return F.max_pool2d(x, kernel_size=2, ceil_mode=True)


@_listed(
    _POOLED,
    latex=operator("maxpool", r"4\times 4"),
    words="4×4 max-pooling of <x>",
    source=_SUPPLEMENT + " (spatial pyramid, PSPNet)",
)
def scale_r4(x: Tensor) -> Tensor:
    """Maximum over blocks of 4×4.

    N×C×H×W to N×C×⌈H/4⌉×⌈W/4⌉; blocks at the border may be smaller.
    """
    return F.max_pool2d(x, kernel_size=4, ceil_mode=True)


@transform(
    _POOLED,
    latex=operator("avgpool", r"\to 2\times 2"),
    words="average over each quarter of <x>",
    idempotent=True,
    source="spatial pyramid pooling, He et al. 2014, arXiv:1406.4729",
)
def pool_2(x: Tensor) -> Tensor:
    """Mean over each of 2×2 equal parts.

    N×C×H×W to N×C×2×2 for any H, W, so that different resolutions agree.
    """
    return F.adaptive_avg_pool2d(x, 2)


@transform(
    _POOLED,
    latex=operator("avgpool", r"\to 4\times 4"),
    words="average over a 4×4 grid of <x>",
    idempotent=True,
    source="spatial pyramid pooling, He et al. 2014, arXiv:1406.4729",
)
def pool_4(x: Tensor) -> Tensor:
    """Mean over each of 4×4 equal parts.

    N×C×H×W to N×C×4×4 for any H, W.
    """
    return F.adaptive_avg_pool2d(x, 4)


def patches(x: Tensor, height: int, width: int) -> Tensor:
    """Patches of height×width pixels as channels: N×C×H×W to N×(C·rows·columns)×height×width, zero-padded."""
    x = F.pad(x, (0, -x.shape[3] % width, 0, -x.shape[2] % height))
    count, channels, rows, columns = x.shape[0], x.shape[1], x.shape[2] // height, x.shape[3] // width
    x = x.reshape(count, channels, rows, height, columns, width).permute(0, 1, 2, 4, 3, 5)
    return x.reshape(count, channels * rows * columns, height, width)


_PATCHED = {given: PairType("map") for given in pairs("map", "plane")}


@_listed(
    {given: PairType("matrix") for given in pairs("map", "plane")},
    latex=operator("vec"),
    words="single pixels of <x>",
    layout=True,
    written_as="batch",
    searchable=False,
)
def local_s1(x: Tensor) -> Tensor:
    """Patches of 1×1 pixel: x as rows.

    N×C×H×W to N×(C·H·W); the canonical form writes ``batch``.
    """
    return x.flatten(1)


@_listed(_PATCHED, latex=operator("patch", r"2\times 2"), words="2×2-pixel patches of <x>")
def local_s2(x: Tensor) -> Tensor:
    """Patches of 2×2 pixels as channels.

    N×C×H×W to N×(C·⌈H/2⌉·⌈W/2⌉)×2×2, zero-padded.
    """
    return patches(x, 2, 2)


@_listed(_PATCHED, latex=operator("patch", r"4\times 4"), words="4×4-pixel patches of <x>")
def local_s4(x: Tensor) -> Tensor:
    """Patches of 4×4 pixels as channels.

    N×C×H×W to N×(C·⌈H/4⌉·⌈W/4⌉)×4×4, zero-padded.
    """
    return patches(x, 4, 4)


@transform(
    _PATCHED,
    latex=operator("grid", r"2\times 2"),
    words="four equal patches of <x>",
    source="KD-Zero supplement, section E.1 (n² patches, LKD)",
)
def patch_2(x: Tensor) -> Tensor:
    """2×2 patches of equal size as channels.

    N×C×H×W to N×(4·C)×⌈H/2⌉×⌈W/2⌉, zero-padded.
    """
    return patches(x, -(-x.shape[2] // 2), -(-x.shape[3] // 2))


@transform(
    _PATCHED,
    latex=operator("grid", r"4\times 4"),
    words="sixteen equal patches of <x>",
    source="KD-Zero supplement, section E.1 (n² patches, LKD)",
)
def patch_4(x: Tensor) -> Tensor:
    """4×4 patches of equal size as channels.

    N×C×H×W to N×(C·rows·columns)×⌈H/4⌉×⌈W/4⌉ with at most 4 rows and columns, zero-padded.
    """
    return patches(x, -(-x.shape[2] // 4), -(-x.shape[3] // 4))


@_listed(
    {given: PairType("matrix") for given in pairs("tokens", "map", "plane")},
    latex=operator("vec"),
    words="rows, one for each sample, of <x>",
    layout=True,
)
def batch(x: Tensor) -> Tensor:
    """x as one row for each sample.

    N×… to N×(product of the rest).
    """
    return x.flatten(1)


@_listed(
    {given: PairType("tokens", given.kind, given.axis) for given in _MAPS},
    latex=operator("vec", "HW"),
    words="channel rows of <x>",
    identity=True,
    searchable=False,
)
def channel(x: Tensor) -> Tensor:
    """x with space as one axis.

    N×C×H×W to N×C×(H·W). Every operation treats both alike, so the canonical form leaves it out.
    """
    return x.flatten(2)
