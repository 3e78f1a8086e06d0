"""Networks from outside: timm, torchvision, and ``module:callable`` from the user's own code.

The libraries are imported when one of their networks is asked for, because they are extras.
"""

import importlib
import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from kdzero_gp.errors import ModelError

INSTALL = "pip install 'kdzero-gp[vision]'"


def _library(package: str, spec: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ModelError(
            f"The network {spec!r} needs the package {package.partition('.')[0]}, which is not installed; "
            f"install it with: {INSTALL}"
        ) from error


def _unknown(library: str, name: str, known: Sequence[str]) -> ModelError:
    close = get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"see the list of models in {library}'s docs."
    return ModelError(f"{library} has no network {name!r}: {hint}")


def from_timm(name: str, classes: int, channels: int) -> nn.Module:
    """A timm network with random weights. Raises ModelError when timm is missing or has no such network.

    Transformers that can take images of any size their patches fit into are built so; their weights are the same.
    """
    timm = _library("timm", f"timm:{name}")
    if not timm.is_model(name.partition(".")[0]):
        raise _unknown("timm", name, timm.list_models())
    settings: dict[str, Any] = {"pretrained": False, "num_classes": classes, "in_chans": channels}
    network: nn.Module
    try:
        network = timm.create_model(name, dynamic_img_size=True, **settings)
    except TypeError:  # Convolutional networks do not know the setting.
        network = timm.create_model(name, **settings)
    return network


def from_torchvision(name: str, classes: int, channels: int) -> nn.Module:
    """A torchvision classifier with random weights; raises ModelError without torchvision or such a name."""
    models = _library("torchvision.models", f"torchvision:{name}")
    known = models.list_models(module=models)
    if name not in known:
        raise _unknown("torchvision", name, known)
    if channels != 3:
        raise ModelError(
            f"torchvision:{name} takes images of 3 channels and the data have {channels}; "
            "choose a built-in or timm network instead."
        )
    settings: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        settings["init_weights"] = True  # Left unset, torchvision warns that this default will change.
    network: nn.Module = models.get_model(name, weights=None, num_classes=classes, **settings)
    return network


@contextmanager
def _current_directory_importable() -> Iterator[None]:
    """Puts the current directory first on the import path, as ``python -m`` does, and takes it off again."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)


def user_object(spec: str, what: str) -> Any:
    """What ``module:name`` names in the user's own code. Raises ModelError."""
    module_name, _, attributes = spec.partition(":")
    try:
        with _current_directory_importable():
            target: Any = importlib.import_module(module_name)
    except Exception as error:  # The user's module may fail in any way while it is imported.
        raise ModelError(
            f"The module {module_name!r} of the {what} {spec!r} cannot be imported "
            f"({type(error).__name__}: {error}); start from the directory that holds it, or install it."
        ) from error
    for attribute in attributes.split("."):
        if not hasattr(target, attribute):
            close = get_close_matches(attribute, dir(target), n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(close)}?" if close else "name a class or function that it defines."
            raise ModelError(f"The module {module_name!r} has no {attributes!r}: {hint}")
        target = getattr(target, attribute)
    return target


def _takes_classes(target: Any) -> bool:
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(p.name == "num_classes" or p.kind is p.VAR_KEYWORD for p in parameters)


def from_user_code(spec: str, classes: int) -> nn.Module:
    """The network that ``module:callable`` returns; it gets ``num_classes`` if its signature takes it.

    Raises ModelError when the module cannot be imported, the callable is missing or fails, or what it returns
    is no ``nn.Module``.
    """
    with _current_directory_importable():
        target = user_object(spec, "network")
        if not callable(target):
            raise ModelError(f"{spec!r} is a {type(target).__name__}; name a class or function that makes a network.")
        settings = {"num_classes": classes} if _takes_classes(target) else {}
        try:
            network = target(**settings)
        except Exception as error:  # The user's callable may fail in any way.
            shown = ", ".join(f"{key}={value}" for key, value in settings.items())
            raise ModelError(
                f"Calling {spec}({shown}) failed with {type(error).__name__}: {error}; it has to return a "
                "network when called with num_classes or without arguments."
            ) from error
    if not isinstance(network, nn.Module):
        raise ModelError(f"{spec} returned a {type(network).__name__}; it has to return a torch.nn.Module.")
    return network
