"""A pretended CUDA device: tensors without data that know where they are, and a mode that finds what leaves it."""

import contextlib
import functools

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import kdzero_gp
from strategies import random_trees


class LeftTheDevice(AssertionError):
    """A step made a tensor on the processor."""


class OnDevice(TorchDispatchMode):
    """Every operation has to give tensors on one kind of device; a scalar on the processor would pass unseen, since
    torch lets it meet tensors of any device."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, torch.Tensor) and tensor.device.type != self.kind:
                raise LeftTheDevice(f"{function} gives a tensor on {tensor.device.type}, not on {self.kind}")
        return found


@contextlib.contextmanager
def pretended_cuda():
    """Inside, a tensor on ``cuda`` can be made without a device; no numbers are computed. Not for gradients: the
    engine that computes them asks for the device."""
    with FakeTensorMode(allow_non_fake_inputs=False):
        yield


def fake_batch(pair, count, device="cuda", places=()):
    """(student, teacher, labels) without data; ``places`` is the size of label maps."""
    sides = [{name: torch.empty(count, *shape, device=device) for name, shape in side.items()} for side in pair]
    return *sides, torch.zeros(count, *places, dtype=torch.long, device=device)


def loss_on_cuda(distiller_of, pair, count=6, places=()):
    """The loss of a distiller on the pretended device, in two steps as an engine has them. Raises LeftTheDevice, or
    what torch raises where devices meet or a value is asked for."""
    with pretended_cuda():
        with torch.device("cuda"):
            distiller = distiller_of()
        student, teacher, labels = fake_batch(pair, count, places=places)
        with OnDevice("cuda"):
            targets = distiller.prepare(teacher, labels)
            loss = distiller.loss(student, targets, labels)
    assert loss.shape == () and loss.device.type == "cuda"


def draws_numbers(expression):
    """Whether a distiller draws random numbers, which no two devices draw alike."""
    return any(
        node.name in kdzero_gp.catalogue and kdzero_gp.catalogue[node.name].noise is not None
        for node in expression.walk()
    )


@functools.cache
def trees_by_operation():
    """For each operation of the catalogue a small distiller with it, without random numbers where that can be."""
    found = {}
    for tree in random_trees(3000, seed=31, longest=2, most=2, searchable_only=False):
        for node in tree.walk():
            if node.name in kdzero_gp.catalogue:
                place = found.setdefault(node.name, tree)
                if (draws_numbers(tree), tree.size) < (draws_numbers(place), place.size):
                    found[node.name] = tree
    return found
