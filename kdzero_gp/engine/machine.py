"""What a training needs to know of the machine: device, threads, precision, memory."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from kdzero_gp.engine.precision import named
from kdzero_gp.errors import SettingError


@dataclass(frozen=True)
class Machine:
    """Where a training runs. ``threads`` are those of torch on a CPU (None: one for images below 16 pixels, else all
    cores); ``readers`` are the processes that read images one by one (0: none; recipes with ``resized`` crops use
    them); ``precision`` is what the networks compute in (None: the fastest, measured). ``threads`` and ``precision``
    can change the digits of a result."""

    device: str = "auto"
    workers: int | None = None
    threads: int | None = None
    readers: int = 0
    timeout: float = 600.0
    precision: str | None = None

    def __post_init__(self) -> None:
        """Raises SettingError for what does not exist here."""
        if self.device not in ("auto", "cpu", "cuda"):
            raise SettingError(f"--device must be auto, cpu or cuda, got {self.device!r}")
        if self.workers is not None and self.workers < 1:
            raise SettingError(f"--workers must be at least 1, got {self.workers}")
        if not self.timeout > 0:
            raise SettingError(f"--timeout must be more than 0 seconds, got {self.timeout:g}")
        if self.precision is not None:
            named(self.precision)
        if (self.threads is not None and self.threads < 1) or self.readers < 0:
            raise SettingError("--threads must be at least 1 and --readers at least 0")

    def resolved(self) -> torch.device:
        """The device. Raises SettingError where torch sees no CUDA device and one is asked for."""
        available = torch.cuda.is_available()
        if self.device == "cuda" and not available:
            raise SettingError("--device cuda: torch sees no CUDA device; use --device cpu")
        return torch.device("cuda" if available and self.device != "cpu" else "cpu")


@contextlib.contextmanager
def computing_as(threads: int) -> Iterator[None]:
    """Run with this many threads, and with convolutions that give the same bits every time; then as before."""
    before = torch.get_num_threads(), torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.set_num_threads(threads)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before[1:]


def forget_peak(device: torch.device) -> None:
    """Start measuring the peak of memory anew, where the system can do that (CUDA and Linux)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_megabytes(device: torch.device) -> float:
    """The peak of memory in 10⁶ bytes: of the tensors on a CUDA device, else of the whole process (NaN: unknown)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    with contextlib.suppress(ImportError):  # Windows has none of it
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return math.nan
