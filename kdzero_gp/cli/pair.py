"""The command that looks at a teacher and a student: pair."""

from __future__ import annotations

import json
from typing import Any

import click

from kdzero_gp.cli.app import console
from kdzero_gp.cli.options import DATA, IMAGE_SIZE, PAIR_OPTIONS, taps_of_both, with_options
from kdzero_gp.errors import SettingError


@click.command()
@click.option("--task", help="digits, cifar10, cifar100 or folder; or give --classes, --channels and --image-size.")
@with_options((DATA,), PAIR_OPTIONS)
@click.option("--classes", type=int, help="Number of classes, in place of a task.")
@click.option("--channels", type=int, help="Channels of the images, in place of a task [default: 3].")
@with_options((IMAGE_SIZE,))
@click.option("--teacher-image-size", type=int, default=0, help="The same for the teacher, where it differs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def pair(as_json: bool, **options: Any) -> None:
    """What a teacher and a student share: taps, shapes, and the adapters that a distiller would need."""
    from kdzero_gp.training.pair import describe_pair

    for role in ("teacher", "student"):
        if options[role] is None:
            raise SettingError(f"there is no {role}; name one with --{role}")
    classes, channels, image_size = _sizes(options)
    teacher_taps, student_taps = taps_of_both(options)
    description = describe_pair(
        options["teacher"],
        options["student"],
        classes=classes,
        channels=channels,
        image_size=image_size,
        teacher_image_size=options["teacher_image_size"],
        teacher_taps=teacher_taps,
        student_taps=student_taps,
    )
    if as_json:
        click.echo(json.dumps(description.as_dict(), indent=1))
        return
    click.echo(
        f"teacher {description.teacher}: {description.teacher_parameters:,} parameters; "
        f"student {description.student}: {description.student_parameters:,}; "
        f"images {channels}×{image_size[0]}×{image_size[1]}, {classes} classes"
    )
    _show(description)


def _show(description: Any) -> None:
    from kdzero_gp.cli.tables import plain_table, show

    def side(tapped: Any) -> list[str]:
        return ["–", ""] if tapped is None else [tapped.layer, "×".join(map(str, tapped.shape))]

    rows = [
        [k.name, k.type or "one side only", *side(k.teacher), *side(k.student), k.adapter]
        for k in description.knowledge
    ]
    headers = ["knowledge", "type of the pair", "teacher's layer", "shape", "student's layer", "shape", "adapter"]
    show(console, plain_table(headers, rows))


def _sizes(options: dict[str, Any]) -> tuple[int, int, tuple[int, int]]:
    """Classes, channels and image size: those on the command line, else the task's."""
    asked = options["classes"], options["channels"], options["image_size"]
    if options["task"] is None:
        if options["data"] is not None:
            raise SettingError("--data belongs to a task; add --task folder, cifar10 or cifar100")
        if asked[0] is None or asked[2] is None:
            raise SettingError("the sizes of the images are not known; give --task, or --classes and --image-size")
        return asked[0], asked[1] or 3, asked[2]
    from kdzero_gp.tasks import get

    own = get(options["task"]).sizes_of(options["data"])
    return tuple(own[i] if asked[i] is None else asked[i] for i in range(3))  # type: ignore[return-value]
