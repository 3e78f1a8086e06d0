"""Images of four channels, 48×64, in a TensorDataset."""

import torch
from torch import nn
from torch.utils.data import TensorDataset, random_split

import kdzero_gp

torch.manual_seed(0)
y = torch.randint(3, (150,))
X = 0.5 * torch.randn(150, 4, 48, 64)
for label in range(3):
    X[y == label, label, 8:40, 20 * label : 20 * label + 20] += 1
train, validation = random_split(TensorDataset(X, y), [120, 30])


def network(width, num_classes=3):
    return nn.Sequential(
        nn.Conv2d(4, width, 5, 4), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, 2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes),
    )  # fmt: skip


teacher = network(16)
optimizer = torch.optim.Adam(teacher.parameters(), 1e-2)
for _ in range(15):
    optimizer.zero_grad()
    nn.functional.cross_entropy(teacher(X), y).backward()
    optimizer.step()


def student():
    return network(4)


print(kdzero_gp.knowledge(teacher, train))
tiny = {
    "generations": 1,
    "pop": 4,
    "race_top": 1,
    "race_seeds": 1,
    "warm_epochs": 1,
    "proxy_epochs": 1,
    "race_epochs": 1,
}
run = kdzero_gp.evolve(teacher, student, train, validation, **tiny, precision="float32", out="wide")
distilled = run.fit(epochs=1, flip=True, precision="float32", out="wide-student")
table = kdzero_gp.compare(
    None,
    None,
    [run, "zoo:at"],
    run=run,
    epochs=1,
    seeds=1,
    factors=[1],
    workers=1,
    precision="float32",
    out="wide-table",
)
resumed = run.resume()
