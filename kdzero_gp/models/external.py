"""Networks from outside: timm, torchvision, and ``module:callable`` from the user's own code.

The libraries are imported when one of their networks is asked for, because they are extras.
"""

import importlib
import inspect
import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from torch import nn

from kdzero_gp.errors import ModelError, install, meant

INSTALL = install("vision")


def extra_package(package: str, spec: str) -> Any:
    """A module of timm or torchvision. Raises ModelError where it is not installed."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        missing = package.partition(".")[0]
        raise ModelError(
            f"the network {spec!r} needs {missing}, which is not installed; install it with: {INSTALL}"
        ) from error


def unknown(library: str, name: str, known: Sequence[str]) -> ModelError:
    """The error for a network that a library does not have."""
    hint = meant(name, known, f"see the list of models in {library}'s docs.")
    return ModelError(f"{library} has no network {name!r}: {hint}")


def from_timm(name: str, classes: int, channels: int) -> nn.Module:
    """A timm network with random weights. Raises ModelError when timm is missing or has no such network.

    Transformers that can take images of any size their patches fit into are built so; their weights are the same.
    """
    timm = extra_package("timm", f"timm:{name}")
    if not timm.is_model(name.partition(".")[0]):
        raise unknown("timm", name, timm.list_models())
    settings: dict[str, Any] = {"pretrained": False, "num_classes": classes, "in_chans": channels}
    network: nn.Module
    try:
        network = timm.create_model(name, dynamic_img_size=True, **settings)
    except TypeError:  # Convolutional networks do not know the setting.
        network = timm.create_model(name, **settings)
    return network


def must_be_colour(name: str, channels: int) -> None:
    """Raises ModelError for images of other channels than torchvision's networks read."""
    if channels != 3:
        raise ModelError(
            f"{name} reads images of 3 channels and these have {channels}; add --channels 3 for grey ones, or choose "
            "another network"
        )


def from_torchvision(name: str, classes: int, channels: int) -> nn.Module:
    """A torchvision classifier with random weights; raises ModelError without torchvision or such a name."""
    models = extra_package("torchvision.models", f"torchvision:{name}")
    known = models.list_models(module=models)
    if name not in known:
        raise unknown("torchvision", name, known)
    must_be_colour(f"torchvision:{name}", channels)
    settings: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        settings["init_weights"] = True  # Left unset, torchvision warns that this default will change.
    network: nn.Module = models.get_model(name, weights=None, num_classes=classes, **settings)
    return network


def published_input(spec: str) -> tuple[dict[str, Any], int] | None:
    """What the published weights of ``timm:NAME`` or ``torchvision:NAME`` expect, as the library records it: the fields
    ``channels``, ``size``, ``mean`` and ``std``, and for how many classes; None where it records nothing."""
    library, _, name = spec.partition(":")
    if library == "timm":
        found: Any = extra_package("timm.models", spec).get_pretrained_cfg(name)
        return None if found is None else timm_input(vars(found))
    if library == "torchvision":
        models = extra_package("torchvision.models", spec)
        weights = models.get_model_weights(name).DEFAULT
        made = weights.transforms()
        side = getattr(made, "crop_size", None) or [None]
        found = {"mean": tuple(made.mean), "std": tuple(made.std), "size": (side[0], side[0]) if side[0] else None}
        return {"channels": 3, **found}, len(weights.meta.get("categories", ()))
    return None


def timm_input(found: Mapping[str, Any]) -> tuple[dict[str, Any], int] | None:
    """The same of timm's ``pretrained_cfg``, as a network carries it or ``config.json`` holds it."""
    if not found.get("mean") or not found.get("std"):
        return None
    size = tuple(found.get("input_size") or ())
    fields = {"mean": tuple(found["mean"]), "std": tuple(found["std"])}
    if len(size) == 3:
        fields |= {"channels": size[0], "size": size[1:]}
    return fields, int(found.get("num_classes") or 0)


CLASSES_NAMES = ("num_classes", "n_classes", "num_class", "nb_classes", "nclass", "classes", "class_num", "num_labels")
"""What users call the argument for the number of classes."""


@contextmanager
def _as_imported(folder: Path) -> Iterator[None]:
    """Puts a folder first on the import path, as ``python -m`` does, and takes it off again. Meanwhile the module sees
    no arguments of ours, and what it prints to standard error is shown only if it does not end the program."""
    path, arguments, printed = str(folder), sys.argv, io.StringIO()
    sys.path.insert(0, path)
    sys.argv = arguments[:1]
    importlib.invalidate_caches()
    try:
        with redirect_stderr(printed):
            yield
        sys.stderr.write(printed.getvalue())
    finally:
        sys.argv = arguments
        if path in sys.path:
            sys.path.remove(path)


def _remedy(error: BaseException, usual: str) -> str:
    """What to do about an error in the user's code, in words after a semicolon."""
    if isinstance(error, SystemExit):
        return "put what parses arguments or ends the program under: if __name__ == '__main__':"
    if any(word in str(error).lower() for word in ("cuda", "nvidia", "mps")):
        return "leave out .cuda() and .to(device), since networks are moved to the device afterwards"
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"start from the directory that holds {error.name.partition('.')[0]}, or install it"
    return usual


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def _imported(spec: str, what: str, folder: Path, module_name: str, attributes: str) -> Any:
    try:
        target: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # The user's module may fail in any way while it is imported.
        remedy = _remedy(error, "start from the directory that holds it, or install it")
        raise ModelError(
            f"The module {module_name!r} of the {what} {spec!r} cannot be imported ({_said(error)}); {remedy}."
        ) from error
    file = getattr(target, "__file__", None)
    if spec.partition(":")[0].endswith(".py") and (file is None or Path(file).resolve().parent != folder.resolve()):
        raise ModelError(f"The file of {spec!r} has the name of another module ({file or module_name}); rename it")
    for attribute in attributes.split("."):
        if not hasattr(target, attribute):
            hint = meant(attribute, dir(target), "name a class or function that it defines.")
            raise ModelError(f"The module {module_name!r} has no {attributes!r}: {hint}")
        target = getattr(target, attribute)
    return target


def user_object(spec: str, what: str) -> Any:
    """What ``module:name`` names in the user's own code. Raises ModelError."""
    module_name, _, attributes = spec.partition(":")
    with _as_imported(Path.cwd()):
        return _imported(spec, what, Path.cwd(), module_name, attributes)


def _check_factory(spec: str, target: Any) -> None:
    if isinstance(target, nn.Module):
        raise ModelError(f"{spec!r} is a network already; name the class or a function that makes a new one each time.")
    if not callable(target):
        raise ModelError(f"{spec!r} is a {type(target).__name__}; name a class or function that makes a network.")


def classes_name(target: Any) -> str | None:
    """The argument of a callable that takes the number of classes, or None."""
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return None
    names = {p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL, p.POSITIONAL_ONLY)}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return next((name for name in CLASSES_NAMES if name in names), CLASSES_NAMES[0] if open_ended else None)


def from_user_code(spec: str, classes: int) -> nn.Module:
    """The network that ``module:callable`` or ``file.py:callable`` returns; it gets the number of classes if it takes
    it under one of the usual names.

    Raises ModelError when the module cannot be imported, the callable is missing or fails, or what it returns
    is not an ``nn.Module``.
    """
    name, _, attributes = spec.partition(":")
    is_file = name.endswith(".py")
    folder = Path(name).expanduser().parent if is_file else Path.cwd()
    if is_file and not Path(name).expanduser().is_file():
        raise ModelError(f"There is no file {name} for the network {spec!r}; give the path from here, or its module")
    with _as_imported(folder.absolute()):
        target = _imported(spec, "network", folder, Path(name).stem if is_file else name, attributes)
        _check_factory(spec, target)
        argument = classes_name(target)
        settings = {argument: classes} if argument else {}
        try:
            network = target(**settings)
        except (Exception, SystemExit) as error:  # The user's callable may fail in any way.
            shown = ", ".join(f"{key}={value}" for key, value in settings.items())
            usual = "it has to return a network when called with num_classes or without arguments"
            raise ModelError(f"Calling {spec}({shown}) failed with {_said(error)}; {_remedy(error, usual)}.") from error
    if not isinstance(network, nn.Module):
        raise ModelError(f"{spec} returned a {type(network).__name__}; it has to return a torch.nn.Module.")
    return network
