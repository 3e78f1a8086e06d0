"""Builds students, and the last stages of students, from what a proxy task says about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from kdzero_gp import tasks
from kdzero_gp.data.inputs import Inputs, real
from kdzero_gp.models.split import halves
from kdzero_gp.models.weights import load_weights


def student_builder(spec: Mapping[str, Any], example: Inputs) -> Callable[[], nn.Module]:
    """A function that builds a new student (``task``, ``name``, ``classes``, ``channels``, ``taps``, ``weights`` to
    start from, or None, and ``head``, the weights that it inherits of the teacher's), tapped for inputs like
    ``example``; with ``cut``, what comes after that layer, tapped for maps like ``example``. What is random about it
    comes from torch's generator."""
    family = tasks.get(spec["task"]).family

    def builder() -> nn.Module:
        network = family.build(spec["name"], spec["classes"], spec["channels"])
        if spec.get("weights"):
            load_weights(network, spec["weights"])
        if spec.get("head"):
            network.load_state_dict(spec["head"], strict=False)
        if spec.get("cut"):
            network = halves(network, spec["cut"], spec["taps"])[1]
        return family.tap(network, real(example), spec.get("taps") or None, spec["classes"])

    return builder
