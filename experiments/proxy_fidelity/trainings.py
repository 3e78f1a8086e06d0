"""Trainings of the study: which there are, how they are made once, and where their results are kept."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from kdzero_gp.compiler import source_of
from kdzero_gp.engine.batches import Kept
from kdzero_gp.engine.loop import Trainer
from kdzero_gp.engine.outputs import TensorSplit
from kdzero_gp.engine.recipe import Recipe
from kdzero_gp.progress import Progress
from kdzero_gp.proxy.evaluator import Evaluator, Probed, Train, Trained
from kdzero_gp.proxy.students import student_builder
from kdzero_gp.proxy.task import ProxyTask
from kdzero_gp.search.prepare import keep_maps

SCRATCH = "scratch"
# Digits of a stored metric: finer than the noise of any training, and the files stay small.
DIGITS = 5


@dataclass(frozen=True)
class Stage:
    """One kind of training: from which student (``scratch`` or a warm one), how long, and on what.

    ``images`` and ``validation_images`` bound what it trains on and is measured on (None: all). ``test``: accuracy on
    the test images is written down too; it is read in the last table only, after everything was chosen. ``tail``: the
    last stage alone is trained, on kept maps of the stages before it.
    """

    name: str
    start: str
    recipe: Recipe
    images: int | None = None
    validation_images: int | None = None
    test: bool = False
    tail: bool = False


@dataclass(frozen=True)
class Candidate:
    """A distiller: its expression ('' for cross-entropy alone) and how its magnitudes are found."""

    name: str
    kind: str
    text: str = ""
    mode: str = "relative"
    factor: float = 1.0


@dataclass
class Store:
    """Results of trainings as lines of JSON, each written as soon as it is known."""

    path: Path
    records: dict[tuple[str, str, int], dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                record = json.loads(line)
                self.records[record["candidate"], record["stage"], record["seed"]] = record

    def add(self, record: dict[str, Any]) -> None:
        """Keep a result, in memory and on the disk."""
        self.records[record["candidate"], record["stage"], record["seed"]] = record
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, separators=(",", ":")) + "\n")

    def get(self, candidate: str, stage: str, seed: int) -> dict[str, Any] | None:
        """A result, if there is one."""
        return self.records.get((candidate, stage, seed))


def first(part: TensorSplit, most: int | None) -> TensorSplit:
    """The first images of a part; every prefix is balanced over the classes."""
    return TensorSplit(part.images[:most], part.labels[:most], {name: t[:most] for name, t in part.teacher.items()})


class Laboratory:
    """Makes every training of a task once. ``warm``: recipes of warm students and on how many images they are trained
    (None: all). ``reference`` is the stage (with seed 0) at which the magnitudes of a
    distiller are measured; all its other trainings use the same numbers."""

    def __init__(
        self,
        bench: ProxyTask,
        warm: dict[str, tuple[Recipe, int | None]],
        reference: str,
        store: Store,
        folder: Path,
    ):
        self.folder = folder
        self.bench = bench
        self.warm_recipes = warm
        self.reference = reference
        self.store = store
        self.build = student_builder(bench.student, bench.train.images[:2])
        self.precision = bench.precision
        self._warm: dict[str, dict[str, torch.Tensor]] = {}
        self._evaluators: dict[str, Evaluator] = {}

    def warm(self, name: str) -> dict[str, torch.Tensor]:
        """The weights of a warm student: trained by cross-entropy alone, kept beside the bench."""
        if name not in self._warm:
            path = self.folder / f"{name}.pt"
            if path.exists():
                self._warm[name] = torch.load(path, weights_only=True)
            else:
                torch.manual_seed(0)
                student = self.build().to(memory_format=self.precision.memory_format)
                recipe, images = self.warm_recipes[name]
                cpu = torch.device("cpu")
                part = first(self.bench.train, images).to(cpu, self.precision)
                batches = Kept(part, self.bench.classes, recipe, cpu, self.precision)
                Trainer(student, self.bench.family, batches, self.precision).train(0)
                self._warm[name] = {k: t.detach().clone() for k, t in student.network.state_dict().items()}  # type: ignore[union-attr,operator]
                torch.save(self._warm[name], path)
        return self._warm[name]

    def evaluator(self, stage: Stage) -> Evaluator:
        """What evaluates at a stage."""
        if stage.name not in self._evaluators:
            nothing = TensorSplit(self.bench.test.images[:0], self.bench.test.labels[:0])
            scratch = stage.start == SCRATCH
            # probes of gradients, which reject what has none, need a warm student too
            warm = next(iter(self.warm_recipes)) if scratch else stage.start
            bench = dataclasses.replace(
                self.bench,
                train=first(self.bench.train, stage.images),
                validation=first(self.bench.validation, stage.validation_images),
                test=self.bench.test if stage.test else nothing,
                recipes={"proxy": stage.recipe, "race": stage.recipe},
                warm=self.warm(warm),
                race_from_scratch=True,
            )
            build = self.build
            if stage.tail:
                student = self.build()
                student.network.load_state_dict(bench.warm)  # type: ignore[union-attr,operator]
                keep_maps(bench, student, self.precision, Progress())  # type: ignore[arg-type]
                bench = bench.of("proxy")
                build = student_builder(bench.student, bench.train.images[:2])
            self._evaluators[stage.name] = Evaluator(bench, build)
        return self._evaluators[stage.name]

    def run(self, candidate: Candidate, stage: Stage, seed: int) -> dict[str, Any]:
        """The result of one training, made or read."""
        known = self.store.get(candidate.name, stage.name, seed)
        if known is not None:
            return known
        evaluator = self.evaluator(stage)
        start = time.process_time()
        probed, trained = self._made(evaluator, candidate, stage, seed)
        record = {
            "candidate": candidate.name,
            "stage": stage.name,
            "seed": seed,
            "reason": trained.reason,
            "metrics": {name: float(f"{value:.{DIGITS}g}") for name, value in trained.metrics.items()},
            "cpu": round(time.process_time() - start, 4),
        }
        if stage.name == self.reference and seed == 0:
            record["magnitudes"] = [candidate.factor * number for number in probed.magnitudes]
        self.store.add(record)
        return record

    def _made(self, evaluator: Evaluator, candidate: Candidate, stage: Stage, seed: int) -> tuple[Probed, Trained]:
        recipe = "race" if stage.start == SCRATCH else "proxy"
        shapes = (self.bench.student_shapes, self.bench.teacher_shapes)
        source = source_of(candidate.text, *shapes) if candidate.text else ""
        if not source or (stage.name == self.reference and seed == 0):
            return evaluator.evaluate(source, seed, candidate.mode, candidate.factor, recipe)
        measured = self.store.get(candidate.name, self.reference, 0)
        assert measured is not None and not measured["reason"], "the reference training comes first"
        return Probed(), evaluator.train(Train(source, seed, tuple(measured["magnitudes"]), recipe))
