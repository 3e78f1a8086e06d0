"""Where and how something computes: device, worker processes, threads, precision, memory."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kdzero_gp.engine.outputs import Precision
from kdzero_gp.errors import SettingError
from kdzero_gp.threads import cores

ENGINES = ("local", "ray")


@dataclass(frozen=True)
class Machine:
    """Where and how a run, a training or a comparison computes.

    ``workers`` are processes at once (None: one for each core, or ``gpu_share`` for each GPU); ``threads`` are those of
    torch on a CPU (None: one where several processes work, else as ``threads.default_threads`` has it); ``readers`` are
    the processes that read images one by one (0: none; recipes with ``resized`` crops use them); ``timeout`` bounds one
    evaluation of a search, in seconds; ``engine`` says what the workers of a search are: processes of this machine
    (``local``), or actors of the ``ray`` cluster at ``address`` (None: one that is started here); ``precision`` is what
    the networks compute in, as ``Precision`` writes it (None: the fastest, measured). Only ``threads`` and
    ``precision`` can change the digits of a result, so they are recorded.
    """

    device: str = "auto"
    workers: int | None = None
    threads: int | None = None
    readers: int = 0
    timeout: float = 600.0
    precision: str | None = None
    engine: str = "local"
    address: str | None = None
    gpu_share: int = 1

    def __post_init__(self) -> None:
        """Raises SettingError for what does not exist here."""
        if self.device not in ("auto", "cpu", "cuda"):
            raise SettingError(f"--device must be auto, cpu or cuda, got {self.device!r}")
        if self.engine not in ENGINES:
            raise SettingError(f"--engine must be {' or '.join(ENGINES)}, got {self.engine!r}")
        if self.address is not None and self.engine != "ray":
            raise SettingError("--address has no effect without --engine ray; add it, or leave --address out")
        for name in ("workers", "threads", "gpu_share"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise SettingError(f"--{name.replace('_', '-')} must be at least 1, got {number}")
        if self.readers < 0:
            raise SettingError(f"--readers must be at least 0, got {self.readers}")
        if not self.timeout > 0:
            raise SettingError(f"--timeout must be more than 0 seconds, got {self.timeout:g}")
        if self.precision is not None:
            Precision.parse(self.precision)

    @classmethod
    def taken_from(cls, options: dict[str, Any], *names: str) -> Machine:
        """A machine as the options of these names say it, which are taken out of all."""
        return cls(**{name: options.pop(name) for name in names if name in options})

    def resolved(self) -> torch.device:
        """The device. Raises SettingError where torch sees no CUDA device and one is asked for, or is to be shared."""
        available = torch.cuda.is_available()
        if self.device == "cuda" and not available:
            raise SettingError("--device cuda: torch sees no CUDA device; use --device cpu")
        found = torch.device("cuda" if available and self.device != "cpu" else "cpu")
        if found.type == "cpu" and self.gpu_share > 1:
            raise SettingError("--gpu-share has no effect without a CUDA device; leave it out")
        return found

    def resolved_workers(self) -> int:
        """The number of worker processes."""
        gpus = torch.cuda.device_count() if self.resolved().type == "cuda" else 0
        return self.workers or gpus * self.gpu_share or cores()


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
