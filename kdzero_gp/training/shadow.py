"""The option ``shadow``: where a second class head is put in a training, and when it cannot be."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor

from kdzero_gp.compiler import load_source
from kdzero_gp.engine.shadow import ShadowOnStudent, ShadowOnTeacher
from kdzero_gp.engine.teacher import Teacher
from kdzero_gp.errors import SettingError
from kdzero_gp.families import TaskFamily
from kdzero_gp.models.heads import ClassHead, copied_head
from kdzero_gp.training.settings import Settings

KINDS = {"teacher": ShadowOnTeacher, "student": ShadowOnStudent}


def reads_logits(source: str) -> bool:
    """Whether a distiller has the logits that a shadow head stands for."""
    return "logits" in load_source(source).KNOWLEDGE


def must_have_heads(family: TaskFamily) -> None:
    """Raises SettingError for a family whose logits no shadow head can imitate."""
    if type(family).mimic is TaskFamily.mimic:
        raise SettingError(f"--shadow is for segmentation and detection and not for {family.name}; leave it out")


def shadow_head(
    settings: Settings, family: TaskFamily, student: Any, teacher: Any, example: Tensor, read: Collection[str]
) -> ClassHead | None:
    """The head that a training asks for; None where it asks for none. Raises SettingError or ModelError where it cannot
    be had."""
    if settings.shadow is None:
        return None
    must_have_heads(family)
    if "logits" not in read:
        raise SettingError(
            "the distiller reads no logits, so a shadow head would have no part in it; leave --shadow out, or give "
            "a distiller that does"
        )
    return copied_head(student, example, teacher.shapes if settings.shadow == "teacher" else None)


def shadowed(teacher: Teacher, head: ClassHead | None, kind: str | None) -> Teacher:
    """The teacher with its shadow head, where there is one."""
    return teacher if head is None or kind is None else KINDS[kind](teacher, head)
