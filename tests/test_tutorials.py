"""Every command and every block of Python of the tutorials runs, in the order of the page, in an empty folder (see
``tutorial_session``)."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tutorial_session import BLOCK

SESSION = Path(__file__).with_name("tutorial_session.py")
ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
# Extras that a page is about.
NEEDED = {
    "own-detector": ("torchvision", "faster_coco_eval"),
    "study": ("pandas",),
    "lightning": ("lightning",),
    "timm": ("timm",),
    "trainer": ("transformers", "accelerate"),
}
# Seconds; a page takes up to one minute alone on a core, and several times that on a machine that is busy.
PATIENCE = 900
# Pages for people who have a script already are short.
SHORT = ("plain-loop", "lightning", "trainer", "timm", "tabular", "tokens")
LONGEST = 60


def environment():
    """That of the tests, with their programs first and no more threads than tests have cores."""
    programs = str(Path(sys.executable).parent)
    return os.environ | {"PATH": os.pathsep.join([programs, os.environ["PATH"]]), "OMP_NUM_THREADS": "1"}


def test_there_is_a_page_for_each_kind_of_user():
    assert {page.name for page in PAGES} == {
        "lightning.md",
        "own-detector.md",
        "own-pair.md",
        "plain-loop.md",
        "segmentation.md",
        "study.md",
        "tabular.md",
        "timm.md",
        "tokens.md",
        "trainer.md",
        "using-the-zoo.md",
    }


@pytest.mark.parametrize("name", SHORT)
def test_a_page_for_a_script_that_is_there_is_short(name):
    assert len((ROOT / "docs" / "tutorials" / f"{name}.md").read_text(encoding="utf-8").splitlines()) <= LONGEST


@pytest.mark.timeout(PATIENCE + 60)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_page_runs_as_it_is_written(page, tmp_path):
    for module in NEEDED.get(page.stem, ()):
        pytest.importorskip(module)
    text = page.read_text(encoding="utf-8")
    assert text.count("\n```") == 2 * len(BLOCK.findall(text)), "a block in another language is not run"
    for data in page.parent.glob("*.zip"):  # what a page asks to be saved
        shutil.copy(data, tmp_path)
    done = subprocess.run(
        [sys.executable, str(SESSION), str(page)], cwd=tmp_path, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    for page_of_run in tmp_path.glob("*/report.html"):
        assert page_of_run.read_text().count('class="shown"') >= 4 * 4, "pictures of four images beside their truth"
    print(done.stdout)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
