"""How much memory there is."""

from contextlib import suppress
from pathlib import Path

from kdzero_gp.errors import DataError


def must_fit(needed: float, what: str, remedy: str) -> None:
    """Raises DataError where ``what`` needs more bytes than are free."""
    if needed > free_memory():
        raise DataError(f"{what} need {needed / 1e9:.1f} GB of memory, more than is free; {remedy}")


def free_memory() -> float:
    """Bytes that this process may still take, as far as this system tells; else infinity."""
    free = [float("inf")]
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free.append(1024.0 * int(next(line.split()[1] for line in lines if line.startswith("MemAvailable"))))
    with suppress(OSError, ValueError):  # a container's share
        group = Path("/sys/fs/cgroup")
        free.append(float((group / "memory.max").read_text()) - float((group / "memory.current").read_text()))
    with suppress(ImportError, OSError, ValueError):
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            free.append(limit - pages * float(resource.getpagesize()))
    return min(free)
