"""Vectors with one-hot labels, for a student that is a class."""

import torch
from torch import nn

import kdzero_gp

torch.manual_seed(0)
classes = torch.arange(160) % 4
X = nn.functional.one_hot(classes, 6).float() + 0.4 * torch.randn(160, 6)
y = nn.functional.one_hot(classes).double()

teacher = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 4))
optimizer = torch.optim.Adam(teacher.parameters(), 1e-2)
for _ in range(30):
    optimizer.zero_grad()
    nn.functional.cross_entropy(teacher(X), y.float()).backward()
    optimizer.step()


class Student(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 3), nn.Linear(3, 4)

    def forward(self, x):
        return self.last(torch.relu(self.first(x)))


run = kdzero_gp.evolve(teacher, Student, (X, y), generations=1, pop=4, race_top=1, race_seeds=1, out="hot")
distilled = kdzero_gp.distill(teacher, Student, run.best, (X, y), epochs=2, out="hot-student")
table = kdzero_gp.compare(
    teacher, Student, [run.best], (X, y), epochs=1, seeds=1, factors=[1], workers=1, out="hot-table"
)
resumed = kdzero_gp.Run("hot").resume(teacher, Student, (X, y))
