"""Gets the official archives of CIFAR, whose content is checked."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

from kdzero_gp.errors import DataError

ADDRESS = "https://www.cs.toronto.edu/~kriz/"
"""The authors' own page."""
SECONDS = 60.0
"""Without an answer for so long there is no network."""


@dataclass(frozen=True)
class Download:
    """An archive: its file, its size for people, and its MD5 as the authors give it."""

    file: str
    megabytes: int
    md5: str


DOWNLOADS = {
    "cifar10": Download("cifar-10-python.tar.gz", 170, "c58f30108f718f92721af3b95e74349a"),
    "cifar100": Download("cifar-100-python.tar.gz", 169, "eb9058c3a382ffc7106e4002c42a8d85"),
}


def downloaded(task: str, folder: Path) -> Path:
    """The archive of a task in ``folder``, downloaded where it is not there yet. Raises DataError where it cannot be
    had, or is not what it should be."""
    wanted = DOWNLOADS[task]
    path, address = folder / wanted.file, ADDRESS + wanted.file
    if path.exists():
        return path
    print(f"downloading {address} ({wanted.megabytes} MB) to {folder}", file=sys.stderr, flush=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(address, timeout=SECONDS) as answer, temporary.open("wb") as file:
            shutil.copyfileobj(answer, file, 1 << 20)
        found = _md5(temporary)
        if found != wanted.md5:
            raise DataError(
                f"{address} gave a file with the MD5 {found} in place of {wanted.md5}; try again, or get the archive "
                "elsewhere and give it with --data"
            )
        temporary.replace(path)
    except (OSError, URLError) as error:
        reason = getattr(error, "reason", None) or error.strerror or error
        raise DataError(
            f"{address} cannot be downloaded ({reason}); get the archive where there is a network, and give it with "
            "--data"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
