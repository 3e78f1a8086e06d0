"""How many threads compute, and how they wait: said before torch is imported, and within the machine's limits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kdzero_gp import threads

SETTINGS = {*threads.CHOICES, "OMP_NUM_THREADS", "OMP_DISPLAY_ENV"}
REPORT = """
import json, os
from kdzero_gp.threads import IN_TIME, default_threads
notes = []
size = default_threads(32, notes.append)
print(json.dumps([os.environ.get("OMP_WAIT_POLICY"), IN_TIME, size, notes]))
"""


def fresh(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What a new process says that finds nothing set but ``environment``."""
    clean = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    return subprocess.run(
        [sys.executable, "-c", program], env=clean | environment, capture_output=True, text=True, check=True
    )


def test_openmp_hears_how_to_wait_before_torch_loads_it():
    process = fresh("import kdzero_gp, torch; torch.set_num_threads(2); torch.ones(1 << 20).sum()" + REPORT,
                    OMP_DISPLAY_ENV="verbose")  # fmt: skip
    policy, in_time, count, notes = json.loads(process.stdout)
    assert (policy, in_time, count, notes) == ("passive", True, threads.cores(), [])
    if sys.platform == "linux":  # what libgomp says when it is loaded
        assert "OMP_WAIT_POLICY = 'PASSIVE'" in process.stderr and "GOMP_SPINCOUNT = '1000'" in process.stderr


@pytest.mark.parametrize(
    "name, value", [("OMP_WAIT_POLICY", "active"), ("GOMP_SPINCOUNT", "7"), ("KMP_BLOCKTIME", "1")]
)
def test_who_says_how_threads_wait_is_heard(name: str, value: str):
    """Also where torch comes first, since torch has heard it too."""
    for first in ("", "import torch"):
        policy, in_time, count, notes = json.loads(fresh(first + REPORT, **{name: value}).stdout)
        assert policy == ("active" if name == "OMP_WAIT_POLICY" else None)
        assert (in_time, count, notes) == (True, threads.cores(), [])


def test_where_torch_comes_first_one_thread_computes_and_a_note_says_why():
    policy, in_time, count, notes = json.loads(fresh("import torch" + REPORT).stdout)
    assert (policy, in_time, count) == ("passive", False, 1)  # processes that start from there are in time
    assert notes == ([threads.LATE] if threads.cores() > 1 else [])


def test_small_images_have_one_thread_and_no_note(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(threads, "cores", lambda: 8)
    for in_time in (True, False):
        monkeypatch.setattr(threads, "IN_TIME", in_time)
        assert threads.default_threads(threads.SMALLEST_SIZE - 1, pytest.fail) == 1
    monkeypatch.setattr(threads, "IN_TIME", True)
    assert threads.default_threads(threads.SMALLEST_SIZE, pytest.fail) == 8


@pytest.mark.parametrize(
    "membership, files, expected",
    [
        ("0::/\n", {"cpu.max": "max 100000"}, 8),
        ("0::/\n", {"cpu.max": "200000 100000"}, 2),
        ("0::/\n", {"cpu.max": "350000 100000"}, 3),
        ("0::/\n", {"cpu.max": "50000 100000"}, 1),
        ("0::/\n", {"cpu.max": "1600000 100000"}, 8),
        ("0::/job/step\n", {"job/step/cpu.max": "max 100000", "job/cpu.max": "300000 100000"}, 3),
        ("0::/on/the/host\n", {"cpu.max": "400000 100000"}, 4),
        ("0::/job\n", {"other/cpu.max": "100000 100000"}, 8),
        ("5:memory:/a\n4:cpu,cpuacct:/a\n0::/\n",
         {"cpu,cpuacct/a/cpu.cfs_quota_us": "250000", "cpu,cpuacct/a/cpu.cfs_period_us": "50000"}, 5),
        ("4:cpu:/a\n", {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2),
        ("4:cpuacct,cpu:/\n", {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ("4:cpuset:/\n", {"cpuset/cpu.cfs_quota_us": "100000", "cpuset/cpu.cfs_period_us": "100000"}, 8),
        ("", {}, 8),
    ],
)  # fmt: skip
def test_cores_are_those_that_a_cgroup_leaves(
    membership: str, files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    groups = tmp_path / "cgroup"
    for name, text in files.items():
        (groups / name).parent.mkdir(parents=True, exist_ok=True)
        (groups / name).write_text(text + "\n")
    (tmp_path / "membership").write_text(membership)
    assert threads.cores(tmp_path / "membership", groups) == expected


def test_cores_are_those_of_the_affinity_where_there_are_no_cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 5, 6}, raising=False)
    assert threads.cores(tmp_path / "none", tmp_path) == 3
