"""The verifier of programs: every name is defined before it is used, and every value has the declared shape."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kdzero_gp.compiler.lowering import Program, Step
from kdzero_gp.compiler.shapes import TRACED_BATCH


def verify(program: Program, labels: tuple[int, ...] = ()) -> None:
    """Run the steps without data and raise ``ValueError`` at the first that is wrong. ``labels`` is the shape of a
    sample's labels, () for one label."""
    context = {"labels": torch.empty((TRACED_BATCH, *labels), dtype=torch.long, device="meta")}
    teacher = _run(program.teacher_steps, context, {}, {"teacher"})
    missing = [name for name in program.targets if name not in teacher]
    if missing:
        raise ValueError(f"no step gives the target {missing[0]}")
    targets = {name: teacher[name] for name in program.targets}
    student = _run(program.steps, context, targets, {"student", "self"})
    for name in program.results:
        if name not in student or student[name].shape != ():
            raise ValueError(f"the term {name} is not a scalar that a step gives")
    if len(program.results) != len(program.magnitudes):
        raise ValueError(f"{len(program.results)} terms have {len(program.magnitudes)} magnitudes")


def _run(
    steps: Sequence[Step], context: Mapping[str, Tensor], targets: Mapping[str, Tensor], given: set[str]
) -> dict[str, Tensor]:
    values = dict(context)
    for step in steps:
        if step.name in values:
            raise ValueError(f"{step.name} is defined twice")
        arguments = [_value(text, values, targets, given, step) for text in step.arguments]
        if step.function is None:
            value = torch.empty(step.shape, device="meta")
        else:
            # a text among the arguments stands for knowledge, which the step gives in its own shape
            here = torch.empty(step.shape, device="meta")
            value = step.function(*(here if argument is None else argument for argument in arguments))
        if step.shape and value.shape != step.shape:
            raise ValueError(f"{step.name} = {step.text} has the shape {tuple(value.shape)}, declared {step.shape}")
        values[step.name] = value
    return values


def _value(
    text: str, values: Mapping[str, Tensor], targets: Mapping[str, Tensor], given: set[str], step: Step
) -> Tensor | float | None:
    """What an argument of a step stands for; None for the text of a step without a function, whose names are
    checked."""
    tree = ast.parse(text, mode="eval").body
    if isinstance(tree, ast.Constant):
        return float(tree.value)  # type: ignore[arg-type]
    if isinstance(tree, ast.Subscript) and isinstance(tree.value, ast.Name) and tree.value.id == "targets":
        name, known = ast.literal_eval(tree.slice), targets
    elif isinstance(tree, ast.Name):
        name, known = tree.id, values
    elif unknown := {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - given - set(values):
        name, known = unknown.pop(), values
    else:
        return None
    if name not in known:
        raise ValueError(f"{step.name} = {step.text} uses {name} before it is defined")
    return known[name]
