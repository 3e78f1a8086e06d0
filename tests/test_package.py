"""The built wheel holds the two packages and nothing else, and its command works once it is installed.

The environment that it is installed into has no packages of its own but sees those of the environment that
runs the tests, so that torch is not installed a second time.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("kdzero_gp", "primitives")
# What the build reads, and what it must leave out.
SOURCES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", *PACKAGES, "tests", "experiments")
COMMAND_TIMEOUT = 60


def run(*command, cwd, **options):
    """The standard output of ``command``; if it fails, the test shows all that it printed."""
    outcome = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=COMMAND_TIMEOUT,
        **options,
    )
    printed = outcome.stdout + outcome.stderr
    assert outcome.returncode == 0, f"{command} ended with {outcome.returncode}:\n{printed}"
    return outcome.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the sources: a build writes beside them and takes what lies there."""
    copy = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        elif source.exists():
            shutil.copy(source, copy / name)
    output = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", output, cwd=copy)
    (built,) = output.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel):
    """The names of the files in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.fixture(scope="module")
def version(wheel):
    return wheel.name.split("-")[1]


@pytest.fixture(scope="module")
def programs(wheel, tmp_path_factory):
    """The folder of programs of an environment in which the wheel is installed and nothing else."""
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, symlinks=os.name != "nt")
    folder = environment / ("Scripts" if os.name == "nt" else "bin")
    install = ("--python", folder / "python", "install", "--no-deps", "--no-index", "--quiet", wheel)
    run(sys.executable, "-m", "pip", *install, cwd=environment)
    # Only now, or pip would find the kdzero-gp that the tests run with. A folder named in a .pth file comes
    # after the environment's own, and its .pth files, such as that of an editable install, are not read.
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = Path(run(folder / "python", "-c", where, cwd=environment).strip())
    seen = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (own / "seen.pth").write_text("\n".join(sorted(seen)), encoding="utf-8")
    return folder


@pytest.fixture
def run_installed(programs, tmp_path):
    """Runs a program of that environment in an empty folder, where nothing leads back to the tree."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment["PYTHONNOUSERSITE"] = "1"

    def run_program(name, *arguments):
        return run(programs / name, *arguments, cwd=tmp_path, env=environment)

    return run_program


def test_wheel_holds_every_file_of_the_packages_and_nothing_else(names, version):
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file())
    expected = {path.relative_to(ROOT) for path in files if "__pycache__" not in path.parts}
    metadata = f"kdzero_gp-{version}.dist-info/"
    held = {Path(name) for name in names if not name.startswith(metadata)}
    assert held == expected


def test_wheel_carries_the_licence(names):
    assert any(name.endswith("/LICENSE") for name in names)


def test_installed_modules_are_those_of_the_wheel(run_installed, programs):
    source = "import kdzero_gp, primitives; print(kdzero_gp.__file__); print(primitives.__file__)"
    for file in run_installed("python", "-c", source).splitlines():
        assert Path(file).is_relative_to(programs.parent)


def test_installed_command_prints_its_version(run_installed, version):
    assert version in run_installed("kdzero-gp", "--version")


def test_installed_command_lists_the_operations(run_installed):
    assert "softmax_C" in run_installed("kdzero-gp", "primitives")
