"""A benchmark of distillers kept as data: CIFAR-100, ResNet-56 → a small student, trained to the end.

One training is one row of ``rows.jsonl``, appended as it ends; given again, the command goes on where it was, inside a
training too. First a distiller's magnitude is tuned: a short training for each of ``FACTORS``, the same budget for all,
judged by the last epoch's validation images. ``rows.py`` reads what is there.

    python experiments/truth/run.py --data cifar100.zip --teacher resnet56_cifar100.safetensors --cache FOLDER \\
        --student resnet8 --seeds 0 1
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import platform
import subprocess
from dataclasses import replace
from pathlib import Path

import torch
from distillers import ALONE, Entry, entries
from rows import read

import kdzero_gp
from kdzero_gp.compiler import parse
from kdzero_gp.engine.machine import Machine
from kdzero_gp.files import atomic_write
from kdzero_gp.progress import Progress
from kdzero_gp.training.api import Pair
from kdzero_gp.training.distillers import NamedDistiller
from kdzero_gp.training.run import run, share
from kdzero_gp.training.settings import Settings, TrainingResult

HERE = Path(__file__).parent
# The `cifar100` recipe in so many epochs, its milestones at their share; crops from kept draws.
EPOCHS = {"resnet8": 12, "resnet20": 60}
DRAWS = 4
FACTORS = (1.0, 3.0, 10.0)
TUNING_EPOCHS = 2
TUNING_SEED = 1_000_000
PRECISION = "float32,channels-last"


class Benchmark:
    """The trainings of one student."""

    def __init__(self, given: argparse.Namespace):
        self.given = given
        self.epochs = given.epochs or EPOCHS[given.student]
        self.pair = Pair(
            "cifar100", given.student, "resnet56", str(given.teacher), str(given.data), "cifar100",
            {"epochs": self.epochs, "draws": DRAWS},
        )  # fmt: skip
        self.machine = Machine(device=given.device, workers=1, threads=1, precision=PRECISION)
        self.teacher = given.cache / f"teacher-{DRAWS}draws.pt"
        self.version = _version()
        self.rows: dict[str, dict[str, object]] = {row["key"]: row for row in read(given.rows)}
        if self.rows and not given.rows.read_text(encoding="utf-8").endswith("\n"):  # a last line that is not whole
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows.values())
            atomic_write(given.rows, text)

    def run(self) -> None:
        """Every distiller on every seed; what comes first in the list comes first."""
        listed = entries()[: self.given.first]
        for seed in self.given.seeds:
            for entry in listed:
                factor = 0.0 if entry.name == ALONE else self._tuned(entry)
                if factor is not None:
                    self._row(entry, seed, factor, "full")

    def _tuned(self, entry: Entry) -> float | None:
        """The factor that did best in a short training; None where none could be trained."""
        found = {factor: self._row(entry, TUNING_SEED, factor, "tuning") for factor in FACTORS}
        usable = {factor: row["last_validation_accuracy"] for factor, row in found.items() if not row["reason"]}
        return max(usable, key=lambda factor: usable[factor]) if usable else None

    def _settings(self, entry: Entry, seed: int, factor: float, stage: str) -> Settings:
        settings = self.pair.settings(seed)
        if entry.name != ALONE:
            (distiller,) = self.pair.resolve(NamedDistiller(entry.name, parse(entry.expression)))
            settings = self.pair.distilling(distiller, seed, entry.mode, factor)
        recipe = settings.recipe.with_epochs(TUNING_EPOCHS) if stage == "tuning" else settings.recipe
        return replace(settings, recipe=recipe)

    def _row(self, entry: Entry, seed: int, factor: float, stage: str) -> dict[str, object]:
        key = f"{self.given.student} {self.epochs} {stage} {entry.name} {factor:g} {seed}"
        if key in self.rows:
            return self.rows[key]
        settings = self._settings(entry, seed, factor, stage)
        if settings.source and not self.teacher.exists():
            every = [NamedDistiller(e.name, parse(e.expression)) for e in entries() if e.expression]
            sources = [distiller.source for distiller in self.pair.resolve(*every)]
            share(settings, sources, self.teacher, self.machine, Progress())
        folder = self.given.cache / "trainings" / hashlib.sha256(key.encode()).hexdigest()[:16]
        try:
            result = run(settings, folder, self.machine, shared=self.teacher)
        except kdzero_gp.KdzeroError as error:
            result = TrainingResult(reason=str(error))
        row = self._as_row(key, entry, stage, settings, result, folder)
        self.rows[key] = row
        self.given.rows.parent.mkdir(parents=True, exist_ok=True)
        with self.given.rows.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        print(f"{key}: validation {row['last_validation_accuracy']} test {row['test_accuracy']}, "
              f"{row['seconds']} s", flush=True)  # fmt: skip
        return row

    def _as_row(
        self, key: str, entry: Entry, stage: str, settings: Settings, result: TrainingResult, folder: Path
    ) -> dict[str, object]:
        curve = []
        if (folder / "log.csv").exists():
            with (folder / "log.csv").open(encoding="utf-8") as file:
                curve = [
                    {name: round(float(value), 5) for name, value in line.items()} for line in csv.DictReader(file)
                ]
        return {
            "key": key, "stage": stage, "student": settings.student, "teacher": settings.teacher,
            "distiller": entry.name, "kind": entry.kind, "expression": entry.expression, "mode": entry.mode,
            "factor": settings.factor if settings.source else 0.0, "magnitudes": list(result.magnitudes),
            "seed": settings.seed, "epochs": settings.recipe.epochs,
            "test_accuracy": _rounded(result.test.get("accuracy")) if stage == "full" else None,
            "validation_accuracy": _rounded(result.validation.get("accuracy")),
            "last_validation_accuracy": _rounded(result.last_validation.get("accuracy")),
            "best_epoch": result.best_epoch, "curve": curve, "seconds": round(result.seconds, 1),
            "step_milliseconds": result.step_milliseconds and round(result.step_milliseconds, 2),
            "reason": result.reason, "recipe": settings.recipe.as_dict(), "machine": _machine(),
            "version": self.version,
        }  # fmt: skip


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)


def _machine() -> dict[str, object]:
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {"device": name, "cores": os.cpu_count(), "threads": 1, "precision": PRECISION, "torch": torch.__version__}


def _version() -> str:
    """The package's version and the commit of this file."""
    found = subprocess.run(["git", "-C", HERE, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return f"{kdzero_gp.__version__}+{found.stdout.strip()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="cifar100.zip")
    parser.add_argument("--teacher", type=Path, required=True, help="weights of the ResNet-56")
    parser.add_argument("--cache", type=Path, required=True, help="the teacher's outputs and the trainings")
    parser.add_argument("--rows", type=Path, default=HERE / "rows.jsonl")
    parser.add_argument("--student", default="resnet8", choices=EPOCHS)
    parser.add_argument("--epochs", type=int, help="[default: 12 for resnet8, 60 for resnet20]")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--first", type=int, help="only the first distillers of the list")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    given.cache.mkdir(parents=True, exist_ok=True)
    Benchmark(given).run()


if __name__ == "__main__":
    main()
