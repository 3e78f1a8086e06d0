"""What does a distiller cost in a training step on this device, beside kd and beside the same loss by hand?

Steps of the whole student (batches of the default proxy, the teacher's tensors at hand), of each kind in turn; medians
of the ratios of neighbouring blocks of steps. With and without a graph, in both precisions.
"""

import argparse
import statistics

import common
import torch
import torch.nn.functional as F

from kdzero_gp.compiler import zoo


def kd_by_hand(student, teacher, labels):
    """Hinton's loss as RepDistiller has it."""
    log_student = F.log_softmax(student["logits"] / 4.0, dim=1)
    return F.kl_div(log_student, F.softmax(teacher["logits"] / 4.0, dim=1), reduction="sum") * 16.0 / len(labels)


def searched_by_hand(student, teacher, labels):
    """The loss of ``cifar100/default.py`` as somebody would write it who reads its formula."""

    def focal(losses):
        with torch.no_grad():
            ours = F.cross_entropy(student["logits"], labels, reduction="none")
            theirs = F.cross_entropy(teacher["logits"], labels, reduction="none")
            weight = 1 - torch.exp(-ours / (theirs + 1e-7))
        return (weight * losses).mean()

    def pooled(tensors):
        return F.adaptive_avg_pool2d(F.leaky_relu(tensors["feat"]), 2)

    def mmd(one, other):
        one, other = one.flatten(2), other.flatten(2)

        def kernel(x, y):
            return torch.bmm(x, y.transpose(1, 2)).square().mean(dim=(1, 2))

        return kernel(other, other) + kernel(one, one) - 2 * kernel(one, other)

    ours, theirs = pooled(student), pooled(teacher)
    logits = (student["logits"] - teacher["logits"]).square().mean(dim=1)
    normed = [torch.tanh(F.normalize(x, dim=0, eps=1e-8)) for x in (ours, theirs)]
    return 2.0 * focal(logits) + 0.09 * focal(mmd(ours, theirs)) + 3600.0 * focal(mmd(*normed))


def main():
    options = common.arguments(argparse.ArgumentParser(description=__doc__.splitlines()[0]))
    results = common.Results(options.results, options.device)
    task = common.open_task(options.work / "task", options.data, options.weights, options.device, options.tiny)
    losses = {
        "cross-entropy": None,
        "kd": common.source_for(task, zoo["kd"]),
        "kd by hand": kd_by_hand,
        "searched": common.source_for(task, common.searched_expression()),
        "searched by hand": searched_by_hand,
    }
    rounds, steps = (1, 1) if options.tiny else (9, 40)
    for label, precision in common.precisions().items():
        for captured in (False, True):
            trainings = {
                name: common.Training(task, options.device, precision, loss, captured) for name, loss in losses.items()
            }
            found = common.in_turn(trainings, rounds, steps)
            reasons = {training.reason for training in trainings.values()} - {""} if captured else set()
            results.add(
                "steps", precision=label, captured=captured and not reasons, reason="; ".join(sorted(reasons)),
                milliseconds={name: statistics.median(values) for name, values in found.items()},
                kd_to_by_hand=common.median_ratio(found["kd"], found["kd by hand"]),
                searched_to_kd=common.median_ratio(found["searched"], found["kd"]),
                searched_to_by_hand=common.median_ratio(found["searched"], found["searched by hand"]),
                rounds=rounds, steps=steps, batch=task.recipes["proxy"].batch_size,
            )  # fmt: skip


if __name__ == "__main__":
    main()
