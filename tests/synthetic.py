"""Runs that were never trained: a real search whose fitness is a formula, stored as a run stores it.

The formula likes some operations more than others, so that a report has something to find; some expressions are
rejected, for reasons as evaluation gives them. Everything follows from the seed.
"""

import math
import random
from pathlib import Path

from kdzero_gp.common import ALONE
from kdzero_gp.compiler import pair_shapes, zoo
from kdzero_gp.evolution import Birth, Grammar, Pending, Score, Search, SearchSettings
from kdzero_gp.search.race import entries
from kdzero_gp.search.settings import RunSettings
from kdzero_gp.search.storage import Database, Status, StoredBirth, StoredCost, StoredEvaluation, StoredMeasurement

STUDENT = {"logits": [10], "emb": [8], "feat": [8, 4, 4]}
TEACHER = {"logits": [10], "emb": [64], "feat": [64, 4, 4]}
BENCH = {
    "student_shapes": STUDENT, "teacher_shapes": TEACHER, "precision": "float32", "channels_last": False,
    "teacher_test_accuracy": 0.976, "teacher_validation_accuracy": 0.987, "race_from_scratch": True,
}  # fmt: skip
REASONS = ("the loss is not finite", "took longer than 600 s", "validation cross-entropy 5.31 is above 4.6")
# What the formula likes (negative) and dislikes.
LIKES = {"softmax_C": -0.12, "entropy": -0.06, "kl": -0.05, "satt": -0.04, "l2": -0.02, "drop": 0.1, "pow4": 0.15}


def fitness_of(text: str, name: str) -> float | None:
    """A fitness that follows from the expression alone; None for one in twelve."""
    noise = random.Random(name)
    if noise.random() < 1 / 12:
        return None
    liked = sum(value for operation, value in LIKES.items() if f"{operation}(" in text)
    return max(0.3, 0.9 + liked + 0.08 * noise.gauss(0, 1) + 0.0004 * len(text))


def metrics_of(fitness: float) -> dict[str, float]:
    """Metrics that go with a fitness."""
    return {
        "accuracy": max(0.1, 1 - 0.12 * fitness), "cross_entropy": 0.45 * fitness, "sharpness_gap": 3 * fitness,
        "cka_gap": 0.3 * fitness,
    }  # fmt: skip


def synthetic_run(
    folder: Path, births: int = 2000, population: int = 20, seed: int = 0, finished: bool = True, raced: bool = True
) -> Path:
    """Make a run of ``births`` births in ``folder``; with none, the folder of a run that has only just begun."""
    folder.mkdir(parents=True, exist_ok=True)
    search = SearchSettings(generations=max(1, births // population), population=population, seed=seed)
    settings = RunSettings(teacher="digits_cnn_32", student="digits_cnn_4", search=search)
    with Database.create(folder) as database:
        database.set_fact("settings", settings.as_dict())
        database.set_fact("versions", {"kdzero_gp": "0.1.0", "torch": "2.14.1", "python": "3.11.7"})
        if not births:
            return folder
        database.set_fact("bench", BENCH)
        _published(database, seed)
        _evolve(database, search)
        if raced:
            _race(database, settings)
        if finished:
            database.set_fact("finished", True)
    return folder


def _evolve(database: Database, settings: SearchSettings) -> None:
    shapes = pair_shapes(STUDENT, TEACHER)
    rows: list[tuple[StoredEvaluation, float]] = []

    def judge(birth: Birth) -> Pending:
        text = str(birth.expression)
        fitness = fitness_of(text, birth.digest)
        reason = "" if fitness is not None else random.Random(text).choice(REASONS)
        metrics = {} if fitness is None else metrics_of(fitness)
        status = Status.TRAINED if fitness is not None else Status.FAILED
        row = StoredEvaluation(birth.digest, text, status, fitness, reason, metrics, (1.0,) * text.count("times("))
        rows.append((row, 1.0 + random.Random(text).random()))
        return Pending(lambda: Score(1e9 if fitness is None else fitness, measured=fitness is not None))

    born: list[StoredBirth] = []

    def keep(b: Birth) -> None:
        row = StoredBirth(b.number, b.generation, b.operator, b.parents, str(b.expression), b.digest, b.duplicate_of)
        born.append(row)

    grammar = Grammar("open", shapes.types)
    seeds = [expression for expression in zoo.values() if grammar.contains(expression)]
    for _ in Search(grammar, settings, judge, seeds, on_birth=keep).run():
        pass
    _store(database, born, rows)


def _store(database: Database, born: list[StoredBirth], rows: list[tuple[StoredEvaluation, float]]) -> None:
    database.add_births(born)
    with database.transaction():
        for row, seconds in rows:
            database.insert([row, StoredCost("evaluation", row.digest, seconds, 3.0)])


def _published(database: Database, seed: int) -> None:
    for index in range(3):
        found = StoredMeasurement("baseline", ALONE, index, 1.0, "", metrics_of(1.0), ())
        database.add_measurement(found, 1.0, 2.0)
    for name, expression in zoo.items():
        fitness = fitness_of(str(expression), name) or 1.0
        metrics = metrics_of(fitness) | {"fitness": fitness}
        database.add_measurement(StoredMeasurement("zoo", name, seed, 1.0, "", metrics, (1.0,)), 1.4, 3.0)


def _race(database: Database, settings: RunSettings) -> None:
    for entry in entries(database, settings):
        for index in range(settings.plan.race_seeds):
            noise = random.Random(f"{entry.name}{index}").gauss(0, 0.006)
            accuracy = 0.965 - 0.06 * (entry.fitness or 1.0) + noise
            metrics = {"accuracy": accuracy, "cross_entropy": 1 - accuracy, "test_accuracy": accuracy - 0.01}
            assert math.isfinite(accuracy)
            database.add_measurement(
                StoredMeasurement("race", entry.name, 2_000_000 + index, 1.0, "", metrics, entry.magnitudes), 6.0, 3.0
            )
