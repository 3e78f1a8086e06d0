"""Progress in the terminal: a bar where there is one, plain lines where the output goes to a file."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from kdzero_gp.common import duration
from kdzero_gp.progress import Progress as Silent

# Without a terminal: a line at most this often, in seconds.
LINE_EVERY = 10.0


def described(fields: dict[str, Any]) -> str:
    """The fields beside a bar: the best fitness and what became of the candidates."""
    parts = []
    for name, value in fields.items():
        parts.append(f"{name} {value:.4f}" if isinstance(value, float) else f"{value} {name}")
    return ", ".join(parts)


class BarProgress(Silent):
    """A live bar with rate, time left and the latest fields."""

    def __init__(self, console: Console):
        self.console = console
        self.bar: Progress | None = None
        self.task = TaskID(0)
        self.started = 0.0
        self.done = 0
        self.more = ""

    def note(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False)

    def begin(self, what: str, total: int) -> None:
        rate, more = TextColumn("{task.fields[rate]}"), TextColumn("{task.fields[more]}")
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            rate,
            TimeRemainingColumn(),
            more,
        )
        self.bar = Progress(*columns, console=self.console)
        self.task = self.bar.add_task(what, total=total, rate="", more="")
        self.started, self.done, self.more = time.monotonic(), 0, ""
        self.bar.start()

    def advance(self, done: int = 1, **fields: Any) -> None:
        if self.bar is None:
            return
        self.done += done
        rate = self.done / max(1e-6, time.monotonic() - self.started)
        if fields:
            self.more = described(fields)
        self.bar.update(self.task, advance=done, rate=f"{rate:.1f}/s", more=self.more)

    def end(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


class LineProgress(Silent):
    """Plain lines for files and pipes."""

    def __init__(self, console: Console):
        self.console = console
        self.what, self.total, self.done = "", 0, 0
        self.started = self.last = 0.0
        self.fields: dict[str, Any] = {}

    def note(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def begin(self, what: str, total: int) -> None:
        self.what, self.total, self.done, self.fields = what, total, 0, {}
        self.started = self.last = time.monotonic()

    def advance(self, done: int = 1, **fields: Any) -> None:
        self.done += done
        self.fields = fields or self.fields
        now = time.monotonic()
        if now - self.last >= LINE_EVERY:
            self.last = now
            rate = self.done / max(1e-6, now - self.started)
            left = duration((self.total - self.done) / rate) if rate > 0 else "?"
            self._line(f"{rate:.1f}/s, {left} left")

    def end(self) -> None:
        self._line(f"took {duration(time.monotonic() - self.started)}")

    def _line(self, text: str) -> None:
        more = f", {described(self.fields)}" if self.fields else ""
        self.note(f"{self.what}: {self.done}/{self.total}, {text}{more}")


@contextlib.contextmanager
def progress_for(console: Console) -> Iterator[Silent]:
    """The progress that suits where the output goes. However the work ends, no bar stays and the cursor is back."""
    if not console.is_terminal:
        yield LineProgress(console)
        return
    bar = BarProgress(console)
    try:
        yield bar
    finally:
        bar.end()
