"""Weights as they are saved and networks as they are written: read, or refused with the reason and the remedy."""

import collections
import json
import os
import pickle
import sys
import tarfile
import zipfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from kdzero_gp import models
from kdzero_gp.errors import ModelError
from kdzero_gp.models.outputs import check_outputs, check_trainable
from kdzero_gp.models.taps import Tapped
from kdzero_gp.models.weights import load_weights


def network(classes: int = 10) -> nn.Module:
    return models.build("digits_cnn_4", classes, 1)


def weights() -> dict[str, Tensor]:
    return dict(network().state_dict())


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in tensors.items()}


def loaded(path: Path, expected: dict[str, Tensor], target: nn.Module | None = None) -> object:
    target = target or network()
    record = load_weights(target, path)
    state = target.state_dict()
    assert all(torch.equal(state[key], value) for key, value in expected.items() if key in state)
    return record


class Local:
    """An object that only this test knows."""


class Odd(dict):  # type: ignore[type-arg]
    """A dictionary of one's own, as configurations are."""


EXTRAS: dict[str, Any] = {
    "args": Namespace(lr=0.1), "accuracy": np.float64(0.9), "path": Path("x"), "rows": collections.defaultdict(list),
    "object": Local(), "odd": Odd(a=1), "set": {1, 2}, "type": Local, "array": np.arange(3), "function": os.getcwd,
    "complex": 1j, "device": torch.device("cpu"), "optimizer": torch.optim.SGD([torch.zeros(1)], 0.1).state_dict(),
    "generator": torch.get_rng_state(), "counter": collections.Counter("abc"), "error": ValueError("x"),
}  # fmt: skip


@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize("new", [True, False])
def test_objects_beside_the_tensors_do_no_harm(extra: str, new: bool, tmp_path: Path):
    tensors = weights()
    content = {"state_dict": tensors, "epoch": 3, extra: EXTRAS[extra]}
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=new)
    loaded(tmp_path / "w.pt", tensors)


class Hostile:
    """What a pickle can ask for."""

    def __init__(self, path: Path, way: int):
        self.path, self.way = path, way

    def __reduce__(self) -> tuple[Any, ...]:
        ways = [(os.mkdir, (str(self.path),)), (exec, (f"import os; os.mkdir({str(self.path)!r})",)),
                (os.system, (f"mkdir {self.path}",)), (eval, (f"__import__('os').mkdir({str(self.path)!r})",)),
                (getattr, (Path, "mkdir"))]  # fmt: skip
        return ways[self.way]


@pytest.mark.parametrize("way", range(5))
@pytest.mark.parametrize("plain", [True, False])
def test_nothing_in_a_file_is_executed(way: int, plain: bool, tmp_path: Path):
    tensors, place = weights(), tmp_path / "was_here"
    content = {"model": tensors, "x": Hostile(place, way)}
    if plain:
        (tmp_path / "w.pt").write_bytes(pickle.dumps(content))
    else:
        torch.save(content, tmp_path / "w.pt")
    loaded(tmp_path / "w.pt", tensors)
    assert not place.exists()


@pytest.mark.parametrize(
    "key", ["model_state_dict", "weights", "params", "net_state", "teacher", "student", "ema", "state_dict_ema", "G"]
)
def test_weights_are_found_under_any_key(key: str, tmp_path: Path):
    tensors = weights()
    torch.save({key: tensors, "loss": torch.tensor(1.0), "epoch": 1}, tmp_path / "w.pt")
    assert loaded(tmp_path / "w.pt", tensors).section == key


def compiled_inside(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.replace("stage1.", "stage1._orig_mod.").replace("fc.", "fc.module."): v for key, v in tensors.items()}


FORMS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "lightning": lambda w: {"state_dict": prefixed("model.", w) | {"criterion.weight": torch.ones(3)}},
    "two levels": lambda w: {"checkpoint": {"model": {"state_dict": w}}},
    "a list": lambda w: {"models": [w]},
    "backbone": lambda w: prefixed("backbone.", w),
    "a head beside": lambda w: {k if k.startswith("fc.") else "backbone." + k: v for k, v in w.items()},
    "wrapped twice": lambda w: prefixed("module._orig_mod.model.", w),
    "inside": compiled_inside,
    "averaged": lambda w: prefixed("module.", w) | {"n_averaged": torch.tensor(3)},
    "profiled": lambda w: w | {"total_ops": torch.zeros(1), "stage1.total_params": torch.zeros(1)},
    "no counters": lambda w: {k: v for k, v in w.items() if "num_batches" not in k},
    "halves": lambda w: {
        "body": {k: v for k, v in w.items() if not k.startswith("fc")},
        "fc": {"weight": w["fc.weight"], "bias": w["fc.bias"]},
    },
    "arrays": lambda w: {k: v.numpy() for k, v in w.items()},
    "parameters": lambda w: {k: nn.Parameter(v, v.is_floating_point()) if v.dim() else v for k, v in w.items()},
    "one file for two": lambda w: prefixed("student.", dict(network(7).state_dict())) | prefixed("teacher.", w),
}


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_found_in_every_form(form: str, tmp_path: Path):
    tensors = weights()
    content = FORMS[form](tensors)
    if form == "halves":
        content = {"state": content["body"] | {f"fc.{k}": v for k, v in content["fc"].items()}}
    torch.save(content, tmp_path / "w.pt")
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(content))
    loaded(tmp_path / "w.pt", tensors)
    loaded(tmp_path / "w.pkl", tensors)


def test_a_whole_pickled_network_gives_its_weights(tmp_path: Path):
    source = network()
    for name, content in {"bare": source, "inside": {"model": nn.DataParallel(source), "epoch": 3}}.items():
        torch.save(content, tmp_path / name)
        loaded(tmp_path / name, dict(source.state_dict()))


def test_a_wrapped_network_takes_plain_names(tmp_path: Path):
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

    tensors, target = weights(), Wrapper()
    torch.save({"state_dict": tensors}, tmp_path / "w.pt")
    loaded(tmp_path / "w.pt", prefixed("net.", tensors), target)


@pytest.mark.parametrize(
    ("plain", "later"),
    [
        ("state_dict", "state_dict_ema"),
        ("model", "model_ema"),
        ("teacher", "student"),
        ("net", "swa"),
        ("raw", "shadow"),
    ],
)
def test_of_several_weights_that_fit_it_is_said_which(plain: str, later: str, tmp_path: Path):
    tensors, averaged = weights(), {key: value * 2 for key, value in weights().items()}
    torch.save({later: averaged, plain: tensors}, tmp_path / "w.pt")
    with pytest.warns(UserWarning, match=rf"'{plain}' is taken; for '{later}' write .*w\.pt#{later}"):
        record = loaded(tmp_path / "w.pt", tensors)
    assert (record.section, record.others) == (plain, (later,))
    loaded(Path(f"{tmp_path / 'w.pt'}#{later}"), averaged)
    with pytest.raises(ModelError, match="the named weights are not there"):
        load_weights(network(), f"{tmp_path / 'w.pt'}#nothing")


def test_shards_are_read_by_their_index(tmp_path: Path):
    tensors = weights()
    halves = [dict(list(tensors.items())[part::2]) for part in (0, 1)]
    names = [f"model-0000{part}-of-00002.safetensors" for part in (1, 2)]
    for name, half in zip(names, halves, strict=True):
        save_file(half, tmp_path / name)
    index = {"weight_map": {key: name for name, half in zip(names, halves, strict=True) for key in half}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    for path in (tmp_path / "model.safetensors.index.json", tmp_path, tmp_path / names[0]):
        loaded(path, tensors)
    (tmp_path / names[1]).unlink()
    with pytest.raises(ModelError, match=r"shard model-00002-of-00002\.safetensors .* is missing"):
        load_weights(network(), tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ModelError, match="is not an index of shards"):
        load_weights(network(), tmp_path)


def write_script(path: Path) -> None:
    torch.jit.trace(network().eval(), torch.zeros(1, 1, 8, 8)).save(str(path))


def write_tar(path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        tar.add(__file__, "x.py")


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w.pt", b"x")


OTHERS: dict[str, tuple[Any, str]] = {
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1\n",
        "Git LFS pointer; .*git lfs pull",
    ),
    "html": (b"\n<!DOCTYPE html><html>", "a web page; download"),
    "gzip": (b"\x1f\x8b\x08\x00", "a gzip file; unpack"),
    "hdf5": (b"\x89HDF\r\n", "HDF5 file"),
    "json": (b'{"error": 1}', "a JSON file"),
    "numpy": (b"\x93NUMPY\x01", "a numpy file"),
    "empty": (b"", "an empty file"),
    "cut": (b"PK\x03\x04 cut", "cut off"),
    "tar": (write_tar, "a tar archive"),
    "zip": (write_zip, "a zip of other files"),
    "script": (write_script, "a TorchScript program; save its weights"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", OTHERS)
def test_files_that_hold_something_else_are_recognised(kind: str, tmp_path: Path):
    content, message = OTHERS[kind]
    path = tmp_path / "w.pt"
    path.write_bytes(content) if isinstance(content, bytes) else content(path)
    with pytest.raises(ModelError, match=message) as caught:
        load_weights(network(), path)
    assert "weights_only" not in str(caught.value)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path):
    tensors = weights()
    tensors["fc.weight"] = tensors["fc.weight"] * torch.nan
    torch.save(tensors, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"not finite in 'fc\.weight'"):
        load_weights(network(), tmp_path / "w.pt")


# Outputs


class Heads(nn.Module):
    """A network whose ``give`` makes what it returns out of two heads, an embedding and the mode."""

    def __init__(self, give: Callable[..., Any], classes: int = 5):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.early, self.final = nn.Linear(8, classes), nn.Linear(8, classes)
        self.give = give

    def forward(self, images: Tensor) -> Any:
        embedding = self.body(images)
        early = self.early(embedding)
        return self.give(early, self.final(embedding), embedding, self.training)


IMAGES = torch.randn(2, 3, 8, 8)


@pytest.mark.parametrize(
    ("give", "said"),
    [
        (lambda early, final, emb, training: [early, final], True),
        (lambda early, final, emb, training: (final, early), True),
        (lambda early, final, emb, training: (emb, final), False),
        (lambda early, final, emb, training: (final, emb), False),
        (lambda early, final, emb, training: {"out": final, "aux": early}, True),
        (lambda early, final, emb, training: {"emb": emb, "y": final}, False),
        (lambda early, final, emb, training: {"aux": early, "logits": final}, True),
        (lambda early, final, emb, training: (emb, [emb, final]), False),
        (lambda early, final, emb, training: final[:, :, None, None], False),
    ],
)
def test_the_output_with_as_many_columns_as_classes_is_read(give: Callable[..., Any], said: bool):
    reader = Tapped(Heads(give), IMAGES, classes=5)
    knowledge = reader(IMAGES)
    torch.testing.assert_close(knowledge["logits"], reader.network.final(knowledge["emb"]))
    assert ("2 tensors of 5 columns" in reader.note) == said
    if said:
        assert "(final); the last is read, another one is chosen by its layer" in reader.note


@pytest.mark.parametrize(("columns", "classes"), [(1000, 10), (10, 1000), (11, 10), (5, 4), (1, 3)])
def test_other_numbers_of_outputs_than_classes_are_refused(columns: int, classes: int):
    plain = Heads(lambda early, final, emb, training: final, columns)
    for check in (lambda: Tapped(plain, IMAGES, classes=classes), lambda: check_outputs(plain, classes, IMAGES)):
        with pytest.raises(ModelError, match=f"gives {columns} outputs and the data have {classes} classes; build it"):
            check()


def test_one_logit_for_two_classes_is_refused_with_the_remedy():
    with pytest.raises(ModelError, match="gives 1 outputs and the data have 2 classes; let it give two logits"):
        Tapped(Heads(lambda early, final, emb, training: final, 1), IMAGES, classes=2)


@pytest.mark.parametrize(
    ("give", "said"),
    [
        (
            lambda early, final, emb, training: (final, early) if training else (early + final) / 2,
            "2 tensors in training",
        ),
        (
            lambda early, final, emb, training: (emb, final) if training else final,
            r"output\[1\] of training is trained",
        ),
        (lambda early, final, emb, training: {"a": final, "b": early} if training else final, "2 tensors in training"),
        (lambda early, final, emb, training: final if training else (final, emb), "1 tensors in training"),
        (lambda early, final, emb, training: [final] if training else final, "in training and 1 in evaluation"),
        (lambda early, final, emb, training: final, None),
    ],
)
def test_outputs_that_differ_between_training_and_evaluation_are_noticed(give: Callable[..., Any], said: str | None):
    noted = check_outputs(Heads(give), 5, IMAGES)
    if said is None:
        assert noted == ()
    else:
        with pytest.raises(AssertionError, match=said):
            raise AssertionError(noted)


def test_outputs_that_are_not_finite_are_refused():
    with pytest.raises(ModelError, match="not finite"):
        check_outputs(Heads(lambda early, final, emb, training: final * torch.nan), 5, IMAGES)


def pooled_convolution(*after: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 5, 1), *after)


@pytest.mark.parametrize(
    "built",
    [
        pooled_convolution(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        pooled_convolution(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        pooled_convolution(nn.AdaptiveMaxPool2d(1), nn.Flatten()),
        pooled_convolution(nn.AdaptiveAvgPool2d(1)),
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 5, 1), nn.Flatten()),
        nn.Sequential(nn.Conv2d(3, 8, 8), nn.ReLU(), nn.Conv2d(8, 5, 1), nn.Flatten()),
    ],
)
def test_a_convolution_may_be_the_classifier(built: nn.Module):
    reader = Tapped(built, IMAGES, classes=5)
    assert (reader.shapes["logits"], reader.shapes["emb"]) == ((5,), (8,))
    assert {name: tuple(tensor.shape[1:]) for name, tensor in reader(IMAGES).items()} == reader.shapes


def test_a_classifier_of_ones_own_and_none_at_all_have_an_embedding():
    class Cosine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.centres = nn.Parameter(torch.randn(5, 8))

        def forward(self, embedding: Tensor) -> Tensor:
            return embedding @ self.centres.T

    body = [nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    assert Tapped(nn.Sequential(*body, Cosine()), IMAGES, classes=5).taps["emb"] == "3:input"

    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.matrix = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), nn.Parameter(torch.randn(8, 5))

        def forward(self, images: Tensor) -> Tensor:
            return self.body(images).mean((2, 3)) @ self.matrix

    reader = Tapped(Functional(), IMAGES, classes=5)
    assert reader(IMAGES)["emb"].shape == (2, 8)


def test_frozen_networks_are_named():
    frozen = network().requires_grad_(False)
    with pytest.raises(ModelError, match="all parameters are frozen"):
        check_trainable(frozen)
    with pytest.raises(ModelError, match="no parameters"):
        check_trainable(nn.Flatten())
    frozen.fc.requires_grad_(True)
    check_trainable(frozen)


# Modules of users


PARSES = "import argparse\np = argparse.ArgumentParser()\np.add_argument('{}')\nargs = p.parse_args()\n"
NET = """from torch import nn
class Net(nn.Linear):
    def __init__(self, num_classes=2): super().__init__(4, num_classes)
"""


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (PARSES.format("required"), r"cannot be imported \(SystemExit: 2\); put what parses arguments .*__main__"),
        ("import sys; sys.exit('bye')", "SystemExit: bye"),
        ("raise SystemExit", "ends the program under"),
        ("quit()", "SystemExit"),
        ("raise AssertionError('Torch not compiled with CUDA enabled')", r"leave out \.cuda\(\)"),
        ("raise RuntimeError('Found no NVIDIA driver on your system')", r"leave out \.cuda\(\)"),
        ("import no_such_module_at_all", "holds no_such_module_at_all, or install it"),
        ("1 / 0", "ZeroDivisionError"),
        (NET + "net = Net()", "is a network already; name the class"),
    ],
)
def test_modules_that_fail_at_import_get_the_remedy(
    code: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "users_code.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    for spec in ("users_code:net", "users_code.py:net", f"{tmp_path}/users_code.py:net"):
        sys.modules.pop("users_code", None)
        with pytest.raises(ModelError, match=message):
            models.build(spec, 7)
    assert "usage" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "spec", ["users_nets:Net", "users_nets.py:Net", "./users_nets.py:Net", "inner/users_nets.py:Net"]
)
@pytest.mark.parametrize("before", ["", PARSES.format("--lr")])
def test_files_and_modules_that_parse_optional_arguments_are_imported(
    spec: str, before: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kdzero-gp", "distill", "--student", spec])
    sys.modules.pop("users_nets", None)
    (tmp_path / "inner").mkdir()
    for folder in (tmp_path, tmp_path / "inner"):
        (folder / "users_nets.py").write_text(before + NET)
    assert models.build(spec, 7).out_features == 7
    assert sys.argv[1] == "distill"
    sys.modules.pop("users_nets", None)


def test_wrong_names_of_files_get_the_right_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "json.py").write_text(NET)
    with pytest.raises(ModelError, match=r"no file missing\.py"):
        models.build("missing.py:Net", 7)
    with pytest.raises(ModelError, match="did you mean nets:student"):
        models.build("nets.student", 7)
    with pytest.raises(ModelError, match="has the name of another module"):
        models.build("json.py:Net", 7)


@pytest.mark.parametrize("argument", ["num_classes", "n_classes", "classes", "nclass", "num_labels"])
def test_the_number_of_classes_has_many_names(argument: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("users_names", None)
    (tmp_path / "users_names.py").write_text(
        f"from torch import nn\ndef net({argument}): return nn.Linear(4, {argument})\n"
    )
    assert models.build("users_names:net", 7).out_features == 7
    sys.modules.pop("users_names", None)
