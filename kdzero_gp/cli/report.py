"""The commands that report on a run: report and watch."""

from __future__ import annotations

from pathlib import Path

import click

from kdzero_gp.cli.app import console
from kdzero_gp.cli.runs import free_name


@click.command()
@click.argument("folders", metavar="DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The file to write [default: DIR/report.html; of "
              "several runs a new runs.html here].")  # fmt: skip
def report(folders: tuple[Path, ...], output: Path | None) -> None:
    """Write a run's report, finished or not, as one html file that needs no network; of several runs of one pair the
    best of all in one ranking. Of a training or a comparison of segmenters or detectors: what they predict."""
    from kdzero_gp.report.page import write_report

    output = output or (folders[0] / "report.html" if len(folders) == 1 else free_name(Path("runs.html")))
    write_report(folders, output)
    click.echo(f"wrote {output}; open it in any browser: {output.resolve().as_uri()}")


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--every", type=float, default=1.0, show_default=True, help="Seconds between two looks at the run.")
@click.option("--tensorboard", type=click.Path(path_type=Path), help="A folder for TensorBoard's event files.")
def watch(folder: Path, every: float, tensorboard: Path | None) -> None:
    """Watch a run that another process writes; Ctrl-C ends the watching and never touches the run."""
    from kdzero_gp.cli.live import watch as watch_run

    watch_run(folder, console, every, tensorboard)
