"""Predictions of several trainings side by side, for the page of a comparison."""

from __future__ import annotations

from pathlib import Path

from kdzero_gp.common import ALONE_TEXT
from kdzero_gp.engine.predictions import AFTER, FILE, TEACHER, Predictions


def gather(folder: Path, alone: Path, taught: Path, name: str) -> None:
    """Write into ``folder`` what the teacher, the student of the training ``alone`` and that of ``taught``, which is
    called ``name``, said of the same images; nothing where a training kept no predictions."""
    before, after = (Predictions.load(training / FILE) for training in (alone, taught))
    if before is None or after is None:
        return
    teacher = after.named({TEACHER: TEACHER})
    teacher.beside(before.named({AFTER: ALONE_TEXT})).beside(after.named({AFTER: name})).save(folder / FILE)
