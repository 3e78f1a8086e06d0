"""The distillers that a run found: each with its numbers, its file and its module, and the best of them in a row."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

from torch import nn

from kdzero_gp.analysis import markup
from kdzero_gp.common import percent
from kdzero_gp.compiler import Expression, compile_distiller
from kdzero_gp.draw import describe
from kdzero_gp.search.race import Competitor, RaceResult
from kdzero_gp.search.run import export_entry
from kdzero_gp.search.storage import Database

_THUMBNAIL = 340


@dataclass(frozen=True, repr=False)
class RankedDistiller:
    """One distiller of a run.

    ``rank`` as in ``kdzero-gp export --rank``; ``fitness`` (lower is better, 1 is cross-entropy alone), ``metrics``
    and the final ``magnitudes`` are those of its proxy training; ``standing`` is its place in the race, or None;
    ``birth`` is the number of the birth that first had it.
    """

    folder: Path
    rank: int
    expression: Expression
    digest: str
    fitness: float | None
    metrics: Mapping[str, float]
    magnitudes: tuple[float, ...]
    birth: int | None
    generation: int | None
    standing: RaceResult | None = None

    @cached_property
    def sentence(self) -> str:
        """What it does, in one English sentence."""
        return describe(self.expression)

    def source(self) -> str:
        """The text of the file that ``kdzero-gp export`` writes: a class ``Distiller`` that needs only torch."""
        with tempfile.TemporaryDirectory() as folder:
            return self.export(Path(folder) / "distiller.py").read_text(encoding="utf-8")

    def export(self, path: Path | str) -> Path:
        """Write that file, and return its path."""
        path = Path(path)
        entry = Competitor(self.digest, "evolved", str(self.expression), self.magnitudes, self.fitness)
        with Database.read(self.folder) as database:
            export_entry(self.folder, database, entry, path)
        return path

    def compile(self) -> nn.Module:
        """The torch module for the run's pair, with its final magnitudes: ``module(student, teacher, labels)``."""
        with Database.read(self.folder) as database:
            bench = database.fact("bench")
        shapes = bench["student_shapes"], bench["teacher_shapes"]
        return compile_distiller(self.expression, *shapes, self.magnitudes or None)

    @property
    def numbers(self) -> dict[str, str]:
        """What was measured, as texts to show."""
        shown = {"fitness": "–" if self.fitness is None else f"{self.fitness:.4f} (cross-entropy alone: 1)"}
        for name, value in self.metrics.items():
            label = "proxy " + name.replace("_", " ").replace("cka", "CKA")
            shown[label] = f"{percent(value)} %" if name == "accuracy" else f"{value:.4f}"
        race = self.standing
        if race is not None and not race.reason:
            shown[f"race, validation accuracy, {race.seeds} seeds"] = (
                f"{percent(race.accuracy, race.accuracy_interval)} %"
            )
            shown["race, difference to kd"] = f"{percent(race.difference_to_kd, race.difference_interval)} points"
            shown["race, test accuracy"] = f"{percent(race.test_accuracy, race.test_interval)} %"
        shown["magnitudes in the file"] = ", ".join(f"{m:.4g}" for m in self.magnitudes)
        if self.birth is not None:
            shown["born"] = f"number {self.birth}, generation {self.generation}"
        return shown

    def __repr__(self) -> str:
        fitness = "–" if self.fitness is None else f"{self.fitness:.4f}"
        return f"rank {self.rank}, fitness {fitness}: {self.expression}"

    def _repr_html_(self) -> str:
        head = markup.tag("p", markup.tag("b", f"Rank {self.rank}"), " ", markup.code(self.expression))
        drawn = markup.picture(self.expression) + markup.tag("p", self.sentence)
        return markup.plain(head, drawn, markup.table(["", ""], list(self.numbers.items())))


class HallOfFame(Sequence[RankedDistiller]):
    """The best distillers of a run, best first."""

    def __init__(self, members: Sequence[RankedDistiller]):
        self._members = tuple(members)

    @overload
    def __getitem__(self, index: int) -> RankedDistiller: ...

    @overload
    def __getitem__(self, index: slice) -> HallOfFame: ...

    def __getitem__(self, index: int | slice) -> RankedDistiller | HallOfFame:
        return HallOfFame(self._members[index]) if isinstance(index, slice) else self._members[index]

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[RankedDistiller]:
        return iter(self._members)

    def __repr__(self) -> str:
        return "\n".join(map(str, self._members)) or "no distiller yet"

    def _repr_html_(self) -> str:
        rows = [_row(one) for one in self._members]
        headers = ["", "distiller", "proxy fitness", "proxy %", "race %", "birth"]
        return markup.plain(markup.table(headers, rows, (1,))) if rows else "<p>no distiller yet</p>"


def _row(one: RankedDistiller) -> list[object]:
    race = one.standing
    raced = percent(race.accuracy, race.accuracy_interval) if race is not None and not race.reason else "–"
    return [
        str(one.rank),
        markup.picture(one.expression, _THUMBNAIL) + markup.code(one.expression),
        "–" if one.fitness is None else f"{one.fitness:.4f}",
        percent(one.metrics.get("accuracy", float("nan"))),
        raced,
        "–" if one.birth is None else str(one.birth),
    ]


class Race(Sequence[RaceResult]):
    """The race's table, best first, those without a result last: its standings in order."""

    def __init__(self, standings: Sequence[RaceResult]):
        self.standings = tuple(standings)

    @overload
    def __getitem__(self, index: int) -> RaceResult: ...

    @overload
    def __getitem__(self, index: slice) -> Race: ...

    def __getitem__(self, index: int | slice) -> RaceResult | Race:
        return Race(self.standings[index]) if isinstance(index, slice) else self.standings[index]

    def __len__(self) -> int:
        return len(self.standings)

    @property
    def frame(self) -> Any:
        """The same as a pandas data frame."""
        from kdzero_gp.analysis.dataframes import standings_frame

        return standings_frame(self.standings)

    def _cells(self) -> list[list[str]]:
        rows = []
        for rank, one in enumerate(self.standings, 1):
            name = one.entry.expression if one.entry.kind == "evolved" else one.entry.name
            if one.reason:
                rows.append(["", name, one.reason, "", "", "", ""])
                continue
            rows.append([
                str(rank), name, percent(one.accuracy, one.accuracy_interval), f"{one.cross_entropy:.4f}",
                "" if one.entry.name == "kd" else percent(one.difference_to_kd, one.difference_interval),
                percent(one.test_accuracy, one.test_interval),
                "–" if one.entry.fitness is None else f"{one.entry.fitness:.4f}",
            ])  # fmt: skip
        return rows

    _HEADERS = ("", "distiller", "validation %", "cross-entropy", "to kd, points", "test %", "proxy fitness")

    def __repr__(self) -> str:
        rows = [list(self._HEADERS), *self._cells()]
        return "\n".join("  ".join(f"{cell:>14}" for cell in [*row[:1], *row[2:], row[1]]) for row in rows)

    def _repr_html_(self) -> str:
        if not self.standings:
            return "<p>no race yet</p>"
        rows = []
        for one, cells in zip(self.standings, self._cells(), strict=True):
            evolved = one.entry.kind == "evolved"
            whole = [cells[0], markup.code(cells[1]) if evolved else cells[1], *cells[2:]]
            rows.append([markup.tag("b", cell) if evolved and cell else cell for cell in whole])
        seeds = max(one.seeds for one in self.standings)
        words = f"Race over {seeds} fresh seeds, mean ± 95 % interval; evolved distillers in bold."
        return markup.plain(markup.tag("p", words), markup.table(self._HEADERS, rows, (1,)))
