"""One training from its settings to the final weights, in a folder that it can go on from."""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import Any

import torch

from kdzero_gp.common import cores, count_parameters
from kdzero_gp.compiler import load_source
from kdzero_gp.compiler.loading import write_whole
from kdzero_gp.errors import ModelError
from kdzero_gp.evaluation import Precision
from kdzero_gp.evaluation.training import Diverged
from kdzero_gp.models import names
from kdzero_gp.models.weights import load_weights, save_weights
from kdzero_gp.progress import Progress
from kdzero_gp.training import folder as files
from kdzero_gp.training.data import Images, open_images
from kdzero_gp.training.distillers import with_magnitudes
from kdzero_gp.training.loop import Teacher, Trainer, measured
from kdzero_gp.training.machine import (
    CHANNELS_LAST_SIZE,
    Machine,
    computing_as,
    forget_peak,
    peak_megabytes,
    precision_for,
)
from kdzero_gp.training.magnitudes import final_magnitudes
from kdzero_gp.training.pair import resized, tapped
from kdzero_gp.training.settings import Result, Settings

# Images on which a teacher is checked before it teaches.
CHECKED_IMAGES = 1000


def carry_out(
    settings: Settings,
    folder: Path,
    machine: Machine | None = None,
    progress: Progress | None = None,
    tensorboard: bool = False,
) -> Result:
    """Train as the settings say, or go on where the folder's checkpoint is, or give the result that is there.

    An interrupted training that goes on ends with the same bits as one that was not, on one kind of device and with
    the same number of threads. A loss that is no longer finite ends it with a ``reason``. Raises KdzeroError.
    """
    machine = machine or Machine()
    device = machine.resolved()
    files.claim(folder, "training", settings.as_dict())
    known = files.read_result(folder)
    if known is not None:
        return known
    size = settings.recipe.image_size or (1 if settings.task == "digits" else CHANNELS_LAST_SIZE)
    threads = machine.threads or (1 if size < CHANNELS_LAST_SIZE else cores())
    with torch.random.fork_rng([device] if device.type == "cuda" else []), computing_as(threads):
        forget_peak(device)
        training = _Training(settings, folder, device, machine.readers, progress or Progress())
        facts = {"device": str(device), "threads": threads, "precision": training.precision.name}
        return training.carry_out(tensorboard, facts)


class _Training:
    def __init__(self, settings: Settings, folder: Path, device: torch.device, readers: int, progress: Progress):
        self.settings = settings
        self.recipe = settings.recipe
        self.folder = folder
        self.device = device
        self.progress = progress
        self.begin = time.perf_counter()
        self.images, self.precision = _images(settings, device, readers)
        form = self.precision.memory_format
        example = self.images.example
        student = tapped(settings.student, self.images.classes, example, settings.student_taps, settings.seed)
        self.student = student.to(device).to(memory_format=form)
        self.teacher_accuracy: float | None = None
        self.teacher = self._teacher() if settings.source else None
        self.trainer = Trainer(self.student, self.images, self.precision, self.teacher)
        self.rows: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {}
        self.spent = {"seconds": 0.0, "steps": 0, "training": 0.0, "peak": 0.0}
        self.magnitudes: tuple[float, ...] = ()

    def _teacher(self) -> Teacher:
        settings = self.settings
        example = resized(self.images.example, self.recipe.teacher_image_size)
        network = tapped(settings.teacher, self.images.classes, example, settings.teacher_taps)
        if settings.teacher_weights is not None:
            load_weights(network.network, settings.teacher_weights)
        elif settings.teacher.partition(":")[0] in (*names(), "timm", "torchvision"):  # a user's own may bring them
            raise ModelError(
                f"the teacher {settings.teacher} has no weights; give --teacher-weights, for example those of "
                f"kdzero-gp train --model {settings.teacher}"
            )
        network = network.to(self.device).to(memory_format=self.precision.memory_format)
        torch.manual_seed(settings.seed)  # the adapters' first weights
        distiller = load_source(settings.source).to(self.device).train()
        teacher = Teacher(network, distiller, self.images, self.precision)
        self.teacher_accuracy = _checked(teacher, self.images, settings.teacher)
        if teacher.keep():
            self.progress.note("the teacher's outputs on all images are kept: the recipe changes no image but by flips")
        return teacher

    def carry_out(self, tensorboard: bool, facts: dict[str, Any]) -> Result:
        """The training as a list of verbs."""
        first = self._start_or_restore()
        board = files.Board(self.folder, tensorboard, first)
        self.progress.begin(f"training {self.settings.student}", self.recipe.epochs * self.images.steps)
        self.progress.advance(first * self.images.steps)
        try:
            for epoch in range(first, self.recipe.epochs):
                board.add(self._epoch(epoch))
            result = self._finish()
        except Diverged as reason:
            result = Result(reason=str(reason), magnitudes=self.magnitudes, epochs=self.recipe.epochs)
        finally:
            self.progress.end()
            board.close()
        files.write_result(self.folder, result, self.settings.as_dict(), facts)
        return result

    def _start_or_restore(self) -> int:
        """The first epoch to train, from the beginning or from a checkpoint."""
        state = files.load_checkpoint(self.folder, self.device)
        if state is None:
            if self.teacher is not None:
                self.magnitudes = final_magnitudes(
                    self.settings.magnitude, self.settings.factor, self.student, self.teacher, self.images,
                    self.precision, self.settings.seed,
                )  # fmt: skip
        else:
            self.trainer.restore(state)
            self.rows, self.best, self.spent = state["rows"], state["best"], state["spent"]
            self.magnitudes = tuple(state["magnitudes"])
            self.progress.note(f"going on after epoch {len(self.rows)}")
        if self.teacher is not None:
            self.teacher.distiller.magnitudes = self.magnitudes  # type: ignore[assignment]
            write_whole(self.folder / files.DISTILLER, with_magnitudes(self.settings.source, self.magnitudes))
        return len(self.rows)

    def _epoch(self, epoch: int) -> dict[str, Any]:
        """One epoch, its measurements and the checkpoint after it."""
        found = self.trainer.epoch(self.settings.seed, epoch, lambda n, loss: self.progress.advance(n, loss=loss))
        row = {"epoch": epoch + 1, "learning_rate": self.trainer.optimizer.param_groups[0]["lr"],
               "loss": found["loss"], "cross_entropy": found["cross_entropy"]}  # fmt: skip
        now = measured(self.student, self.images, "validation")
        row |= {"validation_accuracy": now.get("accuracy"), "validation_cross_entropy": now.get("cross_entropy")}
        row["seconds"] = found["seconds"]
        self.rows.append(row)
        if not now or self._is_best(row):
            weights = {} if not now else copy.deepcopy(self.student.network.state_dict())
            self.best = {"row": row, "weights": weights}
        self.spent["steps"] += self.images.steps
        self.spent["training"] += found["seconds"]
        self._spend()
        state = self.trainer.state() | {"rows": self.rows, "best": self.best, "spent": self.spent}
        files.save_checkpoint(self.folder, state | {"magnitudes": list(self.magnitudes)})
        files.write_log(self.folder, self.rows)
        return row

    def _is_best(self, row: dict[str, Any]) -> bool:
        def rank(one: dict[str, Any]) -> tuple[float, float]:
            return one["validation_accuracy"], -one["validation_cross_entropy"]

        return not self.best or rank(row) > rank(self.best["row"])

    def _spend(self) -> None:
        now = time.perf_counter()
        self.spent["seconds"] += now - self.begin
        self.begin = now
        self.spent["peak"] = max(self.spent["peak"], peak_megabytes(self.device))

    def _finish(self) -> Result:
        """Final weights: the best by validation, or the last. The test images are read here and nowhere else."""
        if self.best["weights"]:
            self.student.network.load_state_dict(self.best["weights"])
        test = measured(self.student, self.images, "test")
        parameters = count_parameters(self.student)
        save_weights(self.student.untap(), self.folder / files.STUDENT)
        self._spend()
        row, last = self.best["row"], self.rows[-1]
        return Result(
            test["accuracy"],
            row["validation_accuracy"],
            row["validation_cross_entropy"],
            last["validation_accuracy"],
            last["validation_cross_entropy"],
            row["epoch"],
            self.recipe.epochs,
            self.teacher_accuracy,
            parameters,
            self.magnitudes,
            1000.0 * self.spent["training"] / self.spent["steps"],
            self.spent["peak"],
            self.spent["seconds"],
        )


def _images(settings: Settings, device: torch.device, readers: int) -> tuple[Images, Precision]:
    images = open_images(
        settings.task, settings.data, settings.recipe, device, torch.contiguous_format,
        validate=settings.validate, readers=readers,
    )  # fmt: skip
    precision = precision_for(device, images.example.shape[-1])
    images.memory_format = precision.memory_format
    return images, precision


def _checked(teacher: Teacher, images: Images, name: str) -> float:
    """The teacher's accuracy on some validation images. Raises ModelError when it only guesses."""
    part = "validation" if images.validation else "train"
    seen = _Seen(teacher)
    accuracy = measured(seen, images, part, CHECKED_IMAGES)["accuracy"]
    if images.classes > 2 and accuracy < 2.0 / images.classes:
        raise ModelError(
            f"the accuracy of the teacher {name} is {100 * accuracy:.2f} %, near guessing; the weights belong to other "
            "classes or another normalisation: check --teacher-weights and --data"
        )
    return accuracy


class _Seen(torch.nn.Module):
    """A teacher as it sees images, at its own size."""

    def __init__(self, teacher: Teacher):
        super().__init__()
        self.teacher = teacher

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.teacher.outputs(images)
