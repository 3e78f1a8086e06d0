"""Studies are programs that few people run: each imports what there is."""

import ast
import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parent.parent
STUDIES = sorted((ROOT / "experiments").rglob("*.py"))
OURS = ("kdzero_gp", "primitives")


def imported(path):
    """The modules of ours that a file imports, each with the names that it takes from it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in OURS:
            yield node.module, [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names if alias.name.split(".")[0] in OURS)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: str(path.relative_to(ROOT / "experiments")))
def test_a_study_imports_what_there_is(path):
    for module, names in imported(path):
        loaded = importlib.import_module(module)
        for name in names:
            if not hasattr(loaded, name):
                importlib.import_module(f"{module}.{name}")


@pytest.fixture
def study(monkeypatch):
    """A program of the study of proposers, by its name."""
    folder = ROOT / "experiments" / "proposers"
    monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if folder.samefile(Path(getattr(sys.modules[name], "__file__", None) or "/").parent):
            del sys.modules[name]


def test_rows_of_another_setting_are_not_taken(study, monkeypatch, tmp_path, capsys):
    run, searched, small = study("run"), [], study("server").MODEL
    measured = {"births": 40, "best": 0.5, "trainings": 1, "seconds": 1.0, "curve": [[10, 1, 1.0, 0.5]], "guests": {}}
    monkeypatch.setattr(run.IN_PROCESS, "searched", lambda folder, *_: searched.append(folder))
    monkeypatch.setattr(run, "measured", lambda folder: measured)
    words = ["run.py", "--work", str(tmp_path), "--output", str(tmp_path / "rows"), "--seeds", "0", "--births", "40"]
    words += ["--url", "http://127.0.0.1:1/v1"]

    def asked(*more):
        searched.clear()
        monkeypatch.setattr(sys, "argv", [*words, *more])
        run.main()
        table = capsys.readouterr().out.partition("{")[2]
        return len(searched), len(set(searched)), '"model − evolution"' in table

    arms = "--arms", "evolution", "model", "fresh trees"
    assert asked(*arms) == (3, 3, True)
    folders = set(searched)
    assert asked(*arms) == (0, 0, True)
    assert asked("--arms", "model", "--model", "other/one") == (1, 1, True), "the arms without a model are the same"
    assert not folders & set(searched)
    assert asked("--arms", "model", "--proxy-epochs", "4") == (1, 1, False)
    measured["births"] = 60
    assert asked("--arms", "model", "--births", "60") == (1, 1, False)
    rows = [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()]
    assert [row["model"] for row in rows] == [None, small, None, "other/one", small, small]
    of_one = run.of_setting(rows, SimpleNamespace(births=40, proxy_epochs=None, model="other/one"))
    assert [row["arm"] for row in of_one] == ["evolution", "fresh trees", "model"]


def test_pairs_of_other_runs_are_asked_about(study, monkeypatch, tmp_path, serve, capsys):
    judge_model = study("judge_model")
    server, _ = serve((200, {}, json.dumps({"choices": [{"message": {"content": "A"}}]})))
    runs = {
        name: [SimpleNamespace(fitness=scale * (1 + n), expression="times(no(l2(logits)), 1)") for n in range(60)]
        for name, scale in (("one", 1.0), ("other", 2.0))
    }
    monkeypatch.setattr(judge_model, "trained_of", lambda folder: runs[folder.name])
    monkeypatch.setattr(judge_model, "by_surrogate", lambda known, pair: [1, 2])
    words = ["judge_model.py", "--url", server.url, "--model", "tiny", "--output", str(tmp_path / "rows"), "--pairs"]
    counts = []
    for more in (["2", "one"], ["2", "one"], ["3", "one"], ["2", "other"], ["2", "one"]):
        monkeypatch.setattr(sys, "argv", [*words, *more])
        judge_model.main()
        counts.append(len(server.asked))
    assert counts == [4, 4, 6, 10, 10] and "of 2 pairs" in capsys.readouterr().out.splitlines()[-4]
