"""The command line, run inside a test."""

import contextlib
import io

import pytest

from kdzero_gp.cli import main


def command(*arguments):
    """Exit code, standard output and standard error of a command, in this process."""
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors), pytest.raises(SystemExit) as left:
        main.main(args=[str(argument) for argument in arguments], prog_name="kdzero-gp")
    return left.value.code, output.getvalue(), errors.getvalue()
