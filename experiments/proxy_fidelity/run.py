"""How well does the fitness of a short proxy training predict the accuracy of a long one?

    python experiments/proxy_fidelity/run.py --task digits
    python experiments/proxy_fidelity/run.py --task cifar100 --data cifar100.zip --teacher-weights resnet56.safetensors

Every training is written down when it ends, so that an interrupted study goes on where it stopped; ``--analyse`` only
computes tables and the figure from what is there.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import tasks
import torch
from report import report

HERE = Path(__file__).parent


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text} ({time.process_time():.0f} s CPU)", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=("digits", "cifar100"), default="digits")
    parser.add_argument("--data", help="CIFAR-100: archive, image folder or zip")
    parser.add_argument("--teacher-weights", help="CIFAR-100: weights of the ResNet-56 teacher")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of results")
    parser.add_argument("--work", type=Path, default=HERE / "work", help="folder of bench, teacher and warm students")
    parser.add_argument("--analyse", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder, results = arguments.work / arguments.task, arguments.results
    for made in (folder, results):
        made.mkdir(parents=True, exist_ok=True)
    if not arguments.analyse:
        if arguments.task == "digits":
            tasks.digits(folder, results, say)
        else:
            tasks.cifar100(folder, results, say, arguments.data, arguments.teacher_weights)
        say("all trainings are done")
    report(arguments.task, results, say)


if __name__ == "__main__":
    main()
