"""The readers of texts and files under libFuzzer (atheris): inputs that reach new lines of ours are kept and bred from.

``run.py`` damages valid inputs blindly; here the program's own branches guide what is tried. Each reader runs in a
process of its own for ``--inputs`` inputs of at most 4 kB (weights and databases, whose readers are not ours, stay with
``run.py``). The same counts as there: anything but ``KdzeroError`` and code that runs stop the reader, and the input is
kept beside ``guided.json``; so do 10 seconds for one input and 3 GB. atheris has wheels for Python 3.11 to 3.13.

    pip install atheris
    python experiments/fuzz/guided.py --inputs 100000
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
READERS = ("expressions", "answers of a language model", "recipes", "settings of runs", "contracts beside weights",
           "settings of trainings", "results of trainings", "boxes")  # fmt: skip
MEMORY = Path("/dev/shm")


def child(name, folder, inputs):
    """Read inputs of libFuzzer until there were so many or one breaks; does not come back."""
    import atheris

    with atheris.instrument_imports(include=["kdzero_gp", "primitives"]):
        import readers

        from kdzero_gp.errors import KdzeroError
    from damage import TOKENS
    from run import Watched

    scratch = folder / "read"
    scratch.mkdir()
    case, corpus, _ = readers.readers(scratch)[name]
    (scratch / "1.png").write_bytes(b"")  # what boxes are of
    (folder / "corpus").mkdir()
    for number, content in enumerate(corpus):
        (folder / "corpus" / str(number)).write_bytes(content if isinstance(content, bytes) else content.encode())
    words = {token for token in TOKENS if token.isascii() and token.isprintable() and 0 < len(token) < 60}
    quoted = (re.sub(r'(["\\])', r"\\\1", word) for word in sorted(words))
    (folder / "words").write_text("\n".join(f'"{word}"' for word in quoted) + "\n")
    watched = Watched()

    def once(data):
        read, given = case.of(data, scratch)
        watched.on = True
        with contextlib.suppress(KdzeroError):
            read(given)
        watched.on = False
        if watched.seen:
            raise RuntimeError(f"code was run: {watched.seen}")

    options = [f"-runs={inputs}", "-max_len=4096", "-timeout=10", "-rss_limit_mb=3000", f"-dict={folder / 'words'}",
               f"-artifact_prefix={folder}/broken-", "-print_final_stats=1", "-verbosity=0"]  # fmt: skip
    atheris.Setup([sys.argv[0], str(folder / "corpus"), *options], once)
    atheris.Fuzz()


def guided(name, inputs):
    """What libFuzzer says of one reader."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        begin = time.monotonic()
        done = subprocess.run([sys.executable, __file__, "--reader", name, folder, str(inputs)],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")  # fmt: skip
        broken = sorted(Path(folder).glob("broken-*"))
        for path in broken:
            shutil.move(path, HERE / f"{name.replace(' ', '-')}-{path.name}")
        said = dict(re.findall(r"stat::(\w+):\s+(\d+)", done.stderr))
        row = {"inputs": int(said.get("number_of_executed_units", 0)), "kept": int(said.get("new_units_added", 0)),
               "slowest_seconds": int(said.get("slowest_unit_time_sec", 0)), "mib": int(said.get("peak_rss_mb", 0)),
               "seconds": round(time.monotonic() - begin), "problems": len(broken)}  # fmt: skip
        if broken or done.returncode:
            print(done.stderr[-3000:], file=sys.stderr, flush=True)
        return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000, help="for each reader")
    parser.add_argument("--only", nargs="+", default=READERS, choices=READERS)
    parser.add_argument("--output", type=Path, default=HERE / "guided.json")
    parser.add_argument("--reader", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.reader:
        name, folder, inputs = given.reader
        os.chdir(folder)
        child(name, Path(folder), int(inputs))
    known = json.loads(given.output.read_text()) if given.output.exists() else {}
    for name in given.only:
        known[name] = guided(name, given.inputs)
        print(name, known[name], flush=True)
        given.output.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
