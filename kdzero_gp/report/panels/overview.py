"""The head of the page: what came out, in one sentence, some figures and the winner's picture."""

from __future__ import annotations

import math

from kdzero_gp.analysis.statistics import candidate_flow
from kdzero_gp.report.panels.pieces import duration, nothing, percent, points, real, text
from kdzero_gp.report.panels.snapshot import Snapshot
from kdzero_gp.report.panels.trees import distiller
from kdzero_gp.search.race import TEST, RaceResult


def overview(snapshot: Snapshot) -> str:
    """Title, verdict, figures and winner."""
    settings = snapshot.settings
    title = f"A loss for {settings.student or 'the student'}, taught by {settings.teacher or 'the teacher'}"
    head = (
        f'<p class="eyebrow">kdzero-gp report · task {text(settings.task)} · run {text(snapshot.folder.name)}</p>'
        f"<h1>{text(title)}</h1>{_unfinished(snapshot)}"
        f'<p class="verdict">{verdict(snapshot)}</p>{_tiles(snapshot)}'
    )
    if snapshot.winner is None:
        return head + f'<div class="winner">{nothing("No distiller has a fitness yet.")}</div>'
    name = "The winner" if snapshot.standing(snapshot.winner) else "The best so far, by fitness"
    return f'{head}<div class="winner"><h2>{name}</h2>{distiller(snapshot, snapshot.winner, 1)}</div>'


def _unfinished(snapshot: Snapshot) -> str:
    if snapshot.finished:
        return ""
    search = snapshot.settings.search
    return (
        f'<p class="unfinished" role="status"><b>This run is not finished</b>: {len(snapshot.births):,} of '
        f"{search.generations * search.population:,} births so far. Go on with <code>kdzero-gp resume "
        f"{text(snapshot.folder)}</code>, and make this page again at any time.</p>"
    )


def verdict(snapshot: Snapshot) -> str:
    """What the race says, as html; never more than its intervals allow."""
    raced = snapshot.raced
    evolved = next((s for s in raced if s.entry.kind == "evolved"), None)
    published = next((s for s in raced if s.entry.kind == "zoo"), None)
    if evolved is None:
        best = snapshot.winner
        if best is None:
            return "Nothing to compare yet."
        fitness = f"<b>{real(best.fitness)}</b>"
        return f"No race yet. The best distiller so far has a fitness of {fitness}; cross-entropy alone has 1."
    seeds = f"{evolved.seeds} fresh seeds" if evolved.seeds != 1 else "one seed"
    words = (
        f"Over {seeds} the best evolved distiller reaches <b>{_decided(snapshot, evolved)}</b> validation "
        f"{snapshot.settings.family.deciding.label}"
    )  # fmt: skip
    if published is None:
        return words + "."
    count = sum(standing.entry.kind == "evolved" for standing in raced)
    words += f"; the best published method, {text(published.entry.name)}, reaches {_decided(snapshot, published)}."
    if not math.isnan(evolved.difference[0]):
        words += f" {_to_kd(evolved)}"
    if count > 1:
        words += f" The race chose it among {count} by this accuracy, which flatters it a little."
    return words


def _decided(snapshot: Snapshot, standing: RaceResult) -> str:
    deciding = snapshot.settings.family.deciding
    return f"{deciding.text(*standing.value(deciding.name))} {deciding.unit}".rstrip()


def _to_kd(evolved: RaceResult) -> str:
    difference, half = evolved.difference
    words = f"To Hinton’s <code>kd</code>, seed by seed: {points(difference, half)} points"
    if math.isnan(half):
        return words + "."
    if abs(difference) <= half:
        return words + ", which chance may explain."
    return words + ", more than chance explains."


def _tiles(snapshot: Snapshot) -> str:
    flow = candidate_flow(snapshot.births, snapshot.evaluations)
    evolved = next((s for s in snapshot.raced if s.entry.kind == "evolved"), None)
    deciding = snapshot.settings.family.deciding
    seconds = [one for one, _ in snapshot.costs["evaluation"]]
    median = sorted(seconds)[len(seconds) // 2] if seconds else math.nan
    total = sum(one for costs in snapshot.costs.values() for one, _ in costs)
    tiles = [
        (f"validation {deciding.heading}", deciding.text(evolved.value(deciding.name)[0]) if evolved else "–"),
        (f"test {deciding.heading}", deciding.text(evolved.value(TEST + deciding.name)[0]) if evolved else "–"),
        ("teacher, test accuracy", f"{percent(snapshot.bench.get('teacher_test_accuracy', math.nan))} %"),
        ("births", f"{flow['births']:,}"),
        ("trained", f"{flow['trained']:,}"),
        ("a candidate, median", duration(median) if seconds else "–"),
        ("all trainings", duration(total) if total else "–"),
    ]
    items = "".join(f"<div><dt>{name}</dt><dd>{value.replace('– %', '–')}</dd></div>" for name, value in tiles)
    return f'<dl class="tiles">{items}</dl>'
