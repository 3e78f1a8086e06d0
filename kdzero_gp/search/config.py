"""The settings of a search as a TOML file, which every run writes and ``evolve`` reads."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdzero_gp.errors import SettingError, meant
from kdzero_gp.objects import is_own
from kdzero_gp.search.options import OPTIONS, Option, defaults, value_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONFIG = "config.toml"


def config_text(settings: Any) -> str:
    """The file of a run's settings: what differs from the task's defaults, and all else behind number signs."""
    base = defaults(settings.task)
    lines = ["# The settings of this run: kdzero-gp evolve --config FILE repeats it. Options on the command line win."]
    for option in OPTIONS:
        if not option.field:
            continue
        value, default = value_of(settings, option), value_of(base, option)
        if option.form == "pairs" and option.kind is float:
            value = {**dict.fromkeys(default, 0.0), **value}  # a share of 0 is none
        own = isinstance(value, str) and is_own(value)
        differs = value is not None and not own and (option.always or value_of(settings, option) != default)
        note = "an object of a Python session" if own else _toml(option, value)
        lines.append(f"{'' if differs else '# '}{_key(option)} = {note}")
    return "\n".join(lines) + "\n"


def read_config(path: Path) -> dict[str, Any]:
    """The options of a file by their Python names, as the command line has them. Raises SettingError."""
    try:
        found = tomllib.loads(path.expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"--config {path} cannot be read ({error}); give a config.toml of a run") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingError(f"--config {path} is not a TOML file ({error}); mend that line") from None
    known = {_key(option): option for option in OPTIONS if option.name != "--out"}
    options = {}
    for name, value in found.items():
        name = name.replace("_", "-")
        if name not in known:
            hint = meant(name, known, "kdzero-gp evolve --help lists the options")
            raise SettingError(f"--config {path} has {name!r}, which is not an option; {hint}")
        options[known[name].key] = _given(path, known[name], value)
    return options


def with_config(options: Mapping[str, Any], path: Path | None) -> dict[str, Any]:
    """Options by their Python names, those that were not given (None or empty) as the file has them."""
    if path is None:
        return dict(options)
    given = {name: value for name, value in options.items() if value not in (None, ())}
    return {**options, **read_config(path), **given}


def _key(option: Option) -> str:
    return option.name.removeprefix("--")


def _toml(option: Option, value: Any) -> str:
    if option.form == "pairs":
        return "{" + ", ".join(f"{json.dumps(name)} = {_scalar(one)}" for name, one in value.items()) + "}"
    if option.form == "names":
        return "[" + ", ".join(map(_scalar, value)) + "]"
    return _scalar("" if value is None else value)


def _scalar(value: Any) -> str:
    """A value as TOML has it; its strings are JSON's, but for the signs that both escape."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and not math.isfinite(value):
        return "inf" if value > 0 else "nan"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f") if isinstance(value, str) else repr(value)


def _given(path: Path, option: Option, value: Any) -> Any:
    """A value of the file as the command line gives it. Raises SettingError for one of another type."""
    fits = {
        "flag": isinstance(value, bool),
        "names": isinstance(value, list) and all(isinstance(one, str) for one in value),
        "pairs": isinstance(value, dict),
        "value": isinstance(value, str | int | float) and not isinstance(value, bool),
    }[option.form]
    if option.form == "value" and option.kind is not str:
        fits = fits and not isinstance(value, str) and not (option.kind is int and isinstance(value, float))
    if not fits:
        kind = {"flag": "true or false", "names": 'a list such as ["logits"]', "pairs": "a table such as {feat = 1}"}
        values: dict[Any, str] = {int: "a whole number", str: "a text"}
        wanted = kind.get(option.form, values.get(option.kind, "a number"))
        raise SettingError(f"--config {path}: {_key(option)} takes {wanted}, got {value!r}")
    if option.form == "names":
        return ",".join(value) or "none"
    if option.form == "pairs":
        return tuple(f"{name}={one}" for name, one in value.items())
    return value if option.form == "flag" else option.kind(value)
