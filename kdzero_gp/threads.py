"""How many threads compute, and how they wait for each other. This module imports no torch, so that it can come first.

An operation of torch ends when its last thread ends. By default those that wait spin (libgomp: 3 ms, then sleep), a
thousand times in a step of a small network. That is fastest alone; beside other processes it uses up the share of
the processor that the last thread needs, and a step takes thirty times as long. Threads that sleep after some
microseconds cost their share. See experiments/threads.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# Below this image size a step is bookkeeping: threads and low precision cost more than they save.
SMALLEST_SIZE = 16
# libgomp and LLVM's OpenMP read the first when torch loads them; libgomp spins so many times before it sleeps, which a
# quiet machine notices.
POLICY = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}
# Who has set one of these has chosen.
CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
VERSION_1 = ("cpu.cfs_quota_us", "cpu.cfs_period_us")


def set_policy() -> bool:
    """Let the threads of torch, and of processes that start from here, sleep while they wait, unless the environment
    says how they do. False where that comes too late for this process, since torch has been imported before."""
    chosen = any(name in os.environ for name in CHOICES)
    if not chosen:
        os.environ.update(POLICY)
    return chosen or "torch" not in sys.modules


IN_TIME = set_policy()
LATE = (
    "torch was imported before kdzero_gp, so that its threads spin while they wait: computing with one thread; import "
    "kdzero_gp first, set OMP_WAIT_POLICY=passive, or choose the number of threads"
)


def default_threads(image_size: int, note: Callable[[str], object] = lambda _: None) -> int:
    """Threads for a training on a CPU: all cores; one for small images, or where waiting threads spin, of which
    ``note`` hears. Digits of results depend on the number, so a training keeps and records that of its beginning."""
    count = cores() if image_size >= SMALLEST_SIZE else 1
    if count > 1 and not IN_TIME:
        note(LATE)
        return 1
    return count


def cores(membership: Path = MEMBERSHIP, cgroups: Path = CGROUPS) -> int:
    """How many processors this process may use: those of its affinity, fewer where a cgroup limits their time (a
    container's ``--cpus``, a batch system), rounded down so that threads do not wait for one that is held back."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min([affinity, *_quotas(membership, cgroups)])))


def _quotas(membership: Path, cgroups: Path) -> Iterator[float]:
    """The processors' worth of time that each cgroup of this process, and those above it, may use.

    Version 2 has ``0::/path`` and ``cpu.max``, version 1 ``4:cpu,cpuacct:/path`` and ``cpu.cfs_quota_us``
    (https://docs.kernel.org/admin-guide/cgroup-v2.html, https://docs.kernel.org/scheduler/sched-bwc.html).
    """
    for line in _read(membership).splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = cgroups / controllers
        if not mount.is_dir():
            mount = cgroups / "cpu"
        folder = mount / path.lstrip("/")
        # in a container the path may be that of the host; then the mount itself is the container's group
        for group in (folder, *folder.parents):
            limits = _read(group / "cpu.max") or " ".join(map(_read, (group / name for name in VERSION_1)))
            quota, _, period = limits.partition(" ")
            if quota.isdigit() and period.isdigit():  # "max" and "-1" are no limit
                yield int(quota) / int(period)
            if group == mount:
                break


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
