"""Ray's workers: a search finds on a cluster, also on one that loses and gains machines, what it finds here."""

import contextlib
import os
import time
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("ray")

from kdzero_gp.errors import RunError
from kdzero_gp.workers import cluster
from kdzero_gp.workers.dispatch import Dispatcher, Lost
from test_same_run import Workers, assert_equal, made_up, search

pytestmark = pytest.mark.timeout(600)


def answering(given, worker):
    """A setup with a file."""
    content = Path(given).read_text()

    def answer(request):
        if request == "die":
            os._exit(3)
        if request == "where":
            time.sleep(0.2)
            import ray

            return content, ray.get_runtime_context().get_node_id()
        return made_up.answer(request)

    return answer


@pytest.fixture(scope="module")
def nodes():
    """A head without room for workers, and two nodes with one processor each."""
    import ray
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
        for name, value in cluster._ENVIRONMENT.items():
            patch.setenv(name, value)
        small = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
        made.small = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
        made.first, _ = made.add_node(**made.small), made.add_node(**made.small)
        cluster.connect(made.address, None, "cpu")
        yield made
        ray.shutdown()
        made.shutdown()


@pytest.fixture
def dispatcher(nodes, tmp_path):
    (tmp_path / "given.txt").write_text("what was given")
    engine = cluster.RayEngine(answering, (tmp_path / "given.txt",), "cpu", started=False)
    with contextlib.closing(Dispatcher(engine, 2)) as made:
        yield made


class Asked:
    """A dispatcher as a search asks it; ``then`` is done after so many answers."""

    def __init__(self, dispatcher, after=10**9, then=None):
        self.dispatcher, self.after, self.then, self.submit = dispatcher, after, then, dispatcher.submit

    def arrived(self, wait=True):
        found = self.dispatcher.arrived(wait)
        if found is not None:
            self.after -= 1
            if self.after == 0:
                self.then()
        return found


def test_there_is_room_for_a_worker_a_processor(nodes):
    assert cluster.connect(nodes.address, None, "cpu") == (2, False)


def test_actors_on_both_nodes_get_the_file_and_what_ends_two_of_them_is_to_blame(dispatcher):
    found = dict(dispatcher.map(["where"] * 8))
    assert {content for content, _ in found.values()} == {"what was given"}
    assert len({node for _, node in found.values()}) == 2
    found = dict(dispatcher.map(["where", "die", "where", "where", "where"]))
    assert isinstance(found.pop(1), Lost) and len(found) == 4


def test_another_version_is_refused_in_one_sentence(nodes, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "versions", partial(dict, {**cluster.versions(), "torch": "1.0"}))
    engine = cluster.RayEngine(answering, (), "cpu", started=False)
    with (
        contextlib.closing(Dispatcher(engine, 1)) as dispatcher,
        pytest.raises(RunError, match=r"has torch .* and this one 1\.0; install the same on all machines"),
    ):
        dict(dispatcher.map(["where"]))


def test_a_cluster_that_loses_a_node_and_gets_another_finds_the_same_rows(nodes, dispatcher, tmp_path):
    def lose_and_add():
        nodes.remove_node(nodes.first, allow_graceful=False)
        nodes.add_node(**nodes.small)

    (tmp_path / "here").mkdir()
    (tmp_path / "ray").mkdir()
    expected = search(tmp_path / "here", Workers(1, 0), lanes=5)
    assert_equal(search(tmp_path / "ray", Asked(dispatcher, 25, lose_and_add), lanes=5), expected)


def test_a_cluster_of_this_machine_that_ended_is_told_at_once(dispatcher, monkeypatch):
    list(dispatcher.map(["where"] * 2))
    engine = dispatcher.engine
    monkeypatch.setattr(engine._ray, "nodes", lambda: [{"Alive": False}])
    engine.send(0, "where")
    assert list(engine.events(0.0)) == []  # other machines may join one that was not started here
    monkeypatch.setattr(engine, "_started", True)
    with pytest.raises(RunError, match="the Ray cluster of this machine has ended; resume starts another"):
        engine.events(0.0)
