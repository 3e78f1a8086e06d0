"""Sequences N×C×L, two one-dimensional convolutional networks, tensors as they are."""

import torch
from torch import nn

import kdzero_gp

torch.manual_seed(0)
time = torch.linspace(0, 6.28, 48)
y = torch.randint(3, (240,))
X = torch.sin(time * (1 + y)[:, None, None] + torch.rand(240, 2, 1)) + 0.3 * torch.randn(240, 2, 48)


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(2, width, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool1d(2),
            nn.Conv1d(width, width, 5, padding=2),
            nn.ReLU(),
        )
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        return self.head(self.body(x).mean(2))


teacher = Net(32)
optimizer = torch.optim.Adam(teacher.parameters(), 1e-2)
for _ in range(25):
    optimizer.zero_grad()
    nn.functional.cross_entropy(teacher(X), y).backward()
    optimizer.step()

run = kdzero_gp.evolve(teacher, lambda: Net(4), (X, y), generations=1, pop=4, race_top=1, race_seeds=1, out="sequences")
distilled = run.fit(epochs=2, out="sequences-student")
table = kdzero_gp.compare(
    distillers=[run, "zoo:fitnet"], run=run, epochs=1, seeds=1, factors=[1], workers=1, out="sequences-table"
)
resumed = run.resume()
