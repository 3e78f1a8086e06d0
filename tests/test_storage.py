"""A run's database keeps what it was given, never changes its past, and says in one sentence what is wrong with it."""

import contextlib
import dataclasses
import math
import os
import sqlite3
import subprocess
import sys

import pytest

from kdzero_gp.errors import RunError
from kdzero_gp.search import connection, storage
from kdzero_gp.search.connection import LOCK
from kdzero_gp.search.migration import OLDEST
from kdzero_gp.search.storage import DATABASE, Database, Status, StoredBirth, StoredEvaluation, StoredMeasurement

BIRTH = StoredBirth(0, 0, "random", (), "times(no(l2(feat)), 1)", "ab12", None)
CHILD = StoredBirth(1, 0, "crossover", (0, 0), "times(no(l1(feat)), 0.1)", "cd34", None)
TWIN = StoredBirth(2, 1, "node", (1,), "times(no(l2(feat)), 1)", "ab12", 0)
GOOD = StoredEvaluation(
    "ab12", "times(no(l2(feat)), 1)", Status.TRAINED, 0.1 + 0.2, "", {"accuracy": 1 / 3, "b": 2e-9}, (1 / 7, 8.0)
)
FAILED = StoredEvaluation(
    "cd34", "times(no(l1(feat)), 0.1)", Status.FAILED, None, "the loss became nan at step 3", {}, ()
)
MEASURED = StoredMeasurement("zoo", "kd", 3_000_001, 0.3, "", {"accuracy": 0.9}, (math.pi,))
SENTENCE_LENGTH = 300


@pytest.fixture
def database(tmp_path):
    with Database.create(tmp_path) as made:
        yield made


@pytest.fixture
def fails():
    """A function that expects a ``RunError`` of one sentence that holds ``words``, and returns it."""

    def check(words, function, *arguments):
        with pytest.raises(RunError) as caught:
            function(*arguments)
        text = str(caught.value)
        assert words in text and "\n" not in text and len(text) < SENTENCE_LENGTH, text
        return text

    return check


def content(folder):
    """What lies in a folder, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


# --- what goes in comes out ---------------------------------------------------------------------------------


def test_everything_comes_back_as_it_was_also_after_reopening(tmp_path):
    with Database.create(tmp_path, {"settings": {"seed": 1, "taps": ["a", None]}}) as database:
        database.set_fact("finished", True)
        database.add_births([BIRTH, CHILD])
        database.add_births([TWIN])
        database.add_evaluation(FAILED, 0.5, 0.0)
        database.add_evaluation(GOOD, 1.25, 3.5)
        database.add_measurement(MEASURED, 2.0, 4.0)
        before = everything(database)
    with Database.open(tmp_path) as database:
        assert everything(database) == before
    with Database.read(tmp_path) as database:
        assert everything(database) == before
        assert database.fact("settings") == {"seed": 1, "taps": ["a", None]}
        assert database.fact("finished") is True
        assert database.fact("nothing", "default") == "default"
        assert database.births() == [BIRTH, CHILD, TWIN]
        assert database.birth(2) == TWIN and database.birth(3) is None
        assert database.evaluations() == [GOOD, FAILED]
        assert database.evaluation("cd34") == FAILED and database.evaluation("ef") is None
        assert database.measurements("zoo") == [MEASURED] and database.measurements("race") == []
        assert database.measurement("zoo", "kd", 3_000_001, 0.3) == MEASURED
        assert database.measurement("zoo", "kd", 3_000_001, 1.0) is None
        assert database.costs("evaluation") == [(0.5, 0.0), (1.25, 3.5)] and database.costs("zoo") == [(2.0, 4.0)]


def everything(database):
    tables = ("facts", "births", "evaluations", "measurements", "costs")
    return {
        table: [tuple(row) for row in database._select(f"SELECT * FROM {table} ORDER BY rowid")] for table in tables
    }


def test_evaluations_are_ranked_the_fittest_first_the_rejected_last(database):
    for digest, value in (("a", 0.5), ("b", None), ("c", -1.0), ("d", 0.5)):
        database.add_evaluation(dataclasses.replace(GOOD, digest=digest, fitness=value), 0, 0)
    assert [found.digest for found in database.evaluations()] == ["c", "a", "d", "b"]


def test_a_run_never_changes_its_past(database, fails):
    database.add_births([BIRTH, CHILD])
    before = everything(database)
    database.add_births([BIRTH, CHILD])  # what resuming does
    assert everything(database) == before
    for changed in (
        dataclasses.replace(CHILD, expression="times(no(l2(emb)), 1)", digest="ee"),
        dataclasses.replace(CHILD, parents=(0,)),
        dataclasses.replace(CHILD, operator="node"),
        dataclasses.replace(CHILD, duplicate_of=0),
    ):
        # a new birth beside the changed one is not kept either
        fails("birth 1 of this run", database.add_births, [changed, TWIN])
        assert everything(database) == before


def test_two_births_with_one_number_are_refused_together(database, fails):
    fails("UNIQUE", database.add_births, [BIRTH, dataclasses.replace(TWIN, number=0)])
    assert database.births() == []


# --- what is no database of a run ---------------------------------------------------------------------------


@pytest.mark.parametrize("way", [Database.read, Database.open])
def test_a_folder_without_a_run_is_named_and_nothing_is_made_in_it(tmp_path, fails, way):
    (tmp_path / "mine.txt").write_text("mine")
    fails("holds no run", way, tmp_path)
    fails("holds no run", way, tmp_path / "missing")
    fails("holds no run", way, tmp_path / "mine.txt")
    assert content(tmp_path) == {"mine.txt": b"mine"}


@pytest.mark.parametrize("way", [Database.read, Database.open])
def test_a_database_of_another_program_is_left_alone(tmp_path, fails, way):
    with sqlite3.connect(tmp_path / DATABASE) as foreign:
        foreign.execute("CREATE TABLE births (name TEXT)")
    foreign.close()
    before = content(tmp_path)
    fails("is not a database of kdzero-gp", way, tmp_path)
    fails("already holds a run", Database.create, tmp_path)
    assert content(tmp_path)[DATABASE] == before[DATABASE]


@pytest.mark.parametrize("way", [Database.read, Database.open])
def test_a_database_of_another_schema_version_names_both_versions(tmp_path, fails, way):
    Database.create(tmp_path).close()
    with sqlite3.connect(tmp_path / DATABASE) as connection:
        connection.execute(f"PRAGMA user_version={storage.SCHEMA_VERSION + 41}")
    connection.close()
    text = fails(f"schema version {storage.SCHEMA_VERSION + 41}", way, tmp_path)
    assert f"reads {OLDEST} to {storage.SCHEMA_VERSION}" in text


@pytest.mark.parametrize(
    "damage", [b"no database at all, but a text of some length " * 99, b"SQLite format 3\0 and then"]
)
@pytest.mark.parametrize("way", [Database.read, Database.open])
def test_a_file_that_is_no_database_is_named(tmp_path, fails, way, damage):
    (tmp_path / DATABASE).write_bytes(damage)
    fails(DATABASE, way, tmp_path)
    assert (tmp_path / DATABASE).read_bytes() == damage


def test_a_damaged_page_is_named_when_it_is_read(tmp_path, fails):
    with Database.create(tmp_path) as database:
        database.add_births([dataclasses.replace(BIRTH, number=number) for number in range(2000)])
    path = tmp_path / DATABASE
    whole = bytearray(path.read_bytes())
    whole[4096:] = os.urandom(len(whole) - 4096)
    path.write_bytes(bytes(whole))
    with Database.read(tmp_path) as database:
        fails("restore a copy of it", database.births)


def test_a_folder_that_must_not_be_written_is_named(tmp_path, fails, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    # root may write everywhere, so the system's refusal is played
    monkeypatch.setattr(os, "open", refuse)
    fails("permissions", Database.create, tmp_path)


def test_a_run_can_be_read_where_nothing_can_be_written(tmp_path, fails, monkeypatch):
    """As on a read-only file system, which refuses root, too."""
    with Database.create(tmp_path) as writer:
        writer.add_births([BIRTH])
        assert (tmp_path / f"{DATABASE}-wal").stat().st_size, "the birth has to stand in the file that is written ahead"
        before = content(tmp_path)
        monkeypatch.setattr(os, "access", lambda path, mode: False)
        with Database.read(tmp_path) as reader:
            assert reader.births() == [BIRTH]
    assert content(tmp_path).keys() <= before.keys()
    (tmp_path / DATABASE).write_bytes(b"no database" * 100)
    fails("is damaged", Database.read, tmp_path)


def test_a_program_that_writes_is_named_after_a_while(database, tmp_path, fails, monkeypatch):
    monkeypatch.setattr(connection, "BUSY_SECONDS", 0.05)
    with contextlib.closing(sqlite3.connect(tmp_path / DATABASE)) as other:
        other.execute("BEGIN IMMEDIATE")
        database._connection.execute("PRAGMA busy_timeout = 50")
        fails("is locked; close the program that writes to it, then resume", database.set_fact, "x", 1)
        with Database.read(tmp_path) as reader:  # reading goes on
            assert reader.births() == []
    database.set_fact("x", 1)


# --- one writer, any number of readers ----------------------------------------------------------------------


def test_a_second_writer_is_refused_until_the_first_is_done(tmp_path, fails):
    with Database.create(tmp_path) as first:
        fails("another process is working on", Database.open, tmp_path)
        fails("another process is working on", Database.create, tmp_path)
        with Database.read(tmp_path) as reader:
            first.add_births([BIRTH])
            assert reader.births() == [BIRTH]
    with Database.open(tmp_path) as second:
        assert second.births() == [BIRTH]


_WRITER = """
import sys, time
from pathlib import Path
from kdzero_gp.search.storage import Database
with Database.open(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_the_lock_of_a_killed_writer_is_free(tmp_path, fails):
    Database.create(tmp_path).close()
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout.readline() == "locked\n"
        fails("another process is working on", Database.open, tmp_path)
        Database.read(tmp_path).close()
    finally:
        writer.kill()
        writer.communicate()
    Database.open(tmp_path).close()


def test_a_reader_sees_committed_rows_only(database, tmp_path):
    with Database.read(tmp_path) as reader:
        database._connection.execute("BEGIN")
        database._connection.execute("INSERT INTO facts VALUES ('half', '1')")
        assert reader.fact("half") is None
        database._connection.commit()
        assert reader.fact("half") == 1


def test_a_writer_does_not_wait_for_a_reader(database, tmp_path):
    database.add_births([BIRTH])
    with Database.read(tmp_path) as reader:
        reader._connection.execute("BEGIN")
        assert reader.births() == [BIRTH]
        database._connection.execute("PRAGMA busy_timeout = 0")  # waiting would be an error
        database.add_births([CHILD])
        assert reader.births() == [BIRTH], "one reading sees one state"
        reader._connection.rollback()
        assert reader.births() == [BIRTH, CHILD]


def test_what_was_not_committed_is_gone_after_a_kill(tmp_path):
    script = """
import os, sys
from pathlib import Path
from kdzero_gp.search.storage import Database, StoredBirth
database = Database.create(Path(sys.argv[1]), {"settings": 1})
database.add_births([StoredBirth(0, 0, "random", (), "a", "b", None)])
database._connection.execute("BEGIN")
database._connection.execute("INSERT INTO facts VALUES ('half', '1')")
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    with Database.open(tmp_path) as database:
        assert (database.fact("settings"), database.fact("half"), len(database.births())) == (1, None, 1)


# --- creation and a full disk -------------------------------------------------------------------------------


def test_a_database_is_made_whole_or_not_at_all(tmp_path, fails, monkeypatch):
    monkeypatch.setattr(storage, "_SCHEMA", storage._SCHEMA + "CREATE TABLE facts (twice TEXT);")
    fails("cannot use", Database.create, tmp_path)
    assert set(content(tmp_path)) <= {LOCK}
    monkeypatch.undo()
    Database.create(tmp_path).close()


def test_what_a_killed_creation_left_does_not_stand_in_the_way(tmp_path):
    (tmp_path / f".{DATABASE}.tmp").write_bytes(b"half a database")
    (tmp_path / LOCK).touch()
    Database.create(tmp_path, {"settings": 1}).close()
    with Database.read(tmp_path) as database:
        assert database.fact("settings") == 1
    assert set(content(tmp_path)) == {DATABASE, LOCK}


def test_discarding_removes_the_database_and_nothing_else(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    database = Database.create(tmp_path)
    database.set_fact("a", 1)
    database.discard()
    assert content(tmp_path) == {"mine.txt": b"mine"}


# A file of this process may grow to the given size and no further, as on a full disk.
_FULL = """
import resource, signal, sys
from pathlib import Path
from kdzero_gp.errors import RunError
from kdzero_gp.search.storage import Database
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder, size = Path(sys.argv[1]), int(sys.argv[2])
limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
try:
    if size < 4096:
        limit()
    with Database.create(folder) as database:
        limit()
        for number in range(10_000):
            database.set_fact(f"fact {number}", "x" * 1000)
            print(number)
except RunError as error:
    print(error)
"""


@pytest.mark.parametrize("size", [100, 200_000])
def test_a_full_disk_gives_one_sentence_and_loses_nothing_that_was_kept(tmp_path, size):
    pytest.importorskip("resource")
    found = subprocess.run([sys.executable, "-c", _FULL, str(tmp_path), str(size)], capture_output=True, text=True)
    *kept, sentence = found.stdout.splitlines()
    assert found.returncode == 0 and not found.stderr, found.stderr
    assert "disk" in sentence and "space" in sentence and len(sentence) < SENTENCE_LENGTH, sentence
    if kept:
        with Database.open(tmp_path) as database:
            assert all(database.fact(f"fact {number}") == "x" * 1000 for number in kept)
            database.set_fact("and on", 1)
    else:
        assert DATABASE not in content(tmp_path)
        Database.create(tmp_path).close()
