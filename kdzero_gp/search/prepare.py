"""Prepares the bench of a run: data, a teacher whose accuracy is verified, the warm student."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdzero_gp import tasks
from kdzero_gp.common import count_parameters
from kdzero_gp.data.augmentation import Geometry, corners
from kdzero_gp.data.dataset import Dataset, Split, Statistics
from kdzero_gp.data.inputs import Inputs, channels, joined, side
from kdzero_gp.data.own import OwnDataset
from kdzero_gp.data.resizing import parse_size
from kdzero_gp.engine.batches import Kept, contract_of
from kdzero_gp.engine.checks import Answers, check_teacher
from kdzero_gp.engine.loop import Trainer
from kdzero_gp.engine.machine import computing_as
from kdzero_gp.engine.networks import expected_input, for_student, mended, network_channels, taught
from kdzero_gp.engine.normalising import TRIED_IMAGES, as_options, can_be_tried, find_statistics
from kdzero_gp.engine.outputs import FLOAT32, Precision, TensorSplit, evaluation_batch, outputs
from kdzero_gp.engine.precision import precision_for
from kdzero_gp.engine.predictions import draws, some
from kdzero_gp.engine.recipe import Recipe
from kdzero_gp.errors import ModelError, RunError, SettingError
from kdzero_gp.families import TaskFamily
from kdzero_gp.models.contract import AsTaught, InputContract
from kdzero_gp.models.outputs import check_outputs, check_trainable
from kdzero_gp.models.split import find_cut, halves
from kdzero_gp.models.taps import Tapped
from kdzero_gp.models.weights import inherited, load_weights, save_weights
from kdzero_gp.objects import is_own
from kdzero_gp.progress import Progress
from kdzero_gp.proxy.students import student_builder
from kdzero_gp.proxy.task import ProxyTask
from kdzero_gp.search.pictures import begin
from kdzero_gp.search.settings import RunSettings
from kdzero_gp.threads import default_threads

PROXY_TASK = "proxy_task.pt"
TEACHER = "teacher.safetensors"


def _must_be_whole(path: Path) -> None:
    """Raise RunError where the checksums of a file of tensors do not fit: mapped into memory it would be used as it
    is."""
    try:
        with zipfile.ZipFile(path) as archive:
            reason = "its checksums do not fit" if archive.testzip() else ""
    except (OSError, zipfile.BadZipFile) as error:
        reason = str(error)
    if reason:
        raise RunError(f"{path} is damaged ({reason}); delete it and resume, it is made again")


def prepare(folder: Path, settings: RunSettings, device: torch.device, progress: Progress) -> ProxyTask:
    """The proxy task of a run: read from its folder, or made and kept there."""
    path = folder / PROXY_TASK
    if path.exists():
        _must_be_whole(path)
        return ProxyTask.load(path)
    task, plan = tasks.get(settings.task), settings.plan
    progress.note(f"reading {settings.task}" + (f" from {settings.data}" if settings.data else ""))
    dataset = open_data(settings)
    for line in dataset.account.lines():
        progress.note(line)
    example = dataset.normalise(example_inputs(dataset, plan.crop)).to(device)
    classes = len(dataset.classes)
    spec: dict[str, Any] = {
        "task": settings.task, "name": settings.student, "classes": classes, "channels": channels(example),
        "taps": dict(settings.student_taps), "weights": settings.student_weights,
    }  # fmt: skip
    threads = settings.threads or default_threads(side(example), progress.note)
    with computing_as(threads):
        torch.manual_seed(settings.search.seed)
        student: Any = student_builder(spec, example)().to(device)
        check_trainable(student.network)
        for note in check_outputs(student.network, classes, example):
            progress.note(f"student {settings.student}: {note}")
        if settings.precision:
            precision = Precision.parse(settings.precision)
        else:
            precision = precision_for(settings.student, student, task.family, example, dataset.train.labels[:1])
        progress.note(f"computing in {precision}")
        # after the student, whose name or taps may be wrong, since training a teacher can take hours
        preparation = _Preparation(folder, settings, dataset, task.family, device, precision, progress)
        teacher, measures, statistics = preparation.teacher(example, student)
        if settings.inherit_head:
            spec["head"] = {name: t.to("cpu") for name, t in inherited(student.network, teacher.network).items()}
            student.network.load_state_dict(spec["head"], strict=False)
        progress.note(
            f"student {settings.student}: {count_parameters(student):,} parameters; "
            f"teacher {settings.teacher}: {count_parameters(teacher):,}"
        )
        kept = settings.searched(student.shapes, teacher.shapes)
        proxy_task = ProxyTask(
            train=preparation.split(dataset.train, plan.images, teacher, kept),
            validation=preparation.split(dataset.validation, plan.validation_images, teacher, kept),
            test=preparation.split(dataset.test, None, None, kept),
            student=spec,
            student_shapes={name: student.shapes[name] for name in kept},
            teacher_shapes={name: teacher.shapes[name] for name in kept},
            recipes={"warm": plan.warm, "proxy": plan.proxy, "race": plan.race},
            precision=precision,
            threads=threads,
            race_from_scratch=plan.race_from_scratch,
            teacher=measures,
            account=dataset.account.as_dict(),
            layers={
                role: {name: list(one) for name, one in getattr(network, "layers", {}).items() if name in kept}
                for role, network in (("student", student), ("teacher", teacher))
            },
            teacher_sees="; ".join(mended(teacher)),
            teacher_statistics=as_options(statistics),
        )
        preparation.warm_up(proxy_task, student)
        if plan.proxy_trains == "last-stage":
            keep_maps(proxy_task, student, precision, progress)
        proxy_task.save(path)
        preparation.show(proxy_task, teacher, student)
    return proxy_task


def open_data(settings: RunSettings) -> Dataset:
    """The data of a run at its size and with its channels; grey images as RGB where the student needs that."""
    task = tasks.get(settings.task)
    size = parse_size(settings.image_size) if settings.image_size else None
    dataset = task.open(settings.data, size, settings.channels)
    if isinstance(dataset, OwnDataset):
        if size is not None or settings.channels is not None:
            raise SettingError(
                "image_size and channels have no effect on data of your own; put them into its transform"
            )
        return for_student(dataset, settings.statistics("student"), settings.student, None)
    count = len(dataset.mean)
    if settings.channels is None and count == 1:
        count = network_channels(task.family, settings.student, len(dataset.classes), count)
    dataset = dataset.with_channels(count)
    dataset = for_student(dataset, settings.statistics("student"), settings.student, settings.student_weights)
    return dataset if size is None else dataset.resized(size)


def example_inputs(dataset: Dataset, length: int | None) -> Inputs:
    """Two training inputs, images of the size that proxies see."""
    first = dataset.train.images[:2]
    if length is None or max(first.shape[2:]) <= length:
        return first
    first = first[..., :length, :length]
    return F.pad(first, (0, length - first.shape[3], 0, length - first.shape[2]))


@dataclass(frozen=True)
class _Preparation:
    """What the steps of a preparation share."""

    folder: Path
    settings: RunSettings
    dataset: Dataset
    family: TaskFamily
    device: torch.device
    precision: Precision
    progress: Progress

    def teacher(self, example: Inputs, student: Any) -> tuple[Any, dict[str, float], Statistics | None]:
        """The teacher with its weights, trained here where the task's plan says how, its measures, and the mean and
        deviation of its images where these were found by trying."""
        settings, kept = self.settings, self.folder / TEACHER
        weights = settings.teacher_weights or (kept if kept.exists() else None)
        teacher = self._loaded(example, weights, settings.statistics("teacher"))
        own = teacher.conversion(example) if isinstance(teacher, AsTaught) else example
        for note in (*check_outputs(teacher.network, len(self.dataset.classes), own), *mended(teacher)):
            self.progress.note(f"teacher {settings.teacher}: {note}")
        settings.searched(student.shapes, teacher.shapes)  # refuses what is not there before a training of hours
        if weights is None and not is_own(settings.teacher):
            recipe = settings.plan.teacher_recipe
            if recipe is None:
                raise ModelError(
                    f"the task {settings.task} needs a trained teacher: pass --teacher-weights with safetensors or a "
                    "state dict"
                )
            self.progress.note(f"training the teacher {settings.teacher} ({recipe.epochs:g} epochs)")
            images = self.dataset.normalise(self.dataset.train.images)
            split = TensorSplit(images, self.dataset.train.labels).to(self.device, FLOAT32)
            self._train(teacher, split, recipe, FLOAT32, "teacher's steps")
            save_weights(teacher.network, kept, contract_of(self.dataset, example))
            weights = kept
        found = self._statistics(example, weights)
        if found is not None:
            teacher = self._loaded(example, weights, found)
        return teacher, self._measured(teacher), found

    def _loaded(self, example: Inputs, weights: str | Path | None, given: Statistics | None) -> Any:
        """The teacher, tapped, on the device."""
        settings = self.settings
        torch.manual_seed(settings.search.seed)
        teacher: Any = taught(
            self.family, settings.teacher, contract_of(self.dataset, example), self._known(weights), example.to("cpu"),
            settings.teacher_taps, given=given, usual=self.dataset.usual_statistics,
        )  # fmt: skip
        try:
            if weights is not None:
                load_weights(teacher.network, weights)
        except ModelError:
            if weights != self.folder / TEACHER:
                raise
            raise RunError(f"{weights} is damaged; delete it and resume, the teacher is trained again") from None
        return teacher.to(self.device)

    def _known(self, weights: str | Path | None) -> InputContract | None:
        return expected_input(self.settings.teacher, weights, len(self.dataset.classes))

    def _statistics(self, example: Inputs, weights: str | Path | None) -> Statistics | None:
        """The mean and deviation with which the teacher does best, where nothing says them; None for the images'."""
        known, dataset = self._known(weights), self.dataset
        said = self.settings.statistics("teacher") is not None or (known is not None and known.mean)
        if said or not can_be_tried(dataset, example):
            return None
        first = Split(dataset.validation.images[:TRIED_IMAGES], dataset.validation.labels[:TRIED_IMAGES])

        def measured(statistics: Statistics | None) -> Mapping[str, float]:
            return self.family.measure(self._outputs(self._loaded(example, weights, statistics), first))

        found, sentence = find_statistics(self.family, self.settings.teacher, dataset.usual_statistics, measured)
        self.progress.note(sentence)
        return found

    def _measured(self, teacher: Any) -> dict[str, float]:
        """The teacher's measures on validation and test images. Raises ModelError when it only guesses."""
        self.progress.note(f"checking the teacher {self.settings.teacher}")
        validation = self.dataset.validation
        most = self.settings.plan.validation_images or len(validation)
        splits = {"validation": Split(validation.images[:most], validation.labels[:most]), "test": self.dataset.test}
        measured = {}
        for part, split in splits.items():
            answers = Answers(self.family)
            measured[part] = self.family.measure(answers.of(self._outputs(teacher, split))), answers
        name, weights = self.settings.teacher, self.settings.teacher_weights
        check_teacher(self.family, measured, self.dataset.classes, name, self.progress, weights)
        return {f"{part}_{n}": value for part, (measures, _) in measured.items() for n, value in measures.items()}

    def _outputs(self, network: Any, split: Split) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        size = evaluation_batch(split.images)
        for start in range(0, len(split), size):
            window = slice(start, start + size)
            images = self.dataset.normalise(split.images[window]).to(self.device)
            computed = outputs(network, images, keep=self.family.read)
            yield {name: tensor.cpu() for name, tensor in computed.items()}, split.labels[window]

    def windows(self, split: Split, most: int | None) -> Split:
        """The first ``most`` images of a split (its order is random), of each one window where the plan says so."""
        first, length = Split(split.images[:most], split.labels[:most]), self.settings.plan.crop
        if length is None or max(first.images.shape[2:]) <= length:
            return first
        generator = torch.Generator().manual_seed(self.settings.search.seed)
        size = (length, length)
        offsets = corners((len(first),), first.images.shape[2:], size, generator)
        return Split(*self.family.crop(first.images, first.labels, Geometry.windows(offsets, size)))

    def split(self, split: Split, most: int | None, teacher: Any, kept: Sequence[str]) -> TensorSplit:
        """The first inputs of a split, and the teacher's outputs on them."""
        first = self.windows(split, most) if teacher is not None else Split(split.images[:most], split.labels[:most])
        draws = self.dataset.draws if split is self.dataset.train and isinstance(self.dataset, OwnDataset) else ()
        drawn = [first.images, *(inputs[:most] for inputs in draws)]
        images = joined([self.dataset.normalise(inputs) for inputs in drawn]).contiguous()
        labels = first.labels.repeat(1 + len(draws), *[1] * (first.labels.dim() - 1))
        taught = {} if teacher is None else outputs(teacher, images.to(self.device), keep=kept)
        return TensorSplit(images, labels, {name: tensor.cpu() for name, tensor in taught.items()}, 1 + len(draws))

    def warm_up(self, proxy_task: ProxyTask, student: Any) -> None:
        """Train the student that every proxy starts from."""
        recipe = self.settings.plan.warm
        self.progress.note(
            f"warming up the student ({recipe.epochs:g} epochs without a teacher on "
            f"{len(proxy_task.train.labels) // proxy_task.train.draws:,} images)"
        )
        student.to(memory_format=self.precision.memory_format)
        split = proxy_task.train.to(self.device, self.precision)
        self._train(student, split, recipe, self.precision, "student's steps")
        weights = student.network.state_dict()
        proxy_task.warm = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}

    def show(self, proxy_task: ProxyTask, teacher: Any, student: Any) -> None:
        """Keep what both networks say of some validation images."""
        if draws(self.family):
            validation = proxy_task.validation
            images, contract = some(validation.images), contract_of(self.dataset, validation.images)
            images = images.to(self.device)
            begin(self.folder, self.family, images, some(validation.labels), contract, teacher, student)

    def _train(self, network: Any, split: TensorSplit, recipe: Recipe, precision: Precision, what: str) -> None:
        """Train without a teacher and tell how far it is."""
        batches = Kept(split, len(self.dataset.classes), recipe, self.device, precision)
        trainer = Trainer(network, self.family, batches, precision)
        self.progress.begin(what, trainer.steps)
        try:
            trainer.train(self.settings.search.seed, lambda *_: self.progress.advance())
        finally:
            self.progress.end()


def keep_maps(bench: ProxyTask, student: Tapped, precision: Precision, progress: Progress) -> None:
    """Compute once what the warm student's stages before the last give; proxies then train the last one."""
    kept = list(bench.student_shapes)
    device = next(student.parameters()).device
    try:
        cut, taps = find_cut(student, kept, bench.train.images[:2].to(device))
    except ModelError as reason:
        progress.note(f"proxies train the whole student, since {reason}")
        return
    trunk = halves(student.network, cut, taps)[0]
    for name in ("train", "validation"):
        images = precision.place(getattr(bench, name).images, device)
        maps = outputs(trunk, images, precision=precision)["maps"].cpu()
        # in the precision that they were computed in, so that nothing is lost
        bench.maps[name] = precision.place(maps.to(getattr(torch, precision.name)), torch.device("cpu"))
    bench.tail = bench.student | {"cut": cut, "taps": taps}
    progress.note(f"proxies train what comes after {cut} of the student, on kept maps {tuple(maps.shape[1:])}")
