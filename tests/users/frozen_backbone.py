"""A pretrained student whose backbone is frozen: only its head learns."""

import copy

import torch
from torch import nn

import kdzero_gp

torch.manual_seed(0)
y = torch.randint(3, (150,))
X = 0.7 * torch.randn(150, 1, 8, 8)
for label in range(3):
    X[y == label, 0, :, 2 * label : 2 * label + 2] += 1


def network(width):
    body = nn.Sequential(
        nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    )
    return nn.Sequential(body, nn.Linear(4 * width, 3))


def trained(net, steps):
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(X), y).backward()
        optimizer.step()
    return net


teacher, student = trained(network(16), 25), trained(network(4), 5)
student[0].requires_grad_(False)
before = copy.deepcopy(student.state_dict())

run = kdzero_gp.evolve(teacher, student, (X, y), generations=1, pop=4, race_top=1, race_seeds=1, out="frozen")
distilled = kdzero_gp.distill(teacher, student, run.best, (X, y), epochs=2, out="frozen-student")
table = kdzero_gp.compare(
    teacher, student, run.best, (X, y), epochs=1, seeds=1, factors=[1], workers=1, out="frozen-table"
)
resumed = run.resume()
