"""The last part of a search: from its best distillers to a student, by trainings of growing length."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from kdzero_gp.compiler import digest, fits, parse, zoo
from kdzero_gp.data.resizing import parse_size
from kdzero_gp.engine.machine import Machine
from kdzero_gp.engine.recipe import DISTILLATION
from kdzero_gp.errors import RunError
from kdzero_gp.progress import Progress
from kdzero_gp.search.confirmation import winner
from kdzero_gp.search.prepare import TEACHER
from kdzero_gp.search.race import Competitor, diverse, standings, tuned_zoo
from kdzero_gp.search.settings import RunSettings
from kdzero_gp.search.storage import Database, Status
from kdzero_gp.training.api import Pair
from kdzero_gp.training.distillers import NamedDistiller
from kdzero_gp.training.halving import Halving, halve

FINAL = "final"


def pair_of(
    folder: Path, settings: RunSettings, recipe: str, changes: dict[str, Any] | None = None,
    statistics: dict[str, str] | None = None,
) -> Pair:  # fmt: skip
    """The run's pair, to be trained by a recipe; the teacher that the run trained is in its folder. ``statistics``:
    those that the run found for its teacher."""
    if settings.image_size:
        height, width = parse_size(settings.image_size)
        changes = {"image_size": height, "image_width": width} | dict(changes or {})
    own = folder / TEACHER
    weights = settings.teacher_weights or (str(own) if own.exists() else None)
    named = settings.names | {"teacher_weights": weights} | (statistics or {})
    return Pair(**named, recipe=recipe, changes=changes)


def best_evolved(database: Database, settings: RunSettings) -> Iterator[Competitor]:
    """A run's evolved distillers, the best first, each once."""
    won = winner(database, settings)
    raced = [result.entry for result in standings(database, settings) if not result.reason]
    known, names = {digest(expression) for expression in zoo.values()}, set[str]()
    trained = (e for e in database.evaluations() if e.status is Status.TRAINED and e.digest not in known)
    for entry in chain([won] if won else [], raced, map(Competitor.of, diverse(trained))):
        if entry.kind == "evolved" and entry.name not in names:
            names.add(entry.name)
            yield entry


def final(
    folder: Path,
    count: int,
    *,
    recipe: str = "short",
    changes: dict[str, Any] | None = None,
    out: Path | None = None,
    machine: Machine | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Halving:
    """Train a run's ``count`` best distillers (its winner where that is an evolved one, those that raced in their
    order, then the fittest that are no near twins), the first of them with the other courses over a training (see
    ``Recipe.distillation``) too, and all published methods that fit its pair, in rungs (see ``halve``, which takes
    ``options``), by default in the run's folder. The same call goes on where an interrupted one
    stopped. Raises KdzeroError."""
    with Database.read(folder) as database:
        settings = RunSettings.from_dict(database.fact("settings"))
        bench, published = database.fact("bench"), tuned_zoo(database)
        if bench is None:
            raise RunError(f"{folder} has nothing to train yet; resume it with: kdzero-gp resume {folder}")
        best = list(islice(best_evolved(database, settings), count))
    types = settings.shapes(bench).types
    # relative magnitudes are found anew for the new students; others are part of the distiller
    kept = [() if settings.magnitude == "relative" else e.magnitudes for e in best]
    candidates = [
        NamedDistiller(f"evolved-{number}", parse(e.expression, types), magnitudes)
        for number, (e, magnitudes) in enumerate(zip(best, kept, strict=True), 1)
    ]
    candidates += [one.along(course) for one in candidates[:1] for course in DISTILLATION[1:]]
    fitness = {f"evolved-{n}": e.fitness for n, e in enumerate(best, 1) if e.fitness is not None}
    fitness |= {name: entry.fitness for name, entry in published.items() if entry.fitness is not None}
    methods = [f"zoo:{name}" for name, expression in zoo.items() if fits(expression, types)]
    pair = pair_of(folder, settings, recipe, changes, bench.get("teacher_statistics"))
    return halve(
        pair, [*candidates, *methods], out=out or folder / FINAL,
        fitness=fitness, seed=settings.search.seed, machine=machine, progress=progress, **options,
    )  # fmt: skip
