"""Who becomes a parent and who leaves the population: DEAP's operators, drawing from one explicit generator."""

from __future__ import annotations

import contextlib
import random as global_random
from collections.abc import Iterator, Sequence
from random import Random

from deap import tools

from kdzero_gp.evolution.individual import Individual, fitness_class
from kdzero_gp.evolution.settings import DCD, SearchSettings


@contextlib.contextmanager
def borrowed(random: Random) -> Iterator[None]:
    """Let DEAP's own functions, which use the global generator, draw from ``random``."""
    state = global_random.getstate()
    global_random.setstate(random.getstate())
    try:
        yield
    finally:
        random.setstate(global_random.getstate())
        global_random.setstate(state)


def select(population: list[Individual], settings: SearchSettings, random: Random) -> Individual:
    """A parent: by tournament, by Algorithm 1's sample and top k, or by dominance and crowding."""
    with borrowed(random):
        if settings.objectives and len(population) >= DCD:
            return tools.selTournamentDCD(tools.selRandom(population, DCD), DCD)[0]
        if settings.sample_ratio is None:
            return tools.selTournament(population, 1, tournsize=settings.tournament)[0]
        sample = tools.selRandom(population, max(1, round(settings.sample_ratio * len(population))))
        return tools.selRandom(tools.selBest(sample, settings.top_k), 1)[0]


def survivors(population: list[Individual], settings: SearchSettings) -> list[Individual]:
    """The population without those that retire, in the order in which they were judged: the oldest, the worst (among
    equals the oldest), or with several objectives those that NSGA-II places last."""
    if settings.objectives:
        # also while nobody has to go: it measures the crowding that the tournament reads
        kept = tools.selNSGA2(population, min(len(population), settings.population))
        return sorted(kept, key=lambda individual: individual.birth.number)
    surplus = len(population) - settings.population
    if surplus <= 0:
        return population
    if settings.removal == "oldest":
        return population[surplus:]
    worst = sorted(population, key=lambda individual: (individual.score.fitness, -individual.birth.number))
    leaving = {individual.birth.number for individual in worst[-surplus:]}
    return [individual for individual in population if individual.birth.number not in leaving]


def nondominated(values: Sequence[tuple[float, ...]]) -> list[int]:
    """The positions of the values that no other is better than, all objectives minimised (DEAP's sort)."""
    points = [_Point(position, value) for position, value in enumerate(values)]
    fronts = tools.sortNondominated(points, len(points), first_front_only=True) if points else [[]]
    return sorted(point.position for point in fronts[0])


class _Point:
    def __init__(self, position: int, values: tuple[float, ...]):
        self.position = position
        self.fitness = fitness_class(len(values))(values)
