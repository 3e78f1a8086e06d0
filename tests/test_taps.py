"""Taps: what is found in built-in, torchvision and odd networks, and that reading changes nothing."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdzero_gp import models
from kdzero_gp.errors import ModelError
from kdzero_gp.models.taps import Tapped


def tapped(name: str, channels: int = 3, side: int = 32, taps: dict[str, str] | None = None) -> Tapped:
    return Tapped(models.build(name, 10, channels), torch.randn(2, channels, side, side), taps)


def features(reader: Tapped) -> dict[str, str]:
    return {name: layer for name, layer in reader.taps.items() if name.startswith("feat")}


def hooks(network: nn.Module) -> list[str]:
    return [name for name, module in network.named_modules() if module._forward_hooks or module._forward_pre_hooks]


class Block(nn.Module):
    """A block that widens at the old resolution before it goes to the next one, with a gate at 1x1."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.expand = nn.Conv2d(inputs, 4 * inputs, 1)
        self.depthwise = nn.Conv2d(4 * inputs, outputs, 3, stride, 1)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(outputs, outputs, 1), nn.Sigmoid())

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.depthwise(F.relu(self.expand(images)))
        return hidden * self.gate(hidden)


class Odd(nn.Module):
    """A user's network: its own names, functional pooling, one shared ReLU, a list instead of stages."""

    def __init__(self) -> None:
        super().__init__()
        self.eye = nn.Conv2d(3, 8, 3, padding=1)
        self.zap = nn.ReLU()
        self.guts = nn.ModuleList([Block(8, 8, 1), Block(8, 12, 2), Block(12, 12, 1), Block(12, 20, 2)])
        self.verdict = nn.Linear(20, 5)
        self.unused = nn.Linear(20, 5)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.zap(self.eye(images))
        for block in self.guts:
            maps = self.zap(block(maps))
        return self.verdict(maps.amax((2, 3)))


class SmallTransformer(nn.Module):
    """A vision transformer in small, with ``prefix`` tokens in front of the image's."""

    def __init__(self, prefix: int = 1):
        super().__init__()
        self.prefix = prefix
        self.patches = nn.Conv2d(3, 12, 4, 4)
        self.first = nn.Parameter(torch.randn(1, prefix, 12))
        layer = nn.TransformerEncoderLayer(12, 2, 16, batch_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(12)
        self.head = nn.Linear(12, 5)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.first.expand(len(images), -1, -1), tokens], 1)
        return self.head(self.norm(self.blocks(tokens)).mean(1))


@pytest.mark.parametrize(
    ("name", "embedding", "ends"),
    [
        ("resnet8x4", "fc:input", ["layer1", "layer2", "layer3"]),
        ("wrn_16_2", "fc:input", ["block1", "block2", "block3"]),
        ("vgg8", "classifier:input", ["block0", "block1", "block2", "block4"]),
        ("mobilenet_v2", "classifier.0:input", ["blocks.1", "blocks.2", "blocks.4", "conv2"]),
        ("shufflenet_v1", "linear:input", ["layer1", "layer2", "layer3"]),
        ("shufflenet_v2", "linear:input", ["layer1", "layer2", "layer3"]),
    ],
)
def test_the_stage_ends_of_the_built_in_networks_are_found(name: str, embedding: str, ends: list[str]):
    reader = tapped(name)
    found = features(reader)
    assert [found[f"feat{index}"] for index in range(1, len(ends))] + [found["feat"]] == ends
    assert len(found) == len(ends)
    assert reader.taps["emb"] == embedding


def test_the_digits_network_has_its_last_map_at_4x4():
    reader = tapped("digits_cnn_8", 1, 8)
    assert reader.shapes == {"logits": (10,), "emb": (16,), "feat": (16, 4, 4), "feat1": (8, 8, 8)}
    assert reader.describe() == [
        ("logits", "(output)", (10,)),
        ("emb", "fc:input", (16,)),
        ("feat", "stage2", (16, 4, 4)),
        ("feat1", "stage1", (8, 8, 8)),
    ]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("gradient", [True, False])
def test_the_tensors_are_those_of_the_network(training: bool, gradient: bool):
    reader = tapped("resnet20").train(training)
    images = torch.randn(3, 3, 32, 32)
    reference = copy.deepcopy(reader.network)
    with torch.set_grad_enabled(gradient):
        knowledge = reader(images)
        maps = reference.layer1(F.relu(reference.bn1(reference.conv1(images))))
        second = reference.layer2(maps)
        last = reference.layer3(second)
    assert list(knowledge) == ["logits", "emb", "feat", "feat1", "feat2"]
    expected = {"feat1": maps, "feat2": second, "feat": last, "emb": last.mean((2, 3))}
    expected["logits"] = reference.fc(expected["emb"])
    for name, tensor in expected.items():
        torch.testing.assert_close(knowledge[name], tensor)
        assert tuple(knowledge[name].shape[1:]) == reader.shapes[name]
        assert knowledge[name].requires_grad == gradient


def test_gradients_of_every_knowledge_reach_the_network():
    reader = tapped("digits_cnn_4", 1, 8)
    for name in reader.taps:
        reader.zero_grad()
        reader(torch.randn(4, 1, 8, 8))[name].square().sum().backward()
        assert reader.network.stage1[0].weight.grad.abs().sum() > 0, name


def test_a_users_network_with_odd_names_is_read():
    reader = Tapped(Odd(), torch.randn(2, 3, 16, 16))
    assert reader.taps == {
        "logits": "",
        "emb": "verdict:input",
        "feat": "guts.3",
        "feat1": "guts.0",
        "feat2": "guts.2",
    }
    assert reader.shapes["feat"] == (20, 4, 4)
    assert hooks(reader.network) == ["guts.0", "guts.2", "guts.3", "verdict"]


def test_a_flat_sequence_ends_its_stages_after_the_activation_and_before_the_pooling():
    flat = nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 9, 3, padding=1), nn.ReLU(), nn.Dropout(0.1), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(9, 5)),
    )
    reader = Tapped(flat, torch.randn(2, 3, 8, 8))
    assert reader.taps == {"logits": "", "emb": "9:input", "feat": "5", "feat1": "2"}
    assert (reader(torch.randn(2, 3, 8, 8))["feat1"] >= 0).all()


def test_a_network_without_maps_has_no_feature():
    dense = nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 5))
    assert Tapped(dense, torch.randn(2, 3, 2, 2)).shapes == {"logits": (5,), "emb": (7,)}


@pytest.mark.parametrize(("prefix", "tokens"), [(0, 16), (1, 16), (2, 18)])
def test_a_transformer_gives_tokens_channels_first_without_its_class_token(prefix: int, tokens: int):
    network = SmallTransformer(prefix)
    reader = Tapped(network, torch.randn(2, 3, 16, 16)).eval()
    assert reader.taps == {"logits": "", "emb": "head:input", "feat": "blocks"}
    assert reader.shapes["feat"] == (12, tokens)
    seen: list[Tensor] = []
    network.blocks.register_forward_hook(lambda module, inputs, output: seen.append(output))
    knowledge = reader(torch.randn(3, 3, 16, 16))
    assert torch.equal(knowledge["feat"], seen[0][:, prefix % 2 :].transpose(1, 2))


def test_a_map_with_channels_at_the_end_is_turned():
    class Permuted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stage = nn.Sequential(nn.Linear(3, 7), nn.GELU())
            self.head = nn.Linear(7, 5)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.stage(images.permute(0, 2, 3, 1)).mean((1, 2)))

    reader = Tapped(Permuted(), torch.randn(2, 3, 8, 8))
    assert reader.taps["feat"] == "stage"
    assert reader.shapes["feat"] == reader(torch.randn(2, 3, 8, 8))["feat"].shape[1:] == (7, 8, 8)


def test_the_logits_are_read_before_a_final_softmax():
    for final in (nn.Softmax(1), nn.LogSoftmax(1)):
        network = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), final)
        assert Tapped(network, torch.randn(2, 3, 2, 2)).taps == {"logits": "1", "emb": "1:input"}


@pytest.mark.parametrize("shape", ["tuple", "mapping", "record"])
def test_the_logits_are_found_in_what_the_network_returns(shape: str):
    class Record:
        def __init__(self, logits: Tensor):
            self.logits = logits

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(12, 5)

        def forward(self, images: Tensor) -> object:
            logits = self.fc(images.flatten(1))
            return {"tuple": (logits, images), "mapping": {"logits": logits}, "record": Record(logits)}[shape]

    knowledge = Tapped(Wrapped(), torch.randn(2, 3, 2, 2))(torch.randn(3, 3, 2, 2))
    assert {name: tuple(tensor.shape) for name, tensor in knowledge.items()} == {
        "logits": (3, 5),
        "emb": (3, 12),
    }


def test_a_named_feature_keeps_the_stage_ends_before_it():
    assert features(tapped("resnet20", taps={"feat": "layer2"})) == {"feat": "layer2", "feat1": "layer1"}
    assert features(tapped("resnet20", taps={"feat1": "layer1.0"})) == {
        "feat": "layer3",
        "feat1": "layer1.0",
        "feat2": "layer2",
    }


def test_a_named_embedding_is_an_output_unless_it_is_the_classifier():
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Conv2d(3, 6, 3)
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.head = nn.Conv2d(6, 5, 1)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.pool(self.body(images))).flatten(1)

    assert Tapped(Pooled(), torch.randn(2, 3, 8, 8)).taps["emb"] == "head:input"
    reader = Tapped(Pooled(), torch.randn(2, 3, 8, 8), {"emb": "pool"})
    assert reader(torch.randn(4, 3, 8, 8))["emb"].shape == (4, 6)
    assert reader.taps["feat"] == "body"
    assert tapped("resnet20", taps={"emb": "fc"}).taps["emb"] == "fc:input"
    again = tapped("resnet20", taps=tapped("resnet20").taps)
    assert again.taps == tapped("resnet20").taps


@pytest.mark.parametrize(
    ("taps", "message"),
    [
        ({"feet": "layer3"}, "no knowledge 'feet'"),
        ({"feat0": "layer3"}, "no knowledge 'feat0'"),
        ({"feat": "layr3"}, "no layer 'layr3' for the tap 'feat': did you mean layer3"),
        ({"feat": "fc"}, r"feat=fc gives a tensor of shape \(2, 10\)"),
        ({"feat": "layer3", "emb": "layr3"}, "no layer 'layr3' for the tap 'emb'"),
        ({"logits": "layer3"}, "logits have shape"),
    ],
)
def test_taps_that_do_not_fit_get_the_reason(taps: dict[str, str], message: str):
    with pytest.raises(ModelError, match=message):
        tapped("resnet20", taps=taps)


def test_a_tap_on_a_layer_that_does_not_run_is_refused():
    with pytest.raises(ModelError, match="feat=unused gives no tensor"):
        Tapped(Odd(), torch.randn(2, 3, 16, 16), {"feat": "unused"})


def test_a_layer_that_stops_running_is_named():
    class Moody(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Conv2d(3, 4, 1)
            self.extra = nn.Sequential(nn.Conv2d(4, 4, 1))
            self.head = nn.Linear(4, 5)

        def forward(self, images: Tensor) -> Tensor:
            maps = self.body(images)
            return self.head((maps if self.training else self.extra(maps)).mean((2, 3)))

    reader = Tapped(Moody(), torch.randn(2, 3, 4, 4))
    assert reader.eval()(torch.randn(2, 3, 4, 4))["feat"].shape == (2, 4, 4, 4)
    with pytest.raises(ModelError, match="layer 'extra' of the tap 'feat' did not run"):
        reader.train()(torch.randn(2, 3, 4, 4))


def test_probing_leaves_the_network_and_the_generator_as_they_were():
    network = models.build("resnet8x4", 10)
    network.layer1.eval()
    modes = [module.training for module in network.modules()]
    weights = {key: value.clone() for key, value in network.state_dict().items()}
    generator = torch.get_rng_state()
    reader = Tapped(network, torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(generator, torch.get_rng_state())
    assert [module.training for module in network.modules()] == modes
    assert reader.network is network
    assert network.state_dict().keys() == weights.keys()
    assert all(torch.equal(weights[key], value) for key, value in network.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())


def test_probing_restores_a_buffer_that_changes_in_evaluation_mode():
    class Counting(nn.Linear):
        def __init__(self) -> None:
            super().__init__(12, 5)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, images: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(images + torch.rand(()))

    network = nn.Sequential(nn.Flatten(), Counting())
    generator = torch.get_rng_state()
    Tapped(network, torch.ones(2, 3, 2, 2))
    assert network[1].calls == 0
    assert torch.equal(generator, torch.get_rng_state())


def test_only_tapped_layers_keep_a_hook_and_untapping_takes_them_off():
    reader = tapped("resnet20")
    assert hooks(reader.network) == ["layer1", "layer2", "layer3", "fc"]
    assert hooks(reader.untap()) == []


def test_no_tensor_is_kept_between_calls():
    reader = tapped("digits_cnn_4", 1, 8)
    knowledge = reader(torch.randn(4, 1, 8, 8))
    alive = [weakref.ref(tensor) for tensor in knowledge.values()]
    del knowledge
    gc.collect()
    assert [reference() for reference in alive] == [None] * 4
    kept = reader.network(torch.randn(4, 1, 8, 8))  # Called directly, the hooks store nothing.
    assert reader._store.tensors is None
    assert kept.shape == (4, 10)


def test_an_error_in_the_network_leaves_nothing_behind():
    reader = tapped("digits_cnn_4", 1, 8)
    with pytest.raises(RuntimeError):
        reader(torch.randn(4, 2, 8, 8))
    assert reader._store.tensors is None
    assert reader(torch.randn(4, 1, 8, 8))["emb"].shape == (4, 8)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda reader: pickle.loads(pickle.dumps(reader))])
def test_a_copy_reads_its_own_network(copied):
    reader = tapped("digits_cnn_4", 1, 8).eval()
    images = torch.randn(4, 1, 8, 8)
    before = reader(images)
    other = copied(reader)
    with torch.no_grad():
        for parameter in other.network.parameters():
            parameter.zero_()
    changed, after = other(images), reader(images)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not changed["feat"].any()
    assert not changed["emb"].any()
    assert hooks(other.untap()) == []
    assert hooks(reader.network) == ["stage1", "stage2", "fc"]


def test_two_readers_of_one_network_and_of_one_class_stay_apart():
    network = models.build("digits_cnn_4", 10, 1).eval()
    one = Tapped(network, torch.randn(2, 1, 8, 8))
    two = Tapped(network, torch.randn(2, 1, 8, 8), {"feat": "stage1"})
    three = tapped("digits_cnn_4", 1, 8).eval()
    images = torch.randn(4, 1, 8, 8)
    assert one(images)["feat"].shape == (4, 8, 4, 4)
    assert two(images)["feat"].shape == (4, 4, 8, 8)
    assert not torch.equal(three(images)["feat"], one(images)["feat"])


def test_the_networks_state_dict_has_its_own_names_only():
    reader = tapped("digits_cnn_4", 1, 8)
    assert reader.network.state_dict().keys() == models.build("digits_cnn_4", 10, 1).state_dict().keys()
    assert all(key.startswith("network.") for key in reader.state_dict())


def test_channels_last_networks_are_read():
    reader = tapped("resnet20").to(memory_format=torch.channels_last).eval()
    images = torch.randn(2, 3, 32, 32)
    plain = copy.deepcopy(reader).to(memory_format=torch.contiguous_format)
    turned = reader(images.to(memory_format=torch.channels_last))
    for name, tensor in plain(images).items():
        torch.testing.assert_close(turned[name], tensor, rtol=1e-4, atol=1e-4)
    assert turned["feat"].is_contiguous(memory_format=torch.channels_last)


def test_a_reader_is_compiled_without_a_break():
    reader = tapped("digits_cnn_4", 1, 8).eval()
    images = torch.randn(4, 1, 8, 8)
    compiled = torch.compile(reader, backend="eager", fullgraph=True)(images)
    assert all(torch.equal(tensor, compiled[name]) for name, tensor in reader(images).items())


@pytest.mark.parametrize(
    ("name", "side", "ends"),
    [
        ("resnet18", 64, ["layer1", "layer2", "layer3", "layer4"]),
        ("resnet18", 32, ["layer1", "layer2", "layer3", "layer4"]),
        ("mobilenet_v3_small", 64, ["features.0", "features.1", "features.3", "features.8", "features"]),
        ("vgg11_bn", 64, ["features.2", "features.6", "features.13", "features.20", "features.27"]),
        (
            "densenet121",
            64,
            ["features.denseblock1", "features.denseblock2", "features.denseblock3", "features"],
        ),
        ("swin_t", 64, ["features.1", "features.3", "features.5", "features"]),
    ],
)
def test_the_stage_ends_of_torchvision_networks_are_found(name: str, side: int, ends: list[str]):
    pytest.importorskip("torchvision")
    reader = tapped(f"torchvision:{name}", side=side)
    found = features(reader)
    assert [found[f"feat{index}"] for index in range(1, len(ends))] + [found["feat"]] == ends


def test_a_torchvision_transformer_gives_its_image_tokens():
    vision_transformer = pytest.importorskip("torchvision.models.vision_transformer")
    network = vision_transformer.VisionTransformer(32, 8, 2, 2, 24, 48, num_classes=5)
    reader = Tapped(network, torch.randn(2, 3, 32, 32))
    assert reader.shapes == {"logits": (5,), "emb": (24,), "feat": (24, 16)}
    assert reader.taps["feat"] == "encoder"
