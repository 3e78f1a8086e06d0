"""Fixtures that several test files share."""

import pytest


@pytest.fixture(scope="module")
def bench():
    """A small proxy task on digits."""
    from test_evaluation import small_bench

    return small_bench()


@pytest.fixture(autouse=True)
def short_timings(monkeypatch):
    """What a network computes fastest in is measured on few images; tests do not ask how fast they are."""
    monkeypatch.setattr("kdzero_gp.engine.precision.BATCH", 8)


@pytest.fixture
def inline_workers():
    """Local workers are no processes in this test."""
    from inline_engine import inline

    with inline():
        yield


@pytest.fixture
def serve():
    """Starts local servers of chat completions."""
    from chat_server import ChatServers

    servers = ChatServers()
    yield servers
    servers.close()
