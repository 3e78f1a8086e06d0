"""A pair whose teacher sees images as it was trained on them, also where nothing says how that was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from kdzero_gp.data.dataset import Statistics
from kdzero_gp.engine.machine import Machine, computing_as
from kdzero_gp.engine.networks import expected_input
from kdzero_gp.engine.normalising import TRIED_IMAGES, as_options, can_be_tried, find_statistics
from kdzero_gp.engine.teacher import ask
from kdzero_gp.progress import Progress
from kdzero_gp.training.api import Pair
from kdzero_gp.training.run import Opened, check_answers, load_teacher


def normalised(pair: Pair, machine: Machine, progress: Progress) -> Pair:
    """The pair with the mean and deviation with which its teacher does best on validation images, where nothing is
    known of its weights; what was tried is told. Raises KdzeroError."""
    settings = pair.taught()
    if settings.statistics("teacher") is not None or not pair.validate:
        return pair
    machine = replace(machine, precision="float32")
    with torch.random.fork_rng([]), computing_as(machine.threads or 1):
        opened = Opened(settings, machine)
        batches = opened.batches
        known = expected_input(pair.teacher, pair.teacher_weights, batches.classes)
        if (known is not None and known.mean) or not can_be_tried(batches.dataset, batches.example):
            return pair

        def measured(statistics: Statistics | None) -> Mapping[str, float]:
            network = load_teacher(replace(settings, **as_options(statistics)), opened)
            if statistics is None:
                check_answers(network, settings, opened)
            return opened.measure(
                lambda images: ask(network, images, batches, opened.precision), "validation", TRIED_IMAGES
            )

        found, sentence = find_statistics(opened.family, pair.teacher, batches.dataset.usual_statistics, measured)
    progress.note(sentence)
    return replace(pair, **as_options(found))
