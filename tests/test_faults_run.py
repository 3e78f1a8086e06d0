"""Files of a run's folder that are damaged or partial: one sentence with the remedy, and nothing is written over."""

import pytest
import torch
from click.testing import CliRunner

from kdzero_gp.cli import main
from kdzero_gp.models import build
from kdzero_gp.models.weights import save_weights
from kdzero_gp.search.prepare import PROXY_TASK, TEACHER
from synthetic import synthetic_run


def resumed(folder):
    result = CliRunner().invoke(main, ["resume", str(folder), "--workers", "1"])
    assert result.exit_code == 2, result.output
    lines = result.output.splitlines()
    return lines[-1]


def cut(content):
    return content[: len(content) // 2]


def flipped(content):
    """The last tensor's bytes changed, which mapped into memory would be numbers like others."""
    place = content.rindex(b"\x01" * 512)
    return content[:place] + b"\x02" * 512 + content[place + 512 :]


@pytest.mark.parametrize("damage, reason", [(cut, "File is not a zip file"), (flipped, "its checksums do not fit")])
def test_a_damaged_proxy_task_is_named(tmp_path, damage, reason):
    folder = synthetic_run(tmp_path / "run", births=0)
    torch.save({"train": torch.full((4096,), 1, dtype=torch.uint8)}, folder / PROXY_TASK)
    damaged = damage((folder / PROXY_TASK).read_bytes())
    (folder / PROXY_TASK).write_bytes(damaged)
    assert resumed(folder) == (
        f"Error: {folder / PROXY_TASK} is damaged ({reason}); delete it and resume, it is made again"
    )
    assert (folder / PROXY_TASK).read_bytes() == damaged


def test_a_partial_teacher_of_the_runs_own_is_named(tmp_path):
    folder = synthetic_run(tmp_path / "run", births=0)
    save_weights(build("digits_cnn_32", 10, 1), folder / TEACHER)
    (folder / TEACHER).write_bytes(cut((folder / TEACHER).read_bytes()))
    assert resumed(folder) == (
        f"Error: {folder / TEACHER} is damaged; delete it and resume, the teacher is trained again"
    )
