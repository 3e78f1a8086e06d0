"""A run's database: one SQLite file, one writer, any number of readers. Every result is committed before it is used."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock

from kdzero_gp.errors import RunError
from kdzero_gp.search.connection import LOCK, connect, copied, give_up, locked, removed, sentences, undamaged
from kdzero_gp.search.migration import OLDEST, migrated
from kdzero_gp.search.rows import (
    COLUMNS,
    TABLES,
    Row,
    Status,
    StoredAnswer,
    StoredBirth,
    StoredCost,
    StoredEvaluation,
    StoredMeasurement,
    StoredReply,
    row_of,
    stored_values,
)  # fmt: skip

__all__ = [
    "Database", "Status", "StoredAnswer", "StoredBirth", "StoredCost", "StoredEvaluation", "StoredMeasurement",
    "StoredReply",
]  # fmt: skip

SCHEMA_VERSION = 5
DATABASE = "run.sqlite"
_APPLICATION_ID = 0x6B647A67  # 'kdzg', so that a foreign database is told apart

_SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE births (
    number INTEGER PRIMARY KEY, generation INTEGER NOT NULL, operator TEXT NOT NULL, parents TEXT NOT NULL,
    expression TEXT NOT NULL, digest TEXT NOT NULL, duplicate_of INTEGER);
CREATE TABLE evaluations (
    digest TEXT PRIMARY KEY, expression TEXT NOT NULL, status TEXT NOT NULL, fitness REAL, reason TEXT NOT NULL,
    metrics TEXT NOT NULL, magnitudes TEXT NOT NULL, screen TEXT NOT NULL, equivalent_to TEXT NOT NULL,
    short TEXT NOT NULL, fingerprint BLOB NOT NULL, units REAL NOT NULL);
CREATE TABLE answers (
    digest TEXT NOT NULL, request TEXT NOT NULL, answer TEXT NOT NULL, PRIMARY KEY (digest, request));
CREATE TABLE replies (
    request TEXT NOT NULL, ordinal INTEGER NOT NULL, text TEXT NOT NULL, failure TEXT NOT NULL, calls INTEGER NOT NULL,
    tokens_in INTEGER NOT NULL, tokens_out INTEGER NOT NULL, PRIMARY KEY (request, ordinal));
CREATE TABLE measurements (
    kind TEXT NOT NULL, name TEXT NOT NULL, seed INTEGER NOT NULL, factor REAL NOT NULL,
    reason TEXT NOT NULL, metrics TEXT NOT NULL, magnitudes TEXT NOT NULL,
    PRIMARY KEY (kind, name, seed, factor));
CREATE TABLE costs (
    kind TEXT NOT NULL, name TEXT NOT NULL, seconds REAL NOT NULL, step_milliseconds REAL NOT NULL,
    stages TEXT NOT NULL);
CREATE INDEX births_by_digest ON births (digest);
"""


class Database:
    """The database of one run folder.

    ``Database.create`` makes a new one, ``Database.open`` opens one for writing (one process at a time) and
    ``Database.read`` for reading, also while another process writes. All raise ``RunError`` with the remedy.
    ``version`` is the schema that the file has; older ones can be read, not written.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: Path,
        lock: filelock.BaseFileLock | None = None,
        version: int = SCHEMA_VERSION,
    ):
        connection.row_factory = sqlite3.Row
        self._connection = connection
        self.path = path
        self._lock = lock
        self.version = version

    @classmethod
    def create(cls, folder: Path, facts: Mapping[str, Any] | None = None) -> Database:
        """A new database in ``folder``, which must not hold one. It appears whole, with ``facts`` in it, or not at
        all."""
        path = folder / DATABASE
        lock = locked(folder)
        try:
            if path.exists():
                raise RunError(f"{folder} already holds a run; resume it with: kdzero-gp resume {folder}")
            temporary = path.with_name(f".{DATABASE}.tmp")
            with sentences(path), removed(temporary):
                temporary.unlink(missing_ok=True)
                with contextlib.closing(connect(temporary)) as connection, connection:
                    connection.executescript(
                        f"PRAGMA application_id={_APPLICATION_ID}; PRAGMA user_version={SCHEMA_VERSION};"
                        f"PRAGMA journal_mode=WAL; BEGIN; {_SCHEMA} COMMIT;"
                    )
                    rows = [(name, json.dumps(value, sort_keys=True)) for name, value in (facts or {}).items()]
                    connection.executemany("INSERT INTO facts VALUES (?, ?)", rows)
                temporary.replace(path)
                return cls(connect(path), path, lock)
        except BaseException:
            give_up(lock)
            raise

    @classmethod
    def open(cls, folder: Path) -> Database:
        """The database of an existing run, for writing."""
        with cls.read(folder) as database:
            path, version = database.path, database.version
        if version != SCHEMA_VERSION:
            raise RunError(
                f"{folder} was made by an earlier kdzero-gp (schema {version}): it can be read but not gone on with; "
                "resume it with the version that made it, or start anew in another folder"
            )
        lock = locked(folder)
        try:
            return cls(connect(path), path, lock)
        except BaseException:
            give_up(lock)
            raise

    @classmethod
    def read(cls, folder: Path) -> Database:
        """The database of an existing run, for reading; as a copy in memory where it is one of an earlier version, or
        where its folder cannot be written."""
        path = folder / DATABASE
        if not path.is_file():
            raise _no_run(folder)
        connection = connect(path) if os.access(folder, os.W_OK) else copied(path)
        try:
            with sentences(path):
                application = connection.execute("PRAGMA application_id").fetchone()[0]
                version = connection.execute("PRAGMA user_version").fetchone()[0]
            if application != _APPLICATION_ID:
                raise RunError(f"{path} is not a database of kdzero-gp; choose another folder")
            if not OLDEST <= version <= SCHEMA_VERSION:
                raise RunError(
                    f"{path} has schema version {version} and this kdzero-gp reads {OLDEST} to {SCHEMA_VERSION}; "
                    "use the version that made it"
                )
            if version < SCHEMA_VERSION:
                with contextlib.closing(connection), sentences(path):
                    connection = migrated(connection, version)
        except BaseException:
            connection.close()
            raise
        return cls(connection, path, version=version)

    def close(self) -> None:
        """Close the connection and give up the writer's lock."""
        self._connection.close()
        give_up(self._lock)

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

    def insert(self, rows: Sequence[Any], replacing: bool = False) -> None:
        """Write rows of any table, in a ``transaction`` of the caller's."""
        for row in rows:
            names = COLUMNS[type(row)]
            places = ", ".join(f":{name}" for name in names)
            verb = "INSERT OR REPLACE" if replacing else "INSERT"
            statement = f"{verb} INTO {TABLES[type(row)]} ({', '.join(names)}) VALUES ({places})"
            self._connection.execute(statement, stored_values(row))

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything that is written in the block is committed at its end, or nothing of it."""
        with sentences(self.path), self._connection:
            yield

    def set_fact(self, name: str, value: Any) -> None:
        """Keep a JSON value under a name."""
        with self.transaction():
            self._set_facts({name: value})

    def _set_facts(self, facts: Mapping[str, Any]) -> None:
        rows = [(name, json.dumps(value, sort_keys=True)) for name, value in facts.items()]
        self._connection.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", rows)

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
        with self.transaction():
            self.insert(new)

    def add_evaluation(
        self,
        evaluation: StoredEvaluation,
        seconds: float,
        step_milliseconds: float,
        stages: Mapping[str, float] | None = None,
    ) -> None:
        """Append an evaluation and what it cost, also by stage; its answers have served."""
        with self.transaction():
            self.insert([evaluation], replacing=True)
            self._connection.execute("DELETE FROM answers WHERE digest = ?", (evaluation.digest,))
            self.insert([StoredCost("evaluation", evaluation.digest, seconds, step_milliseconds, dict(stages or {}))])

    def forget_evaluations(self, count: int, facts: Mapping[str, Any]) -> None:
        """Remove the latest evaluations, and what they cost, and keep facts."""
        with self.transaction():
            latest = "SELECT digest FROM evaluations ORDER BY rowid DESC LIMIT ?"
            self._connection.execute(f"DELETE FROM costs WHERE kind = 'evaluation' AND name IN ({latest})", (count,))
            self._connection.execute(f"DELETE FROM evaluations WHERE digest IN ({latest})", (count,))
            self._set_facts(facts)

    def add_answer(self, answer: StoredAnswer) -> None:
        """Keep what a worker said as soon as it is there."""
        with self.transaction():
            self.insert([answer], replacing=True)

    def add_reply(self, reply: StoredReply) -> None:
        """Keep what a language model said; it stays for good."""
        with self.transaction():
            self.insert([reply])

    def add_measurement(self, measurement: StoredMeasurement, seconds: float, step_milliseconds: float) -> None:
        """Append a measurement and what it cost."""
        with self.transaction():
            self.insert([measurement], replacing=True)
            self.insert([StoredCost(measurement.kind, measurement.name, seconds, step_milliseconds)])

    # --- reading --------------------------------------------------------------------------------------------

    def fact(self, name: str, default: Any = None) -> Any:
        """The value kept under a name."""
        rows = self._select("SELECT value FROM facts WHERE name = ?", name)
        with undamaged(self.path):
            return json.loads(rows[0]["value"]) if rows else default

    def birth(self, number: int) -> StoredBirth | None:
        """One birth by its number."""
        return self._row(StoredBirth, "WHERE number = ?", number)

    def births(self) -> list[StoredBirth]:
        """All births in order."""
        return self._rows(StoredBirth, "ORDER BY number")

    def evaluation(self, digest: str) -> StoredEvaluation | None:
        """One evaluation by the digest of its distiller."""
        return self._row(StoredEvaluation, "WHERE digest = ?", digest)

    def answer(self, digest: str, request: str) -> StoredAnswer | None:
        """What a worker said of a distiller that is not judged yet."""
        where = "WHERE digest = ? AND request = ?"
        return self._row(StoredAnswer, where, digest, request)

    def reply(self, request: str, ordinal: int) -> StoredReply | None:
        """What a language model said to a request."""
        return self._row(StoredReply, "WHERE request = ? AND ordinal = ?", request, ordinal)

    def evaluations(self) -> list[StoredEvaluation]:
        """All evaluations, the fittest first, those without a fitness last."""
        return self._rows(StoredEvaluation, "ORDER BY fitness IS NULL, fitness, digest")

    def measurement(self, kind: str, name: str, seed: int, factor: float) -> StoredMeasurement | None:
        """One measurement by its key."""
        where = "WHERE kind = ? AND name = ? AND seed = ? AND factor = ?"
        return self._row(StoredMeasurement, where, kind, name, seed, factor)

    def measurements(self, kind: str) -> list[StoredMeasurement]:
        """All measurements of one kind, by name, seed and factor."""
        return self._rows(StoredMeasurement, "WHERE kind = ? ORDER BY name, seed, factor", kind)

    def costs(self, kind: str) -> list[tuple[float, float]]:
        """Seconds and milliseconds a step of all trainings of one kind."""
        rows = self._rows(StoredCost, "WHERE kind = ? ORDER BY rowid", kind)
        return [(cost.seconds, cost.step_milliseconds) for cost in rows]

    def seconds(self, kind: str) -> dict[str, float]:
        """The seconds of the last training of each name of one kind."""
        rows = self._rows(StoredCost, "WHERE kind = ? ORDER BY rowid", kind)
        return {cost.name: cost.seconds for cost in rows}

    def step_times(self) -> dict[str, float]:
        """The milliseconds of a training step of each evaluation, 0 for those without a training."""
        return {cost.name: cost.step_milliseconds for cost in self._rows(StoredCost, "WHERE kind = 'evaluation'")}

    def stages(self) -> dict[str, tuple[int, float]]:
        """How many evaluations went through each screen and training, and their seconds together."""
        rows = self._select(
            "SELECT key, count(*) AS count, sum(value) AS seconds FROM costs, json_each(stages) "
            "WHERE kind = 'evaluation' GROUP BY key"
        )
        return {row["key"]: (row["count"], row["seconds"]) for row in rows}

    def _row(self, kind: type[Row], rest: str, *values: Any) -> Row | None:
        return next(iter(self._rows(kind, rest, *values)), None)

    def _rows(self, kind: type[Row], rest: str, *values: Any) -> list[Row]:
        selected = self._select(f"SELECT {', '.join(COLUMNS[kind])} FROM {TABLES[kind]} {rest}", *values)
        with undamaged(self.path):
            return [row_of(kind, dict(row)) for row in selected]

    def _select(self, statement: str, *values: Any) -> list[sqlite3.Row]:
        with sentences(self.path):
            return self._connection.execute(statement, values).fetchall()


def _no_run(folder: Path) -> RunError:
    """What to do where a folder holds no run."""
    if folder.is_file():
        return RunError(
            f"{folder} holds no run (it is a file); give the run's folder, which evolve names when it begins"
        )
    what = f"{DATABASE} is missing" if folder.is_dir() else "there is no such folder"
    return RunError(
        f"{folder} holds no run ({what}); give the folder that evolve named when it began, or start one with: "
        f"kdzero-gp evolve --out {folder}"
    )
