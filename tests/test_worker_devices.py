"""Workers are spread evenly over the devices."""

from collections import Counter

import pytest
import torch

from kdzero_gp.workers.devices import device_of


@pytest.mark.parametrize(("workers", "devices"), [(1, 1), (4, 1), (8, 4), (7, 3)])
def test_no_device_has_two_workers_more_than_another(workers, devices):
    shares = Counter(device_of(worker, devices) for worker in range(workers))
    assert len(shares) == min(workers, devices)
    assert max(shares.values()) - min(shares.values()) <= 1
    assert {torch.device(name).index for name in shares} == set(range(min(workers, devices)))


def test_without_a_device_workers_compute_on_the_cpu():
    assert [device_of(worker, 0) for worker in range(3)] == ["cpu"] * 3
