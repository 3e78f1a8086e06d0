"""Options as click wants them; those of a search come from its one table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kdzero_gp.data.resizing import parse_size
from kdzero_gp.search.options import OPTIONS, Option, defaults, pairs, value_of

# Tasks whose defaults the help names.
_SHOWN_TASKS = ("digits", "cifar100", "folder")


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
        if record is None or not self.declared.field or "[default:" in self.declared.help:
            return record
        shown = _default_text(self.declared)
        return record[0], record[1] + (f"  [default: {shown}]" if shown else "")


def _kind(declared: Option) -> Any:
    if declared.kind is Path:
        return click.Path(path_type=Path)
    return declared.kind if declared.form == "value" else str


def _default_text(declared: Option) -> str:
    if not declared.from_task:
        return _value_text(value_of(defaults("digits"), declared))
    texts: dict[str, list[str]] = {}
    for task in _SHOWN_TASKS:
        texts.setdefault(_value_text(value_of(defaults(task), declared)) or "all", []).append(task)
    if len(texts) == 1:
        return next(iter(texts))
    return "the task's: " + "; ".join(f"{text} ({', '.join(tasks)})" for text, tasks in texts.items())


def _value_text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={share:g}" for name, share in value.items())
    if isinstance(value, tuple):
        return "all" if value else ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def search_options(command: Any) -> Any:
    """Decorate a command with every option of a search."""
    command.__click_params__ = [*getattr(command, "__click_params__", []), *map(_SearchOption, reversed(OPTIONS))]
    return command


NETWORK = "Built-in name, timm:NAME, torchvision:NAME or module:callable."
TASK = click.option("--task", default="digits", show_default=True, help="digits, cifar10, cifar100, folder or yours.")
TASK_OF_RUN = click.option("--task", help="digits, cifar10, cifar100, folder or yours [default: the run's, or digits].")
DATA = click.option("--data", help="Archive, image folder or zip of the task's images.")
IMAGE_SIZE = click.option("--image-size", callback=lambda _context, _option, text: text and parse_size(text),
                          metavar="H[xW]", help="Pixels a side, or height x width, of what the networks see "
                          "[default: the recipe's, or the most common of the images].")  # fmt: skip
CHANNELS = click.option("--channels", type=int, help="Of the images: 3 makes grey ones RGB [default: the data's].")
DEVICE = click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
PRECISION = click.option("--precision", help="float32, or bfloat16, either with ,channels-last [default: the fastest].")
THREADS = click.option("--threads", type=int, help="Of torch on a CPU [default: chosen by the images' size].")
TAP = click.option("--tap", multiple=True, metavar="NAME=LAYER", help="Where to read a knowledge of all networks.")
WORKER_OPTIONS = (
    click.option("--workers", type=int,
                 help="Worker processes [default: one for each core]; results do not depend on it."),
    click.option("--engine", default="local", show_default=True,
                 help="local: processes of this machine; ray: a cluster (pip install 'kdzero-gp[ray]')."),
    click.option("--address", help="Of a running Ray cluster, as host:port or auto [default: one is started here]."),
    DEVICE,
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
