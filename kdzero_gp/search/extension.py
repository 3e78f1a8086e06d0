"""A run that goes on for more generations than it was started with."""

from __future__ import annotations

from dataclasses import replace

from kdzero_gp.errors import SettingError
from kdzero_gp.search.settings import RunSettings
from kdzero_gp.search.storage import Database


def extend(database: Database, settings: RunSettings, generations: int) -> RunSettings:
    """The settings of a run that is to have so many generations, which are stored; it then becomes, row by row, what it
    would have been with them from the start. Raises SettingError for fewer than it has."""
    before = settings.search.generations
    if generations < before:
        raise SettingError(f"--generations must be at least {before}, which the run has already, got {generations}")
    if generations == before:
        return settings
    settings = replace(settings, search=replace(settings.search, generations=generations))
    # what was under way when nothing more was bred is judged among others now
    database.forget_evaluations(settings.search.under_way, {"settings": settings.as_dict(), "finished": False})
    return settings
