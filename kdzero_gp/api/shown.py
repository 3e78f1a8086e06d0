"""What a call shows while it works: in a notebook a table that is redrawn, elsewhere what the commands show."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdzero_gp.analysis import markup
from kdzero_gp.analysis.run import StoredRun
from kdzero_gp.api.progress import described, progress_for
from kdzero_gp.errors import KdzeroError
from kdzero_gp.progress import Progress

# Seconds between two pictures of a notebook's table.
EVERY = 1.0
# Notes that stay in sight.
NOTES = 6


def in_notebook() -> bool:
    """Whether this is the kernel of a notebook."""
    if "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return shell is not None and hasattr(shell, "kernel")


@contextlib.contextmanager
def shown(verbose: bool, progress: Progress | None) -> Iterator[Progress]:
    """The progress that is given, or the one that suits this place; silent without ``verbose``."""
    if progress is not None or not verbose:
        yield progress or Progress()
    elif in_notebook():
        table = NotebookProgress()
        try:
            yield table
        finally:
            table.end()
    else:
        from rich.console import Console

        with progress_for(Console(file=sys.stderr)) as found:
            yield found


class NotebookProgress(Progress):
    """A live table in one output cell: the stage, how far it is, counts, and the best distiller with its picture."""

    def __init__(self) -> None:
        from IPython.display import HTML, display

        self._html = HTML
        self._handle = display(HTML(""), display_id=True)
        self._notes: list[str] = []
        self._folder: Path | None = None
        self._stages: list[list[Any]] = []
        self._fields: dict[str, Any] = {}
        self._best, self._picture = math.inf, ""
        self._last = -math.inf

    def watch(self, folder: Path) -> None:
        self._folder = folder

    def note(self, text: str) -> None:
        self._notes.append(text)
        self._draw()

    def begin(self, what: str, total: int) -> None:
        self._stages.append([what, 0, total, ""])
        self._draw()

    def advance(self, done: int = 1, **fields: Any) -> None:
        if not self._stages:
            return
        stage, self._fields = self._stages[-1], fields or self._fields
        stage[1] += done
        stage[3] = described(fields) or stage[3]
        if time.monotonic() - self._last >= EVERY:
            self._draw()

    def end(self) -> None:
        self._draw()

    def _draw(self) -> None:
        self._last = time.monotonic()
        rows = [[what, f"{done} of {total}", more] for what, done, total, more in self._stages]
        notes = [markup.tag("div", note) for note in self._notes[-NOTES:]]
        self._look_at_the_best()
        table = markup.table(["stage", "done", ""], rows) if rows else ""
        self._handle.update(self._html(markup.plain(*notes, table, self._picture)))

    def _look_at_the_best(self) -> None:
        """The best so far, with its picture, where it is a new one."""
        best = self._fields.get("best", math.nan)
        if self._folder is None or not best < self._best:
            return
        with contextlib.suppress(KdzeroError):
            found = StoredRun(self._folder).best
            self._best = best
            self._picture = str(markup.tag("p", markup.code(found.expression))) + markup.picture(
                found.expression, knowledge=found.knowledge, numbers=found.magnitudes
            )
