"""Workers as actors of a Ray cluster: of one that is running, or of a local one that is started here (extra ``ray``).

Only the driver decides: actors are restarted, and requests tried again, by the dispatcher, never by Ray. Files go to a
node once, by their content. Nodes have to have the same Python, torch and kdzero-gp, which is looked at when the
cluster is connected and again where a worker begins.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import os
import platform
import queue
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import primitives
from kdzero_gp import objects
from kdzero_gp.errors import RunError, SettingError
from kdzero_gp.files import atomic_write
from kdzero_gp.threads import cores
from kdzero_gp.version import __version__
from kdzero_gp.workers.engine import Event, News, Setup, answered

# What Ray reads when it is imported and when it starts a cluster here: no reports to its makers, no warnings about a
# device that is not asked for, and workers that are as important as other processes (else nice 15: on a busy machine
# they take minutes to import torch).
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_worker_niceness": "0",
}  # fmt: skip
# … and without the token that Ray makes for it nobody on this machine can send code to it. Newer ones do so by default.
_PROTECTED = {"RAY_AUTH_MODE": "token"}
# How long the machines may take to say what is installed there, in seconds; who says nothing is asked by its workers.
_INSTALLED = 120.0
# A worker is asked for a sign of life where nothing was heard of it for so long; one that gives none for so long hangs.
BEAT, SILENCE = 5.0, 20.0
# How often the head of a cluster is looked for, and how long it may not answer, in seconds. Ray would end the driver
# without a sentence after a minute, in which its calls do not return.
_LOOK_FOR_HEAD, _HEAD_SILENT = 2.0, 15.0


def _ray(alone: bool = False) -> Any:
    """Ray, perhaps for a cluster of this machine alone. Raises SettingError with the install command where it is
    missing."""
    # when it was imported before, it has read them
    for name, value in (_ENVIRONMENT | (_PROTECTED if alone and "ray" not in sys.modules else {})).items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise SettingError("--engine ray needs Ray; install it with: pip install 'kdzero-gp[ray]'") from None
    return ray


def connect(address: str | None, workers: int | None, device: str, share: int = 1) -> tuple[int, bool]:
    """Connect to a running cluster, or start one on this machine: how many workers there can be at once, and whether
    it was started here. Raises RunError where that fails."""
    ray = _ray(address is None)
    if ray.is_initialized():
        _look_at_machines(ray)
        return workers or _slots(ray, device, share), False
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address is None:
        options |= {"num_cpus": max(workers or 1, cores()), "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    try:
        ray.init(address=address or "local", **options)  # not another that this machine happens to run
    except Exception as error:
        first = " ".join(str(error).split())[:300] or type(error).__name__
        where = f"the Ray cluster {address} cannot be used" if address else "no Ray cluster can be started here"
        raise RunError(f"{where}: {first}") from None
    if address is not None:
        _look_at_machines(ray)
    return workers or _slots(ray, device, share), address is None


def _slots(ray: Any, device: str, share: int) -> int:
    """Workers that a cluster has room for, ``share`` on a GPU."""
    found = ray.cluster_resources()
    return max(1, int(found.get("GPU", 1) * share if device == "cuda" else found.get("CPU", 1)))


def versions() -> dict[str, str]:
    """What has to be alike on all machines of a run."""
    code = hashlib.sha256()
    for module in (objects, primitives):  # one of each package
        root = Path(str(module.__file__)).parent
        for path in sorted(root.rglob("*.py")):
            code.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return {
        "Python": ".".join(platform.python_version_tuple()[:2]), "torch": torch.__version__, "kdzero-gp": __version__,
        "code of kdzero-gp": code.hexdigest()[:12],
    }  # fmt: skip


def _look_at_machines(ray: Any) -> None:
    """Raises RunError where a machine with room for workers is not like this one."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ask, asked = ray.remote(num_cpus=0, max_retries=0)(_unlike), []
    for node in ray.nodes():
        if node["Alive"] and node["Resources"].get("CPU", 0) >= 1:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked.append((ask.options(scheduling_strategy=there).remote(versions()), node["NodeManagerHostname"]))
    told = set(ray.wait([ref for ref, _ in asked], num_returns=len(asked), timeout=_INSTALLED)[0])
    for ref, name in asked:
        try:
            said = ray.get(ref) if ref in told else ""
        except ray.exceptions.RayError as error:
            why = _first_line(getattr(error, "cause", None) or error)
            said = f"the machine {name} of the Ray cluster cannot be used ({why})"
        if said:
            raise RunError(f"{said}; install the same on all machines")


def _unlike(expected: dict[str, str]) -> str:
    """How this machine differs from the driver's, whose versions are ``expected``."""
    found = versions()
    for name, value in expected.items():
        if found[name] != value:
            machine = platform.node()
            return f"the machine {machine} of the Ray cluster has {name} {found[name]} and the driver's {value}"
    return ""


@dataclass(frozen=True)
class _File:
    """A file of the driver's: its bytes in Ray's object store, their SHA-256, and its name."""

    content: Any
    digest: str
    name: str


class _Actor:
    """A worker's process."""

    def begin(
        self, expected: dict[str, str], own_objects: _File | None, setup: Setup, arguments: tuple[Any, ...], worker: int
    ) -> tuple[News, Any]:
        """Get ready, where this machine is like the driver's; the node that it is."""
        import ray

        if unlike := _unlike(expected):
            return News.RAISED, RunError(f"{unlike}; install the same on all machines")
        try:
            if own_objects is not None:
                objects.unpack(_here(own_objects))
            here = tuple(_here(value) if isinstance(value, _File) else value for value in arguments)
            self.function: Callable[[Any], Any] = setup(*here, worker=worker)
        except Exception as error:
            return News.RAISED, error
        return News.READY, ray.get_runtime_context().get_node_id()

    def answer(self, request: Any) -> tuple[News, Any]:
        """One answer."""
        return answered(self.function, request)

    def live(self) -> None:
        """A sign of life, also while something is computed: in a thread of its own."""


def _here(file: _File) -> Path:
    """A file on this machine: written once, and looked at before every use."""
    folder = Path(tempfile.gettempdir()) / f"kdzero-gp-{getpass.getuser()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
        raise RunError(f"{folder} belongs to somebody else; remove it on {platform.node()}")
    path = folder / file.digest / file.name
    if not path.exists() or _digest(path.read_bytes()) != file.digest:
        import ray

        content = ray.get(file.content)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        atomic_write(path, lambda temporary: temporary.write_bytes(content), f"free space on {platform.node()}")
    return path


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class _Head:
    """The head of a cluster, which knows its machines and actors: calls about these do not return without it."""

    def __init__(self, address: str):
        self.address = address
        self._looked = self._answered = time.monotonic()

    def silent(self) -> float:
        """Seconds since it answered last, 0 where it does."""
        now = time.monotonic()
        if now - self._looked >= _LOOK_FOR_HEAD:
            self._looked = now
            host, _, port = self.address.rpartition(":")
            with contextlib.suppress(OSError), socket.create_connection((host.strip("[]"), int(port)), timeout=2.0):
                self._answered = time.monotonic()
        return self._looked - self._answered if self._looked > self._answered else 0.0


@dataclass(eq=False)
class _Worker:
    """An actor, the node it is on (empty before it is ready), when something was heard of it, in seconds of listening,
    and whether it is asked for a sign of life."""

    actor: Any
    heard: float = 0.0
    place: str = ""
    asked: bool = False


class RayEngine:
    """Actors on the cluster that ``connect`` found, on one processor or one GPU each."""

    def __init__(self, setup: Setup, arguments: tuple[Any, ...], device: str, started: bool, share: int = 1):
        self._ray, self._device, self._started, self._share = _ray(), device, started, share
        self._head = _Head(self._ray.get_runtime_context().gcs_address)
        self._setup = setup
        self._versions = versions()
        packed = objects.packed()
        self._objects = None if packed is None else self._put(packed)
        if packed is not None:
            packed.unlink(missing_ok=True)
        self._arguments = tuple(self._put(value) if isinstance(value, Path) else value for value in arguments)
        self._workers: dict[int, _Worker] = {}
        # what Ray's own thread hands over: who said it, and the answer; None for a sign of life
        self._said: queue.SimpleQueue[tuple[int, _Worker, Any]] = queue.SimpleQueue()
        self._looked, self._listened, self._looked_at_nodes = time.monotonic(), 0.0, time.monotonic()

    def _put(self, path: Path) -> _File:
        content = path.read_bytes()
        return _File(self._ray.put(content), _digest(content), path.name)

    def start(self, worker: int) -> None:
        gpus = {"num_gpus": 1 / self._share} if self._device == "cuda" else {}
        made = self._ray.remote(concurrency_groups={"life": 1})(_Actor).options(
            num_cpus=1, max_restarts=0, max_task_retries=0, scheduling_strategy="SPREAD", **gpus
        )
        known = self._workers[worker] = _Worker(made.remote())
        arguments = self._versions, self._objects, self._setup, self._arguments, worker
        self._await(worker, known, known.actor.begin.remote(*arguments))

    def send(self, worker: int, request: Any) -> None:
        known = self._workers[worker]
        self._await(worker, known, known.actor.answer.remote(request))

    def _await(self, worker: int, known: _Worker, answer: Any) -> None:
        answer.future().add_done_callback(lambda done: self._said.put((worker, known, done)))

    def stop(self, worker: int) -> None:
        known = self._workers.pop(worker, None)
        if known is not None and not self._head.silent():
            with contextlib.suppress(Exception):
                self._ray.kill(known.actor)

    def events(self, seconds: float) -> Sequence[Event]:
        if self._head.silent() > _HEAD_SILENT:
            raise RunError(
                f"the head of the Ray cluster ({self._head.address}) does not answer any more; resume on another "
                "cluster, or with --engine local"
            )
        said = []
        with contextlib.suppress(queue.Empty):
            said.append(self._said.get(timeout=seconds) if seconds else self._said.get_nowait())
            while True:
                said.append(self._said.get_nowait())
        now = time.monotonic()
        # time in which this process did not listen, since it was stopped, say, is nobody's silence
        self._listened, self._looked = self._listened + min(now - self._looked, seconds + BEAT), now
        try:
            if not said and self._started:
                self._look_at_nodes()
            return [event for worker, known, done in said if (event := self._event(worker, known, done))]
        except self._ray.exceptions.RayError as error:
            raise RunError(
                f"the Ray cluster cannot be used any more ({_first_line(error)}); resume on another, or with "
                "--engine local"
            ) from None

    def _look_at_nodes(self) -> None:
        """Raises RunError where the cluster of this machine has ended."""
        if self._looked - self._looked_at_nodes < _LOOK_FOR_HEAD or self._head.silent():
            return
        self._looked_at_nodes = self._looked
        if not any(node["Alive"] for node in self._ray.nodes()):
            raise RunError("the Ray cluster of this machine has ended; resume starts another, or give --engine local")

    def _event(self, worker: int, known: _Worker, done: Any) -> Event | None:
        if self._workers.get(worker) is not known:
            return None
        known.heard, errors = self._listened, self._ray.exceptions
        if done is None:
            known.asked = False
            return None
        try:
            news, value = done.result()
        except errors.OutOfMemoryError as error:
            return Event(worker, News.EXHAUSTED, _first_line(error))
        except (errors.RayActorError, errors.WorkerCrashedError, errors.ObjectLostError, errors.NodeDiedError) as error:
            return Event(worker, News.LOST if self._lives(known.place) else News.GONE, _first_line(error))
        except errors.RayTaskError as error:
            return Event(
                worker, News.RAISED, RunError(f"a worker of the Ray cluster failed: {_first_line(error.cause)}")
            )
        if news is News.READY:
            known.place, value = value, None
        return Event(worker, news, value)

    def _lives(self, place: str) -> bool:
        """Whether a node is there."""
        if self._head.silent():
            return False
        return any(node["NodeID"] == place and node["Alive"] for node in self._ray.nodes())

    def silent(self, worker: int) -> bool:
        known = self._workers.get(worker)
        if known is None or not known.place or self._listened - known.heard < BEAT:
            return False  # before it is ready it may wait for a place
        if not known.asked:
            known.asked = True
            sign = known.actor.live.options(concurrency_group="life").remote()
            sign.future().add_done_callback(
                lambda done: None if done.exception() else self._said.put((worker, known, None))
            )
        return self._listened - known.heard > SILENCE

    def place(self, worker: int) -> str:
        return self._workers[worker].place if worker in self._workers else ""

    def close(self) -> None:
        for worker in [*self._workers]:
            self.stop(worker)
        if self._started:
            self._ray.shutdown()


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]
