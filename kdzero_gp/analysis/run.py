"""A run to look at from Python: frames, the winner, the race, comparisons, genealogies and replays.

Everything is read from the run's folder when it is asked for, so that a run that is still going on shows its present
state; nothing is ever written into it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdzero_gp.analysis import markup
from kdzero_gp.analysis.comparison import TreeComparison
from kdzero_gp.analysis.comparison import compare as compare_trees
from kdzero_gp.analysis.results import HallOfFame, Race, RankedDistiller
from kdzero_gp.analysis.statistics import fitness_over_generations, operation_success, pair_success
from kdzero_gp.common import ALONE, ALONE_TEXT
from kdzero_gp.compiler import Expression, digest, parse, source_of, zoo
from kdzero_gp.compiler.checking import KnowledgeTypes
from kdzero_gp.errors import RunError, SettingError
from kdzero_gp.language_model.proposer import ModelProposer
from kdzero_gp.proxy.evaluator import Train
from kdzero_gp.search.candidates import counts_of, front, screen_rows
from kdzero_gp.search.confirmation import confirmation, verdict, winner
from kdzero_gp.search.connection import undamaged
from kdzero_gp.search.export import export_entry, shares_of
from kdzero_gp.search.model import ACCOUNT
from kdzero_gp.search.pruning import Pruning, pruning
from kdzero_gp.search.race import RaceResult, standings, tuned_zoo
from kdzero_gp.search.ranking import Ranked, by_size, ranking
from kdzero_gp.search.settings import RunSettings
from kdzero_gp.search.storage import SCHEMA_VERSION, Database, Status, StoredBirth, StoredEvaluation
from kdzero_gp.training.verdict import Verdict
from primitives import PairType

if TYPE_CHECKING:
    import pandas

    from kdzero_gp.analysis.genealogy import Genealogy
    from kdzero_gp.analysis.replay import Replay

# A digest may be shortened to this many characters.
SHORTEST_DIGEST = 4
# How a candidate is named: its rank, its (shortened) digest, its text, a zoo name, or itself.
Which = int | str | Expression | RankedDistiller


@dataclass(frozen=True)
class _Rows:
    """What a run's database holds at one moment."""

    settings: RunSettings
    births: list[StoredBirth]
    evaluations: list[StoredEvaluation]
    table: list[RaceResult]
    ranked: list[Ranked]
    bench: dict[str, Any] | None

    @property
    def knowledge(self) -> dict[str, PairType] | None:
        """The knowledge of the run's pair, once it is known."""
        return None if self.bench is None else self.settings.shapes(self.bench).types

    def parse(self, text: str) -> Expression:
        """Read an expression with the pair's own knowledge."""
        return parse(text, self.knowledge)


class StoredRun:
    """A run by its folder, finished or not: ``Run("runs/digits-1")``.

    ``births``, ``evaluations``, ``races``, ``generations``, ``operations`` and ``pairs`` are pandas data frames (an
    extra: ``pip install 'kdzero-gp[notebook]'``). Raises ``RunError`` where the folder holds no run.
    """

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        self._read(lambda database: database.fact("settings"))

    def _read(self, read: Any) -> Any:
        with Database.read(self.folder) as database, undamaged(database.path):
            return read(database)

    def _ask(self, question: Any) -> Any:
        """What follows from the database and the settings."""
        return self._read(lambda database: question(database, _settings(database)))

    def _rows(self) -> _Rows:
        with Database.read(self.folder) as database, undamaged(database.path):
            # births first: a birth is only there when its evaluation is
            births, evaluations = database.births(), database.evaluations()
            settings = _settings(database)
            table, ranked = standings(database, settings), ranking(database, settings)
            rows = _Rows(settings, births, evaluations, table, ranked, database.fact("bench"))
            _ = rows.knowledge  # here, where a bench that is damaged is told
            return rows

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    # --- what there is --------------------------------------------------------------------------------------

    @property
    def settings(self) -> RunSettings:
        """What the run was started with."""
        return self._read(_settings)  # type: ignore[no-any-return]

    @property
    def versions(self) -> dict[str, str]:
        """The versions of kdzero-gp, torch and Python that started it."""
        return self._read(lambda database: database.fact("versions", {}))  # type: ignore[no-any-return]

    @property
    def teacher_statistics(self) -> dict[str, str]:
        """The options ``teacher_mean`` and ``teacher_std`` that the run found by trying, where nothing said them."""
        return dict(self._read(lambda database: database.fact("bench", {}).get("teacher_statistics") or {}))

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end."""
        return bool(self._read(lambda database: database.fact("finished")))

    @property
    def births(self) -> pandas.DataFrame:
        """One row for each birth: where it comes from, its distiller, and the fitness of that."""
        from kdzero_gp.analysis.dataframes import births_frame

        births, evaluations = self._history()
        return births_frame(births, evaluations)

    @property
    def evaluations(self) -> pandas.DataFrame:
        """One row for each distiller that was evaluated: fitness, metrics, magnitudes, or the reason of rejection."""
        from kdzero_gp.analysis.dataframes import evaluations_frame

        return evaluations_frame(self._history()[1], self.settings.family)

    @property
    def races(self) -> pandas.DataFrame:
        """One row for each training of the race; ``race`` is the table made of them."""
        from kdzero_gp.analysis.dataframes import races_frame

        return races_frame(self._read(lambda database: database.measurements("race")), self.settings.family)

    @property
    def generations(self) -> pandas.DataFrame:
        """One row for each generation: best fitness so far, quantiles, counts."""
        return self._frame(fitness_over_generations)

    @property
    def operations(self) -> pandas.DataFrame:
        """How operations did: births with each, mean percentile, share among the best tenth against share of all."""
        return self._frame(operation_success)

    @property
    def pairs(self) -> pandas.DataFrame:
        """The same for pairs of operations in one term."""
        return self._frame(pair_success)

    def _history(self) -> tuple[list[StoredBirth], list[StoredEvaluation]]:
        return self._read(lambda database: (database.births(), database.evaluations()))  # type: ignore[no-any-return]

    def _frame(self, function: Any) -> pandas.DataFrame:
        from kdzero_gp.analysis.dataframes import frame

        return frame(function(*self._history()))

    # --- the best -------------------------------------------------------------------------------------------

    @property
    def best(self) -> RankedDistiller:
        """The best evolved distiller: first of the race among these, or the fittest before a race. Raises ``RunError``
        where nothing has a fitness yet."""
        return self.find(1)

    @property
    def winner(self) -> tuple[Expression, KnowledgeTypes | None, tuple[float, ...], tuple[float, ...]]:
        """What the run exports, whom the fresh seeds named and pruned, or the best so far: its expression, the
        knowledge that it is made of, its final magnitudes, and the share of the gradient that they give each term.
        Raises ``RunError`` where nothing has a fitness yet."""
        settings = self.settings
        entry, rows = self._ask(winner), self._rows()
        if entry is None:
            best = self.best
            return best.expression, rows.knowledge, best.magnitudes, best.shares
        expression = rows.parse(entry.expression)
        shares = self._read(lambda database: shares_of(database, settings, entry, expression))
        return expression, rows.knowledge, entry.magnitudes, shares

    @property
    def winner_title(self) -> str:
        """What the run exports, in words."""
        entry = self._ask(winner)
        if entry is None:
            return "the best distiller so far"
        return f"the run's winner ({entry.title})" if entry.kind == "zoo" else "the run's winner"

    def top(self, count: int = 10) -> HallOfFame:
        """The best ``count`` distillers."""
        if count < 1:
            raise SettingError(f"top needs a count of at least 1, got {count}")
        rows = self._rows()
        return HallOfFame([self._distiller(rows, row) for row in rows.ranked[:count]], rows.settings.family)

    @property
    def sizes(self) -> list[tuple[int, bool, RankedDistiller]]:
        """Accuracy against size: for each number of operations the best distiller by the run's ranking, and whether no
        smaller one is ranked above it."""
        rows = self._rows()
        return [(one.operations, one.leads, self._distiller(rows, one.ranked)) for one in by_size(rows.ranked)]

    @property
    def confirmation(self) -> Race:
        """The finalists on seeds that chose nothing; empty without such seeds, and before these trainings."""
        return Race(self._ask(confirmation), self.settings.family)

    @property
    def verdict(self) -> Verdict | None:
        """What the fresh seeds say: its ``lines`` are the words; None without them."""
        return self._ask(verdict)  # type: ignore[no-any-return]

    @property
    def pruning(self) -> Pruning | None:
        """What ablation left of the race's best evolved distiller, and what each of its terms contributes; None before
        the race, and with ``prune=0``."""
        return self._ask(pruning)  # type: ignore[no-any-return]

    def export(self, path: Path | str, hooks: bool = False, method: str | None = None) -> Path:
        """Write the run's winner, a published method perhaps, as a file that needs only torch, and return its path.
        With ``hooks`` the file reads both networks' tensors, too. ``method``: a published one, as the run tuned it.
        Raises ``RunError`` before the race, and for a method that was not tuned."""
        path = Path(path)
        with Database.read(self.folder) as database:
            tuned = tuned_zoo(database)
            if method is not None and method not in tuned:
                raise RunError(f"{self.folder} has tuned no {method!r}; it has {', '.join(tuned) or 'none yet'}")
            entry = winner(database, self.settings) if method is None else tuned[method]
            if entry is None:
                return self.best.export(path, hooks)
            export_entry(self.folder, database, entry, path, hooks)
        return path

    @property
    def race(self) -> Race:
        """The race's table with the published methods and cross-entropy alone in it; empty before the race."""
        rows = self._rows()
        return Race([result for result in rows.table if result.seeds], rows.settings.family)

    @property
    def counts(self) -> dict[str, int]:
        """What became of the births: ``births`` is the sum of all others, one for each ``Status`` among them."""
        return counts_of(*self._history())

    @property
    def rejections(self) -> Counter[str]:
        """Why candidates have no result: reasons up to their first colon, with how many gave them."""
        by_status = self.reasons
        return by_status[Status.REJECTED] + by_status[Status.FAILED]

    @property
    def reasons(self) -> dict[Status, Counter[str]]:
        """The same of those that a screen turned away, and of those whose training failed."""
        evaluations = self._history()[1]
        return {
            status: Counter(e.reason.split(":")[0] for e in evaluations if e.status is status)
            for status in (Status.REJECTED, Status.FAILED)
        }

    @property
    def screens(self) -> list[dict[str, Any]]:
        """For each screen and the training: how many it was asked about and turned away, and its seconds."""
        return self._read(lambda database: screen_rows(database.evaluations(), database.stages()))  # type: ignore[no-any-return]

    @property
    def drawn(self) -> dict[str, dict[str, float]]:
        """For each operation, how its children did and how often it is drawn now: trials, wins, weight."""
        names = ("trials", "wins", "weight")
        return self._read(  # type: ignore[no-any-return]
            lambda database: {
                name: dict(zip(names, row, strict=True)) for name, row in database.fact("operations", {}).items()
            }
        )

    @property
    def language_model(self) -> dict[str, Any]:
        """What a language model was asked, what came of it by reason and as births by ``fates``, and what it cost;
        empty without one."""
        account = self._read(lambda database: database.fact(ACCOUNT, {}))
        births, evaluations = self._history()
        born = [birth for birth in births if birth.operator == ModelProposer.name]
        return account | {"fates": counts_of(born, evaluations)} if account else {}

    @property
    def front(self) -> list[StoredEvaluation]:
        """With several objectives, the distillers that no other beats in all of them."""
        return front(self._history()[1], self.settings.search.objectives)

    def find(self, which: int | str | Expression) -> RankedDistiller:
        """A distiller of the run by rank, digest (or its beginning) or expression. Raises ``RunError`` for one that the
        run does not have."""
        rows = self._rows()
        if not rows.ranked:
            raise RunError(f"no distiller of {self.folder} has a fitness yet; look again later, or resume the run")
        if isinstance(which, int):
            if not 1 <= which <= len(rows.ranked):
                raise RunError(f"{self.folder} has {len(rows.ranked)} distillers, so there is no rank {which}")
            return self._distiller(rows, rows.ranked[which - 1])
        name = digest(rows.parse(which)) if isinstance(which, str) and "(" in which else which
        name = digest(name) if isinstance(name, Expression) else name
        fits = [row for row in rows.ranked if row.evaluation.digest.startswith(name)]
        if len(fits) != 1 or len(name) < SHORTEST_DIGEST:
            count = f"{len(fits)} distillers" if fits else "no distiller"
            raise RunError(
                f"{self.folder} has {count} with a fitness for {str(which)!r}; .evaluations lists the digests"
            )
        return self._distiller(rows, fits[0])

    def _distiller(self, rows: _Rows, row: Ranked) -> RankedDistiller:
        e = row.evaluation
        birth = next((birth for birth in rows.births if birth.digest == e.digest), None)
        return RankedDistiller(
            folder=self.folder, family=rows.settings.family, rank=row.rank, expression=rows.parse(e.expression),
            digest=e.digest, fitness=e.fitness, metrics=e.metrics, magnitudes=e.magnitudes,
            birth=None if birth is None else birth.number,
            generation=None if birth is None else birth.generation, standing=row.result, knowledge=rows.knowledge,
        )  # fmt: skip

    # --- closer looks ---------------------------------------------------------------------------------------

    def genealogy(self, birth: int | None = None) -> Genealogy:
        """The ancestors of a birth, by default of the winner's."""
        from kdzero_gp.analysis.genealogy import Genealogy, genealogy

        rows = self._rows()
        births, evaluations = rows.births, rows.evaluations
        number = self.best.birth if birth is None else birth
        if number is None or number not in {birth.number for birth in births}:
            raise RunError(f"{self.folder} has births 0 to {len(births) - 1}, so there is none with number {number}")
        return Genealogy(number, genealogy(births, number, evaluations), rows.knowledge)

    def compare(self, a: Which, b: Which) -> TreeComparison:
        """What two distillers share and where they differ. Each is a rank, a digest, an expression or its text, or the
        name of a published method."""
        (left, left_name), (right, right_name) = self._expression(a), self._expression(b)
        return replace(compare_trees(left, right, left_name, right_name), knowledge=self._rows().knowledge)

    def _expression(self, which: Which) -> tuple[Expression, str]:
        if isinstance(which, RankedDistiller):
            return which.expression, f"rank {which.rank}"
        if isinstance(which, Expression):
            return which, "expression"
        if isinstance(which, str) and which in zoo:
            return zoo[which], which
        if isinstance(which, str) and "(" in which:
            return self._rows().parse(which), "expression"
        distiller = self.find(which)
        return distiller.expression, f"rank {distiller.rank}"

    def replay(self, which: Which = 1, *, device: str = "auto", check: bool = True) -> Replay:
        """Train one candidate's proxy again and look at it step by step.

        ``which`` as in ``compare``; a published method is replayed at its tuned magnitude, ``"alone"`` as the run's
        first baseline. The metrics at the end must equal the stored ones, which holds on the run's kind of
        device; ``check=False`` lets them differ. Raises ``RunError``.
        """
        from kdzero_gp.analysis.replay import replay

        if self._read(lambda database: database.version) != SCHEMA_VERSION:
            raise RunError(f"{self.folder} was made by an earlier kdzero-gp; replay it with the version that made it")
        if isinstance(which, str) and (which in zoo or which in (ALONE, ALONE_TEXT)):
            name = ALONE if which == ALONE_TEXT else which
            request, stored = self._measured(name)
        else:
            distiller = which if isinstance(which, RankedDistiller) else self.find(which)
            name, stored = f"rank {distiller.rank}", dict(distiller.metrics)
            seed = self.settings.search.seed
            request = Train(self._source(distiller.expression), seed, tuple(distiller.magnitudes))
        return replay(self.folder, name, request, stored, device, check)

    def _measured(self, name: str) -> tuple[Train, dict[str, float]]:
        """How a published method, or cross-entropy alone, was measured, and the result."""
        kind = "baseline" if name == ALONE else "zoo"
        rows = self._read(lambda database: database.measurements(kind))
        good = [row for row in rows if row.name == name and not row.reason]
        if not good:
            raise RunError(f"{self.folder} has no measurement of {name} yet; look again later, or resume the run")
        if kind == "baseline":
            return Train("", good[0].seed), good[0].metrics
        best = min(good, key=lambda row: row.metrics["fitness"])
        return Train(self._source(zoo[name]), best.seed, best.magnitudes), best.metrics

    def _source(self, expression: Expression) -> str:
        bench = self._read(lambda database: database.fact("bench"))
        table = self.settings.family.knowledge
        return source_of(expression, bench["student_shapes"], bench["teacher_shapes"], knowledge=table)

    def _repr_html_(self) -> str:
        state = "finished" if self.finished else "not finished"
        counts = ", ".join(f"{count:,} {name}" for name, count in self.counts.items())
        settings = self.settings
        pair = f"teacher {settings.teacher}, student {settings.student}, task {settings.task}"
        head = markup.tag("p", markup.tag("b", self.folder), f": {state}; {pair}; {counts}")
        best = self.best._repr_html_() if self._rows().ranked else ""
        return str(head) + best + (self.race._repr_html_() if self.race else "")


def _settings(database: Database) -> RunSettings:
    return RunSettings.from_dict(database.fact("settings"))
