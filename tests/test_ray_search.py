"""A whole search under a local Ray cluster that it starts itself has the rows of one here, also where one goes on with
what the other began."""

import contextlib
import shutil
import sqlite3

import pytest

pytest.importorskip("ray")

from inline_engine import inline
from kdzero_gp import tasks
from quick import quick_digits
from test_same_rows import SEARCH, rows, said, words_of

pytestmark = pytest.mark.timeout(600)
RAY = "--engine", "ray", "--workers", 2


def cut(whole, folder):
    """A run that was interrupted after three verdicts and two measurements."""
    shutil.copytree(whole, folder)
    (folder / "distiller.py").unlink()
    with contextlib.closing(sqlite3.connect(folder / "run.sqlite")) as database, database:
        database.execute("DELETE FROM births WHERE number >= 5")
        database.execute("DELETE FROM evaluations WHERE rowid > 3")
        database.execute("DELETE FROM measurements WHERE rowid > 2")
        database.execute("DELETE FROM facts WHERE name NOT IN ('settings', 'versions')")
    return folder


def test_a_search_under_ray_has_the_rows_of_one_here_and_each_goes_on_with_the_other(tmp_path, monkeypatch):
    monkeypatch.setitem(tasks.TASKS, "digits", quick_digits())
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # another cluster is nobody's business
    with inline():
        said("evolve", *words_of(SEARCH), "--workers", 1, "--out", tmp_path / "here")
    said("evolve", *words_of(SEARCH), *RAY, "--out", tmp_path / "ray")
    assert rows(tmp_path / "ray") == (expected := rows(tmp_path / "here"))
    said("resume", cut(tmp_path / "here", tmp_path / "begun here"), *RAY)
    assert rows(tmp_path / "begun here") == expected
    with inline():
        said("resume", cut(tmp_path / "ray", tmp_path / "begun under ray"), "--engine", "local", "--workers", 1)
    assert rows(tmp_path / "begun under ray") == expected
