"""Token ids and an attention mask by name; a small transformer teaches a bag of words."""

import torch
from torch import nn

import kdzero_gp

torch.manual_seed(0)
ids = torch.randint(2, 50, (200, 12))
y = torch.randint(2, (200,))
ids[y == 1, 3:6] = 1
mask = (torch.arange(12) < torch.randint(6, 13, (200, 1))).long()
texts = [{"input_ids": i, "attention_mask": m, "labels": label} for i, m, label in zip(ids, mask, y, strict=True)]


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.encoder = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.head = nn.Linear(16, 2)

    def forward(self, input_ids, attention_mask):
        tokens = self.encoder(self.embed(input_ids), src_key_padding_mask=attention_mask == 0)
        return {"logits": self.head(tokens.mean(1))}


class Bag(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.embed, self.head = nn.Embedding(50, 4), nn.Linear(4, num_classes)

    def forward(self, input_ids, attention_mask):
        return self.head((self.embed(input_ids) * attention_mask[..., None]).mean(1))


teacher = Transformer()
optimizer = torch.optim.Adam(teacher.parameters(), 1e-2)
for _ in range(20):
    optimizer.zero_grad()
    nn.functional.cross_entropy(teacher(ids, mask)["logits"], y).backward()
    optimizer.step()
tiny = {"generations": 1, "pop": 4, "race_top": 1, "race_seeds": 1}
run = kdzero_gp.evolve(teacher, Bag, texts, **tiny, out="texts")
distilled = kdzero_gp.distill(teacher, Bag, run.best, texts, epochs=2, out="texts-student")
table = kdzero_gp.compare(teacher, Bag, [run.best], texts, epochs=1, seeds=1, factors=[1], workers=1, out="texts-table")
resumed = kdzero_gp.Run("texts").resume(teacher, Bag, texts)
