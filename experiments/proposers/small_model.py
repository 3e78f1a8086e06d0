"""How many proposals of a language model are distillers, new, and not turned away by the screens, with a grammar, with
JSON and with neither?

Calls for five distillers each on the digits pair, until there are as many proposals as wanted; each form of answer gets
the same prompts. One row a call in ``small_model.jsonl``; a second start goes on.

    python experiments/proposers/small_model.py --work FOLDER                    # SmolLM2-135M of this machine
    python experiments/proposers/small_model.py --work FOLDER --url http://127.0.0.1:8080/v1 --model NAME
"""

import argparse
import json
import time
from collections import Counter
from pathlib import Path

import torch

from kdzero_gp.compiler import canonical, digest, pair_shapes, parse, source_of, zoo
from kdzero_gp.evolution import Grammar
from kdzero_gp.language_model import Endpoint, gbnf, read_answer
from kdzero_gp.language_model.prompting import Prompts, Situation
from kdzero_gp.language_model.proposer import JSON_FORM, PROPOSALS
from kdzero_gp.progress import Progress
from kdzero_gp.proxy.evaluator import Evaluator, Probe
from kdzero_gp.proxy.screens import SAME_GRADIENT
from kdzero_gp.proxy.students import student_builder
from kdzero_gp.search.options import settings_from
from kdzero_gp.search.prepare import prepare

HERE = Path(__file__).parent
MOST_TOKENS = 400


def forms_of(grammar):
    """What a request asks for, by the form of the answer."""
    return {"grammar": {"grammar": gbnf(grammar, PROPOSALS)}, "json": {"response_format": JSON_FORM}, "text": {}}


class Screens:
    """Asks what the search asks of a distiller before its training, on a pair prepared in a folder."""

    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        settings = settings_from({"task": "digits"})
        self.bench = prepare(folder, settings, torch.device("cpu"), Progress())
        self.evaluator = Evaluator(self.bench, student_builder(self.bench.student, self.bench.train.images[:2]))
        self.memory = settings.plan.loss_memory
        self.seen = []

    def verdict(self, expression):
        """'' for a distiller that would be trained, else why not."""
        bench = self.bench
        source = source_of(expression, bench.student_shapes, bench.teacher_shapes, knowledge=bench.family.knowledge)
        probed = self.evaluator.probe(Probe(source, 0, "relative", ("finite", "rejection"), self.memory))
        if probed.reason:
            return probed.screen or "error"
        gradient = torch.frombuffer(bytearray(probed.fingerprint), dtype=torch.float32)
        if any(float((gradient - other).norm()) <= SAME_GRADIENT * float(gradient.norm()) for other in self.seen):
            return "equivalence"
        self.seen.append(gradient)
        return ""


def row_of(endpoint, prompts, form, options, number):
    """One call."""
    start = time.perf_counter()
    seeded = {"temperature": 1.0, "seed": number, "max_tokens": MOST_TOKENS, **options}
    reply = endpoint.ask(prompts.propose(Situation()), seeded)
    reading = read_answer(reply.text, prompts.grammar) if not reply.failure else None
    return {
        "model": endpoint.model, "form": form, "number": number, "seconds": round(time.perf_counter() - start, 1),
        "failure": reply.failure, "refused": sorted(endpoint.refused), "tokens_in": reply.tokens_in,
        "tokens_out": reply.tokens_out, "distillers": [str(e) for e in reading.distillers] if reading else [],
        "useless": dict(reading.useless) if reading else {},
    }  # fmt: skip


def summary(rows, screens, known):
    """Shares of the proposals asked for, by form."""
    table = {}
    for form in dict.fromkeys(row["form"] for row in rows):
        mine = [row for row in rows if row["form"] == form]
        asked = PROPOSALS * len(mine)
        seen, verdicts, useless = set(known), Counter(), Counter()
        screens.seen.clear()
        for row in mine:
            useless.update(row["useless"])
            useless["no answer"] += bool(row["failure"])
            for text in row["distillers"][:PROPOSALS]:
                expression = canonical(parse(text))
                if digest(expression) not in seen:
                    seen.add(digest(expression))
                    verdicts[screens.verdict(expression)] += 1
        valid = sum(min(PROPOSALS, len(row["distillers"])) for row in mine)
        table[form] = {
            "calls": len(mine), "proposals": asked, "valid": valid, "new": sum(verdicts.values()),
            "not_rejected": verdicts[""], "rejected": {k: n for k, n in verdicts.items() if k},
            "useless": dict(useless),
            "seconds_a_call": round(sum(row["seconds"] for row in mine) / len(mine), 1),
            "tokens_in": round(sum(row["tokens_in"] for row in mine) / len(mine)),
            "tokens_out": round(sum(row["tokens_out"] for row in mine) / len(mine)),
        }  # fmt: skip
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="where the prepared pair is kept")
    parser.add_argument("--url", help="of another model's server")
    parser.add_argument("--model", default="SmolLM2-135M-Instruct")
    parser.add_argument("--key-env", default="")
    parser.add_argument("--proposals", type=int, default=200, help="for each form; 0 shows those that are there")
    parser.add_argument("--forms", nargs="+", default=["grammar", "json", "text"])
    parser.add_argument("--output", type=Path, default=HERE / "small_model.jsonl")
    given = parser.parse_args()
    screens, running = Screens(given.work), None
    if given.url is None and given.proposals:
        from server import serve

        running, given.url = serve()
    shapes = pair_shapes(screens.bench.student_shapes, screens.bench.teacher_shapes, screens.bench.family.knowledge)
    grammar = Grammar("open", shapes.types)
    prompts = Prompts(grammar, screens.bench.student_shapes, screens.bench.teacher_shapes, count=PROPOSALS)
    lines = given.output.read_text(encoding="utf-8").splitlines() if given.output.exists() else []
    rows = [json.loads(line) for line in lines]
    done = {(row["model"], row["form"], row["number"]) for row in rows}
    forms = forms_of(grammar)
    for number in range(given.proposals // PROPOSALS):
        for form in given.forms:
            if (given.model, form, number) not in done:
                # an endpoint of its own, since what a server refuses is remembered
                endpoint = Endpoint(given.url, given.model, given.key_env, timeout=600)
                rows.append(row_of(endpoint, prompts, form, forms[form], number))
                with given.output.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(rows[-1], ensure_ascii=False) + "\n")
    del running
    known = {digest(expression) for expression in zoo.values()}
    table = summary([row for row in rows if row["model"] == given.model], screens, known)
    print(json.dumps(table, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
