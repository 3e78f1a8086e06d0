"""CRD and DML, which are no trees, as plainly as their papers have them."""

import torch
import torch.nn.functional as F
from torch import nn

# Tian et al. 2020, arXiv:1910.10699, section 4: negatives, size of the embedding, temperature, momentum of the memory.
NEGATIVES, EMBEDDING, TEMPERATURE, MOMENTUM = 16_384, 128, 0.07, 0.5
WEIGHT = 0.8


class Contrastive(nn.Module):
    """CRD: student and teacher embeddings of one image agree, against negatives out of a memory of all images.

    For each side an anchor is contrasted with the other side's memory: −log h(positive) − Σ log(1 − h(negative)), where
    h(u, v) = e^{u·v/τ} / (e^{u·v/τ} + K/M), normalised by a constant estimated on the first batch (eq. 17-19).
    """

    def __init__(self, student, teacher, images):
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(net.shapes["emb"][0], EMBEDDING) for net in (student, teacher))
        for side in ("student", "teacher"):
            self.register_buffer(f"{side}_memory", F.normalize(torch.randn(images, EMBEDDING), dim=1))
        self.images, self.constants = images, [0.0, 0.0]

    def forward(self, student, teacher, indices):
        """The loss of a batch of images with these numbers, a scalar."""
        negatives = torch.randint(self.images, (len(indices), NEGATIVES), device=indices.device)
        rows = torch.cat([indices[:, None], negatives], dim=1)
        anchors = [
            F.normalize(head(side["emb"]), dim=1) for head, side in zip(self.heads, (student, teacher), strict=True)
        ]
        memories = (self.teacher_memory, self.student_memory)
        loss = sum(self._contrast(a, m[rows], n) for n, (a, m) in enumerate(zip(anchors, memories, strict=True)))
        with torch.no_grad():
            for anchor, memory in zip(anchors, (self.student_memory, self.teacher_memory), strict=True):
                memory[indices] = F.normalize(MOMENTUM * memory[indices] + (1 - MOMENTUM) * anchor, dim=1)
        return WEIGHT * loss

    def _contrast(self, anchor, contrasted, number):
        similar = torch.exp(torch.einsum("nd,nkd->nk", anchor, contrasted) / TEMPERATURE)
        if not self.constants[number]:
            self.constants[number] = float(similar.detach().mean()) * self.images
        similar = similar / self.constants[number]
        share = NEGATIVES / self.images
        positive, negative = similar[:, :1], similar[:, 1:]
        likelihood = torch.log(positive / (positive + share)).sum() + torch.log(share / (negative + share)).sum()
        return -likelihood / len(anchor)


class Mutual(nn.Module):
    """DML (Zhang et al. 2018, arXiv:1706.00384): a peer of the student's kind learns beside it, each from the labels
    and from the other's probabilities."""

    def __init__(self, build_peer):
        super().__init__()
        self.peer = build_peer().train()

    def forward(self, student, peer, labels):
        """Both KL terms and the peer's cross-entropy, a scalar."""
        one, other = (F.log_softmax(side["logits"], dim=1) for side in (student, peer))
        to_peer = F.kl_div(one, other.detach(), reduction="batchmean", log_target=True)
        to_student = F.kl_div(other, one.detach(), reduction="batchmean", log_target=True)
        return to_peer + to_student + F.cross_entropy(peer["logits"], labels)
