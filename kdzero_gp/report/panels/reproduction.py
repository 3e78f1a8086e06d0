"""The panel that says how to make the same run again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from kdzero_gp.report.panels.pieces import Cell, details, section, table, text
from kdzero_gp.report.panels.snapshot import Snapshot
from kdzero_gp.search.options import evolve_command
from kdzero_gp.search.run import computed_as


def reproduction_panel(snapshot: Snapshot) -> str:
    """The command, the versions, and every setting."""
    caption = (
        "The same command with the same versions on the same kind of device gives the same run, whatever the number "
        "of workers."
    )
    command = evolve_command(computed_as(snapshot.settings, snapshot.bench))
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
