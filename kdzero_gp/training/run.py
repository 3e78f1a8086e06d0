"""One training from its settings to the final weights, in a folder that it can go on from."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property, reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdzero_gp import tasks
from kdzero_gp.common import count_parameters
from kdzero_gp.compiler import load_source
from kdzero_gp.data.account import DataAccount
from kdzero_gp.data.inputs import Inputs
from kdzero_gp.data.resizing import resized
from kdzero_gp.engine.batches import Batches
from kdzero_gp.engine.checks import Answers, check_teacher
from kdzero_gp.engine.loop import CHECK_EVERY, Diverged, Trainer
from kdzero_gp.engine.machine import Machine, computing_as, forget_peak, peak_megabytes
from kdzero_gp.engine.magnitudes import final_magnitudes
from kdzero_gp.engine.networks import mended
from kdzero_gp.engine.outputs import Precision
from kdzero_gp.engine.precision import precision_for
from kdzero_gp.engine.predictions import AFTER, BEFORE, FILE, TEACHER, Predictions, draws, pictured, said, some
from kdzero_gp.engine.teacher import KeptTeacher, LiveTeacher, Teacher, ask, keep, kept
from kdzero_gp.errors import KdzeroError, ModelError
from kdzero_gp.families import TaskFamily
from kdzero_gp.files import atomic_write
from kdzero_gp.models import names
from kdzero_gp.models.contract import AsTaught
from kdzero_gp.models.digest import content_digest
from kdzero_gp.models.outputs import check_outputs, check_trainable
from kdzero_gp.models.weights import inherited, load_backbone, load_weights, save_weights
from kdzero_gp.progress import Progress
from kdzero_gp.threads import SMALLEST_SIZE, default_threads
from kdzero_gp.training import folder as files
from kdzero_gp.training.distillers import head_of, with_magnitudes
from kdzero_gp.training.opening import open_for, open_teacher
from kdzero_gp.training.pair import LOOKING, tapped
from kdzero_gp.training.settings import Settings, TrainingResult
from kdzero_gp.training.shadow import shadow_head, shadowed

# Images on which a teacher is checked before it teaches.
CHECKED_IMAGES = 1000


def run(
    settings: Settings,
    folder: Path,
    machine: Machine | None = None,
    progress: Progress | None = None,
    tensorboard: bool = False,
    shared: Path | None = None,
    account: DataAccount | None = None,
) -> TrainingResult:
    """Train as the settings say, or go on where the folder's checkpoint is, or give the result that is there.

    An interrupted training that goes on ends with the same bits as one that was not, on one kind of device and with
    the same number of threads. A loss that is no longer finite ends it with a ``reason``. ``shared`` is where ``share``
    may have kept the teacher's outputs, ``account`` that of the data where somebody opened them already. Raises
    KdzeroError, also where the folder was begun with other weights or data under the same names.
    """
    machine = machine or Machine()
    device = machine.resolved()
    is_new = files.claim(folder, "training", settings.as_dict())
    progress = progress or Progress()
    known = files.read_result(folder)
    if known is not None:
        _must_be_the_same(settings, folder, account, progress)
        return known
    sizes = tasks.get(settings.task).sizes
    size = settings.recipe.image_size or (SMALLEST_SIZE if sizes is None else sizes[2])
    checkpoint = files.load_checkpoint(folder, device)
    if checkpoint is not None:  # an equal end needs equal arithmetic
        machine = replace(machine, precision=checkpoint["precision"], threads=checkpoint["threads"])
    threads = machine.threads or default_threads(size, progress.note)
    with torch.random.fork_rng([device] if device.type == "cuda" else []), computing_as(threads):
        forget_peak(device)
        machine = replace(machine, threads=threads)
        try:
            training = _RunningTraining(settings, folder, machine, progress, shared, checkpoint)
        except Exception:
            if is_new:
                files.disclaim(folder)
            raise
        account = training.opened.batches.account
        chosen = {"device": str(device), "threads": threads, "precision": str(training.opened.precision)}
        chosen |= {"data": account.as_dict()}
        return training.run(tensorboard, chosen)


def _must_be_the_same(settings: Settings, folder: Path, account: DataAccount | None, progress: Progress) -> None:
    """Raises RunError where weights or data hold something else than when a finished training was begun."""
    files.check_content(folder, weights_content(settings), None)
    try:
        account = account or open_for(settings, torch.device("cpu")).account
    except KdzeroError as error:
        progress.note(f"{folder} is finished; whether its data are still the same cannot be seen ({error})")
        return
    files.check_content(folder, None, account)


def weights_content(settings: Settings) -> str | None:
    """What tells whether the teacher's weights are the same; None without any."""
    asked = settings.source or settings.inherit_head
    return content_digest(settings.teacher_weights) if asked and settings.teacher_weights else None


def share(settings: Settings, sources: Iterable[str], path: Path, machine: Machine, progress: Progress) -> str:
    """What trainings with these distillers can have in common, found once: the precision, and the teacher's outputs
    kept at ``path``, where they can be (see ``teacher.keep``). Raises KdzeroError."""
    device = machine.resolved()
    threads = machine.threads or 1
    with torch.random.fork_rng([device] if device.type == "cuda" else []), computing_as(threads):
        opened = Opened(settings, machine)
        network = load_teacher(settings, opened)
        _check_teacher(network, settings, opened, progress)
        wanted = set().union(*(load_source(source).KNOWLEDGE for source in sources))
        head = shadow_head(settings, opened.family, opened.student, network, opened.batches.example, wanted)
        wanted |= set(head.reads) if settings.shadow == "teacher" and head is not None else set()
        _keep(network, wanted, opened, path, progress)
    return str(opened.precision)


class Opened:
    """The data, the new student and how it computes."""

    def __init__(self, settings: Settings, machine: Machine):
        self.device = machine.resolved()
        self.family: TaskFamily = tasks.get(settings.task).family
        self.batches: Batches = open_for(settings, self.device, machine.readers)
        classes, example = self.batches.classes, self.batches.example
        student = tapped(settings.student, classes, example, settings.student_taps, settings.seed, self.family)
        if settings.student_weights is not None:
            load_weights(student.network, settings.student_weights)
        if settings.backbone is not None:
            load_backbone(student.network, settings.backbone)
        if settings.inherit_head:
            teacher = _trained_teacher(settings, self.batches).network
            student.network.load_state_dict(inherited(student.network, teacher), strict=False)
        self.student = student.to(self.device)
        check_trainable(self.student.network)
        if machine.precision is not None:
            self.precision = Precision.parse(machine.precision)
        else:
            _, labels = next(iter(self.batches.evaluation("train")))
            self.precision = precision_for(settings.student, self.student, self.family, example, labels)
        self.batches.precision = self.precision
        self.student.to(memory_format=self.precision.memory_format)

    @torch.no_grad()
    def measure(
        self, network: Any, part: str, most: int | None = None, answers: Answers | None = None
    ) -> dict[str, float]:
        """The family's measures of a tapped network, or a function like one, on (the first ``most``) images of a
        part; none where it has no images. ``answers`` get what it said."""
        if not getattr(self.batches, part):
            return {}

        def computed() -> Iterable[tuple[dict[str, Tensor], Tensor]]:
            count = 0
            for images, labels in self.batches.evaluation(part):
                yield network(images), labels
                count += len(labels)
                if most is not None and count >= most:
                    return

        return self.family.measure(computed() if answers is None else answers.of(computed()))

    @cached_property
    def first(self) -> tuple[Inputs, Predictions | None]:
        """Some validation images, and their predictions before anybody said something (None: nothing is drawn)."""
        if draws(self.family) and self.batches.validation:
            images, targets = next(iter(self.batches.evaluation("validation")))
            return some(images), pictured(self.family, some(images), some(targets), self.batches.contract)
        return self.batches.example, None

    def said(self, name: str, network: Any, measured: dict[str, float]) -> Predictions | None:
        """What a tapped network in evaluation mode, or a function like one, says of these images."""
        images, empty = self.first
        if empty is None:
            return None
        return replace(empty, said={name: said(self.family, network, images)}, measured={name: measured})


class _RunningTraining:
    def __init__(
        self, settings: Settings, folder: Path, machine: Machine, progress: Progress, shared: Path | None,
        checkpoint: dict[str, Any] | None,
    ):  # fmt: skip
        self.settings, self.recipe, self.folder, self.shared = settings, settings.recipe, folder, shared
        self.machine, self.progress, self.checkpoint = machine, progress, checkpoint
        self.begin = time.perf_counter()
        self.opened = Opened(settings, machine)
        files.check_content(folder, weights_content(settings), self.opened.batches.account)
        for line in self.opened.batches.account.lines():
            progress.note(line)
        self.student, self.family = self.opened.student, self.opened.family
        for note in check_outputs(self.student.network, self.opened.batches.classes, self.opened.batches.example):
            progress.note(f"student {settings.student}: {note}")
        self.predictions: list[Predictions | None] = []
        self.teacher_measures: dict[str, float] = {}
        self.teacher = self._teacher() if settings.source else None
        if settings.student_weights is not None and self.opened.first[1] is not None:
            before = self.opened.measure(self.student.eval(), "validation")
            self.predictions.append(self.opened.said(BEFORE, self.student, before))
        self.trainer = Trainer(self.student, self.family, self.opened.batches, self.opened.precision, self.teacher)
        self.rows: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {}
        self.last: dict[str, float] = {}
        self.spent = {"seconds": 0.0, "steps": 0, "training": 0.0, "peak": 0.0}
        self.magnitudes: tuple[float, ...] = ()
        self.shares: tuple[float, ...] = ()

    def _teacher(self) -> Teacher:
        settings, opened = self.settings, self.opened
        network = load_teacher(settings, opened)
        torch.manual_seed(settings.seed)  # the adapters' first weights
        distiller = load_source(settings.source).to(opened.device).train()
        self.teacher_measures = _check_teacher(network, settings, opened, self.progress)
        asked = lambda images: ask(network, images, opened.batches, opened.precision)  # noqa: E731
        self.predictions.append(opened.said(TEACHER, asked, self.teacher_measures))
        wanted = set(distiller.KNOWLEDGE)
        head = shadow_head(settings, self.family, self.student, network, opened.batches.example, wanted)
        if head is not None:
            head.to(opened.device)
            wanted |= set(head.reads) if settings.shadow == "teacher" else set()
        path = self.shared if self.shared and self.shared.exists() else self.folder / files.TEACHER
        # a single epoch asks a live teacher no more often
        repeated = path.exists() or self.recipe.passes(opened.batches.steps) > 1
        teacher: Teacher
        if repeated and _keep(network, wanted, opened, path, self.progress):
            labels = torch.cat([labels for _, labels in opened.batches.evaluation("train")])
            teacher = KeptTeacher(distiller, self.family, kept(path, wanted, opened.device), labels)
        else:
            teacher = LiveTeacher(distiller, self.family, network, opened.batches, opened.precision)
        return shadowed(teacher, head, settings.shadow)

    @property
    def passes(self) -> float:
        """Epochs of the whole training."""
        return self.recipe.passes(self.opened.batches.steps)

    def run(self, tensorboard: bool, chosen: dict[str, Any]) -> TrainingResult:
        """The training as a list of verbs."""
        first = self._start_or_restore()
        board = files.Board(self.folder, tensorboard, first)
        self.progress.begin(f"training {self.settings.student}", self.trainer.steps)
        self.progress.advance(first * self.opened.batches.steps)
        try:
            for epoch in range(first, self.trainer.epochs):
                board.add(self._epoch(epoch))
            result = self._finish()
        except Diverged as reason:
            result = TrainingResult(reason=str(reason), magnitudes=self.magnitudes, epochs=self.passes)
        finally:
            self.progress.end()
            board.close()
        files.write_result(self.folder, result, self.settings.as_dict(), chosen)
        return result

    def _start_or_restore(self) -> int:
        """The first epoch to train, from the beginning or from a checkpoint."""
        state = self.checkpoint
        if state is None:
            if self.teacher is not None:
                self.magnitudes, self.shares = final_magnitudes(
                    self.settings.magnitude, self.settings.factor, self.student, self.teacher, self.opened.batches,
                    self.opened.precision, self.settings.seed,
                )  # fmt: skip
        else:
            self.trainer.load_state_dict(state)
            self.rows, self.best, self.spent = state["rows"], state["best"], state["spent"]
            self.last = state["last"]
            self.magnitudes, self.shares = tuple(state["magnitudes"]), tuple(state["shares"])
            self.progress.note(f"going on after epoch {len(self.rows)}")
        if self.teacher is not None:
            self.teacher.distiller.magnitudes = self.magnitudes
            facts = head_of(self.settings, self.teacher.distiller, self.magnitudes, self.shares)
            source = with_magnitudes(self.settings.source, self.magnitudes, self.shares, facts)
            atomic_write(self.folder / files.DISTILLER, source)
        return len(self.rows)

    def _epoch(self, epoch: int) -> dict[str, Any]:
        """One epoch, its measurements and the checkpoint after it."""
        begin, sums = time.perf_counter(), torch.zeros(2, device=self.opened.device)
        first, last = epoch * self.opened.batches.steps, self.trainer.steps - 1

        def on_step(step: int, own: Tensor, distilled: Tensor | None) -> None:
            loss = own if distilled is None else own + distilled
            sums.add_(torch.stack([loss, own]))
            taken = step - first + 1
            if taken % CHECK_EVERY == 0 or taken == self.opened.batches.steps or step == last:
                self.progress.advance((taken - 1) % CHECK_EVERY + 1, loss=loss.item())

        self.trainer.epoch(self.settings.seed, epoch, on_step)
        steps = min(self.trainer.steps - first, self.opened.batches.steps)
        seconds = time.perf_counter() - begin
        loss, own = (sums / steps).tolist()
        rate = self.recipe.rate(first + steps - 1, self.opened.batches.steps)
        measures = self.opened.measure(self.student.eval(), "validation")
        row = {"epoch": epoch + 1, "learning_rate": rate, "loss": loss, self.family.loss: own}
        row |= {f"validation_{measure.name}": measures.get(measure.name) for measure in self.family.measures}
        row["seconds"] = seconds
        self.rows.append(row)
        if not measures or self._is_best(measures):
            weights = {} if not measures else copy.deepcopy(self.student.network.state_dict())
            self.best = {"epoch": epoch + 1, "measures": measures, "weights": weights}
        self.last = measures
        self.spent["steps"] += steps
        self.spent["training"] += seconds
        self._spend()
        self._save()
        return row

    def _save(self) -> None:
        state = self.trainer.state_dict() | {"rows": self.rows, "best": self.best, "spent": self.spent}
        state |= {
            "magnitudes": list(self.magnitudes),
            "shares": list(self.shares),
            "last": self.last,
            "threads": self.machine.threads,
        }
        files.save_checkpoint(self.folder, state | {"precision": str(self.opened.precision)})
        files.write_log(self.folder, self.rows)

    def _is_best(self, measures: dict[str, float]) -> bool:
        order = self.family.order
        return not self.best or order(measures) < order(self.best["measures"])

    def _spend(self) -> None:
        now = time.perf_counter()
        self.spent["seconds"] += now - self.begin
        self.begin = now
        self.spent["peak"] = max(self.spent["peak"], peak_megabytes(self.opened.device))

    def _finish(self) -> TrainingResult:
        """Final weights: the best by validation, or the last. The test images are read here and nowhere else."""
        if self.best["weights"]:
            self.student.network.load_state_dict(self.best["weights"])
        test = self.opened.measure(self.student.eval(), "test")
        self.predictions.append(self.opened.said(AFTER, self.student, self.best["measures"]))
        found = [predictions for predictions in self.predictions if predictions is not None]
        if found:
            reduce(Predictions.beside, found).save(self.folder / FILE)
        parameters = count_parameters(self.student)
        save_weights(self.student.untap(), self.folder / files.STUDENT, self.opened.batches.contract)
        self._spend()
        return TrainingResult(
            test=test,
            validation=self.best["measures"],
            last_validation=self.last,
            teacher=self.teacher_measures,
            best_epoch=self.best["epoch"],
            epochs=self.passes,
            parameters=parameters,
            magnitudes=self.magnitudes,
            step_milliseconds=1000.0 * self.spent["training"] / self.spent["steps"],
            peak_megabytes=self.spent["peak"],
            seconds=self.spent["seconds"],
        )


def load_teacher(settings: Settings, opened: Opened) -> Any:
    """The teacher of a training with its weights, tapped, on the device. Raises ModelError."""
    network = _trained_teacher(settings, opened.batches)
    return network.to(opened.device).to(memory_format=opened.precision.memory_format).eval()


def _trained_teacher(settings: Settings, batches: Batches) -> Any:
    """The same, where it was made. Raises ModelError."""
    with torch.random.fork_rng([]):
        torch.manual_seed(LOOKING)
        network = open_teacher(settings, batches)
    if settings.teacher_weights is not None:
        load_weights(network.network, settings.teacher_weights)
    elif settings.teacher.partition(":")[0] in (*names(), "timm", "torchvision"):  # a user's own may bring them
        raise ModelError(
            f"the teacher {settings.teacher} has no weights; give --teacher-weights, for example those of "
            f"kdzero-gp train --model {settings.teacher}"
        )
    return network


def check_answers(network: Any, settings: Settings, opened: Opened) -> tuple[str, ...]:
    """Sentences on what a teacher returns for the images (see ``check_outputs``). Raises ModelError."""
    example = resized(opened.batches.example, settings.recipe.teacher_image_size)
    if isinstance(network, AsTaught):
        example = network.conversion(example)
    return check_outputs(network.network, opened.batches.classes, example)


def _check_teacher(network: Any, settings: Settings, opened: Opened, progress: Progress) -> dict[str, float]:
    """The measures of a teacher before it teaches; what was found and mended is told. Raises ModelError."""
    batches, name = opened.batches, settings.teacher
    for note in (*check_answers(network, settings, opened), *mended(network)):
        progress.note(f"teacher {name}: {note}")
    part = "validation" if batches.validation else "train"
    answers = Answers(opened.family)
    measures = opened.measure(
        lambda images: ask(network, images, batches, opened.precision), part, CHECKED_IMAGES, answers
    )
    classes = batches.contract.classes
    check_teacher(opened.family, {part: (measures, answers)}, classes, name, progress, settings.teacher_weights)
    return measures


def _keep(network: Any, wanted: set[str], opened: Opened, path: Path, progress: Progress) -> bool:
    at_student = sorted(wanted & set(opened.family.at_student))
    if at_student:
        progress.note(
            f"the teacher is asked on every batch, since its {at_student[0]} are of the student's proposals and cannot "
            "be kept"
        )
        return False
    if not path.exists() and opened.batches.cacheable:
        progress.note("asking the teacher about all images once: the recipe gives each image few forms")
    return keep(network, wanted, opened.batches, opened.precision, path)
