"""Workers are spread evenly over the devices."""

from collections import Counter

import pytest
import torch

from kdzero_gp.engine.machine import Machine
from kdzero_gp.errors import SettingError
from kdzero_gp.proxy.executor import device_of


@pytest.mark.parametrize(("workers", "devices"), [(1, 1), (4, 1), (8, 4), (7, 3)])
def test_no_device_has_two_workers_more_than_another(workers, devices):
    shares = Counter(device_of(worker, devices) for worker in range(workers))
    assert len(shares) == min(workers, devices)
    assert max(shares.values()) - min(shares.values()) <= 1
    assert {torch.device(name).index for name in shares} == set(range(min(workers, devices)))


def test_without_a_device_workers_compute_on_the_cpu():
    assert [device_of(worker, 0) for worker in range(3)] == ["cpu"] * 3


def test_a_device_is_shared_by_as_many_workers_as_are_asked_for(monkeypatch):
    with pytest.raises(SettingError, match="--gpu-share has no effect without a CUDA device"):
        Machine(device="cpu", gpu_share=2).resolved_workers()
    with pytest.raises(SettingError, match="--gpu-share must be at least 1, got 0"):
        Machine(gpu_share=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert Machine(gpu_share=3).resolved_workers() == 6
    assert Machine(gpu_share=3, workers=4).resolved_workers() == 4
