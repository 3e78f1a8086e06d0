"""Reads the user's own data: tensors, arrays, data sets of torch, data loaders, lists of samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from kdzero_gp.data.drawing import drawing_from
from kdzero_gp.data.inputs import Inputs, tensors_of, wrapped
from kdzero_gp.data.memory import must_fit
from kdzero_gp.errors import DataError

TARGETS = ("labels", "label", "targets", "target")
"""What a sample that is one mapping calls its target."""
PROBED = 16
"""So many samples are read twice, to see whether a transform draws at random."""
_PRIME = 1_000_003


@dataclass
class Samples:
    """One part of the user's data in memory: inputs N×… and targets N….

    ``again`` reads some samples anew, as another draw of a random transform (None: there is nothing random)."""

    inputs: Inputs
    targets: Tensor
    notes: list[str] = field(default_factory=list)
    classes: tuple[str, ...] = ()
    again: Redraw | None = None

    @property
    def repeatable(self) -> bool:
        """Whether the samples are the same whenever they are read, if what draws at random is seeded."""
        if self.again is None:
            return True
        places = range(min(PROBED, len(self.targets)))
        return all(_equal(self.again(place, 1), self.again(place, 1)) for place in places)


@dataclass(frozen=True)
class Redraw:
    """Reads samples of a data set whose transform draws at random; what is drawn follows from the seed."""

    source: Any

    def __call__(self, index: int, seed: int) -> Inputs:
        """The inputs of one sample, without a batch axis."""
        with drawing_from((seed * _PRIME + index) % (1 << 62)):
            return _pair(self.source[index])[0]


def read(source: Any, part: str) -> Samples:
    """A part of the user's data: (inputs, targets), a ``Dataset`` or list of such, or a ``DataLoader`` of it; an input
    is a tensor or a mapping of tensors. Raises DataError for what is none of these."""
    notes = []
    if isinstance(source, DataLoader):
        notes.append(f"{part}: the data set of the data loader is read; its batches, order and workers are not used")
        source = source.dataset
    if type(source) is TensorDataset and len(source.tensors) == 2:
        source = source.tensors
    whole = _whole(source)
    if whole is not None:
        return _checked(Samples(wrapped(whole[0]), whole[1], notes), part)
    classes = tuple(map(str, getattr(source, "classes", None) or ()))
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        found = _read_all(source, len(source), lambda index: source[index], part)
        again = Redraw(source) if _draws(source) else None
    elif isinstance(source, Iterable):
        items = list(source)
        found, again = _read_all(items, len(items), items.__getitem__, part), None
    else:
        raise DataError(
            f"the {part} data are a {type(source).__name__}; give a Dataset, a pair (inputs, targets) or a DataLoader"
        )
    return _checked(Samples(*found, notes, classes, again), part)


def _whole(source: Any) -> tuple[Any, Tensor] | None:
    """Inputs and targets where they are given as whole tensors, else None."""
    if isinstance(source, Mapping):
        source = _split_mapping(source)
    if not isinstance(source, tuple | list) or len(source) != 2:
        return None
    inputs, targets = source
    arrays = (Tensor, np.ndarray)
    if not isinstance(targets, arrays) or np.ndim(targets) == 0:
        return None
    if isinstance(inputs, Mapping):
        return {name: _tensor(value) for name, value in inputs.items()}, _tensor(targets)
    return (_tensor(inputs), _tensor(targets)) if isinstance(inputs, arrays) else None


def _split_mapping(sample: Mapping[str, Any]) -> tuple[Any, Any]:
    """A mapping with its target, as the pair of both. Raises DataError."""
    name = next((name for name in TARGETS if name in sample), None)
    if name is None:
        raise DataError(
            f"a sample is a mapping of {', '.join(map(str, sample))} without a target; call one of them labels, or "
            "give (mapping, target)"
        )
    return {key: value for key, value in sample.items() if key != name}, sample[name]


def _pair(sample: Any) -> tuple[Inputs, Tensor]:
    """Input and target of one sample. Raises DataError."""
    if isinstance(sample, Mapping):
        sample = _split_mapping(sample)
    if not isinstance(sample, tuple | list) or len(sample) != 2:
        size = f" of {len(sample)}" if isinstance(sample, tuple | list) else ""
        raise DataError(f"a sample is a {type(sample).__name__}{size}; it has to be (input, target)")
    inputs, target = sample
    if isinstance(inputs, Mapping):
        return {name: _tensor(value) for name, value in inputs.items()}, _tensor(target)
    return _tensor(inputs), _tensor(target)


def _tensor(value: Any) -> Tensor:
    """A value as a tensor; real numbers in float32, which networks compute in. Raises DataError."""
    if not isinstance(value, Tensor):
        if not isinstance(value, np.ndarray | np.generic | int | float | bool | Sequence) or isinstance(value, str):
            remedy = "add transforms.ToTensor()" if "PIL" in type(value).__module__ else "turn it into a tensor"
            raise DataError(f"a sample holds a {type(value).__name__}; {remedy} in the data set's transform")
        try:
            value = torch.as_tensor(np.asarray(value))
        except (TypeError, ValueError) as error:
            raise DataError(f"a sample holds something that is not a tensor ({error}); turn it into numbers") from None
    return value.detach().float() if value.is_floating_point() else value.detach()


def _read_all(source: Any, count: int, item: Callable[[int], Any], part: str) -> tuple[Inputs, Tensor]:
    """All samples, each drawn from its own seed, as one tensor for each field."""
    if not count:
        raise DataError(f"the {part} data are empty")

    def drawn(index: int) -> tuple[Inputs, Tensor]:
        with drawing_from(index):
            return _pair(item(index))

    inputs, target = drawn(0)
    named = inputs if isinstance(inputs, Mapping) else {"": inputs}
    needed = count * sum(tensor.numel() * tensor.element_size() for tensor in named.values())
    remedy = "give a part of them, for example torch.utils.data.Subset(data, range(10000))"
    must_fit(needed, f"the {part} data", remedy)
    fields = {name: torch.empty((count, *tensor.shape), dtype=tensor.dtype) for name, tensor in named.items()}
    targets = torch.empty((count, *target.shape), dtype=target.dtype)
    for index in range(count):
        inputs, target = drawn(index)
        values = inputs if isinstance(inputs, Mapping) else {"": inputs}
        for name, place in [*fields.items(), (None, targets)]:
            value = target if name is None else values.get(name)
            if value is None or value.shape != place.shape[1:]:
                what = "lacks " + str(name) if value is None else f"has shape {tuple(value.shape)}"
                raise DataError(
                    f"sample {index} of the {part} data {what} and the first {tuple(place.shape[1:])}; bring all to "
                    "one shape (resize, crop or pad)"
                )
            place[index] = value
    return (wrapped(fields) if "" not in fields else fields[""]), targets


def _draws(source: Any) -> bool:
    """Whether reading a sample twice gives something else."""
    redraw = Redraw(source)
    return not all(_equal(redraw(index, 1), redraw(index, 2)) for index in range(min(PROBED, len(source))))


def _equal(one: Inputs, other: Inputs) -> bool:
    pairs = zip(tensors_of(wrapped(one)), tensors_of(wrapped(other)), strict=True)
    return all(torch.equal(a[1], b[1]) for a, b in pairs)


def _checked(samples: Samples, part: str) -> Samples:
    """Raises DataError where inputs and targets are not of one number, or there are numbers that are none."""
    for name, tensor in tensors_of(samples.inputs):
        if tensor.dim() == 0 or len(tensor) != len(samples.targets):
            raise DataError(
                f"the {part} data have {len(samples.targets)} targets and {name or 'inputs'} of shape "
                f"{tuple(tensor.shape)}; the first axis of both counts samples"
            )
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise DataError(f"the {part} data hold values that are not finite; replace NaN and infinity in them")
    return samples
