"""Studies are programs that few people run: each imports what there is."""

import ast
import importlib
from pathlib import Path

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
