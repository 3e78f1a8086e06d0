"""``kdzero_gp.Run``: what it shows is what the run stored, and it can be read at any moment."""

import io
import math
import subprocess
import sys
import textwrap
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import kdzero_gp
from inline_engine import inline
from kdzero_gp import Run, zoo
from kdzero_gp.analysis.replay import Replay
from kdzero_gp.cli import main
from kdzero_gp.common import ALONE
from kdzero_gp.engine.machine import Machine
from kdzero_gp.errors import KdzeroError, RunError, SettingError
from kdzero_gp.evolution import SearchSettings
from kdzero_gp.search.run import start
from kdzero_gp.search.settings import RunSettings
from kdzero_gp.search.storage import Database
from kdzero_gp.tasks.plan import DIGITS
from synthetic import synthetic_run

SVG = "{http://www.w3.org/2000/svg}"
BIRTHS, POPULATION = 400, 20
VOID = {"br", "img", "hr", "meta", "input", "path", "rect", "polygon", "polyline"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of 400 births that was never trained."""
    return synthetic_run(tmp_path_factory.mktemp("runs") / "synthetic", BIRTHS, POPULATION)


@pytest.fixture(scope="module")
def run(folder):
    return Run(folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A real run, as small as can be."""
    default = DIGITS
    plan = replace(
        default, teacher_recipe=replace(default.teacher_recipe, epochs=3), warm=replace(default.warm, epochs=1),
        proxy=replace(default.proxy, epochs=1), race=replace(default.race, epochs=1), zoo_factors=(1.0,),
        images=256, validation_images=128, baseline_seeds=1, race_seeds=2, fresh_seeds=0, race_top=2, race_zoo=1,
        zoo_heat=False,
    )  # fmt: skip
    search = SearchSettings(generations=2, population=4, seed=0)
    settings = RunSettings(teacher=default.teacher, student=default.student, plan=plan, search=search)
    folder = tmp_path_factory.mktemp("runs") / "trained"
    with inline():
        start(folder, settings, Machine(workers=1, device="cpu"))
    return Run(folder)


class Balanced(HTMLParser):
    """Fails where html is not closed in the order in which it was opened."""

    def __init__(self):
        super().__init__()
        self.open = []
        self.tags = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"


def tags_of(html):
    parser = Balanced()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    return parser.tags


def svg_of(text):
    root = ElementTree.fromstring(text)
    assert root.tag == f"{SVG}svg"
    return root


# --- frames -------------------------------------------------------------------------------------------------


def test_frames_have_a_row_for_each_stored_row(run, folder):
    pytest.importorskip("pandas")
    with Database.read(folder) as database:
        births, evaluations, races = database.births(), database.evaluations(), database.measurements("race")
    assert len(run.births) == len(births) == BIRTHS
    assert len(run.evaluations) == len(evaluations)
    assert len(run.races) == len(races)
    assert list(run.births.columns) == [
        "number", "generation", "operator", "parents", "expression", "digest", "duplicate_of", "status", "fitness",
    ]  # fmt: skip
    assert list(run.evaluations.columns) == [
        "digest", "expression", "status", "fitness", "reason", "accuracy", "cross_entropy", "calibrated",
        "error", "sharpness_gap", "cka_gap", "magnitudes", "screen", "equivalent_to", "units",
    ]  # fmt: skip
    assert set(run.races.kind) == {"evolved", "zoo", "baseline"}


def test_frames_hold_the_stored_numbers(run, folder):
    pytest.importorskip("pandas")
    with Database.read(folder) as database:
        births, known = database.births(), {e.digest: e for e in database.evaluations()}
    frame = run.births.set_index("number")
    for birth in births[::37]:
        fitness = known[birth.digest].fitness
        row = frame.loc[birth.number]
        assert (row.expression, row.operator, row.parents) == (birth.expression, birth.operator, birth.parents)
        assert math.isnan(row.fitness) if fitness is None else row.fitness == fitness
    scored = run.evaluations.dropna(subset="fitness")
    assert scored.fitness.is_monotonic_increasing
    assert (scored.reason == "").all()


def test_frames_of_facts_follow_the_run(run):
    pytest.importorskip("pandas")
    assert len(run.generations) == BIRTHS // POPULATION
    assert {"name", "role", "lift"} <= set(run.operations.columns)
    assert {"first", "second", "kind"} <= set(run.pairs.columns)


def test_frames_of_a_run_that_has_only_begun_are_empty(tmp_path):
    pytest.importorskip("pandas")
    run = Run(synthetic_run(tmp_path / "new", 0))
    for frame in (run.births, run.evaluations, run.races):
        assert len(frame) == 0 and len(frame.columns) > 5
    assert not run.finished and len(run.race) == 0 and len(run.top(3)) == 0
    assert tags_of(run._repr_html_())
    with pytest.raises(RunError, match="no distiller"):
        run.best  # noqa: B018


def test_without_pandas_a_frame_names_the_extra(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(KdzeroError, match=r"pip install 'kdzero-gp\[notebook\]'"):
        run.births  # noqa: B018
    assert run.best.rank == 1


# --- the best -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 2, 12, 40])
def test_ranks_are_those_of_the_command_line(run, folder, tmp_path, rank):
    path = tmp_path / "distiller.txt"
    done = CliRunner().invoke(main, ["inspect", str(folder), "--rank", str(rank), "-o", str(path)])
    assert done.exit_code == 0, done.output
    found = run.find(rank)
    several = "\n  • ".join(["Matches", *found.clauses])
    words = several if len(found.clauses) > 1 else found.sentence
    assert path.read_text(encoding="utf-8") == f"{found.expression}\n\n{words}\n"
    assert found == run.top(rank)[-1]
    assert found.digest == kdzero_gp.digest(found.expression)


@pytest.mark.parametrize("rank", [1, 4])
def test_the_source_is_the_file_of_the_command_line(trained, tmp_path, rank):
    path = tmp_path / "distiller.py"
    done = CliRunner().invoke(main, ["export", str(trained.folder), "--rank", str(rank), "-o", str(path)])
    assert done.exit_code == 0, done.output
    assert trained.find(rank).source() == path.read_text(encoding="utf-8")


def test_best_is_the_first_evolved_distiller_of_the_race(run):
    best = run.best
    first = next(standing for standing in run.race if standing.entry.kind == "evolved")
    assert best.rank == 1 and best.digest == first.entry.name and best.standing == first
    assert run.births.set_index("number").loc[best.birth].digest == best.digest


def test_a_distiller_is_found_by_rank_digest_text_and_expression(run):
    third = run.find(3)
    for which in (third.digest, third.digest[:8], str(third.expression), third.expression):
        assert run.find(which) == third


@pytest.mark.parametrize("which", [0, 10**6, "ffffffffffffffff", "", "times(no(l2(emb)), 100)"])
def test_what_the_run_does_not_have_is_an_error(run, which):
    with pytest.raises(RunError):
        run.find(which)


def test_a_hall_of_fame_needs_a_place(run):
    with pytest.raises(SettingError):
        run.top(0)


def test_a_folder_without_a_run_is_an_error(tmp_path):
    with pytest.raises(RunError, match="holds no run"):
        Run(tmp_path)


def test_the_compiled_winner_is_the_exported_one(trained):
    best = trained.best
    namespace = {}
    exec(best.source(), namespace)
    generator = torch.Generator().manual_seed(0)
    shapes = {"logits": (10,), "emb": (8,), "feat": (8, 4, 4)}
    student = {name: torch.randn(6, *shape, generator=generator) for name, shape in shapes.items()}
    shapes = {"logits": (10,), "emb": (64,), "feat": (64, 4, 4)}
    teacher = {name: torch.randn(6, *shape, generator=generator) for name, shape in shapes.items()}
    labels = torch.arange(6)
    losses = []
    for make in (best.distiller, namespace["Distiller"]):
        torch.manual_seed(0)
        losses.append(make()(student, teacher, labels))
    assert torch.isclose(*losses, rtol=1e-5)


def test_a_finished_run_knows_its_settings_and_versions(trained):
    assert trained.finished
    assert trained.settings.search.population == 4
    assert trained.versions["torch"] == torch.__version__


# --- replays ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", [1, 2, "kd", ALONE])
def test_a_replay_ends_exactly_where_the_run_did(trained, which):
    found = trained.replay(which, device="cpu")
    recipe = trained.settings.plan.proxy
    assert found.equal and len(found.curve) == recipe.steps(256 // 64)
    if isinstance(which, int):
        measured = dict(trained.find(which).metrics)
        assert measured.pop("memory") > 0  # that is the probe's
        assert dict(found.metrics) == measured
        assert found.magnitudes == trained.find(which).magnitudes
    for row in found.curve:
        terms = [value for name, value in row.items() if name.startswith("term_")]
        assert sum(terms) == pytest.approx(row.get("distillation", 0.0), rel=1e-4, abs=1e-6)
        assert row["loss"] == pytest.approx(row["cross_entropy"] + row.get("distillation", 0.0))
    svg_of(found._repr_svg_())
    assert {"svg", "table"} <= tags_of(found._repr_html_())


def test_a_replay_leaves_the_generator_and_the_threads_alone(trained):
    torch.manual_seed(7)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    trained.replay(1, device="cpu")
    assert torch.equal(torch.get_rng_state(), before) and torch.get_num_threads() == threads


def test_a_replay_with_other_numbers_is_an_error_unless_it_is_wanted(trained):
    best = trained.best
    other = replace(best, metrics={**best.metrics, "accuracy": best.metrics["accuracy"] + 0.01})
    with pytest.raises(RunError, match="accuracy"):
        trained.replay(other, device="cpu")
    found = trained.replay(other, device="cpu", check=False)
    assert not found.equal and "other numbers" in found._repr_html_()


def test_a_replay_needs_the_bench(run):
    with pytest.raises(RunError, match=r"no proxy_task\.pt"):
        run.replay(1)


# --- notebooks ----------------------------------------------------------------------------------------------


def test_everything_shows_itself_as_valid_html(run, trained):
    for one in (run, trained):
        for thing in (one, one.best, one.top(5), one.race, one.compare(1, "dkd"), one.genealogy()):
            assert tags_of(thing._repr_html_()) & {"svg", "table"}
            assert repr(thing)


def test_pictures_on_a_page_have_no_ids_that_could_clash(run):
    page = run.top(5)._repr_html_() + run.best._repr_html_()
    assert type(page) is str and page.count("<svg") == 6 and ' id="' not in page


def test_the_same_thing_shows_the_same_bytes(run):
    assert run.top(5)._repr_html_() == run.top(5)._repr_html_()


def test_hostile_text_is_escaped_in_notebooks(run):
    hostile = "<script>alert(1)</script>"
    shown = [
        replace(run.best, metrics={hostile: 1.0}), replace(run.compare(1, 2), name_a=hostile),
        Replay(hostile, ({"step": 1, "cross_entropy": 1.0, "loss": 1.0},), {hostile: 1.0}, {}),
    ]  # fmt: skip
    for thing in shown:
        assert "<script" not in thing._repr_html_() and "&lt;script&gt;" in thing._repr_html_()


def test_an_expression_shows_its_picture():
    svg_of(zoo["rkd"]._repr_svg_())
    ill_typed, unknown = (
        kdzero_gp.Expression("kl", (kdzero_gp.Expression("logits"),)),
        kdzero_gp.Expression("x", (1.0,)),
    )
    assert ill_typed._repr_svg_() is None and unknown._repr_svg_() is None


def test_importing_the_package_does_not_import_the_whole_tool():
    source = (
        "import sys, kdzero_gp; print([m for m in ('pandas', 'sqlite3', 'matplotlib', 'deap') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    with pytest.raises(AttributeError):
        kdzero_gp.no_such_name  # noqa: B018


# --- while another process writes ---------------------------------------------------------------------------

WRITER = """
    import sys
    from pathlib import Path
    from kdzero_gp.search.storage import Database, Status, StoredBirth, StoredEvaluation
    with Database.open(Path(sys.argv[1])) as database:
        first = len(database.births())
        print("writing", flush=True)
        for number in range(first, first + 300):
            text = f"times(no(l2(over(logits, 4))), {[1, 2, 4, 5][number % 4]})"
            metrics = {"accuracy": 0.5, "cross_entropy": 1.0, "sharpness_gap": 1.0, "cka_gap": 0.1}
            name = f"{number:016x}"
            row = StoredEvaluation(name, text, Status.TRAINED, 2.0 + number, "", metrics, (1.0,))
            database.add_evaluation(row, 1.0, 1.0)
            database.add_births([StoredBirth(number, 99, "node", (0,), text, name, None)])
"""


def test_a_run_is_read_while_another_process_writes(tmp_path):
    pytest.importorskip("pandas")
    folder = synthetic_run(tmp_path / "live", 40, POPULATION, finished=False)
    run = Run(folder)
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert isinstance(writer.stdout, io.TextIOBase) and writer.stdout.readline() == "writing\n"
        counts = []
        while writer.poll() is None:
            frame = run.births
            counts.append(len(frame))
            assert frame.number.tolist() == list(range(len(frame)))
            assert run.best.rank == 1
    assert writer.returncode == 0
    assert counts == sorted(counts)
    assert len(run.births) == 340 and not run.finished


def test_reading_changes_nothing(tmp_path):
    folder = synthetic_run(tmp_path / "run", 40, POPULATION)
    before = {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.suffix == ".sqlite"}
    run = Run(folder)
    assert run.best and run.top(3) and run.race and run.genealogy()
    assert {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.suffix == ".sqlite"} == before
