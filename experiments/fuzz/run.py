"""Do files and texts from strangers run code, break with anything but the one sentence, or take long?

Valid inputs of each reader are damaged (bytes flipped, removed, inserted, doubled, parts of two put together; texts get
tokens of the language, JSON other values) and read. What counts: exceptions other than ``KdzeroError``, audit events
that say that code was run or a program or connection was started, the longest time of one reading (what takes long is
read once more, and the shorter time counts: the machine may be busy), and the most memory of the process. Counts are
added to ``result.json`` after every few seconds, and each reader's inputs follow from how many it had before, so that
the study can be stopped and gone on with. Exported files are no data: they are Python, and whoever gives one to
``--distiller`` runs it.

    python experiments/fuzz/run.py --inputs 1000000
"""

import argparse
import json
import random
import resource
import sys
import tempfile
import time
import traceback
import typing
import warnings
from pathlib import Path

import cattrs

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from readers import readers  # noqa: E402

from kdzero_gp.errors import KdzeroError  # noqa: E402

# What code from a file would cause. ``exec`` is also raised by modules that are imported late, whose code has a file,
# and by cattrs, which makes readers of our own classes.
OURS = ("<cattrs generated", "<frozen", "<__array_function__")
# They evaluate the annotations of our own classes, and make readers of them, when one is read for the first time.
ANNOTATIONS = (typing.__file__, str(Path(cattrs.__file__).parent))
FORBIDDEN = ("exec", "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect",
             "ctypes.dlopen", "shutil.rmtree")  # fmt: skip
# Seconds of a reading that is tried once more.
LONG = 0.2
# A folder in memory, where there is one: files are read a million times.
MEMORY = Path("/dev/shm")


class Watched:
    """Audit events since the watch began."""

    def __init__(self):
        self.on, self.seen = False, []
        sys.addaudithook(self.hear)

    def hear(self, event, arguments):
        if not self.on or event not in FORBIDDEN:
            return
        if event == "exec":
            name = getattr(arguments[0], "co_filename", "")
            if name.startswith(OURS) or Path(name).is_file():
                return
        if event == "shutil.rmtree" and Path(arguments[0]).parent == Path(tempfile.gettempdir()):
            return  # torch unpacks its oldest format in a temporary folder
        frames = traceback.extract_stack()[-7:-1]
        if event == "exec" and any(frame.filename.startswith("<frozen importlib") for frame in frames):
            return  # a module of an installed package, imported late, makes its named tuples
        if event == "exec" and frames[-1].filename.startswith(ANNOTATIONS):
            return
        callers = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames]
        self.seen.append(f"{event} {str(arguments)[:100]} from {' → '.join(callers)}")


def once(read, given, problems):
    """The seconds of one reading, and whether the input was accepted."""
    begin = time.perf_counter()
    try:
        read(given)
        return time.perf_counter() - begin, True
    except KdzeroError:
        pass
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        key = f"{type(error).__name__} in {Path(where.filename).name}:{where.lineno}: {str(error)[:100]}"
        problems[key] = problems.get(key, 0) + 1
    return time.perf_counter() - begin, False


def tried(case, corpus, folder, most, seconds, chance, watched, problems):
    """How many inputs, how many of them were accepted, and the slowest; what went wrong is added to ``problems``."""
    count, slowest, accepted, end = 0, 0.0, 0, time.monotonic() + seconds
    while count < most and time.monotonic() < end:
        read, given = case(corpus, folder, chance)
        count += 1
        watched.on = True
        taken, good = once(read, given, problems)
        if taken > max(LONG, slowest):
            taken = min(taken, once(read, given, {})[0])
        watched.on = False
        accepted += good
        slowest = max(slowest, taken)
        for event in watched.seen:
            problems[event] = problems.get(event, 0) + 1
        watched.seen.clear()
    return count, accepted, slowest


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=1_000_000, help="of all readers together, those of before too")
    parser.add_argument("--seconds", type=float, default=5.0, help="for one reader at a time")
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--output", type=Path, default=HERE / "result.json")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    watched = Watched()
    known = json.loads(given.output.read_text()) if given.output.exists() else {}
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        folder = Path(folder)
        todo = {name: one for name, one in readers(folder).items() if not given.only or name in given.only}
        for name in todo:
            (folder / name).mkdir()
            (folder / name / "1.png").write_bytes(b"")  # what boxes are of
        while todo:
            for name, (case, corpus, share) in list(todo.items()):
                row = known.setdefault(
                    name, {"inputs": 0, "accepted": 0, "slowest_seconds": 0.0, "mib": 0, "problems": {}}
                )
                left = round(share * given.inputs) - row["inputs"]
                chance = random.Random(f"{name}/{row['inputs']}")
                count, accepted, slowest = tried(
                    case, corpus, folder / name, left, given.seconds, chance, watched, row["problems"]
                )
                memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
                row |= {
                    "inputs": row["inputs"] + count, "accepted": row["accepted"] + accepted,
                    "slowest_seconds": round(max(row["slowest_seconds"], slowest), 3), "mib": max(row["mib"], memory),
                }  # fmt: skip
                given.output.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
                if left <= count:
                    del todo[name]
                    print(name, json.dumps(row, ensure_ascii=False), flush=True)
    print(sum(row["inputs"] for row in known.values()), "inputs in all")


if __name__ == "__main__":
    main()
