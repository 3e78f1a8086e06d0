"""A script without a main guard, whose classes are its own: worker processes do not run it again."""

import torch
from torch import nn

import kdzero_gp

print("once")
torch.manual_seed(0)
y = torch.arange(160) % 4
X = nn.functional.one_hot(y, 6).float() + 0.4 * torch.randn(160, 6)


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first, self.last = nn.Linear(6, width), nn.Linear(width, 4)

    def forward(self, x):
        return self.last(torch.relu(self.first(x)))


teacher = Net(32)
optimizer = torch.optim.Adam(teacher.parameters(), 1e-2)
for _ in range(30):
    optimizer.zero_grad()
    nn.functional.cross_entropy(teacher(X), y).backward()
    optimizer.step()

tiny = {"generations": 1, "pop": 4, "race_top": 1, "race_seeds": 1, "fresh_seeds": 0, "prune": 0, "workers": 1}
run = kdzero_gp.evolve(teacher, lambda: Net(3), (X, y), **tiny, out="script")
distilled = run.fit(epochs=2, out="script-student")
table = kdzero_gp.compare(distillers=[run], run=run, epochs=1, seeds=1, factors=[1], workers=2, out="script-table")
print(distilled)
