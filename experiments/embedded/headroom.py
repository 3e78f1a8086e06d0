"""In which setting of the embedded task do distillers differ, and is there anything better than ``kd`` to be found?

Single distillers and sums of two of them, each at several magnitudes, are trained from scratch as a race does, all
seeds and magnitudes of one in a single pass (grouped convolutions). The magnitudes, and the best sums, are chosen on
two seeds by validation images; ten other seeds report. One line a setting and distiller.

    cd experiments/embedded && python headroom.py w4_n900_v397 w2_n500 --seeds 10
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from kdzero_gp import tasks
from kdzero_gp.common import ALONE, interval
from kdzero_gp.compiler import parse, source_of
from kdzero_gp.compiler.loading import load_source
from kdzero_gp.models import build
from kdzero_gp.progress import Progress
from kdzero_gp.proxy.evaluator import Evaluator, Probe
from kdzero_gp.proxy.students import student_builder
from kdzero_gp.search.prepare import prepare
from kdzero_gp.search.settings import RunSettings

HERE = Path(__file__).parent
# Those that need no adapter.
TERMS = {
    "kd": "no(kl(softmax_C(logits, 4)))",
    "kl1": "no(kl(softmax_C(logits, 1)))",
    "wsld": "focal(soft_cross_entropy(softmax_C(logits, 4)))",
    "mse": "no(l2(logits))",
    "pear": "no(pear(softmax_C(logits, 4)))",
    "pear'": "no(pear(transpose(softmax_C(logits, 4))))",
    "cor": "no(cor(emb))",
    "corl": "no(cor(logits))",
    "sp": "no(l2(norm_C(mm(feat))))",
    "nst": "no(mmd(norm_HW(feat)))",
    "at": "no(l2(norm_HW(mean_C(pow2(feat)))))",
    "pkt": "no(kl_mean(proportion_C(scale(mm(norm_C(emb))))))",
}
FACTORS = (1.0, 3.0, 10.0, 30.0)
SHARES = ((1.0, 1.0), (3.0, 1.0), (10.0, 3.0), (10.0, 10.0))
TUNING, FRESH = (0, 1), 100


class Students:
    """S students of one width side by side: channels of a layer are grouped by student."""

    def __init__(self, name, seeds):
        networks = []
        for seed in seeds:
            torch.manual_seed(seed)
            networks.append(build(name, 10, 1))
        self.count = len(seeds)
        self.p = {}
        for key in dict(networks[0].named_parameters()):
            values = [dict(network.named_parameters())[key].detach() for network in networks]
            self.p[key] = (torch.stack if key.startswith("fc") else torch.cat)(values).clone().requires_grad_()
        names = [f"{stage}.1.running_{value}" for stage in ("stage1", "stage2") for value in ("mean", "var")]
        self.stats = {key: torch.cat([dict(n.named_buffers())[key].clone() for n in networks]) for key in names}
        self.v = {key: torch.zeros_like(tensor) for key, tensor in self.p.items()}

    def stage(self, x, name, training):
        x = F.conv2d(x, self.p[f"{name}.0.weight"], padding=1, groups=self.count)
        statistics_ = (self.stats[f"{name}.1.running_mean"], self.stats[f"{name}.1.running_var"])
        x = F.batch_norm(x, *statistics_, self.p[f"{name}.1.weight"], self.p[f"{name}.1.bias"], training, 0.1)
        return F.relu(x)

    def __call__(self, x, training):
        """Images SxBx1x8x8."""
        x = x.transpose(0, 1).flatten(1, 2)
        x = self.stage(F.max_pool2d(self.stage(x, "stage1", training), 2), "stage2", training)
        feat = x.unflatten(1, (self.count, -1)).transpose(0, 1)
        emb = feat.mean((3, 4))
        logits = torch.baddbmm(self.p["fc.bias"][:, None], emb, self.p["fc.weight"].transpose(1, 2))
        return {"logits": logits, "emb": emb, "feat": feat}

    def step(self, loss, rate, clip=5.0, decay=5e-4, momentum=0.9):
        names = list(self.p)
        grads = torch.autograd.grad(loss, [self.p[k] for k in names])
        with torch.no_grad():
            norms = sum(g.reshape(self.count, -1).square().sum(1) for g in grads).sqrt()
            scale = (clip / (norms + 1e-6)).clamp(max=1.0)
            for k, g in zip(names, grads, strict=True):
                g = (g.reshape(self.count, -1) * scale[:, None]).reshape(g.shape) + decay * self.p[k]
                self.v[k].mul_(momentum).add_(g)
                self.p[k].sub_(rate * (g + momentum * self.v[k]))


def train(bench, recipe, loss, seeds):
    """Accuracies on validation and test images of students by ``loss(student, teacher, labels) -> S`` values."""
    split, count = bench.train, len(bench.train.labels)
    students = Students(bench.student["name"], seeds)
    orders = [torch.Generator().manual_seed(seed) for seed in seeds]
    size = min(recipe.batch_size, count)
    per_epoch = count // size
    total = recipe.steps(per_epoch)
    step = 0
    while step < total:
        order = torch.stack([torch.randperm(count, generator=g) for g in orders])
        for part in range(per_epoch):
            if step == total:
                break
            index = order[:, part * size : (part + 1) * size]
            out, labels = students(split.images[index], True), split.labels[index]
            own = F.cross_entropy(out["logits"].flatten(0, 1), labels.flatten(), reduction="none")
            own = own.unflatten(0, (len(seeds), -1)).mean(1)
            if loss is not None:
                own = own + loss(out, {k: t[index] for k, t in split.teacher.items()}, labels)
            students.step(own.sum(), recipe.rate(step, per_epoch))
            step += 1
    found = []
    for part in (bench.validation, bench.test):
        out = students(part.images.expand(len(seeds), *part.images.shape), False)
        found.append((out["logits"].argmax(2) == part.labels).float().mean(1).tolist())
    return found


def loss_of(bench, evaluator, text):
    """One term's values of S students at magnitude 1 relative to the cross-entropy's gradient at the warm student."""
    shapes = bench.student_shapes, bench.teacher_shapes
    source = source_of(parse(f"times({text}, 1)"), *shapes, None, knowledge=bench.family.knowledge)
    probed = evaluator.probe(Probe(source, 0, "relative"))
    if probed.reason:
        raise ValueError(probed.reason)
    distiller = load_source(source)
    distiller.magnitudes = probed.magnitudes
    return torch.vmap(distiller, randomness="different")


def study(name, seeds, rows, bases, wanted):
    task = tasks.get(f"settings:{name}")
    plan = task.plan
    settings = RunSettings(task=f"settings:{name}", teacher=plan.teacher, student=plan.student, plan=plan)
    begin = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        bench = prepare(Path(folder), settings, torch.device("cpu"), Progress())
        evaluator = Evaluator(bench, student_builder(bench.student, bench.train.images[:2]))
        losses = {term: loss_of(bench, evaluator, text) for term, text in TERMS.items() if term in wanted}
    recipe, fresh = bench.recipes["race"], [FRESH + s for s in range(seeds)]
    candidates = {(term,): [(f,) for f in FACTORS] for term in losses}
    candidates |= {(b, o): SHARES for b, o in itertools.product(bases, losses) if o not in bases[: bases.index(b) + 1]}
    chosen = {}
    for terms, shares in candidates.items():
        grid = list(itertools.product(shares, TUNING))
        factors = torch.tensor([list(share) for share, _ in grid]).T

        def loss(*a, factors=factors, terms=terms):
            return sum(f * losses[t](*a) for f, t in zip(factors, terms, strict=True))

        validation, _ = train(bench, recipe, loss, [seed for _, seed in grid])
        means = [statistics.fmean(validation[i : i + len(TUNING)]) for i in range(0, len(grid), len(TUNING))]
        chosen[terms] = max(zip(means, shares, strict=True))
    singles = [t for t in chosen if len(t) == 1]
    sums = sorted((t for t in chosen if len(t) == 2), key=lambda t: -chosen[t][0])[:3]
    results = {}
    for terms in [(), *singles, *sums]:

        def loss(*a, terms=terms):
            return sum(f * losses[t](*a) for f, t in zip(chosen[terms][1], terms, strict=True))

        results[terms] = train(bench, recipe, loss if terms else None, fresh)
        row = {"setting": name, "distiller": " + ".join(terms) or ALONE, "shares": chosen[terms][1] if terms else (),
               "tuning": chosen[terms][0] if terms else None, "teacher": bench.teacher,
               "images": [len(s.labels) for s in (bench.train, bench.validation, bench.test)],
               "validation": [round(v, 4) for v in results[terms][0]],
               "test": [round(v, 4) for v in results[terms][1]]}  # fmt: skip
        rows.write(json.dumps(row) + "\n")
    rows.flush()
    print(f"\n{name}: teacher {bench.teacher['validation_accuracy']:.4f} / {bench.teacher['test_accuracy']:.4f}, "
          f"images {row['images']}, {time.process_time() - begin:.0f} CPU s")  # fmt: skip
    kd = results[("kd",)]
    for terms in sorted(results, key=lambda t: -statistics.fmean(results[t][0])):
        cells = []
        for values, others in zip(results[terms], kd, strict=True):
            paired = [100 * (a - b) for a, b in zip(values, others, strict=True)]
            mean, sd = 100 * statistics.fmean(values), 100 * statistics.stdev(values)
            cells.append(f"{mean:6.2f} (sd {sd:4.2f}) {statistics.fmean(paired):+6.2f} ± {interval(paired):4.2f}")
        shares = str(chosen[terms][1] if terms else ())
        print(f"  {' + '.join(terms) or ALONE:14s} {shares:14s} validation {cells[0]}   test {cells[1]}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="+")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--terms", nargs="*", default=list(TERMS))
    parser.add_argument("--bases", nargs="*", default=["kd", "mse"])
    parser.add_argument("--output", type=Path, default=HERE / "headroom.jsonl")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with given.output.open("a", encoding="utf-8") as rows:
        for name in given.settings:
            study(name, given.seeds, rows, given.bases, given.terms)


if __name__ == "__main__":
    main()
