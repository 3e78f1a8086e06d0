"""The panel that says how to make the same run again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from kdzero_gp.proxy.screens import SCREENS
from kdzero_gp.report.panels.pieces import Cell, details, section, table, text
from kdzero_gp.report.panels.snapshot import Snapshot
from kdzero_gp.search.settings import PLAN_OPTIONS, PLANS, WEIGHT_OPTIONS, RunSettings


def reproduction_panel(snapshot: Snapshot) -> str:
    """The command, the versions, and every setting."""
    caption = (
        "The same command with the same versions on the same kind of device gives the same run, whatever the number "
        "of workers."
    )
    command = evolve_command(snapshot.settings)
    folder = shlex.quote(str(snapshot.folder))
    commands = "".join(
        f'<h3>{title}</h3><div class="copy"><code>{_words(line)}</code>'
        '<button type="button" class="copier" hidden>Copy</button></div>'
        for title, line in (
            ("Repeat this run", command),
            ("Take the winner as a file that needs only torch", f"kdzero-gp export {folder} -o distiller.py"),
        )
    )
    versions = ", ".join(f"{name} {version}" for name, version in snapshot.versions.items()) or "unknown"
    facts = f"<p>Versions: {text(versions)}.</p>{_teacher(snapshot)}"
    rows = [[Cell(text(name)), Cell(text(value))] for name, value in flat(snapshot.settings.as_dict())]
    settings = details(f"All {len(rows)} settings", table(("setting", "value"), rows, "Settings"))
    return section("reproduction", "Reproduction", caption, commands + facts + settings)


def _words(line: str) -> str:
    """A command that is not broken within a word, such as behind the hyphens of an option."""
    return " ".join(f'<span class="word">{text(word)}</span>' for word in line.split(" "))


def _teacher(snapshot: Snapshot) -> str:
    bench = snapshot.bench
    if "teacher_test_accuracy" not in bench:
        return "<p>The teacher was not measured yet.</p>"
    shapes = "; ".join(
        f"{name} {_shape(size)} from {_shape(bench['teacher_shapes'][name])}"
        for name, size in bench.get("student_shapes", {}).items()
        if name in bench.get("teacher_shapes", {})
    )
    validation, test = bench["teacher_validation_accuracy"], bench["teacher_test_accuracy"]
    return (
        f"<p>Teacher {text(snapshot.settings.teacher)}: {100 * test:.2f} % on test images, {100 * validation:.2f} % on "
        f"validation images. What the student learns from: {text(shapes)}. Computed in "
        f"{text(bench.get('precision', 'unknown precision'))}.</p>"
    )


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
