"""The panel that says how to make the same run again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from kdzero_gp.analysis.markup import Cell
from kdzero_gp.report.panels.snapshot import Snapshot
from kdzero_gp.search.options import evolve_command
from kdzero_gp.search.run import computed_as


def reproduction_panel(snapshot: Snapshot) -> dict[str, Any]:
    """The command, the versions, and every setting."""
    settings, bench = snapshot.settings, snapshot.bench
    export = f"kdzero-gp export {shlex.quote(str(snapshot.folder))} -o distiller.py"
    student, teacher = (bench.get(f"{side}_shapes", {}) for side in ("student", "teacher"))
    deciding = settings.family.deciding
    repeated = computed_as(settings, bench)
    if settings.llm.asked:  # a model does not say the same again
        repeated = replace(repeated, llm=replace(settings.llm, replay=settings.llm.replay or str(snapshot.folder)))
    return {
        "commands": [
            ("Repeat this run", evolve_command(repeated)),
            ("Take the winner as a file that needs only torch", export),
        ],
        "versions": ", ".join(f"{name} {version}" for name, version in snapshot.versions.items()),
        "precision": bench.get("precision"), "teacher": settings.teacher, "deciding": deciding,
        "measured": {part: bench.get(f"teacher_{part}_{deciding.name}") for part in ("test", "validation")},
        "shapes": "; ".join(f"{n} {_shape(student[n])} from {_shape(teacher[n])}" for n in student if n in teacher),
        "rows": [[Cell(name), Cell(value)] for name, value in flat(settings.as_dict())],
    }  # fmt: skip


def _shape(size: Any) -> str:
    return "×".join(map(str, size))


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as dotted names.

    >>> list(flat({"task": "digits", "search": {"seed": 0}, "data": None}))
    [('task', 'digits'), ('search.seed', '0'), ('data', 'none')]
    """
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            yield prefix + name, ", ".join(map(str, value))
        else:
            yield prefix + name, "none" if value is None or value == {} else str(value)
