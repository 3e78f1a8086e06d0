"""Many distillers, one student: trainings of growing length, of which the better half goes on; at the end the student.

Every length is annealed to its end by the recipe's own schedule, since a training that is cut off ranks distillers by
how fast they start. The idea is successive halving (Jamieson & Talwalkar 2016, arXiv:1502.07943).
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdzero_gp.compiler import Expression
from kdzero_gp.engine.machine import Machine
from kdzero_gp.errors import RunError, SettingError
from kdzero_gp.families import Measure
from kdzero_gp.files import atomic_write
from kdzero_gp.progress import Progress
from kdzero_gp.training import folder as files
from kdzero_gp.training.api import Pair
from kdzero_gp.training.compare import CROSS_ENTROPY, FACTORS, Comparing, ComparisonRow, comparing, table
from kdzero_gp.training.distillers import Distiller, NamedDistiller
from kdzero_gp.training.jobs import Job
from kdzero_gp.training.pictures import gather
from kdzero_gp.training.settings import TrainingResult
from kdzero_gp.training.verdict import REFERENCE, Verdict, judge

# The rungs' lengths as shares of the recipe's epochs.
SHARES = (1 / 9, 1 / 3, 1.0)
# At least so many go on besides kd and cross-entropy alone, which always do.
LEAST_KEPT = 2
# The seeds of the confirmation, apart from those that choose, here and in searches (search.seeds): a thousand a seed.
FRESH_SEED = 8_000_000
RESULT, ROWS = "halving.json", "halving.csv"
Trained = dict[str, dict[int, TrainingResult]]


@dataclass(frozen=True)
class RungResult:
    """Trainings of one length. ``rows`` is their table by validation images, which choose who goes on (``kept``), with
    paired intervals to ``kd``. ``agreement``: Spearman's rank correlation with the rung before, and
    ``with_proxy`` with the proxy's fitness (NaN without), over ``shared`` and ``with_fitness`` distillers."""

    epochs: float
    seeds: int
    rows: tuple[ComparisonRow, ...]
    kept: tuple[str, ...]
    agreement: float = math.nan
    shared: int = 0
    with_proxy: float = math.nan
    with_fitness: int = 0

    @property
    def sentences(self) -> list[str]:
        """What the rank correlations say."""
        found = []
        if not math.isnan(self.agreement):
            found.append(f"the shorter rung agreed with this one: Spearman {self.agreement:.2f} over {self.shared}")
        if not math.isnan(self.with_proxy):
            found.append(f"the proxy agreed with this rung: Spearman {self.with_proxy:.2f} over {self.with_fitness}")
        return found


@dataclass(frozen=True)
class Halving:
    """The rungs, the finalists on fresh seeds (``fresh``), the verdict, and the winner's weights (``student``)."""

    folder: Path
    rungs: tuple[RungResult, ...]
    fresh: tuple[ComparisonRow, ...]
    verdict: Verdict
    student: Path
    measure: Measure


def halve(
    pair: Pair,
    distillers: Sequence[str | Path | Expression | NamedDistiller],
    *,
    out: str | Path,
    seeds: int = 1,
    fresh_seeds: int = 3,
    shares: Sequence[float] = SHARES,
    factors: Sequence[float] = FACTORS,
    tune_epochs: int | None = None,
    fitness: Mapping[str, float] | None = None,
    seed: int = 0,
    machine: Machine | None = None,
    progress: Progress | None = None,
) -> Halving:
    """Find the distiller that trains the best student, and train it.

    Magnitudes are tuned as ``compare`` does, with trainings of the first rung's length. Then all train for the first of
    ``shares`` of the recipe's epochs on ``seeds`` seeds; the better half by validation images goes on to the next,
    ``kd``, the best other published method and cross-entropy alone always. Of the last rung the best published method
    and the best other one train again on ``fresh_seeds`` seeds that chose nothing, and test images say which of them
    to use (see ``Verdict``); who fails on one of these is not confirmed.

    Writes into ``out``: ``halving.json``, ``halving.csv`` (one line a training), ``student.safetensors`` (of the
    winner's fresh trainings the best by validation images) and ``distiller.py``. ``fitness``: the proxies' by name,
    lower is better, to see how far they agree. The same call goes on where an interrupted one stopped. Raises
    KdzeroError.
    """
    if not shares or list(shares) != sorted(set(shares)) or not shares[0] > 0 or shares[-1] != 1.0:
        raise SettingError("the rungs' shares have to grow from above 0 to 1, for example 0.11, 0.33, 1")
    if not pair.validate:
        raise SettingError("halving chooses by validation images; leave out --no-validation")
    if seeds < 1 or fresh_seeds < 1 or not factors:
        raise SettingError("--seeds and --fresh-seeds must be at least 1 and --factors at least one number")
    work = comparing(_Halving, pair, distillers, Path(out), seed, machine, progress)
    return work.halve(seeds, fresh_seeds, tuple(shares), tuple(factors), tune_epochs, dict(fitness or {}))


class _Halving(Comparing):
    def halve(
        self, seeds: int, fresh_seeds: int, shares: tuple[float, ...], factors: tuple[float, ...],
        tune_epochs: int | None, fitness: dict[str, float],
    ) -> Halving:  # fmt: skip
        """The whole as a list of verbs."""
        alone = self.pair.settings(self.seed)
        epochs = tune_epochs or max(1, round(alone.recipe.epochs * shares[0]))
        asked = self.pair.taught(self.seed).as_dict()
        asked |= {"factors": list(factors), "tune_epochs": epochs, "shares": list(shares), "shadow": self.pair.shadow}
        self.claim("halving", asked)
        self.lines: list[dict[str, Any]] = []
        tuned = self._tune(factors, epochs)
        self._note_rows("tuning", float(epochs), tuned)
        self.factors = self.best_of(tuned)
        alive = [d for d in self.distillers if self.factors[d.name] is not None]
        rungs: list[RungResult] = []
        before: Trained = {}
        for share in shares:
            trained = self._rung(alive, seeds, share)
            rungs.append(self._described(trained, before, seeds, share, share == shares[-1], fitness))
            alive, before = [d for d in alive if d.name in rungs[-1].kept], trained
        fresh, verdict = self._confirm(alive, before, seeds, fresh_seeds)
        self._finish(asked, rungs, fresh, verdict)
        rows = tuple(table(fresh, self.factors, self.family.deciding))
        student = self.folder / files.STUDENT
        return Halving(self.folder, tuple(rungs), rows, verdict, student, self.family.deciding)

    def _rung(self, alive: list[Distiller], seeds: int, share: float) -> Trained:
        """Everybody who is left, and cross-entropy alone, at this share of the recipe."""
        numbers, epochs = [self.seed + index for index in range(seeds)], share * self.pair.settings().recipe.epochs

        def sized(job: Job) -> Job:
            if share == 1.0:
                return job
            settings = replace(job.settings, recipe=job.settings.recipe.with_epochs(epochs))
            return replace(job, settings=settings, folder=job.folder.parent / f"share-{share:.3g}" / job.folder.name)

        what = f"rung of {epochs:.3g} epochs"
        found = self._all(what, alive, numbers, self.factors, sized)
        self._note_rows(what, epochs, found)
        return found

    def _described(
        self, trained: Trained, before: Trained, seeds: int, share: float, last: bool, fitness: dict[str, float]
    ) -> RungResult:
        scores, earlier = self._scores(trained), self._scores(before)
        ties = self._scores(trained, self.family.breaks_ties)
        names = [n for n in sorted(scores, key=lambda n: (scores[n], ties[n])) if n != CROSS_ENTROPY]
        count = len(names) if last else max(LEAST_KEPT, math.ceil(len(names) / 2))
        others = {d.name for d in self.distillers if d.is_published and d.name != REFERENCE}
        published = next((name for name in names if name in others), "")
        kept = [name for name in names if name in (*names[:count], REFERENCE, published)]
        rows = table(trained, self.factors, self.family.deciding, "validation")
        shared, known = [n for n in names if n in earlier], [n for n in names if n in fitness]
        return RungResult(
            self.pair.settings().recipe.epochs * share, seeds, tuple(rows), tuple(kept),
            _spearman([earlier[n] for n in shared], [scores[n] for n in shared]), len(shared),
            _spearman([fitness[n] for n in known], [scores[n] for n in known]), len(known),
        )  # fmt: skip

    def _scores(self, trained: Trained, name_of_measure: str = "") -> dict[str, float]:
        """By a measure (the deciding one) on validation images, lower is better; what failed is left out."""
        measure = self.family.measure_of(name_of_measure or self.family.decides)
        return {
            name: measure.key(statistics.fmean(result.validation[measure.name] for result in of_seed.values()))
            for name, of_seed in trained.items()
            if of_seed and not any(result.reason for result in of_seed.values())
        }

    def _confirm(self, alive: list[Distiller], last: Trained, seeds: int, fresh_seeds: int) -> tuple[Trained, Verdict]:
        """The best published method, the best other one, ``kd`` and cross-entropy alone on seeds that chose nothing."""
        scores, ties = self._scores(last), self._scores(last, self.family.breaks_ties)
        order = sorted((d for d in alive if d.name in scores), key=lambda d: (scores[d.name], ties[d.name]))
        published = next((d.name for d in order if d.is_published), "")
        evolved = next((d.name for d in order if not d.is_published), "")
        chosen = [d for d in order if d.name in (published, evolved, REFERENCE)]
        if not chosen:
            raise RunError("no distiller finished its trainings; give others, or a recipe with a lower --lr")
        numbers = fresh_numbers(self.seed, fresh_seeds)
        fresh = self._all("fresh seeds", chosen, numbers, self.factors)
        self._note_rows("fresh seeds", self.pair.settings().recipe.epochs, fresh)
        deciding = self.family.deciding
        samples = {
            name: {seed: result.test[deciding.name] for seed, result in of_seed.items()}
            for name, of_seed in fresh.items()
            if not any(result.reason for result in of_seed.values())  # who failed once is not confirmed
        }
        if not any(d.name in samples for d in chosen):
            raise RunError("no distiller finished its trainings on fresh seeds; give others, or a lower --lr")
        return fresh, judge(
            samples, evolved, published, deciding, chosen_on=seeds, images="test", alone=CROSS_ENTROPY
        )  # fmt: skip

    def _note_rows(self, what: str, epochs: float, found: Mapping[str, Mapping[Any, TrainingResult]]) -> None:
        """A line for each training."""
        factors = getattr(self, "factors", {})
        self.lines += [
            {"what": what, "distiller": name, "epochs": epochs}
            | ({"factor": key} if what == "tuning" else {"factor": factors.get(name), "seed": key})
            | result.row()
            for name, results in found.items()
            for key, result in results.items()
        ]

    def _finish(self, asked: dict[str, Any], rungs: list[RungResult], fresh: Trained, verdict: Verdict) -> None:
        """The files; the winner's weights and distiller."""
        deciding = self.family.deciding
        done = {seed: r for seed, r in fresh[verdict.winner].items() if not r.reason}
        best = min(done, key=lambda seed: deciding.key(done[seed].validation[deciding.name]))
        winner = next(d for d in self.distillers if d.name == verdict.winner)
        source = self._job(winner, best, self.factors).folder
        for name in (files.STUDENT, files.DISTILLER):
            atomic_write(self.folder / name, (source / name).read_bytes())
        gather(self.folder, self._job(None, best, self.factors).folder, source, winner.name)
        rows = [row.as_dict() for row in table(fresh, self.factors, deciding)]
        whole = {
            "settings": asked, "distillers": {d.name: d.source for d in self.distillers},
            "rungs": [
                {name: value for name, value in vars(rung).items() if name != "rows" and value == value}
                | {"rows": [row.as_dict() for row in rung.rows], "said": rung.sentences}
                for rung in rungs
            ],
            "fresh": rows, "winner": verdict.winner, "verdict": verdict.lines,
        }  # fmt: skip
        atomic_write(self.folder / RESULT, json.dumps(whole, indent=1, ensure_ascii=False))
        files.write_log(self.folder, self.lines, ROWS)
        (self.folder / files.TEACHER).unlink(missing_ok=True)


def fresh_numbers(seed: int, count: int) -> list[int]:
    """The seeds of a confirmation."""
    return [FRESH_SEED + 1000 * seed + index for index in range(count)]


def _spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's rank correlation; NaN below three pairs, or where one side is constant."""
    if len(one) < 3 or len(set(one)) < 2 or len(set(other)) < 2:
        return math.nan
    from scipy.stats import spearmanr

    return float(spearmanr(one, other).statistic)
