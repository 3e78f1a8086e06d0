"""The commands that print the catalogue: primitives and zoo."""

from __future__ import annotations

import click

import kdzero_gp
from kdzero_gp.cli.app import console
from kdzero_gp.errors import SettingError


@click.command()
@click.argument("names", nargs=-1)
def primitives(names: tuple[str, ...]) -> None:
    """The catalogue of operations."""
    from kdzero_gp.cli.tables import plain_table
    from kdzero_gp.cli.tables import show as show_table

    unknown = [name for name in names if name not in kdzero_gp.catalogue]
    if unknown:
        raise SettingError(f"there is no operation {unknown[0]!r}; kdzero-gp primitives lists them all")
    rows = [
        [operation.role, operation.name, operation.formula, operation.source]
        for operation in kdzero_gp.catalogue
        if not names or operation.name in names
    ]
    show_table(console, plain_table(["kind", "name", "formula", "source"], rows))


@click.command()
def zoo() -> None:
    """Published distillers as expressions."""
    from kdzero_gp.cli.tables import plain_table
    from kdzero_gp.cli.tables import show as show_table
    from kdzero_gp.compiler import zoo as known

    rows = [[entry.name, entry.description, entry.text, entry.reference] for entry in known.entries.values()]
    show_table(console, plain_table(["name", "transfers", "expression", "reference"], rows))
