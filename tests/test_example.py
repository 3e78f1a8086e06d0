"""The finished run in the repository can be looked at with this version."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

import kdzero_gp
from kdzero_gp.cli import main
from kdzero_gp.search.storage import SCHEMA_VERSION, Database

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "digits"
MEGABYTE = 1e6


@pytest.fixture
def example(tmp_path):
    return Path(shutil.copytree(EXAMPLE, tmp_path / "digits"))


def said(*words):
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.output


def test_it_is_small_and_of_the_present_schema(example):
    assert sum(path.stat().st_size for path in EXAMPLE.iterdir()) < MEGABYTE
    with Database.read(example) as database:
        assert database.version == SCHEMA_VERSION
    content = b"".join(path.read_bytes() for path in EXAMPLE.iterdir())
    assert b"/tmp/" not in content and b"/home/" not in content and b"/work/" not in content


def test_every_way_to_look_at_a_run_shows_it(example, tmp_path):
    before = {path.name: path.read_bytes() for path in example.iterdir()}
    shown = said("show", example)
    assert "finished, 120 births" in shown and "accuracy against size" in shown and "winner: dist" in shown
    told = json.loads(said("show", example, "--json"))
    run = kdzero_gp.Run(example)
    assert run.best.digest == told["top"][0]["digest"] and list(run.verdict.lines) == told["verdict"]
    said("report", example, "-o", tmp_path / "report.html")
    assert "Winner: dist" in (tmp_path / "report.html").read_text(encoding="utf-8")
    said("inspect", example, "-o", tmp_path / "tree.svg")
    said("export", example, "-o", tmp_path / "distiller.py")
    texts = (tmp_path / "distiller.py").read_text(encoding="utf-8"), before["distiller.py"].decode()
    assert len({next(line for line in text.splitlines() if line.startswith("expression: ")) for text in texts}) == 1
    assert {path.name: path.read_bytes() for path in example.iterdir()} == before


def test_show_says_whose_value_may_be_negative(example, monkeypatch):
    assert "may be negative" not in said("show", example), "all of its distances are at least 0"
    best = kdzero_gp.Run(example).best.expression
    monkeypatch.setattr("kdzero_gp.compiler.may_be_negative", lambda expression, knowledge: expression == best)
    assert "the value of evolved 1 may be negative; only its gradient counts" in said("show", example)
