"""Processes that start without the program that starts them.

``multiprocessing`` runs the main script again in every new process, under the name ``__mp_main__``; a script without a
main guard then starts the search in each of its workers. Ours get functions of this package, and the user's objects by
value (see ``kdzero_gp.objects``), so they need no main script. Other processes of the program start as ever.
"""

from __future__ import annotations

import threading
from multiprocessing import spawn
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

# What tells a new process to run the main script again.
_MAIN = ("init_main_from_name", "init_main_from_path")
# Whether this thread is starting one of our processes.
_starting = threading.local()

_preparation_data = spawn.get_preparation_data


def _without_main(name: str) -> dict[str, object]:
    """What ``multiprocessing`` tells a new process; to ours nothing of the main script."""
    told: dict[str, object] = _preparation_data(name)
    if getattr(_starting, "ours", False):
        told = {key: value for key, value in told.items() if key not in _MAIN}
    return told


spawn.get_preparation_data = _without_main  # type: ignore[assignment]


class _Process(SpawnProcess):
    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        _starting.ours = True
        try:
            return SpawnProcess._Popen(process_obj)
        finally:
            _starting.ours = False


class QuietContext(SpawnContext):
    """``multiprocessing``'s way to start processes anew, without the main script."""

    Process = _Process  # type: ignore[assignment]
