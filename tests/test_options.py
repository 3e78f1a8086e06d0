"""The options of a search are one table: settings, help and the repeating command come from it."""

import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from kdzero_gp import cli
from kdzero_gp.cli import main
from kdzero_gp.cli.defaults import FILE, defaults_file
from kdzero_gp.cli.options import GROUPS
from kdzero_gp.errors import SettingError
from kdzero_gp.search.config import config_text, with_config
from kdzero_gp.search.options import NO_EFFECT_WITH, NO_EFFECT_WITHOUT, OPTIONS, evolve_command, settings_from
from kdzero_gp.search.run import computed_as
from kdzero_gp.search.settings import RunSettings

# A value other than the default of every option that is a setting of the run.
OTHER = {
    "--generations": 3, "--pop": 6, "--task": "cifar100", "--data": "x.tar", "--teacher": "wrn_40_2",
    "--teacher-weights": "t.pt", "--teacher-tap": ("feat1=layer2",), "--student": "resnet8",
    "--student-weights": "s.pt", "--student-tap": ("feat1=layer1", "feat=layer3"), "--knowledge": "logits,feat,feat1",
    "--space": "kdzero", "--magnitude": "absolute", "--seed-zoo": False, "--seed": 5, "--tournament": 3,
    "--sample-ratio": 0.5, "--top-k": 2, "--removal": "worst", "--objectives": "calibrated,memory",
    "--screens": "none", "--shrink": False, "--random-search": True, "--lanes": 2, "--islands": 2, "--patience": 4,
    "--single-terms": 3, "--inherit-head": True,
    "--images": 300, "--validation-images": 200, "--warm-epochs": 0.5, "--proxy-epochs": 1.5,
    "--proxy-trains": "whole", "--surrogate-share": 0.5, "--short-bound": 2.0, "--loss-memory": 9.0,
    "--race-epochs": 2.5, "--heat": 7, "--race-top": 4, "--race-seeds": 7, "--fresh-seeds": 6, "--prune": 3,
    "--weight": ("cka_gap=2", "calibrated=0"), "--precision": "bfloat16,channels-last", "--threads": 2,
    "--teacher-mean": "0.5", "--teacher-std": "0.25,0.5,0.5", "--student-mean": "imagenet", "--student-std": "none",
    "--image-size": "48x64", "--channels": 3, "--crop": 96, "--judge": "surrogate",
    "--llm-url": "http://127.0.0.1:1/v1", "--llm-model": "tiny", "--llm-key-env": "A_KEY", "--llm-share": 0.1,
    "--llm-budget": ("calls=3", "usd=1"), "--llm-price": ("in=0.2", "out=0.4"), "--llm-timeout": 9.0,
    "--llm-replay": "runs/x",
}  # fmt: skip
MODEL = {"--llm-url": "http://127.0.0.1:1/v1", "--llm-model": "tiny"}
NEEDS = {
    "--teacher-mean": {"--teacher-std": "1"}, "--teacher-std": {"--teacher-mean": "0,0,0"},
    "--top-k": {"--sample-ratio": 0.5}, "--proxy-trains": {"--task": "cifar100"},
    **dict.fromkeys((name for name in OTHER if name.startswith("--llm")), MODEL),
    "--llm-budget": MODEL | {"--llm-price": ("in=1",)},
}  # fmt: skip


def read_back(command):
    """The settings that a repeating command gives."""
    words = shlex.split(command)
    assert words[:2] == ["kdzero-gp", "evolve"]
    with main.commands["evolve"].make_context("evolve", words[2:]) as context:
        return settings_from(context.params)


def test_every_setting_of_the_table_is_tested():
    assert set(OTHER) == {option.name for option in OPTIONS if option.field}


@pytest.mark.parametrize("name", OTHER)
def test_every_option_reaches_the_settings_and_the_repeating_command(name):
    options = {**NEEDS.get(name, {}), name: OTHER[name]}
    settings = settings_from({key.removeprefix("--").replace("-", "_"): value for key, value in options.items()})
    assert settings != settings_from({"task": options.get("--task") if name != "--task" else "digits"})
    assert read_back(evolve_command(settings)) == settings


@pytest.mark.parametrize("training", ["long", "short"])
@pytest.mark.parametrize("task", ["digits", "cifar10", "folder"])
def test_the_defaults_of_every_task_are_repeated(task, training):
    settings = settings_from({"task": task, "training": training})
    assert read_back(evolve_command(settings)) == settings
    assert (len(evolve_command(settings).split()) > 14) == (training == "short")


def test_what_a_run_chose_is_in_its_repeating_command():
    settings = RunSettings(teacher="a", student="b")
    bench = {"precision": "bfloat16,channels-last", "threads": 2}
    assert "--precision bfloat16,channels-last --threads 2" in evolve_command(computed_as(settings, bench))
    assert "--precision" not in evolve_command(computed_as(settings, {}))


EFFECTLESS = [
    *((name, other) for name, others in NO_EFFECT_WITH.items() for other in others),
    *((name, None) for name in NO_EFFECT_WITHOUT),
]


@pytest.mark.parametrize(("name", "other"), EFFECTLESS, ids=str)
def test_an_option_without_effect_is_refused_in_one_sentence(name, other):
    words = [name if OTHER[name] is not False else name.replace("--", "--no-"), str(OTHER[name])]
    words = words[:1] if isinstance(OTHER[name], bool) else words
    if other is not None:
        words += [other] if OTHER[other] is True else [other, str(OTHER[other])]
    result = CliRunner().invoke(main, ["evolve", *words])
    assert result.exit_code == 2 and f"{name} has no effect with" in result.output, result.output
    assert (other or NO_EFFECT_WITHOUT[name]) in result.output and len(result.output.splitlines()) == 1


def test_a_screen_that_is_off_makes_its_option_useless():
    with pytest.raises(SettingError, match="--short-bound has no effect without the screen short"):
        settings_from({"screens": "finite,surrogate", "short_bound": 1.5})
    with pytest.raises(SettingError, match="--screens surrogate has no effect with --objectives"):
        settings_from({"screens": "finite,surrogate", "objectives": "calibrated,memory"})
    settings_from({"screens": "finite,short", "short_bound": 1.5})


def test_the_help_names_the_defaults_of_tasks():
    text = " ".join(CliRunner().invoke(main, ["evolve", "--help"]).output.split())
    assert "Seeds of the race, which chooses the winner. [default: digits: 5; cifar10, cifar100: 2; folder: 3]" in text
    assert "Size of the population. [default: 20]" in text


# --- knowledge -----------------------------------------------------------------------------------------------------

STUDENT, TEACHER = ("logits", "emb", "feat", "feat1"), ("logits", "feat", "feat1", "feat2")


@pytest.mark.parametrize(
    ("changes", "searched"),
    [
        ({}, ["logits", "feat"]),
        ({"student_taps": {"feat1": "a"}}, ["logits", "feat", "feat1"]),
        ({"teacher_taps": {"feat1": "a"}, "student_taps": {"feat1": "b", "feat": "c"}}, ["logits", "feat", "feat1"]),
        ({"knowledge": ("feat1", "logits")}, ["feat1", "logits"]),
    ],
)
def test_knowledge_is_what_both_have_and_what_is_asked_for(changes, searched):
    assert replace(RunSettings(), **changes).searched(STUDENT, TEACHER) == searched


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"knowledge": ("logits", "emb")}, "the teacher has no emb"),
        ({"knowledge": ("feat2",)}, "the student has no feat2"),
        (
            {"teacher_taps": {"feat2": "layer1"}},
            "the student has no feat2; it has logits, emb, feat, feat1: name",
        ),
    ],
)
def test_knowledge_that_one_side_lacks_is_refused(changes, words):
    with pytest.raises(SettingError, match=words):
        replace(RunSettings(), **changes).searched(STUDENT, TEACHER)


# --- settings from a file ------------------------------------------------------------------------------------------


def from_file(path, **given):
    options = {option.key: given.get(option.key) for option in OPTIONS}
    return settings_from(with_config(options, path))


@pytest.mark.parametrize("name", OTHER)
def test_every_option_comes_back_from_the_file_that_a_run_writes(name, tmp_path):
    options = {**NEEDS.get(name, {}), name: OTHER[name]}
    settings = settings_from({key.removeprefix("--").replace("-", "_"): value for key, value in options.items()})
    (tmp_path / "config.toml").write_text(config_text(settings), encoding="utf-8")
    assert from_file(tmp_path / "config.toml") == settings


@pytest.mark.parametrize("training", ["long", "short"])
@pytest.mark.parametrize("task", ["digits", "cifar100", "folder"])
def test_a_file_repeats_the_settings_of_every_task(task, training, tmp_path):
    settings = settings_from({"task": task, "training": training})
    (tmp_path / "config.toml").write_text(config_text(settings), encoding="utf-8")
    assert from_file(tmp_path / "config.toml") == settings


def test_what_is_given_beside_a_file_wins(tmp_path):
    (tmp_path / "config.toml").write_text('pop = 7\nrace_seeds = 4\nteacher-tap = {feat1 = "a=b"}\n', encoding="utf-8")
    settings = from_file(tmp_path / "config.toml", pop=9)
    assert (settings.search.population, settings.plan.race_seeds) == (9, 4)
    assert settings.teacher_taps == {"feat1": "a=b"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("popp = 3", "did you mean pop"),
        ("pop = 3.5", "pop takes a whole number, got 3.5"),
        ('pop = "3"', "pop takes a whole number"),
        ("seed-zoo = 1", "seed-zoo takes true or false"),
        ('knowledge = "logits"', "knowledge takes a list"),
        ("weight = 3", "weight takes a table"),
        ("pop = ", "not a TOML file"),
        ("out = 'x'", "not an option"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_in_one_sentence(text, words, tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(text, encoding="utf-8")
    result = CliRunner().invoke(main, ["evolve", "--config", str(path)])
    assert result.exit_code == 2 and words in result.output and len(result.output.splitlines()) == 1, result.output
    missing = CliRunner().invoke(main, ["evolve", "--config", str(tmp_path / "none.toml")])
    assert missing.exit_code == 2 and "cannot be read" in missing.output


# --- help ----------------------------------------------------------------------------------------------------------


def test_every_option_of_a_group_exists_and_has_one_group():
    named = [name for names in GROUPS.values() for name in names]
    assert len(named) == len(set(named))
    assert set(named) <= {parameter.name for parameter in main.commands["evolve"].params}


def test_the_defaults_of_the_help_are_those_of_the_settings():
    path = Path(cli.__file__).parent / FILE
    assert path.read_text(encoding="utf-8") == defaults_file(), "run: python docs/generate.py"


HELP = """
import sys
from kdzero_gp import cli
from kdzero_gp.cli import main
from kdzero_gp.cli.defaults import FILE, defaults_file
from kdzero_gp.cli.options import GROUPS
for words in ([], ["evolve"], ["resume"], ["train"], ["distill"], ["compare"], ["show"], ["inspect"], ["export"]):
    try:
        main([*words, "--help"], standalone_mode=False)
    except SystemExit:
        pass
print(sorted({"torch", "deap", "scipy", "matplotlib", "sklearn"} & set(sys.modules)))
"""


def test_help_loads_nothing_that_takes_time():
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, encoding="utf-8", timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_shell_completes_commands_and_options():
    for words, index, wanted in (("kdzero-gp e", 1, "evolve"), ("kdzero-gp evolve --gen", 2, "--generations")):
        done = subprocess.run(
            [sys.executable, "-c", "from kdzero_gp.cli import main; main(prog_name='kdzero-gp')"],
            env=os.environ
            | {"_KDZERO_GP_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(index)},
            capture_output=True, encoding="utf-8", timeout=120,
        )  # fmt: skip
        assert wanted in done.stdout, done.stderr
