"""The user's own objects by names, as settings hold them, and their way to worker processes.

A name such as ``own:SmallNet-1a2b3c4d`` ends in a fingerprint, so that equal names are equal objects, and a run's
folder needs names only: what is pickled lives in a temporary file outside of it, readable by its owner alone, for as
long as there are workers.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kdzero_gp.errors import RunError, SettingError

OWN = "own:"
# Hexadecimal digits of a fingerprint in a name.
_DIGITS = 12

_known: dict[str, Any] = {}


def is_own(name: str) -> bool:
    """Whether a name stands for an object of the user's.

    >>> is_own("own:SmallNet-1a2b3c4d5e6f"), is_own("resnet20")
    (True, False)
    """
    return name.startswith(OWN)


def own_name(kind: str, fingerprint: bytes) -> str:
    """The name of an object of this kind or class, with this fingerprint of any length."""
    return f"{OWN}{kind}-{hashlib.sha256(fingerprint).hexdigest()[:_DIGITS]}"


def kind_of(name: str) -> str:
    """The kind or class in a name.

    >>> kind_of("own:SmallNet-1a2b3c4d5e6f")
    'SmallNet'
    """
    return name.removeprefix(OWN).rpartition("-")[0]


def find(name: str) -> Any:
    """The object of a name. Raises RunError where this process was not given it."""
    if name not in _known:
        raise RunError(
            f"{name} is an object of a Python session; open the run as kdzero_gp.Run(folder) and give the object "
            "again, with run.resume(teacher, student, train) or run.fit(teacher, student, train)"
        )
    return _known[name]


def is_known(name: str) -> bool:
    """Whether this process was given the object of a name."""
    return name in _known


@contextlib.contextmanager
def known(named: Mapping[str, Any]) -> Iterator[None]:
    """Objects that names stand for, for a while, here and in the worker processes that are started meanwhile."""
    added = [name for name in named if name not in _known]
    _known.update(named)
    try:
        yield
    finally:
        for name in added:
            _known.pop(name, None)


def packed() -> Path | None:
    """Write all known objects to a temporary file, of which tensors are mapped into memory when ``unpack`` reads it;
    None where there are none. The caller deletes it. Raises SettingError for what cannot be sent to a process."""
    if not _known:
        return None
    import cloudpickle
    import torch

    with tempfile.NamedTemporaryFile(prefix="kdzero-gp-", suffix=".pt", delete=False) as file:
        path = Path(file.name)
    try:
        torch.save(_known, path, pickle_module=cloudpickle)
    except Exception as error:  # the user's objects may hold anything
        path.unlink(missing_ok=True)
        first = (str(error).splitlines() or [""])[0]
        raise SettingError(
            f"a network or data set cannot be sent to worker processes ({type(error).__name__}: {first}); make what it "
            "holds (files, locks, generators) inside of its own functions"
        ) from None
    return path


def unpack(path: Path) -> None:
    """Know the objects that ``packed`` wrote. Only for files that this program's own parent process wrote."""
    import torch  # late: names are known without it

    _known.update(torch.load(path, mmap=True, weights_only=False))
