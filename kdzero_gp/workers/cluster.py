"""Workers as actors of a Ray cluster: of one that is running, or of a local one that is started here (extra ``ray``).

Only the driver decides: actors are restarted, and requests tried again, by the dispatcher, never by Ray. Files go to a
node once, by their content. Nodes have to have the same Python, torch and kdzero-gp, which is looked at before anything
is asked.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import os
import platform
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
# A wait for one of many answers ends when the first is there; so many more are taken along.
_AT_ONCE = 64
# How often the head of a cluster is looked for, and how long it may not answer, in seconds. Ray would end the driver
# without a sentence after a minute, in which its calls do not return.
_LOOK_FOR_HEAD, _HEAD_SILENT = 2.0, 20.0


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
        return workers or _slots(ray, device, share), False
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address is None:
        options |= {"num_cpus": max(workers or 1, cores()), "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    try:
        ray.init(address=address, **options)
    except Exception as error:
        first = " ".join(str(error).split())[:300] or type(error).__name__
        where = f"the Ray cluster {address} cannot be used" if address else "no Ray cluster can be started here"
        raise RunError(f"{where}: {first}") from None
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
        """Get ready, where this machine is like the driver's."""
        found = versions()
        for name, value in expected.items():
            if found[name] != value:
                return News.RAISED, RunError(
                    f"the machine {platform.node()} of the Ray cluster has {name} {found[name]} and this one {value}; "
                    "install the same on all machines"
                )
        try:
            if own_objects is not None:
                objects.unpack(_here(own_objects))
            here = tuple(_here(value) if isinstance(value, _File) else value for value in arguments)
            self.function: Callable[[Any], Any] = setup(*here, worker=worker)
        except Exception as error:
            return News.RAISED, error
        return News.READY, None

    def answer(self, request: Any) -> tuple[News, Any]:
        """One answer."""
        return answered(self.function, request)


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
        self._actors: dict[int, Any] = {}
        self._waiting: dict[Any, int] = {}
        self._places: dict[int, str] = {}

    def _put(self, path: Path) -> _File:
        content = path.read_bytes()
        return _File(self._ray.put(content), _digest(content), path.name)

    def start(self, worker: int) -> None:
        gpus = {"num_gpus": 1 / self._share} if self._device == "cuda" else {}
        made = self._ray.remote(_Actor).options(
            num_cpus=1, max_restarts=0, max_task_retries=0, scheduling_strategy="SPREAD", **gpus
        )
        actor = self._actors[worker] = made.remote()
        self._places.pop(worker, None)
        beginning = actor.begin.remote(self._versions, self._objects, self._setup, self._arguments, worker)
        self._waiting[beginning] = worker

    def send(self, worker: int, request: Any) -> None:
        self._waiting[self._actors[worker].answer.remote(request)] = worker

    def stop(self, worker: int) -> None:
        actor = self._actors.pop(worker, None)
        self._waiting = {one: who for one, who in self._waiting.items() if who != worker}
        if actor is not None and not self._head.silent():
            with contextlib.suppress(Exception):
                self._ray.kill(actor)

    def events(self, seconds: float) -> Sequence[Event]:
        if self._head.silent() > _HEAD_SILENT:
            raise RunError(
                f"the head of the Ray cluster ({self._head.address}) does not answer any more; resume on another "
                "cluster, or with --engine local"
            )
        if not self._waiting:
            time.sleep(seconds)
            return []
        try:
            there, _ = self._ray.wait([*self._waiting], timeout=seconds)
            if there:
                there, _ = self._ray.wait([*self._waiting], num_returns=min(_AT_ONCE, len(self._waiting)), timeout=0)
            elif self._started and not self._head.silent() and not any(n["Alive"] for n in self._ray.nodes()):
                raise RunError(
                    "the Ray cluster of this machine has ended; resume starts another, or give --engine local"
                )
            return [self._event(one) for one in there]
        except self._ray.exceptions.RayError as error:
            raise RunError(
                f"the Ray cluster cannot be used any more ({_first_line(error)}); resume on another, or with "
                "--engine local"
            ) from None

    def _event(self, answer: Any) -> Event:
        worker, errors = self._waiting.pop(answer), self._ray.exceptions
        try:
            return Event(worker, *self._ray.get(answer))
        except errors.OutOfMemoryError as error:
            return Event(worker, News.EXHAUSTED, _first_line(error))
        except (errors.RayActorError, errors.WorkerCrashedError, errors.ObjectLostError, errors.NodeDiedError) as error:
            return Event(worker, News.LOST if self._node_lives(worker) else News.GONE, _first_line(error))
        except errors.RayTaskError as error:
            return Event(
                worker, News.RAISED, RunError(f"a worker of the Ray cluster failed: {_first_line(error.cause)}")
            )

    def _node_lives(self, worker: int) -> bool:
        place = self.place(worker)
        if self._head.silent():
            return False
        return any(node["NodeID"] == place and node["Alive"] for node in self._ray.nodes())

    def silent(self, worker: int) -> bool:
        return False  # Ray looks after its processes; one that answers nothing for long is asked elsewhere

    def place(self, worker: int) -> str:
        if not self._places.get(worker) and worker in self._actors and not self._head.silent():
            state = self._ray._private.state.actors(self._actors[worker]._actor_id.hex())
            self._places[worker] = state.get("Address", {}).get("NodeID", "")
        return self._places.get(worker, "")

    def close(self) -> None:
        for worker in [*self._actors]:
            self.stop(worker)
        if self._started:
            self._ray.shutdown()


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]
