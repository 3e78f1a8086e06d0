"""Transforms that act on each number alone. They keep the rank and turn every kind into real numbers."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from primitives.declaration import operator, transform
from primitives.types import TEMPERATURE, PairType, pairs

_RANKS = ("matrix", "tokens", "map", "plane", "relation")
_REAL = ("real", "logits")
_SUPPLEMENT = "KD-Zero (NeurIPS 2023), supplement, listing 2"
_listed = partial(transform, source=_SUPPLEMENT, paper=True)


def _to_real(*kinds: str) -> dict[PairType, PairType]:
    return {given: PairType(given.rank) for given in pairs(*_RANKS, kinds=kinds)}


# On probabilities relu, abs and leaky_relu change nothing, and on log-probabilities they erase or only scale: not
# defined there, so that no tree contains a silent no-op.
_SIGNED = _to_real(*_REAL)
_ANY = _to_real(*_REAL, "probability", "log_probability")


_RESTORED = {
    given: PairType(given.rank, "probability", given.axis) for given in pairs(*_RANKS, kinds=("log_probability",))
}


@_listed(
    _to_real(*_REAL, "probability") | _RESTORED, latex=operator("exp"), words="exponential of <x>", non_negative=True
)
def exp(x: Tensor) -> Tensor:
    """exp(min(x, 20)).

    Any shape, kept; of log-probabilities it gives the probabilities. The bound keeps value and
    gradient finite; e²⁰ ≈ 5·10⁸ is far beyond useful losses.
    """
    return torch.exp(x.clamp(max=20.0))


@_listed(_ANY, latex=operator("Mish"), words="Mish of <x>", source=_SUPPLEMENT + "; Misra 2019, arXiv:1908.08681")
def mish(x: Tensor) -> Tensor:
    """x · tanh(softplus(x)).

    Any shape, kept.
    """
    return F.mish(x)


@_listed(_SIGNED, latex=operator("LeakyReLU"), words="leaky ReLU of <x>", keeps_non_negative=True)
def leaky_relu(x: Tensor) -> Tensor:
    """max(x, 0) + 0.01 · min(x, 0).

    Any shape, kept. The supplement's selector calls it ``leaky``.
    """
    return F.leaky_relu(x)


@_listed(
    _SIGNED,
    latex=operator("ReLU"),
    words="positive part of <x>",
    idempotent=True,
    non_negative=True,
    keeps_non_negative=True,
)
def relu(x: Tensor) -> Tensor:
    """max(x, 0).

    Any shape, kept.
    """
    return F.relu(x)


@_listed(_ANY, latex=operator("tanh"), words="hyperbolic tangent of <x>")
def tanh(x: Tensor) -> Tensor:
    """tanh(x).

    Any shape, kept.
    """
    return torch.tanh(x)


@_listed(_ANY, latex=r"\sigma\left(<x>\right)", words="sigmoid of <x>", non_negative=True)
def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(−x)).

    Any shape, kept.
    """
    return torch.sigmoid(x)


@_listed(
    _ANY,
    latex=operator("Swish"),
    words="Swish of <x>",
    source=_SUPPLEMENT + "; Ramachandran et al. 2017, arXiv:1710.05941",
)
def swish(x: Tensor) -> Tensor:
    """x · sigmoid(x).

    Any shape, kept.
    """
    return F.silu(x)


@_listed(
    _SIGNED,
    name="abs",
    latex=r"\left|<x>\right|",
    words="magnitude of <x>",
    idempotent=True,
    non_negative=True,
    keeps_non_negative=True,
)
def absolute(x: Tensor) -> Tensor:
    """|x|.

    Any shape, kept.
    """
    return x.abs()


@_listed(_ANY, latex="<b>^{2}", words="square of <x>", non_negative=True)
def pow2(x: Tensor) -> Tensor:
    """x².

    Any shape, kept.
    """
    return x.square()


@_listed(_ANY, latex="<b>^{4}", words="fourth power of <x>", non_negative=True)
def pow4(x: Tensor) -> Tensor:
    """x⁴.

    Any shape, kept.
    """
    return x.square().square()


@_listed(_to_real(*_REAL, "probability"), name="log", latex=operator("log", r"\pm"), words="signed logarithm of <x>")
def signed_log(x: Tensor) -> Tensor:
    """sign(x) · log(|x| + 10⁻⁶).

    Any shape, kept. The listing's 10⁻⁹ gives gradients of 10⁹ at zero; 10⁻⁶ still tells log-probabilities apart.
    """
    return torch.sign(x) * torch.log(x.abs() + 1e-6)


@_listed(_ANY, name="sqrt", latex=operator("sqrt", r"\pm"), words="signed square root of <x>")
def signed_sqrt(x: Tensor) -> Tensor:
    """sign(x) · (√(|x| + 10⁻⁶) − 10⁻³).

    Any shape, kept. The listing's √x has no value below zero and no gradient at it. With ``l2`` on probabilities
    this is the squared Hellinger distance, up to scale.
    """
    return torch.sign(x) * ((x.abs() + 1e-6).sqrt() - 1e-3)


@_listed(_ANY, latex=r"\frac{<x>+1}{2}", words="0-to-1 rescaled value of <x>")
def scale(x: Tensor) -> Tensor:
    """(x + 1) / 2.

    Any shape, kept. Brings cosines from [−1, 1] to [0, 1].
    """
    return (x + 1.0) / 2.0


@transform(
    _ANY,
    parameters=(TEMPERATURE,),
    latex=r"\frac{<x>}{<N>}",
    words="<N>-fold reduced value of <x>",
    division=True,
    source="KD-Zero supplement, listing 1 (division by T)",
)
def over(x: Tensor, temperature: float) -> Tensor:
    """x / T.

    Any shape, kept; ``temperature`` T > 0. A distance behind it is multiplied by T², as in the listing.
    """
    return x / temperature
