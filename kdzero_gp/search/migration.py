"""Runs of earlier versions: read by changing a copy in memory, never on the disk."""

from __future__ import annotations

import json
import math
import sqlite3
from typing import Any

from kdzero_gp.common import ALONE
from kdzero_gp.search.rows import COLUMNS, TABLES, Status, StoredReply

# The oldest schema that can be read.
OLDEST = 2
# What cross-entropy alone was called in schema 2.
_ALONE_BEFORE = "cross-entropy alone"


def migrated(connection: sqlite3.Connection, version: int) -> sqlite3.Connection:
    """A copy in memory of a database of an earlier ``version``. Schema 3 kept no answers apart from evaluations, schema
    4 none of language models."""
    copy = sqlite3.connect(":memory:")
    try:
        connection.backup(copy)
        with copy:
            copy.execute(f"CREATE TABLE {TABLES[StoredReply]} ({', '.join(COLUMNS[StoredReply])})")
            if version < 3:
                _add_status(copy)
                for table in ("measurements", "costs"):
                    copy.execute(f"UPDATE {table} SET name = ? WHERE name = ?", (ALONE, _ALONE_BEFORE))
                _change_settings(copy)
            if version < 5:
                copy.execute("ALTER TABLE evaluations ADD COLUMN units REAL NOT NULL DEFAULT 1")
                _name_lanes(copy)
    except BaseException:
        copy.close()
        raise
    return copy


def _add_status(copy: sqlite3.Connection) -> None:
    """Schema 2 spelt the status by which columns are empty."""
    copy.execute("ALTER TABLE evaluations ADD COLUMN status TEXT NOT NULL DEFAULT ''")
    copy.execute(
        "UPDATE evaluations SET status = CASE WHEN equivalent_to != '' THEN ? WHEN screen = 'surrogate' THEN ? "
        "WHEN screen != '' THEN ? WHEN fitness IS NULL THEN ? ELSE ? END",
        [status.value for status in (
            Status.EQUIVALENT, Status.PREDICTED, Status.REJECTED, Status.FAILED, Status.TRAINED)],
    )  # fmt: skip


def _change_settings(copy: sqlite3.Connection) -> None:
    """Schema 2's recipes were all SGD with Nesterov momentum, and their schedule was called decay."""
    row = copy.execute("SELECT value FROM facts WHERE name = 'settings'").fetchone()
    if row is None:
        return
    settings = json.loads(row[0])
    settings["knowledge"] = []  # it was always the default
    plan = settings["plan"]
    for name in ("warm", "proxy", "race", "teacher_recipe"):
        if plan[name] is not None:
            plan[name] = _recipe(plan[name])
    copy.execute("UPDATE facts SET value = ? WHERE name = 'settings'", (json.dumps(settings, sort_keys=True),))


def _name_lanes(copy: sqlite3.Connection) -> None:
    """Before schema 5 births were judged in the order of birth, by default a quarter of a population at once."""
    row = copy.execute("SELECT value FROM facts WHERE name = 'settings'").fetchone()
    if row is None:
        return
    settings = json.loads(row[0])
    search = settings["search"]
    search["lanes"] = search.pop("in_flight", None) or max(1, math.ceil(search["population"] / 4))
    copy.execute("UPDATE facts SET value = ? WHERE name = 'settings'", (json.dumps(settings, sort_keys=True),))


def _recipe(before: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in before.items() if name != "decay"} | {
        "schedule": before["decay"], "nesterov": True
    }  # fmt: skip
