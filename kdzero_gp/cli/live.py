"""A live view of a run that another process writes. It only reads, and ending it never touches the run."""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kdzero_gp.common import duration, summary_writer
from kdzero_gp.errors import SettingError
from kdzero_gp.search.race import entries
from kdzero_gp.search.settings import RunSettings
from kdzero_gp.search.storage import Database, Status, StoredBirth, StoredEvaluation

LAST_BIRTHS = 8
SPARKS = "▁▂▃▄▅▆▇█"
SPARKLINE_WIDTH = 60
# The rate is that of the last this many seconds.
RATE_WINDOW = 60.0
# Without a terminal: a line for every new stage and new best, and otherwise this many seconds apart.
LINE_EVERY = 10.0


@dataclass
class Watched:
    """What is known of a run so far. Every birth is read once."""

    folder: Path
    total: int
    births: int = 0
    stage: str = "preparing"
    finished: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    best: StoredEvaluation | None = None
    best_birth: int = 0
    history: list[float] = field(default_factory=list)
    last: deque[tuple[StoredBirth, StoredEvaluation | None]] = field(default_factory=lambda: deque(maxlen=LAST_BIRTHS))
    marks: deque[tuple[float, int]] = field(default_factory=deque)

    def take(self, birth: StoredBirth, found: StoredEvaluation | None) -> None:
        """Count one more birth."""
        self.births += 1
        if birth.duplicate_of is not None:
            self.counts["duplicates"] += 1
        elif found is not None:
            self.counts[found.status.value] += 1
        if found is not None and found.fitness is not None and found.fitness < self.best_fitness:
            self.best, self.best_birth = found, birth.number
        self.history.append(self.best_fitness)
        self.last.append((birth, found))

    @property
    def best_fitness(self) -> float:
        """The lowest fitness so far, infinite before the first."""
        return math.inf if self.best is None or self.best.fitness is None else self.best.fitness

    @property
    def rate(self) -> float:
        """Births a second lately; 0 before there are two readings."""
        (start, before), (end, now) = self.marks[0], self.marks[-1]
        return (now - before) / (end - start) if end > start else 0.0

    def mark(self, now: float) -> None:
        """Remember when how many births were there."""
        self.marks.append((now, self.births))
        while now - self.marks[0][0] > RATE_WINDOW and len(self.marks) > 2:
            self.marks.popleft()


def watch(folder: Path, console: Console, every: float = 1.0, tensorboard: Path | None = None) -> None:
    """Show a run until it is finished or Ctrl-C is pressed: redrawn ``every`` so many seconds in a terminal, a line
    now and then elsewhere. ``tensorboard`` is a folder for event files with every birth's scalars.

    Raises ``RunError`` where there is no run and ``SettingError`` for a period that is not a positive number or where
    TensorBoard is not installed.
    """
    if not 0 < every < math.inf:
        raise SettingError(f"--every must be a positive number of seconds, got {every:g}")
    with Database.read(folder) as database:
        watched = Watched(folder, total_births(database))
    with _scalars(tensorboard) as writer, _shown(watched, console) as show:
        try:
            while True:
                _read(watched, writer)
                show()
                if watched.finished:
                    break
                time.sleep(every)
        except KeyboardInterrupt:
            pass
    _farewell(watched, console)


def total_births(database: Database) -> int:
    """How many births the run may have."""
    search = RunSettings.from_dict(database.fact("settings")).search
    return search.births


def _read(watched: Watched, writer: Any) -> None:
    """Read what is new since the last time."""
    with Database.read(watched.folder) as database:
        finished = bool(database.fact("finished"))  # first, so that nothing that came before it is missed
        if watched.births == 0:
            known = {found.digest: found for found in database.evaluations()}
            for birth in database.births():
                _take(watched, birth, known.get(birth.digest), writer)
        while (birth := database.birth(watched.births)) is not None:  # type: ignore[assignment]
            _take(watched, birth, database.evaluation(birth.digest), writer)
        watched.stage = "finished" if finished else _stage(watched, database)
    watched.mark(time.monotonic())
    watched.finished = finished


def _stage(watched: Watched, database: Database) -> str:
    if raced := len(database.measurements("race")):
        settings = RunSettings.from_dict(database.fact("settings"))
        return f"race, {raced} of {len(entries(database, settings)) * settings.plan.race_seeds} trainings"
    if watched.births:
        return "search"
    if tuned := len(database.measurements("zoo")):
        return f"published methods, {tuned} trainings"
    return "baseline" if database.measurements("baseline") else "preparing"


def _take(watched: Watched, birth: StoredBirth, found: StoredEvaluation | None, writer: Any) -> None:
    watched.take(birth, found)
    if writer is None:
        return
    step = birth.number
    if found is not None and found.fitness is not None:
        writer.add_scalar("fitness/birth", found.fitness, step)
        for name, value in found.metrics.items():
            writer.add_scalar(f"metrics/{name}", value, step)
    if watched.best is not None:
        writer.add_scalar("fitness/best", watched.best_fitness, step)
    for name in (*(status.value for status in Status), "duplicates"):
        writer.add_scalar(f"births/{name}", watched.counts[name], step)


@contextlib.contextmanager
def _scalars(folder: Path | None) -> Iterator[Any]:
    """A writer of TensorBoard's event files, or None."""
    if folder is None:
        yield None
        return
    with summary_writer()(str(folder)) as writer:
        yield writer


# --- what is seen -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _shown(watched: Watched, console: Console) -> Iterator[Any]:
    """A function that shows the present state: in place in a terminal, elsewhere as a line now and then."""
    if console.is_terminal:
        with Live(console=console, auto_refresh=False, transient=False) as live:
            yield lambda: live.update(view(watched), refresh=True)
        return
    before: tuple[str, float] | None = None
    last = -math.inf

    def line() -> None:
        nonlocal before, last
        news = watched.stage.split(",")[0], watched.best_fitness
        if news != before or time.monotonic() - last >= LINE_EVERY:
            console.print(summary(watched), markup=False, highlight=False, soft_wrap=True)
            before, last = news, time.monotonic()

    yield line


def summary(watched: Watched) -> str:
    """The state as one line."""
    words = f"{watched.stage}: {watched.births:,}/{watched.total:,} births, {', '.join(_counts(watched))}"
    if watched.best is None:
        return words
    return f"{words}, best {watched.best_fitness:.4f} (birth {watched.best_birth:,}): {watched.best.expression}"


def _counts(watched: Watched) -> list[str]:
    names = (*(status.value for status in Status), "duplicates")
    return [f"{watched.counts[name]:,} {name}" for name in names]


def sparkline(values: list[float], width: int = SPARKLINE_WIDTH) -> str:
    """Values as a row of blocks, at most ``width``; what is not finite is left out.

    >>> sparkline([1.0, 0.5, 0.5, 0.0])
    '█▅▅▁'
    """
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return ""
    count = min(width, len(known))
    chosen = [known[(index + 1) * len(known) // count - 1] for index in range(count)]
    low, span = min(chosen), (max(chosen) - min(chosen)) or 1.0
    return "".join(SPARKS[round((value - low) / span * (len(SPARKS) - 1))] for value in chosen)


def view(watched: Watched) -> RenderableType:
    """The state as a picture for the terminal."""
    head = Table.grid(padding=(0, 2))
    head.add_row(Text(watched.folder.name, "bold"), watched.stage, ProgressBar(watched.total, watched.births, width=30),
                 f"{watched.births:,}/{watched.total:,} births", _speed(watched))  # fmt: skip
    counts = Text("   ".join(_counts(watched)), "dim")
    parts: list[RenderableType] = [head, counts]
    if watched.best is not None:
        trend = Text.assemble(("best ", ""), (f"{watched.best_fitness:.4f}", "bold"), f"  {sparkline(watched.history)}")
        parts += [Text(), trend, Text(f"birth {watched.best_birth:,}: {watched.best.expression}"), Text()]
    if watched.last:
        parts.append(_last_births(watched))
    parts.append(Text("" if watched.finished else "Ctrl-C stops watching; the run goes on.", "dim"))
    return Group(*parts)


def _speed(watched: Watched) -> str:
    rate = watched.rate
    if watched.finished or rate <= 0:
        return ""
    left = duration((watched.total - watched.births) / rate)
    return f"{rate:.1f}/s, {left} left" if rate >= 1 else f"{60 * rate:.1f}/min, {left} left"


def _last_births(watched: Watched) -> Table:
    table = Table(title="last births", title_justify="left", box=None, padding=(0, 2, 0, 0), expand=True)
    table.add_column("birth", justify="right", width=9)
    table.add_column("operator", width=9)
    table.add_column("fitness", justify="right", width=9)
    table.add_column("distiller", no_wrap=True, overflow="ellipsis", ratio=1)
    for birth, found in reversed(watched.last):
        fitness = "duplicate" if birth.duplicate_of is not None else "–"
        if found is not None and birth.duplicate_of is None:
            fitness = f"{found.fitness:.4f}" if found.fitness is not None else found.status.value
        table.add_row(f"{birth.number:,}", birth.operator, Text(fitness), Text(birth.expression))
    return table


def _farewell(watched: Watched, console: Console) -> None:
    folder = watched.folder
    if watched.finished:
        words = f"the run is finished; next: kdzero-gp report {folder}    kdzero-gp show {folder}"
    else:
        words = f"stopped watching; the run was not touched. Watch it again with: kdzero-gp watch {folder}"
    console.print(words, markup=False, highlight=False, soft_wrap=True)
