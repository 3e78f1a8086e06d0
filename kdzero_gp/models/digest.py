"""What tells whether a file of weights is the one that it was."""

from __future__ import annotations

import hashlib
from pathlib import Path

from kdzero_gp.models.contract import SIDECAR

PIECE = 1 << 20


def content_digest(path: str | Path) -> str:
    """A digest of a weights file (also one named as ``FILE#KEY``) and of what stands beside it about its input, or of
    all files of a folder; empty where there is nothing."""
    path = Path(path).expanduser()
    if not path.exists():
        path = path.parent / path.name.partition("#")[0]
    files = sorted(path.iterdir()) if path.is_dir() else [path, path.parent / (path.name + SIDECAR)]
    digest = hashlib.sha256()
    found = [file for file in files if file.is_file()]
    for file in found:
        digest.update(f"{file.name} {file.stat().st_size} ".encode())
        with file.open("rb") as opened:
            while piece := opened.read(PIECE):
                digest.update(piece)
    return digest.hexdigest()[:16] if found else ""
