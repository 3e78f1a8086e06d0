"""Does a language model beside the evolution find better distillers than what costs nothing?

Five arms on digits, all of a seed on one prepared pair: evolution; with births of a model; with as many fresh random
trees; with as many trees of a small probabilistic grammar fitted to the run's own fittest; with births of the model,
whose prompt shows nothing of the run. Compared at equal full trainings and equal seconds, those of the model's calls
among them. One row a search in ``result.jsonl``; a second start goes on, and its table is of one setting (births,
epochs of a proxy, model).

    python experiments/proposers/run.py --work FOLDER                       # SmolLM2-135M of this machine, 8 seeds
    python experiments/proposers/run.py --work FOLDER --url URL --model NAME [--key-env VARIABLE]
    python experiments/proposers/run.py --work FOLDER --seeds               # the table of what there is
"""

import argparse
import importlib.util
import itertools
import json
import re
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from guests import FittedGrammar, FreshTrees

from kdzero_gp.language_model import ModelSettings
from kdzero_gp.search.options import settings_from
from kdzero_gp.search.prepare import PROXY_TASK
from kdzero_gp.search.storage import Database

HERE = Path(__file__).parent
ARMS = ("evolution", "model", "fresh trees", "generator", "model without parents")
SHARE, POPULATION = 0.05, 20
CALLS = "calls.jsonl"


def _module(path):
    """Another study's program."""
    spec = importlib.util.spec_from_file_location(path.parent.name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SEARCH_QUALITY = _module(HERE.parent / "search_quality" / "run.py")
IN_PROCESS = _module(HERE.parent / "scaling" / "in_process.py")


class Searched(IN_PROCESS.SearchAlone):
    """A search with a guest by its arm."""

    def __init__(self, arm, *given):
        super().__init__(*given)
        self.arm = arm

    def guest(self):
        seed = self.settings.search.seed
        if self.arm == "fresh trees":
            return FreshTrees(self.grammar, SHARE, seed)
        if self.arm == "generator":
            return FittedGrammar(self.grammar, SHARE, seed)
        proposer = super().guest()
        if proposer is not None:
            proposer.with_parents = self.arm != "model without parents"
            proposer.correspondence._connect = _timed(proposer.correspondence._connect, self.folder / CALLS)
        return proposer


def _timed(connect, path):
    """An endpoint whose calls' seconds are kept."""

    def connected():
        endpoint = connect()
        ask = endpoint.ask

        def timed(*arguments):
            start = time.perf_counter()
            reply = ask(*arguments)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"seconds": round(time.perf_counter() - start, 2)}) + "\n")
            return reply

        endpoint.ask = timed
        return endpoint

    return connected


def settings_of(arm, seed, births, epochs, llm):
    """A search's settings: the task's own, with proxies of so many epochs (None: the task's)."""
    whole = settings_from({"task": "digits", "seed": seed, "pop": POPULATION, "generations": births // POPULATION,
                           "seed_zoo": False, "proxy_epochs": epochs})  # fmt: skip
    return replace(whole, llm=llm) if "model" in arm else whole


def measured(folder):
    """The best fitness over births, full trainings and seconds, and what the guest gave."""
    with Database.read(folder) as database:
        known = {e.digest: e for e in database.evaluations()}
        births, cost = database.births(), database.seconds("evaluation")
        account = database.fact("language_model", {})
    path = folder / CALLS
    calls = [json.loads(line)["seconds"] for line in path.read_text().splitlines()] if path.exists() else []
    guests = [b for b in births if b.operator in ("model", "fresh", "generator")]
    # where the calls fell is not kept: each of the model's births carries its share of their seconds
    each = sum(calls) / len(guests) if guests else 0.0
    best, spent, trained, curve = float("inf"), 0.0, 0, []
    for number, birth in enumerate(births, 1):
        spent += each * (birth.operator == "model")
        if birth.duplicate_of is None:
            found = known[birth.digest]
            spent += cost[birth.digest]
            trained += not found.equivalent_to and not found.screen
            best = min(best, float("inf") if found.fitness is None else found.fitness)
        curve.append((number, trained, round(spent, 1), round(best, 4)))
    fates = [known[b.digest].status.value for b in guests]
    return {
        "births": len(births), "trainings": trained, "seconds": round(spent, 1), "best": best, "curve": curve[9::10],
        "guests": {name: fates.count(name) for name in sorted(set(fates))}, "call_seconds": calls, "account": account,
    }  # fmt: skip


def setting_of(arm, births, epochs, model):
    """What the rows of an arm have in common: the fields of a row that say so."""
    births = births // POPULATION * POPULATION
    return {"arm": arm, "births": births, "proxy_epochs": epochs, "model": model if "model" in arm else None}


def of_setting(rows, given):
    """The rows of the setting that is asked for, of every arm."""
    settings = [setting_of(arm, given.births, given.proxy_epochs, given.model) for arm in ARMS]
    return [row for row in rows if any(setting.items() <= row.items() for setting in settings)]


def folder_of(work, arm, seed, given):
    """A search's folder: one for each setting."""
    epochs = "task" if given.proxy_epochs is None else f"{given.proxy_epochs:g}"
    words = [arm, *([given.model] if "model" in arm else []), str(seed)]
    return work / f"{given.births}-births-{epochs}-epochs" / re.sub(r"[^\w.-]+", "-", "-".join(words))


def summary(rows):
    """Each arm less evolution alone and less fresh trees: differences in best fitness, positive where the arm is
    better, paired by seed, with 95 % intervals."""
    by, table = {(row["arm"], row["seed"]): row for row in rows}, {}
    for arm, other in itertools.product(ARMS, ("evolution", "fresh trees")):
        seeds = sorted({seed for name, seed in by if name == arm} & {seed for name, seed in by if name == other})
        if arm != other and seeds:
            pairs = [(by[arm, seed], by[other, seed]) for seed in seeds]
            table[f"{arm} − {other}"] = {
                axis: SEARCH_QUALITY.better_at(axis, pairs) for axis in ("births", "trainings", "seconds")
            }
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="*", default=list(range(8)))
    parser.add_argument("--births", type=int, default=600)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--proxy-epochs", type=float, help="[default: the task's]")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0 trains in this one")
    parser.add_argument("--work", type=Path, required=True, help="where the runs are kept")
    parser.add_argument("--url", help="of another model's server")
    parser.add_argument("--model", default="SmolLM2-135M-Instruct")
    parser.add_argument("--key-env")
    parser.add_argument("--output", type=Path, default=HERE / "result.jsonl")
    given = parser.parse_args()
    lines = given.output.read_text(encoding="utf-8").splitlines() if given.output.exists() else []
    rows = [json.loads(line) for line in lines]
    done = {(row["seed"], row["arm"]) for row in of_setting(rows, given)}
    todo = [key for key in itertools.product(given.seeds, given.arms) if key not in done]
    running = None
    if given.url is None and any("model" in arm for _, arm in todo):
        from server import serve

        running, given.url = serve()
    for seed, arm in todo:
        llm = ModelSettings(given.url, given.model, given.key_env, SHARE, timeout=600.0)
        folder = folder_of(given.work, arm, seed, given)
        prepared = sorted(folder.parent.glob(f"*-{seed}/{PROXY_TASK}"))
        like = prepared[0].parent if prepared else folder
        settings = settings_of(arm, seed, given.births, given.proxy_epochs, llm)
        IN_PROCESS.searched(folder, settings, like, partial(Searched, arm), given.workers)
        setting = setting_of(arm, given.births, given.proxy_epochs, given.model)
        row = {"arm": arm, "seed": seed, **setting, **measured(folder)}
        rows.append(row)
        with given.output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        print(arm, seed, row["best"], row["trainings"], f"{row['seconds']:.0f} s", row["guests"], flush=True)
    del running
    print(json.dumps(summary(of_setting(rows, given)), indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
