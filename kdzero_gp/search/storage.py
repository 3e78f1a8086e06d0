"""A run's database: one SQLite file, one writer, any number of readers. Every result is committed before it is used."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdzero_gp.errors import RunError

SCHEMA_VERSION = 2
DATABASE = "run.sqlite"
LOCK = "lock"
_APPLICATION_ID = 0x6B647A67  # 'kdzg', so that a foreign database is told apart

_SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE births (
    number INTEGER PRIMARY KEY, generation INTEGER NOT NULL, operator TEXT NOT NULL, parents TEXT NOT NULL,
    expression TEXT NOT NULL, digest TEXT NOT NULL, duplicate_of INTEGER);
CREATE TABLE evaluations (
    digest TEXT PRIMARY KEY, expression TEXT NOT NULL, fitness REAL, reason TEXT NOT NULL,
    metrics TEXT NOT NULL, magnitudes TEXT NOT NULL, screen TEXT NOT NULL, equivalent_to TEXT NOT NULL,
    short TEXT NOT NULL, fingerprint BLOB NOT NULL);
CREATE TABLE measurements (
    kind TEXT NOT NULL, name TEXT NOT NULL, seed INTEGER NOT NULL, factor REAL NOT NULL,
    reason TEXT NOT NULL, metrics TEXT NOT NULL, magnitudes TEXT NOT NULL,
    PRIMARY KEY (kind, name, seed, factor));
CREATE TABLE costs (
    kind TEXT NOT NULL, name TEXT NOT NULL, seconds REAL NOT NULL, step_milliseconds REAL NOT NULL,
    stages TEXT NOT NULL);
CREATE INDEX births_by_digest ON births (digest);
"""


@dataclass(frozen=True)
class StoredBirth:
    """One row of ``births``."""

    number: int
    generation: int
    operator: str
    parents: tuple[int, ...]
    expression: str
    digest: str
    duplicate_of: int | None


@dataclass(frozen=True)
class StoredEvaluation:
    """One row of ``evaluations``: a distiller's fitness (None when it was rejected, by ``screen`` or, where that is
    empty, by its training), metrics and magnitudes.

    ``equivalent_to``: the digest of an earlier distiller with the same gradient, whose fitness and metrics these are.
    ``short``: what was learnt before the end of the proxy (see ``Outcome``). ``fingerprint``: the gradient folded,
    float32.
    """

    digest: str
    expression: str
    fitness: float | None
    reason: str
    metrics: dict[str, float]
    magnitudes: tuple[float, ...]
    screen: str = ""
    equivalent_to: str = ""
    short: dict[str, float] = field(default_factory=dict)
    fingerprint: bytes = b""


@dataclass(frozen=True)
class StoredMeasurement:
    """One row of ``measurements``: a training outside the evolution, such as a zoo baseline or a race."""

    kind: str
    name: str
    seed: int
    factor: float
    reason: str
    metrics: dict[str, float]
    magnitudes: tuple[float, ...]


class Database:
    """The database of one run folder.

    ``Database.create`` makes a new one, ``Database.open`` opens one for writing (one process at a time) and
    ``Database.read`` for reading, also while another process writes. All raise ``RunError`` with the remedy.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path, lock: Any = None):
        self.connection = connection
        self.path = path
        self._lock = lock

    @classmethod
    def create(cls, folder: Path, facts: Mapping[str, Any] | None = None) -> Database:
        """A new database in ``folder``, which must not hold one. It appears whole, with ``facts`` in it, or not at
        all."""
        path = folder / DATABASE
        lock = _lock(folder)
        try:
            if path.exists():
                raise RunError(f"{folder} already holds a run; resume it with: kdzero-gp resume {folder}")
            temporary = path.with_name(f".{DATABASE}.tmp")
            with _sentences(path), _removed(temporary):
                temporary.unlink(missing_ok=True)
                with contextlib.closing(_connect(temporary)) as connection, connection:
                    connection.executescript(
                        f"PRAGMA application_id={_APPLICATION_ID}; PRAGMA user_version={SCHEMA_VERSION};"
                        f"PRAGMA journal_mode=WAL; BEGIN; {_SCHEMA} COMMIT;"
                    )
                    rows = [(name, json.dumps(value, sort_keys=True)) for name, value in (facts or {}).items()]
                    connection.executemany("INSERT INTO facts VALUES (?, ?)", rows)
                temporary.replace(path)
                return cls(_connect(path), path, lock)
        except BaseException:
            _give_up(lock)
            raise

    @classmethod
    def open(cls, folder: Path) -> Database:
        """The database of an existing run, for writing."""
        found = cls.read(folder)
        found.close()
        lock = _lock(folder)
        try:
            return cls(_connect(found.path), found.path, lock)
        except BaseException:
            _give_up(lock)
            raise

    @classmethod
    def read(cls, folder: Path) -> Database:
        """The database of an existing run, for reading."""
        path = folder / DATABASE
        if not path.is_file():
            raise RunError(
                f"{folder} holds no run ({DATABASE} is missing); start one with: kdzero-gp evolve --out {folder}"
            )
        connection = _connect(path)
        try:
            with _sentences(path):
                application = connection.execute("PRAGMA application_id").fetchone()[0]
                version = connection.execute("PRAGMA user_version").fetchone()[0]
            if application != _APPLICATION_ID:
                raise RunError(f"{path} is not a database of kdzero-gp; choose another folder")
            if version != SCHEMA_VERSION:
                raise RunError(
                    f"{path} has schema version {version} and this kdzero-gp reads {SCHEMA_VERSION}; "
                    "use the version that made it"
                )
        except BaseException:
            connection.close()
            raise
        return cls(connection, path)

    def close(self) -> None:
        """Close the connection and give up the writer's lock."""
        self.connection.close()
        _give_up(self._lock)

    def discard(self) -> None:
        """Close and delete the database, for a run that never began."""
        self.close()
        for name in (DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", LOCK):
            (self.path.parent / name).unlink(missing_ok=True)

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- writing --------------------------------------------------------------------------------------------

    def _write(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
        with _sentences(self.path), self.connection:
            self.connection.executemany(statement, rows)

    def set_fact(self, name: str, value: Any) -> None:
        """Keep a JSON value under a name."""
        self._write("INSERT OR REPLACE INTO facts VALUES (?, ?)", [(name, json.dumps(value, sort_keys=True))])

    def add_births(self, births: Sequence[StoredBirth]) -> None:
        """Append births. One that is there already must be equal: a run never changes its past."""
        new = []
        for birth in births:
            old = self.birth(birth.number)
            if old is None:
                new.append(birth)
            elif old != birth:
                raise RunError(
                    f"birth {birth.number} of this run was {old.expression} and is now {birth.expression}; "
                    "resume with the version of kdzero-gp that started the run"
                )
        self._write(
            "INSERT INTO births VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (b.number, b.generation, b.operator, json.dumps(b.parents), b.expression, b.digest, b.duplicate_of)
                for b in new
            ],
        )  # fmt: skip

    def add_evaluation(
        self,
        found: StoredEvaluation,
        seconds: float,
        step_milliseconds: float,
        stages: Mapping[str, float] | None = None,
    ) -> None:
        """Append an evaluation and what it cost, also by stage."""
        row = (
            found.digest,
            found.expression,
            found.fitness,
            found.reason,
            _dump(found.metrics),
            _dump(found.magnitudes),
            found.screen,
            found.equivalent_to,
            _dump(found.short),
            found.fingerprint,
        )
        with _sentences(self.path), self.connection:
            self.connection.execute("INSERT OR REPLACE INTO evaluations VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
            self._cost("evaluation", found.digest, seconds, step_milliseconds, stages or {})

    def add_measurement(self, found: StoredMeasurement, seconds: float, step_milliseconds: float) -> None:
        """Append a measurement and what it cost."""
        row = (
            found.kind,
            found.name,
            found.seed,
            found.factor,
            found.reason,
            _dump(found.metrics),
            _dump(found.magnitudes),
        )
        with _sentences(self.path), self.connection:
            self.connection.execute("INSERT OR REPLACE INTO measurements VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            self._cost(found.kind, found.name, seconds, step_milliseconds, {})

    def _cost(
        self, kind: str, name: str, seconds: float, step_milliseconds: float, stages: Mapping[str, float]
    ) -> None:
        row = (kind, name, seconds, step_milliseconds, _dump(stages))
        self.connection.execute("INSERT INTO costs VALUES (?, ?, ?, ?, ?)", row)

    # --- reading --------------------------------------------------------------------------------------------

    def fact(self, name: str, default: Any = None) -> Any:
        """The value kept under a name."""
        row = self._rows("SELECT value FROM facts WHERE name = ?", name)
        return json.loads(row[0][0]) if row else default

    def birth(self, number: int) -> StoredBirth | None:
        """One birth by its number."""
        rows = self._rows("SELECT * FROM births WHERE number = ?", number)
        return _birth(rows[0]) if rows else None

    def births(self) -> list[StoredBirth]:
        """All births in order."""
        return [_birth(row) for row in self._rows("SELECT * FROM births ORDER BY number")]

    def evaluation(self, digest: str) -> StoredEvaluation | None:
        """One evaluation by the digest of its distiller."""
        rows = self._rows("SELECT * FROM evaluations WHERE digest = ?", digest)
        return _evaluation(rows[0]) if rows else None

    def evaluations(self) -> list[StoredEvaluation]:
        """All evaluations, the fittest first, the rejected last."""
        order = "SELECT * FROM evaluations ORDER BY fitness IS NULL, fitness, digest"
        return [_evaluation(row) for row in self._rows(order)]

    def measurement(self, kind: str, name: str, seed: int, factor: float) -> StoredMeasurement | None:
        """One measurement by its key."""
        where = "kind = ? AND name = ? AND seed = ? AND factor = ?"
        rows = self._rows(f"SELECT * FROM measurements WHERE {where}", kind, name, seed, factor)
        return _measurement(rows[0]) if rows else None

    def measurements(self, kind: str) -> list[StoredMeasurement]:
        """All measurements of one kind, by name, seed and factor."""
        order = "SELECT * FROM measurements WHERE kind = ? ORDER BY name, seed, factor"
        return [_measurement(row) for row in self._rows(order, kind)]

    def costs(self, kind: str) -> list[tuple[float, float]]:
        """Seconds and milliseconds a step of all trainings of one kind."""
        return [(s, m) for s, m in self._rows("SELECT seconds, step_milliseconds FROM costs WHERE kind = ?", kind)]

    def stages(self) -> dict[str, tuple[int, float]]:
        """How many evaluations went through each screen and training, and their seconds together."""
        statement = (
            "SELECT key, count(*), sum(value) FROM costs, json_each(stages) WHERE kind = 'evaluation' GROUP BY key"
        )
        return {name: (count, seconds) for name, count, seconds in self._rows(statement)}

    def _rows(self, statement: str, *values: Any) -> list[Any]:
        with _sentences(self.path):
            return self.connection.execute(statement, values).fetchall()


def _connect(path: Path) -> sqlite3.Connection:
    with _sentences(path):
        connection = sqlite3.connect(path, timeout=30.0)
        try:
            connection.execute("PRAGMA synchronous=NORMAL")
        except BaseException:
            connection.close()
            raise
    return connection


@contextlib.contextmanager
def _removed(path: Path) -> Iterator[None]:
    """Remove a half-made database when making it fails."""
    try:
        yield
    except BaseException:
        for name in (path.name, f"{path.name}-wal", f"{path.name}-shm", f"{path.name}-journal"):
            path.with_name(name).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _sentences(path: Path) -> Iterator[None]:
    """SQLite's errors as sentences with a remedy."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise RunError(f"cannot use {path}: {error}; check the disk's space and permissions, then resume") from None


def _lock(folder: Path) -> Any:
    """The writer's lock: held while the object lives, given up when the process ends, however it ends."""
    try:
        import fcntl
    except ImportError:  # no such locks on this system: SQLite's own still protect each transaction
        return None
    handle = None
    try:
        handle = (folder / LOCK).open("w")
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        _give_up(handle)
        if isinstance(error, BlockingIOError):
            raise RunError(f"another process is working on {folder}; wait for it, or stop it and resume") from None
        raise RunError(f"cannot write in {folder}: {error.strerror}; check its space and permissions") from None
    return handle


def _give_up(lock: Any) -> None:
    if lock is not None:
        lock.close()


def _dump(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _birth(row: tuple[Any, ...]) -> StoredBirth:
    number, generation, operator, parents, expression, digest, duplicate_of = row
    return StoredBirth(number, generation, operator, tuple(json.loads(parents)), expression, digest, duplicate_of)


def _evaluation(row: tuple[Any, ...]) -> StoredEvaluation:
    digest, expression, fitness, reason, metrics, magnitudes, screen, equivalent_to, short, fingerprint = row
    return StoredEvaluation(
        digest, expression, fitness, reason, json.loads(metrics), tuple(json.loads(magnitudes)), screen, equivalent_to,
        json.loads(short), fingerprint,
    )  # fmt: skip


def _measurement(row: tuple[Any, ...]) -> StoredMeasurement:
    kind, name, seed, factor, reason, metrics, magnitudes = row
    return StoredMeasurement(kind, name, seed, factor, reason, json.loads(metrics), tuple(json.loads(magnitudes)))
