"""The command line's frame: errors become one sentence, Ctrl-C a hint how to go on."""

from __future__ import annotations

import io
import os
import sys
import traceback
from typing import Any

import click
from rich.console import Console

import kdzero_gp
from kdzero_gp.errors import KdzeroError

console = Console()
# With this variable set, an unexpected error shows where it happened.
TRACEBACK_VARIABLE = "KDZERO_TRACEBACK"
INTERRUPTED = 130


def _write_anything() -> None:
    """Where the output has no room for ×, γ and –, as under LC_ALL=C, they become question marks and no error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and "utf" not in (stream.encoding or "").lower():
            stream.reconfigure(errors="replace")


class _Commands(click.Group):
    """Turns every error into one sentence and exit code 2, and Ctrl-C into a hint how to go on."""

    def invoke(self, ctx: click.Context) -> Any:
        _write_anything()
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            command = (error.ctx or ctx).command_path
            click.echo(f"Error: {error.format_message().rstrip('.')}; see: {command} --help", err=True)
            ctx.exit(2)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            folder = ctx.obj and ctx.obj.get("folder")
            hint = f"; no finished training is lost, go on with: kdzero-gp resume {folder}" if folder else ""
            click.echo(f"interrupted{hint}", err=True)
            ctx.exit(INTERRUPTED)
        except KdzeroError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(2)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)
        except Exception as error:
            if os.environ.get(TRACEBACK_VARIABLE):
                traceback.print_exc()
            first = (str(error).splitlines() or [""])[0]
            click.echo(
                f"Error: {type(error).__name__}: {first} (unexpected; set {TRACEBACK_VARIABLE}=1 to see where)",
                err=True,
            )
            ctx.exit(2)


# \b keeps click from filling the lines.
_EPILOG = """\b
Begin with:        kdzero-gp evolve --generations 15
Tab completion:    eval "$(_KDZERO_GP_COMPLETE=bash_source kdzero-gp)"   (or zsh_source, fish_source)"""


@click.group(
    cls=_Commands, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(kdzero_gp.__version__, prog_name="kdzero-gp")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Evolve the distillation loss that suits your teacher, your student and your data."""
    ctx.ensure_object(dict)
