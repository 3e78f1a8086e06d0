"""The command line. Each command reads its options, calls one function below, and says what to run next."""

from kdzero_gp.cli import catalogue, pair, report, search, suggest, train
from kdzero_gp.cli import runs as look
from kdzero_gp.cli.app import main

for command in (
    search.evolve,
    search.resume,
    suggest.suggest,
    look.show,
    look.inspect,
    look.export,
    report.report,
    report.watch,
    pair.pair,
    train.train,
    train.distill,
    train.compare,
    catalogue.primitives,
    catalogue.zoo,
):
    main.add_command(command)

__all__ = ["main"]
