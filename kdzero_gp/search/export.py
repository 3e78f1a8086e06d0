"""A run's distillers as files: what was searched, at which batch size, and what each term weighs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdzero_gp.common import ALONE_TEXT
from kdzero_gp.compiler import Expression, export, parse, terms
from kdzero_gp.compiler.rendering import LayerForms, terms_in_words
from kdzero_gp.errors import RunError
from kdzero_gp.models import taps
from kdzero_gp.search.confirmation import verdict
from kdzero_gp.search.pruning import pruning
from kdzero_gp.search.race import Competitor
from kdzero_gp.search.settings import RunSettings
from kdzero_gp.search.storage import Database


def export_entry(folder: Path, database: Database, entry: Competitor, path: Path, hooks: bool = False) -> None:
    """Write one entry of a run as a Python file with its provenance; with ``hooks`` the file reads both networks, too.
    Raises RunError before the networks were looked at, or where the run does not know their layers."""
    settings = RunSettings.from_dict(database.fact("settings"))
    bench = database.fact("bench")
    if bench is None:
        raise RunError(f"{folder} has nothing to export yet; resume it with: kdzero-gp resume {folder}")
    if hooks and not bench.get("layers"):
        raise RunError(f"{folder} was made before runs kept their networks' layers; export it without --with-hooks")
    shapes = bench["student_shapes"], bench["teacher_shapes"]
    expression = parse(entry.expression, settings.shapes(bench).types)
    shares = shares_of(database, settings, entry, expression)
    facts = _facts(folder, database, settings, entry)
    facts |= terms_in_words(expression, entry.magnitudes, shares, settings.plan.proxy.batch_size)
    if hooks and bench.get("teacher_sees"):
        facts["teacher sees"] = f"{bench['teacher_sees']} (the reader does not do that)"
    export(
        path, expression, *shapes, entry.magnitudes or None, provenance=facts, knowledge=settings.family.knowledge,
        shares=shares, layers=readings(bench["layers"]) if hooks else None,
    )  # fmt: skip


def shares_of(
    database: Database, settings: RunSettings, entry: Competitor, expression: Expression
) -> tuple[float, ...]:
    """Each term's gradient in units of the cross-entropy's, as it was searched; () where that is not known."""
    if settings.magnitude == "relative" and entry.kind == "evolved":
        return tuple(float(term.arguments[1]) for term in terms(expression))  # type: ignore[arg-type]
    norms = database.fact("zoo_terms", {}).get(entry.name, [])[:-1]
    if len(norms) != len(entry.magnitudes):
        return ()
    return tuple(m * norm for m, norm in zip(entry.magnitudes, norms, strict=True))


def readings(layers: Mapping[str, Mapping[str, Sequence[Any]]]) -> dict[str, LayerForms]:
    """Layers as a run keeps them, with the functions that bring their tensors into form."""
    forms: dict[str, Callable[..., Any] | None] = {form.__name__: form for form in taps.FORMS} | {"": None}
    return {
        side: {name: (layer, tuple(keys), forms[form]) for name, (layer, keys, form) in found.items()}
        for side, found in layers.items()
    }


def _facts(folder: Path, database: Database, settings: RunSettings, entry: Competitor) -> dict[str, Any]:
    values = [v.metrics for v in database.measurements("race") if v.name == entry.name and not v.reason]
    plan = settings.plan
    start = "a new" if plan.race_from_scratch else "the warm"
    facts: dict[str, Any] = {
        "kind": f"published method {entry.name}" if entry.kind == "zoo" else entry.kind,
        "pair": settings.described,
        "recipe": f"searched with {plan.proxy.summary} from a student of {plan.warm.epochs:g} epochs; raced with "
        f"{plan.race.summary} from {start} student",
        "fitness": f"{entry.fitness:.6g} ({ALONE_TEXT}: 1)" if entry.fitness is not None else "none",
        "run": f"{folder.name}, seed {settings.search.seed}, space {settings.space}",
        "versions": ", ".join(f"{k} {v}" for k, v in database.fact("versions").items()),
    }
    if values:
        measure = settings.family.deciding
        mean = statistics.fmean(v[measure.name] for v in values)
        facts["race"] = f"mean validation {measure.heading} {measure.text(mean)}, {len(values)} seeds"
    found = verdict(database, settings)
    if found is not None and entry.name in (found.evolved, found.winner):
        facts["confirmed"] = ", ".join(found.lines[1:])
    pruned = pruning(database, settings)
    if pruned is not None and pruned.after.name == entry.name:
        facts["pruning"] = "; ".join(pruned.lines(settings.family.deciding)) or "none"
    return facts
