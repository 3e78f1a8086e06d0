"""Distances: (student, teacher) -> losses. The losses of samples are N values, so every calibration fits."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from primitives.declaration import distance
from primitives.types import DISTRIBUTIONS, PairType, pairs

_SUPPLEMENT = "KD-Zero (NeurIPS 2023), supplement, listing 3 and section E.2"
_listed = partial(distance, source=_SUPPLEMENT, paper=True)
_RANKS = ("matrix", "tokens", "map", "plane", "relation")
_EVERYTHING = pairs(*_RANKS)
_COLUMNS = pairs("columns")


@_listed(_EVERYTHING, latex=r"\frac{1}{d}\left\|<t>-<s>\right\|_{1}", words="by mean absolute difference")
def l1(student: Tensor, teacher: Tensor) -> Tensor:
    """mean |s − t| over all but the batch.

    Student and teacher N×… → losses N.
    """
    return (student - teacher).abs().flatten(1).mean(dim=1)


@_listed(_EVERYTHING, latex=r"\frac{1}{d}\left\|<t>-<s>\right\|_{2}^{2}", words="by mean squared difference")
def l2(student: Tensor, teacher: Tensor) -> Tensor:
    """mean (s − t)² over all but the batch.

    Student and teacher N×… → losses N.
    """
    return (student - teacher).square().flatten(1).mean(dim=1)


@distance(
    pairs("tokens", "map"),
    latex=r"\frac{1}{C}\left\|<t>-<s>\right\|_{2}^{2}",
    words="by squared difference summed over space",
    source="Liu et al. 2021 (ICKD), reference implementation",
)
def l2_rows(student: Tensor, teacher: Tensor) -> Tensor:
    """Σ (s − t)² over space, mean over channels.

    Student and teacher N×C×M or N×C×H×W → losses N.
    """
    return (student - teacher).square().flatten(2).sum(dim=2).mean(dim=1)


@_listed(_EVERYTHING, latex=r"\mathrm{Huber}\left(<t>-<s>\right)", words="by smooth absolute difference")
def smooth_l1(student: Tensor, teacher: Tensor) -> Tensor:
    """mean of ½d² where |d| < 1 and |d| − ½ elsewhere, d = s − t, over all but the batch.

    Student and teacher N×… → losses N.
    """
    return F.smooth_l1_loss(student, teacher, reduction="none").flatten(1).mean(dim=1)


def along(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both sides with the compared vectors in dimension 1: channels, or space where there is one channel."""
    if student.dim() > 2 and student.shape[1] == teacher.shape[1] == 1:
        return student.flatten(1), teacher.flatten(1)
    return student, teacher


@_listed(_EVERYTHING, batch=_COLUMNS, latex=r"\left[1-\cos\left(<t>,\,<s>\right)\right]", words="by cosine distance")
def cos(student: Tensor, teacher: Tensor) -> Tensor:
    """1 − ⟨s, t⟩ / (‖s‖ ‖t‖ + 10⁻⁸) along dimension 1, mean over the rest.

    Student and teacher N×… → losses N; columns C×N → losses C; N×1×H×W is compared along space.
    """
    student, teacher = along(student, teacher)
    cosine = (student * teacher).sum(dim=1) / (student.norm(dim=1) * teacher.norm(dim=1) + 1e-8)
    return 1.0 - cosine.flatten(1).mean(dim=1) if cosine.dim() > 1 else 1.0 - cosine


@_listed(
    _EVERYTHING,
    batch=_COLUMNS,
    latex=r"\left[1-\rho\left(<t>,\,<s>\right)\right]",
    words="by Pearson correlation distance",
    source=_SUPPLEMENT + "; Huang et al. 2022, arXiv:2205.10536 (DIST)",
)
def pear(student: Tensor, teacher: Tensor) -> Tensor:
    """1 − Pearson correlation along dimension 1, mean over the rest.

    Student and teacher N×… → losses N; columns C×N → losses C; N×1×H×W is compared along space.
    """
    student, teacher = along(student, teacher)
    return cos(student - student.mean(dim=1, keepdim=True), teacher - teacher.mean(dim=1, keepdim=True))


def kl_terms(student: Tensor, teacher: Tensor) -> Tensor:
    """t · (log t − log s), each number with 10⁻⁷ added in the logarithm (PKT's convention)."""
    return teacher * ((teacher + 1e-7).log() - (student + 1e-7).log())


def log_kl_terms(student: Tensor, teacher: Tensor) -> Tensor:
    """t · (log t − log s) of log-probabilities; exact also where a probability underflows."""
    return F.kl_div(student, teacher, reduction="none", log_target=True)


def cross_entropy_terms(student: Tensor, teacher: Tensor) -> Tensor:
    """−t · log s, with 10⁻⁷ added in the logarithm."""
    return -teacher * (student + 1e-7).log()


def log_cross_entropy_terms(student: Tensor, teacher: Tensor) -> Tensor:
    """−t · log s of log-probabilities."""
    return -teacher.exp() * student


def sum_over_N(terms: Tensor) -> Tensor:
    """Sum over the batch, mean over the rest, as N values whose mean is that number."""
    return len(terms) * terms.flatten(1).mean(dim=1)


def sum_over_C(terms: Tensor) -> Tensor:
    """Sum over channels, mean over space: N values."""
    sums = terms.sum(dim=1)
    return sums.flatten(1).mean(dim=1) if sums.dim() > 1 else sums


def sum_over_HW(terms: Tensor) -> Tensor:
    """Sum over space, mean over channels: N values."""
    return terms.flatten(2).sum(dim=2).mean(dim=1)


def mean_over_rest(terms: Tensor) -> Tensor:
    """Mean over everything but the batch: N values."""
    return terms.flatten(1).mean(dim=1)


_SUMS = {"N": sum_over_N, "C": sum_over_C, "HW": sum_over_HW}
_DISTRIBUTIONS = pairs(*_RANKS, kinds=DISTRIBUTIONS)


Terms = Callable[[Tensor, Tensor], Tensor]
Reduce = Callable[[Tensor], Tensor]


def of_kind(
    plain: Terms, logarithms: Terms, reduce: Reduce | None = None
) -> Callable[[PairType], tuple[Terms, Reduce]]:
    """What a distance of distributions is composed of for a type: the terms of probabilities or of log-probabilities,
    and ``reduce``, unless they are summed over the distributions' axis."""

    def specialise(given: PairType) -> tuple[Terms, Reduce]:
        return (logarithms if given.kind == "log_probability" else plain), reduce or _SUMS[given.axis]

    return specialise


_kl, _kl_mean = of_kind(kl_terms, log_kl_terms), of_kind(kl_terms, log_kl_terms, mean_over_rest)
_cross_entropy = of_kind(cross_entropy_terms, log_cross_entropy_terms)


@_listed(
    _DISTRIBUTIONS,
    latex=r"\mathrm{KL}\left(<t>\,\|\,<s>\right)",
    words="by KL divergence",
    source=_SUPPLEMENT + ", eqs 5 and 7; Hinton et al. 2015, arXiv:1503.02531",
    specialise=_kl,
    signed_over=("N",),
)
def kl(student: Tensor, teacher: Tensor, given: PairType) -> Tensor:
    """Σ t (log t − log s) over the distributions' axis, mean over the rest.

    Two distributions of the type ``given`` (over one axis, as probabilities or log-probabilities) to N.
    """
    terms, reduce = _kl(given)
    return reduce(terms(student, teacher))


@distance(
    _DISTRIBUTIONS,
    latex=r"\frac{1}{d}\,\mathrm{KL}\left(<t>\,\|\,<s>\right)",
    words="by mean elementwise KL divergence",
    source="Passalis & Tefas 2018, arXiv:1803.10837 (PKT), reference implementation",
    specialise=_kl_mean,
    signed_over=("N",),
)
def kl_mean(student: Tensor, teacher: Tensor, given: PairType) -> Tensor:
    """mean of t (log t − log s) over everything but the batch.

    Two distributions of the type ``given`` (over one axis, as probabilities or log-probabilities) to N.
    """
    terms, reduce = _kl_mean(given)
    return reduce(terms(student, teacher))


# The gradient of the student is that of ``kl``: for expressions and the zoo, of no use to a search.
@distance(
    _DISTRIBUTIONS,
    latex=r"\mathrm{CE}\left(<t>,\,<s>\right)",
    words="by cross-entropy",
    source="Zhou et al. 2021, arXiv:2102.00650 (WSLD), reference implementation",
    specialise=_cross_entropy,
    searchable=False,
)
def soft_cross_entropy(student: Tensor, teacher: Tensor, given: PairType) -> Tensor:
    """−Σ t log s over the distributions' axis, mean over the rest.

    Two distributions of the type ``given`` (over one axis, as probabilities or log-probabilities) to N.
    """
    terms, reduce = _cross_entropy(given)
    return reduce(terms(student, teacher))


@_listed(
    pairs("matrix", "tokens", "map", kinds=("real", "logits")),
    latex=r"\mathrm{CE}\left(\mathrm{argmax}_{C}\,<t>,\,\mathrm{softmax}_{C}\,<s>\right)",
    words="by cross-entropy with the largest entry as the label",
)
def hard(student: Tensor, teacher: Tensor) -> Tensor:
    """−log softmax(s) at argmax t over dimension 1, mean over the rest.

    Student and teacher N×C, N×C×M or N×C×H×W → losses N: cross-entropy with the teacher's decision as the label.
    """
    losses = F.cross_entropy(student, teacher.argmax(dim=1), reduction="none")
    return losses.flatten(1).mean(dim=1) if losses.dim() > 1 else losses


@_listed(
    [],
    batch=pairs("matrix"),
    latex=r"\log_2 \sum_{j} \left|\rho_{j}\left(<t>,\,<s>\right)-1\right|^{2.02}",
    words="by the logarithm, often negative, of each feature's lack of correlation over the batch",
    source=_SUPPLEMENT + ", eq. 12; Miles et al. 2022, arXiv:2112.00459 (ITRD)",
    signed=True,
)
def cor(student: Tensor, teacher: Tensor) -> Tensor:
    """log₂ Σ |v − 1|^2.02, v the correlation of each feature over the batch.

    Student and teacher N×C → one loss for the batch.
    """
    count = len(student)
    student = student - student.mean(dim=0)
    teacher = teacher - teacher.mean(dim=0)
    student = student / (student.square().sum(dim=0) / max(count - 1, 1) + 1e-12).sqrt()
    teacher = teacher / (teacher.square().sum(dim=0) / max(count - 1, 1) + 1e-12).sqrt()
    correlation = (student * teacher).sum(dim=0) / count
    return torch.log2((correlation - 1.0).abs().pow(2.02).sum() + 1e-12)


@distance(
    [],
    batch=pairs("matrix"),
    latex=r"\left\langle\delta_{n},\,\delta_{n+1}\right\rangle_{\delta=\left|<t>-<s>\right|}",
    words="by products of the absolute differences of neighbouring samples",
    source="Peng et al. 2019, arXiv:1904.01802 (CC), RepDistiller's implementation",
)
def consecutive(student: Tensor, teacher: Tensor) -> Tensor:
    """Σ |sᵢ − tᵢ| · |sᵢ₊₁ − tᵢ₊₁| over features, for neighbours in the batch.

    Student and teacher N×C → losses N − 1 (at least 1).
    """
    difference = (student - teacher).abs()
    if len(difference) == 1:
        return difference.square().sum(dim=1)
    return (difference[:-1] * difference[1:]).sum(dim=1)


@distance(
    pairs("tokens", "map"),
    agree=("HW",),
    latex=r"\mathrm{MMD}^{2}\left(<t>,\,<s>\right)",
    words="by maximum mean discrepancy between channels",
    source="Huang & Wang 2017, arXiv:1707.01219 (NST, polynomial kernel)",
)
def mmd(student: Tensor, teacher: Tensor) -> Tensor:
    """mean k(t, t) + mean k(s, s) − 2 mean k(s, t) over pairs of channels, k(a, b) = ⟨a, b⟩².

    Student and teacher N×C×M or N×C×H×W → losses N; the numbers of channels may differ. Maximum mean discrepancy.
    """
    student, teacher = student.flatten(2), teacher.flatten(2)
    if student.shape[2] <= max(student.shape[1], teacher.shape[1]):
        # ⟨a, b⟩² = ⟨a aᵀ, b bᵀ⟩: the same by a kernel of positions, which is the smaller one here.
        gram = torch.bmm(teacher.transpose(1, 2), teacher)
        one, other = 1.0 / student.shape[1], -1.0 / teacher.shape[1]
        gap = torch.baddbmm(gram, student.transpose(1, 2), student, alpha=one, beta=other)
        return gap.square().sum(dim=(1, 2))
    within_teacher = torch.bmm(teacher, teacher.transpose(1, 2)).square().mean(dim=(1, 2))
    within_student = torch.bmm(student, student.transpose(1, 2)).square().mean(dim=(1, 2))
    between = torch.bmm(student, teacher.transpose(1, 2)).square().mean(dim=(1, 2))
    return within_teacher + within_student - 2.0 * between
