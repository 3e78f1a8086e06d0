"""How a student computes fastest on this machine: measured once, remembered in the cache folder, told to the run."""

from __future__ import annotations

import contextlib
import copy
import json
import platform
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from kdzero_gp.data.cache import cache_folder
from kdzero_gp.data.inputs import Inputs, is_image
from kdzero_gp.engine.outputs import FLOAT32, Precision
from kdzero_gp.errors import RunError
from kdzero_gp.families import TaskFamily
from kdzero_gp.files import atomic_write
from kdzero_gp.threads import SMALLEST_SIZE

# A batch as trainings have it, and of images of so many pixels in all, with which hardware is busy too.
BATCH = 64
PIXELS = BATCH * 64 * 64
# Steps that are timed after one that is not; the fastest counts, since only it is undisturbed.
STEPS = 3
# What is not plain float32 has to be this much faster, so that noise does not decide.
GAIN = 1.1
# A setting whose first step takes this many times the best is not looked at further.
HOPELESS = 3.0
MEMORY = "precision.json"


def precision_for(name: str, student: nn.Module, family: TaskFamily, images: Inputs, labels: Tensor) -> Precision:
    """float32 or bfloat16, channels last or first: the fastest for a training step of ``student`` (called ``name``) on
    images and labels like the first of ``images`` and ``labels``, with one thread.

    A machine is asked once for each student and image shape, so that equal runs on it compute alike. What is no image
    is computed in float32.
    """
    if not is_image(images) or images.shape[-1] < SMALLEST_SIZE:
        return FLOAT32
    key = " | ".join((_machine(images.device), torch.__version__, name, "×".join(map(str, images.shape[1:]))))
    known = _remembered()
    if str(FLOAT32) not in known.get(key, {}):  # earlier versions named the settings otherwise
        known[key] = _measured(student, family, images, labels)
        _remember(known)
    return fastest(known[key])


def fastest(milliseconds: Mapping[str, float]) -> Precision:
    """The fastest of what was measured, plain float32 unless something is clearly faster.

    >>> fastest({"float32": 10.0, "float32,channels-last": 9.5, "bfloat16,channels-last": 5.0})
    Precision(name='bfloat16', channels_last=True)
    """
    best = FLOAT32
    for precision in _settings():
        if milliseconds.get(str(precision), float("inf")) * GAIN < milliseconds[str(best)]:
            best = precision
    return best


def _settings() -> list[Precision]:
    return [Precision(name, last) for name in ("float32", "bfloat16") for last in (False, True)]


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.node()} {torch.backends.cpu.get_cpu_capability()}"


def _measured(student: nn.Module, family: TaskFamily, images: Tensor, labels: Tensor) -> dict[str, float]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found: dict[str, float] = {}
    try:
        size = max(2, min(BATCH, PIXELS // images[0, 0].numel()))
        batch = images[:1].expand(size, *images.shape[1:]).clone()
        wanted = labels[:1].expand(size, *labels.shape[1:]).to(images.device)
        for precision in _settings():
            best = min(found.values(), default=float("inf"))
            found[str(precision)] = _milliseconds(copy.deepcopy(student), family, batch, wanted, precision, best)
    finally:
        torch.set_num_threads(threads)
    return found


def _milliseconds(
    student: nn.Module, family: TaskFamily, images: Tensor, labels: Tensor, precision: Precision, best: float
) -> float:
    """The fastest of a few training steps; infinite where the network cannot compute in bfloat16."""
    student = student.to(memory_format=precision.memory_format).train()
    images = images.to(memory_format=precision.memory_format)
    times = []
    for step in range(STEPS + 1):
        start = time.perf_counter()
        try:
            family.own_loss(precision.forward(student, images), labels).backward()
        except RuntimeError:
            if precision.name == FLOAT32.name:
                raise
            return float("inf")
        if images.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(1000.0 * (time.perf_counter() - start))
        if step == 0 and times[0] > HOPELESS * best:
            return times[0]
    return min(times[1:])


def _path() -> Path:
    return cache_folder() / MEMORY


def _remembered() -> dict[str, dict[str, float]]:
    try:
        found = json.loads(_path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _remember(known: Mapping[str, Mapping[str, float]]) -> None:
    # without a place to write it is measured again the next time
    with contextlib.suppress(OSError, RunError):
        _path().parent.mkdir(parents=True, exist_ok=True)
        atomic_write(_path(), json.dumps(known, indent=1, ensure_ascii=False))
