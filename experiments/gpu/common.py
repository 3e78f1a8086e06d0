"""What these studies use of the package's inside, in one file: the prepared task, a training step, results."""

import json
import os
import platform
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

import kdzero_gp
from kdzero_gp.compiler import load_source, source_of
from kdzero_gp.engine.batches import Kept
from kdzero_gp.engine.loop import Trainer
from kdzero_gp.engine.outputs import Precision
from kdzero_gp.engine.teacher import KeptTeacher
from kdzero_gp.models import build
from kdzero_gp.models.taps import Tapped
from kdzero_gp.models.weights import load_weights
from kdzero_gp.progress import Progress
from kdzero_gp.proxy.evaluator import Evaluator
from kdzero_gp.proxy.students import student_builder
from kdzero_gp.proxy.task import ProxyTask
from kdzero_gp.search.prepare import PROXY_TASK, prepare
from kdzero_gp.search.settings import RunSettings
from kdzero_gp.tasks.plan import CIFAR

TEACHER, STUDENT = "resnet56", "resnet20"
SEARCHED = Path(__file__).parents[1] / "cifar100" / "default.py"  # the winner of the default search on this pair


SHAPES = {"logits": (100,), "emb": (64,), "feat": (64, 8, 8)}  # of both networks


def searched_expression():
    """The expression of the winner."""
    return load_source(SEARCHED.read_text(encoding="utf-8")).EXPRESSION


def searched_file(path):
    """The winner as this version exports it, with the magnitudes of its own search."""
    path.parent.mkdir(parents=True, exist_ok=True)
    winner = load_source(SEARCHED.read_text(encoding="utf-8"))
    kdzero_gp.export(path, winner.EXPRESSION, SHAPES, SHAPES, winner.MAGNITUDES)
    return path


class Results:
    """Lines of JSON, each on the disk as soon as it is known."""

    def __init__(self, path, device):
        self.path = path
        self.facts = {"device": name_of(device), "torch": torch.__version__, "kdzero_gp": kdzero_gp.__version__}

    def add(self, part, **values):
        line = json.dumps({"part": part} | values | self.facts, ensure_ascii=False)
        print(line, flush=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())


def name_of(device):
    """The name of a card, or of the processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()


def wait(device):
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def settings(data, weights, tiny):
    """The default search on this pair, or one in which everything is small."""
    plan = CIFAR
    if tiny:
        small = {name: replace(getattr(plan, name), epochs=0.25, batch_size=8) for name in ("warm", "proxy", "race")}
        plan = replace(plan, images=64, validation_images=64, **small)
    return RunSettings(task="cifar100", data=str(data), teacher=TEACHER, teacher_weights=str(weights),
                       student=STUDENT, plan=plan)  # fmt: skip


def open_task(folder, data, weights, device, tiny):
    """The prepared task of the default search: read, or made with a warm student."""
    folder.mkdir(parents=True, exist_ok=True)
    return prepare(folder, settings(data, weights, tiny), device, Progress())


def task_file(folder):
    """Where ``open_task`` keeps it."""
    return folder / PROXY_TASK


def load_evaluator(path, device):
    """What a worker of a search has: evaluates sources by proxies."""
    task = ProxyTask.load(path).of("proxy")
    return Evaluator(task, student_builder(task.student, task.train.images[:2]), str(device))


def evaluated(evaluator, source, seed):
    """One candidate: the reason of its rejection or '', and its seconds by stage."""
    probed, trained = evaluator.evaluate(source, seed)
    return trained.reason, probed.stages | trained.stages


def source_for(task, expression):
    """The source of an expression for the task's pair."""
    return source_of(expression, task.student_shapes, task.teacher_shapes)


def load_teacher(weights, example, device):
    """The teacher's network with its taps."""
    network = build(TEACHER, 100, 3)
    load_weights(network, weights)
    return Tapped(network.to(device), example).eval().requires_grad_(False)


class ByHand(nn.Module):
    """A loss of the student's tensors, the teacher's and labels as the engine takes distillers."""

    def __init__(self, function):
        super().__init__()
        self.loss = function

    def prepare(self, teacher, labels):
        return dict(teacher)


class Training:
    """Proxy trainings of the whole student (or of its last stage) as steps that can be timed.

    ``loss``: a function of the student's tensors, the teacher's on the batch and labels; or the source of a distiller,
    whose targets are computed once for all images, as a search does; or None.
    """

    def __init__(self, task, device, precision, loss=None, captured=False):
        self.device, self.precision, self.recipe = device, precision, task.recipes["proxy"]
        self.split = task.train.to(device, precision)
        torch.manual_seed(0)
        self.student = student_builder(task.student, task.train.images[:2])().to(device).train()
        state = self.student.network.state_dict()
        self.student.network.load_state_dict({name: task.warm[name] for name in state})
        self.student.to(memory_format=precision.memory_format)
        teacher = None
        if loss is not None:
            distiller = load_source(loss).to(device).train() if isinstance(loss, str) else ByHand(loss)
            kept = {name: tensor[None] for name, tensor in self.split.teacher.items()}
            teacher = KeptTeacher(distiller, task.family, kept, self.split.labels)
        batches = Kept(self.split, task.classes, self.recipe, device, precision)
        self.trainer = Trainer(self.student, task.family, batches, precision, teacher, graphs=captured)
        self.batches = list(batches.epoch(0, 0))
        self.taken = 0

    @property
    def reason(self):
        """Why no graph is used where one was wanted."""
        return self.trainer.captured.reason if self.trainer.captured is not None else "there are no graphs"

    def step(self, batch):
        self.trainer.step(batch, 0)

    def run(self, steps):
        """Take some steps; returns milliseconds a step."""
        wait(self.device)
        start = time.perf_counter()
        for _ in range(steps):
            self.step(self.batches[self.taken % len(self.batches)])
            self.taken += 1
        wait(self.device)
        return 1000.0 * (time.perf_counter() - start) / steps


def in_turn(trainings, rounds, steps):
    """Milliseconds a step of each training by name, one list entry a round, after steps that do not count."""
    for training in trainings.values():
        training.run(-(-steps // 4))
    found = {name: [] for name in trainings}
    for number in range(rounds):
        names = list(trainings) if number % 2 == 0 else list(trainings)[::-1]
        for name in names:
            found[name].append(trainings[name].run(steps))
    return found


def median_ratio(ours, theirs):
    """The median of the ratios of pairs."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


def precisions():
    """What a student can compute in, by name."""
    return {"float32": Precision("float32", False), "bfloat16 channels last": Precision("bfloat16", True)}


def arguments(parser, given=None):
    """The options that all parts have."""
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="everything once and small, to try the lines")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="a folder for what is not kept")
    parser.add_argument("--results", type=Path, required=True)
    options = parser.parse_args(given)
    options.device = torch.device(options.device)
    torch.set_num_threads(1)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    return options
