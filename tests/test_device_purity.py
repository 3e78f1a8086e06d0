"""Nothing in a training step leaves the device: found without one, on fake tensors that know where they are."""

import random

import pytest
import torch

import kdzero_gp
from devices import LeftTheDevice, OnDevice, fake_batch, loss_on_cuda, pretended_cuda, trees_by_operation
from kdzero_gp.compiler import load_source, pair_shapes
from kdzero_gp.evolution import Grammar, Slot
from kdzero_gp.families import agreement
from kdzero_gp.families.classification import CLASSIFICATION, gaps
from primitives import LOSS
from strategies import IMAGE_ZOO, PAIRS, TOKEN_KNOWLEDGE, random_trees

RANDOM = 250  # of each of the two sources of random distillers
BATCH = 6
EVERY_OPERATION = [operation.name for operation in kdzero_gp.catalogue if not operation.dense]


def pure(expression, pair):
    loss_on_cuda(lambda: kdzero_gp.compile(expression, *PAIRS[pair]), PAIRS[pair])


@pytest.mark.parametrize("name", EVERY_OPERATION)
def test_an_operation_stays_on_the_device(name):
    pure(trees_by_operation()[name], "equal")


@pytest.mark.parametrize("pair", ["equal", "cross"])
@pytest.mark.parametrize("name", IMAGE_ZOO)
def test_a_published_method_stays_on_the_device_with_its_adapters(name, pair):
    pure(kdzero_gp.zoo[name], pair)


@pytest.mark.parametrize("pair", list(PAIRS))
def test_random_distillers_stay_on_the_device(pair):
    knowledge = {"knowledge": TOKEN_KNOWLEDGE} if pair == "tokens" else {}
    for tree in random_trees(RANDOM // len(PAIRS) + 1, seed=41, searchable_only=False, **knowledge):
        pure(tree, pair)


def test_distillers_of_the_search_space_stay_on_the_device():
    grammar = Grammar("open", pair_shapes(*PAIRS["cross"]).types)
    generator = random.Random(42)
    for _ in range(RANDOM):
        pure(grammar.to_expression(grammar.grow(Slot(LOSS), 8, generator)), "cross")


def test_the_student_s_own_loss_stays_on_the_device():
    with pretended_cuda():
        student, _, labels = fake_batch(PAIRS["equal"], BATCH)
        with OnDevice("cuda"):
            loss = CLASSIFICATION.own_loss(student, labels)
    assert loss.device.type == "cuda"


def test_the_metrics_stay_on_the_device_until_they_are_read():
    with pretended_cuda():
        student, teacher, labels = fake_batch(PAIRS["cross"], 600)
        with OnDevice("cuda"):
            found = gaps(student, teacher, labels)
    assert set(found) == {"calibrated", "sharpness_gap", "cka_gap"}
    assert all(value.shape == () for value in found.values())


def optimiser_step(optimiser_of, parameters=((4, 3), (4,))):
    """Two steps of an optimiser on parameters without data."""
    weights = [torch.nn.Parameter(torch.empty(shape, device="meta")) for shape in parameters]
    with OnDevice("meta"):
        optimiser = optimiser_of(weights)
        for _ in range(2):
            optimiser.zero_grad()
            optimiser.step(0.1)


def flat_sgd(weights):
    from kdzero_gp.engine.optimizer import FlatSGD
    from kdzero_gp.engine.recipe import Recipe

    return FlatSGD(weights, Recipe(epochs=1, batch_size=2, learning_rate=0.1, nesterov=True, clip=5.0))


def test_the_optimiser_stays_on_the_device():
    optimiser_step(flat_sgd)


# --- faults that have to be found -------------------------------------------------------------------------------

FAULTS = {
    "a tensor sent to the processor": ('student["logits"]', 'student["logits"].cpu()'),
    "a copy to the processor and back": ('student["logits"]', 'student["logits"].cpu().to(labels.device)'),
    "a bare vector of zeros": ('student["logits"]', 'student["logits"] + torch.zeros(100)'),
    "a bare scalar of zeros": ('student["logits"]', 'student["logits"] + torch.zeros(())'),
    "a constant on the processor": ('student["logits"]', 'student["logits"] * torch.tensor(2.0)'),
    "bare indices": ('student["logits"]', 'student["logits"][torch.arange(len(labels))]'),
    "a value that is read": ('student["logits"]', 'student["logits"] * student["logits"].sum().item()'),
    "a branch on a value": ('student["logits"]', 'student["logits"] * (2 if labels.sum() > 3 else 1)'),
    "a teacher's part on the processor": ('teacher["logits"].detach()', 'teacher["logits"].detach().cpu()'),
}


@pytest.mark.parametrize("fault", list(FAULTS))
def test_a_planted_fault_in_a_distiller_is_found(fault):
    right, wrong = FAULTS[fault]
    source = kdzero_gp.source_of(kdzero_gp.zoo["kd"], *PAIRS["equal"])
    assert right in source
    loss_on_cuda(lambda: load_source(source), PAIRS["equal"])
    with pytest.raises((LeftTheDevice, RuntimeError)):
        loss_on_cuda(lambda: load_source(source.replace(right, wrong)), PAIRS["equal"])


def test_a_planted_fault_in_an_operation_is_found():
    """An operation that mixes devices, as the generated file has it above the class."""
    source = kdzero_gp.source_of("times(no(l2(relu(feat))), 1)", *PAIRS["equal"])
    right = "(student - teacher)"
    assert right in source
    for wrong in ("(student - teacher.cpu())", "(student - teacher + torch.zeros(8, 8))"):
        with pytest.raises((LeftTheDevice, RuntimeError)):
            loss_on_cuda(lambda wrong=wrong: load_source(source.replace(right, wrong)), PAIRS["equal"])


def test_a_planted_fault_in_an_adapter_is_found():
    source = kdzero_gp.source_of(kdzero_gp.zoo["fitnet"], *PAIRS["cross"])
    made = "super().__init__()"
    assert made in source

    def faulty():
        distiller = load_source(source)
        for name, parameter in list(distiller.named_parameters()):
            module = distiller.get_submodule(name.rpartition(".")[0])
            setattr(module, name.rpartition(".")[2], torch.nn.Parameter(torch.empty(parameter.shape, device="cpu")))
        return distiller

    loss_on_cuda(lambda: load_source(source), PAIRS["cross"])
    with pytest.raises((LeftTheDevice, RuntimeError)):
        loss_on_cuda(faulty, PAIRS["cross"])


@pytest.mark.parametrize(
    "fault", [lambda rate: torch.tensor(rate), lambda rate: torch.zeros(()) + rate], ids=["constant", "zeros"]
)
def test_a_planted_fault_in_an_optimiser_is_found(fault):
    class Faulty:
        def __init__(self, weights):
            self.inner = flat_sgd(weights)
            self.zero_grad = self.inner.zero_grad

        def step(self, rate):
            self.inner.values.mul_(fault(rate))
            self.inner.step(rate)

    with pytest.raises(LeftTheDevice):
        optimiser_step(Faulty)


def test_a_planted_fault_in_a_metric_is_found(monkeypatch):
    right = agreement._hsic
    monkeypatch.setattr(agreement, "_hsic", lambda one, other: right(one, other).cpu())
    with pytest.raises((LeftTheDevice, RuntimeError)):
        test_the_metrics_stay_on_the_device_until_they_are_read()
