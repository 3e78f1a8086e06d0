"""Cells of a notebook, each after a line that begins with # %%."""

# %%
import torch
from torch import nn

import kdzero_gp

torch.manual_seed(0)
y = torch.arange(160) % 4
X = nn.functional.one_hot(y, 6).float() + 0.4 * torch.randn(160, 6)


def network(width):
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 4))


teacher = network(32)
optimizer = torch.optim.Adam(teacher.parameters(), 1e-2)
for _ in range(30):
    optimizer.zero_grad()
    nn.functional.cross_entropy(teacher(X), y).backward()
    optimizer.step()

# %%
kdzero_gp.knowledge(teacher, X)

# %%
tiny = {"generations": 1, "pop": 4, "race_top": 1, "race_seeds": 1, "fresh_seeds": 0, "prune": 0, "workers": 1}
run = kdzero_gp.evolve(teacher, lambda: network(3), (X, y), **tiny)

# %%
run.best

# %%
distilled = run.fit(epochs=2)
table = kdzero_gp.compare(distillers=[run], run=run, epochs=1, seeds=1, factors=[1], workers=1)
run.race
