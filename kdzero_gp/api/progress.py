"""Progress in the terminal: a bar where there is one, plain lines where the output goes to a file."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column
from rich.text import Text

from kdzero_gp.common import duration
from kdzero_gp.progress import Progress as Silent

# Without a terminal: a line at most this often, in seconds.
LINE_EVERY = 10.0
# A wider terminal need not be filled by a bar.
FULL = 110


def described(fields: dict[str, Any]) -> str:
    """The fields beside a bar: the best fitness and what became of the candidates; what nobody met is left out.

    >>> described({"best": 0.125, "trained": 3, "failed": 0})
    'best 0.1250, 3 trained'
    """
    parts = []
    for name, value in fields.items():
        if value:
            parts.append(f"{name} {value:.4f}" if isinstance(value, float) else f"{value:,} {name}")
    return ", ".join(parts)


class _Progress(Silent):
    """What is counted, and how long it will take: the stage, and all that comes after it."""

    def __init__(self, console: Console):
        self.console = console
        self.total = self.done = 0
        self.started, self.rest = 0.0, 0.0

    def later(self, seconds: float) -> None:
        self.rest = seconds

    def begin(self, what: str, total: int) -> None:
        self.total, self.done, self.started = total, 0, time.monotonic()

    def speed(self) -> tuple[str, str]:
        """The rate, and the time left."""
        rate = self.done / max(1e-6, time.monotonic() - self.started)
        if rate <= 0:
            return "", ""
        left = (self.total - self.done) / rate
        whole = f", {duration(left + self.rest)} in all" if self.rest else ""
        per = f"{rate:.1f}/s" if rate >= 1 else f"{60 * rate:.1f}/min"
        return per, f"{duration(left)} left{whole}"


class _TwoLines(Bar):
    """A bar that always shows count and time left, with the latest fields on a line of their own."""

    def get_renderables(self) -> Iterator[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        more = self.tasks[-1].fields["more"] if self.tasks else ""
        if more:
            yield Text(more, "dim")


class BarProgress(_Progress):
    """A live bar with rate, time left and, below it, the latest fields."""

    def __init__(self, console: Console):
        super().__init__(console)
        self.bar: Bar | None = None
        self.task = TaskID(0)
        self.more = ""

    def note(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False)

    def begin(self, what: str, total: int) -> None:
        super().begin(what, total)
        texts = [
            TextColumn(f"{{task.{name}}}", table_column=Column(no_wrap=True))
            for name in ("description", "fields[rate]", "fields[left]")
        ]
        bar = BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=4, max_width=40))
        count = MofNCompleteColumn(table_column=Column(no_wrap=True))
        self.bar = _TwoLines(texts[0], bar, count, *texts[1:], console=self.console, expand=self.console.width < FULL)
        self.task = self.bar.add_task(what, total=total, rate="", left="", more="")
        self.more = ""
        self.bar.start()

    def advance(self, done: int = 1, **fields: Any) -> None:
        if self.bar is None:
            return
        self.done += done
        rate, left = self.speed()
        if fields:
            self.more = described(fields)
        self.bar.update(self.task, advance=done, rate=rate, left=left, more=self.more)

    def end(self) -> None:
        self.rest = 0.0
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


class LineProgress(_Progress):
    """Plain lines for files and pipes."""

    def __init__(self, console: Console):
        super().__init__(console)
        self.what, self.last = "", 0.0
        self.fields: dict[str, Any] = {}

    def note(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def begin(self, what: str, total: int) -> None:
        super().begin(what, total)
        self.what, self.fields, self.last = what, {}, self.started

    def advance(self, done: int = 1, **fields: Any) -> None:
        self.done += done
        self.fields = fields or self.fields
        now = time.monotonic()
        if now - self.last >= LINE_EVERY:
            self.last = now
            self._line(", ".join(filter(None, self.speed())) or "? left")

    def end(self) -> None:
        self.rest = 0.0
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
