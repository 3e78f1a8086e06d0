"""A Dataset that augments at random, with plain data for validation and test."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import Dataset

import kdzero_gp

torch.manual_seed(0)
digits = load_digits()
images, labels = torch.tensor(digits.images).float()[:, None] / 16, digits.target


class Digits(Dataset):
    def __init__(self, first, last, augment=False):
        self.first, self.last, self.augment = first, last, augment

    def __len__(self):
        return self.last - self.first

    def __getitem__(self, index):
        image = images[self.first + index]
        if self.augment:
            image = torch.roll(image, int(torch.randint(-1, 2, ())), dims=2) + 0.05 * torch.randn(1, 8, 8)
        return image, int(labels[self.first + index])


def mlp(width):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


teacher, student = mlp(64), mlp(6)
optimizer = torch.optim.Adam(teacher.parameters(), 1e-2)
for _ in range(30):
    optimizer.zero_grad()
    nn.functional.cross_entropy(teacher(images[:300]), torch.tensor(labels[:300])).backward()
    optimizer.step()
data = Digits(0, 300, augment=True), Digits(300, 400), Digits(400, 500)
run = kdzero_gp.evolve(teacher, student, *data, generations=1, pop=4, race_top=1, race_seeds=1, out="digits")
distilled = kdzero_gp.distill(teacher, student, run.best, *data, epochs=2, out="digits-student")
table = kdzero_gp.compare(teacher, student, ["zoo:kd"], *data, epochs=1, seeds=1, factors=[1], workers=1, out="table")
resumed = kdzero_gp.Run("digits").resume(teacher, student, *data)
