"""A file is the old one or the new one, never a part, and an error names the path and the remedy."""

import os
import re
from pathlib import Path

import pytest

import kdzero_gp
from kdzero_gp.errors import RunError
from kdzero_gp.files import atomic_write


@pytest.mark.parametrize("content", ["grün\n", "grün\n".encode(), lambda path: path.write_bytes("grün\n".encode())])
def test_text_bytes_and_writers_replace_the_old_file(tmp_path, content):
    path = tmp_path / "file"
    path.write_text("old")
    atomic_write(path, content)
    assert path.read_bytes() == "grün\n".encode() and list(tmp_path.iterdir()) == [path]


def test_the_file_is_on_the_disk_before_it_replaces_the_old_one(tmp_path, monkeypatch):
    path, synced = tmp_path / "file", []
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(path.read_text()))
    atomic_write(path, "new")
    assert synced == ["old"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("no tensor")])
def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, error):
    def fail(path):
        path.write_text("half")
        raise error

    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises((RunError, ValueError)) as caught:
        atomic_write(path, fail, "choose another --out")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    if isinstance(error, OSError):
        assert str(caught.value) == f"cannot write {path}: No space left on device; choose another --out"


def test_a_folder_and_a_missing_one_are_named(tmp_path):
    with pytest.raises(RunError, match="it is a folder; name a file"):
        atomic_write(tmp_path, "")
    with pytest.raises(RunError, match="No such file or directory; free space or choose another --out"):
        atomic_write(tmp_path / "missing" / "file", "")


def test_a_clock_that_goes_backwards_decides_nothing():
    """Durations are of the monotonic clock; the wall clock is asked for one thing alone: leftovers in the cache that
    are old enough to be nobody's, and those of the future are not."""
    root = Path(kdzero_gp.__file__).parent
    asked = [path.relative_to(root).as_posix() for path in root.rglob("*.py")
             if re.search(r"\btime\.time(_ns)?\(|\bdatetime\b|from time import", path.read_text("utf-8"))]  # fmt: skip
    assert asked == ["data/cache.py"]
