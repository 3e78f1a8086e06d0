"""Fixtures that several test files share."""

import pytest


@pytest.fixture(scope="module")
def bench():
    """A small proxy task on digits."""
    from test_evaluation import small_bench

    return small_bench()


@pytest.fixture
def serve():
    """Starts local servers of chat completions."""
    from chat_server import ChatServers

    servers = ChatServers()
    yield servers
    servers.close()
