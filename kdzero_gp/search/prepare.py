"""Prepares the bench of a run: data, a teacher whose accuracy is verified, the warm student."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdzero_gp.common import count_parameters
from kdzero_gp.data import load
from kdzero_gp.data.dataset import Dataset, Split
from kdzero_gp.engine.outputs import Precision, TensorSplit, outputs
from kdzero_gp.engine.precision import label, precision_for
from kdzero_gp.engine.proxy_recipe import Recipe
from kdzero_gp.engine.resident import train
from kdzero_gp.errors import ModelError
from kdzero_gp.models import build
from kdzero_gp.models.pair import student_builder
from kdzero_gp.models.split import find_cut, halves
from kdzero_gp.models.taps import Tapped
from kdzero_gp.models.weights import load_weights, save_weights
from kdzero_gp.progress import Progress
from kdzero_gp.proxy.metrics import accuracy
from kdzero_gp.proxy.task import ProxyTask
from kdzero_gp.search.settings import RunSettings
from kdzero_gp.threads import default_threads

BENCH = "bench.pt"
TEACHER = "teacher.safetensors"


def prepare(folder: Path, settings: RunSettings, device: torch.device, progress: Progress) -> ProxyTask:
    """The bench of a run: read from its folder, or made and kept there."""
    path = folder / BENCH
    if path.exists():
        return ProxyTask.load(path)
    progress.note(f"reading {settings.task}" + (f" from {settings.data}" if settings.data else ""))
    dataset = load(settings.task, settings.data)
    torch.set_num_threads(default_threads(dataset.train.images.shape[-1], progress.note))
    example = dataset.normalise(dataset.train.images[:2]).to(device)
    classes, channels = len(dataset.classes), example.shape[1]
    spec: dict[str, Any] = {
        "name": settings.student, "classes": classes, "channels": channels, "taps": dict(settings.student_taps)
    }  # fmt: skip
    torch.manual_seed(settings.search.seed)
    student = student_builder(spec, example)()
    assert isinstance(student, Tapped)
    precision, milliseconds = precision_for(settings.student, student.to(device), example, classes)
    progress.note(f"computing in {label(precision)}")
    # after the student, whose name or taps may be wrong, since training a teacher can take hours
    teacher, facts = _teacher(folder, settings, dataset, example, device, precision, progress)
    progress.note(
        f"student {settings.student}: {count_parameters(student):,} parameters; "
        f"teacher {settings.teacher}: {count_parameters(teacher):,}"
    )
    plan = settings.plan
    kept = [name for name in settings.knowledge if name in teacher.shapes and name in student.shapes]
    bench = ProxyTask(
        _part(dataset, dataset.train, plan.images, teacher, kept, device),
        _part(dataset, dataset.validation, plan.validation_images, teacher, kept, device),
        _part(dataset, dataset.test, None, None, kept, device),
        spec,
        {name: student.shapes[name] for name in kept},
        {name: teacher.shapes[name] for name in kept},
        {"warm": plan.warm, "proxy": plan.proxy, "race": plan.race},
        precision=precision.name,
        channels_last=precision.channels_last,
        facts=facts | {"race_from_scratch": plan.race_from_scratch, "step_milliseconds": milliseconds},
    )
    _warm_up(bench, student, settings, device, precision, progress)
    if plan.proxy_trains == "last-stage":
        keep_maps(bench, student, precision, progress)
    bench.save(path)
    return bench


def _teacher(
    folder: Path,
    settings: RunSettings,
    dataset: Dataset,
    example: Tensor,
    device: torch.device,
    precision: Precision,
    progress: Progress,
) -> tuple[Tapped, dict[str, Any]]:
    torch.manual_seed(settings.search.seed)
    classes = len(dataset.classes)
    network = build(settings.teacher, classes, example.shape[1])
    if settings.teacher_weights:
        load_weights(network, settings.teacher_weights)
    elif (folder / TEACHER).exists():
        load_weights(network, folder / TEACHER)
    teacher = Tapped(network.to(device), example, settings.teacher_taps or None)
    if not settings.teacher_weights and not (folder / TEACHER).exists():
        recipe = settings.plan.teacher_recipe
        if recipe is None:
            raise ModelError(
                f"the task {settings.task} needs a trained teacher: pass --teacher-weights with safetensors or a "
                "state dict"
            )
        progress.note(f"training the teacher {settings.teacher} ({recipe.epochs:g} epochs)")
        part = TensorSplit(dataset.normalise(dataset.train.images).to(device), dataset.train.labels.to(device))
        _train(teacher, part, recipe, settings.search.seed, precision, "teacher's steps", progress)
        save_weights(teacher.network, folder / TEACHER)
    progress.note(f"checking the teacher {settings.teacher}")
    measured = dataset.validation
    if settings.plan.validation_images is not None:
        most = settings.plan.validation_images
        measured = Split(measured.images[:most], measured.labels[:most])
    validation = _accuracy(teacher, dataset, measured, device)
    test = _accuracy(teacher, dataset, dataset.test, device)
    progress.note(
        f"teacher {settings.teacher}: {100 * test:.2f} % on test images, {100 * validation:.2f} % on validation images"
    )
    if validation < 2.0 / classes and classes > 2:
        raise ModelError(
            f"the teacher's accuracy is {100 * validation:.2f} %, near guessing; the weights belong to other classes "
            "or another normalisation: check --teacher-weights and --data"
        )
    return teacher, {"teacher_test_accuracy": test, "teacher_validation_accuracy": validation}


def _accuracy(network: nn.Module, dataset: Dataset, split: Split, device: torch.device) -> float:
    logits = [
        outputs(network, dataset.normalise(split.images[start : start + 500]).to(device), keep=("logits",))[
            "logits"
        ].cpu()
        for start in range(0, len(split), 500)
    ]
    return accuracy(torch.cat(logits), split.labels)


def _part(
    dataset: Dataset,
    split: Split,
    most: int | None,
    teacher: nn.Module | None,
    kept: list[str],
    device: torch.device,
) -> TensorSplit:
    """The first ``most`` images of a split (its order is random), and the teacher's outputs on them."""
    images = dataset.normalise(split.images[:most]).contiguous()
    found = {} if teacher is None else outputs(teacher, images.to(device), keep=kept)
    return TensorSplit(images, split.labels[:most].clone(), {name: tensor.cpu() for name, tensor in found.items()})


def _warm_up(
    bench: ProxyTask,
    student: Tapped,
    settings: RunSettings,
    device: torch.device,
    precision: Precision,
    progress: Progress,
) -> None:
    """Train the student that every proxy starts from."""
    seed, recipe = settings.search.seed, settings.plan.warm
    progress.note(
        f"warming up the student ({recipe.epochs:g} epochs of cross-entropy on {len(bench.train.labels):,} images)"
    )
    warm = student.to(device).to(memory_format=precision.memory_format)
    part = bench.train.to(device, precision.memory_format)
    _train(warm, part, recipe, seed, precision, "student's steps", progress)
    bench.warm = {name: tensor.detach().cpu().clone() for name, tensor in student.network.state_dict().items()}


def _train(
    network: nn.Module,
    part: TensorSplit,
    recipe: Recipe,
    seed: int,
    precision: Precision,
    what: str,
    progress: Progress,
) -> None:
    """Train by cross-entropy alone and tell how far it is."""
    progress.begin(what, recipe.steps(len(part.labels)))
    try:
        train(network, part, recipe, seed, precision=precision, on_step=lambda *_: progress.advance())
    finally:
        progress.end()


def keep_maps(bench: ProxyTask, student: Tapped, precision: Precision, progress: Progress) -> None:
    """Compute once what the warm student's stages before the last give; proxies then train the last one."""
    kept, form = list(bench.student_shapes), precision.memory_format
    device = next(student.parameters()).device
    try:
        cut, taps = find_cut(student, kept, bench.train.images[:2].to(device))
    except ModelError as reason:
        progress.note(f"proxies train the whole student, since {reason}")
        return
    trunk = halves(student.network, cut, taps)[0]
    for name in ("train", "validation"):
        images = getattr(bench, name).images.to(device=device, memory_format=form)
        maps = outputs(trunk, images, precision=precision)["maps"].cpu()
        # in the precision that they were computed in, so that nothing is lost
        bench.maps[name] = maps.to(getattr(torch, precision.name)).contiguous(memory_format=form)
    bench.tail = bench.student | {"cut": cut, "taps": taps}
    progress.note(f"proxies train what comes after {cut} of the student, on kept maps {tuple(maps.shape[1:])}")


def baseline_seed(seed: int, index: int) -> int:
    """The seeds of baseline trainings: apart from those of candidates and races."""
    return 3_000_000 + 1000 * seed + index
