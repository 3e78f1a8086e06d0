"""The options of a search, each declared once: the command line, the settings and the command that repeats a run derive
from this table."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

from kdzero_gp.errors import SettingError
from kdzero_gp.objects import is_own

# The task where nothing is said.
DEFAULT_TASK = "digits"
# How an option is written: one value, on and off, names with commas, or NAME=VALUE again and again.
FORMS = ("value", "flag", "names", "pairs")


@dataclass(frozen=True)
class Option:
    """``field``: where its value stands in ``RunSettings`` (empty: it is no setting of the run). ``kind``: the type of
    a value. ``always``: it stands in the repeating command also where it has its default. ``example``: of NAME=VALUE,
    for errors."""

    name: str
    help: str
    field: str = ""
    kind: Callable[[Any], Any] = str
    form: str = "value"
    metavar: str | None = None
    always: bool = False
    example: str = ""

    @property
    def key(self) -> str:
        """The parameter's name in Python."""
        return self.name.removeprefix("--").replace("-", "_")

    @property
    def from_task(self) -> bool:
        """Whether the default is the task's."""
        return self.field.startswith("plan.") or self.field in ("teacher", "student")


def above_zero(text: str) -> float:
    """A number above 0. Raises ValueError."""
    number = float(text)
    if not number > 0:
        raise ValueError
    return number


# fmt: off
OPTIONS = (
    Option("--generations", "A generation is --pop births (of each island).", "search.generations", int, always=True),
    Option("--pop", "Size of the population.", "search.population", int, always=True),
    Option("--task", "digits, cifar10, cifar100, folder, segmentation, detection, or module:name of your own.", "task",
           always=True),
    Option("--data", "Archive, image folder or zip of the task's images; of CIFAR also: download.", "data"),
    Option("--image-size", "Pixels a side, or height x width, of what the networks see [default: the most common of "
           "the images].", "image_size", metavar="H[xW]"),
    Option("--channels", "Of the images: 3 makes grey ones RGB [default: the data's].", "channels", int),
    Option("--ignore", "Of label maps: values that never count [default: 255].", metavar="NUMBERS"),
    Option("--classes", "Of label maps: names with commas, or how many [default: as many as the maps hold].",
           metavar="NAMES"),
    Option("--crop", "Proxies and races see one window of so many pixels a side of each image.", "plan.crop", int),
    Option("--teacher", "Built-in name, timm:NAME, torchvision:NAME or module:callable.", "teacher", always=True),
    Option("--teacher-weights", "Safetensors file or state dict of the teacher.", "teacher_weights"),
    Option("--teacher-mean", "Of the teacher's images, scaled to [0, 1], one number or one a channel; imagenet or none "
           "stand for the deviation, too [default: known of its weights, or tried].", "teacher_mean",
           metavar="NUMBERS"),
    Option("--teacher-std", "Their deviation.", "teacher_std", metavar="NUMBERS"),
    Option("--teacher-tap", "Where to read a knowledge of the teacher; feat1, feat2, … are searched, too.",
           "teacher_taps", form="pairs", metavar="NAME=LAYER"),
    Option("--student", "As --teacher.", "student", always=True),
    Option("--student-weights", "Weights that the student starts from, as --teacher-weights.", "student_weights"),
    Option("--inherit-head", "The student starts with those weights of the teacher's neck and head that fit it; for "
           "networks with a backbone.", "inherit_head", form="flag"),
    Option("--student-mean", "As --teacher-mean, of the student's [default: known of --student-weights, or the "
           "images' own].", "student_mean", metavar="NUMBERS"),
    Option("--student-std", "Their deviation.", "student_std", metavar="NUMBERS"),
    Option("--student-tap", "The same of the student.", "student_taps", form="pairs", metavar="NAME=LAYER"),
    Option("--knowledge", "What distillers are made of, such as logits,feat,feat1 [default: logits, emb, feat, and "
           "what a tap names].", "knowledge", form="names"),
    Option("--space", "open: free trees; kdzero: the paper's template.", "space",
           metavar="open|kdzero"),
    Option("--magnitude", "relative: γ in units of the cross-entropy's gradient; absolute: as written.", "magnitude",
           metavar="relative|absolute"),
    Option("--seed-zoo", "Start with published distillers.", "seed_zoo", form="flag"),
    Option("--seed", "Of everything random.", "search.seed", int, always=True),
    Option("--tournament", "Size of the selection tournament.", "search.tournament", int),
    Option("--sample-ratio", "Select as the paper's Algorithm 1: from this share of the population …",
           "search.sample_ratio", float),
    Option("--top-k", "… one of the best k.", "search.top_k", int),
    Option("--removal", "Who leaves the population.", "search.removal", metavar="oldest|worst"),
    Option("--objectives", "Two or more of the task's metrics (cross_entropy, calibrated, error, sharpness_gap, "
           "cka_gap), step_time and memory: optimise all with NSGA-II. With step_time, a measurement, runs are not "
           "reproducible.",
           "search.objectives", form="names"),
    Option("--screens", "What a candidate must pass before its training and early in it: all, none, or some of "
           "duplicate, finite, equivalence, rejection, surrogate, short.", "screens", form="names"),
    Option("--shrink", "Draw operations whose descendants keep losing less often.", "search.shrink", form="flag"),
    Option("--random-search", "Every birth is a new random tree: what evolution has to beat.", "search.random_search",
           form="flag"),
    Option("--single-terms", "So many generations find single terms; then sums of the best are bred.",
           "search.single_terms", int),
    Option("--lanes", "Births under way at once: decides the run, and how many workers can be busy.", "search.lanes",
           int),
    Option("--islands", "So many populations, each of --pop with --lanes, that breed by themselves; every 5 "
           "generations the best of each enters the next one, too.", "search.islands", int),
    Option("--patience", "Stop after this many generations without a better distiller.", "search.patience", int),
    Option("--training", "What the winner is for: long trainings, or short ones of a few epochs; decides the defaults "
           "of --warm-epochs, --proxy-epochs, --short-bound and --weight [default: long].", metavar="long|short"),
    Option("--images", "Training images of a proxy.", "plan.images", int),
    Option("--validation-images", "Validation images.", "plan.validation_images", int),
    Option("--warm-epochs", "Epochs without a teacher that the student has when proxies start.", "plan.warm.epochs",
           float),
    Option("--proxy-epochs", "Epochs of a proxy.", "plan.proxy.epochs", float),
    Option("--proxy-trains", "whole: the student; last-stage: its last stage alone, on what the warm student's other "
           "stages give, computed once; cheaper.", "plan.proxy_trains", metavar="whole|last-stage"),
    Option("--surrogate-share", "Share of the candidates to train: the most promising and the most uncertain by the "
           "surrogate; the others get a predicted fitness. 1 trains all.", "plan.surrogate_share", float),
    Option("--short-bound", "Stop a candidate early whose gaps to the teacher are so many times those of cross-entropy "
           "alone; inf stops none.", "plan.short_bound", float),
    Option("--loss-memory", "MiB that a loss may keep for one batch.", "plan.loss_memory", float),
    Option("--race-epochs", "Epochs of a training in the race.", "plan.race.epochs", float),
    Option("--heat", "Of the fittest so many train once as in the race, and the best --race-top of them race; the "
           "fittest race where it is not more than that.", "plan.heat", int),
    Option("--race-top", "Evolved distillers in the race.", "plan.race_top", int),
    Option("--race-seeds", "Seeds of the race, which chooses the winner.", "plan.race_seeds", int),
    Option("--prune", "Compare the winner with at most so many smaller ones, each without one of its terms or "
           "operations, and leave out what gains nothing; 0 leaves it as it is.", "plan.prune", int),
    Option("--fresh-seeds", "Untouched seeds on which the winner is confirmed against the best published method; 0 "
           "confirms nothing.", "plan.fresh_seeds", int),
    Option("--weight", "Share of a metric in the fitness: of cross_entropy, calibrated, error, sharpness_gap or "
           "cka_gap for images to classes; error is what accuracy, mean IoU or AP lack to 1.", "plan.weights", float,
           "pairs", "NAME=SHARE"),
    Option("--judge", "Who compares a child with a random one of the population while fewer than 20 were trained: the "
           "less fit is not trained (ρ of the paper's Algorithm 1). model asks that of --llm-url, in both orders.",
           "judge", metavar="none|surrogate|model"),
    Option("--llm-url", "Ask a language model for births, too: the URL of a server with /chat/completions, before that "
           "part, for example http://127.0.0.1:8080/v1.", "llm.url"),
    Option("--llm-model", "The model's name there.", "llm.model"),
    Option("--llm-key-env", "Name of the environment variable with the server's key, which is kept nowhere.",
           "llm.key_env", metavar="VARIABLE"),
    Option("--llm-share", "Share of the births that it is asked for.", "llm.share", float),
    Option("--llm-budget", "The most calls, tokens or usd, failed calls counted; then the search goes on without it.",
           "llm.budget", above_zero, "pairs", "NAME=NUMBER", example="calls=50"),
    Option("--llm-price", "US dollars for a million tokens in and out.", "llm.price", above_zero, "pairs", "NAME=USD",
           example="in=0.15"),
    Option("--llm-timeout", "Seconds after which a call has failed.", "llm.timeout", float),
    Option("--llm-replay", "Take the answers from this run's folder and ask nobody.", "llm.replay", metavar="DIR"),
    Option("--precision", "float32, or bfloat16, either with ,channels-last [default: the fastest, measured].",
           "precision"),
    Option("--threads", "Of torch, for what is not a worker's [default: chosen by the images' size].", "threads", int),
    Option("--out", "The run's folder [default: runs/TASK-N].", kind=Path),
)
# An option, what it has no effect with, and what it has none without; only where the option is given.
NO_EFFECT_WITH: dict[str, tuple[str, ...]] = {
    "--tournament": ("--objectives", "--random-search", "--sample-ratio"),
    "--sample-ratio": ("--objectives", "--random-search"),
    "--top-k": ("--objectives", "--random-search"),
    "--removal": ("--objectives", "--random-search"),
    "--surrogate-share": ("--objectives",),
    "--judge": ("--objectives",),
    "--patience": ("--objectives",),
    "--shrink": ("--random-search",),
    "--islands": ("--random-search",),
    "--single-terms": ("--random-search",),
    "--llm-url": ("--random-search",),
}
NO_EFFECT_WITHOUT = {
    "--top-k": "--sample-ratio", "--llm-model": "--llm-url", "--llm-key-env": "--llm-url", "--llm-share": "--llm-url",
    "--llm-budget": "--llm-url", "--llm-price": "--llm-url", "--llm-timeout": "--llm-url", "--llm-replay": "--llm-url",
}
NEEDED_SCREENS = {
    "--surrogate-share": "surrogate", "--judge": "surrogate", "--short-bound": "short", "--loss-memory": "finite",
}
# fmt: on


def settings_from(options: Mapping[str, Any]) -> Any:
    """The ``RunSettings`` of options by their Python names; None: not given. Raises SettingError."""
    given = {option.name: options[option.key] for option in OPTIONS if options.get(option.key) not in (None, ())}
    refuse_without_effect(given)
    base = defaults(given.get("--task", DEFAULT_TASK), given.get("--training", "long"))
    changes: dict[str, Any] = {}
    for option in OPTIONS:
        if option.field and option.name in given:
            *path, last = option.field.split(".")
            place = changes
            for name in path:
                place = place.setdefault(name, {})
            place[last] = _read(option, given[option.name])
    if {"--ignore", "--classes"} & given.keys():
        from kdzero_gp.data.label_maps import with_settings

        changes["data"] = with_settings(given.get("--data"), given.get("--ignore"), given.get("--classes"))
    return _changed(base, changes)


def defaults(task: str, training: str = "long") -> Any:
    """The ``RunSettings`` of a task without any option. Raises DataError for an unknown task."""
    from kdzero_gp.search.settings import RunSettings
    from kdzero_gp.tasks import get
    from kdzero_gp.tasks.plan import for_training

    known = get(task)
    plan = for_training(known.plan, training, known.family.loss)
    return RunSettings(task=task, teacher=plan.teacher, student=plan.student, plan=plan)


def _changed(record: Any, changes: Mapping[str, Any]) -> Any:
    """A record with other values in it, at any depth; mappings get entries."""
    values = {}
    for name, value in changes.items():
        before = getattr(record, name)
        if isinstance(value, Mapping):
            values[name] = _changed(before, value) if is_dataclass(before) else _merged(before, value)
        else:
            values[name] = value
    return replace(record, **values)


def _merged(before: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    # a share of 0 is none
    return {name: value for name, value in {**before, **new}.items() if value != 0}


def _read(option: Option, value: Any) -> Any:
    """A value of the command line as the settings have it. Raises SettingError."""
    if option.form == "names":
        return _names(option, value)
    if option.field.endswith(".epochs") and not 0 < float(value) < math.inf:
        raise SettingError(f"{option.name} must be above 0, got {float(value):g}")
    return pairs(value, option) if option.form == "pairs" else value


def _names(option: Option, text: str) -> tuple[str, ...]:
    from kdzero_gp.proxy.screens import SCREENS

    whole = {"all": SCREENS, "none": ()} if option.name == "--screens" else {}
    return whole.get(text.strip(), tuple(name.strip() for name in text.split(",") if name.strip()))


def pairs(texts: Iterable[str], option: Option) -> dict[str, Any]:
    """NAME=VALUE texts as a mapping. Raises SettingError."""
    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        example = option.example or ("cka_gap=0.5" if option.kind is float else "feat=layer3")
        try:
            if not equals or not name or not value:
                raise ValueError
            values[name] = option.kind(value)
        except ValueError:
            message = f"{option.name} takes {option.metavar}, for example {example}, got {text!r}"
            raise SettingError(message) from None
    return values


def refuse_without_effect(given: Mapping[str, Any]) -> None:
    """Raise SettingError for an option that was given and changes nothing beside the others."""
    for name, others in NO_EFFECT_WITH.items():
        other = next((other for other in others if name in given and given.get(other)), None)
        if other is not None:
            raise SettingError(f"{name} has no effect with {other}; leave one of them out")
    for name, needed in NO_EFFECT_WITHOUT.items():
        if name in given and needed not in given:
            raise SettingError(f"{name} has no effect without {needed}; add it, or leave {name} out")
    screens = str(given.get("--screens", "all"))
    if "surrogate" in screens and given.get("--objectives"):
        raise SettingError("--screens surrogate has no effect with --objectives; leave one of them out")
    for name, screen in NEEDED_SCREENS.items():
        if name in given and screens.strip() != "all" and screen not in screens:
            raise SettingError(
                f"{name} has no effect without the screen {screen}; add it to --screens, or leave it out"
            )


def evolve_command(settings: Any) -> str:
    """The ``kdzero-gp evolve`` line that gives these settings; options stand only where they differ from the task's
    defaults, but for those that everybody looks for."""
    if any(map(is_own, (settings.task, settings.teacher, settings.student))):
        return evolve_call(settings)
    base = defaults(settings.task)
    words = ["kdzero-gp", "evolve"]
    for option in OPTIONS:
        if option.field:
            value, default = value_of(settings, option), value_of(base, option)
            if option.always or value != default:
                words += _WRITTEN[option.form](option, value, default)
    return shlex.join(words)


def evolve_call(settings: Any) -> str:
    """The call of ``kdzero_gp.evolve`` that gives these settings, where some of its arguments are objects."""
    base = defaults(settings.task)
    networks = [role if is_own(getattr(settings, role)) else repr(getattr(settings, role)) for role in _NETWORKS]
    data = ["train"] if is_own(settings.task) else [f"train={settings.data!r}", f"task={settings.task!r}"]
    words = [*networks, *data]
    for option in OPTIONS:
        if option.field and option.key not in (*_NETWORKS, "task", "data"):
            value, default = value_of(settings, option), value_of(base, option)
            if value is not None and (option.always or value != default):
                plain = dict(value) if option.form == "pairs" else list(value) if option.form == "names" else value
                words.append(f"{option.key}={plain!r}")
    return f"kdzero_gp.evolve({', '.join(words)})"


def value_of(settings: Any, option: Option) -> Any:
    """The value of an option in a run's settings."""
    value = settings
    for name in option.field.split("."):
        value = getattr(value, name)
    return value


def _pairs_written(option: Option, value: Mapping[str, Any], default: Mapping[str, Any]) -> list[str]:
    gone = dict.fromkeys(set(default) - set(value), 0) if option.kind is float else {}
    changed = {name: one for name, one in {**value, **gone}.items() if one != default.get(name)}
    return [word for name, one in sorted(changed.items()) for word in (option.name, f"{name}={one}")]


_NETWORKS = ("teacher", "student")
_WRITTEN: dict[str, Callable[[Option, Any, Any], list[str]]] = {
    "value": lambda option, value, _: [option.name, str(value)] if value is not None else [],
    "flag": lambda option, value, _: [option.name if value else option.name.replace("--", "--no-", 1)],
    "names": lambda option, value, _: [option.name, ",".join(value) or "none"],
    "pairs": _pairs_written,
}
