"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

from kdzero_gp.errors import RunError

REMEDY = "free space or choose another --out"


def atomic_write(path: Path, content: str | bytes | Callable[[Path], object], remedy: str = REMEDY) -> None:
    """Write a file so that a crash or a power cut leaves the old one or the new one.

    ``content`` is the file's text (UTF-8) or bytes, or a function that writes it to the path that it is given; what
    that raises besides OSError goes on to the caller. ``remedy`` ends the sentence of the error. Raises ``RunError``.
    """
    if not path.name or path.is_dir():
        raise RunError(f"cannot write {path}: it is a folder; name a file")
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        if callable(content):
            content(temporary)
            _give_usual_rights(temporary)
        else:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        _to_disk(temporary)
        temporary.replace(path)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}; {remedy}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _give_usual_rights(path: Path) -> None:
    # some writers make private files
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def _to_disk(path: Path) -> None:
    # without it a power cut after the replacement can leave an empty file under the final name
    with path.open("rb+") as file:
        os.fsync(file.fileno())
