"""What is trained on each task, in which order."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from itertools import chain, zip_longest
from pathlib import Path

import torch
from candidates import CROSS_ENTROPY, published, random_trees, variations
from trainings import SCRATCH, Candidate, Laboratory, Stage, Store

from kdzero_gp.compiler import digest, pair_shapes, zoo
from kdzero_gp.engine.recipe import Recipe
from kdzero_gp.evolution import Grammar
from kdzero_gp.progress import Progress
from kdzero_gp.proxy.fitness import fitness
from kdzero_gp.search.prepare import prepare
from kdzero_gp.search.settings import RunSettings
from kdzero_gp.tasks.plan import CIFAR, DIGITS, PAPER_WEIGHTS
from kdzero_gp.tasks.plan import annealed as package_recipe

Say = Callable[[str], None]

# --- digits -----------------------------------------------------------------------------------------------------

# One proxy training varies by its start and its length; the rest is the package's recipe.
DIGITS_WARM = (3, 6, 12)
DIGITS_EPOCHS = (1, 2, 3, 5, 8, 12)
DIGITS_SCRATCH = (2, 3, 5, 8, 12, 20)
DIGITS_LONG = package_recipe(40, 0.1)
DIGITS_LONG_SEEDS = range(100, 108)
DIGITS_PROXY_SEEDS = (1, 2)
DIGITS_BASELINE_SEEDS = range(1, 6)
# The pool: published methods at several magnitudes, random trees, children of the fittest of both.
DIGITS_FACTORS = (1.0, 3.0, 10.0, 30.0)
DIGITS_RANDOM = 400
DIGITS_VARIED = 240
DIGITS_PARENTS = 60
DIGITS_CHOSEN = 80
# A distiller whose reference training takes more CPU seconds is left out; cross-entropy alone takes 0.1.
SLOW = 1.0
DIGITS_REFERENCE = "warm6-5"
# Stages and seeds at which the whole pool is measured, for the bound of a short rung, in order of importance. Seed 0 is
# also that of the reference, as both rungs of a run share a seed.
DIGITS_RUNGS = (("warm6-1", 0), ("warm6-2", 0), ("warm6-3", 0), ("warm6-5", 1), ("warm12-1", 0), ("warm12-5", 0))
DIGITS_FIRST = (
    "scratch-12", "scratch-5", "warm6-12", "warm6-5", "warm3-5", "warm12-5", "warm6-3", "warm6-8", "warm12-1",
    "warm3-1", "warm12-2", "warm12-3", "warm12-8",
)  # fmt: skip


def annealed(start: str, epochs: int, learning_rate: float) -> Recipe:
    """The package's proxy recipe, or its race recipe from scratch."""
    return package_recipe(epochs, learning_rate, "cosine" if start == SCRATCH else "linear")


def digits_stages() -> dict[str, Stage]:
    """All trainings of digits by name."""
    stages = [
        Stage(f"warm{warm}-{epochs}", f"warm{warm}", annealed("warm", epochs, 0.1))
        for warm in DIGITS_WARM
        for epochs in DIGITS_EPOCHS
    ]
    stages += [Stage(f"scratch-{epochs}", SCRATCH, annealed(SCRATCH, epochs, 0.1)) for epochs in DIGITS_SCRATCH]
    stages.append(Stage("long", SCRATCH, DIGITS_LONG, test=True))
    return {stage.name: stage for stage in stages}


def digits_laboratory(folder: Path, results: Path) -> Laboratory:
    """The pair of digits, its teacher trained here."""
    plan = DIGITS
    settings = RunSettings(task="digits", teacher=plan.teacher, student=plan.student, plan=plan)
    bench = prepare(folder, settings, torch.device("cpu"), Progress())
    warm = {f"warm{n}": (dataclasses.replace(plan.warm, epochs=n), None) for n in (6, *DIGITS_WARM)}
    return Laboratory(bench, warm, DIGITS_REFERENCE, Store(results / "digits.jsonl"), folder)


def reference_fitness(laboratory: Laboratory, stage: Stage, candidate: Candidate) -> float | None:
    """The equal sum at the reference stage, seed 0, relative to cross-entropy alone; None for a rejected one or one
    that is far too slow."""
    record = laboratory.run(candidate, stage, 0)
    baseline = laboratory.run(CROSS_ENTROPY, stage, 0)
    return (
        None
        if record["reason"] or record["cpu"] > SLOW
        else fitness(record["metrics"], baseline["metrics"], PAPER_WEIGHTS)
    )


def digits_pool(laboratory: Laboratory) -> tuple[list[Candidate], dict[str, float]]:
    """The pool and the reference fitness of those that were not rejected."""
    shapes = pair_shapes(laboratory.bench.student_shapes, laboratory.bench.teacher_shapes)
    grammar, stage = Grammar("open", shapes.types), digits_stages()[DIGITS_REFERENCE]
    taken = {digest(expression) for expression in zoo.values()}
    pool = published(list(zoo), DIGITS_FACTORS)
    pool += random_trees(grammar, DIGITS_RANDOM, "relative", 0, taken)
    scores = {c.name: score for c in pool if (score := reference_fitness(laboratory, stage, c)) is not None}
    ranked = sorted((c for c in pool if c.name in scores), key=lambda c: scores[c.name])
    parents = list(dict.fromkeys(c.text for c in ranked))[:DIGITS_PARENTS]
    children = variations(grammar, parents, DIGITS_VARIED, "relative", 1, taken)
    scores |= {c.name: score for c in children if (score := reference_fitness(laboratory, stage, c)) is not None}
    return [c for c in [*pool, *children] if c.name in scores], scores


def spread(pool: list[Candidate], scores: dict[str, float], count: int) -> list[Candidate]:
    """``count`` candidates evenly over the ranks of their reference fitness."""
    ranked = sorted(pool, key=lambda c: scores[c.name])
    return [ranked[round(i * (len(ranked) - 1) / (count - 1))] for i in range(count)]


def digits(folder: Path, results: Path, say: Say) -> None:
    """All trainings of digits, the ones that matter most first."""
    laboratory, stages = digits_laboratory(folder, results), digits_stages()
    pool, scores = digits_pool(laboratory)
    chosen = spread(pool, scores, DIGITS_CHOSEN)
    write(results / "digits_candidates.json", pool, chosen)
    say(f"pool of {len(pool)} distillers that train, {len(chosen)} chosen")
    long = [[(c, stages["long"], seed) for c in [CROSS_ENTROPY, *chosen]] for seed in DIGITS_LONG_SEEDS]
    proxies = [s for s in stages.values() if s.name != "long"]
    base = [(CROSS_ENTROPY, s, seed) for s in proxies for seed in DIGITS_BASELINE_SEEDS]
    order = [stages[n] for n in DIGITS_FIRST] + [s for s in proxies if s.name not in DIGITS_FIRST]
    short = [[(c, s, seed) for s in order for c in chosen] for seed in DIGITS_PROXY_SEEDS]
    count = len(DIGITS_FIRST) * len(chosen)
    rungs = [(c, stages[name], seed) for name, seed in DIGITS_RUNGS for c in pool]
    first, second = (list(chain.from_iterable(part)) for part in (long[:6], long[6:]))
    now = [*base, *rungs[: len(pool)], *first, *short[0][:count], *second]
    _work(laboratory, [*now, *rungs[: 3 * len(pool)], *short[0], *rungs, *short[1]], say)


# --- CIFAR-100 ----------------------------------------------------------------------------------------------------

CIFAR_PUBLISHED = ("dkd", "dist", "kd", "at", "pkt", "sp", "cc", "rkd", "nst", "fitnet")
CIFAR_TREES = 7
CIFAR_VARIED = 9
CIFAR_REFERENCE = "warm7-2"
# From scratch on 8,000 of the 45,000 images, one cycle of the learning rate.
CIFAR_LONG = dataclasses.replace(package_recipe(8, 0.1), warmup=0.25)
CIFAR_IMAGES, CIFAR_LONG_IMAGES = 3000, 8000


def cifar_stages() -> dict[str, Stage]:
    """All trainings of CIFAR-100 by name."""
    stages = [
        Stage(f"warm7-{n}", "warm7", annealed("warm", n, 0.05), CIFAR_IMAGES, 1000) for n in (1, 2)
    ]  # fmt: skip
    stages.append(Stage("warm15-tail2", "warm15", annealed("warm", 2, 0.05), CIFAR_LONG_IMAGES, 2000, tail=True))
    # as ``--training short`` has it
    stages.append(Stage("warm1-3", "warm1", annealed("warm", 3, 0.05), 4000, 2000))
    stages.append(Stage("scratch-3", SCRATCH, annealed(SCRATCH, 3, 0.05), CIFAR_IMAGES, 1000))
    stages.append(Stage("long", SCRATCH, CIFAR_LONG, CIFAR_LONG_IMAGES, None))
    return {stage.name: stage for stage in stages}


def cifar_laboratory(folder: Path, results: Path, data: str, teacher_weights: str) -> Laboratory:
    """ResNet-56 → ResNet-20 with the given teacher."""
    plan = CIFAR
    # the study trains its own warm student
    plan = dataclasses.replace(
        plan, images=CIFAR_LONG_IMAGES, validation_images=None, warm=dataclasses.replace(plan.warm, epochs=0.01)
    )
    settings = RunSettings(
        task="cifar100", data=data, teacher=plan.teacher, teacher_weights=teacher_weights, student=plan.student,
        plan=plan,
    )  # fmt: skip
    bench = prepare(folder, settings, torch.device("cpu"), Progress())
    torch.set_num_threads(1)
    recipe = CIFAR.warm
    warm: dict[str, tuple[Recipe, int | None]] = {
        "warm7": (dataclasses.replace(recipe, epochs=7), CIFAR_IMAGES),
        "warm15": (dataclasses.replace(recipe, epochs=15), CIFAR_LONG_IMAGES),
        "warm1": (dataclasses.replace(recipe, epochs=1), 4000),
    }  # fmt: skip
    return Laboratory(bench, warm, CIFAR_REFERENCE, Store(results / "cifar100.jsonl"), folder)


def cifar_candidates(laboratory: Laboratory) -> list[Candidate]:
    """Published methods, random trees and variations of published methods in turn, all at relative magnitude 1."""
    shapes = pair_shapes(laboratory.bench.student_shapes, laboratory.bench.teacher_shapes)
    grammar = Grammar("open", shapes.types)
    taken = {digest(expression) for expression in zoo.values()}
    trees = random_trees(grammar, CIFAR_TREES, "joint", 2, taken)
    varied = variations(grammar, [str(e) for e in zoo.values()], CIFAR_VARIED, "joint", 3, taken)
    return list(_in_turn(published(CIFAR_PUBLISHED, (1.0,)), varied, trees))


def _in_turn(*groups: list[Candidate]) -> Iterator[Candidate]:
    return (c for c in chain.from_iterable(zip_longest(*groups)) if c is not None)


def cifar100(folder: Path, results: Path, say: Say, data: str, teacher_weights: str) -> None:
    """All trainings of CIFAR-100: of each candidate in turn its proxy and its long training, other proxies last."""
    laboratory, stages = cifar_laboratory(folder, results, data, teacher_weights), cifar_stages()
    reference = stages[CIFAR_REFERENCE]
    chosen = cifar_candidates(laboratory)
    write(results / "cifar100_candidates.json", chosen, chosen)
    pairs = [(c, s, seed) for c in [CROSS_ENTROPY, *chosen] for s, seed in ((reference, 0), (stages["long"], 100))]
    tail, short, scratch = (stages[name] for name in ("warm15-tail2", "warm1-3", "scratch-3"))
    base = [(CROSS_ENTROPY, s, seed) for s in (reference, tail, short, scratch) for seed in (1, 2)]
    order = ((tail, 0), (tail, 1), (short, 0), (scratch, 0), (reference, 1), (stages["warm7-1"], 0))
    _work(laboratory, [*pairs, *base, *((c, s, seed) for s, seed in order for c in [CROSS_ENTROPY, *chosen])], say)


def write(path: Path, pool: list[Candidate], chosen: list[Candidate]) -> None:
    """Say in a file which candidates there are and which were chosen for long trainings."""
    content = {"chosen": [c.name for c in chosen], "candidates": [dataclasses.asdict(c) for c in pool]}
    path.write_text(json.dumps(content, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")


def _work(laboratory: Laboratory, todo: list[tuple[Candidate, Stage, int]], say: Say) -> None:
    reference, said = laboratory.reference, 0
    for done, (candidate, stage, seed) in enumerate(todo):
        # what the reference stage rejected has no magnitudes to train with
        measured = laboratory.store.get(candidate.name, reference, 0)
        if candidate.text and (stage.name, seed) != (reference, 0) and (measured is None or measured["reason"]):
            continue
        laboratory.run(candidate, stage, seed)
        if done * 50 // len(todo) > said:
            said = done * 50 // len(todo)
            say(f"{done} of {len(todo)} trainings: {candidate.name} {stage.name} seed {seed}")
