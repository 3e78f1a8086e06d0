"""Ray's workers: a search finds on a cluster, also on one that loses and gains machines, what it finds here."""

import contextlib
import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("ray")

from kdzero_gp.errors import RunError
from kdzero_gp.workers import cluster
from kdzero_gp.workers.dispatch import Dispatcher, Lost
from kdzero_gp.workers.engine import News
from test_same_run import Workers, assert_equal, made_up, search

pytestmark = pytest.mark.timeout(600)


def answering(given, worker):
    """A setup with a file."""
    content = Path(given).read_text()

    def answer(request):
        if request == "die":
            os._exit(3)
        if isinstance(request, Path):
            if not request.exists():
                request.touch()
                os.kill(os.getpid(), signal.SIGSTOP)
            return "went on"
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


def test_another_version_is_refused_in_one_sentence_when_a_cluster_is_connected(nodes, monkeypatch):
    monkeypatch.setattr(cluster, "versions", partial(dict, {**cluster.versions(), "torch": "1.0"}))
    with pytest.raises(RunError, match=r"has torch .* and the driver's 1\.0; install the same on all machines"):
        cluster.connect(nodes.address, None, "cpu")


def test_a_worker_on_a_machine_with_another_version_is_refused():
    said, error = cluster._Actor().begin({"torch": "1.0"}, None, answering, (), 0)
    assert said is News.RAISED and "and the driver's 1.0; install the same on all machines" in str(error)


def test_an_actor_that_stops_moving_is_replaced_and_its_place_is_free_again(dispatcher, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "BEAT", 1.0)
    monkeypatch.setattr(cluster, "SILENCE", 5.0)
    dispatcher.timeout = 500.0
    list(dispatcher.map(["where"] * 8))
    assert list(dispatcher.map([tmp_path / "stopped"])) == [(0, "went on")]
    assert (tmp_path / "stopped").exists()
    while len(dispatcher._idle) < 2:
        dispatcher.arrived(wait=False)
        time.sleep(0.1)
    before = dict(dispatcher.engine._workers)
    monkeypatch.setattr(cluster, "SILENCE", 60.0)
    dispatcher.engine._listened += 100.0  # they had nothing to do for long, and are not replaced for that
    found = set()
    while len(found) < 2:  # one of them may be slow
        found |= {node for _, (_, node) in dispatcher.map(["where"] * 8)}
    assert dispatcher.engine._workers == before


def test_a_cluster_that_loses_a_node_and_gets_another_finds_the_same_rows(nodes, dispatcher, tmp_path):
    def lose_and_add():
        nodes.remove_node(nodes.first, allow_graceful=False)
        nodes.add_node(**nodes.small)

    (tmp_path / "here").mkdir()
    (tmp_path / "ray").mkdir()
    expected = search(tmp_path / "here", Workers(1, 0), lanes=5)
    assert_equal(search(tmp_path / "ray", Asked(dispatcher, 25, lose_and_add), lanes=5), expected)


def test_a_cluster_of_this_machine_that_ended_is_told_at_once(nodes, monkeypatch):
    engine = cluster.RayEngine(answering, (), "cpu", started=False)
    monkeypatch.setattr(engine._ray, "nodes", lambda: [{"Alive": False}])
    monkeypatch.setattr(cluster, "_LOOK_FOR_HEAD", 0.0)
    assert list(engine.events(0.0)) == []  # other machines may join one that was not started here
    monkeypatch.setattr(engine, "_started", True)
    with pytest.raises(RunError, match="the Ray cluster of this machine has ended; resume starts another"):
        engine.events(0.0)


def test_a_head_that_does_not_answer_ends_the_run_without_a_call_to_it(nodes, monkeypatch):
    engine = cluster.RayEngine(answering, (), "cpu", started=False)
    engine.start(0)
    monkeypatch.setattr(engine._head, "silent", lambda: 100.0)
    monkeypatch.setattr(engine._ray, "kill", None)
    monkeypatch.setattr(engine._ray, "nodes", None)
    with pytest.raises(
        RunError, match=r"the head of the Ray cluster \(.*\) does not answer any more; resume on another"
    ):
        engine.events(0.0)
    engine.close()
