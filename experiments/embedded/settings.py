"""Candidate settings of the embedded task, as tasks by name: ``settings:w2_n500`` is a student of width 2 and 500
training images of scikit-learn's digits, the rest halved into validation and test images."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
from sklearn.datasets import load_digits

from kdzero_gp.data.dataset import SPLIT_SEED, Dataset, split_off
from kdzero_gp.data.splits import LazySplit, assemble
from kdzero_gp.families.classification import CLASSIFICATION
from kdzero_gp.tasks import Task
from kdzero_gp.tasks.plan import DIGITS, annealed

# w: the student's width, n: training images; v: validation images (half of what is left), e: epochs of a race, p: those
# of a proxy, m: those of the warm student, t: the teacher's width
NAME = re.compile(r"w(\d+)_n(\d+)(?:_v(\d+))?(?:_e(\d+))?(?:_p(\d+))?(?:_m(\d+))?(?:_t(\d+))?")


def digits(train: int, validation: int | None) -> Dataset:
    """scikit-learn's 1,797 digits with so many images to train on."""
    data = load_digits()
    pixels = np.rint(data.images[:, None] * (255 / 16)).astype(np.uint8)
    labels = data.target.astype(np.int64)
    count = validation or (len(labels) - train) // 2
    everything = LazySplit(labels, pixels.__getitem__)
    test, rest = (np.sort(indices) for indices in split_off(labels, len(labels) - train - count, SPLIT_SEED))
    classes = [str(name) for name in data.target_names]
    return assemble("digits", classes, everything.select(rest), everything.select(test), None, SPLIT_SEED, count)


def __getattr__(name: str) -> Task:
    found = NAME.fullmatch(name)
    if found is None:
        raise AttributeError(name)
    width, train, validation, race, proxy, warm, teacher = (int(text) if text else None for text in found.groups())
    plan = replace(
        DIGITS, teacher=f"digits_cnn_{teacher or 32}", student=f"digits_cnn_{width}",
        teacher_recipe=annealed(max(30, 27000 // train), 0.1),
        warm=annealed(warm or 6, 0.1, "constant"), proxy=annealed(proxy or 5, 0.1, "linear"),
        race=annealed(race or 25, 0.1), weights={"calibrated": 1.0}, short_bound=math.inf, race_zoo=4, race_top=8,
    )  # fmt: skip
    return Task(name, CLASSIFICATION, lambda _: digits(train, validation), plan, (10, 1, 8))
