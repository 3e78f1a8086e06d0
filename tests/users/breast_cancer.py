"""Tabular data of scikit-learn as numpy arrays, two multi-layer perceptrons."""

import torch
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from torch import nn

import kdzero_gp

X, y = load_breast_cancer(return_X_y=True)
X = (X - X.mean(0)) / X.std(0)
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0, stratify=y)


def mlp(width):
    return nn.Sequential(nn.Linear(30, width), nn.ReLU(), nn.Linear(width, 2))


torch.manual_seed(0)
teacher = mlp(64)
optimizer = torch.optim.Adam(teacher.parameters(), 1e-2)
for _ in range(50):
    optimizer.zero_grad()
    nn.functional.cross_entropy(teacher(torch.tensor(X_train).float()), torch.tensor(y_train)).backward()
    optimizer.step()

data = {"train": (X_train, y_train), "test": (X_test, y_test)}
run = kdzero_gp.evolve(teacher, lambda: mlp(4), **data, generations=2, pop=4, race_top=1, race_seeds=1, out="cancer")
print(run.best)
distilled = kdzero_gp.distill(teacher, lambda: mlp(4), run.best, **data, epochs=3, out="cancer-student")
table = kdzero_gp.compare(
    teacher,
    lambda: mlp(4),
    [run.best, "zoo:dist"],
    **data,
    epochs=2,
    seeds=1,
    factors=[1],
    workers=1,
    out="cancer-table",
)
resumed = kdzero_gp.Run("cancer").resume(teacher, lambda: mlp(4), **data)
