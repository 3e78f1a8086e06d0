"""The options of a search, as one list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kdzero_gp.errors import SettingError


def _option(name: str, help_text: str, default: Any = None, kind: Any = str, **more: Any) -> Any:
    return click.option(name, default=default, type=kind, help=help_text, show_default=default is not None, **more)


# fmt: off
EVOLVE_OPTIONS = (
    _option("--generations", "A generation is --pop births.", 100, int),
    _option("--pop", "Size of the population.", 20, int),
    _option("--task", "digits, cifar10, cifar100 or folder.", "digits"),
    _option("--data", "Archive, image folder or zip of the task's images."),
    _option("--teacher", "Built-in name, timm:NAME, torchvision:NAME or module:callable [default: the task's]."),
    _option("--teacher-weights", "Safetensors file or state dict of the teacher."),
    click.option(
        "--teacher-tap", multiple=True, metavar="NAME=LAYER", help="Where to read a knowledge of the teacher."
    ),
    _option("--student", "As --teacher [default: the task's]."),
    click.option(
        "--student-tap", multiple=True, metavar="NAME=LAYER", help="Where to read a knowledge of the student."
    ),
    _option("--space", "open: free trees; kdzero: the paper's template.", "open"),
    _option("--magnitude", "relative: γ in units of the cross-entropy's gradient; absolute: as written.", "relative"),
    click.option("--seed-zoo/--no-seed-zoo", default=True, show_default=True, help="Start with published distillers."),
    _option("--seed", "Of everything random.", 0, int),
    _option("--tournament", "Size of the selection tournament.", 5, int),
    _option("--sample-ratio", "Select as the paper's Algorithm 1: from this share of the population …", None, float),
    _option("--top-k", "… one of the best k.", 5, int),
    _option("--removal", "Who leaves the population: oldest or worst.", "oldest"),
    _option("--objectives", "Two or more of cross_entropy, calibrated, sharpness_gap, cka_gap, step_time, memory: "
            "NSGA-II instead of one fitness. step_time is measured, so equal seeds then no longer give equal runs."),
    _option("--screens", "What a candidate must pass before its training and early in it: all, none, or some of "
            "duplicate, finite, equivalence, rejection, surrogate, short.", "all"),
    click.option("--shrink/--no-shrink", default=True, show_default=True,
                 help="Draw operations whose descendants keep losing less often."),
    click.option("--random-search", is_flag=True, help="Every birth is a new random tree: what evolution has to beat."),
    _option("--in-flight", "Births bred before the oldest of them is judged [default: a quarter of --pop]; decides the "
            "run, and how many workers can be busy.", None, int),
    _option("--patience", "Stop after this many generations without a better distiller.", None, int),
    _option("--training", "What the winner is for: long trainings, or short ones of a few epochs; decides the defaults "
            "of --warm-epochs, --proxy-epochs, --short-bound and the weights of the fitness.", "long"),
    _option("--images", "Training images of a proxy [default: the task's].", None, int),
    _option("--validation-images", "Validation images [default: the task's].", None, int),
    _option("--warm-epochs", "Epochs of cross-entropy that the student has when proxies start [default: the task's].",
            None, float),
    _option("--proxy-epochs", "Epochs of a proxy [default: the task's].", None, float),
    _option("--proxy-trains", "whole: the student; last-stage: its last stage alone, on what the warm student's other "
            "stages give, computed once; cheaper [default: the task's]."),
    _option("--surrogate-share", "Train this share of the candidates: those whose gradients promise the most or "
            "say the least; the others keep a predicted fitness [default: the task's]; 1 trains all.", None, float),
    _option("--short-bound", "Stop a candidate early whose gaps to the teacher are so many times those of "
            "cross-entropy alone [default: the task's]; inf stops none.", None, float),
    _option("--loss-memory", "MiB that a loss may keep for one batch [default: the task's].", None, float),
    _option("--race-epochs", "Epochs of a training in the race [default: the task's].", None, float),
    _option("--race-top", "Evolved distillers in the race [default: the task's].", None, int),
    _option("--race-seeds", "Fresh seeds of the race [default: the task's].", None, int),
    _option("--ce-weight", "Share of the validation cross-entropy in the fitness [default: the task's].", None, float),
    _option("--calibrated-weight", "Share of the cross-entropy at the best temperature [default: the task's].", None,
            float),
    _option("--sharpness-weight", "Share of the sharpness gap in the fitness [default: the task's].", None, float),
    _option("--cka-weight", "Share of the CKA gap in the fitness [default: the task's].", None, float),
    _option("--out", "The run's folder [default: runs/TASK-N].", None, click.Path(path_type=Path)),
)
# fmt: on
MACHINE_OPTIONS = (
    _option("--workers", "Worker processes [default: one for each core]; results do not depend on it.", None, int),
    _option("--device", "auto, cpu or cuda.", "auto"),
    _option("--timeout", "Seconds after which an evaluation is stopped.", 600.0, float),
)


def with_options(*groups: tuple[Any, ...]) -> Any:
    """Decorate a command with every option of some groups, in their order."""

    def decorate(command: Any) -> Any:
        for option in reversed([option for group in groups for option in group]):
            command = option(command)
        return command

    return decorate


def taps(given: tuple[str, ...], option: str) -> dict[str, str]:
    """NAME=LAYER options as a mapping."""
    found = {}
    for text in given:
        name, equals, layer = text.partition("=")
        if not equals or not name or not layer:
            raise SettingError(f"{option} takes NAME=LAYER, for example feat=layer3, got {text!r}")
        found[name] = layer
    return found
