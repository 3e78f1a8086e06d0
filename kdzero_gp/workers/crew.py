"""Which workers a machine's settings mean."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from kdzero_gp.engine.machine import Machine
from kdzero_gp.workers.engine import Engine, Setup
from kdzero_gp.workers.local import LocalEngine

# Makes the workers of a setup and its arguments.
MakeEngine = Callable[[Setup, tuple[Any, ...]], Engine]


def crew(machine: Machine) -> tuple[int, MakeEngine]:
    """How many workers there are, and what makes them. Raises KdzeroError where a cluster cannot be reached."""
    if machine.engine == "local":
        return machine.resolved_workers(), lambda setup, arguments: LocalEngine(setup, arguments)
    from kdzero_gp.workers import cluster

    device = machine.resolved().type
    workers, started = cluster.connect(machine.address, machine.workers, device, machine.gpu_share)
    return workers, partial(cluster.RayEngine, device=device, started=started, share=machine.gpu_share)
