"""Options as click wants them; those of a search come from its one table."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import click

from kdzero_gp.cli.defaults import shown_defaults
from kdzero_gp.search.options import OPTIONS, Option, pairs

# What the help of a search puts together; what is in none of these stands in the last.
GROUPS = {
    "Your pair and data": (
        "task", "data", "image_size", "channels", "ignore", "classes", "teacher", "teacher_weights", "teacher_mean",
        "teacher_std", "student", "student_weights", "inherit_head", "student_mean", "student_std",
    ),
    "The search": ("generations", "pop", "seed", "training", "patience", "out", "config"),
    "The machine": ("workers", "engine", "address", "device", "gpu_share", "timeout", "precision", "threads"),
    "Afterwards": ("heat", "race_top", "race_seeds", "prune", "fresh_seeds", "final", "final_recipe", "final_epochs"),
    "For experts: what distillers are made of": (
        "knowledge", "teacher_tap", "student_tap", "space", "magnitude", "seed_zoo",
    ),
    "For experts: what a candidate is trained on and judged by": (
        "images", "validation_images", "crop", "warm_epochs", "proxy_epochs", "proxy_trains", "race_epochs", "weight",
        "screens", "surrogate_share", "short_bound", "loss_memory",
    ),
    "For experts: births by a language model": (
        "llm_url", "llm_model", "llm_key_env", "llm_share", "llm_budget", "llm_price", "llm_timeout", "llm_replay",
    ),
    "For experts: evolution": (),
}  # fmt: skip


class GroupedCommand(click.Command):
    """A command whose help has its options in groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        *_, last = GROUPS
        group_of = {name: group for group, names in GROUPS.items() for name in names} | {"help": "The machine"}
        rows: dict[str, list[tuple[str, str]]] = {group: [] for group in GROUPS}
        for option in self.get_params(ctx):
            record = option.get_help_record(ctx)
            if record is not None:
                rows[group_of.get(option.name or "", last)].append(record)
        for group, records in rows.items():
            with formatter.section(group):
                formatter.write_dl(records)


class _SearchOption(click.Option):
    """An option of the table: not given unless it is on the command line; its default is looked up for the help."""

    def __init__(self, declared: Option):
        name = declared.name.removeprefix("--")
        super().__init__(
            [f"--{name}/--no-{name}" if declared.form == "flag" else declared.name],
            type=None if declared.form == "flag" else _kind(declared),
            default=None,
            multiple=declared.form == "pairs",
            metavar=declared.metavar,
            help=declared.help,
        )
        self.declared = declared

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        record = super().get_help_record(ctx)
        if record is None or "[default:" in self.declared.help:
            return record
        shown = shown_defaults().get(self.declared.name, "")
        return record[0], record[1] + (f"  [default: {shown}]" if shown else "")


def _kind(declared: Option) -> Any:
    if declared.kind is Path:
        return click.Path(path_type=Path)
    return declared.kind if declared.form == "value" else str


def search_options(command: Any) -> Any:
    """Decorate a command with every option of a search."""
    return some_search_options([option.name for option in OPTIONS])(command)


def some_search_options(names: Collection[str]) -> Any:
    """Decorate a command with these options of a search."""
    options = [option for option in reversed(OPTIONS) if option.name in names]

    def decorate(command: Any) -> Any:
        command.__click_params__ = [*getattr(command, "__click_params__", []), *map(_SearchOption, options)]
        return command

    return decorate


NETWORK = "Built-in name, timm:NAME, torchvision:NAME or module:callable."
TASK = click.option(
    "--task",
    default="digits",
    show_default=True,
    help="digits, cifar10, cifar100, folder, segmentation, detection or yours.",
)
TASK_OF_RUN = click.option(
    "--task",
    help="digits, cifar10, cifar100, folder, segmentation, detection or yours [default: the run's, or digits].",
)
DATA = some_search_options(["--data"])


def _size(_context: Any, _option: Any, text: str | None) -> Any:
    from kdzero_gp.data.resizing import parse_size  # late: it stands beside what needs torch

    return text and parse_size(text)


IMAGE_SIZE = click.option(
    "--image-size", callback=_size, metavar="H[xW]",
    help="Pixels a side, or height x width, of what the networks see [default: the recipe's, or the most common of the "
    "images].",
)  # fmt: skip
CHANNELS = some_search_options(["--channels"])
MAPS = some_search_options(["--ignore", "--classes"])
DEVICE = click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
PRECISION = some_search_options(["--precision"])
THREADS = click.option("--threads", type=int, help="Of torch on a CPU [default: chosen by the images' size].")
TAP = click.option("--tap", multiple=True, metavar="NAME=LAYER", help="Where to read a knowledge of all networks.")
WORKER_OPTIONS = (
    click.option("--workers", type=int,
                 help="Worker processes [default: one for each core]; results do not depend on it."),
    click.option("--engine", default="local", show_default=True, metavar="local|ray",
                 help="local: processes of this machine; ray: a cluster (pip install 'kdzero-gp[ray]')."),
    click.option("--address", help="Of a running Ray cluster, as host:port or auto [default: one is started here]."),
    DEVICE,
    click.option("--gpu-share", type=int, default=1, show_default=True, help="Workers on each GPU."),
    click.option("--timeout", type=float, default=600.0, show_default=True,
                 help="Seconds after which an evaluation is stopped."),
)  # fmt: skip
PAIR_OPTIONS = (
    click.option("--teacher", help=NETWORK + " [default: the run's, or the task's]"),
    click.option("--student", help="As --teacher."),
    TAP,
    click.option("--teacher-tap", multiple=True, metavar="NAME=LAYER", help="Where to read the teacher's."),
    click.option("--student-tap", multiple=True, metavar="NAME=LAYER", help="Where to read the student's."),
)


def data_of(options: dict[str, Any]) -> str | None:
    """``--data`` with what ``--ignore`` and ``--classes`` say, taken out of all options. Raises DataError."""
    from kdzero_gp.data.label_maps import with_settings

    return with_settings(*(options.pop(name) for name in ("data", "ignore", "classes")))


def with_options(*groups: tuple[Any, ...]) -> Any:
    """Decorate a command with every option of some groups, in their order."""

    def decorate(command: Any) -> Any:
        for option in reversed([option for group in groups for option in group]):
            command = option(command)
        return command

    return decorate


def taps(texts: tuple[str, ...], name: str) -> dict[str, str]:
    """NAME=LAYER options as a mapping. Raises SettingError."""
    return pairs(texts, Option(name, "", form="pairs", metavar="NAME=LAYER"))


def taps_of_both(options: dict[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """The taps of the teacher and of the student."""
    both = taps(options["tap"], "--tap")
    sides = (both | taps(options[f"{role}_tap"], f"--{role}-tap") for role in ("teacher", "student"))
    teacher, student = sides
    return teacher, student
