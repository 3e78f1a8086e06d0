"""Whole runs through the command line: what they end with, that they are one and the same however they were carried
out, and that what a user can do wrong gets one sentence.

One finished run is shared by all test processes. ``KDZERO_LONG=1`` kills runs at twenty random moments instead of one.
"""

import ast
import contextlib
import fcntl
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console

import kdzero_gp
from commands import command
from kdzero_gp import Run
from kdzero_gp.api.progress import progress_for
from kdzero_gp.cli.tables import race_table, ranking_table
from kdzero_gp.compiler import terms
from kdzero_gp.engine.machine import Machine
from kdzero_gp.search.config import with_config
from kdzero_gp.search.final import best_evolved, final
from kdzero_gp.search.options import OPTIONS, settings_from
from kdzero_gp.search.settings import RunSettings
from kdzero_gp.search.storage import Database
from kdzero_gp.tasks import TASKS
from kdzero_gp.training import jobs
from kdzero_gp.training.settings import TrainingResult
from quick import quick_digits

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc"),
]

COMMAND = [str(Path(sys.executable).parent / "kdzero-gp")]
QUICK = [sys.executable, str(Path(__file__).with_name("quick.py"))]
SMALL = ("evolve", "--generations", "4", "--pop", "5", "--race-top", "2", "--race-seeds", "2",
          "--fresh-seeds", "3", "--prune", "3", "--images", "128",
         "--validation-images", "64", "--seed", "3")  # fmt: skip
KILLS = 20 if os.environ.get("KDZERO_LONG") else 1
TABLES = ("facts", "births", "evaluations", "measurements")
# What orphaned workers may take to notice; they look every second, if the machine lets them.
LEAVING = 8.0
STARTING = 60.0


def started(*arguments):
    """The command in a process group of its own, as a terminal has it; ``evolve`` with the smaller plan."""
    return subprocess.Popen(
        [*(QUICK if arguments[0] == "evolve" else COMMAND), *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def finished(*arguments):
    """Exit code, standard output and standard error of the command."""
    process = started(*arguments)
    output, errors = process.communicate(timeout=600)
    return process.returncode, output, errors


def rows(folder):
    """All that a run found, table by table; costs are times and take no part."""
    with contextlib.closing(sqlite3.connect(f"file:{folder / 'run.sqlite'}?mode=ro", uri=True)) as database:
        found = {table: database.execute(f"SELECT * FROM {table} ORDER BY rowid").fetchall() for table in TABLES}
        found["measurements"].sort()  # they are kept as they arrive
        found["facts"].sort()
        counts = [database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in (*TABLES[2:], "costs")]
    assert counts[2] == counts[0] + counts[1], "every training is paid for once"
    return found


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def children(process):
    """The process ids of a process's children."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if stat.read_text().rpartition(")")[2].split()[1] == str(process):
                found.append(int(stat.parent.name))
    return found


def alive(process):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def wait_until(condition, seconds, what):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} took longer than {seconds:g} s"
        time.sleep(0.05)


def measured(folder):
    with contextlib.suppress(sqlite3.Error):
        return len(rows(folder)["measurements"])
    return 0


@pytest.fixture(scope="session")
def reference(tmp_path_factory):
    """A finished run with one worker: its folder, what it printed, and how long it took."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, told = base / "reference" / "run", base / "reference.json"
    with (base / "reference.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not told.exists():
            begin = time.monotonic()
            code, output, errors = finished(*SMALL, "--workers", 1, "--out", folder)
            assert code == 0, output + errors
            told.write_text(json.dumps([output, errors, time.monotonic() - begin]))
    return folder, *json.loads(told.read_text())


@pytest.fixture
def unfinished(reference, tmp_path):
    """A run that has its teacher and its warm student and nothing else yet."""
    folder = shutil.copytree(reference[0], tmp_path / "run")
    (folder / "distiller.py").unlink()
    with contextlib.closing(sqlite3.connect(folder / "run.sqlite")) as database, database:
        for table in (*TABLES[1:], "costs"):
            database.execute(f"DELETE FROM {table}")
        database.execute("DELETE FROM facts WHERE name NOT IN ('settings', 'versions')")
    return folder


# --- what a run ends with -------------------------------------------------------------------------------------


def test_evolve_ends_with_a_race_an_exported_file_and_the_next_commands(reference):
    folder, output, errors, _ = reference
    assert errors == ""
    assert "race, 2 seeds that choose by validation images, mean, too few seeds for an interval" in output
    assert "confirmation, 3 fresh seeds that chose nothing, mean ± 95 % interval" in output
    for competitor in ("kd", "dist", "fitnet", "cross-entropy alone"):
        assert re.search(rf"^ *\d+  {competitor} ", output, re.MULTILINE), competitor
    assert re.search(r"^ *\d+  evolved 1 · \w+", output, re.MULTILINE) and "\nevolved 1: " in output
    assert re.search(r"about .* from here: published methods .*, births .*, race .*; \d+ MB in ", output)
    assert "race: 6 epochs each, from a new student" in output
    assert re.search(
        r"teacher digits_cnn_32: accuracy \d+\.\d\d % on validation images, \d\d\.\d\d % on test images", output
    )
    assert re.search(
        r"births: 20/20, took \d[\d.]*( min \d\d)? s, best \d\.\d{4}"
        r", [1-9]\d* trained(, [1-9]\d* equivalent)?(, [1-9]\d* predicted)?(, [1-9]\d* rejected)?(, [1-9]\d* failed)?"
        r"(, [1-9]\d* duplicate)?$",
        output, re.MULTILINE,
    )  # fmt: skip
    assert f" to {folder / 'distiller.py'}" in output
    assert output.splitlines()[-1].startswith(f"next: kdzero-gp show {folder}")
    assert {path.name for path in folder.iterdir()} == {
        "run.sqlite", "lock", "proxy_task.pt", "teacher.safetensors", "distiller.py", "config.toml"
    }  # fmt: skip


def test_output_to_a_pipe_has_plain_lines(reference):
    _, output, _, _ = reference
    assert "\x1b" not in output and "\r" not in output
    assert all(line.isprintable() for line in output.splitlines())


_USES_THE_EXPORT = """
import sys
sys.modules["kdzero_gp"] = sys.modules["primitives"] = sys.modules["deap"] = None
sys.path.insert(0, sys.argv[1])
import torch
from distiller import Distiller
shapes = {"logits": ((10,), (10,)), "emb": ((8,), (64,)), "feat": ((8, 4, 4), (64, 4, 4))}
student = {name: torch.randn(6, *shape[0], requires_grad=True) for name, shape in shapes.items()}
teacher = {name: torch.randn(6, *shape[1], requires_grad=True) for name, shape in shapes.items()}
loss = Distiller()(student, teacher, torch.arange(6))
loss.backward()
assert loss.shape == () and loss.isfinite() and any(x.grad is not None for x in student.values())
assert all(x.grad is None for x in teacher.values())
"""


def test_the_exported_file_works_where_kdzero_gp_is_not(reference):
    folder = reference[0]
    used = subprocess.run([sys.executable, "-c", _USES_THE_EXPORT, folder], capture_output=True, text=True)
    assert used.returncode == 0, used.stderr
    imported = {alias.name for node in ast.walk(ast.parse((folder / "distiller.py").read_text()))
                if isinstance(node, ast.Import) for alias in node.names}  # fmt: skip
    assert imported <= {"torch", "torch.nn.functional", "math"}


def test_show_ranks_the_run_in_a_table_and_as_json(reference):
    folder = reference[0]
    code, output, errors = command("show", folder)
    assert code == 0 and errors == "" and "\x1b" not in output
    assert f"{folder}: finished, 20 births" in output and "cross-entropy alone" in output
    code, output, _ = command("show", folder, "--top", "3", "--json")
    found = json.loads(output)
    assert code == 0 and found["finished"] is True and found["counts"]["births"] == 20
    assert [entry["rank"] for entry in found["top"]] == [1, 2, 3]
    assert len(found["top"]) == 3 and {entry["kind"] for entry in found["race"]} == {"evolved", "zoo", "baseline"}


@pytest.mark.parametrize("suffix, begins", [("svg", "<"), ("png", "\x89PNG"), ("dot", "digraph"), ("mmd", "flowchart")])
def test_inspect_draws_the_winner(reference, tmp_path, suffix, begins):
    code, output, errors = command("inspect", reference[0], "-o", tmp_path / f"tree.{suffix}")
    assert code == 0 and errors == "" and f"wrote {tmp_path / f'tree.{suffix}'}" in output
    drawn = (tmp_path / f"tree.{suffix}").read_bytes()
    assert drawn.startswith(begins.encode("latin1")) and len(drawn) > 100


def test_export_writes_the_winner_again_and_other_ranks(reference, tmp_path):
    folder = reference[0]
    assert command("export", folder, "-o", tmp_path / "first.py")[0] == 0
    assert (tmp_path / "first.py").read_text() == (folder / "distiller.py").read_text()
    assert command("export", folder, "--rank", "2", "-o", tmp_path / "second.py")[0] == 0
    assert (tmp_path / "second.py").read_text() != (tmp_path / "first.py").read_text()


def test_an_exported_file_says_what_its_numbers_mean(reference, tmp_path):
    path = tmp_path / "distiller.py"
    assert command("export", reference[0], "--rank", "1", "--with-hooks", "-o", path)[0] == 0
    tree = ast.parse(path.read_text())
    head = " ".join(ast.get_docstring(tree).split())
    assert "pair: teacher digits_cnn_32, student digits_cnn_4, task digits" in head
    assert "batch size: 64; the magnitudes hold for this one, calibrate() sets them for yours" in head
    assert "recipe: searched with 6 epochs of sgd (batch size 64, learning rate 0.1, linear" in head
    names = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    assert {"Distiller", "Reader"} <= names
    one = Run(reference[0]).best
    distiller = one.distiller()
    for number, (share, magnitude) in enumerate(zip(distiller.SHARES, distiller.magnitudes, strict=True), 1):
        assert f"term {number}: " in head
        assert f"gradient {share:.3g} × that of the cross-entropy, magnitude {magnitude:.6g}" in head
    assert distiller.SHARES == one.shares == tuple(float(term.arguments[1]) for term in terms(one.expression))


def test_a_published_method_is_exported_as_the_run_tuned_it(reference, tmp_path):
    path = tmp_path / "kd.py"
    assert command("export", reference[0], "--method", "kd", "-o", path)[0] == 0
    head = path.read_text()
    assert "times(no(kl(softmax_C(logits, 4))), 1)" in head and "kind: published method kd" in head
    assert_one_sentence(*command("export", reference[0], "--method", "crd", "-o", path)[::2], "tuned no 'crd'", "kd")
    assert_one_sentence(*command("export", "kd", "--method", "kd", "-o", path)[::2], "--method needs a run")


def test_the_file_of_settings_repeats_the_run(reference):
    settings = Run(reference[0]).settings
    options = {option.key: None for option in OPTIONS}
    again = settings_from(with_config(options, reference[0] / "config.toml"))
    assert again.search == settings.search and again.screens == settings.screens
    assert (again.plan.race_top, again.plan.images) == (2, 128)


def test_a_table_fits_80_columns(reference):
    family = Run(reference[0]).settings.family
    for table in (race_table(Run(reference[0]).race, family, 80), ranking_table(Run(reference[0]).top(5), family, 80)):
        screen = Console(width=80, file=io.StringIO(), force_terminal=False)
        screen.print(table)
        lines = screen.file.getvalue().splitlines()
        assert max(map(len, lines)) <= 80
        assert any("evolved 1 · " in line and " ± " not in line.split("evolved")[0] for line in lines)
        assert not any(line.rstrip().endswith("±") for line in lines), "a number is broken"


@pytest.mark.parametrize("width", [80, 120])
def test_a_bar_shows_count_and_time_left_at_any_width(width):
    screen = io.StringIO()
    with progress_for(Console(file=screen, force_terminal=True, width=width)) as progress:
        progress.later(3600.0)
        progress.begin("published methods", 2000)
        time.sleep(0.05)
        progress.advance(700, best=0.4415, trained=474, equivalent=171, predicted=1182, rejected=173, failed=0)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue()).replace("\r", "\n")
    line = next(line for line in reversed(shown.splitlines()) if "published methods" in line)
    assert "700/2000" in line and " s left, 1 h 00 min in all" in line and len(line.rstrip()) <= width
    assert "1,182 predicted" in shown and "failed" not in shown


def test_export_without_a_name_writes_over_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command("export", "kd")[0] == 0
    written = (tmp_path / "distiller.py").read_text()
    assert_one_sentence(*command("export", "dist")[::2], "distiller.py exists", "-o")
    assert (tmp_path / "distiller.py").read_text() == written


# --- one run, however it is carried out ---------------------------------------------------------------------------


def assert_same_run(folder, reference):
    found, expected = rows(folder), rows(reference[0])
    for table in TABLES:
        assert found[table] == expected[table], table
    assert (folder / "distiller.py").read_text() == (reference[0] / "distiller.py").read_text()


@pytest.mark.parametrize("kill", range(KILLS))
def test_a_run_that_was_killed_and_resumed_equals_the_uninterrupted_one(reference, tmp_path, kill):
    folder, seconds = tmp_path / "run", reference[3]
    moment = (kill + random.random()) / KILLS * seconds
    evolve = (*SMALL, "--workers", 1 + kill % 2, "--out", folder)
    process = started(*evolve)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=moment)
    workers = children(process.pid)
    process.kill()
    process.communicate()
    where = f"killed after {moment:.2f} of {seconds:.2f} s"
    # without a database the run had not begun, and the same command starts it
    code, output, errors = finished("resume", folder) if (folder / "run.sqlite").exists() else finished(*evolve)
    assert code == 0, where + output + errors
    assert_same_run(folder, reference)
    wait_until(lambda: not any(map(alive, workers)), STARTING, f"workers after a run {where}")


def test_resuming_a_finished_run_repeats_its_end_and_changes_nothing(reference, tmp_path):
    folder = shutil.copytree(reference[0], tmp_path / "run")
    code, output, _ = command("resume", folder)
    assert code == 0 and f"next: kdzero-gp show {folder}" in output
    assert_same_run(folder, reference)


# --- interruptions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["starting", "working"])
def test_ctrl_c_ends_with_a_hint_and_without_a_traceback_or_workers(unfinished, moment):
    workers = 2 if moment == "working" else 1
    process = started("resume", unfinished, "--workers", workers)
    wait_until(lambda: len(children(process.pid)) >= workers, STARTING, "the start of the workers")
    if moment == "working":
        wait_until(lambda: measured(unfinished), STARTING, "the first evaluation")
        os.killpg(process.pid, signal.SIGSTOP)  # else it might be finished before it is looked at
        code, output, _ = command("show", unfinished)
        assert code == 0 and "not finished" in output and f"go on with: kdzero-gp resume {unfinished}" in output
        code, _, errors = command("resume", unfinished)
        assert code == 2 and "another process is working on" in errors
    workers = children(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    os.killpg(process.pid, signal.SIGCONT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines() == [
        f"interrupted; no finished training is lost, go on with: kdzero-gp resume {unfinished}"
    ]
    wait_until(lambda: not any(map(alive, workers)), LEAVING, "the end of the workers")


def test_two_workers_find_what_one_finds_and_none_remain_when_their_parent_is_killed(unfinished, reference):
    process = started("resume", unfinished, "--workers", 2)
    wait_until(lambda: measured(unfinished), STARTING, "the first evaluation")
    workers = children(process.pid)
    assert len(workers) >= 2
    process.kill()
    process.communicate()
    wait_until(lambda: not any(map(alive, workers)), LEAVING, "the end of the workers")
    code, output, errors = finished("resume", unfinished, "--workers", 2)
    assert code == 0, output + errors
    assert_same_run(unfinished, reference)


def test_an_interrupted_bar_gives_the_cursor_back():
    screen = io.StringIO()
    with pytest.raises(KeyboardInterrupt), progress_for(Console(file=screen, force_terminal=True)) as progress:
        progress.begin("births", 10)
        progress.advance(3, best=0.5)
        raise KeyboardInterrupt
    hidden, shown = screen.getvalue().rfind("\x1b[?25l"), screen.getvalue().rfind("\x1b[?25h")
    assert 0 <= hidden < shown


@contextlib.contextmanager
def full_disk(size):
    """No file of this process and those that it starts can grow beyond ``size`` bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def assert_one_sentence(code, errors, *words):
    assert code == 2
    assert errors.startswith("Error: ") and errors.count("\n") == 1, errors
    assert "(unexpected;" not in errors and "Traceback" not in errors
    for word in words:
        assert word in errors


@pytest.mark.parametrize("size, file", [(1_000, "run.sqlite"), (100_000, "proxy_task.pt")])
def test_a_disk_that_is_full_at_the_start_gives_one_sentence(tmp_path, size, file, monkeypatch):
    monkeypatch.setitem(TASKS, "digits", quick_digits())
    with full_disk(size):
        code, _, errors = command(*SMALL, "--out", tmp_path / "run")
    assert_one_sentence(code, errors, file, "space")
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_disk_that_fills_up_gives_one_sentence_and_loses_nothing_that_was_kept(unfinished, reference, inline_workers):
    with full_disk(65_536):
        code, _, errors = command("resume", unfinished)
    assert_one_sentence(code, errors, "run.sqlite", "space")
    kept, expected = rows(unfinished)["measurements"], rows(reference[0])["measurements"]
    assert kept and all(measurement in expected for measurement in kept)  # they are kept as they arrive
    assert command("show", unfinished)[0] == 0


# --- wrong input -----------------------------------------------------------------------------------------------------


@pytest.fixture
def weights_of_another_network(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "other.pt"
    torch.save({"layer.weight": torch.zeros(3, 3)}, path)
    return path


WRONG = {
    "task": (("--task", "digit"), ("digit", "did you mean digits?")),
    "data-missing": (("--task", "cifar100", "--data", "/nowhere/cifar100.zip"), ("/nowhere/cifar100.zip", "--data")),
    "data-not-given": (("--task", "cifar100"), ("--data",)),
    "data-not-taken": (("--data", "/nowhere"), ("--data",)),
    "teacher": (("--teacher", "digits_cnn_33"), ("digits_cnn_33", "did you mean")),
    "teacher-weights-missing": (("--teacher-weights", "/nowhere/weights.pt"), ("/nowhere/weights.pt",)),
    "student": (("--student", "nobody"), ("nobody", "built in are")),
    "space": (("--space", "small"), ("--space", "open, kdzero")),
    "tap-text": (("--student-tap", "feat"), ("NAME=LAYER",)),
    "tap-layer": (("--student-tap", "feat=layer9"), ("layer9", "feat")),
    "tap-name": (("--teacher-tap", "feature=stage1"), ("feature", "logits")),
    "pop": (("--pop", "1"), ("--pop", "at least 2")),
    "generations": (("--generations", "0"), ("--generations", "at least 1")),
    "workers": (("--workers", "0"), ("--workers", "at least 1")),
    "seed": (("--seed", str(10**20)), ("--seed",)),
    "timeout": (("--timeout", "0"), ("--timeout", "more than 0")),
    "patience": (("--patience", "0"), ("--patience", "at least 1")),
    "sample-ratio": (("--sample-ratio", "0"), ("--sample-ratio",)),
    "race-seeds": (("--race-seeds", "0"), ("--race-seeds",)),
    "fresh-seeds": (("--fresh-seeds", "-1"), ("--fresh-seeds",)),
    "prune": (("--prune", "-1"), ("--prune",)),
    "images": (("--images", "3"), ("--images", "at least 64")),
    "weights": (("--weight", "cross_entropy=-1"), ("--weight takes shares of at least 0",)),
    "magnitude": (("--magnitude", "big"), ("--magnitude",)),
    "device": (("--device", "tpu"), ("--device", "cpu")),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_option_gives_one_sentence_and_leaves_nothing_behind(tmp_path, name):
    options, words = WRONG[name]
    code, _, errors = command("evolve", *options, "--out", tmp_path / "run")
    assert_one_sentence(code, errors, *words)
    assert list(tmp_path.iterdir()) == [], "the mended command could not be given again"


def test_weights_of_another_network_give_one_sentence(tmp_path, weights_of_another_network):
    options = ("--teacher-weights", weights_of_another_network, "--out", tmp_path / "run")
    code, _, errors = command("evolve", *options)
    assert_one_sentence(code, errors, str(weights_of_another_network), "does not fit")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_left_as_it_is(reference, tmp_path):
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").write_text("mine")
    run = shutil.copytree(reference[0], tmp_path / "run")
    before = content(tmp_path)
    code, _, errors = command("evolve", "--out", tmp_path / "foreign")
    assert_one_sentence(code, errors, "is not a run of kdzero-gp", "--out")
    code, _, errors = command("evolve", "--out", run)
    assert_one_sentence(code, errors, "already holds a run", f"kdzero-gp resume {run}")
    code, _, errors = command("evolve", "--out", tmp_path / "foreign" / "thesis.txt")
    assert_one_sentence(code, errors, "thesis.txt", "--out")
    code, _, errors = command("evolve", "--out", tmp_path / "foreign" / "thesis.txt" / "run")
    assert_one_sentence(code, errors, "thesis.txt", "--out")
    for name in ("resume", "show"):
        assert_one_sentence(*command(name, tmp_path / "foreign")[::2], "holds no run")
    assert content(tmp_path) == before


def test_wrong_names_and_files_give_one_sentence_and_write_nothing(reference, tmp_path):
    folder = reference[0]
    for arguments, words in (
        (("resume", tmp_path / "nothing"), ("holds no run", "kdzero-gp evolve")),
        (("show", tmp_path / "nothing"), ("holds no run",)),
        (("show", folder, "--top", 0), ("--top",)),
        (("export", "nobody", "-o", tmp_path / "a.py"), ("nobody", "the zoo has kd")),
        (("export", "zoo:nobody", "-o", tmp_path / "a.py"), ("nobody",)),
        (("export", folder, "--rank", 999, "-o", tmp_path / "a.py"), ("no rank 999",)),
        (("export", "times(no(l2(logits)), 3)", "-o", tmp_path / "a.py"), ("not a listed magnitude", "position 22")),
        (("export", "kd", "--shape", "logits=ten", "-o", tmp_path / "a.py"), ("--shape", "ten")),
        (("inspect", folder, "-o", tmp_path / "a.gif"), (".gif", ".svg")),
        (("inspect", folder, "-o", tmp_path / "a"), ("no suffix",)),
        (("inspect", folder, "-o", tmp_path / "missing" / "a.svg"), ("cannot write",)),
        (("primitives", "nobody"), ("nobody",)),
    ):
        assert_one_sentence(*command(*arguments)[::2], *words)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_option_or_command_is_named():
    for arguments, words in (
        (("evolve", "--population", "3"), ("--population", "kdzero-gp evolve --help")),
        (("evolv",), ("evolv", "kdzero-gp --help")),
        (("evolve", "--pop", "many"), ("many", "kdzero-gp evolve --help")),
        (("evolve", "--seed"), ("--seed", "--help")),
        (("resume",), ("FOLDER", "kdzero-gp resume --help")),
        (("watch", "run", "other"), ("other", "kdzero-gp watch --help")),
    ):
        assert_one_sentence(*command(*arguments)[::2], *words)


def test_the_final_takes_the_runs_best_with_all_courses_and_the_published_methods(reference, tmp_path, monkeypatch):
    folder = shutil.copytree(reference[0], tmp_path / "run")
    asked = {}

    def fake(job, machine):
        settings = job.settings
        asked[settings.distiller] = settings
        job.folder.mkdir(parents=True, exist_ok=True)
        for name in ("student.safetensors", "distiller.py"):
            (job.folder / name).write_text(settings.distiller)
        measures = {"accuracy": 0.9 if settings.distiller == "evolved-1@early" else 0.5, "cross_entropy": 1.0}
        return TrainingResult(measures, measures, measures, step_milliseconds=1.0, peak_megabytes=1.0)

    monkeypatch.setattr(jobs, "_run", fake)
    found = final(folder, 2, machine=Machine("cpu", threads=1, workers=1))
    with Database.read(folder) as database:
        first, *_ = best_evolved(database, RunSettings.from_dict(database.fact("settings")))
    assert f"expression: {first.expression}" in " ".join(asked["evolved-1"].source.split())
    evolved = {name: settings.recipe.distillation for name, settings in asked.items() if "evolved" in name}
    assert evolved == {"evolved-1": "constant", "evolved-1@linear": "linear", "evolved-1@early": "early",
                       "evolved-2": "constant"}  # fmt: skip
    assert asked.keys() - evolved.keys() - {""} == set(kdzero_gp.zoo) & asked.keys() and len(asked) > 15
    assert (found.verdict.winner, found.folder) == ("evolved-1@early", folder / "final")
    assert found.rungs[0].with_fitness > 10
