"""Nothing but data loaders, as a training script has them."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import kdzero_gp

torch.manual_seed(0)
y = torch.arange(200) % 4
X = nn.functional.one_hot(y, 10).float() + 0.4 * torch.randn(200, 10)
train_loader = DataLoader(TensorDataset(X[:160], y[:160]), batch_size=32, shuffle=True)
test_loader = DataLoader(TensorDataset(X[160:], y[160:]), batch_size=32)


def network(width):
    return nn.Sequential(nn.Linear(10, width), nn.ReLU(), nn.Linear(width, 4))


teacher = network(32)
optimizer = torch.optim.Adam(teacher.parameters(), 1e-2)
for _ in range(6):
    for inputs, targets in train_loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(teacher(inputs), targets).backward()
        optimizer.step()


def student():
    return network(3)


loaders = {"train": train_loader, "test": test_loader}
run = kdzero_gp.evolve(teacher, student, **loaders, generations=1, pop=4, race_top=1, race_seeds=1, out="loader")
distilled = kdzero_gp.distill(teacher, student, run.best, **loaders, epochs=2, out="loader-student")
table = kdzero_gp.compare(
    teacher, student, [run.best], **loaders, epochs=1, seeds=1, factors=[1], workers=1, out="loader-table"
)
resumed = kdzero_gp.Run("loader").resume(teacher, student, **loaders)
