"""Weights in files: safetensors, or a torch state dict, which is read without running code."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kdzero_gp.errors import ModelError

NESTED_UNDER = ("state_dict", "model", "net")
"""Keys under which training scripts put the state dict beside the epoch and the optimizer."""
WRAPPER_PREFIXES = ("module.", "_orig_mod.", "model.")
"""What DataParallel, torch.compile and training frameworks put in front of every key."""

HEADER_BYTES = 9
"""A safetensors file starts with the length of its header (8 bytes) and the header's opening brace."""


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Loads a safetensors file or a torch state dict into ``network``; every key and shape has to fit.

    The state dict may be nested under ``state_dict``, ``model`` or ``net``, and its keys may carry the prefix
    of a wrapper. Raises ModelError when the file is missing or holds no weights, or naming the first
    differing key; the network is unchanged then.
    """
    path = Path(path).expanduser()
    expected = network.state_dict()
    weights = _without_prefixes(_tensors(_read(path), path), expected.keys())
    _check_fit(weights, expected, type(network).__name__, path)
    network.load_state_dict(weights)


def save_weights(network: nn.Module, path: str | Path) -> None:
    """Writes the weights of ``network`` to a safetensors file, wholly or not at all; raises ModelError if it
    cannot.

    Tensors that share memory are written one by one, so that the file loads with the same keys.
    """
    path = Path(path).expanduser()
    weights = {key: value.detach().cpu().contiguous().clone() for key, value in network.state_dict().items()}
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
        save_file(weights, temporary)
        _finish(Path(temporary), path)
        temporary = None
    except (OSError, SafetensorError) as error:
        raise ModelError(f"The weights cannot be written to {path} ({error}); name another file.") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _finish(temporary: Path, path: Path) -> None:
    """Puts the complete file in place: first on the disk, then under its name."""
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    mask = os.umask(0)
    os.umask(mask)
    temporary.chmod(0o666 & ~mask)  # Temporary files are private; weights get the usual rights.
    temporary.replace(path)


def _read(path: Path) -> Any:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ModelError(f"The weights file {path} {what}; give the path of a safetensors file or a state dict.")
    try:
        with path.open("rb") as file:
            is_safetensors = file.read(HEADER_BYTES)[-1:] == b"{"
        if is_safetensors:
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # A file that is no weights file makes the readers fail in many ways.
        reason = str(error).partition("\n")[0]
        raise ModelError(
            f"{path} is no weights file ({type(error).__name__}: {reason}); give a safetensors file or what "
            "torch.save(network.state_dict(), path) writes."
        ) from error


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict in what was read, possibly nested."""
    while isinstance(content, Mapping):
        inner = next((content[key] for key in NESTED_UNDER if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping):
        raise ModelError(
            f"{path} holds a {type(content).__name__} and no state dict; write it with "
            "torch.save(network.state_dict(), path)."
        )
    weights = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not weights:
        raise ModelError(
            f"{path} holds no tensors by name, at the top or under {', '.join(NESTED_UNDER)}; write it with "
            "torch.save(network.state_dict(), path)."
        )
    return weights


def _without_prefixes(weights: dict[str, Tensor], expected: Any) -> dict[str, Tensor]:
    """Strips wrapper prefixes that all keys carry, as long as more keys fit the expected ones for it."""
    best = weights
    stripped: dict[str, Tensor] | None = weights
    while stripped is not None:
        if len(stripped.keys() & expected) > len(best.keys() & expected):
            best = stripped
        prefix = next((p for p in WRAPPER_PREFIXES if all(key.startswith(p) for key in stripped)), None)
        stripped = None if prefix is None else {k.removeprefix(prefix): v for k, v in stripped.items()}
    return best


def _check_fit(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], architecture: str, path: Path) -> None:
    remedy = "build the network that the weights were trained for, with as many classes, or give other weights."
    for key, tensor in expected.items():
        if key not in weights:
            raise ModelError(
                f"{path} does not fit {architecture}: the key {key!r} is missing (expected shape "
                f"{tuple(tensor.shape)}); {remedy}"
            )
        if weights[key].shape != tensor.shape:
            raise ModelError(
                f"{path} does not fit {architecture}: the key {key!r} has shape {tuple(weights[key].shape)} "
                f"and {tuple(tensor.shape)} is expected; {remedy}"
            )
    for key in weights:
        if key not in expected:
            raise ModelError(f"{path} does not fit {architecture}: the key {key!r} is unexpected; {remedy}")
