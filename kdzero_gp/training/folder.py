"""The folder of one training. Every file in it is whole at any moment, so that a kill at any moment loses at most the
epoch that was going on.

``settings.json`` what was asked; ``checkpoint.pt`` the state after the last whole epoch, and ``teacher.pt`` the
teacher's outputs on all images where a training can keep them (both until the end);
``log.csv`` one row for each epoch; ``student.safetensors`` the final weights under the network's own names
(``network.safetensors`` where it learnt from nobody, as a teacher does);
``distiller.py`` the distiller with its final magnitudes; ``result.json`` the end.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from kdzero_gp.common import summary_writer
from kdzero_gp.data.account import DataAccount
from kdzero_gp.errors import RunError
from kdzero_gp.files import atomic_write
from kdzero_gp.training.settings import TrainingResult
from kdzero_gp.version import __version__

SETTINGS = "settings.json"
CHECKPOINT = "checkpoint.pt"
# Raise it when a checkpoint holds something else than before.
FORMAT = 3
TEACHER = "teacher.pt"
LOG = "log.csv"
STUDENT = "student.safetensors"
NETWORK = "network.safetensors"
DISTILLER = "distiller.py"
RESULT = "result.json"
# Characters of a setting that a message shows.
SHOWN = 60
# What is said of a settings file that cannot be read.
NO_SETTINGS = "{} is not a settings file of kdzero-gp; choose another --out"


def claim(folder: Path, kind: str, settings: Mapping[str, Any]) -> bool:
    """Make the folder of a new ``kind`` (training, comparison), or find that it holds this very one (False). Raises
    RunError when it holds something else, naming the first setting that differs."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; choose another --out")
    known = _known(folder, kind)
    if known is not None:
        differing = next(_differences(known, settings), None)
        if differing is not None:
            name, before, asked = differing
            raise RunError(
                f"{folder} holds a {kind} with {name} {before} and {name} {asked} was asked for; give the same "
                "settings to go on, or another --out"
            )
        return False
    if folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise RunError(f"{folder} exists and holds no {kind} of kdzero-gp; choose another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the folder {folder}: {error.strerror}; choose another --out") from None
    atomic_write(folder / SETTINGS, json.dumps({"kind": kind, "settings": settings}, indent=1, ensure_ascii=False))
    return True


def disclaim(folder: Path) -> None:
    """Take back a folder in which nothing was begun, so that the mended command can be given again."""
    if [path.name for path in folder.iterdir()] == [SETTINGS]:
        (folder / SETTINGS).unlink()
        with contextlib.suppress(OSError):
            folder.rmdir()


def as_network(folder: Path) -> Path:
    """The weights of a network that was trained alone, under the name that says so. A link keeps the name that scripts
    of earlier versions know."""
    student = folder / STUDENT
    if student.exists() and not student.is_symlink():
        student.replace(folder / NETWORK)
        with contextlib.suppress(OSError):  # not everywhere can everybody make links
            student.symlink_to(NETWORK)
    return folder / NETWORK


def _stored(folder: Path) -> dict[str, Any]:
    """What the settings file holds: ``kind``, ``settings`` and perhaps ``content``. Raises RunError."""
    path = folder / SETTINGS
    try:
        found = json.loads(path.read_text("utf-8"))
        if all(isinstance(part, dict) for part in (found, found["settings"], found.get("content", {}))):
            return {"kind": found["kind"], **found}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    raise RunError(NO_SETTINGS.format(path))


def _known(folder: Path, kind: str) -> dict[str, Any] | None:
    if not (folder / SETTINGS).exists():
        return None
    stored = _stored(folder)
    if stored["kind"] != kind:
        raise RunError(f"{folder} holds a {stored['kind']} and no {kind}; choose another --out")
    found: dict[str, Any] = stored["settings"]
    return found


def _differences(known: Any, asked: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """The settings that differ, by their full names, with both values as far as they differ."""
    known = known if isinstance(known, Mapping) else {}
    for name, value in asked.items():
        before = known.get(name, False if value is False else None)  # an earlier version's had no such switch
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            yield from _differences(before, value, f"{prefix}{name}.")
        elif value != before:
            yield prefix + name, *_short(before, value)


def _short(one: Any, other: Any) -> tuple[str, str]:
    """Two values as texts, cut to where they differ."""
    texts = [json.dumps(value, ensure_ascii=False) for value in (one, other)]
    same = next((i for i, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), min(map(len, texts)))
    start = max(0, same - SHOWN // 2) if max(map(len, texts)) > SHOWN else 0
    first, second = (
        ("…" if start else "") + text[start : start + SHOWN] + ("…" if len(text) > start + SHOWN else "")
        for text in texts
    )
    return first, second


def check_content(folder: Path, weights: str | None, account: DataAccount | None) -> None:
    """Keep what the weights and the data hold, or find that they hold what they held when this folder was begun. None:
    not looked at. Raises RunError naming what differs."""
    stored = _stored(folder)
    known = stored.get("content", {})
    remedy = "give what it was begun with, or another --out"
    if weights is not None and known.get("teacher_weights", weights) != weights:
        raise RunError(f"the file of the teacher's weights changed since {folder} was begun; {remedy}")
    try:
        changed = account.difference(known["data"]) if account is not None and "data" in known else ""
    except (KeyError, TypeError, ValueError, AttributeError):
        raise RunError(NO_SETTINGS.format(folder / SETTINGS)) from None
    if changed:
        raise RunError(f"the data changed since {folder} was begun: {changed}; {remedy}")
    found = {"teacher_weights": weights, "data": account and account.as_dict()}
    content = {name: value for name, value in found.items() if value is not None} | known
    if content != known:
        text = json.dumps(stored | {"content": content}, indent=1, ensure_ascii=False)
        atomic_write(folder / SETTINGS, text)


def save_checkpoint(folder: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint, on the disk before it takes the place of the last one. Raises RunError where it cannot."""
    path = folder / CHECKPOINT
    remedy = "free space, then give the same command again"
    try:
        atomic_write(path, lambda temporary: torch.save(dict(state) | {"format": FORMAT}, temporary), remedy)
    except RuntimeError:  # torch reports a full disk as an internal check that failed
        raise RunError(f"cannot write {path}: the disk may be full; {remedy}") from None


def load_checkpoint(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """The last checkpoint, or None. Raises RunError for a damaged one."""
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        found: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        raise RunError(f"{path} is damaged ({first}); delete it to train from the beginning") from None
    if found.get("format") != FORMAT:
        raise RunError(f"{path} was written by another version of kdzero-gp; delete it to train from the beginning")
    return found


def write_log(folder: Path, rows: Sequence[Mapping[str, Any]], name: str = LOG) -> None:
    """A table with one line for each row; what a row lacks stays empty."""
    text = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    atomic_write(folder / name, text.getvalue())


def write_result(folder: Path, result: TrainingResult, settings: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Write the end of a training; what it went on from is of no use then."""
    versions = {"kdzero_gp": __version__, "torch": torch.__version__, "python": platform.python_version()}
    # the measures by one name, too, as earlier versions had them: test_accuracy, teacher_accuracy, …
    content = result.row() | result.as_dict() | {"settings": settings, "machine": facts, "versions": versions}
    atomic_write(folder / RESULT, json.dumps(content, indent=1, ensure_ascii=False))
    for name in (CHECKPOINT, TEACHER):
        (folder / name).unlink(missing_ok=True)


def read_result(folder: Path) -> TrainingResult | None:
    """The end of a training, or None. Raises RunError for a damaged file."""
    path = folder / RESULT
    if not path.exists():
        return None
    try:
        return TrainingResult.from_dict(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        raise RunError(f"{path} is damaged or of another version; delete it and give the same command again") from None


class Board:
    """Event files for TensorBoard, one point for each epoch; nothing where it is not asked for."""

    def __init__(self, folder: Path, wanted: bool, epoch: int):
        self.writer: Any = None
        if not wanted:
            return
        # After an interruption, points of an epoch that is trained again are dropped.
        self.writer = summary_writer()(str(folder / "tensorboard"), purge_step=epoch)

    def add(self, row: Mapping[str, Any]) -> None:
        """One epoch's numbers."""
        if self.writer is not None:
            for name, value in row.items():
                if name != "epoch" and value is not None:
                    self.writer.add_scalar(name, value, row["epoch"])
            self.writer.flush()

    def close(self) -> None:
        """Finish the file."""
        if self.writer is not None:
            self.writer.close()
