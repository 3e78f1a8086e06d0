"""Reads a tutorial as its reader does: ``python tests/tutorial_session.py PAGE``, in an empty folder.

Blocks of Python share one session, as in a notebook; a block whose first line says ``python file=NAME`` is a file that
the reader saves; commands of a shell run in their order. So that nothing waits for imports, kdzero-gp's commands and
its workers run in this process, and published methods are tried at one magnitude, but on folders: other tests show
processes and tuning.
"""

import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

BLOCK = re.compile(r"^```(bash|python)(?: file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Of searches whose winner is not judged by the page.
QUICK = {"zoo_factors": (1.0,)}


def command(line):
    """Run one line of a shell."""
    words = shlex.split(line)
    if words[0] != "kdzero-gp":
        subprocess.run(["bash", "-euc", line], check=True, stdin=subprocess.DEVNULL)
        return
    from kdzero_gp.cli import main

    code = main(words[1:], prog_name="kdzero-gp", standalone_mode=False)
    assert not code, f"{line} ends with {code}"


def read(page):
    """Do all that a page says, in its order; errors name the line of the page."""
    text, names = page.read_text(encoding="utf-8"), {"__name__": "__main__"}
    for block in BLOCK.finditer(text):
        language, file, code = block.groups()
        if file:
            Path(file).write_text(code, encoding="utf-8")
        elif language == "bash":
            for line in filter(None, code.replace("\\\n", " ").splitlines()):
                command(line)
        else:
            line = text.count("\n", 0, block.start(3))
            exec(compile("\n" * line + code, str(page), "exec"), names)


if __name__ == "__main__":
    import kdzero_gp  # noqa: F401  before torch: it says how threads wait
    from inline_engine import inline
    from kdzero_gp.engine import precision
    from kdzero_gp.tasks import TASKS, own

    sys.path.insert(0, "")
    precision.BATCH = 8  # what a network computes fastest in is measured on so many images
    for plan in ("OWN", "OWN_IMAGES"):
        setattr(own, plan, replace(getattr(own, plan), **QUICK))
    for name in ("segmentation", "detection"):
        TASKS[name] = replace(TASKS[name], plan=replace(TASKS[name].plan, **QUICK))
    with inline():
        read(Path(sys.argv[1]).resolve())
