"""Which tensor of all that a network returns are the logits, and whether they fit the classes of the data."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from kdzero_gp.data.inputs import Inputs, forward
from kdzero_gp.errors import ModelError
from kdzero_gp.models.discovery import PROBE_SAMPLES, Trace, left_as_found

Path = tuple[int | str, ...]
"""The keys that lead to one tensor in what a network returned; empty for the output itself."""


def as_logits(output: Any) -> Any:
    """The logits in what a network returned: a tensor, or the main one of a tuple, mapping or record."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        return output.get("logits")
    if hasattr(output, "logits"):
        return output.logits
    return output[0] if isinstance(output, tuple | list) and output else None


def pick(output: Any, path: Path) -> Any:
    """The tensor at ``path``, or the main one where the network returns another form (as it may while training)."""
    value = output
    for key in path:
        try:
            value = value[key] if isinstance(key, int) or isinstance(value, Mapping) else getattr(value, key)
        except (KeyError, IndexError, TypeError, AttributeError):
            return as_logits(output)
    return value if isinstance(value, Tensor) else as_logits(output)


def leaves(output: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """All tensors in what a network returned."""
    if isinstance(output, Tensor):
        yield path, output
    elif isinstance(output, Mapping):
        for key, value in output.items():
            yield from leaves(value, (*path, key))
    elif isinstance(output, tuple | list):
        for index, value in enumerate(output):
            yield from leaves(value, (*path, index))
    elif isinstance(getattr(output, "logits", None), Tensor):
        yield (*path, "logits"), output.logits


def _named(path: Path) -> str:
    return "output" + "".join(f"[{key!r}]" for key in path)


def columns(tensor: Tensor) -> int:
    """The numbers of one sample where a tensor can be logits, N×K or N×K×1×1; else 0."""
    return tensor.shape[1] if tensor.dim() > 1 and tensor[0].numel() == tensor.shape[1] else 0


def choose(network: nn.Module, trace: Trace, classes: int | None) -> tuple[Path, str]:
    """Where the logits are in the network's output, and a sentence where several tensors could be them.

    Without ``classes`` the main tensor is taken; with them the one of as many columns, the one computed last where
    there are several. Raises ModelError where no tensor fits.
    """
    tensors = list(leaves(trace.output))
    main = as_logits(trace.output)
    if classes is None:
        return next((path for path, tensor in tensors if tensor is main), ()), ""
    fits = [(path, tensor) for path, tensor in tensors if columns(tensor) == classes]
    if not fits:
        check_columns(network, [columns(tensor) for _, tensor in tensors], classes)
        return (), ""
    if len(fits) == 1:
        return fits[0][0], ""
    order = {id(call.output): (place, call.name) for place, call in enumerate(trace.calls)}
    last = (len(trace.calls), "")
    fits.sort(key=lambda fit: ("logits" in fit[0], order.get(id(fit[1]), last)[0]))
    layers = [f"{_named(path)} ({order.get(id(tensor), last)[1] or 'computed'})" for path, tensor in fits]
    return fits[-1][0], (
        f"{type(network).__name__} returns {len(fits)} tensors of {classes} columns: {', '.join(layers)}; the last is "
        "read, another one is chosen by its layer, as in --student-tap or --teacher-tap logits=head"
    )


def check_columns(network: nn.Module, found: list[int], classes: int) -> None:
    """Raises ModelError where none of the outputs' columns is the number of classes."""
    numbers = [number for number in found if number]
    if not numbers or classes in numbers:
        return
    if numbers == [1] and classes == 2:
        remedy = "let it give two logits (0 and its own) for the two classes"
    else:
        remedy = f"build it with {classes} classes, as with num_classes={classes}, or give the data that it is for"
    given = " and ".join(map(str, numbers))
    raise ModelError(f"{type(network).__name__} gives {given} outputs and the data have {classes} classes; {remedy}")


def check_outputs(network: nn.Module, classes: int, example: Inputs) -> tuple[str, ...]:
    """Sentences on what the network returns for images like ``example`` N×C×H×W: which of several outputs is read, and
    outputs that differ between training and evaluation. Raises ModelError where none has as many columns as there are
    ``classes``, or the outputs are not finite."""
    from kdzero_gp.models import discovery

    trace = discovery.run(network, example)
    by_name = getattr(network, "names_outputs", False)  # as detectors do, whose maps may look like logits
    path, note = choose(network, trace, None if by_name else classes)
    notes = [note] if note else []
    logits = pick(trace.output, path)
    if isinstance(logits, Tensor) and not logits.isfinite().all():
        raise ModelError(f"{type(network).__name__} gives outputs that are not finite; check its weights")
    with left_as_found(network, example.device):
        network.train()
        try:
            training = list(leaves(forward(network, trace.example[:PROBE_SAMPLES])))
        except Exception as error:
            first = (str(error).splitlines() or [""])[0]
            raise ModelError(f"{type(network).__name__} fails in training mode ({first}); mend its forward") from error
    evaluation = list(leaves(trace.output))
    shapes = [[(path, tuple(tensor.shape[1:])) for path, tensor in outputs] for outputs in (training, evaluation)]
    if shapes[0] != shapes[1]:
        fitting = [_named(path) for path, tensor in training if columns(tensor) == classes]
        if not fitting and not by_name:
            check_columns(network, [columns(tensor) for _, tensor in training], classes)
        notes.append(
            f"{type(network).__name__} returns {len(training)} tensors in training and {len(evaluation)} in "
            f"evaluation; {fitting[0] if fitting else 'none'} of training is trained, heads beside it learn nothing"
        )
    return tuple(notes)


def check_trainable(network: nn.Module) -> None:
    """Raises ModelError where a network that is to be trained has no parameter that requires a gradient."""
    parameters = list(network.parameters())
    if not any(parameter.requires_grad for parameter in parameters):
        state = "all parameters are frozen (requires_grad=False)" if parameters else "there are no parameters"
        raise ModelError(
            f"{type(network).__name__} cannot be trained: {state}; call requires_grad_(True) on a part of it"
        )
