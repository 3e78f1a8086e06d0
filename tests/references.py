"""Independent formulas that the catalogue and the zoo are compared with.

Written from the papers and from the behaviour of the methods' public implementations, not from ours: plain
loops, ``einsum`` and ``einops`` in float64, without regard for speed. Where an implementation must guard a
division or a logarithm, the formula here has no guard unless the guard is part of the method's convention.

Sources of the zoo's conventions: RepDistiller (kd, fitnet, at, sp, cc, pkt, nst, rkd), mdistiller (dkd),
hunto/DIST_KD (dist), TorchDistiller (cwd), the ICKD repository (ickd), the supplement of KD-Zero and
roymiles/ITRD (itrd), bellymonster/Weighted-Soft-Label-Distillation (wsld).
"""

import math

import torch
from einops import rearrange, reduce

# --- pieces -------------------------------------------------------------------------------------------------


def axis_dimensions(x, axis):
    """The dimensions behind a named axis."""
    return {"N": [0], "C": [1], "HW": list(range(2, x.dim()))}[axis]


def length(x, axis):
    return torch.sqrt((x * x).sum(dim=axis_dimensions(x, axis), keepdim=True))


def softmax(x, axis, temperature=1.0):
    """exp(xᵢ/T) / Σ exp(xⱼ/T), the definition, shifted by a constant that cancels."""
    dimensions = axis_dimensions(x, axis)
    powers = torch.exp((x - x.detach().amax(dim=dimensions, keepdim=True)) / temperature)
    return powers / powers.sum(dim=dimensions, keepdim=True)


def log_softmax(x, axis, temperature=1.0):
    dimensions = axis_dimensions(x, axis)
    shifted = (x - x.detach().amax(dim=dimensions, keepdim=True)) / temperature
    return shifted - torch.log(torch.exp(shifted).sum(dim=dimensions, keepdim=True))


def rows(x):
    return rearrange(x, "n ... -> n (...)")


def columns_of_space(x):
    return rearrange(x, "n c ... -> n c (...)")


def gram(x):
    return torch.einsum("ik,jk->ij", rows(x), rows(x))


def channel_gram(x):
    return torch.einsum("ncm,ndm->ncd", columns_of_space(x), columns_of_space(x))


def cut(x, height, width):
    """Patches of height×width pixels as channels, one by one; zeros beyond the border."""
    _, channels, full_height, full_width = x.shape
    found = []
    for channel in range(channels):
        for top in range(0, full_height, height):
            for left in range(0, full_width, width):
                patch = x[:, channel, top : top + height, left : left + width]
                whole = x.new_zeros(len(x), height, width)
                whole[:, : patch.shape[1], : patch.shape[2]] = patch
                found.append(whole)
    return torch.stack(found, dim=1)


def blocks(x, size, statistic):
    """``statistic`` over blocks of size×size pixels; blocks at the border may be smaller."""
    lines = []
    for top in range(0, x.shape[2], size):
        starts = range(0, x.shape[3], size)
        lines.append(torch.stack([statistic(x[:, :, top : top + size, left : left + size]) for left in starts], 2))
    return torch.stack(lines, 2)


def parts(x, count):
    """The mean over each of count×count parts; part i spans from ⌊i·H/count⌋ to ⌈(i+1)·H/count⌉."""
    height, width = x.shape[2:]
    lines = []
    for row in range(count):
        top, bottom = row * height // count, -(-(row + 1) * height // count)
        line = []
        for column in range(count):
            left, right = column * width // count, -(-(column + 1) * width // count)
            line.append(x[:, :, top:bottom, left:right].mean(dim=(2, 3)))
        lines.append(torch.stack(line, 2))
    return torch.stack(lines, 2)


def class_split(logits, labels, temperature):
    """Hinton's softened probabilities as (of the label, of everything else), row by row."""
    probability = softmax(logits, "C", temperature)
    label = torch.stack([probability[i, y] for i, y in enumerate(labels.tolist())])
    return torch.stack((label, 1.0 - label), dim=1)


def without_label(logits, labels):
    """The logits of the classes other than the label: N×(C−1)."""
    kept = [torch.cat((row[:y], row[y + 1 :])) for row, y in zip(logits, labels.tolist(), strict=True)]
    return torch.stack(kept)


def cosine(a, b, epsilon=0.0):
    return (a * b).sum() / (torch.sqrt((a * a).sum()) * torch.sqrt((b * b).sum()) + epsilon)


def pearson(a, b, epsilon=1e-8):
    """The correlation of two vectors, with the 10⁻⁸ of DIST's implementation, which counts: the probabilities
    of one of 100 classes vary by 10⁻³ over a small batch, so that the product of two lengths is near 10⁻⁵."""
    return cosine(a - a.mean(), b - b.mean(), epsilon)


def label_entropy(logits, labels):
    """Cross-entropy with the label, one for each sample."""
    logs = log_softmax(logits, "C")
    return torch.stack([-logs[i, y] for i, y in enumerate(labels.tolist())])


def huber(difference):
    size = difference.abs()
    return torch.where(size < 1.0, 0.5 * difference * difference, size - 0.5)


# --- transforms ---------------------------------------------------------------------------------------------


def _pairwise(x):
    points = rows(x)
    count = len(points)

    def distance(i, j):
        return torch.sqrt(((points[i] - points[j]) ** 2).sum()) if i != j else points.new_zeros(())

    table = torch.stack([torch.stack([distance(i, j) for j in range(count)]) for i in range(count)])
    if count == 1:
        return table
    return table / table[table > 0].mean()


def _angles(x):
    count = len(x)
    result = []
    for i in range(count):
        for j in range(count):
            for k in range(count):
                if i in (j, k):
                    result.append(x.new_zeros(()))
                else:
                    result.append(cosine(x[j] - x[i], x[k] - x[i]))
    return torch.stack(result).reshape(count, count, count)


def _batchnorm(x):
    over = [dimension for dimension in range(x.dim()) if dimension != 1]
    mean = x.mean(dim=over, keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=over, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-5)


def _channel_attention(x):
    signal = x if x.dim() == 2 else reduce(x.abs(), "n c ... -> n c", "mean")
    return x.shape[1] * softmax(signal, "C", 0.5)


def _spatial_attention(x):
    signal = reduce(x.abs(), "n c h w -> n 1 h w", "mean")
    return x.shape[2] * x.shape[3] * softmax(signal, "HW", 0.5)


def _share(x):
    positive = torch.where(x > 0, x, torch.zeros_like(x))
    return positive / positive.sum(dim=1, keepdim=True)


def _place_by_place(function):
    """A function of N×C logits and N labels, applied to every place of N×C×… logits and N×… labels."""

    def applied(x, temperature, labels):
        if x.dim() == 2:
            return function(x, temperature, labels)
        places = columns_of_space(x).unbind(2)
        results = [function(p, temperature, y) for p, y in zip(places, rows(labels).unbind(1), strict=True)]
        return torch.stack(results, dim=2).reshape(len(x), -1, *x.shape[2:])

    return applied


@_place_by_place
def _target(x, temperature, labels):
    return torch.log(class_split(x, labels, temperature))


@_place_by_place
def _nontarget(x, temperature, labels):
    """Softmax over the other classes; the label's entry is the limit of the −1000 that DKD subtracts."""
    others = log_softmax(without_label(x, labels), "C", temperature)
    floor = x / temperature - 1000.0
    shift = torch.logsumexp(without_label(x, labels) / temperature, dim=1)
    result = []
    for i, y in enumerate(labels.tolist()):
        result.append(torch.cat((others[i, :y], (floor[i, y] - shift[i])[None], others[i, y:])))
    return torch.stack(result)


TRANSFORMS = {
    # elementwise
    "exp": lambda x: math.e ** torch.minimum(x, torch.full_like(x, 20.0)),
    "mish": lambda x: x * torch.tanh(torch.log(1.0 + torch.exp(x))),
    "leaky_relu": lambda x: torch.where(x > 0, x, 0.01 * x),
    "relu": lambda x: torch.where(x > 0, x, torch.zeros_like(x)),
    "tanh": lambda x: (torch.exp(2.0 * x) - 1.0) / (torch.exp(2.0 * x) + 1.0),
    "sigmoid": lambda x: 1.0 / (1.0 + torch.exp(-x)),
    "swish": lambda x: x / (1.0 + torch.exp(-x)),
    "abs": lambda x: torch.where(x > 0, x, -x),
    "pow2": lambda x: x * x,
    "pow4": lambda x: x * x * x * x,
    "log": lambda x: torch.where(x > 0, torch.log(x.abs() + 1e-6), -torch.log(x.abs() + 1e-6)),
    "sqrt": lambda x: torch.where(x > 0, 1.0, -1.0) * (torch.sqrt(x.abs() + 1e-6) - 1e-3),
    "scale": lambda x: 0.5 * x + 0.5,
    "over": lambda x, temperature: x * (1.0 / temperature),
    # normalization
    "norm_HW": lambda x: x / length(x, "HW"),
    "norm_C": lambda x: x / length(x, "C"),
    "norm_N": lambda x: x / length(x, "N"),
    "softmax_N": lambda x, temperature: softmax(x, "N", temperature),
    "softmax_C": lambda x, temperature: softmax(x, "C", temperature),
    "softmax_HW": lambda x, temperature: softmax(x, "HW", temperature),
    "logsoftmax_N": lambda x, temperature: log_softmax(x, "N", temperature),
    "logsoftmax_C": lambda x, temperature: log_softmax(x, "C", temperature),
    "logsoftmax_HW": lambda x, temperature: log_softmax(x, "HW", temperature),
    "proportion_C": _share,
    "min_max_normalize": lambda x: (x - x.min()) / (x.max() - x.min() + 1e-6),
    "batchnorm": _batchnorm,
    # spatial
    "satt": _spatial_attention,
    "natt": lambda x: x.shape[0] * softmax(x, "N", 0.5),
    "catt": _channel_attention,
    "mask": lambda x, noise: torch.einsum("nc...,n...->nc...", x, noise[:, 0]),
    "drop": lambda x, noise: torch.einsum("nc...,nc->nc...", x, noise.reshape(noise.shape[:2])),
    "mean_C": lambda x: reduce(x, "n c h w -> n 1 h w", "mean"),
    "mean_HW": lambda x: reduce(x, "n c ... -> n c", "mean"),
    "scale_r1": lambda x: x,
    "scale_r2": lambda x: blocks(x, 2, lambda block: block.amax(dim=(2, 3))),
    "scale_r4": lambda x: blocks(x, 4, lambda block: block.amax(dim=(2, 3))),
    "pool_2": lambda x: parts(x, 2),
    "pool_4": lambda x: parts(x, 4),
    "local_s1": lambda x: rearrange(x, "n c h w -> n (c h w)"),
    "local_s2": lambda x: cut(x, 2, 2),
    "local_s4": lambda x: cut(x, 4, 4),
    "patch_2": lambda x: cut(x, math.ceil(x.shape[2] / 2), math.ceil(x.shape[3] / 2)),
    "patch_4": lambda x: cut(x, math.ceil(x.shape[2] / 4), math.ceil(x.shape[3] / 4)),
    "batch": rows,
    "channel": lambda x: rearrange(x, "n c h w -> n c (h w)"),
    # relations
    "bmm": channel_gram,
    "mm": gram,
    "pdist": _pairwise,
    "angles": _angles,
    "transpose": lambda x: rearrange(x, "n c -> c n"),
    "target": _target,
    "nontarget": _nontarget,
}

# --- distances ----------------------------------------------------------------------------------------------


def _mean_of(elements):
    return lambda student, teacher, given: reduce(elements(student - teacher), "n ... -> n", "mean")


def _vectors(x):
    """The vectors that cos and pear compare: along channels at each place, along space where there is one."""
    if x.dim() == 4 and x.shape[1] == 1:
        return rearrange(x, "n 1 h w -> n 1 (h w)")
    if x.dim() == 2:
        return rearrange(x, "n c -> n 1 c")
    return rearrange(x, "n c ... -> n (...) c")


def _one_minus(similarity):
    def distance(student, teacher, given):
        result = []
        for one, other in zip(_vectors(student), _vectors(teacher), strict=True):
            found = [similarity(a, b) for a, b in zip(one, other, strict=True)]
            result.append(1.0 - torch.stack(found).mean())
        return torch.stack(result)

    return distance


def _logarithms(student, teacher, given):
    """(t, log t, log s): exact from log-probabilities, with PKT's 10⁻⁷ from probabilities."""
    if given.kind == "log_probability":
        return torch.exp(teacher), teacher, student
    return teacher, torch.log(teacher + 1e-7), torch.log(student + 1e-7)


def _reduced(terms, axis):
    """Sum over the distributions' axis, mean over the rest; over the batch each of N values carries the mean
    over its own places, and the mean of the N is that number."""
    if axis == "C":
        summed = terms.sum(dim=1)
        return summed if summed.dim() == 1 else reduce(summed, "n ... -> n", "mean")
    if axis == "HW":
        return reduce(columns_of_space(terms).sum(dim=2), "n c -> n", "mean")
    return terms.shape[0] * reduce(terms, "n ... -> n", "mean")


def _divergence(student, teacher, given):
    weight, log_teacher, log_student = _logarithms(student, teacher, given)
    return _reduced(weight * (log_teacher - log_student), given.axis)


def _mean_divergence(student, teacher, given):
    weight, log_teacher, log_student = _logarithms(student, teacher, given)
    return reduce(weight * (log_teacher - log_student), "n ... -> n", "mean")


def _soft_cross_entropy(student, teacher, given):
    weight, _, log_student = _logarithms(student, teacher, given)
    return _reduced(-weight * log_student, given.axis)


def _hard(student, teacher, given):
    decisions = teacher.argmax(dim=1, keepdim=True)
    chosen = log_softmax(student, "C").gather(1, decisions)
    return -reduce(chosen, "n ... -> n", "mean")


def _correlation_of_features(student, teacher, given=None, alpha=1.01):
    """log₂ Σ |v − 1|^2α; v is the correlation of each feature over the batch, with n − 1 under the deviations
    and n under the sum, as published."""
    count = len(student)
    total = 0.0
    for s, t in zip(student.T, teacher.T, strict=True):
        s_deviation = torch.sqrt(((s - s.mean()) ** 2).sum() / (count - 1))
        t_deviation = torch.sqrt(((t - t.mean()) ** 2).sum() / (count - 1))
        v = ((s - s.mean()) / s_deviation * ((t - t.mean()) / t_deviation)).sum() / count
        total = total + torch.abs(v - 1.0) ** (2.0 * alpha)
    return torch.log(total) / math.log(2.0)


def _neighbours(student, teacher, given=None):
    gap = torch.abs(student - teacher)
    return torch.stack([(gap[i] * gap[i + 1]).sum() for i in range(len(gap) - 1)])


def _kernel_discrepancy(student, teacher, given=None):
    def kernel(a, b):
        return torch.einsum("ncm,ndm->ncd", columns_of_space(a), columns_of_space(b)) ** 2

    between = [kernel(teacher, teacher), kernel(student, student), kernel(student, teacher)]
    tt, ss, st = (reduce(table, "n c d -> n", "mean") for table in between)
    return tt + ss - 2.0 * st


DISTANCES = {
    "l1": _mean_of(torch.abs),
    "l2": _mean_of(lambda difference: difference * difference),
    "l2_rows": lambda student, teacher, given: (
        columns_of_space(student - teacher).pow(2).sum(dim=(1, 2)) / student.shape[1]
    ),
    "smooth_l1": _mean_of(huber),
    "cos": _one_minus(lambda a, b: cosine(a, b, 1e-8)),
    "pear": _one_minus(pearson),
    "kl": _divergence,
    "kl_mean": _mean_divergence,
    "soft_cross_entropy": _soft_cross_entropy,
    "hard": _hard,
    "cor": _correlation_of_features,
    "consecutive": _neighbours,
    "mmd": _kernel_discrepancy,
}

# --- calibrations -------------------------------------------------------------------------------------------


def _weighted(weight_of, labelled_only=False):
    """Σ weight · loss / N over the samples; the weight of a sample is the mean over its places. ``labelled_only``:
    both means are over what has a label."""

    def calibrate(losses, student_logits, teacher_logits, labels):
        terms = []
        for i, loss in enumerate(losses):
            s, t = (columns_of_space(side[i : i + 1, :, None])[0].T for side in (student_logits, teacher_logits))
            y = labels[i].reshape(-1)
            counted = y >= 0 if labelled_only else torch.ones_like(y, dtype=torch.bool)
            if counted.any():
                with torch.no_grad():
                    weight = weight_of(s[counted], t[counted], y[counted])
                terms.append(sum(weight) / len(weight) * loss)
        return sum(terms) / len(terms)

    return calibrate


def _uncertainty(student_logits, teacher_logits, labels):
    probability = softmax(teacher_logits, "C", 4.0)
    return -(probability * torch.log(probability)).sum(dim=1) / math.log(teacher_logits.shape[1])


def _focus(student_logits, teacher_logits, labels):
    ratio = label_entropy(student_logits, labels) / (label_entropy(teacher_logits, labels) + 1e-7)
    return 1.0 - torch.exp(-ratio)


CALIBRATIONS = {
    "no": lambda losses, *_: sum(losses) / len(losses),
    "entropy": _weighted(_uncertainty),
    "focal": _weighted(_focus, labelled_only=True),
    "sim": _weighted(lambda s, t, y: torch.stack([max(cosine(a, b), a.sum() * 0) for a, b in zip(s, t, strict=True)])),
    "conf": _weighted(lambda s, t, y: softmax(t, "C").max(dim=1).values),
}

COMBINATIONS = {
    "times": lambda loss, magnitude: loss * magnitude,
    "add": lambda left, right: left + right,
}

# --- the zoo ------------------------------------------------------------------------------------------------


def _kd(student, teacher, labels, temperature=4.0):
    p = softmax(teacher["logits"], "C", temperature)
    log_q = log_softmax(student["logits"], "C", temperature)
    return temperature**2 * (p * (torch.log(p) - log_q)).sum() / len(p)


def _attention(x):
    energy = rows(reduce(x * x, "n c h w -> n h w", "mean"))
    return energy / length(energy, "C")


def _at(student, teacher, labels):
    return ((_attention(student["feat"]) - _attention(teacher["feat"])) ** 2).mean()


def _sp(student, teacher, labels):
    count = len(labels)
    s, t = gram(student["feat"]), gram(teacher["feat"])
    s = s / torch.sqrt((s * s).sum(dim=1, keepdim=True))
    t = t / torch.sqrt((t * t).sum(dim=1, keepdim=True))
    return ((s - t) ** 2).sum() / count**2


def _cc(student, teacher, labels):
    return _neighbours(student["emb"], teacher["emb"]).mean()


def _pkt(student, teacher, labels, epsilon=1e-7):
    def chances(x):
        x = x / length(x, "C")
        similarity = (x @ x.T + 1.0) / 2.0
        return similarity / similarity.sum(dim=1, keepdim=True)

    s, t = chances(student["emb"]), chances(teacher["emb"])
    return (t * torch.log((t + epsilon) / (s + epsilon))).mean()


def _nst(student, teacher, labels):
    s, t = columns_of_space(student["feat"]), columns_of_space(teacher["feat"])
    return _kernel_discrepancy(s / length(s, "HW"), t / length(t, "HW")).mean()


def _rkd(student, teacher, labels):
    s, t = student["emb"], teacher["emb"]
    distance = huber(_pairwise(s) - _pairwise(t)).mean()
    angle = huber(_angles(s) - _angles(t)).mean()
    return 25.0 * distance + 50.0 * angle


def _cwd(student, teacher, labels, temperature=4.0):
    p = softmax(columns_of_space(teacher["feat"]), "HW", temperature)
    log_q = log_softmax(columns_of_space(student["feat"]), "HW", temperature)
    return temperature**2 * (p * (torch.log(p) - log_q)).sum() / (p.shape[0] * p.shape[1])


def _ickd(student, teacher, labels):
    s, t = channel_gram(student["feat"]), channel_gram(teacher["feat"])
    s, t = s / length(s, "HW"), t / length(t, "HW")
    return ((s - t) ** 2).sum() / (s.shape[0] * s.shape[1])


def _dist(student, teacher, labels, temperature=4.0):
    q, p = (softmax(side["logits"], "C", temperature) for side in (student, teacher))
    between_classes = 1.0 - sum(pearson(a, b) for a, b in zip(q, p, strict=True)) / len(q)
    within_classes = 1.0 - sum(pearson(a, b) for a, b in zip(q.T, p.T, strict=True)) / q.shape[1]
    return temperature**2 * (between_classes + within_classes)


def _dkd(student, teacher, labels, alpha=1.0, beta=8.0, temperature=4.0):
    s, t = student["logits"], teacher["logits"]
    b_s, b_t = class_split(s, labels, temperature), class_split(t, labels, temperature)
    target = (b_t * (torch.log(b_t) - torch.log(b_s))).sum() / len(labels)
    log_q = log_softmax(without_label(s, labels), "C", temperature)
    p = softmax(without_label(t, labels), "C", temperature)
    others = (p * (torch.log(p) - log_q)).sum() / len(labels)
    return temperature**2 * (alpha * target + beta * others)


def _itrd(student, teacher, labels):
    return _correlation_of_features(student["emb"], teacher["emb"])


def _wsld(student, teacher, labels, temperature=4.0):
    s, t = student["logits"], teacher["logits"]
    soft = -(softmax(t, "C", temperature) * log_softmax(s, "C", temperature)).sum(dim=1)
    with torch.no_grad():
        weight = _focus(s, t, labels)
    return temperature**2 * (weight * soft).mean()


ZOO = {
    "kd": _kd,
    "mse": lambda student, teacher, labels: ((student["logits"] - teacher["logits"]) ** 2).mean(),
    "fitnet": lambda student, teacher, labels: ((student["feat"] - teacher["feat"]) ** 2).mean(),
    "at": _at,
    "sp": _sp,
    "cc": _cc,
    "pkt": _pkt,
    "nst": _nst,
    "rkd": _rkd,
    "cwd": _cwd,
    "ickd": _ickd,
    "dist": _dist,
    "dkd": _dkd,
    "itrd": _itrd,
    "wsld": _wsld,
}
