"""The distillers that a run found: each with its numbers, its file and its module, and the best of them in a row."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

from torch import nn

from kdzero_gp.analysis import markup
from kdzero_gp.common import ALONE_TEXT, UNKNOWN, real
from kdzero_gp.compiler import Expression, load_source, source_of
from kdzero_gp.compiler.checking import KnowledgeTypes
from kdzero_gp.draw import clauses, describe, to_svg
from kdzero_gp.families import Measure, TaskFamily
from kdzero_gp.search.export import export_entry, shares_of
from kdzero_gp.search.race import TEST, Competitor, RaceResult
from kdzero_gp.search.settings import RunSettings
from kdzero_gp.search.storage import Database

if TYPE_CHECKING:
    from typing_extensions import Self

_THUMBNAIL = 340
Member = TypeVar("Member")


def race_headers(family: TaskFamily) -> list[str]:
    """The columns of a race's table."""
    deciding, measured = family.deciding, [measure.heading for measure in family.measures]
    to_kd = ", ".join(filter(None, ("to kd", deciding.difference_unit)))
    return ["", "distiller", *measured, to_kd, f"test {deciding.heading}", "proxy fitness"]


def race_cells(result: RaceResult, rank: int, family: TaskFamily) -> list[str]:
    """A row of it; one without a result has its reason in the third column."""
    entry, deciding = result.entry, family.deciding
    if result.reason:
        return ["", entry.title, result.reason, *[""] * (len(race_headers(family)) - 3)]
    # the interval of the measure that decides; of the others the mean is enough
    measured = [m.text(*result.value(m.name)[: 2 if m is deciding else 1]) for m in family.measures]
    return [
        str(rank), entry.title, *measured, "" if entry.name == "kd" else deciding.difference(*result.difference),
        deciding.text(*result.value(TEST + deciding.name)), real(entry.fitness),
    ]  # fmt: skip


def confirmed_headers(family: TaskFamily) -> list[str]:
    """The columns of a confirmation's table; what the verdict goes by comes first."""
    deciding = family.deciding
    return [f"test, {', '.join(filter(None, ('to kd', deciding.difference_unit)))}", f"test {deciding.heading}",
            f"validation {deciding.heading}"]  # fmt: skip


def confirmed_cells(result: RaceResult, family: TaskFamily) -> list[tuple[str, float]]:
    """A row of it: each number as a text and as it is. Where there are no test images, the difference to ``kd`` is that
    on validation images, which then report."""
    deciding = family.deciding
    tested = TEST + deciding.name in result.values
    difference = result.test_difference if tested else result.difference
    numbers = [result.value(TEST + deciding.name), result.value(deciding.name)]
    to_kd = "" if result.entry.name == "kd" else deciding.difference(*difference)
    return [(to_kd, difference[0]), *((deciding.text(*number), number[0]) for number in numbers)]


@dataclass(frozen=True, repr=False)
class RankedDistiller:
    """One distiller of a run.

    ``rank`` as in ``kdzero-gp export --rank``; ``fitness`` (lower is better, 1 is cross-entropy alone), ``metrics``
    and the final ``magnitudes`` are those of its proxy training; ``standing`` is its place in the race, or None;
    ``birth`` is the number of the birth that first had it; ``knowledge``: the types of the pair's knowledge.
    """

    folder: Path
    family: TaskFamily
    rank: int
    expression: Expression
    digest: str
    fitness: float | None
    metrics: Mapping[str, float]
    magnitudes: tuple[float, ...]
    birth: int | None
    generation: int | None
    standing: RaceResult | None = None
    knowledge: KnowledgeTypes | None = None

    @cached_property
    def sentence(self) -> str:
        """What it does, in one English sentence."""
        return describe(self.expression, self.knowledge, numbers=self.magnitudes)

    @property
    def clauses(self) -> list[str]:
        """The parts of ``sentence``, one for each term."""
        return clauses(self.expression, self.knowledge, numbers=self.magnitudes)

    @property
    def shares(self) -> tuple[float, ...]:
        """Each term's gradient in units of the cross-entropy's, as it was searched; () where that is not known."""
        with Database.read(self.folder) as database:
            settings = RunSettings.from_dict(database.fact("settings"))
            return shares_of(database, settings, self._entry, self.expression)

    @property
    def _entry(self) -> Competitor:
        return Competitor(self.digest, "evolved", str(self.expression), self.magnitudes, self.fitness)

    def as_dict(self) -> dict[str, Any]:
        """Its numbers, for files."""
        race = None if self.standing is None else self.standing.as_dict()
        own = {name: getattr(self, name) for name in ("rank", "digest", "fitness", "metrics", "magnitudes", "birth")}
        return own | {"expression": str(self.expression), "race": race}

    def source(self) -> str:
        """The text of the file that ``kdzero-gp export`` writes: a class ``Distiller`` that needs only torch."""
        with tempfile.TemporaryDirectory() as folder:
            return self.export(Path(folder) / "distiller.py").read_text(encoding="utf-8")

    def export(self, path: Path | str, hooks: bool = False) -> Path:
        """Write that file, and return its path. With ``hooks`` it reads both networks' tensors, too."""
        path = Path(path)
        with Database.read(self.folder) as database:
            export_entry(self.folder, database, self._entry, path, hooks)
        return path

    def distiller(self) -> nn.Module:
        """The torch module for the run's pair, with its final magnitudes: ``module(student, teacher, labels)``. For
        another batch size, call its ``calibrate(student, teacher, labels)`` first."""
        with Database.read(self.folder) as database:
            bench = database.fact("bench")
        shapes = bench["student_shapes"], bench["teacher_shapes"]
        table = self.family.knowledge
        magnitudes = self.magnitudes or None
        source = source_of(self.expression, *shapes, magnitudes, knowledge=table, shares=self.shares)
        return load_source(source)

    def _repr_svg_(self) -> str:
        return to_svg(self.expression, self.knowledge, numbers=self.magnitudes)

    @property
    def numbers(self) -> dict[str, str]:
        """What was measured, as texts to show."""
        shown = {"fitness": UNKNOWN if self.fitness is None else f"{real(self.fitness)} ({ALONE_TEXT}: 1)"}
        for name, value in self.metrics.items():
            measure = next((measure for measure in self.family.measures if measure.name == name), None)
            label = name.replace("_", " ").replace("cka", "CKA") if measure is None else measure.heading
            shown[f"proxy {label}"] = f"{value:.4f}" if measure is None else measure.text(value)
        race, deciding = self.standing, self.family.deciding
        if race is not None:
            shown[f"race, validation {deciding.heading}, {race.seeds} seeds"] = deciding.text(
                *race.value(deciding.name)
            )
            shown[f"race, difference to kd {deciding.difference_unit}".rstrip()] = deciding.difference(*race.difference)
            shown[f"race, test {deciding.heading}"] = deciding.text(*race.value(TEST + deciding.name))
        shown["magnitudes in the file"] = ", ".join(f"{m:.4g}" for m in self.magnitudes)
        if self.birth is not None:
            shown["born"] = f"number {self.birth}, generation {self.generation}"
        return shown

    def __repr__(self) -> str:
        return f"rank {self.rank}, fitness {real(self.fitness)}: {self.expression}"

    def _repr_html_(self) -> str:
        head = markup.tag("p", markup.tag("b", f"Rank {self.rank}"), " ", markup.code(self.expression))
        drawn = markup.picture(self.expression, knowledge=self.knowledge, numbers=self.magnitudes)
        drawn += markup.tag("ul", *(markup.tag("li", clause) for clause in self.clauses))
        return markup.plain(head, drawn, markup.table(["", ""], list(self.numbers.items())))


class _Listed(Sequence[Member]):
    """Members in order; a part of them is shown as the whole is."""

    def __init__(self, members: Sequence[Member], family: TaskFamily):
        self.members, self.family = tuple(members), family

    @overload
    def __getitem__(self, index: int) -> Member: ...

    @overload
    def __getitem__(self, index: slice) -> Self: ...

    def __getitem__(self, index: int | slice) -> Member | Self:
        return type(self)(self.members[index], self.family) if isinstance(index, slice) else self.members[index]

    def __len__(self) -> int:
        return len(self.members)


class HallOfFame(_Listed[RankedDistiller]):
    """The best distillers of a run, best first."""

    def __repr__(self) -> str:
        return "\n".join(map(str, self.members)) or "no distiller yet"

    def _repr_html_(self) -> str:
        deciding, proxied = self.family.deciding, self.family.of_proxies
        rows = [_row(member, deciding, proxied) for member in self.members]
        headers = ["", "distiller", "proxy fitness", f"proxy {proxied.heading}", f"race {deciding.heading}", "birth"]
        return markup.plain(markup.table(headers, rows, (1,))) if rows else "<p>no distiller yet</p>"


def _row(member: RankedDistiller, deciding: Measure, proxied: Measure) -> list[object]:
    race = member.standing
    return [
        member.rank,
        markup.picture(member.expression, _THUMBNAIL, member.knowledge, member.magnitudes)
        + markup.code(member.expression),
        real(member.fitness),
        proxied.text(member.metrics.get(proxied.name, math.nan)),
        UNKNOWN if race is None else deciding.text(*race.value(deciding.name)),
        UNKNOWN if member.birth is None else member.birth,
    ]


class Race(_Listed[RaceResult]):
    """The race's table, best first, those without a result last."""

    @property
    def frame(self) -> Any:
        """The same as a pandas data frame."""
        from kdzero_gp.analysis.dataframes import standings_frame

        return standings_frame(self.members, self.family)

    def _cells(self) -> list[list[str]]:
        return [race_cells(result, rank, self.family) for rank, result in enumerate(self.members, 1)]

    def __repr__(self) -> str:
        rows = [race_headers(self.family), *self._cells()]
        return "\n".join("  ".join(f"{cell:>14}" for cell in [*row[:1], *row[2:], row[1]]) for row in rows)

    def _repr_html_(self) -> str:
        if not self.members:
            return "<p>no race yet</p>"
        rows = []
        for result, cells in zip(self.members, self._cells(), strict=True):
            evolved = result.entry.kind == "evolved"
            whole = [cells[0], markup.code(cells[1]) if evolved else cells[1], *cells[2:]]
            rows.append([markup.tag("b", cell) if evolved and cell else cell for cell in whole])
        seeds = max(result.seeds for result in self.members)
        words = f"Race over {seeds} fresh seeds, mean ± 95 % interval; evolved distillers in bold."
        return markup.plain(markup.tag("p", words), markup.table(race_headers(self.family), rows, (1,)))
