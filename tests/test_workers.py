"""Workers: what a machine does wrong is mended and told from what a request does wrong."""

import os
import signal
import socket
import sys
from collections import Counter
from pathlib import Path

import pytest

from kdzero_gp.engine.machine import Machine
from kdzero_gp.errors import RunError
from kdzero_gp.training import jobs
from kdzero_gp.training.settings import TrainingResult
from kdzero_gp.workers import cluster, dispatch, local
from kdzero_gp.workers.dispatch import Dispatcher, Lost
from kdzero_gp.workers.engine import Event, News
from kdzero_gp.workers.local import LocalEngine


class Script:
    """Workers that do what is written: ``says(request, worker, try)`` gives news, or None for never."""

    def __init__(self, says, starts=lambda worker: True):
        self.says, self.starts = says, starts
        self.news, self.asked, self.hung, self.started = [], [], set(), Counter()

    def start(self, worker):
        self.started[worker] += 1
        ready = Event(worker, News.READY) if self.starts(worker) else Event(worker, News.LOST, "ended with exit code 1")
        self.news.append(ready)

    def stop(self, worker):
        self.hung.discard(worker)
        self.news = [event for event in self.news if event.worker != worker]

    def send(self, worker, request):
        self.asked.append((worker, request))
        said = self.says(request, worker, sum(asked == request for _, asked in self.asked))
        if said == "hangs":
            self.hung.add(worker)
        elif said is not None:
            self.news.append(Event(worker, *said))

    def events(self, seconds):
        news, self.news = self.news, []
        return news

    def silent(self, worker):
        return worker in self.hung

    def place(self, worker):
        return "here"

    def close(self):
        pass


def fine(request, worker, number):
    return News.ANSWER, request


def died(request, worker, number):
    return News.LOST, "was killed by SIGKILL, perhaps for lack of memory"


@pytest.fixture(autouse=True)
def fast_clock(monkeypatch):
    """A dispatcher's clock that advances by half a second at each look."""
    ticks = iter(range(10**9))
    monkeypatch.setattr(dispatch.time, "monotonic", lambda: next(ticks) / 2)
    yield
    monkeypatch.undo()


def answers(engine, requests, workers=2, **options):
    return dict(Dispatcher(engine, workers, **options).map(requests))


def test_each_request_is_answered_once_and_by_every_worker():
    engine = Script(fine)
    assert answers(engine, list(range(20)), workers=3) == {number: number for number in range(20)}
    assert {worker for worker, _ in engine.asked} == {0, 1, 2} and len(engine.asked) == 20


def test_what_died_once_is_tried_again_on_another_worker():
    engine = Script(
        lambda request, worker, number: died(0, 0, 0) if request == 3 and number == 1 else fine(request, 0, 0)
    )
    assert answers(engine, list(range(6))) == {number: number for number in range(6)}
    first, second = [worker for worker, request in engine.asked if request == 3]
    assert first != second and engine.started[first] == 2


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_a_request_that_ends_two_workers_is_to_blame(workers):
    engine = Script(lambda request, worker, number: died(0, 0, 0) if request == 3 else fine(request, 0, 0))
    found = answers(engine, list(range(6)), workers)
    assert found.pop(3).reason == (
        "ended its worker, which was killed by SIGKILL, perhaps for lack of memory, on two workers"
    )
    assert found == {number: number for number in range(6) if number != 3}
    assert Counter(request for _, request in engine.asked)[3] == 2


def test_where_only_failures_are_left_an_earlier_request_tells_who_is_to_blame():
    engine = Script(lambda request, worker, number: fine(request, 0, 0) if request == 0 else died(0, 0, 0))
    dispatcher = Dispatcher(engine, 1)
    assert dict(dispatcher.map([0])) == {0: 0}
    found = dict(dispatcher.map([1, 2]))
    assert all(isinstance(lost, Lost) for lost in found.values()) and len(found) == 2
    assert Counter(request for _, request in engine.asked)[0] > 1


def test_a_machine_on_which_nothing_works_ends_the_run_and_blames_nobody():
    broken = []
    engine = Script(lambda request, worker, number: died(0, 0, 0) if broken else fine(request, 0, 0))
    dispatcher = Dispatcher(engine, 2)
    assert dict(dispatcher.map([0, 1])) == {0: 0, 1: 1}
    broken.append(True)
    with pytest.raises(RunError, match=r"workers cannot work: .* then resume"):
        dict(dispatcher.map([2, 3, 4]))


def test_no_memory_is_tried_elsewhere_before_it_is_the_requests_fault():
    exhausted = (News.EXHAUSTED, "CUDA out of memory")
    once = Script(lambda request, worker, number: exhausted if number == 1 and request == 1 else fine(request, 0, 0))
    assert answers(once, [0, 1, 2]) == {0: 0, 1: 1, 2: 2}
    always = Script(lambda request, worker, number: exhausted if request == 1 else fine(request, 0, 0))
    assert answers(always, [0, 1, 2])[1].reason == "ran out of memory (CUDA out of memory), on two workers"


def test_what_takes_too_long_twice_is_given_up():
    engine = Script(lambda request, worker, number: None if request == 1 else fine(request, 0, 0))
    found = answers(engine, [0, 1, 2, 3], timeout=20.0)
    assert found[1] == Lost("took longer than 20 s, on two workers", 20.0)


def test_a_worker_that_hangs_is_never_the_requests_fault():
    engine = Script(lambda request, worker, number: "hangs" if request == 1 and number <= 3 else fine(request, 0, 0))
    assert answers(engine, [0, 1, 2, 3]) == {number: number for number in range(4)}
    assert max(engine.started.values()) > 1


def test_a_straggler_gets_a_copy_and_the_first_answer_counts():
    engine = Script(lambda request, worker, number: None if request == 11 and number == 1 else fine(request, 0, 0))
    assert answers(engine, list(range(13))) == {number: number for number in range(13)}
    assert Counter(request for _, request in engine.asked)[11] == 2


def steps_of_a_request(workers):
    """Lines of the dispatcher that are carried out for a request while all workers are busy and no time passes."""
    engine = Script(lambda request, worker, number: fine(request, 0, 0) if request else None)
    dispatcher = Dispatcher(engine, workers)
    dispatcher.arrived(wait=False)
    for _ in range(workers - 1):
        dispatcher.submit(0, 0)
    steps = 0

    def count(frame, event, argument):
        nonlocal steps
        if frame.f_code.co_filename != dispatch.__file__:
            return None
        steps += event == "line"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        for number in range(1, 101):
            dispatcher.submit(number, number)
            assert dispatcher.arrived() == (number, number)
    finally:
        sys.settrace(before)
    return steps / 100


def test_a_request_costs_the_same_with_many_workers(monkeypatch):
    monkeypatch.setattr(dispatch.time, "monotonic", lambda: 0.0)
    assert steps_of_a_request(500) == steps_of_a_request(2)


def test_a_straggler_goes_before_what_waits_and_gets_no_third_worker():
    """One of two workers never ends request 11; the other has a queue."""
    engine = Script(lambda request, worker, number: None if request == 11 and number < 3 else fine(request, 0, 0))
    found = answers(engine, list(range(200)), workers=3, timeout=60.0)
    assert found == {number: number for number in range(200)}
    asked = [request for _, request in engine.asked]
    assert asked.count(11) == 3 and asked.index(11, asked.index(11) + 1) < 180


def test_requests_that_write_files_are_never_with_two_workers_at_once():
    engine = Script(lambda request, worker, number: None if request == 11 and number == 1 else fine(request, 0, 0))
    assert answers(engine, list(range(13)), timeout=60.0, copies=False) == {number: number for number in range(13)}
    first, second = [worker for worker, request in engine.asked if request == 11]
    assert first != second and engine.started[first] == 2  # it was stopped before


def test_a_training_that_ends_two_processes_is_a_result_and_the_others_go_on(monkeypatch):
    trained = TrainingResult(test={"accuracy": 0.5})
    lost = jobs.Job(None, Path("lost"))
    engine = Script(lambda job, worker, number: died(0, 0, 0) if job is lost else (News.ANSWER, trained))
    monkeypatch.setattr(jobs, "LocalEngine", lambda setup, arguments: engine)
    asked = [jobs.Job(None, Path(str(number))) for number in range(3)]
    found = dict(jobs.results([asked[0], lost, *asked[1:]], Machine(), 2))
    assert found.pop(1).reason == (
        "the training ended its worker, which was killed by SIGKILL, perhaps for lack of memory, on two workers; the "
        "same command with fewer --workers tries it again"
    )
    assert found == {0: trained, 2: trained, 3: trained}


def test_workers_that_cannot_start_are_left_out_or_end_the_run():
    engine = Script(fine, starts=lambda worker: worker == 0)
    assert answers(engine, list(range(9)), workers=2) == {number: number for number in range(9)}
    with pytest.raises(RunError, match="die at start-up, possibly out of memory"):
        answers(Script(fine, starts=lambda worker: False), [1], workers=2)


def test_what_a_worker_raises_is_raised():
    engine = Script(lambda request, worker, number: (News.RAISED, RunError("proxy_task.pt is damaged")))
    with pytest.raises(RunError, match=r"proxy_task\.pt is damaged"):
        answers(engine, [1])


def test_the_head_of_a_cluster_is_silent_from_the_moment_on_in_which_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        head = cluster._Head(f"127.0.0.1:{listening.getsockname()[1]}")
        assert {head.silent() for _ in range(40)} == {0.0}
    silences = [head.silent() for _ in range(80)]
    assert silences == sorted(silences) and silences[-1] > cluster._HEAD_SILENT


# --- processes -----------------------------------------------------------------------------------------------------


def doing(scale, worker):
    """A setup: what to do is written in the request."""

    def answer(request):
        if request == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        if request == "no memory":
            raise MemoryError("no memory")
        return worker, os.getpid(), scale

    return answer


def test_processes_answer_and_one_that_stops_moving_is_replaced(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(local, "SILENCE", 6.0)
    stopped = []

    def alive(process):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
        return True

    dispatcher = Dispatcher(LocalEngine(doing, (7,)), 2)
    try:
        first = dict(dispatcher.map(["a", "b", "c"]))
        assert {scale for _, _, scale in first.values()} == {7}
        os.kill(first[0][1], signal.SIGSTOP)
        stopped.append(first[0][1])
        again = dict(dispatcher.map(["a", "b", "c", "d", "no memory"]))
        assert "ran out of memory" in again.pop(4).reason
        assert all(scale == 7 for _, _, scale in again.values())
    finally:
        dispatcher.close()
    assert not any(alive(process) for process in stopped)
