"""The numbers of a report against naive ones, and its page as text; tests/test_report_browser.py looks at it."""

import io
import itertools
import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from html import unescape
from xml.etree import ElementTree

import networkx
import pytest
from click.testing import CliRunner
from rich.console import Console

from kdzero_gp.analysis.genealogy import SHOWN, condensed, genealogy, main_line
from kdzero_gp.analysis.layered_layout import layered_layout
from kdzero_gp.analysis.statistics import (
    BEST_SHARE,
    candidate_flow,
    fitness_over_generations,
    operation_success,
    pair_success,
    role_of,
    success_over_time,
)
from kdzero_gp.cli import main
from kdzero_gp.cli.live import sparkline, watch
from kdzero_gp.compiler import parse, terms, zoo
from kdzero_gp.draw.formula import to_latex
from kdzero_gp.errors import RunError, SettingError
from kdzero_gp.report.page import report, write_report
from kdzero_gp.report.panels.fitness import COUNTS
from kdzero_gp.report.panels.snapshot import read_snapshot
from kdzero_gp.report.panels.trees import to_mathml
from kdzero_gp.search.storage import Database, Status, StoredBirth, StoredEvaluation
from strategies import IMAGE_ZOO
from synthetic import synthetic_run
from test_draw import random_tree

# A report is ≤ 6 MB; that of 100,000 births takes ≤ 60 s and ≤ 1 GB.
LONG_SECONDS, MEGABYTES, GIGABYTES = 60.0, 6.0, 1.0
HOSTILE = '</script><script>alert(1)</script><img src="http://evil.example/x" onerror=alert(2)>&"\''


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A finished run of 300 births: births and evaluations."""
    folder = synthetic_run(tmp_path_factory.mktemp("small") / "run", 300)
    return folder, *rows_of(folder)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return synthetic_run(tmp_path_factory.mktemp("large") / "run", 2000)


def rows_of(folder):
    with Database.read(folder) as database:
        return database.births(), database.evaluations()


def with_duplicate(run):
    """The rows of a run with one more birth, which repeats an earlier one that has a fitness."""
    _, births, evaluations = run
    first = next(b for b in births if b.digest == evaluations[0].digest)
    return [*births, replace(first, number=len(births), duplicate_of=first.number)], evaluations


def birth(number, expression, digest, parents=(), generation=0, duplicate_of=None):
    return StoredBirth(number, generation, "node", tuple(parents), expression, digest, duplicate_of)


def evaluation(digest, fitness, reason=""):
    status = Status.FAILED if fitness is None else Status.TRAINED
    return StoredEvaluation(digest, "", status, fitness, reason, {}, ())


# --- numbers ------------------------------------------------------------------------------------------------------


def quantile(values, share):
    """Linear between the order statistics."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    return ordered[low] + (place - low) * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low])


def test_generations_give_the_quantiles_and_counts_of_their_births(small):
    _, births, evaluations = small
    rows = fitness_over_generations(births, evaluations)
    assert [row["generation"] for row in rows] == sorted({b.generation for b in births})
    best = math.inf
    for row in rows:
        members = [b for b in births if b.generation == row["generation"]]
        found = [next(e for e in evaluations if e.digest == b.digest) for b in members]
        values = [e.fitness for e in found if e.fitness is not None]
        best = min([best, *values])
        assert row["best_so_far"] == best
        for name, share in (("q10", 0.1), ("q25", 0.25), ("median", 0.5), ("q75", 0.75), ("q90", 0.9)):
            assert row[name] == pytest.approx(quantile(values, share))
        assert row["births"] == len(members) == sum(row[name] for name in COUNTS)


def test_a_generation_without_fitness_has_no_quantiles():
    (row,) = fitness_over_generations([birth(0, "x", "a")], [evaluation("a", None, "bad")])
    assert math.isnan(row["median"]) and math.isnan(row["best_so_far"]) and row["failed"] == 1


def test_the_flow_counts_every_birth_once_and_merges_reasons_that_differ_in_numbers():
    births = [birth(n, "x", digest) for n, digest in enumerate("abcde")] + [birth(5, "x", "a", duplicate_of=0)]
    evaluations = [
        evaluation("a", 0.5), evaluation("b", None, "took longer than 600 s"),
        evaluation("c", None, "took longer than 60 s"), evaluation("d", None, "ValueError: 3 is no shape"),
    ]  # fmt: skip
    flow = candidate_flow(births, evaluations, {"a", "not born"})
    assert flow == {
        "births": 6, "trained": 1, "equivalent": 0, "predicted": 0, "rejected": 0, "failed": 3, "duplicates": 1,
        "waiting": 1,
        "rejected: took longer than … s": 2, "rejected: ValueError": 1, "raced": 1,
    }  # fmt: skip


def naive_success(births, evaluations, things_in):
    """What every distiller uses, from parsed trees, and plain counting."""
    text = {b.digest: b.expression for b in births}
    scored = sorted((e.fitness, e.digest) for e in evaluations if e.fitness is not None and e.digest in text)
    uses = {digest: things_in(parse(text[digest])) for _, digest in scored}
    best = {digest for _, digest in scored[: math.ceil(BEST_SHARE * len(scored))]}
    found = {}
    for thing in set().union(*uses.values()):
        users = [(index, fitness, digest) for index, (fitness, digest) in enumerate(scored) if thing in uses[digest]]
        share_best = sum(digest in best for _, _, digest in users) / len(best)
        share = len(users) / len(scored)
        found[thing] = {
            "births": sum(thing in uses.get(b.digest, ()) for b in births), "distillers": len(users),
            "percentile": sum(index for index, _, _ in users) / len(users) / (len(scored) - 1),
            "share_best": share_best, "share": share, "lift": share_best / share,
            "best": min(fitness for _, fitness, _ in users),
        }  # fmt: skip
    return found


def naive_pairs(tree):
    found = set()
    for term in terms(tree):
        names = [(role_of(node.name), node.name) for node in term.walk()]
        transforms = [name for role, name in names if role == "transform"]
        distances = [name for role, name in names if role == "distance"]
        weights = [name for role, name in names if role == "calibration"]
        found |= {(t, d) for t in transforms for d in distances} | {(d, w) for d in distances for w in weights}
        found |= {tuple(sorted((a, b))) for i, a in enumerate(transforms) for b in transforms[i + 1 :]}
    return found


def test_operations_alone_are_counted_as_in_the_parsed_trees(small):
    births, evaluations = with_duplicate(small)
    naive = naive_success(births, evaluations, lambda tree: {node.name for node in tree.walk()})
    rows = operation_success(births, evaluations)
    assert {row["name"] for row in rows} == set(naive)
    for row in rows:
        assert row["role"] == role_of(row["name"])
        for name, value in naive[row["name"]].items():
            assert row[name] == pytest.approx(value), (row["name"], name)


def test_pairs_are_counted_within_terms_as_in_the_parsed_trees(small):
    births, evaluations = with_duplicate(small)
    naive = naive_success(births, evaluations, naive_pairs)
    rows = pair_success(births, evaluations)
    assert {(row["first"], row["second"]) for row in rows} == set(naive)
    for row in rows:
        for name, value in naive[row["first"], row["second"]].items():
            assert row[name] == pytest.approx(value)


def test_equal_fitness_has_equal_percentiles():
    texts = [f"times(no(l2({name})), 1)" for name in ("logits", "emb", "feat")]
    births = [birth(n, text, str(n)) for n, text in enumerate(texts)]
    rows = operation_success(births, [evaluation("0", 0.5), evaluation("1", 0.5), evaluation("2", 0.9)])
    found = {row["name"]: row["percentile"] for row in rows}
    assert found["logits"] == found["emb"] == pytest.approx(0.25) and found["feat"] == 1.0


def test_success_over_time_sums_up_to_the_whole_run(small):
    births, evaluations = with_duplicate(small)
    rows = success_over_time(births, evaluations, bins=7)
    whole = {row["name"]: row["births"] for row in operation_success(births, evaluations)}
    summed = Counter()
    for row in rows:
        summed[row["name"]] += row["births"]
        assert 0 <= row["share"] <= 1 and (row["births"] == 0) == math.isnan(row["percentile"])
    assert summed == whole
    times = [row for row in rows if row["name"] == "times"]
    assert [row["bin"] for row in times] == list(range(7)) and all(row["share"] == 1 for row in times)
    assert times[0]["first"] == 0 and times[-1]["last"] == len(births) - 1
    assert all(later["first"] == row["last"] + 1 for row, later in itertools.pairwise(times))


def test_genealogy_holds_exactly_the_ancestors(small):
    _, births, evaluations = small
    number = births[-1].number
    expected, waiting = set(), [number]
    while waiting:
        one = waiting.pop()
        if one not in expected:
            expected.add(one)
            waiting += births[one].parents
    graph = genealogy(births, number, evaluations)
    assert set(graph) == expected
    for one in graph:
        facts = graph.nodes[one]
        assert set(graph.predecessors(one)) == set(births[one].parents)
        assert (facts["expression"], facts["operator"]) == (births[one].expression, births[one].operator)
        judged = next(e for e in evaluations if e.digest == births[one].digest)
        assert (facts["status"], facts["fitness"]) == (judged.status, judged.fitness)


def test_facts_of_nothing_are_empty():
    assert fitness_over_generations([], []) == operation_success([], []) == pair_success([], []) == []
    assert success_over_time([], []) == [] and candidate_flow([], [])["births"] == 0


def test_long_genealogies_are_cut_down_without_losing_a_birth_of_the_line(large):
    births, evaluations = rows_of(large)
    winner = next(b.number for b in births if b.digest == evaluations[0].digest)
    winner = max(winner, births[-1].number)
    graph = genealogy(births, winner, evaluations)
    assert len(graph) > SHOWN
    shown = condensed(graph, winner)
    nodes = dict(shown.nodes(data="shown"))
    line = [key for key, node in nodes.items() if node.main]
    assert sorted(number for key in line for number in nodes[key].members) == main_line(graph, winner)
    assert len(nodes) <= 2 * SHOWN
    line = [key for key in networkx.topological_sort(shown) if key in line]
    where = layered_layout(shown, dict.fromkeys(shown, (100.0, 40.0)), line)
    row_of = {key: index for index, row in enumerate(where.rows) for key in row}
    assert all(row_of[parent] < row_of[child] for parent, child in shown.edges)
    assert len({where.places[key].x for key in line}) == 1
    for row in where.rows:
        places = [where.places[key] for key in row]
        assert all(b.x - a.x >= (a.width + b.width) / 2 for a, b in itertools.pairwise(places))


# --- the page -----------------------------------------------------------------------------------------------------


def reaches_out(page):
    """Everything that would make a browser load something else."""
    markup = re.sub(r'xmlns="[^"]*"', "", page)
    loading = r'(?:src|href|srcset|action|data|poster)\s*=\s*["\']?\s*(?!#|data:)[^\s>"\']+'
    links = re.findall(rf"<[^>]*\s{loading}", re.sub(r"<script.*?</script>", "", markup, flags=re.S))
    return links + re.findall(r"url\(|@import|\bfetch\(|XMLHttpRequest|https?://", markup)


def test_the_page_needs_nothing_else_and_has_every_panel(large, tmp_path):
    output = tmp_path / "report.html"
    write_report(large, output)
    assert output.stat().st_size < MEGABYTES * 1e6
    page = output.read_text(encoding="utf-8")
    assert reaches_out(page) == []
    for name in (
        "race",
        "size",
        "fitness",
        "flow",
        "operations",
        "pairs",
        "time",
        "genealogy",
        "trees",
        "cost",
        "reproduction",
    ):
        assert f'<section class="panel" id="{name}"' in page
    assert page.count('class="distiller"') == 10 and "not finished" not in page
    identifiers = re.findall(r'\sid="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))


def cells_of(page, section):
    """The texts of a panel's first table, without pictures."""
    table = re.search(rf'<section class="panel" id="{section}".*?<tbody>(.*?)</tbody>', page, re.S)[1]
    rows = re.findall(r"<tr>(.*?)</tr>", re.sub(r"<svg.*?</svg>", "", table, flags=re.S), re.S)
    return [[unescape(re.sub("<[^>]+>", "", cell)) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)] for row in rows]


def test_the_page_the_terminal_and_the_json_tell_the_same(small):
    folder, page = small[0], report(small[0])
    shown = CliRunner().invoke(main, ["show", str(folder)]).output
    told = json.loads(CliRunner().invoke(main, ["show", str(folder), "--json"]).stdout)
    table = shown[shown.index("race, ") :]
    lines = [re.split(r"\s{2,}", line.strip()) for line in table.splitlines()]
    raced = [result for result in told["race"] if not result["reason"]]
    assert [(int(row[0]), row[1].startswith("★"), row[2]) for row in cells_of(page, "size")] == [
        (one["operations"], one["leads"], f"run:{folder}#{one['rank']}") for one in told["sizes"]
    ]
    rows = cells_of(page, "race")
    assert len(rows) == len(raced) > 10
    for (rank, name, _, *numbers), result in zip(rows, raced, strict=True):
        assert (result["expression"] if result["kind"] == "evolved" else name) in name
        # the difference of kd to itself is not told, and a name may be cut
        assert any(line[0] == rank and line[2:] == [n for n in numbers if n] for line in lines), rank
        assert f"{100 * result['accuracy']:.2f} ± {100 * result['accuracy_interval']:.2f}" == numbers[0]
        assert numbers[2] == "" or f"{100 * result['difference_to_kd']:+.2f}".replace("-", "−") in numbers[2]
    (_, births), *fates = told["counts"].items()
    assert f"{births:,} births: " + ", ".join(f"{count:,} {name}" for name, count in fates) in shown.splitlines()[0]
    assert births == sum(count for _, count in fates)
    generations = cells_of(page, "fitness")
    for place, name in enumerate(COUNTS, 8):
        assert sum(int(row[place].replace(",", "")) for row in generations) == told["counts"][name]


@pytest.mark.parametrize("status", [Status.REJECTED, Status.FAILED, Status.PREDICTED])
def test_an_ancestor_without_fitness_says_its_status(tmp_path, status):
    folder = synthetic_run(tmp_path / "run", 60)
    with Database.open(folder) as database:
        winner = read_snapshot(folder).winner.name
        parent = next(b for b in database.births() if b.digest == winner)
        parent = next(b for b in database.births() if b.number in parent.parents and b.digest != winner)
        database._connection.execute(
            "UPDATE evaluations SET status = ?, fitness = NULL WHERE digest = ?", (status.value, parent.digest)
        )
        database._connection.commit()
    assert f">{status.value} · birth {parent.number}</text>" in report(folder)


def test_a_hostile_run_can_not_inject_markup(tmp_path):
    folder = synthetic_run(tmp_path / "run", 60)
    with Database.open(folder) as database:
        best = database.evaluations()[0]
        bad = StoredEvaluation("hostile", HOSTILE, Status.TRAINED, best.fitness - 0.1, "", best.metrics, (1.0,))
        database.add_evaluation(bad, 1.0, 1.0)
        database.add_evaluation(
            StoredEvaluation("worse", HOSTILE + "2", Status.FAILED, None, HOSTILE, {}, ()), 1.0, 1.0
        )
        parents = (len(database.births()) - 1,)
        number = len(database.births())
        database.add_births([
            StoredBirth(number, 3, HOSTILE, parents, HOSTILE, "hostile", None),
            StoredBirth(number + 1, 3, HOSTILE, parents, HOSTILE + "2", "worse", None),
        ])  # fmt: skip
        settings = database.fact("settings")
        database.set_fact("settings", settings | {"teacher": HOSTILE, "data": HOSTILE})
        database.set_fact("versions", {HOSTILE: HOSTILE})
        database._connection.execute("DELETE FROM measurements WHERE kind = 'race'")
        database._connection.commit()
    page = report(folder)
    assert "<img" not in page and "alert(1)</script>" not in page and page.count("<script") == 2
    assert "&lt;/script&gt;" in page
    told = json.loads(re.search(r'<script type="application/json" id="births">(.*?)</script>', page, re.S)[1])
    assert told[str(number)]["steps"][0]["expression"] == HOSTILE


@pytest.mark.parametrize("births", [0, 40])
def test_unfinished_runs_have_a_page_that_says_so(tmp_path, births):
    page = report(synthetic_run(tmp_path / "run", births, finished=False, raced=False))
    assert "This run is not finished" in page and "kdzero-gp resume" in page
    assert page.count('<section class="panel"') == 11 and reaches_out(page) == []


def test_a_run_without_any_fitness_has_a_page(tmp_path):
    folder = synthetic_run(tmp_path / "run", 20, finished=False, raced=False)
    with Database.open(folder) as database:
        database._connection.execute(
            "UPDATE evaluations SET status = 'failed', fitness = NULL, reason = 'the loss is not finite'"
        )
        database._connection.commit()
    assert "20 the loss is not finite" in report(folder)


def test_every_formula_becomes_well_formed_mathml():
    trees = [*IMAGE_ZOO.values(), *(random_tree(5 + seed % 40, seed) for seed in range(80))]
    for tree in trees:
        whole = to_mathml(to_latex(tree))
        root = ElementTree.fromstring(whole)
        words = "".join(root.itertext())
        # what the converter does not know stays as LaTeX
        assert words.startswith("ℒ=") and "\\" not in words and "{" not in words.replace("{y,", ""), tree
        for element in root.iter():
            expected = {"mfrac": 2, "msub": 2, "msup": 2, "msubsup": 3, "mover": 2}.get(element.tag.split("}")[-1])
            assert expected is None or len(element) == expected, (tree, element.tag)


def test_a_term_on_a_line_of_its_own_begins_with_a_plus(small):
    page = report(small[0])
    assert re.search(r'<math [^>]*class="more"><mrow><mo form="infix">&#x0002B;</mo>', page)
    assert "&lt;mo" not in page


def test_names_in_formulas_are_whole_words():
    assert "<mtext>softmax</mtext>" in to_mathml(to_latex(zoo["kd"]))


def test_the_same_run_gives_the_same_bytes(small):
    assert report(small[0]) == report(small[0])


@pytest.mark.skipif(not os.environ.get("KDZERO_LONG"), reason="takes minutes; set KDZERO_LONG=1")
@pytest.mark.timeout(1800)
def test_a_run_of_100_000_births_is_reported_within_its_bounds(tmp_path):
    folder, output = synthetic_run(tmp_path / "run", 100_000), tmp_path / "report.html"
    # A process of its own, whose peak memory is the report's (ru_maxrss would be no less than that of this one).
    code = (
        "import re, sys, time; from pathlib import Path; from kdzero_gp.report.page import write_report\n"
        "start = time.monotonic(); write_report(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "peak = re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1]\n"
        "print(time.monotonic() - start, int(peak) / 1024**2)"
    )
    answer = subprocess.run([sys.executable, "-c", code, folder, output], capture_output=True, text=True, check=True)
    seconds, gigabytes = map(float, answer.stdout.split())
    size = output.stat().st_size / 1e6
    print(f"100,000 births: {seconds:.1f} s, {gigabytes:.2f} GiB, {size:.2f} MB")
    assert seconds < LONG_SECONDS and gigabytes < GIGABYTES and size < MEGABYTES


# --- watching -----------------------------------------------------------------------------------------------------


def text_console():
    return Console(file=io.StringIO(), width=120)


def test_watching_a_finished_run_prints_and_ends(small):
    folder, births, evaluations = small
    console = text_console()
    watch(folder, console, every=0.01)
    printed = console.file.getvalue()
    assert f"{len(births)}/{len(births)} births" in printed and evaluations[0].expression in printed
    assert "the run is finished" in printed


def test_watching_in_a_terminal_draws_the_same(small):
    folder, _, evaluations = small
    console = Console(file=io.StringIO(), width=160, force_terminal=True)
    watch(folder, console, every=0.01)
    printed = console.file.getvalue()
    assert f"{evaluations[0].fitness:.4f}" in printed and "last births" in printed and "█" in printed


def test_a_run_that_goes_on_is_followed_and_ctrl_c_ends_quietly(tmp_path, monkeypatch):
    folder = synthetic_run(tmp_path / "run", 40, finished=False, raced=False)
    extra = [birth(n, "times(no(l2(emb)), 1)", f"new{n}", parents=(0,), generation=2) for n in range(40, 43)]
    looks = 0

    def sleep(_):
        nonlocal looks
        looks += 1
        if looks == 2:
            raise KeyboardInterrupt
        with Database.open(folder) as database:
            row = StoredEvaluation("new41", "times(no(l2(emb)), 1)", Status.TRAINED, 0.01, "", {}, ())
            database.add_evaluation(row, 1.0, 1.0)
            database.add_births(extra)

    monkeypatch.setattr(sys.modules["kdzero_gp.cli.live"].time, "sleep", sleep)
    console = text_console()
    watch(folder, console, every=0.5)
    lines = console.file.getvalue().splitlines()
    assert "40/40 births" in lines[0] and "43/40 births" in lines[1] and "best 0.0100 (birth 41)" in lines[1]
    assert "was not touched" in lines[-1]


def test_watching_nothing_or_with_a_bad_period_says_why(tmp_path, small):
    with pytest.raises(RunError, match="holds no run"):
        watch(tmp_path, text_console())
    with pytest.raises(SettingError, match="--every"):
        watch(small[0], text_console(), every=0)


def test_tensorboard_that_is_missing_is_named_with_the_remedy(small, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(SettingError, match=r"pip install 'kdzero-gp\[tensorboard\]'"):
        watch(small[0], text_console(), tensorboard=tmp_path / "events")


def test_tensorboard_gets_every_birth(small, tmp_path):
    pytest.importorskip("tensorboard")
    watch(small[0], text_console(), tensorboard=tmp_path / "events")
    assert any("tfevents" in path.name for path in (tmp_path / "events").iterdir())


def test_a_sparkline_ends_with_the_last_value():
    assert sparkline([math.inf, 8.0, 1.0, 1.0]) == "█▁▁"
    assert len(sparkline([float(n) for n in range(1000)], 60)) == 60 and sparkline([]) == ""


# --- the commands -------------------------------------------------------------------------------------------------


def test_the_report_command_writes_into_the_run_and_says_how_to_open_it(tmp_path):
    folder = synthetic_run(tmp_path / "run", 40)
    answer = CliRunner().invoke(main, ["report", str(folder)])
    assert answer.exit_code == 0, answer.output
    assert f"wrote {folder / 'report.html'}" in answer.output and "file://" in answer.output
    assert "<title>" in unescape((folder / "report.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize("command", [["report"], ["watch"]])
def test_a_folder_without_a_run_is_one_sentence_and_exit_code_2(tmp_path, command):
    answer = CliRunner().invoke(main, [*command, str(tmp_path)])
    assert answer.exit_code == 2 and answer.output.startswith("Error: ") and answer.output.count("\n") == 1


def test_a_place_that_cannot_be_written_is_one_sentence(small):
    answer = CliRunner().invoke(main, ["report", str(small[0]), "-o", "/proc/none/report.html"])
    assert answer.exit_code == 2 and "cannot write /proc/none/report.html" in answer.output
