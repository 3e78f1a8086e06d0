"""What the search decides from workers' answers, with workers that are written here: it asks for as little as it can,
commits what arrives, and takes the same way whatever comes first."""

import base64
import contextlib
import itertools
import json
import random
import sqlite3
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from kdzero_gp.compiler import parse
from kdzero_gp.compiler.canonical import digest
from kdzero_gp.engine.gradients import SKETCH
from kdzero_gp.errors import RunError
from kdzero_gp.evolution import Birth, Score
from kdzero_gp.language_model import ModelSettings
from kdzero_gp.proxy.evaluator import Probe, Probed, Train, Trained
from kdzero_gp.proxy.screens import PROBES
from kdzero_gp.proxy.surrogate import LEAST_JUDGED, LEAST_KNOWN
from kdzero_gp.search.candidates import LEAST_SCORES, WORST_FITNESS, CandidateQueue, screen_rows
from kdzero_gp.search.settings import RunSettings
from kdzero_gp.search.storage import Database, Status, StoredEvaluation

BASELINE = {"cross_entropy": 1.0, "accuracy": 0.5, "calibrated": 1.0, "sharpness_gap": 1.0, "cka_gap": 1.0}
TEXTS = [
    f"times({weight}({distance}({transform}(logits))), {magnitude})"
    for weight, distance, transform, magnitude in itertools.product(
        ("no", "conf", "entropy"), ("l2", "l1"), ("tanh", "sigmoid"), (0.1, 1, 2, 10)
    )
]


LLM = ModelSettings("http://127.0.0.1:1/v1", "tiny")


def birth(number, generation=0):
    expression = parse(TEXTS[number])
    return Birth(number, generation, "random", (), expression, digest(expression))


def gradient(number):
    return np.random.default_rng(number).standard_normal(SKETCH * PROBES).astype(np.float32)


class Workers:
    """Answer in an order of their own; ``probes`` and ``trains`` change what some births get."""

    def __init__(self, seed=0, probes=None, trains=None, ready=10**9):
        self.random, self.probes, self.trains, self.ready = random.Random(seed), probes or {}, trains or {}, ready
        self.waiting, self.asked = [], []

    def submit(self, key, request):
        self.asked.append((key.birth.number, type(request)))
        self.waiting.append((key, request))

    def arrived(self, wait=True):
        if not self.waiting or not (wait or self.random.random() < 0.5):
            return None
        if self.ready == 0:
            raise KeyboardInterrupt
        self.ready -= 1
        key, request = self.waiting.pop(self.random.randrange(len(self.waiting)))
        number = key.birth.number
        if isinstance(request, Probe):
            plain = Probed((1.0,), 1.0, (2.0,), gradient(number).tobytes(), 0.5)
            return key, self.probes.get(number, plain)
        loss = 0.5 + 0.3 * float(np.tanh(gradient(number)[0]))
        return key, self.trains.get(number, Trained(dict.fromkeys(BASELINE, loss)))


def settings(**changes):
    whole = RunSettings.from_dict(RunSettings(task="digits", teacher="t", student="s").as_dict())
    return replace(whole, **changes)


@pytest.fixture
def database(tmp_path):
    with Database.create(tmp_path) as database:
        yield database


def queue(database, workers, **changes):
    return CandidateQueue(settings(**changes), database, workers, BASELINE, BASELINE, str)


def judged(candidates, count, window=3, generation=0):
    """Scores of so many births, of which up to ``window`` are asked for at once."""
    started, scores = [], []
    for number in range(count):
        if len(started) == window:
            scores.append(started.pop(0).score())
        started.append(candidates.start(birth(number, generation)))
    return scores + [pending.score() for pending in started]


def rival(fitness):
    """A population of one individual."""
    return lambda birth: [SimpleNamespace(birth=SimpleNamespace(expression="rival"), score=Score(fitness))]


def test_each_answer_decides_what_is_asked_next(database):
    twin = Probed((1.0,), 1.0, (3.0,), gradient(0).tobytes())
    away = Probed((1.0,), 1.0, (3.0,), gradient(2).tobytes(), reason="leads away", screen="rejection")
    probes = {1: twin, 2: away, 3: Probed(reason="ZeroDivisionError: division by zero")}
    trains = {4: Trained(reason="stopped", screen="short", short={"gaps": 9.0}), 5: Trained(reason="diverged")}
    workers = Workers(probes=probes, trains=trains)
    scores = judged(queue(database, workers, screens=("finite", "equivalence", "rejection", "short")), 6, window=1)
    statuses = [database.evaluation(birth(number).digest).status for number in range(6)]
    assert statuses == [Status.TRAINED, Status.EQUIVALENT, *[Status.REJECTED, Status.FAILED] * 2]
    assert [number for number, kind in workers.asked if kind is Train] == [0, 4, 5]
    assert scores[1].fitness == scores[0].fitness != WORST_FITNESS and scores[1].measured
    assert [score.fitness for score in scores[2:]] == [WORST_FITNESS] * 4
    equivalent = database.evaluation(birth(1).digest)
    assert equivalent.equivalent_to == birth(0).digest and equivalent.magnitudes == (3.0,)


def test_a_twin_that_is_trained_at_the_same_time_is_found_when_it_is_judged(database):
    twin = {1: Probed((1.0,), 1.0, (3.0,), gradient(0).tobytes())}
    workers = Workers(probes=twin)
    judged(queue(database, workers, screens=("finite", "equivalence")), 2, window=2)
    assert [number for number, kind in sorted(workers.asked, key=str) if kind is Train] == [0, 1]
    assert database.evaluation(birth(1).digest).status is Status.EQUIVALENT


@pytest.mark.parametrize("screens", [("finite", "equivalence"), ("finite", "surrogate")])
def test_a_run_does_not_depend_on_the_order_of_the_answers(tmp_path, screens):
    tables = []
    for seed in range(3):
        folder = tmp_path / str(seed)
        folder.mkdir()
        with Database.create(folder) as database:
            judged(queue(database, Workers(seed), screens=screens), len(TEXTS))
            tables.append({evaluation.digest: evaluation for evaluation in database.evaluations()})
    assert tables[0] == tables[1] == tables[2]
    predicted = [e for e in tables[0].values() if e.status is Status.PREDICTED]
    if "surrogate" in screens:
        assert 0 < len(predicted) < len(TEXTS) - LEAST_KNOWN
        assert all(e.screen == "surrogate" and e.fitness is None and "score" in e.short for e in predicted)
        assert sum("score" in e.short for e in tables[0].values()) > LEAST_SCORES
    else:
        assert not predicted


def test_a_judge_spares_the_less_fit_while_the_surrogate_is_blind(tmp_path):
    tables, counts = [], []
    cases = [(0, "surrogate", 0.5), (1, "surrogate", 0.5), (0, "none", 0.5), (0, "surrogate", WORST_FITNESS)]
    for case, (seed, judge, fitness) in enumerate(cases):
        folder = tmp_path / str(case)
        folder.mkdir()
        with Database.create(folder) as database:
            candidates = queue(database, Workers(seed), screens=("finite", "surrogate"), judge=judge)
            candidates.population_of = rival(fitness)
            scores = judged(candidates, len(TEXTS), generation=1)
            tables.append([database.evaluation(birth(number).digest) for number in range(len(TEXTS))])
            counts.append({row["name"]: row["turned_away"] for row in screen_rows(tables[-1], database.stages())})
        assert [score.superfluous for score in scores] == [e.screen == "judge" for e in tables[-1]]
    assert tables[0] == tables[1]
    spared = [e for e in tables[0] if e.reason.startswith("judged less fit than one of the population: fitness")]
    assert spared and all(e.status is Status.PREDICTED and e.fitness is None for e in spared)
    assert all(e.reason.endswith("to 0.500") for e in spared), "of the population, which none of the trained is"
    assert not any(e.status is Status.PREDICTED for e in tables[0][: LEAST_JUDGED + 1])
    assert counts[0]["judge"] == len(spared)
    for table, count in zip(tables[2:], counts[2:], strict=True):
        assert "judge" not in count and not any("judged" in e.reason for e in table)


def test_a_model_judges_while_fewer_than_twenty_were_trained(database):
    asked = []
    candidates = queue(database, Workers(), screens=("finite", "surrogate"), judge="model", llm=LLM)
    candidates.population_of = rival(0.5)
    candidates.model_judge = lambda number, child, other: asked.append((number, child, other)) or number % 2 == 0
    scores = judged(candidates, 48, window=1, generation=1)
    # every second one of those that it is asked about is trained
    assert asked == [(number, TEXTS[number], "rival") for number in range(2 * LEAST_KNOWN)]
    evaluations = [database.evaluation(birth(number).digest) for number in range(2 * LEAST_KNOWN)]
    assert [e.screen for e in evaluations] == ["judge", ""] * LEAST_KNOWN
    assert [score.superfluous for score in scores[: 2 * LEAST_KNOWN]] == [True, False] * LEAST_KNOWN
    assert evaluations[0].reason == "judged less fit than one of the population by the language model"


def test_the_first_population_is_judged_by_nobody(database):
    candidates = queue(database, Workers(), screens=("finite", "surrogate"), judge="model", llm=LLM)
    candidates.population_of, candidates.model_judge = rival(0.5), lambda *_: 1 / 0
    assert not any(score.superfluous for score in judged(candidates, 12))


@pytest.mark.parametrize("ready", range(0, 40, 5))
def test_what_arrived_before_an_interruption_is_not_asked_again(tmp_path, ready):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    with Database.create(whole) as database:
        judged(queue(database, Workers()), 20)
        expected = database.evaluations()
    first, second = Workers(1, ready=ready), Workers(2)
    with Database.create(parts) as database, pytest.raises(KeyboardInterrupt):
        judged(queue(database, first), 20)
    with Database.open(parts) as database:
        judged(queue(database, second), 20)
        assert database.evaluations() == expected
        assert not [b for b in range(20) for name in ("probe", "train") if database.answer(birth(b).digest, name)]
    # one answer was taken, and one was asked for again at most, for each of those in flight
    again = set(first.asked) & set(second.asked)
    assert len(first.asked) - ready == len(again)


DAMAGES = {
    "no object": ("answers", "answer", "[]", "request = 'probe'"),
    "magnitudes": ("answers", "answer", '{"magnitudes": ["x"]}', "request = 'probe'"),
    "short gradient": ("answers", "answer", json.dumps({"fingerprint": base64.b85encode(b"abc").decode()}),
                       "request = 'probe'"),
    "other gradient": ("answers", "answer", json.dumps({"fingerprint": base64.b85encode(b"abcd").decode()}),
                       "request = 'probe'"),
    "metrics": ("answers", "answer", '{"metrics": {"calibrated": "low"}}', "request = 'train'"),
    "bytes": ("evaluations", "fingerprint", b"abc", "1"),
    "no bytes": ("evaluations", "fingerprint", 1.5, "1"),
    "units": ("evaluations", "units", "soon", "1"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_nobody_wrote_ends_a_resumed_search_in_one_sentence(tmp_path, damage):
    table, column, value, where = DAMAGES[damage]
    with Database.create(tmp_path) as database, pytest.raises(KeyboardInterrupt):
        judged(queue(database, Workers(1, ready=17)), 20, window=8)
    with contextlib.closing(sqlite3.connect(tmp_path / "run.sqlite")) as database, database:
        assert database.execute(f"UPDATE {table} SET {column} = ? WHERE {where}", (value,)).rowcount
    with (
        Database.open(tmp_path) as database,
        pytest.raises(RunError, match=r"run\.sqlite is damaged \(.*\); restore a copy of it, or start anew in another"),
    ):
        judged(queue(database, Workers(2)), 20, window=8)


def test_stages_that_are_no_json_are_damage(database):
    database.add_evaluation(StoredEvaluation("d", "e", Status.FAILED, None, "", {}, ()), 1.0, 1.0, {"finite": 1.0})
    assert database.stages() == {"finite": (1, 1.0)}
    with database.transaction():
        database._connection.execute("UPDATE costs SET stages = '{'")
    with pytest.raises(RunError, match=r"run\.sqlite is damaged"):
        database.stages()
