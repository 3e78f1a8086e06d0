"""Images of four channels, 48×64, in a TensorDataset that was split."""

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


class Network(nn.Module):
    def __init__(self, width, num_classes=3):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(4, width, 5, 4), nn.BatchNorm2d(width), nn.ReLU())
        self.stage = nn.Sequential(nn.Conv2d(width, width, 3, 2), nn.ReLU())
        self.head = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.head(self.stage(self.stem(x)).mean((2, 3)))


teacher = Network(16)
optimizer = torch.optim.Adam(teacher.parameters(), 1e-2)
for _ in range(15):
    optimizer.zero_grad()
    nn.functional.cross_entropy(teacher(X), y).backward()
    optimizer.step()

tiny = {"generations": 1, "pop": 4, "race_top": 1, "race_seeds": 1, "precision": "float32", "race_epochs": 1}
run = kdzero_gp.evolve(teacher, lambda: Network(4), train, validation, **tiny, warm_epochs=1, out="wide")
distilled = run.fit(epochs=1, flip=True, precision="float32", out="wide-student")
more = {"epochs": 1, "seeds": 1, "factors": [1], "workers": 1, "precision": "float32"}
table = kdzero_gp.compare(distillers=[run, "zoo:at"], run=run, **more, out="wide-table")
resumed = run.resume()
