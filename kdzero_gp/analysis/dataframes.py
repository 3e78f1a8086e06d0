"""A run's rows as pandas data frames; pandas is an extra and imported when a frame is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kdzero_gp.compiler import zoo
from kdzero_gp.errors import KdzeroError
from kdzero_gp.search.race import CROSS_ENTROPY, RaceResult
from kdzero_gp.search.storage import StoredBirth, StoredEvaluation, StoredMeasurement

if TYPE_CHECKING:
    import pandas

INSTALL = "pip install 'kdzero-gp[notebook]'"
METRICS = ("cross_entropy", "calibrated", "accuracy", "sharpness_gap", "cka_gap")
RACE_METRICS = (*METRICS, "test_accuracy")
BIRTHS = ("number", "generation", "operator", "parents", "expression", "digest", "duplicate_of", "fitness")
EVALUATIONS = ("digest", "expression", "fitness", "reason", *METRICS, "magnitudes")
RACES = ("name", "kind", "seed", "reason", *RACE_METRICS, "magnitudes")
STANDINGS = (
    "rank", "name", "kind", "expression", "seeds", "accuracy", "accuracy_interval", "cross_entropy", "difference_to_kd",
    "difference_interval", "test_accuracy", "test_interval", "fitness", "reason",
)  # fmt: skip


def load_pandas() -> Any:
    """The module. Raises ``KdzeroError`` with the install command where it is missing."""
    try:
        import pandas
    except ImportError:
        raise KdzeroError(f"data frames need pandas, which is not installed; install it with: {INSTALL}") from None
    return pandas


def frame(rows: Iterable[Mapping[str, Any]], columns: Sequence[str] = ()) -> pandas.DataFrame:
    """Rows as a data frame that has ``columns`` also when there are no rows; more columns come behind them."""
    listed = list(rows)
    more = dict.fromkeys(name for row in listed for name in row if name not in columns)
    return load_pandas().DataFrame(listed, columns=[*columns, *more])


def births_frame(births: Sequence[StoredBirth], evaluations: Sequence[StoredEvaluation]) -> pandas.DataFrame:
    """One row for each birth, with the fitness of its distiller (NaN: rejected, or not there yet)."""
    fitness = {e.digest: e.fitness for e in evaluations}
    found = frame(({**vars(b), "fitness": fitness.get(b.digest)} for b in births), BIRTHS)
    return found.astype({"duplicate_of": "Int64", "fitness": "float64"})


def evaluations_frame(evaluations: Sequence[StoredEvaluation]) -> pandas.DataFrame:
    """One row for each evaluated distiller, the fittest first, the rejected (with their ``reason``) last."""
    hidden = ("short", "fingerprint")
    rows = ({k: v for k, v in {**vars(e), **e.metrics}.items() if k not in hidden} for e in evaluations)
    return _measured(rows, EVALUATIONS, METRICS)


def races_frame(races: Sequence[StoredMeasurement]) -> pandas.DataFrame:
    """One row for each training of the race: an entry on a seed."""
    rows = ({**vars(r), "kind": kind_of(r.name), **r.metrics} for r in races)
    return _measured(rows, RACES, RACE_METRICS).drop(columns="factor", errors="ignore")


def _measured(rows: Iterable[dict[str, Any]], columns: Sequence[str], metrics: Sequence[str]) -> pandas.DataFrame:
    found = frame(({k: v for k, v in row.items() if k != "metrics"} for row in rows), columns)
    numbers = [name for name in ("fitness", *metrics) if name in found]
    return found.astype(dict.fromkeys(numbers, "float64"))


def standings_frame(table: Sequence[RaceResult]) -> pandas.DataFrame:
    """The race's table, best first; ``rank`` is missing for those without a result."""
    rows = []
    for rank, standing in enumerate(table, 1):
        entry = standing.entry
        row = {name: getattr(standing, name) for name in STANDINGS if hasattr(standing, name)}
        own = {"name": entry.name, "kind": entry.kind, "expression": entry.expression, "fitness": entry.fitness}
        rows.append({**row, **own, "rank": None if standing.reason else rank})
    return frame(rows, STANDINGS).astype({"rank": "Int64", "fitness": "float64"})


def kind_of(name: str) -> str:
    """``baseline``, ``zoo`` or ``evolved``, by the name of a race's entry."""
    if name == CROSS_ENTROPY:
        return "baseline"
    return "zoo" if name in zoo else "evolved"
