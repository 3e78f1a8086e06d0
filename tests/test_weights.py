"""Weights in files: formats, nesting, wrapper prefixes, and what is said when they do not fit."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from kdzero_gp import models
from kdzero_gp.errors import ModelError, RunError
from kdzero_gp.models.contract import read_contract
from kdzero_gp.models.digest import content_digest
from kdzero_gp.models.weights import load_weights, save_weights


def network(classes: int = 10) -> nn.Module:
    return models.build("digits_cnn_4", classes, 1)


def equal(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def prefixed(prefix: str, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in weights.items()}


def test_saved_weights_come_back(tmp_path: Path):
    source, target = network(), network()
    source(torch.randn(8, 1, 8, 8))  # Statistics of the batch normalisation that differ from the start.
    save_weights(source, tmp_path / "new" / "weights.safetensors")
    assert not equal(source, target)
    load_weights(target, tmp_path / "new" / "weights.safetensors")
    assert equal(source, target)


def test_saving_leaves_one_file_with_usual_rights_and_replaces_an_old_one(tmp_path: Path):
    path = tmp_path / "weights.safetensors"
    path.write_text("old")
    save_weights(network(), path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode


def test_saving_keeps_the_old_file_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "weights.safetensors"
    path.write_text("old")

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kdzero_gp.models.weights.save_file", full)
    with pytest.raises(RunError, match="No space left"):
        save_weights(network(), path)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


def test_tied_weights_and_channels_last_weights_are_saved(tmp_path: Path):
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last))
    tied[1].weight = tied[0].weight
    fresh = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Conv2d(3, 4, 3))
    save_weights(tied, tmp_path / "tied.safetensors")
    load_weights(fresh, tmp_path / "tied.safetensors")
    assert equal(tied, fresh)


@pytest.mark.parametrize("nesting", [(), ("state_dict",), ("model",), ("net",), ("model", "state_dict")])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "module._orig_mod."])
def test_a_checkpoint_loads_through_nesting_and_prefixes(nesting: tuple[str, ...], prefix: str, tmp_path: Path):
    source, target = network(), network()
    content: dict = prefixed(prefix, source.state_dict())
    for key in nesting:
        content = {"epoch": 3, key: content}
    torch.save(content, tmp_path / "checkpoint.pth")
    load_weights(target, tmp_path / "checkpoint.pth")
    assert equal(source, target)


def test_prefixed_safetensors_load(tmp_path: Path):
    source, target = network(), network()
    save_file(prefixed("module.", source.state_dict()), tmp_path / "weights.safetensors")
    load_weights(target, str(tmp_path / "weights.safetensors"))
    assert equal(source, target)


def test_a_prefix_that_belongs_to_the_network_is_kept(tmp_path: Path):
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = network()

    source, target = Wrapped(), Wrapped()
    torch.save(source.state_dict(), tmp_path / "checkpoint.pth")
    load_weights(target, tmp_path / "checkpoint.pth")
    assert equal(source, target)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_mismatch_names_the_first_differing_key_and_changes_nothing(prefix: str, tmp_path: Path):
    target = network()
    before = {key: value.clone() for key, value in target.state_dict().items()}
    weights = dict(network().state_dict())

    def refused(changed: dict[str, torch.Tensor], message: str) -> None:
        torch.save(prefixed(prefix, changed), tmp_path / "checkpoint.pth")
        with pytest.raises(ModelError, match=message):
            load_weights(target, tmp_path / "checkpoint.pth")

    missing = {key: value for key, value in weights.items() if key not in ("stage2.1.weight", "fc.bias")}
    refused(missing, r"'stage2\.1\.weight' is missing \(expected shape \(8,\)\)")
    refused(weights | {"head.weight": torch.zeros(2)}, r"'head\.weight' is unexpected")
    other = dict(network(classes=20).state_dict())
    refused(other, r"'fc\.weight' has shape \(20, 8\) and \(10, 8\) is expected; build the network")
    assert all(torch.equal(before[key], value) for key, value in target.state_dict().items())


def test_files_without_weights_are_refused(tmp_path: Path):
    def refused(name: str, message: str) -> None:
        with pytest.raises(ModelError, match=message):
            load_weights(network(), tmp_path / name)

    refused("missing.pth", "does not exist")
    refused("", "is a folder")
    assert read_contract(".") is None and len(content_digest(".")) > 0, "a path without a name"
    (tmp_path / "text.pth").write_text("hello, this is not a weights file")
    refused("text.pth", "not a weights file")
    (tmp_path / "empty.pth").touch()
    refused("empty.pth", "not a weights file")
    torch.save([1, 2], tmp_path / "list.pth")
    refused("list.pth", "holds a list and no state dict")
    torch.save({"epoch": 3}, tmp_path / "epoch.pth")
    refused("epoch.pth", "holds no tensors by name")
    save_weights(network(), tmp_path / "cut.safetensors")
    content = (tmp_path / "cut.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[: len(content) // 2])
    refused("cut.safetensors", "not a weights file")


def test_loading_runs_no_code_from_the_file(tmp_path: Path):
    class Hostile:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "was_here"),)

    torch.save({"fc.weight": Hostile()}, tmp_path / "hostile.pth")
    (tmp_path / "hostile.pkl").write_bytes(pickle.dumps(Hostile()))
    for name in ("hostile.pth", "hostile.pkl"):
        with pytest.raises(ModelError, match="holds no tensors by name"):
            load_weights(network(), tmp_path / name)
    assert not (tmp_path / "was_here").exists()
