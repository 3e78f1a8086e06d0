"""Transforms that normalise over an axis: to unit length, to a distribution, to zero mean, to a range."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from primitives.declaration import Declarer, operator, transform
from primitives.labelled import logsoftmax_labelled, softmax_labelled
from primitives.types import RANKS, TEMPERATURE, PairType, pairs

_SUPPLEMENT = "KD-Zero (NeurIPS 2023), supplement, listing 2"
_listed = partial(transform, source=_SUPPLEMENT, paper=True)
_RANKS = ("matrix", "tokens", "map", "plane", "relation")


def _normalised(axis: str) -> dict[PairType, PairType]:
    return {given: PairType(given.rank) for given in pairs(*_RANKS) if axis in RANKS[given.rank].axes}


def _distribution(axis: str, kind: str) -> dict[PairType, PairType]:
    """Softmax types. log_softmax over its own axis is idempotent, so log-probabilities over ``axis`` are left out."""
    return {
        given: PairType(given.rank, kind, axis)
        for given in pairs(*_RANKS)
        if axis in RANKS[given.rank].axes and not (given.kind == "log_probability" and given.axis == axis)
    }


@_listed(_normalised("HW"), latex=operator("unit", "HW"), words="pattern over space of <x>", idempotent=True)
def norm_HW(x: Tensor) -> Tensor:
    """x / max(‖x‖₂ over space, 10⁻⁸).

    N×C×M, N×C×H×W or N×1×H×W, kept.
    """
    return F.normalize(x, p=2.0, dim=tuple(range(2, x.dim())), eps=1e-8)  # type: ignore[arg-type]


@_listed(_normalised("C"), latex=operator("unit", "C"), words="direction over <C> of <x>", idempotent=True)
def norm_C(x: Tensor) -> Tensor:
    """x / max(‖x‖₂ over dimension 1, 10⁻⁸).

    Any rank with a channel axis, kept; of a relation it normalises the rows.
    """
    return F.normalize(x, p=2.0, dim=1, eps=1e-8)


@_listed(
    _normalised("N"),
    per_sample=False,
    latex=operator("unit", "N"),
    words="pattern over the batch of <x>",
    idempotent=True,
)
def norm_N(x: Tensor) -> Tensor:
    """x / max(‖x‖₂ over the batch, 10⁻⁸).

    Any rank with a batch axis, kept.
    """
    return F.normalize(x, p=2.0, dim=0, eps=1e-8)


def _softmax(axis: str, over: str, **facts: Any) -> Declarer:
    return _listed(
        _distribution(axis, "probability"), parameters=(TEMPERATURE,), words=f"<T>softmax over {over} of <x>",
        latex=rf"\mathrm{{softmax}}_{{{axis}}}\left(<x><T>\right)", non_negative=True, log_form=f"logsoftmax_{axis}",
        **facts,
    )  # fmt: skip


def _logsoftmax(axis: str, over: str, **facts: Any) -> Declarer:
    return _listed(
        _distribution(axis, "log_probability"), parameters=(TEMPERATURE,), words=f"<T>log-softmax over {over} of <x>",
        latex=rf"\log\,\mathrm{{softmax}}_{{{axis}}}\left(<x><T>\right)", **facts,
    )  # fmt: skip


@_softmax("N", "the batch", per_sample=False)
def softmax_N(x: Tensor, temperature: float) -> Tensor:
    """softmax(x / T) over the batch.

    Any rank with a batch axis, kept; sums to 1 over dimension 0.
    """
    return torch.softmax(x / temperature, dim=0)


@_softmax("C", "<C>")
def softmax_C(x: Tensor, temperature: float) -> Tensor:
    """softmax(x / T) over dimension 1.

    Any rank with a channel axis, kept; sums to 1 over dimension 1.
    """
    return torch.softmax(x / temperature, dim=1)


@_softmax("HW", "space", labelled=softmax_labelled)
def softmax_HW(x: Tensor, temperature: float) -> Tensor:
    """softmax(x / T) over space.

    N×C×M, N×C×H×W or N×1×H×W, kept; sums to 1 over space. The listing returns maps flattened; the values are the
    same.
    """
    return torch.softmax(x.flatten(2) / temperature, dim=2).view_as(x)


@_logsoftmax("N", "the batch", per_sample=False)
def logsoftmax_N(x: Tensor, temperature: float) -> Tensor:
    """log softmax(x / T) over the batch.

    Any rank with a batch axis, kept. (The listing normalises dimension 1.)
    """
    return torch.log_softmax(x / temperature, dim=0)


@_logsoftmax("C", "<C>")
def logsoftmax_C(x: Tensor, temperature: float) -> Tensor:
    """log softmax(x / T) over dimension 1.

    Any rank with a channel axis, kept.
    """
    return torch.log_softmax(x / temperature, dim=1)


@_logsoftmax("HW", "space", labelled=logsoftmax_labelled)
def logsoftmax_HW(x: Tensor, temperature: float) -> Tensor:
    """log softmax(x / T) over space.

    N×C×M, N×C×H×W or N×1×H×W, kept.
    """
    return torch.log_softmax(x.flatten(2) / temperature, dim=2).view_as(x)


@transform(
    {PairType("relation"): PairType("relation", "probability", "C")},
    per_sample=False,
    latex=operator("proportion", "C"),
    words="row-wise proportions of <x>",
    idempotent=True,
    non_negative=True,
    source="Passalis & Tefas 2018, arXiv:1803.10837 (PKT, conditional probabilities)",
)
def proportion_C(x: Tensor) -> Tensor:
    """max(x, 0) / Σ max(x, 0) over dimension 1.

    N×N similarities to N×N probabilities: how likely sample i picks sample j. A row without a positive entry
    becomes uniform.
    """
    positive = x.clamp(min=0.0) + 1e-12
    return positive / positive.sum(dim=1, keepdim=True)


@_listed(
    {given: PairType(given.rank) for given in pairs(*_RANKS)},
    per_sample=False,
    latex=operator("minmax"),
    words="min-max normalised value of <x>",
    idempotent=True,
    non_negative=True,
)
def min_max_normalize(x: Tensor) -> Tensor:
    """(x − min x) / (max x − min x + 10⁻⁶) over the whole batch.

    Any rank, kept. (The listing's 10⁻⁹ is lost in float32.)
    """
    low, high = x.amin(), x.amax()
    return (x - low) / (high - low + 1e-6)


@_listed(
    {given: PairType(given.rank) for given in pairs("matrix", "tokens", "map")},
    per_sample=False,
    latex=operator("batchnorm"),
    words="batch-normalised value of <x>",
)
def batchnorm(x: Tensor) -> Tensor:
    """(x − mean) / √(variance + 10⁻⁵) for each channel over batch and space.

    N×C, N×C×M or N×C×H×W, kept. Batch statistics, no learnable part. (The listing creates a module at every call.)
    """
    dimensions = [dimension for dimension in range(x.dim()) if dimension != 1]
    variance, mean = torch.var_mean(x, dim=dimensions, correction=0, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt()
