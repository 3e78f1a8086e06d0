"""Connections to a run's database, the writer's lock, and what goes wrong with both as sentences."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import filelock

from kdzero_gp.errors import KdzeroError, RunError

LOCK = "lock"
# Seconds that another program's writing is waited for.
BUSY_SECONDS = 30.0


def connect(path: Path) -> sqlite3.Connection:
    """A connection; it waits a while for other programs that write."""
    with sentences(path):
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS)
        try:
            connection.execute("PRAGMA synchronous=NORMAL")
        except BaseException:
            connection.close()
            raise
    return connection


def copied(path: Path) -> sqlite3.Connection:
    """A database whose folder cannot be written, in memory: to read one that is written ahead (WAL) SQLite makes files
    beside it."""
    with sentences(path), tempfile.TemporaryDirectory() as folder:
        for name in (path.name, f"{path.name}-wal"):
            if path.with_name(name).exists():
                shutil.copyfile(path.with_name(name), Path(folder) / name)
        memory = sqlite3.connect(":memory:")
        try:
            with contextlib.closing(sqlite3.connect(Path(folder) / path.name)) as copy:
                copy.backup(memory)
        except BaseException:
            memory.close()
            raise
    return memory


@contextlib.contextmanager
def removed(path: Path) -> Iterator[None]:
    """Remove a half-made database when making it fails."""
    try:
        yield
    except BaseException:
        for name in (path.name, f"{path.name}-wal", f"{path.name}-shm", f"{path.name}-journal"):
            path.with_name(name).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def undamaged(path: Path) -> Iterator[None]:
    """What values that nobody wrote cause, as a sentence."""
    try:
        yield
    except KdzeroError:
        raise
    except Exception as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> RunError:
    first = (str(error).splitlines() or [""])[0][:200]
    return RunError(
        f"{path} is damaged ({type(error).__name__}: {first}); restore a copy of it, or start anew in another folder"
    )


@contextlib.contextmanager
def sentences(path: Path) -> Iterator[None]:
    """SQLite's errors as sentences with a remedy."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        if type(error) is sqlite3.DatabaseError or "malformed" in str(error):  # pages, or JSON, that are none
            raise _damaged(path, error) from None
        remedy = "check the disk's space and permissions"
        if "locked" in str(error):
            remedy = "close the program that writes to it"
        raise RunError(f"cannot use {path}: {error}; {remedy}, then resume") from None
    except UnicodeDecodeError as error:  # a text that nobody wrote
        raise _damaged(path, error) from None


def locked(folder: Path) -> filelock.BaseFileLock:
    """The writer's lock: held while the object lives, given up when the process ends, however it ends."""
    lock = filelock.FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise RunError(f"another process is working on {folder}; wait for it, or stop it and resume") from None
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"cannot write in {folder}: {reason}; check its space and permissions") from None
    return lock


def give_up(lock: filelock.BaseFileLock | None) -> None:
    """Let others write."""
    if lock is not None:
        lock.release(force=True)
