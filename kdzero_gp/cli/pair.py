"""The command that looks at a teacher and a student: pair."""

from __future__ import annotations

import json
from typing import Any

import click

from kdzero_gp.cli.app import console
from kdzero_gp.cli.options import taps
from kdzero_gp.errors import SettingError

# Classes, channels and image size of the tasks whose data need not be read to know them.
_KNOWN = {"digits": (10, 1, 8), "cifar10": (10, 3, 32), "cifar100": (100, 3, 32)}


@click.command()
@click.option("--task", help="digits, cifar10, cifar100 or folder; or give --classes, --channels and --image-size.")
@click.option("--data", help="Archive, image folder or zip of the task's images.")
@click.option("--teacher", required=True, help="Built-in name, timm:NAME, torchvision:NAME or module:callable.")
@click.option("--student", required=True, help="As --teacher.")
@click.option("--tap", multiple=True, metavar="NAME=LAYER", help="The layer of a knowledge on both sides.")
@click.option("--teacher-tap", multiple=True, metavar="NAME=LAYER", help="Where to read a knowledge of the teacher.")
@click.option("--student-tap", multiple=True, metavar="NAME=LAYER", help="Where to read a knowledge of the student.")
@click.option("--classes", type=int, help="Number of classes, in place of a task.")
@click.option("--channels", type=int, help="Channels of the images, in place of a task [default: 3].")
@click.option("--image-size", type=int, help="Pixels a side of what the networks see [default: the task's].")
@click.option("--teacher-image-size", type=int, default=0, help="The same for the teacher, where it differs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def pair(as_json: bool, **options: Any) -> None:
    """What a teacher and a student share: taps, shapes, and the adapters that a distiller would need."""
    from kdzero_gp.training.pair import describe_pair

    classes, channels, image_size = _sizes(options)
    both = taps(options["tap"], "--tap")
    found = describe_pair(
        options["teacher"],
        options["student"],
        classes=classes,
        channels=channels,
        image_size=image_size,
        teacher_image_size=options["teacher_image_size"],
        teacher_taps=both | taps(options["teacher_tap"], "--teacher-tap"),
        student_taps=both | taps(options["student_tap"], "--student-tap"),
    )
    if as_json:
        click.echo(json.dumps(found.as_dict(), indent=1))
        return
    click.echo(
        f"teacher {found.teacher}: {found.teacher_parameters:,} parameters; "
        f"student {found.student}: {found.student_parameters:,}; "
        f"images {channels}×{image_size}×{image_size}, {classes} classes"
    )
    _show(found)


def _show(found: Any) -> None:
    from kdzero_gp.cli.tables import plain_table, show

    def side(one: Any) -> list[str]:
        return ["–", ""] if one is None else [one.layer, "×".join(map(str, one.shape))]

    rows = [[k.name, k.type or "one side only", *side(k.teacher), *side(k.student), k.adapter] for k in found.knowledge]
    headers = ["knowledge", "type of the pair", "teacher's layer", "shape", "student's layer", "shape", "adapter"]
    show(console, plain_table(headers, rows))


def _sizes(options: dict[str, Any]) -> tuple[int, int, int]:
    """Classes, channels and image size: those given, else the task's."""
    given = options["classes"], options["channels"], options["image_size"]
    if options["task"] is None:
        if options["data"] is not None:
            raise SettingError("--data belongs to a task; add --task folder, cifar10 or cifar100")
        if given[0] is None or given[2] is None:
            raise SettingError("the sizes of the images are not known; give --task, or --classes and --image-size")
        return given[0], given[1] or 3, _positive(given[2])
    if options["data"] is None and options["task"] in _KNOWN:
        known = _KNOWN[options["task"]]
    else:
        from kdzero_gp.data import load

        dataset = load(options["task"], options["data"])
        known = (len(dataset.classes), dataset.train.images.shape[1], dataset.train.images.shape[-1])
    classes, channels, image_size = (known[i] if given[i] is None else given[i] for i in range(3))
    return classes, channels, _positive(image_size)


def _positive(image_size: int) -> int:
    if image_size < 1:
        raise SettingError(f"--image-size must be at least 1, got {image_size}")
    return image_size
