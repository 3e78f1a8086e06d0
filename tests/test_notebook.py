"""The notebook that looks at a run executes without an error, and what is saved in it is what it showed."""

import json
import os
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[1] / "experiments" / "notebooks" / "inspect.ipynb"
# Cells that show something, by the beginning of their source, and as what.
SHOWN = {
    "run.race": "text/html", "run.best": "text/html", "run.top": "text/html", "run.compare": "text/html",
    "kdzero_gp.zoo": "image/svg+xml", "run.genealogy": "text/html", "run.generations": "text/html",
    "winner = run.replay": "text/html", "operations = run.operations": "text/html",
}  # fmt: skip


def code_cells(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def kinds_of_outputs(cell):
    return [(output["output_type"], sorted(output.get("data", {}))) for output in cell["outputs"]]


@pytest.fixture(scope="module")
def saved():
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))


def test_saved_outputs_are_those_of_one_run_from_top_to_bottom(saved):
    cells = code_cells(saved)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not [kind for cell in cells for kind, _ in kinds_of_outputs(cell) if kind == "error"]


@pytest.mark.parametrize("beginning", SHOWN)
def test_what_is_to_be_seen_is_saved(saved, beginning):
    (cell,) = [cell for cell in code_cells(saved) if "".join(cell["source"]).startswith(beginning)]
    assert [data for _, data in kinds_of_outputs(cell) if SHOWN[beginning] in data]


@pytest.mark.timeout(900)  # half a minute of work, more on a busy machine
def test_the_notebook_executes_and_shows_the_same_kinds_of_output(saved, tmp_path, monkeypatch):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    pytest.importorskip("pandas")
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")
    for variable in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setitem(os.environ, variable, str(tmp_path / variable.lower()))
    notebook = nbformat.reads(NOTEBOOK.read_text(encoding="utf-8"), as_version=4)
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where).execute()
    for cell, before in zip(code_cells(notebook), code_cells(saved), strict=True):
        assert kinds_of_outputs(cell) == kinds_of_outputs(before), cell["source"]
