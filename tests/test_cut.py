"""A cut network is the network: halves give what the whole gives, and the same gradients after the cut; what cannot be
cut says why. A search whose proxies train the last stage alone is a search as any other."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from kdzero_gp import models
from kdzero_gp.analysis.run import StoredRun
from kdzero_gp.errors import ModelError
from kdzero_gp.models.split import find_cut, halves
from kdzero_gp.models.taps import Tapped
from kdzero_gp.proxy.students import student_builder
from kdzero_gp.proxy.task import ProxyTask
from kdzero_gp.search.prepare import PROXY_TASK
from odd_networks import Bishop, Pancake, lighthouse
from test_run_options import TINY
from test_runs import finished

KEPT = ("logits", "emb", "feat")
NETWORKS = [name for name in models.names() if not name.endswith(("110", "56", "44", "32x4"))]


def images_for(name, count=4):
    torch.manual_seed(0)
    return torch.randn(count, 1, 8, 8) if name.startswith("digits") else torch.randn(count, 3, 32, 32)


def built(name, images):
    torch.manual_seed(1)
    return Tapped(models.build(name, 10, images.shape[1]), images)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_halves_of_every_network_give_what_it_gives_and_train_as_it_trains(name):
    images = images_for(name)
    whole = built(name, images).eval()
    cut, taps = find_cut(whole, KEPT, images)
    trunk, tail = halves(whole.network, cut, taps)
    maps = trunk.eval()(images)["maps"].detach()
    tail = Tapped(tail, maps, taps).eval()
    one, other = whole(images), tail(maps)
    assert set(KEPT) <= set(other)
    for tap in KEPT:
        torch.testing.assert_close(other[tap], one[tap], rtol=1e-4, atol=1e-4)
    trained = list(tail.parameters())
    assert 0 < len(trained) < len(list(whole.parameters()))
    expected = torch.autograd.grad(sum(one[tap].square().mean() for tap in KEPT), trained)
    found = torch.autograd.grad(sum(other[tap].square().mean() for tap in KEPT), trained)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_the_cut_lies_before_all_that_is_read():
    images = images_for("resnet20")
    network = built("resnet20", images)
    assert find_cut(network, KEPT, images)[0] == "layer2"
    assert find_cut(network, (*KEPT, "feat2"), images)[0] == "layer1"
    with pytest.raises(ModelError, match="no stage before"):
        find_cut(network, (*KEPT, "feat1"), images)


def test_a_tail_is_built_from_what_a_bench_says_and_takes_the_whole_students_weights():
    images = images_for("vgg8")
    network = built("vgg8", images)
    cut, taps = find_cut(network, KEPT, images)
    maps = halves(network.eval().network, cut, taps)[0](images)["maps"].detach()
    spec = {"task": "cifar10", "name": "vgg8", "classes": 10, "channels": 3, "cut": cut, "taps": taps}
    tail = student_builder(spec, maps)()
    state = network.network.state_dict()
    tail.network.load_state_dict({name: state[name] for name in tail.network.state_dict()})
    assert 0 < len(tail.network.state_dict()) < len(state)
    torch.testing.assert_close(tail.eval()(maps)["logits"], network(images)["logits"])


class Bridge(nn.Module):
    """Something leads from the first stage past the second one."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        self.third = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(16, 10)

    def forward(self, images):
        early = self.first(images)
        late = self.third(self.second(early))
        return self.head(torch.cat([late.mean((2, 3)), early.mean((2, 3))], 1))


class Chooser(Bridge):
    """What is computed depends on the images."""

    def forward(self, images):
        maps = self.third(self.second(self.first(images)))
        if maps.sum() > 0:
            maps = maps * 2
        return self.head(maps.mean((2, 3)).repeat(1, 2))


class Moody(Bridge):
    """What is computed depends on the mode."""

    def forward(self, images):
        maps = self.third(self.second(self.first(images)))
        if self.training:
            maps = maps * 2
        return self.head(maps.mean((2, 3)).repeat(1, 2))


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (Bridge(), "used after it"),
        (Chooser(), "cannot be followed by torch.fx"),
        (Moody(), "comes out differently"),
        (Bishop(10), "no stage before"),
        (Pancake(10), "no stage before"),
        (lighthouse(10), "no stage before"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_cut_says_why(network, words):
    images = torch.randn(4, 3, 32, 32)
    tapped = Tapped(network, images)
    with pytest.raises(ModelError, match=words):
        find_cut(tapped, [tap for tap in KEPT if tap in tapped.taps], images)


@pytest.mark.timeout(600)
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_a_search_by_last_stages_races_whole_students_and_can_be_replayed(tmp_path):
    folder = tmp_path / "run"
    code, output, errors = finished(*TINY, "--proxy-trains", "last-stage", "--out", folder)
    assert code == 0, output + errors
    assert "proxies train what comes after stage1 of the student" in output
    found = json.loads(finished("show", folder, "--json")[1])
    bench = ProxyTask.load(folder / PROXY_TASK)
    proxy, race = bench.of("proxy"), bench.of("race")
    assert proxy.student["cut"] == "stage1" and race.student.get("cut") is None
    assert proxy.train.images.shape[1:] == (4, 8, 8) and race.train.images.shape[1:] == (1, 8, 8)
    assert found["top"] and found["race"]
    assert StoredRun(folder).replay(1).equal
