"""Does an evolved distiller train a better student? CIFAR-100, a search and then trainings on all images.

``search``: ``kdzero-gp evolve`` on ResNet-56 → ResNet-20 for short trainings. ``compare``: its winner, ``evolved.py``,
against cross-entropy alone and published methods on the same pair, with tuned magnitudes. ``second``: the winner's
expression, unchanged, for another student. Every step goes on where it was interrupted.

    python experiments/cifar100/run.py search compare second --work FOLDER --data cifar100.zip \\
        --teacher-weights resnet56_cifar100.safetensors
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch

import kdzero_gp
from kdzero_gp.compiler import load_source, parse
from kdzero_gp.training.api import Pair
from kdzero_gp.training.compare import compare
from kdzero_gp.training.distillers import NamedDistiller

HERE = Path(__file__).parent
SEARCH = ["--generations", "6", "--pop", "15", "--training", "short", "--race-top", "2"]
PUBLISHED = ("at", "sp", "dist", "dkd")
SECOND = "mobilenet_v2"


def command(*words):
    """One command line of kdzero-gp."""
    subprocess.run([Path(sys.executable).parent / "kdzero-gp", *map(str, words)], check=True)


def compared(given, student, epochs, distillers, factors, folder, output):
    """A comparison, and what of it is kept here."""
    start = time.perf_counter()
    # without crops the teacher is asked once for all trainings
    pair = Pair("cifar100", student, "resnet56", given.teacher_weights, given.data, "short",
                {"epochs": epochs, "crop": "none"})  # fmt: skip
    compare(pair, distillers, out=folder, seeds=given.seeds, factors=factors, tune_epochs=given.tune_epochs)
    seconds = time.perf_counter() - start
    content = json.loads((folder / "compare.json").read_text(encoding="utf-8"))
    machine = {"processor": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__,
               "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
               "kdzero_gp": kdzero_gp.__version__, "seconds_of_the_last_start": seconds}  # fmt: skip
    kept = {"machine": machine, "recipe": content["settings"]["recipe"], "table": content["table"]}
    for what in ("tuning", "trainings"):
        kept[what] = {
            name: {
                key: {f: r[f] for f in ("test_accuracy", "validation_accuracy", "reason")} for key, r in found.items()
            }
            for name, found in content[what].items()
        }
    output.with_suffix(".json").write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    shutil.copy(folder / "compare.png", output.with_suffix(".png"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("steps", nargs="+", choices=("search", "compare", "second"))
    parser.add_argument("--work", type=Path, required=True, help="where runs and trainings are kept")
    parser.add_argument("--data", required=True)
    parser.add_argument("--teacher-weights", required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--second-epochs", type=int, default=1)
    parser.add_argument("--factors", type=float, nargs="+", default=[0.3, 1.0, 3.0])
    parser.add_argument("--second-factors", type=float, nargs="+", default=[0.3, 1.0, 3.0, 10.0])
    parser.add_argument("--tune-epochs", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    search = given.work / "search"
    if "search" in given.steps:
        if search.exists():
            command("resume", search)
        else:
            command("evolve", "--task", "cifar100", "--data", given.data, "--teacher", "resnet56", "--teacher-weights",
                    given.teacher_weights, "--student", "resnet20", *SEARCH, "--out", search)  # fmt: skip
        shutil.copy(search / "distiller.py", HERE / "evolved.py")
    if "compare" in given.steps:
        folder = given.work / "resnet20"
        distillers = [*(f"zoo:{name}" for name in PUBLISHED), HERE / "evolved.py"]
        compared(given, "resnet20", given.epochs, distillers, given.factors, folder, HERE / "resnet56-resnet20")
    if "second" in given.steps:
        folder = given.work / SECOND
        # the file fits the shapes of the pair that it was searched for, its expression those of any
        expression = load_source((HERE / "evolved.py").read_text(encoding="utf-8")).EXPRESSION
        distillers = [NamedDistiller("evolved", parse(expression))]
        compared(given, SECOND, given.second_epochs, distillers, given.second_factors, folder,
                 HERE / f"resnet56-{SECOND}")  # fmt: skip


if __name__ == "__main__":
    main()
