"""The distiller that a training uses: from a file, an expression or the zoo to source text for this pair."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdzero_gp.compiler import Expression, load_source, parse, source_of, zoo
from kdzero_gp.compiler.knowledge import CLASSIFICATION_KNOWLEDGE, PYRAMID, KnowledgeTable
from kdzero_gp.compiler.rendering import facts_source, magnitudes_source, terms_in_words
from kdzero_gp.compiler.shapes import pair_shapes
from kdzero_gp.compiler.zoo import parse_for_some_pair
from kdzero_gp.engine.recipe import DISTILLATION
from kdzero_gp.errors import KdzeroError, SettingError, meant
from kdzero_gp.training.settings import Settings

# What the training calls of a distiller; files that kdzero-gp exports have it all.
NEEDED = ("KNOWLEDGE", "MAGNITUDES", "prepare", "terms", "loss", "magnitudes")
_TRIED_BATCH = 8

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Distiller:
    """A distiller by name, as the text of a module with a class ``Distiller``, and how its magnitudes are meant.
    ``distillation``: its own course over a training (see ``Recipe``); '' takes the recipe's."""

    name: str
    source: str
    magnitude: str
    distillation: str = ""

    @property
    def is_published(self) -> bool:
        """Whether it is one of the zoo, with whatever course."""
        return split_course(self.name)[0] in zoo


@dataclass(frozen=True)
class NamedDistiller:
    """An expression that somebody else looked up, such as the winner of a run, with its final magnitudes and the
    ``shares`` of the gradient that they gave its terms; ``distillation`` as a ``Distiller`` has it."""

    name: str
    expression: Expression
    magnitudes: tuple[float, ...] = ()
    shares: tuple[float, ...] = ()
    distillation: str = ""

    def along(self, course: str) -> NamedDistiller:
        """The same with a course of its own, which its name says ('': as it is)."""
        return replace(self, name=f"{self.name}@{course}", distillation=course) if course else self


def split_course(text: str) -> tuple[str, str]:
    """A distiller as it is named, and its course over a training, which stands behind an ``@`` ('': none).

    >>> split_course("zoo:kd@early"), split_course("runs@home/distiller.py")
    (('zoo:kd', 'early'), ('runs@home/distiller.py', ''))
    """
    what, _, course = text.rpartition("@")
    return (what, course) if course in DISTILLATION else (text, "")


def must_be_there(what: str | Path | Expression | NamedDistiller) -> None:
    """Raise SettingError for a name, a file or a text that is no distiller's for any pair."""
    text, _ = split_course(str(what))
    if isinstance(what, Expression | NamedDistiller) or text.removeprefix("zoo:") in zoo:
        return
    if text.startswith("zoo:"):
        name = text.removeprefix("zoo:")
        hint = meant(name, zoo, f"it has {', '.join(zoo)}", prefix="zoo:")
        raise SettingError(f"the zoo has no {name!r}; {hint}")
    path = Path(text).expanduser()
    if text.endswith(".py") and not path.is_file():
        reason = "it is a folder" if path.is_dir() else "there is no such file"
        raise SettingError(f"the distiller {path} cannot be read ({reason}); give a file of kdzero-gp export")
    if "(" not in text and not path.is_file():
        raise SettingError(
            f"--distiller {text!r} is not a file, an expression or zoo:NAME; kdzero-gp zoo lists the published ones"
        )


def resolve(
    what: str | Path | Expression | NamedDistiller,
    student: Shapes,
    teacher: Shapes,
    knowledge: KnowledgeTable = CLASSIFICATION_KNOWLEDGE,
) -> Distiller:
    """The distiller that a user names, for a pair of these shapes (per sample).

    A file that ``export`` wrote and a run's winner have final numbers (``absolute``); a published method
    (``zoo:kd``, or ``kd``) keeps the ratio of its terms (``joint``); the terms of an expression are each ``relative``
    to the cross-entropy. Behind each there may be a course over the training, such as ``zoo:kd@early``. Raises
    SettingError for what is none of these, or does not fit the pair.
    """
    if isinstance(what, NamedDistiller):
        source = _compiled(what.name, what.expression, student, teacher, knowledge, what.magnitudes, what.shares)
        return Distiller(what.name, source, "absolute" if what.magnitudes else "relative", what.distillation)
    if isinstance(what, Expression):
        return Distiller(str(what), _compiled(str(what), what, student, teacher, knowledge), "relative")
    text, course = split_course(str(what))
    if course:
        found = resolve(text, student, teacher, knowledge)
        return replace(found, name=f"{found.name}@{course}", distillation=course)
    if text.removeprefix("zoo:") in zoo:
        name = text.removeprefix("zoo:")
        return Distiller(name, _compiled(name, zoo[name], student, teacher, knowledge), "joint")
    must_be_there(text)
    if text.endswith(".py") or Path(text).is_file():
        return Distiller(Path(text).stem, _from_file(Path(text), student, teacher), "absolute")
    expression = parse(text, pair_shapes(student, teacher, knowledge).types)
    return Distiller(text, _compiled(text, expression, student, teacher, knowledge), "relative")


def _compiled(
    name: str,
    expression: Expression,
    student: Shapes,
    teacher: Shapes,
    knowledge: KnowledgeTable,
    magnitudes: Sequence[float] = (),
    shares: Sequence[float] = (),
) -> str:
    source = source_of(expression, student, teacher, magnitudes or None, {}, knowledge, shares)
    _try(name, load_source(source), student, teacher)
    return source


def _from_file(path: Path, student: Shapes, teacher: Shapes) -> str:
    try:
        source = path.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"the distiller {path} cannot be read ({error}); give a file of kdzero-gp export") from None
    try:
        distiller = load_source(source)
    except Exception as error:  # The user's file may fail in any way.
        raise SettingError(
            f"{path} is not a distiller ({type(error).__name__}: {error}); it needs a class Distiller as kdzero-gp "
            "export writes it"
        ) from None
    lacking = [name for name in NEEDED if not hasattr(distiller, name)]
    if lacking:
        raise SettingError(
            f"the Distiller of {path} has no {lacking[0]!r}; write the file with kdzero-gp export, which has all of "
            f"{', '.join(NEEDED)}"
        )
    _try(str(path), distiller, student, teacher)
    return source


def _example_labels(shapes: Shapes) -> Tensor:
    """What a distiller indexes: a box that fills the image, or one label for each of the logits' places."""
    if any(name.startswith(PYRAMID) for name in shapes):
        return torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0]).expand(_TRIED_BATCH, 1, 5)
    return torch.zeros(_TRIED_BATCH, *shapes.get("logits", (0,))[1:], dtype=torch.long)


def _try(name: str, distiller: nn.Module, student: Shapes, teacher: Shapes) -> None:
    """Runs the distiller once on random tensors of the pair's shapes."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        left, right = ({k: torch.randn(_TRIED_BATCH, *s) for k, s in side.items()} for side in (student, teacher))
        labels = _example_labels(teacher)
        try:
            count = len(distiller.terms(left, distiller.prepare(right, labels), labels))  # type: ignore[operator]
            fits = count == len(distiller.magnitudes)  # type: ignore[arg-type]
        except KdzeroError:
            raise
        except Exception as error:  # Made for other shapes, it fails wherever they are used first.
            first = (str(error).splitlines() or [""])[0]
            raise SettingError(
                f"the distiller {name} does not fit this pair ({type(error).__name__}: {first}); export it for this "
                "teacher and student, or give its expression"
            ) from None
    if not fits:
        raise SettingError(f"the distiller {name} has {count} terms and another number of magnitudes; mend the file")


def with_magnitudes(
    source: str, magnitudes: Sequence[float], shares: Sequence[float] = (), facts: Mapping[str, Any] | None = None
) -> str:
    """The source of a distiller with these final magnitudes in place of its own, with ``shares`` where they were
    measured, and with ``facts`` at the end of its docstring."""
    tree = ast.parse(source)
    distiller = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Distiller")
    values = {"MAGNITUDES": magnitudes} | ({"SHARES": shares} if shares else {})
    changes: list[tuple[ast.stmt, str]] = []
    for node in distiller.body:
        name = ast.unparse(node.targets[0]) if isinstance(node, ast.Assign) else ""
        if name in values:
            changes.append((node, f"    {name} = {magnitudes_source(values[name])}\n"))
    lines = source.splitlines(keepends=True)
    head = tree.body[0]
    if facts and isinstance(head, ast.Expr) and lines[(head.end_lineno or 1) - 1] == '"""\n':
        lines[(head.end_lineno or 1) - 1] = f'{facts_source(facts)}\n"""\n'
    for node, text in reversed(changes):
        lines[node.lineno - 1 : node.end_lineno] = [text]
    return "".join(lines)


def head_of(
    settings: Settings, distiller: nn.Module, magnitudes: Sequence[float], shares: Sequence[float]
) -> dict[str, str]:
    """What the head of a training's distiller says besides its expression: pair, recipe, and what each term weighs."""
    recipe = settings.recipe
    facts = {
        "pair": settings.described,
        "recipe": f"trained with {recipe.summary}, seed {settings.seed}",
    }
    if settings.shadow:
        facts["shadow"] = f"with one more class head on the {settings.shadow}'s maps, which this file does not have"
    try:
        expression = parse_for_some_pair(getattr(distiller, "EXPRESSION", ""))
    except KdzeroError:  # a file of the user's own need not have one that can be read
        return facts
    shares = shares or getattr(distiller, "SHARES", ())
    return facts | terms_in_words(expression, magnitudes, shares, recipe.batch_size)
