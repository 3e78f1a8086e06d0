"""The report of a run as one html file that needs nothing else: style, script and pictures stand in it."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from string import Template

from kdzero_gp.files import atomic_write
from kdzero_gp.report.panels import PANELS, overview, read_snapshot
from kdzero_gp.report.panels.pieces import text


def write_report(folder: Path, output: Path) -> None:
    """Write the report of the run in ``folder``, finished or not, to ``output``, which appears whole or not at all.

    Raises ``RunError`` where there is no run or the file cannot be written.
    """
    atomic_write(output, report(folder), "free space or choose another place with -o")


def report(folder: Path) -> str:
    """The page as text."""
    snapshot = read_snapshot(folder)
    contents = "".join(f'<li><a href="#{name}">{text(title)}</a></li>' for name, title, _ in PANELS)
    return Template(_asset("page.html")).substitute(
        title=text(f"{folder.name}: kdzero-gp report"),
        style=_asset("page.css"),
        script=_asset("page.js"),
        overview=overview(snapshot),
        contents=contents,
        panels="".join(panel(snapshot) for _, _, panel in PANELS),
    )


def _asset(name: str) -> str:
    return (resources.files("kdzero_gp.report") / "assets" / name).read_text(encoding="utf-8")
