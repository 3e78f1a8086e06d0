"""Fixtures that several test files share."""

import pytest

from kdzero_gp.proxy.screens import Fingerprints


@pytest.fixture(scope="module")
def bench():
    """A small proxy task on digits."""
    from test_evaluation import small_bench

    return small_bench()


@pytest.fixture
def prints(tmp_path):
    """An empty file of fingerprints."""
    fingerprints = Fingerprints(tmp_path / "fingerprints.f32")
    fingerprints.clear()
    return fingerprints
