"""Which of two distillers is fitter? What can say so before their training: the surrogate, tree size, operations.

Offline, on runs that were stored: after the first ``known`` trainings of a window, each judge is asked about all pairs
of the next ``ASKED`` trained distillers. Share of right answers (0.5: chance; this is the AUC over pairs), mean over
windows with the 95 % interval (Student's t).

    python experiments/proposers/judge.py RUN [RUN ...]
"""

import argparse
import itertools
import json
import statistics
from pathlib import Path

import numpy as np
from scipy.stats import norm, rankdata

from kdzero_gp.common import interval
from kdzero_gp.compiler import parse
from kdzero_gp.proxy.surrogate import predict
from kdzero_gp.search.storage import Database, Status

HERE = Path(__file__).parent
KNOWN, ASKED = (5, 10, 20, 50, 100), 40
# Ridge of the regression on operation counts.
RIDGE = 1.0


def trained_of(folder):
    """The trained distillers of a run in the order of their births: expression, gradient, fitness."""
    with Database.read(folder) as database:
        births, known = database.births(), {e.digest: e for e in database.evaluations()}
    evaluations = [known[b.digest] for b in births if b.duplicate_of is None and b.digest in known]
    return [e for e in evaluations if e.status is Status.TRAINED and e.fingerprint]


def by_size(known, asked):
    """The smaller tree is the fitter one."""
    return [parse(e.expression).size for e in asked]


def by_counts(known, asked):
    """Ridge regression of the rank on the counts of operations and knowledge."""
    names = sorted({node.name for e in known for node in parse(e.expression).walk()})

    def counts(evaluations):
        rows = [[node.name for node in parse(e.expression).walk()] for e in evaluations]
        return np.array([[row.count(name) for name in names] for row in rows], dtype=float)

    x, y = counts(known), ranks(known)
    mean = x.mean(0)
    weights = np.linalg.solve((x - mean).T @ (x - mean) + RIDGE * np.eye(len(names)), (x - mean).T @ y)
    return (counts(asked) - mean) @ weights


def by_surrogate(known, asked):
    """What the search's surrogate predicts from the gradients."""
    gradients = np.stack([gradient(e) for e in known])
    fitness = np.array([e.fitness for e in known])
    return [predict(gradient(e), gradients, fitness, least=2).fitness for e in asked]


def by_length_of_gradient(known, asked):
    """The shorter gradient is the fitter one, or the longer, as the known ones have it."""
    lengths = [np.linalg.norm(gradient(e)) for e in (*known, *asked)]
    sign = np.corrcoef(rankdata(lengths[: len(known)]), ranks(known))[0, 1]
    return np.sign(sign) * np.array(lengths[len(known) :])


JUDGES = {
    "tree size": by_size, "operation counts": by_counts, "length of the gradient": by_length_of_gradient,
    "surrogate": by_surrogate,
}  # fmt: skip


def gradient(evaluation):
    return np.frombuffer(evaluation.fingerprint, dtype=np.float32).astype(np.float64)


def ranks(evaluations):
    """Normal quantiles of the ranks, the fittest lowest."""
    return norm.ppf((rankdata([e.fitness for e in evaluations]) - 0.5) / len(evaluations))


def right(said, truth):
    """The share of pairs that are ordered as in truth; a tie is half right."""
    pairs = [(a, b) for a, b in itertools.combinations(range(len(truth)), 2) if truth[a] != truth[b]]
    signs = [np.sign(said[a] - said[b]) * np.sign(truth[a] - truth[b]) for a, b in pairs]
    return statistics.fmean(0.5 + 0.5 * sign for sign in signs)


def windows_of(trained):
    """For each number of known trainings, what each judge says in windows that share no asked distiller."""
    found = {}
    for known in KNOWN:
        for start in range(0, len(trained) - known - ASKED + 1, ASKED):
            seen, asked = trained[start : start + known], trained[start + known : start + known + ASKED]
            truth = [e.fitness for e in asked]
            for name, judge in JUDGES.items():
                found.setdefault((known, name), []).append(right(judge(seen, asked), truth))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, default=HERE / "judge.json")
    given = parser.parse_args()
    together = {}
    for folder in given.runs:
        trained = trained_of(folder)
        print(folder, len(trained), "trained")
        for key, shares in windows_of(trained).items():
            together.setdefault(key, []).extend(shares)
    rows = [
        {"known": known, "judge": name, "windows": len(shares), "right": round(statistics.fmean(shares), 3),
         "half_width": round(interval(shares), 3)}
        for (known, name), shares in sorted(together.items())
    ]  # fmt: skip
    given.output.write_text(json.dumps(rows, indent=1).replace("NaN", "null") + "\n", encoding="utf-8")
    for row in rows:
        print(f"{row['known']:5} {row['judge']:24} {row['right']:.3f} ± {row['half_width']:.3f} ({row['windows']})")


if __name__ == "__main__":
    main()
