"""A teacher that was stored in half precision, with fewer labels in the data than it knows classes."""

import torch
from torch import nn

import kdzero_gp

torch.manual_seed(0)
y = torch.randint(3, (150,))
X = nn.functional.one_hot(y, 8).float() + 0.4 * torch.randn(150, 8)


def network(width):
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 5))


teacher = network(32)
optimizer = torch.optim.Adam(teacher.parameters(), 1e-2)
for _ in range(30):
    optimizer.zero_grad()
    nn.functional.cross_entropy(teacher(X), y).backward()
    optimizer.step()
teacher.half()


def student():
    return network(3)


run = kdzero_gp.evolve(teacher, student, (X, y), generations=1, pop=4, race_top=1, race_seeds=1, out="half")
distilled = kdzero_gp.distill(teacher, student, run.best, (X, y), epochs=2, out="half-student")
table = kdzero_gp.compare(
    teacher, student, [run.best], (X, y), epochs=1, seeds=1, factors=[1], workers=1, out="half-table"
)
resumed = kdzero_gp.Run("half").resume(teacher, student, (X, y))
