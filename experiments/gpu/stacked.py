"""Several students in one training step, by ``torch.func``: one kernel for all where a loop has one for each."""

import common
import torch
import torch.nn.functional as F
from torch.func import functional_call, vmap

from kdzero_gp.engine.graphs import CapturedStep


def kd(student, teacher, labels):
    """Hinton's loss without ``F.kl_div``, which torch cannot stack."""
    wanted = F.log_softmax(teacher["logits"] / 4.0, dim=1)
    return 16.0 * (wanted.exp() * (wanted - F.log_softmax(student["logits"] / 4.0, dim=1))).sum(dim=1).mean()


class Stacked(common.Training):
    """``count`` students, all with ``kd``, each with its own order of images. Only speed is looked at."""

    def __init__(self, task, device, precision, count, captured=False):
        super().__init__(task, device, precision)
        self.count = count
        network = self.student
        self.names = [name for name, _ in network.named_parameters()]
        sizes = [p.numel() for _, p in network.named_parameters()]
        self.shapes = [p.shape for _, p in network.named_parameters()]
        flat = torch.cat([p.detach().reshape(-1) for _, p in network.named_parameters()])
        self.sizes = sizes
        self.values = flat.expand(count, -1).clone().requires_grad_()
        self.values.grad = torch.zeros_like(self.values)
        self.momentum = torch.zeros_like(self.values)
        self.buffers = {n: b.expand(count, *b.shape).clone() for n, b in network.named_buffers()}
        self.graph = CapturedStep(self.stacked_step, device) if captured else None
        order = torch.stack([batch.indices for batch in self.batches])
        self.batches = [order.roll(-step, 0).repeat(-(-count // len(order)), 1)[:count] for step in range(len(order))]

    @property
    def reason(self):
        return self.graph.reason if self.graph is not None else "there are no graphs"

    def step(self, indices):
        rate = torch.full((), self.recipe.learning_rate / 10, device=self.device)
        (self.graph or self.stacked_step)({"indices": indices, "rate": rate})

    def one(self, parameters, buffers, images, labels, targets):
        """The loss of one student; traced once for all."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision.name == "bfloat16"):
            found = functional_call(self.student, (parameters, buffers), (images,))
        found = {name: tensor.float() for name, tensor in found.items()}
        return F.cross_entropy(found["logits"], labels) + kd(found, targets, labels)

    def stacked_step(self, batch):
        indices = batch["indices"]
        pieces = self.values.split(self.sizes, dim=1)
        parameters = {n: p.view(self.count, *s) for n, p, s in zip(self.names, pieces, self.shapes, strict=True)}
        targets = {name: tensor[indices] for name, tensor in self.split.teacher.items()}
        losses = vmap(self.one, randomness="different")(
            parameters, self.buffers, self.split.images[indices], self.split.labels[indices], targets
        )
        self.values.grad.zero_()
        losses.sum().backward()
        with torch.no_grad():
            gradient, recipe = self.values.grad, self.recipe
            scale = recipe.clip / (torch.linalg.vector_norm(gradient, dim=1, keepdim=True) + 1e-6)
            gradient.mul_(scale.clamp_(max=1.0)).add_(self.values, alpha=recipe.weight_decay)
            self.momentum.mul_(recipe.momentum).add_(gradient)
            self.values.sub_(batch["rate"] * gradient.add(self.momentum, alpha=recipe.momentum))
