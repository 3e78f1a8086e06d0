"""The command that suggests distillers: suggest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from kdzero_gp.cli.app import console
from kdzero_gp.cli.options import WORKER_OPTIONS, data_of, some_search_options, with_options
from kdzero_gp.search.options import DEFAULT_TASK

# Of a search's options, those that say what the pair is, what a proxy is, and which model is asked.
SHARED = (
    "--task", "--data", "--ignore", "--classes", "--crop",
    "--image-size", "--channels", "--teacher", "--teacher-weights", "--teacher-tap", "--student",
    "--student-weights", "--teacher-mean", "--teacher-std", "--student-mean", "--student-std", "--student-tap",
    "--knowledge", "--space", "--magnitude", "--seed", "--training", "--images",
    "--validation-images", "--loss-memory", "--llm-url", "--llm-model", "--llm-key-env", "--llm-budget", "--llm-price",
    "--llm-timeout",
)  # fmt: skip


@click.command()
@click.option(
    "--run",
    type=click.Path(path_type=Path),
    metavar="DIR",
    multiple=True,
    help="An earlier run of the pair, whose best and whose surrogate suggest, too; in place of task and pair. "
    "Repeated: the best of all of them.",
)
@click.option("--goal", default="", metavar="TEXT", help="What is wanted, in words, for the language model.")
@click.option("--count", type=int, default=5, show_default=True, help="How many distillers.")
@click.option("--step-time", type=float, help="Milliseconds that a training step may take.")
@some_search_options(SHARED)
@click.option("--out", type=click.Path(path_type=Path), help="A new folder [default: suggestions/TASK-N].")
@with_options(WORKER_OPTIONS)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def suggest(as_json: bool, **options: Any) -> None:
    """Distillers for a pair without a search: from published methods, an earlier run and a language model, each
    screened and trained once on the pair, with its reasons and as a file."""
    from kdzero_gp.api.progress import progress_for
    from kdzero_gp.api.suggest import suggest as suggested
    from kdzero_gp.progress import Progress

    if not options["run"] and options["task"] is None:
        options["task"] = DEFAULT_TASK
    data = data_of(options)
    teacher, student = options.pop("teacher"), options.pop("student")
    with progress_for(console) as progress:
        found = suggested(teacher, student, data, progress=Progress() if as_json else progress, **options)
    if as_json:
        click.echo(json.dumps([vars(one) | {"path": str(one.path)} for one in found], indent=1))
        return
    for one in found:
        click.echo(f"\n{one.rank}. {one.expression}\n{one.reason}\n{one.path}")
    folder = found[0].path.parent
    click.echo(f"\nnext: kdzero-gp show {folder}    kdzero-gp compare … --distiller {found[0].path} --distiller zoo:kd")
