"""Networks by name: the built-in ones, those of timm and torchvision, and the user's own.

To add a built-in network, list its factory in the ``NETWORKS`` table of its file.
"""

from torch import nn

from kdzero_gp.errors import ModelError, meant
from kdzero_gp.models import external, mobilenet, resnet, shufflenet, small, vgg, wide_resnet
from kdzero_gp.models.layers import Factory
from kdzero_gp.objects import find, is_own

__all__ = ["build", "names"]

FAMILIES = (small, resnet, wide_resnet, vgg, mobilenet, shufflenet)


def _registry(tables: list[dict[str, Factory]]) -> dict[str, Factory]:
    """One table out of the families' tables; raises ValueError when two families claim one name."""
    merged: dict[str, Factory] = {}
    for table in tables:
        taken = merged.keys() & table.keys()
        if taken:
            raise ValueError(f"the network {min(taken)!r} is registered twice; give one of them another name")
        merged.update(table)
    return merged


_NETWORKS = _registry([family.NETWORKS for family in FAMILIES])


def names() -> tuple[str, ...]:
    """The names of the built-in networks, sorted."""
    return tuple(sorted(_NETWORKS))


def build(name: str, classes: int, channels: int = 3) -> nn.Module:
    """A new network with random weights that maps images N×C×H×W (C = ``channels``) to logits N×K.

    ``name`` is a built-in name, ``timm:NAME``, ``torchvision:NAME``, or ``module:callable`` from the user's
    own code, importable from the current directory; or one of the user's objects (``own:…``). Raises
    ModelError when the name is unknown or cannot be built.
    """
    if classes < 1 or channels < 1:
        raise ModelError(
            f"A network for {classes} classes and {channels} image channels cannot be built: "
            "both numbers have to be 1 or more"
        )
    if is_own(name):
        network: nn.Module = find(name).build(classes)
        return network
    if name in _NETWORKS:
        return _NETWORKS[name](classes, channels)
    library, colon, rest = name.partition(":")
    if not colon:
        module, _, attribute = name.removesuffix(".py").rpartition(".")
        otherwise = f"did you mean {module}:{attribute}?" if module else f"built in are {', '.join(names())};"
        raise ModelError(
            f"there is no network {name!r}: {meant(name, names(), otherwise)} timm:NAME, torchvision:NAME and "
            "module:callable work too"
        )
    if library == "timm":
        return external.from_timm(rest, classes, channels)
    if library == "torchvision":
        return external.from_torchvision(rest, classes, channels)
    return external.from_user_code(name, classes)
