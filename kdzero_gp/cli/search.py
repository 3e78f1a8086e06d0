"""The commands that search: evolve and resume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from kdzero_gp.cli.app import console
from kdzero_gp.cli.options import EVOLVE_OPTIONS, MACHINE_OPTIONS, taps, with_options


@click.command()
@with_options(EVOLVE_OPTIONS, MACHINE_OPTIONS)
@click.pass_context
def evolve(ctx: click.Context, **options: Any) -> None:
    """Search for the best distiller of a teacher-student pair."""
    from kdzero_gp.cli.progress import progress_for
    from kdzero_gp.search.run import Machine, start

    settings = _settings(options)
    folder = options["out"] or _next_folder(settings.task)
    ctx.obj["folder"] = folder
    machine = Machine(options["workers"], options["device"], options["timeout"])
    console.print(f"run folder: {folder}", highlight=False, markup=False, soft_wrap=True)
    with progress_for(console) as progress:
        result = start(folder, settings, machine, progress)
    _conclude(result)


def _settings(options: dict[str, Any]) -> Any:
    from kdzero_gp.evolution import SearchSettings
    from kdzero_gp.search.settings import PLAN_OPTIONS, WEIGHT_OPTIONS, RunSettings, plan_for

    changes = {name: options[name] for name in PLAN_OPTIONS if options[name] is not None}
    plan = replace(plan_for(options["task"], options["training"]), **changes)
    for name in ("warm", "proxy", "race"):
        epochs = options[f"{name}_epochs"]
        if epochs is not None:
            plan = replace(plan, **{name: replace(getattr(plan, name), epochs=epochs)})
    shares = {name: options[option[2:].replace("-", "_")] for name, option in WEIGHT_OPTIONS.items()}
    given = {name: share for name, share in shares.items() if share is not None}
    plan = replace(plan, weights=replace(plan.weights, **given))
    search = SearchSettings(
        generations=options["generations"], population=options["pop"], seed=options["seed"],
        tournament=options["tournament"], sample_ratio=options["sample_ratio"], top_k=options["top_k"],
        removal=options["removal"], patience=options["patience"], in_flight=options["in_flight"],
        objectives=tuple(_names(options["objectives"])), shrink=options["shrink"],
        random_search=options["random_search"],
    )  # fmt: skip
    return RunSettings(
        task=options["task"], data=options["data"], teacher=options["teacher"] or plan.teacher,
        teacher_weights=options["teacher_weights"], teacher_taps=taps(options["teacher_tap"], "--teacher-tap"),
        student=options["student"] or plan.student, student_taps=taps(options["student_tap"], "--student-tap"),
        space=options["space"], magnitude=options["magnitude"], seed_zoo=options["seed_zoo"],
        screens=_screens(options["screens"]), search=search, plan=plan,
    )  # fmt: skip


def _names(text: str | None) -> list[str]:
    """Names separated by commas."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _screens(text: str) -> tuple[str, ...]:
    from kdzero_gp.proxy.screens import SCREENS

    named: dict[str, tuple[str, ...]] = {"all": SCREENS, "none": ()}
    return named.get(text.strip(), tuple(_names(text)))


def _next_folder(task: str) -> Path:
    number = 1
    while (folder := Path("runs") / f"{task}-{number}").exists():
        number += 1
    return folder


def _conclude(result: Any) -> None:
    from kdzero_gp.cli.tables import race_table, show

    show(console, race_table(result.table))
    for line in _conclusion(result):
        click.echo(line)


def _conclusion(result: Any) -> list[str]:
    if result.winner is None:
        return [f"no evolved distiller finished the race; look at the reasons with: kdzero-gp show {result.folder}"]
    winner, best = result.winner, result.table[0]
    lines = [f"best evolved distiller: {winner.entry.expression}"]
    if best.entry.kind != "evolved":
        lines.append(f"{best.entry.name} did better in this race; more --generations may change that")
    return [
        *lines,
        f"exported to {result.exported} (needs only torch): "
        "add Distiller()(student, teacher, labels) to your cross-entropy",
        f"next: kdzero-gp show {result.folder}    kdzero-gp inspect {result.folder} -o tree.svg",
    ]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@with_options(MACHINE_OPTIONS)
@click.pass_context
def resume(ctx: click.Context, folder: Path, workers: int | None, device: str, timeout: float) -> None:
    """Go on with an interrupted run."""
    from kdzero_gp.cli.progress import progress_for
    from kdzero_gp.search.run import Machine
    from kdzero_gp.search.run import resume as resume_run

    ctx.obj["folder"] = folder
    with progress_for(console) as progress:
        result = resume_run(folder, Machine(workers, device, timeout), progress)
    _conclude(result)
