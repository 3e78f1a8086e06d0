"""Do files and texts from strangers run code, break with anything but the one sentence, or take long?

Valid inputs of each reader are damaged (bytes flipped, removed, inserted, doubled, parts of two put together; texts get
tokens of the language) and read. What counts: exceptions other than ``KdzeroError``, audit events that say that code
was run or a program or connection was started, the longest time of one reading, and the most memory of all. Counts are
added to ``result.json``, so that inputs can be tried in parts. Exported files are no data: they are Python, and whoever
gives one to ``--distiller`` runs it.

    python experiments/fuzz/run.py --seconds 60
"""

import argparse
import contextlib
import itertools
import json
import random
import resource
import sqlite3
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import torch

from kdzero_gp.analysis.run import StoredRun
from kdzero_gp.compiler import from_genotype, parse, zoo
from kdzero_gp.engine.recipe import load_recipe, names
from kdzero_gp.errors import KdzeroError
from kdzero_gp.models.contract import read_contract
from kdzero_gp.models.weights import load_weights, save_weights
from kdzero_gp.proxy.task import ProxyTask
from kdzero_gp.search.storage import DATABASE
from primitives import CATALOGUE

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "tests"))
from synthetic import synthetic_run  # noqa: E402

# What code from a file would cause. ``exec`` is also raised by modules that are imported late, whose code has a file,
# and by cattrs, which makes readers of our own classes.
OURS = ("<cattrs generated", "<frozen", "<__array_function__")
FORBIDDEN = ("exec", "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect",
             "ctypes.dlopen", "shutil.rmtree")  # fmt: skip
NAMES = [operation.name for operation in CATALOGUE]
TOKENS = [*NAMES, "(", ")", ",", " ", "1", "0.1", "4", "-", "nan", "1e999", "feat", "logits", "emb", "'", "\\", "\0",
          "__import__", "lambda", "é", "\u202e", "add(", "times(", "9" * 50, "((((((((" * 20]  # fmt: skip
FIELDS = ("knowledge_input", "trans_func1", "trans_func2", "trans_func3", "distance_func", "weight", "temperature",
          "magnitude")  # fmt: skip


class Watched:
    """Audit events since the watch began."""

    def __init__(self):
        self.on, self.seen = False, []
        sys.addaudithook(self.hear)

    def hear(self, event, arguments):
        if event == "exec":
            name = getattr(arguments[0], "co_filename", "")
            if name.startswith(OURS) or Path(name).is_file():
                return
        if self.on and event in FORBIDDEN:
            self.seen.append(f"{event} {str(arguments)[:100]}")


def damaged(content, others, chance):
    """Bytes with a few things wrong."""
    content = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        place, how = chance.randrange(len(content) + 1), chance.randrange(6)
        length = min(chance.choice((1, 2, 4, 8, 64, 1024)), max(1, len(content) - place))
        if how == 0 and place < len(content):
            content[place] ^= 1 << chance.randrange(8)
        elif how == 1:
            del content[place : place + length]
        elif how == 2:
            content[place:place] = chance.randbytes(length)
        elif how == 3:
            content[place : place + length] = chance.choice((b"\xff", b"\0", b"\x7f")) * length
        elif how == 4:
            content[place:place] = content[place : place + length]
        else:
            other = chance.choice(others)
            content[place:] = other[chance.randrange(len(other) + 1) :]
    return bytes(content)


def garbled(text, chance):
    """A text of the language with a few tokens wrong."""
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        place = chance.randrange(len(text) + 1)
        text = text[:place] + chance.choice((chance.choice(TOKENS), "")) + text[place + chance.choice((0, 0, 1, 3)) :]
    return text


def expression(corpus, folder, chance):
    return parse, garbled(chance.choice(corpus), chance)


def genotype(corpus, folder, chance):
    values = (*NAMES, "no", "emd", "multi_scale_r4", "", "x" * 9999, None, -1, 1e999, 4, 100, [], {})
    given = {name: chance.choice(values) for name in FIELDS}
    return lambda given: from_genotype(**given), given


def file_reader(read, suffix):
    """Reads damaged files with ``read``."""

    def case(corpus, folder, chance):
        path = folder / f"given{suffix}"
        path.write_bytes(damaged(chance.choice(corpus), corpus, chance))
        return read, path

    return case


def run_reader(corpus, folder, chance):
    for rest in ("-wal", "-shm", "-journal"):
        (folder / (DATABASE + rest)).unlink(missing_ok=True)
    (folder / DATABASE).write_bytes(damaged(chance.choice(corpus), corpus, chance))
    return look, folder


def look(folder):
    """What ``show`` reads of a run."""
    run = StoredRun(folder)
    return run.settings, run.counts, run.top(5), run.race, run.screens, run.drawn, run.verdict


def values_reader(corpus, folder, chance):
    """A sound database in which single values are hostile."""
    run_reader(corpus, folder, random.Random())
    (folder / DATABASE).write_bytes(corpus[0])
    hostile = (
        "",
        "{",
        "[1",
        "null",
        '"x"',
        "1e999",
        "NaN",
        "[" * 3000,
        '{"a": 1}',
        -1,
        2**62,
        b"\xff",
        None,
        "__import__",
    )
    with sqlite3.connect(folder / DATABASE) as database:
        table = chance.choice(("facts", "births", "evaluations", "measurements"))
        column = chance.choice([row[1] for row in database.execute(f"PRAGMA table_info({table})")])
        one = f"(SELECT rowid FROM {table} ORDER BY random() LIMIT 1)"
        with contextlib.suppress(sqlite3.Error):
            database.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = {one}", (chance.choice(hostile),))
    database.close()
    return look, folder


def readers(folder):
    """Each reader's cases and its valid inputs."""
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.Linear(3, 4))
    torch.save({"state_dict": network.state_dict()}, folder / "new.pt")
    torch.save(network.state_dict(), folder / "old.pt", _use_new_zipfile_serialization=False)
    save_weights(network, folder / "some.safetensors")
    run = synthetic_run(folder / "run", births=60)
    with sqlite3.connect(run / DATABASE) as database:
        database.execute("PRAGMA journal_mode=DELETE")
    database.close()
    saved = [(folder / name).read_bytes() for name in ("new.pt", "old.pt")]
    base = Path(load_recipe.__code__.co_filename).parent / "recipes"
    recipes = [(base / f"{name}.toml").read_bytes() for name in names()]
    load = lambda path: load_weights(network, path)  # noqa: E731
    databases = [(run / DATABASE).read_bytes()]
    look(run)  # imports what is imported late
    return {
        "expressions": (expression, [str(one) for one in zoo.values()]),
        "genotypes": (genotype, []),
        "recipes": (file_reader(lambda path: load_recipe(str(path)), ".toml"), recipes),
        "weights of torch": (file_reader(load, ".pt"), saved),
        "weights, safetensors": (file_reader(load, ".safetensors"), [(folder / "some.safetensors").read_bytes()]),
        "contracts": (file_reader(read_contract, ".safetensors"), [(folder / "some.safetensors").read_bytes()]),
        "proxy tasks": (file_reader(ProxyTask.load, ".pt"), saved),
        "databases": (run_reader, databases),
        "values in databases": (values_reader, databases),
    }


def tried(case, corpus, folder, seconds, chance, watched, problems):
    """How many inputs, the slowest, and what went wrong."""
    count, slowest, accepted, end = 0, 0.0, 0, time.monotonic() + seconds
    for count in itertools.count(1):
        read, given = case(corpus, folder, chance)
        begin = time.perf_counter()
        watched.on, watched.seen = True, []
        try:
            read(given)
            accepted += 1
        except KdzeroError:
            pass
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            key = f"{type(error).__name__} in {Path(where.filename).name}:{where.lineno}: {str(error)[:100]}"
            problems[key] = problems.get(key, 0) + 1
        watched.on = False
        slowest = max(slowest, time.perf_counter() - begin)
        for event in watched.seen:
            problems[event] = problems.get(event, 0) + 1
        if time.monotonic() > end:
            return count, slowest, accepted


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="for each reader")
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    watched, output = Watched(), HERE / "result.json"
    known = json.loads(output.read_text()) if output.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for name, (case, corpus) in readers(folder).items():
            if given.only and name not in given.only:
                continue
            place = folder / name.replace(" ", "_")
            place.mkdir()
            problems = {}
            found = tried(case, corpus, place, given.seconds, random.Random(given.seed), watched, problems)
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            before = known.get(name, {"inputs": 0, "accepted": 0, "slowest_seconds": 0.0, "mib": 0})
            known[name] = {
                "inputs": before["inputs"] + found[0], "accepted": before["accepted"] + found[2],
                "slowest_seconds": round(max(before["slowest_seconds"], found[1]), 3),
                "mib": max(before["mib"], memory), "problems": problems,
            }  # fmt: skip
            print(name, json.dumps(known[name], ensure_ascii=False), flush=True)
            output.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(sum(row["inputs"] for row in known.values()), "inputs in all")


if __name__ == "__main__":
    main()
