"""Which distillers the benchmark trains, in the order of what their rows tell: see ``distillers.json``.

``python experiments/truth/distillers.py`` draws the list again: published methods, winners of searches that
``experiments/cifar100`` keeps, the random trees and variations of ``experiments/proxy_fidelity``, and variations of the
winners by the search's own crossover and mutations.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from itertools import chain, zip_longest
from pathlib import Path
from random import Random

from kdzero_gp.compiler import canonical, digest, pair_shapes, parse, zoo
from kdzero_gp.evolution import Grammar
from kdzero_gp.evolution.variation import MUTATIONS, crossover, within_limits

HERE = Path(__file__).parent
LIST = HERE / "distillers.json"
ALONE = "ce"
# The published methods that differ most come first.
FIRST = ("kd", "dkd", "dist", "cwd", "at", "fitnet", "sp", "rkd")
VARIATIONS = 12
CROSSOVER_SHARE = 0.3


@dataclass(frozen=True)
class Entry:
    """One distiller: ``kind`` is baseline, zoo, evolved, varied or random; ``origin`` says where it comes from.

    Published methods keep the ratio of their terms (``mode`` joint), the others' terms are each relative to the
    cross-entropy.
    """

    name: str
    kind: str
    expression: str = ""
    mode: str = ""
    origin: str = ""


def entries(path: Path = LIST) -> list[Entry]:
    """The list as it is kept, cross-entropy alone first."""
    return [Entry(**values) for values in json.loads(path.read_text(encoding="utf-8"))]


def draw() -> list[Entry]:
    """The list anew."""
    winners = _winners()
    others = _drawn_before(winners)
    names = [*FIRST, *(name for name in zoo if name not in FIRST)]
    published = [Entry(name, "zoo", str(zoo[name]), "joint", zoo.entries[name].reference) for name in names]
    mixed = [*winners, *_variations(winners, others), *others]
    turns = zip_longest(published[4:], mixed[:2], mixed[2::2], mixed[3::2])
    rest = [entry for entry in chain.from_iterable(turns) if entry is not None]
    return [Entry(ALONE, "baseline"), *published[:4], *rest]


def _evolved(name: str, kind: str, text: str, origin: str) -> Entry:
    expression = canonical(parse(text))
    return Entry(name or digest(expression)[:12], kind, str(expression), "relative", origin)


def _winners() -> list[Entry]:
    """The winners of the searches that were kept, each expression once."""
    folder = HERE.parent / "cifar100"
    found: dict[str, Entry] = {}
    for file in ("default.py", "evolved.py"):
        head = (folder / file).read_text(encoding="utf-8").partition("expression:")[2].partition("digest:")[0]
        entry = _evolved("", "evolved", " ".join(head.split()), f"cifar100/{file}")
        found[entry.expression] = entry
    for file in ("last_stage.json", "fitness.json", "surrogate.json"):
        expressions = json.loads((folder / file).read_text(encoding="utf-8"))["expressions"]
        for name, text in expressions.items():
            if name not in zoo:
                entry = _evolved("", "evolved", text, f"cifar100/{file}, {name}")
                found.setdefault(entry.expression, entry)
    return list(found.values())


def _drawn_before(taken: list[Entry]) -> list[Entry]:
    path = HERE.parent / "proxy_fidelity" / "results" / "cifar100_candidates.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    by_name = {candidate["name"]: candidate for candidate in content["candidates"]}
    chosen = [by_name[name] for name in content["chosen"] if by_name[name]["kind"] != "zoo"]
    known = {entry.name for entry in taken}
    made = [_evolved("", c["kind"], c["text"], "proxy_fidelity/cifar100_candidates.json") for c in chosen]
    return [entry for entry in made if entry.name not in known]


def _variations(winners: list[Entry], others: list[Entry]) -> list[Entry]:
    """Children of the winners and of published methods, drawn as a search draws them, none twice."""
    shapes = {"logits": (100,), "emb": (64,), "feat": (64, 8, 8)}
    grammar, random = Grammar("open", pair_shapes(shapes, shapes).types), Random(7)
    taken = {digest(parse(entry.expression)) for entry in winners + others} | {digest(e) for e in zoo.values()}
    texts = [entry.expression for entry in winners] + [str(zoo[name]) for name in FIRST]
    parents = [grammar.to_nodes(e) for text in texts if grammar.contains(e := canonical(parse(text)))]
    found: list[Entry] = []
    while len(found) < VARIATIONS:
        if random.random() < CROSSOVER_SHARE:
            nodes, _ = crossover(random.choice(parents), random.choice(parents), random)
        else:
            change, _ = random.choice(list(MUTATIONS.values()))
            nodes = change(random.choice(parents), grammar, random)
        expression = within_limits(grammar.to_expression(nodes), grammar)
        if expression is not None and digest(expression) not in taken:
            taken.add(digest(expression))
            found.append(_evolved("", "varied", str(expression), "variations of winners and published methods"))
    return found


if __name__ == "__main__":
    lines = ",\n".join(json.dumps(asdict(entry), ensure_ascii=False) for entry in draw())
    LIST.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
