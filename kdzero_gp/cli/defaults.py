"""The defaults that the help of a search shows. They follow from tasks and settings, which load torch, so that
``python docs/generate.py`` writes them into a file that is read in no time."""

from __future__ import annotations

import json
from functools import lru_cache
from importlib import resources
from typing import Any

from kdzero_gp.search.options import OPTIONS, Option, defaults, value_of

FILE = "defaults.json"
# Tasks whose defaults the help names.
TASKS = ("digits", "cifar10", "cifar100", "folder")


@lru_cache(maxsize=1)
def shown_defaults() -> dict[str, str]:
    """The text of each option's default, of those that have one."""
    found: dict[str, str] = json.loads((resources.files("kdzero_gp.cli") / FILE).read_text(encoding="utf-8"))
    return found


def defaults_file() -> str:
    """What the file has to be."""
    shown = {option.name: _text(option) for option in OPTIONS if option.field and "[default:" not in option.help}
    return json.dumps({name: text for name, text in shown.items() if text}, indent=1, ensure_ascii=False) + "\n"


def _text(option: Option) -> str:
    texts: dict[str, list[str]] = {}
    for task in TASKS:
        texts.setdefault(_value(value_of(defaults(task), option)) or "all", []).append(task)
    if not option.from_task:
        return _value(value_of(defaults(TASKS[0]), option))
    if len(texts) == 1:
        return next(iter(texts))
    return "; ".join(f"{', '.join(tasks)}: {text}" for text, tasks in texts.items())


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={share:g}" for name, share in value.items())
    if isinstance(value, tuple):
        return "all" if value else ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
