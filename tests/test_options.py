"""The options of a search are one table: settings, help and the repeating command come from it."""

import shlex
from dataclasses import replace

import pytest
from click.testing import CliRunner

from kdzero_gp.cli import main
from kdzero_gp.errors import SettingError
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
    "--screens": "none", "--shrink": False, "--random-search": True, "--in-flight": 2, "--patience": 4,
    "--images": 300, "--validation-images": 200, "--warm-epochs": 0.5, "--proxy-epochs": 1.5,
    "--proxy-trains": "whole", "--surrogate-share": 0.5, "--short-bound": 2.0, "--loss-memory": 9.0,
    "--race-epochs": 2.5, "--race-top": 4, "--race-seeds": 7, "--fresh-seeds": 6, "--prune": 3,
    "--weight": ("cka_gap=2", "calibrated=0"), "--precision": "bfloat16,channels-last", "--threads": 2,
    "--image-size": "48x64", "--channels": 3,
}  # fmt: skip
NEEDS = {"--top-k": {"--sample-ratio": 0.5}, "--proxy-trains": {"--task": "cifar100"}}


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
    assert (
        "Seeds of the race, which chooses the winner. [default: the task's: 5 (digits); 2 (cifar100); 3 (folder)]"
        in text
    )
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
