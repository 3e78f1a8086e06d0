"""A run's rows as pandas data frames; pandas is an extra and imported when a frame is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kdzero_gp.common import ALONE
from kdzero_gp.compiler import zoo
from kdzero_gp.errors import KdzeroError, install
from kdzero_gp.families import TaskFamily
from kdzero_gp.search.race import TEST, RaceResult
from kdzero_gp.search.storage import StoredBirth, StoredEvaluation, StoredMeasurement

if TYPE_CHECKING:
    import pandas

INSTALL = install("notebook")
BIRTHS = ("number", "generation", "operator", "parents", "expression", "digest", "duplicate_of", "status", "fitness")


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
    """One row for each birth, with the status and the fitness of its distiller (NaN: none, or not there yet)."""
    judged = {e.digest: e for e in evaluations}
    rows = []
    for birth in births:
        e = judged.get(birth.digest)
        rows.append({**vars(birth), "status": e and e.status.value, "fitness": e and e.fitness})
    return frame(rows, BIRTHS).astype({"duplicate_of": "Int64", "fitness": "float64"})


def evaluations_frame(evaluations: Sequence[StoredEvaluation], family: TaskFamily) -> pandas.DataFrame:
    """One row for each evaluated distiller, the fittest first, those without a fitness (with their ``reason``) last."""
    hidden = ("short", "fingerprint")
    rows = (
        {k: v for k, v in {**vars(e), "status": e.status.value, **e.metrics}.items() if k not in hidden}
        for e in evaluations
    )
    metrics = _metrics(family)
    return _measured(rows, ("digest", "expression", "status", "fitness", "reason", *metrics, "magnitudes"), metrics)


def races_frame(races: Sequence[StoredMeasurement], family: TaskFamily) -> pandas.DataFrame:
    """One row for each training of the race: an entry on a seed."""
    rows = ({**vars(r), "kind": kind_of(r.name), **r.metrics} for r in races)
    metrics = [*_metrics(family), *(TEST + measure.name for measure in family.measures)]
    columns = ("name", "kind", "seed", "reason", *metrics, "magnitudes")
    return _measured(rows, columns, metrics).drop(columns="factor", errors="ignore")


def _metrics(family: TaskFamily) -> list[str]:
    return list(dict.fromkeys((*(measure.name for measure in family.measures), *family.metrics)))


def _measured(rows: Iterable[dict[str, Any]], columns: Sequence[str], metrics: Sequence[str]) -> pandas.DataFrame:
    table = frame(({k: v for k, v in row.items() if k != "metrics"} for row in rows), columns)
    numbers = [name for name in ("fitness", *metrics) if name in table]
    return table.astype(dict.fromkeys(numbers, "float64"))


def standings_frame(table: Sequence[RaceResult], family: TaskFamily) -> pandas.DataFrame:
    """The race's table, best first; ``rank`` is missing for those without a result."""
    rows = [{**s.as_dict(), "rank": None if s.reason else rank} for rank, s in enumerate(table, 1)]
    names = [prefix + measure.name for prefix in ("", TEST) for measure in family.measures]
    numbers = [name + part for name in (*names, "difference_to_kd") for part in ("", "_interval")]
    columns = ("rank", "name", "kind", "expression", "seeds", *numbers, "fitness", "reason")
    return frame(rows, columns).astype({"rank": "Int64"} | dict.fromkeys((*numbers, "fitness"), "float64"))


def kind_of(name: str) -> str:
    """``baseline``, ``zoo`` or ``evolved``, by the name of a race's entry."""
    if name == ALONE:
        return "baseline"
    return "zoo" if name in zoo else "evolved"
