"""A vision transformer of Hugging Face (random weights, a few steps) teaches a small convolutional network."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

import kdzero_gp

torch.manual_seed(0)
digits = load_digits(n_class=4)
X = torch.tensor(digits.images[:240]).float()[:, None] / 8 - 1
y = torch.tensor(digits.target[:240])
config = ViTConfig(
    image_size=8, patch_size=2, num_channels=1, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
    intermediate_size=64, num_labels=4,
)  # fmt: skip
teacher = ViTForImageClassification(config)
optimizer = torch.optim.Adam(teacher.parameters(), 3e-3)
for _ in range(15):
    optimizer.zero_grad()
    teacher(pixel_values=X, labels=y).loss.backward()
    optimizer.step()


class CNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(4, 4)

    def forward(self, pixel_values):
        return self.head(self.body(pixel_values))


data = ({"pixel_values": X}, y)
run = kdzero_gp.evolve(teacher, CNN, data, generations=1, pop=4, race_top=1, race_seeds=1, out="vit")
distilled = run.fit(epochs=2, out="vit-student")
table = kdzero_gp.compare(distillers=[run], run=run, epochs=1, seeds=1, factors=[1], workers=1, out="vit-table")
resumed = run.resume()
