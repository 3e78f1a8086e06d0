"""The panel that says how to make the same run again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from kdzero_gp.analysis.markup import Cell
from kdzero_gp.proxy.screens import SCREENS
from kdzero_gp.report.panels.snapshot import Snapshot
from kdzero_gp.search.settings import PLAN_OPTIONS, PLANS, WEIGHT_OPTIONS, RunSettings


def reproduction_panel(snapshot: Snapshot) -> dict[str, Any]:
    """The command, the versions, and every setting."""
    export = f"kdzero-gp export {shlex.quote(str(snapshot.folder))} -o distiller.py"
    student, teacher = (snapshot.bench.get(f"{side}_shapes", {}) for side in ("student", "teacher"))
    return {
        "commands": [
            ("Repeat this run", evolve_command(snapshot.settings)),
            ("Take the winner as a file that needs only torch", export),
        ],
        "versions": ", ".join(f"{name} {version}" for name, version in snapshot.versions.items()),
        "bench": {"precision": None, **snapshot.bench}, "teacher": snapshot.settings.teacher,
        "shapes": "; ".join(f"{n} {_shape(student[n])} from {_shape(teacher[n])}" for n in student if n in teacher),
        "rows": [[Cell(name), Cell(value)] for name, value in flat(snapshot.settings.as_dict())],
    }  # fmt: skip


def _shape(size: Any) -> str:
    return "×".join(map(str, size))


def evolve_command(settings: RunSettings) -> str:
    """The ``kdzero-gp evolve`` line that gives these settings. Options of a task's plan stand only where they differ
    from it."""
    search, plan = settings.search, PLANS.get(settings.task)
    options: list[tuple[str, Any]] = [
        ("--task", settings.task), ("--data", settings.data), ("--teacher", settings.teacher),
        ("--teacher-weights", settings.teacher_weights),
        *(("--teacher-tap", f"{name}={layer}") for name, layer in settings.teacher_taps.items()),
        ("--student", settings.student),
        *(("--student-tap", f"{name}={layer}") for name, layer in settings.student_taps.items()),
        ("--space", settings.space), ("--magnitude", settings.magnitude),
        ("--generations", search.generations), ("--pop", search.population), ("--seed", search.seed),
    ]  # fmt: skip
    if search.sample_ratio is None:
        options.append(("--tournament", search.tournament))
    else:
        options += [("--sample-ratio", search.sample_ratio), ("--top-k", search.top_k)]
    options += [
        ("--removal", search.removal), ("--patience", search.patience), ("--in-flight", search.in_flight),
        ("--objectives", ",".join(search.objectives)),
    ]  # fmt: skip
    if settings.screens != SCREENS:
        options.append(("--screens", ",".join(settings.screens) or "none"))
    for name in PLAN_OPTIONS:
        value = getattr(settings.plan, name)
        if plan is None or value != getattr(plan, name):
            options.append((f"--{name.replace('_', '-')}", value))
    for name in ("warm", "proxy", "race"):
        epochs = getattr(settings.plan, name).epochs
        if plan is None or epochs != getattr(plan, name).epochs:
            options.append((f"--{name}-epochs", epochs))
    for name, option in WEIGHT_OPTIONS.items():
        share = getattr(settings.plan.weights, name)
        if plan is None or share != getattr(plan.weights, name):
            options.append((option, share))
    words = [word for name, value in options if value not in (None, "") for word in (name, str(value))]
    if not settings.seed_zoo:
        words.append("--no-seed-zoo")
    if not search.shrink:
        words.append("--no-shrink")
    if search.random_search:
        words.append("--random-search")
    return shlex.join(["kdzero-gp", "evolve", *words])


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
