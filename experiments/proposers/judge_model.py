"""Does a language model know which of two distillers is fitter?

Offline, on stored runs, as ``judge.py``: the model sees the five fittest and five of the least fit of the first
``KNOWN`` trainings of a window, then two of the next trained ones, and says A or B; both orders are asked, and where it
does not say the same distiller twice, the pair counts one half. The surrogate and the rule that the larger tree is
fitter are asked about the same pairs. One row a pair in ``judge_model.jsonl``; a second start goes on.

    python experiments/proposers/judge_model.py RUN [RUN ...] --pairs 100
    python experiments/proposers/judge_model.py RUN [RUN ...] --url http://127.0.0.1:8080/v1 --model NAME
"""

import argparse
import json
import random
import statistics
from pathlib import Path

from judge import by_size, by_surrogate, right, trained_of

from kdzero_gp.common import interval
from kdzero_gp.language_model import Endpoint
from kdzero_gp.language_model.judge import OPTIONS, chosen
from kdzero_gp.language_model.prompting import compare

HERE = Path(__file__).parent
KNOWN, SHOWN = 20, 5


def said(endpoint, known, first, second):
    """Which of two the model calls the fitter: 0 or 1; None where it gives neither letter."""
    ranked = sorted(known, key=lambda e: e.fitness)
    good, bad = ([(e.fitness, e.expression) for e in part] for part in (ranked[:SHOWN], ranked[-SHOWN:]))
    return chosen(endpoint.ask(compare(good, bad, first.expression, second.expression), OPTIONS).text)


def pair_of(trained, number):
    """What is known of a run when a pair of it is asked about, and the pair."""
    chance = random.Random(number)
    start = chance.randrange(len(trained) - KNOWN - 1)
    known = trained[start : start + KNOWN]
    return known, chance.sample(trained[start + KNOWN : start + KNOWN + 40], 2)


def row_of(endpoint, trained, number):
    """One pair of a run: the share of right answers of each judge (1, ½ or 0)."""
    known, pair = pair_of(trained, number)
    truth = [e.fitness for e in pair]
    fitter = truth.index(min(truth))
    answers = [said(endpoint, known, *pair), said(endpoint, known, *pair[::-1])]
    votes = [None if a is None else (a if turned == 0 else 1 - a) == fitter for turned, a in enumerate(answers)]
    return {
        "model": endpoint.model, "number": number, "answers": answers, "fitness": truth,
        "right": sum(0.5 if vote is None else float(vote) for vote in votes) / 2,
        "surrogate": right(by_surrogate(known, pair), truth), "larger": 1 - right(by_size(known, pair), truth),
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--pairs", type=int, default=100, help="of all runs together")
    parser.add_argument("--url", help="of another model's server")
    parser.add_argument("--model", default="SmolLM2-135M-Instruct")
    parser.add_argument("--key-env", default="")
    parser.add_argument("--output", type=Path, default=HERE / "judge_model.jsonl")
    given = parser.parse_args()
    runs, running = [trained_of(folder) for folder in given.runs], None
    if given.url is None:
        from server import serve

        running, given.url = serve()
    lines = given.output.read_text(encoding="utf-8").splitlines() if given.output.exists() else []
    stored = [row for row in map(json.loads, lines) if row["model"] == given.model]
    endpoint = Endpoint(given.url, given.model, given.key_env, timeout=600)
    rows = []
    for number in range(given.pairs):
        trained = runs[number % len(runs)]
        # a pair of other runs has other distillers, of another fitness
        key = {"number": number, "fitness": [e.fitness for e in pair_of(trained, number)[1]]}
        row = next((row for row in stored if key.items() <= row.items()), None)
        if row is None:
            row = row_of(endpoint, trained, number)
            with given.output.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        rows.append(row)
    del running
    for name in ("right", "surrogate", "larger"):
        shares = [row[name] for row in rows]
        print(f"{name:10} {statistics.fmean(shares):.3f} ± {interval(shares):.3f} of {len(shares)} pairs")
    first = [answer for row in rows for answer in row["answers"]]
    print(f"answered A: {first.count(0)}, B: {first.count(1)}, neither: {first.count(None)}")


if __name__ == "__main__":
    main()
