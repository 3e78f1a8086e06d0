"""Which device a worker process computes on, where there are several."""

from __future__ import annotations


def device_of(worker: int, devices: int) -> str:
    """Worker i, counted from 0, computes on CUDA device i mod ``devices``; on the CPU where there are none.

    >>> [device_of(worker, 2) for worker in range(4)], device_of(3, 0)
    (['cuda:0', 'cuda:1', 'cuda:0', 'cuda:1'], 'cpu')
    """
    return f"cuda:{worker % devices}" if devices else "cpu"
