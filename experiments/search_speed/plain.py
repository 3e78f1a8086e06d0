"""The plain loop: what people write who have DEAP's tutorial and a training script, and no kdzero-gp.

Trees are DEAP's own (``gp.compile`` makes one nested expression of them), the training runs the teacher on every batch,
in float32 and torch's default layout, with torch's optimiser, and every candidate is trained, known or not.
"""

import random

import torch
import torch.nn.functional as F
from deap import algorithms, base, creator, gp, tools
from torch import nn

from kdzero_gp.families.classification import CLASSIFICATION


def lifted(operation, given):
    """A catalogue function as a primitive on pairs (student, teacher) of one type, as a tutorial would write it."""
    functions = operation.specialise(given) if operation.specialise else (operation.function,)

    def transform(pair, *constants):
        student, teacher = pair
        return functions[0](student, *constants), functions[0](teacher, *constants)

    def distance(pair):
        found = functions[0](*pair)
        for function in functions[1:]:
            found = function(found)
        return found

    return {"transform": transform, "distance": distance}.get(operation.role, functions[0])


def compiled(grammar, expression):
    """The tree as ``gp.compile`` makes it: a function of the pairs of tensors."""
    tree = gp.PrimitiveTree(grammar.to_nodes(expression))
    names = list(grammar.knowledge)
    grammar.primitive_set.arguments = names
    for (operation, slots, _), name in zip(grammar.rules, grammar.operation_of, strict=True):
        grammar.primitive_set.context[name] = lifted(operation, slots[0].type)
    text = str(tree)
    for name, value in grammar.value_of.items():
        if isinstance(value, float):
            text = text.replace(name, repr(value))
    function = gp.compile(text, grammar.primitive_set)
    return lambda student, teacher: function(**{name: (student[name], teacher[name]) for name in names})


def train(student, teacher, images, labels, recipe, seed, loss, magnitude=1.0, frozen=None):
    """The training loop of a tutorial: the same batches, schedule and clipping as the proxy's. ``frozen``: a part of
    the student that keeps its weights and statistics."""
    trained = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, recipe.learning_rate, recipe.momentum,
                                weight_decay=recipe.weight_decay, nesterov=True)  # fmt: skip
    size = min(recipe.batch_size, len(labels))
    per_epoch = len(labels) // size
    generator = torch.Generator().manual_seed(seed)
    student.train()
    if frozen is not None:
        frozen.eval()
    for step in range(recipe.steps(per_epoch)):
        place = step % per_epoch
        if place == 0:
            order = torch.randperm(len(labels), generator=generator)
        indices = order[place * size : (place + 1) * size]
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step, per_epoch)
        x, y = images[indices], labels[indices]
        with torch.no_grad():
            wanted = teacher(x)
        found = student(x)
        total = F.cross_entropy(found["logits"], y)
        if loss is not None:
            total = total + magnitude * loss(found, wanted)
        optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(student.parameters(), recipe.clip)
        optimizer.step()


@torch.no_grad()
def measure(student, teacher, images, labels, batch=64):
    """The metrics on the validation images, both networks run on them."""
    student.eval()
    found, wanted = [], []
    for start in range(0, len(labels), batch):
        x = images[start : start + batch]
        found.append(student(x))
        wanted.append(teacher(x))
    join = [
        {name: torch.cat([part[name] for part in parts]) for name in ("logits", "emb")} for parts in (found, wanted)
    ]
    return CLASSIFICATION.measure([(join[0], labels)]) | CLASSIFICATION.compare(*join, labels)


def evolve(grammar, evaluate, population, generations, seed, on_evaluation):
    """DEAP's ``eaSimple`` with its own typed operators, as its tutorial on symbolic regression has it. Every individual
    that variation touched is evaluated, whether or not the same tree was before."""
    random.seed(seed)
    space = grammar.primitive_set
    creator.create("PlainFitness", base.Fitness, weights=(-1.0,))
    creator.create("PlainTree", gp.PrimitiveTree, fitness=creator.PlainFitness)
    toolbox = base.Toolbox()

    def judged(tree):
        value = evaluate(grammar.to_expression(tree))
        on_evaluation(value)
        return (value,)

    def grown():
        # DEAP's own typed generators end in "none available" here, since losses have no leaves (issues 7, 219)
        return creator.PlainTree(grammar.grow(grammar.primitive_set.ret.slot, 8, random))

    toolbox.register("evaluate", judged)
    toolbox.register("select", tools.selTournament, tournsize=5)
    toolbox.register("mate", gp.cxOnePoint)
    toolbox.register("expr_mut", lambda pset, type_: grammar.grow(type_.slot, 6, random))
    toolbox.register("mutate", gp.mutUniform, expr=toolbox.expr_mut, pset=space)
    limit = gp.staticLimit(key=len, max_value=grammar.limits.size)
    toolbox.decorate("mate", limit)
    toolbox.decorate("mutate", limit)
    first = [grown() for _ in range(population)]
    algorithms.eaSimple(first, toolbox, cxpb=0.5, mutpb=0.4, ngen=generations - 1, verbose=False)
