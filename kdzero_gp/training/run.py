"""One training from its settings to the final weights, in a folder that it can go on from."""

from __future__ import annotations

import copy
import time
from collections.abc import Collection, Iterable
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import torch

from kdzero_gp.common import count_parameters
from kdzero_gp.compiler import load_source
from kdzero_gp.compiler.loading import write_whole
from kdzero_gp.engine.batches import Images, open_images
from kdzero_gp.engine.loop import Trainer, measured
from kdzero_gp.engine.machine import Machine, computing_as, forget_peak, peak_megabytes
from kdzero_gp.engine.magnitudes import final_magnitudes
from kdzero_gp.engine.outputs import Precision
from kdzero_gp.engine.precision import label, precision_for
from kdzero_gp.engine.resident import Diverged
from kdzero_gp.engine.teacher import Teacher, asked, keep, kept, outputs
from kdzero_gp.errors import ModelError
from kdzero_gp.models import names
from kdzero_gp.models.taps import Tapped
from kdzero_gp.models.weights import load_weights, save_weights
from kdzero_gp.progress import Progress
from kdzero_gp.threads import SMALLEST_SIZE, default_threads
from kdzero_gp.training import folder as files
from kdzero_gp.training.distillers import with_magnitudes
from kdzero_gp.training.pair import resized, tapped
from kdzero_gp.training.settings import Settings, TrainingResult

# Images on which a teacher is checked before it teaches.
CHECKED_IMAGES = 1000


def run(
    settings: Settings,
    folder: Path,
    machine: Machine | None = None,
    progress: Progress | None = None,
    tensorboard: bool = False,
    shared: Path | None = None,
) -> TrainingResult:
    """Train as the settings say, or go on where the folder's checkpoint is, or give the result that is there.

    An interrupted training that goes on ends with the same bits as one that was not, on one kind of device and with
    the same number of threads. A loss that is no longer finite ends it with a ``reason``. ``shared`` is where ``share``
    may have kept the teacher's outputs. Raises KdzeroError.
    """
    machine, progress = machine or Machine(), progress or Progress()
    device = machine.resolved()
    files.claim(folder, "training", settings.as_dict())
    known = files.read_result(folder)
    if known is not None:
        return known
    size = settings.recipe.image_size or (1 if settings.task == "digits" else SMALLEST_SIZE)
    threads = machine.threads or default_threads(size, progress.note)
    with torch.random.fork_rng([device] if device.type == "cuda" else []), computing_as(threads):
        forget_peak(device)
        training = _Training(settings, folder, machine, progress, shared)
        facts = {"device": str(device), "threads": threads, "precision": label(training.precision)}
        return training.run(tensorboard, facts)


def share(settings: Settings, sources: Iterable[str], path: Path, machine: Machine, progress: Progress) -> Precision:
    """What trainings with these distillers can have in common, found once: the precision, and the teacher's outputs
    kept at ``path``, where they can be (see ``teacher.keep``). Raises KdzeroError."""
    device = machine.resolved()
    with torch.random.fork_rng([device] if device.type == "cuda" else []), computing_as(default_threads(SMALLEST_SIZE)):
        images, _, precision = _opened(settings, device, machine)
        network = _load_teacher(settings, images, device, precision)
        names = set().union(*(asked(load_source(source), network.shapes) for source in sources))
        _keep(network, names, images, precision, path, progress)
    return precision


class _Training:
    def __init__(self, settings: Settings, folder: Path, machine: Machine, progress: Progress, shared: Path | None):
        self.settings = settings
        self.recipe = settings.recipe
        self.folder = folder
        self.device = machine.resolved()
        self.progress = progress
        self.shared = shared
        self.begin = time.perf_counter()
        self.checkpoint = files.load_checkpoint(folder, self.device)
        if self.checkpoint is not None:
            machine = replace(machine, precision=Precision(*self.checkpoint["precision"]))
        self.images, student, self.precision = _opened(settings, self.device, machine)
        self.student = student.to(memory_format=self.precision.memory_format)
        self.teacher_accuracy: float | None = None
        self.teacher = self._teacher() if settings.source else None
        self.trainer = Trainer(self.student, self.images, self.precision, self.teacher)
        self.rows: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {}
        self.spent = {"seconds": 0.0, "steps": 0, "training": 0.0, "peak": 0.0}
        self.magnitudes: tuple[float, ...] = ()

    def _teacher(self) -> Teacher:
        settings, images, precision = self.settings, self.images, self.precision
        network = _load_teacher(settings, images, self.device, precision)
        torch.manual_seed(settings.seed)  # the adapters' first weights
        distiller = load_source(settings.source).to(self.device).train()
        self.teacher_accuracy = _checked(network, images, precision, settings.teacher)
        teacher = Teacher(network, distiller, images, precision)
        names = asked(distiller, network.shapes)
        path = self.shared if self.shared and self.shared.exists() else self.folder / files.TEACHER
        # a single epoch asks a live teacher no more often
        if (path.exists() or self.recipe.epochs > 1) and _keep(network, names, images, precision, path, self.progress):
            teacher.kept = kept(path, names, self.device)
        return teacher

    def run(self, tensorboard: bool, facts: dict[str, Any]) -> TrainingResult:
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
            result = TrainingResult(reason=str(reason), magnitudes=self.magnitudes, epochs=self.recipe.epochs)
        finally:
            self.progress.end()
            board.close()
        files.write_result(self.folder, result, self.settings.as_dict(), facts)
        return result

    def _start_or_restore(self) -> int:
        """The first epoch to train, from the beginning or from a checkpoint."""
        state = self.checkpoint
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
        now = measured(self.student.eval(), self.images, "validation")
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
        state |= {"magnitudes": list(self.magnitudes), "precision": astuple(self.precision)}
        files.save_checkpoint(self.folder, state)
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

    def _finish(self) -> TrainingResult:
        """Final weights: the best by validation, or the last. The test images are read here and nowhere else."""
        if self.best["weights"]:
            self.student.network.load_state_dict(self.best["weights"])
        test = measured(self.student.eval(), self.images, "test")
        parameters = count_parameters(self.student)
        save_weights(self.student.untap(), self.folder / files.STUDENT)
        self._spend()
        row, last = self.best["row"], self.rows[-1]
        return TrainingResult(
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


def _opened(settings: Settings, device: torch.device, machine: Machine) -> tuple[Images, Tapped, Precision]:
    """The images, the new student and how it computes."""
    images = open_images(
        settings.task, settings.data, settings.recipe, device, torch.contiguous_format,
        validate=settings.validate, readers=machine.readers,
    )  # fmt: skip
    student = tapped(settings.student, images.classes, images.example, settings.student_taps, settings.seed).to(device)
    precision = machine.precision
    if precision is None:
        precision, _ = precision_for(settings.student, student, images.example, images.classes)
    images.memory_format = precision.memory_format
    return images, student, precision


def _load_teacher(settings: Settings, images: Images, device: torch.device, precision: Precision) -> Tapped:
    example = resized(images.example, settings.recipe.teacher_image_size)
    network = tapped(settings.teacher, images.classes, example, settings.teacher_taps)
    if settings.teacher_weights is not None:
        load_weights(network.network, settings.teacher_weights)
    elif settings.teacher.partition(":")[0] in (*names(), "timm", "torchvision"):  # a user's own may bring them
        raise ModelError(
            f"the teacher {settings.teacher} has no weights; give --teacher-weights, for example those of "
            f"kdzero-gp train --model {settings.teacher}"
        )
    return network.to(device).to(memory_format=precision.memory_format).eval()


def _keep(
    network: Tapped, wanted: Collection[str], images: Images, precision: Precision, path: Path, progress: Progress
) -> bool:
    if not path.exists() and images.recipe.cacheable:
        progress.note("asking the teacher about all images once: the recipe changes no image but by flips")
    return keep(network, wanted, images, precision, path)


def _checked(network: Tapped, images: Images, precision: Precision, name: str) -> float:
    """The teacher's accuracy on some validation images. Raises ModelError when it only guesses."""
    part = "validation" if images.validation else "train"
    accuracy = measured(lambda batch: outputs(network, batch, images, precision), images, part, CHECKED_IMAGES)
    if images.classes > 2 and accuracy["accuracy"] < 2.0 / images.classes:
        raise ModelError(
            f"the accuracy of the teacher {name} is {100 * accuracy['accuracy']:.2f} %, near guessing; the weights "
            "belong to other classes or another normalisation: check --teacher-weights and --data"
        )
    return accuracy["accuracy"]
