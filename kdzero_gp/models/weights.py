"""Weights in files: safetensors, whole or in shards, or what torch saved, which is read without running code."""

import json
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kdzero_gp.errors import ModelError
from kdzero_gp.files import atomic_write
from kdzero_gp.models.contract import InputContract
from kdzero_gp.models.unpickling import Foreign, flattened, read_tensors

HEADER_BYTES = 9
"""A safetensors file starts with the length of its header (8 bytes) and the header's opening brace."""
WRAPPERS = {"module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module"}
"""What DataParallel, torch.compile and the like put between the parts of a key."""
COUNTERS = {"num_batches_tracked", "n_averaged", "total_ops", "total_params"}
"""Buffers that no output depends on: torch itself allows the first to be missing, profilers leave the last two."""
LATER = ("student", "ema", "avg", "averaged", "swa", "shadow", "optim")
"""Words in the name of weights that are taken only where no others fit."""
INDEX = ".index.json"
"""The end of the file that says which shard has which tensor."""
NAMES = ("model.safetensors", "pytorch_model.bin", "diffusion_pytorch_model.safetensors")
"""What published folders call their weights, or the index of their shards."""
SHARD = re.compile(r"-\d{5}-of-\d{5}(?=\.)")
KINDS = {
    b"version https://git-lfs": "a Git LFS pointer; get the file itself with: git lfs pull",
    b"<": "a web page; download the file itself",
    b"\x1f\x8b": "a gzip file; unpack it",
    b"7z\xbc\xaf": "a 7z archive; unpack it",
    b"Rar!": "a RAR archive; unpack it",
    b"\x89HDF": "an HDF5 file (Keras); convert it to torch",
    b"\x93NUMPY": "a numpy file; convert it to torch",
    b"{": "a JSON file; give the weights beside it",
}
"""How files begin that are given by mistake, and what to do."""


@dataclass(frozen=True)
class WeightsRecord:
    """What ``load_weights`` took: ``section`` is the prefix of the keys in the file, ``others`` those of weights that
    fit as well, ``ignored`` keys beside the weights, ``missing`` counters that the file lacks."""

    path: str
    section: str
    others: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def sentence(self) -> str:
        """What was chosen, where there was a choice; else empty."""
        if not self.others:
            return ""
        names, taken = (", ".join(repr(o) for o in self.others), self.section or "the top")
        return (
            f"{self.path} holds several weights that fit: {taken!r} is taken; for {names} write "
            f"{self.path}#{self.others[0] or 'top'}"
        )


def load_weights(network: nn.Module, path: str | Path) -> WeightsRecord:
    """Loads the weights that fit ``network`` from a safetensors file, an index of shards, or anything that
    ``torch.save`` wrote, however deep and under whatever prefix they lie.

    ``FILE#KEY`` names the weights where several fit; otherwise plain ones go before averaged ones and a warning
    says so. Every parameter has to be there with its shape. Raises ModelError when the file is missing or holds no
    weights, or naming the first differing key; the network is unchanged then.
    """
    path, section = _with_section(Path(path).expanduser())
    content = {key: tensor for key, tensor in flattened(_read(path)) if key}
    if not content:
        raise ModelError(f"{path} holds no tensors by name; write it with torch.save(network.state_dict(), path)")
    expected = network.state_dict()
    fits = _fits(content, expected)
    if section is not None:
        fits = [fit for fit in fits if fit.prefix == section or (section == "top" and not fit.prefix)]
    if not fits:
        name = type(network).__name__
        raise ModelError(f"{path} does not fit {name}: {_reason(content, expected)}; build the network that the "
                         "weights were trained for, with as many classes, or give other weights")  # fmt: skip
    best = fits[0]
    broken = next((k for k, v in best.weights.items() if v.is_floating_point() and not v.isfinite().all()), None)
    if broken:
        raise ModelError(f"{path} holds values that are not finite in {broken!r}; give other weights")
    others = [fit for fit in fits[1:] if any(not torch.equal(v, best.weights[k]) for k, v in fit.weights.items())]
    network.load_state_dict({**expected, **best.weights})
    ignored = tuple(sorted(content.keys() - best.keys))
    missing = tuple(sorted(expected.keys() - best.weights.keys()))
    record = WeightsRecord(str(path), best.prefix, tuple(fit.prefix for fit in others), ignored, missing)
    if record.sentence() and section is None:
        warnings.warn(record.sentence(), stacklevel=2)
    return record


def save_weights(network: nn.Module, path: str | Path, contract: InputContract | None = None) -> None:
    """Writes the weights of ``network`` to a safetensors file, with what it expects of images, wholly or not at all.
    Raises RunError or ModelError where it cannot.

    Tensors that share memory are written one by one, so that the file loads with the same keys.
    """
    path = Path(path).expanduser()
    weights = {key: value.detach().cpu().contiguous().clone() for key, value in network.state_dict().items()}
    metadata = contract.as_metadata() if contract else None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, lambda temporary: save_file(weights, temporary, metadata), "free space or name another file")
    except (OSError, SafetensorError) as error:
        raise ModelError(f"the weights cannot be written to {path} ({error}); name another file") from error


def _with_section(path: Path) -> tuple[Path, str | None]:
    name, mark, section = path.name.partition("#")
    return (path.with_name(name), section) if mark and not path.exists() else (path, None)


def _read(path: Path) -> Any:
    if path.is_dir():
        inside = [path / (name + end) for name in NAMES for end in (INDEX, "")]
        path = next((file for file in inside if file.is_file()), path)
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise ModelError(f"the weights file {path} {problem}; give the path of a safetensors file or a state dict")
    if path.name.endswith(INDEX):
        return _read_shards(path)
    whole = path.with_name(SHARD.sub("", path.name) + INDEX)
    if SHARD.search(path.name) and whole.is_file():
        return _read_shards(whole)
    try:
        with path.open("rb") as file:
            start = file.read(300)
        if start[HEADER_BYTES - 1 : HEADER_BYTES] == b"{":
            return load_file(path)
        _refuse_other_kinds(path, start)
        return _read_saved(path)
    except ModelError:
        raise
    except Exception as error:  # A file that is not a weights file makes the readers fail in many ways.
        reason = str(error).partition("\n")[0]
        raise ModelError(
            f"{path} is not a weights file or is damaged ({type(error).__name__}: {reason}); give a safetensors "
            "file or what torch.save(network.state_dict(), path) writes"
        ) from error


def _read_saved(path: Path) -> Any:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch refuses all tensors for one object beside them
        content = read_tensors(path)
    if not isinstance(content, Mapping | Foreign):
        raise ModelError(
            f"{path} holds a {type(content).__name__} and no state dict; write it with "
            "torch.save(network.state_dict(), path)"
        )
    return content


def _read_shards(index: Path) -> dict[str, Any]:
    content: dict[str, Any] = {}
    try:
        shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index} is not an index of shards ({type(error).__name__}); get it again") from error
    for shard in shards:
        if not (index.parent / shard).is_file():
            raise ModelError(f"the shard {shard} that {index} names is missing; get it and put it beside the index")
        content |= dict(flattened(_read_shard(index.parent / shard)))
    return content


def _read_shard(path: Path) -> Any:
    return load_file(path) if path.suffix == ".safetensors" else _read_saved(path)


def _refuse_other_kinds(path: Path, start: bytes) -> None:
    kind = next((kind for sign, kind in KINDS.items() if start.lstrip().startswith(sign)), "")
    if start[257:262] == b"ustar":
        kind = "a tar archive; unpack it"
    if not start:
        kind = "an empty file; get it again"
    if start.startswith(b"PK"):
        if not zipfile.is_zipfile(path):
            kind = "cut off, perhaps in a download; get it again"
        else:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
            if any(name.endswith("constants.pkl") for name in names):
                kind = "a TorchScript program; save its weights with: torch.save(program.state_dict(), path)"
            elif not any(name.endswith("data.pkl") for name in names):
                kind = "a zip of other files; unpack it"
    if kind:
        raise ModelError(f"{path} is not a weights file but {kind}")


@dataclass(frozen=True)
class _Fit:
    """Weights under one prefix: by the network's keys, and all keys of the file that they may explain."""

    prefix: str
    weights: dict[str, Tensor]
    keys: frozenset[str]


def _fits(content: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[_Fit]:
    """All weights that fit, the one to take first."""
    fits = []
    for prefix, weights, keys in _candidates(content, expected):
        wrong = [k for k, v in expected.items() if k not in weights and not _is_counter(k)]
        wrong += [k for k, v in weights.items() if k in expected and v.shape != expected[k].shape]
        wrong += [k for k, v in weights.items() if k not in expected and v.numel() != 1 and not _is_counter(k)]
        if not wrong:
            fits.append(_Fit(prefix, {k: v for k, v in weights.items() if k in expected}, keys))
    return sorted(fits, key=lambda fit: any(word in fit.prefix.lower() for word in LATER))


def _is_counter(key: str) -> bool:
    return key.rpartition(".")[2] in COUNTERS


def _plain(key: str) -> str:
    return ".".join(part for part in key.split(".") if part not in WRAPPERS)


def _candidates(
    content: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> Iterator[tuple[str, dict[str, Tensor], frozenset[str]]]:
    """Prefix, tensors by the network's keys, and keys in the file: for each way in which the file may name a network.

    As they are; without what wrappers put between; and without the prefix that all of the network's own keys share.
    """
    tried = set()
    shared: list[str] = []
    for parts in zip(*(key.split(".")[:-1] for key in expected), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    names = {key: key for key in expected}
    ways: list[tuple[dict[str, str], Callable[[str], str]]] = [
        (names, str),
        ({_plain(key): key for key in expected}, _plain),
    ]
    if shared:
        start = ".".join(shared) + "."
        ways.append(({key.removeprefix(start): key for key in expected}, str))
    for wanted, spelled in ways:
        spelling = {spelled(key): key for key in content}
        anchor = max(wanted, key=lambda key: (not _is_counter(key), key.count("."), len(key)), default="")
        for found in [key for key in spelling if key == anchor or key.endswith("." + anchor)]:
            prefix = found.removesuffix(anchor)
            below = {key.removeprefix(prefix): original for key, original in spelling.items() if key.startswith(prefix)}
            if prefix:  # a head beside its backbone
                above = prefix.rstrip(".").rpartition(".")[0]
                above = above + "." if above else ""
                below |= {k: spelling[above + k] for k in wanted if k not in below and above + k in spelling}
            keys = frozenset(below.values())
            if keys not in tried:
                tried.add(keys)
                yield prefix.rstrip("."), {wanted.get(k, k): content[o] for k, o in below.items()}, keys


def _reason(content: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """What keeps the most similar weights from fitting."""
    candidates = [weights for _, weights, _ in _candidates(content, expected)] or [dict(content)]
    weights = max(candidates, key=lambda weights: len(weights.keys() & expected.keys()))
    for key, tensor in expected.items():
        if key not in weights and not _is_counter(key):
            return f"the key {key!r} is missing (expected shape {tuple(tensor.shape)})"
        if key in weights and weights[key].shape != tensor.shape:
            return f"the key {key!r} has shape {tuple(weights[key].shape)} and {tuple(tensor.shape)} is expected"
    extra = next((k for k, v in weights.items() if k not in expected and v.numel() != 1), "")
    return f"the key {extra!r} is unexpected" if extra else "the named weights are not there"


def load_backbone(network: nn.Module, path: str | Path) -> None:
    """Loads the weights of the part of a network that is called ``backbone``; what else the file holds, such as a
    classifier, stays unused. Raises ModelError where there is no such part or a weight of it is missing."""
    part = _backbone(network)
    if part is None:
        raise ModelError(f"{type(network).__name__} has no part called backbone, for which --backbone gives weights")
    content = {key: tensor for key, tensor in flattened(_read(Path(path).expanduser())) if key}
    wanted = part.state_dict()
    first = next(iter(wanted))
    for prefix in [key.removesuffix(first) for key in content if key.endswith(first)]:
        fitting = {name: content[prefix + name] for name in wanted if prefix + name in content}
        needed = {name for name in wanted if name.rpartition(".")[2] not in COUNTERS}
        if needed <= fitting.keys() and all(fitting[name].shape == wanted[name].shape for name in fitting):
            part.load_state_dict(fitting, strict=False)
            return
    raise ModelError(f"{path} does not hold all weights of the backbone of {type(network).__name__}, such as {first}; "
                     "give those of the same architecture")  # fmt: skip


def inherited(student: nn.Module, teacher: nn.Module) -> dict[str, Tensor]:
    """What a student can take of a teacher's neck and head: the teacher's weights outside its backbone that have the
    name and shape of one of the student's there. Raises ModelError where no layer is alike."""
    for role, network in (("student", student), ("teacher", teacher)):
        if _backbone(network) is None:
            raise ModelError(
                f"the {role} {type(network).__name__} has no part called backbone, so its head cannot be told; leave "
                "--inherit-head out"
            )
    own, its = _outside_backbone(student), _outside_backbone(teacher)
    found = {name: its[name] for name, tensor in own.items() if name in its and its[name].shape == tensor.shape}
    if not any(tensor.dim() > 1 for tensor in found.values()):
        raise ModelError(
            f"no layer of the teacher's head has the name and shape of one of the student's {type(student).__name__}; "
            "leave --inherit-head out, or give networks with the same head"
        )
    return found


def _backbone(network: nn.Module) -> nn.Module | None:
    part = getattr(network, "backbone", None)
    part = getattr(part, "body", part)  # below a pyramid
    return part if isinstance(part, nn.Module) else None


def _outside_backbone(network: nn.Module) -> dict[str, Tensor]:
    """The weights of neck and head. A part may have several names, so tensors are told apart by themselves."""
    part = _backbone(network)
    assert part is not None
    inside = {id(tensor) for tensor in part.state_dict(keep_vars=True).values()}
    return {n: t.detach() for n, t in network.state_dict(keep_vars=True).items() if id(t) not in inside}
