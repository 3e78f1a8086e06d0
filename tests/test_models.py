"""The networks by name: sizes against the published ones, names from outside, and their errors."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from kdzero_gp import models
from kdzero_gp.errors import ModelError

# Trainable parameters with 100 classes: the sizes of the public reference implementations of the CRD tables.
PUBLISHED_PARAMETERS = {
    "resnet8": 83_892,
    "resnet20": 278_324,
    "resnet32": 472_756,
    "resnet44": 667_188,
    "resnet56": 861_620,
    "resnet110": 1_736_564,
    "resnet8x4": 1_233_540,
    "resnet32x4": 7_433_860,
    "wrn_16_2": 703_284,
    "wrn_40_1": 569_780,
    "wrn_40_2": 2_255_156,
    "vgg8": 3_965_028,
    "vgg13": 9_462_180,
    "mobilenet_v2": 812_836,
    "shufflenet_v1": 949_258,
    "shufflenet_v2": 1_355_528,
}
DIGITS_NETWORKS = tuple(f"digits_cnn_{width}" for width in (2, 4, 8, 16, 32, 64))


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current directory with a module of a user, unknown to Python before."""
    (tmp_path / "my_networks.py").write_text(
        "from torch import nn\n"
        "class Sized(nn.Linear):\n"
        "    def __init__(self, num_classes): super().__init__(4, num_classes)\n"
        "class Fixed(nn.Linear):\n"
        "    def __init__(self): super().__init__(4, 3)\n"
        "def open_ended(**settings): return Sized(**settings)\n"
        "class Holder:\n"
        "    inner = Fixed\n"
        "def number(): return 7\n"
        "def broken(): raise RuntimeError('no luck')\n"
        "constant = 1\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_networks", raising=False)
    yield tmp_path
    sys.modules.pop("my_networks", None)


def test_every_published_network_and_digits_network_is_built_in():
    assert set(models.names()) == {*PUBLISHED_PARAMETERS, *DIGITS_NETWORKS}
    assert list(models.names()) == sorted(models.names())


@pytest.mark.parametrize("name", PUBLISHED_PARAMETERS)
def test_a_cifar_network_has_the_published_number_of_parameters(name: str):
    network = models.build(name, classes=100)
    assert sum(parameter.numel() for parameter in network.parameters()) == PUBLISHED_PARAMETERS[name]


@pytest.mark.parametrize("name", [*PUBLISHED_PARAMETERS, *DIGITS_NETWORKS])
def test_a_network_gives_logits_for_its_classes_and_channels(name: str):
    channels, side = (1, 8) if name in DIGITS_NETWORKS else (4, 32)
    network = models.build(name, classes=7, channels=channels).eval()
    with torch.no_grad():
        logits = network(torch.randn(2, channels, side, side))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", ["resnet20", "wrn_16_2", "vgg8", "mobilenet_v2", "shufflenet_v1", "shufflenet_v2"])
def test_a_gradient_reaches_every_parameter(name: str):
    network = models.build(name, classes=5)
    network(torch.randn(4, 3, 32, 32)).square().sum().backward()
    untouched = [key for key, value in network.named_parameters() if value.grad is None or not value.grad.any()]
    # A convolution's bias in front of a batch normalisation has no effect, hence no gradient beyond rounding.
    assert [key for key in untouched if not key.endswith("bias")] == []


@pytest.mark.parametrize("side", [32, 48, 64])
@pytest.mark.parametrize("name", ["resnet20", "vgg8", "mobilenet_v2", "shufflenet_v2"])
def test_a_network_takes_larger_images(name: str, side: int):
    with torch.no_grad():
        assert models.build(name, classes=3).eval()(torch.randn(1, 3, side, side)).shape == (1, 3)


def test_a_resnet_has_the_usual_tensor_names():
    keys = models.build("resnet20", classes=10).state_dict().keys()
    modules = {key.rsplit(".", 1)[0] for key in keys}
    blocks = {f"layer{s}.{i}.{m}" for s in (1, 2, 3) for i in range(3) for m in ("conv1", "bn1", "conv2", "bn2")}
    shortcuts = {f"layer{stage}.0.downsample.{index}" for stage in (2, 3) for index in (0, 1)}
    assert modules == {"conv1", "bn1", "fc"} | blocks | shortcuts


def test_the_shuffle_interleaves_the_groups():
    from kdzero_gp.models.layers import shuffle_channels

    channels = torch.arange(6.0).view(1, 6, 1, 1)
    assert shuffle_channels(channels, 2).flatten().tolist() == [0, 3, 1, 4, 2, 5]


def test_a_network_registered_twice_is_refused():
    with pytest.raises(ValueError, match="'resnet20' is registered twice"):
        models._registry([{"resnet20": models._NETWORKS["resnet20"]}] * 2)


def test_an_unknown_name_gets_the_close_ones():
    with pytest.raises(ModelError, match=r"no network 'resnet57'.*resnet56"):
        models.build("resnet57", classes=10)


@pytest.mark.parametrize(("classes", "channels"), [(0, 3), (10, 0), (-1, 3)])
def test_impossible_sizes_are_refused(classes: int, channels: int):
    with pytest.raises(ModelError, match="1 or more"):
        models.build("resnet20", classes, channels)


@pytest.mark.parametrize("spec", ["timm:resnet18", "torchvision:resnet18"])
def test_a_missing_library_gets_the_install_command(spec: str, monkeypatch: pytest.MonkeyPatch):
    library = spec.partition(":")[0]
    for name in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ModelError, match=r"pip install 'kdzero-gp\[vision\]'"):
        models.build(spec, classes=10)


def test_a_torchvision_network_gets_the_classes():
    pytest.importorskip("torchvision")
    network = models.build("torchvision:resnet18", classes=7)
    assert network.fc.out_features == 7
    with pytest.raises(ModelError, match=r"no network 'resnet_18'.*resnet18"):
        models.build("torchvision:resnet_18", classes=7)
    with pytest.raises(ModelError, match="3 channels and these have 1"):
        models.build("torchvision:resnet18", classes=7, channels=1)
    with pytest.raises(ModelError, match="no network 'fasterrcnn_resnet50_fpn'"):
        models.build("torchvision:fasterrcnn_resnet50_fpn", classes=7)


def test_a_timm_network_gets_classes_and_channels():
    pytest.importorskip("timm")
    with torch.no_grad():
        assert models.build("timm:resnet10t", 7, 1).eval()(torch.randn(2, 1, 64, 64)).shape == (2, 7)
    with pytest.raises(ModelError, match="no network 'resnet_18'"):
        models.build("timm:resnet_18", classes=7)


@pytest.mark.parametrize(("attribute", "classes"), [("Sized", 9), ("Fixed", 3), ("open_ended", 9), ("Holder.inner", 3)])
def test_a_users_callable_gets_the_classes_if_it_takes_them(attribute: str, classes: int, workplace: Path):
    path = list(sys.path)
    assert models.build(f"my_networks:{attribute}", classes=9).out_features == classes
    assert sys.path == path


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("my_networks:Fixd", "has no 'Fixd': did you mean Fixed"),
        ("my_networks:number", "returned a int; it has to return a torch.nn.Module"),
        ("my_networks:broken", "RuntimeError: no luck"),
        ("my_networks:constant", "is a int; name a class or function"),
        ("no_such_networks:Fixed", "'no_such_networks'.*cannot be imported"),
        (":Fixed", "cannot be imported"),
        ("my_networks:", "has no ''"),
    ],
)
def test_a_users_callable_that_does_not_work_gets_the_reason(spec: str, message: str, workplace: Path):
    with pytest.raises(ModelError, match=message):
        models.build(spec, classes=9)
