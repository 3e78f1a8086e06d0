"""Runs with other options than the default: several objectives, screens switched, the random baseline."""

import ast
import contextlib
import json
import statistics
from pathlib import Path

import pytest

from chat_server import good
from commands import command
from kdzero_gp.errors import KdzeroError
from kdzero_gp.search.storage import Database
from kdzero_gp.tasks import TASKS
from quick import quick_digits
from test_runs import finished, rows, started, wait_until

TINY = ("evolve", "--generations", "3", "--pop", "4", "--race-top", "1", "--race-seeds", "1",
        "--fresh-seeds", "0", "--prune", "0", "--images", "128",
        "--validation-images", "64", "--workers", "1")  # fmt: skip

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc"),
]


@pytest.fixture
def ran(inline_workers, monkeypatch):
    """Runs a small search in this process: what it printed, and what it is shown as."""
    monkeypatch.setitem(TASKS, "digits", quick_digits())

    def run(folder, *options):
        code, output, errors = command(*TINY, *options, "--out", folder)
        assert code == 0, output + errors
        return output, shown(folder)

    return run


def shown(folder, *options):
    code, output, errors = command("show", folder, "--json", *options)
    assert code == 0, errors
    return json.loads(output)


KEY, GOAL, ANSWER, PROMPT = "sk-canary-4711", "goal-canary-0815", "answer-canary-2342", b"You design distillers"


def test_a_language_model_s_births_are_counted_and_what_was_said_stands_nowhere(ran, tmp_path, serve, monkeypatch):
    monkeypatch.setenv("A_KEY", KEY)
    texts = ["times(no(l1(tanh(logits))), 2)", "times(conf(l2(sigmoid(logits))), 5)", "times(no(kl(logits)), 1)"]
    server, _ = serve(good(json.dumps({"distillers": [*texts, f"{KEY}(", f"{ANSWER}("]})))
    model = ("--llm-url", server.url, "--llm-model", "tiny", "--llm-budget", "calls=2")
    given = ("--llm-key-env", "A_KEY")
    output, found = ran(tmp_path / "run", *model, *given, "--llm-share", "0.6")
    told, asked = found["language_model"], len(server.asked)
    assert told["calls"] == asked <= 2 and told["born"] == told["fates"]["births"] == 2
    assert told["useless"]["syntax"] == 2 * told["useless"]["type"] > 0
    assert "goes on without the language model" in output
    commands = [
        ("show", tmp_path / "run"), ("report", tmp_path / "run", "-o", tmp_path / "report.html"),
        ("resume", tmp_path / "run"), ("export", tmp_path / "run", "-o", tmp_path / "exported.py"),
        ("suggest", "--run", tmp_path / "run", "--goal", GOAL, *model, *given, "--out", tmp_path / "s", "--workers", 1),
    ]  # fmt: skip
    failing = [
        ("evolve", *model, "--llm-key-env", KEY), ("evolve", *model, "--llm-key-env", "sk_canary_4711"),
        ("evolve", *model[2:], "--llm-url", f"http://me:{KEY}@127.0.0.1/v1"), ("evolve", "--llm-key-env", KEY),
        ("evolve", *model[2:], "--llm-url", f"http://127.0.0.1/v1?key={KEY}"),
        ("suggest", "--goal", GOAL, *model, "--llm-key-env", KEY),
    ]  # fmt: skip
    told = [output]
    for code, words in [(0, words) for words in commands] + [(2, words) for words in failing]:
        ended, *printed = command(*words)
        assert ended == code, printed
        assert code == 0 or len(printed[1].splitlines()) == 1
        told += printed
    assert f"language model: {asked} calls" in told[1] and len(server.asked) > asked
    assert {key for _, _, key in server.asked} == {f"Bearer {KEY}"} and KEY not in json.dumps(server.asked[-1][1])
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    everywhere = [*files.values(), "".join(told).encode()]
    # the answers are kept in the run's database, and nowhere else
    elsewhere = [*(content for path, content in files.items() if "sqlite" not in path.name), everywhere[-1]]
    assert any(ANSWER.encode() in content for content in files.values()), "the test looks where something is"
    assert not [content for content in everywhere if b"canary-4711" in content or b"canary_4711" in content]
    assert not [content for content in everywhere if PROMPT in content or GOAL.encode() in content]
    assert not [content for content in elsewhere if ANSWER.encode() in content]


def test_with_objectives_the_front_is_shown_raced_and_exported(ran, tmp_path):
    _, found = ran(tmp_path / "run", "--objectives", "calibrated,memory")
    known = {e["digest"]: e for e in shown(tmp_path / "run", "--top", "99")["top"]}
    values = {d: (e["metrics"]["calibrated"], e["metrics"]["memory"]) for d, e in known.items() if e["fitness"]}
    assert found["front"]
    # a predicted fitness would be of no use
    assert {row["name"]: row["asked"] for row in found["screens"]}["surrogate"] == 0
    for name in found["front"]:
        mine = values[name]
        assert not any(a <= mine[0] and b <= mine[1] and (a, b) != mine for a, b in values.values())
    files = sorted(path.name for path in (tmp_path / "run" / "front").iterdir())
    assert files == sorted(f"distiller_{number}.py" for number in range(1, len(found["front"]) + 1))
    for path in (tmp_path / "run" / "front").iterdir():
        ast.parse(path.read_text())
    code, output, _ = command("show", tmp_path / "run")
    assert code == 0 and "front" in output and "memory" in output


def test_without_screens_every_candidate_is_trained(ran, tmp_path):
    _, found = ran(tmp_path / "run", "--screens", "none")
    asked = {row["name"]: row["asked"] for row in found["screens"]}
    # gradients are measured all the same: magnitudes need them
    assert asked == {"finite": 12, "equivalence": 0, "rejection": 0, "surrogate": 0, "short": 0, "training": 12}
    assert found["counts"]["equivalent"] == 0


def test_the_surrogate_spares_trainings_and_a_run_with_it_is_one_and_the_same(ran, tmp_path):
    longer = ("--generations", "10", "--pop", "8")
    whole, killed, trusting = (tmp_path / name for name in ("whole", "killed", "trusting"))

    def spared(folder, *options):
        _, found = ran(folder, *longer, *options)
        return {row["name"]: row["turned_away"] for row in found["screens"]}["surrogate"]

    assert spared(whole) > 5
    assert spared(trusting, "--surrogate-share", "1", "--generations", "5") == 0
    process = started(*TINY, *longer, "--workers", "2", "--out", killed)
    wait_until(lambda: births_of(killed) > 50, 300, "50 births")
    process.kill()
    process.communicate()
    assert births_of(killed) < 10 * 8
    code, output, errors = finished("resume", killed, "--workers", "1")
    assert code == 0, output + errors
    assert rows(killed) == rows(whole)


def births_of(folder):
    with contextlib.suppress(KdzeroError), Database.read(folder) as database:
        return len(database.births())
    return 0


def test_random_search_breeds_nothing(ran, tmp_path):
    ran(tmp_path / "run", "--random-search", "--no-seed-zoo")
    assert {row[2] for row in rows(tmp_path / "run")["births"]} == {"random"}


def test_the_lengths_of_trainings_can_be_chosen(ran, tmp_path):
    output, found = ran(tmp_path / "run", "--warm-epochs", "2", "--proxy-epochs", "1.5", "--race-epochs", "3")
    with Database.read(tmp_path / "run") as database:
        plan = database.fact("settings")["plan"]
    assert [plan[name]["epochs"] for name in ("warm", "proxy", "race")] == [2, 1.5, 3]
    assert "warming up the student (2 epochs" in output and found["top"]


def test_a_search_for_short_trainings_starts_early_and_judges_by_cross_entropy(ran, tmp_path):
    _, found = ran(tmp_path / "run", "--training", "short", "--weight", "cka_gap=1")
    with Database.read(tmp_path / "run") as database:
        plan = database.fact("settings")["plan"]
    assert plan["warm"]["epochs"] == 1 and plan["proxy"]["epochs"] == 7.5
    assert plan["weights"] == {"cross_entropy": 1, "cka_gap": 1}
    assert not any(row["name"] == "short" and row["turned_away"] for row in found["screens"])


def test_the_fitness_can_be_the_cross_entropy_at_the_best_temperature(ran, tmp_path):
    none = [word for name in ("cross_entropy", "sharpness_gap", "cka_gap") for word in ("--weight", f"{name}=0")]
    _, found = ran(tmp_path / "run", *none, "--weight", "calibrated=2")
    with Database.read(tmp_path / "run") as database:
        alone = [one.metrics["calibrated"] for one in database.measurements("baseline")]
        known = [e for e in database.evaluations() if e.fitness is not None]
    assert known and found["top"]
    for one in known:
        assert one.metrics["calibrated"] <= one.metrics["cross_entropy"] + 1e-6
        assert one.fitness == pytest.approx(one.metrics["calibrated"] / statistics.fmean(alone))


@pytest.mark.parametrize("task", ["cifar10", "cifar100", "folder"])
def test_gaps_decide_nothing_where_evolution_would_only_close_them(task):
    """experiments/cifar100: with the gaps in the fitness its winners train worse than kd."""
    assert TASKS[task].plan.weights == {"calibrated": 1}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--screens", "finite,taste"), "there is no screen 'taste'"),
        (("--objectives", "cross_entropy,beauty"), "there is no objective 'beauty'"),
        (("--objectives", "memory"), "--objectives must name two or more"),
        (("--lanes", "0"), "--lanes must be at least 1"),
        (("--short-bound", "0"), "--short-bound must be more than 0"),
        (("--surrogate-share", "0"), "--surrogate-share must lie above 0 and not above 1, got 0"),
        (("--loss-memory", "-1"), "--loss-memory must be more than 0"),
        (("--training", "middling"), "--training must be one of long, short"),
        (("--weight", "beauty=1"), "there is no metric 'beauty'"),
        (("--weight", "cka_gap"), "--weight takes NAME=SHARE, for example cka_gap=0.5"),
        (("--precision", "int4"), "--precision must be one of float32, float32,channels-last, bfloat16"),
        (("--threads", "0"), "--threads must be at least 1"),
        (("--knowledge", "logits,feat9"), "the teacher has no feat9"),
        (("--proxy-trains", "half"), "--proxy-trains must be one of whole, last-stage"),
        (("--proxy-epochs", "0"), "--proxy-epochs must be above 0, got 0"),
        (("--final", "2", "--final-recipe", "shrt"), "there is no recipe 'shrt'"),
    ],
    ids=str,
)
def test_an_option_that_makes_no_sense_gets_one_sentence_and_leaves_nothing(tmp_path, options, words):
    code, output, errors = command(*TINY, *options, "--out", tmp_path / "run")
    assert code == 2 and words in errors and len(errors.strip().splitlines()) == 1, output + errors
    assert not (tmp_path / "run").exists()
