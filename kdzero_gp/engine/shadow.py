"""Shadow heads: one more class head that takes a part in distillation and is dropped with the end of the training.

KD-Zero's supplement (F.4) has "an extra shadow head with the same architecture as the original classification head";
which of two readings was meant is not known, so there are both. On the teacher's maps it is a proxy teacher, as in
SHAKE (Li & Jin, NeurIPS 2022); on the student's maps it stands between the truth and the teacher, which may contradict
each other in one head (CrossKD, arXiv:2306.11369).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdzero_gp.data.inputs import Inputs
from kdzero_gp.engine.batches import Batch
from kdzero_gp.engine.outputs import Outputs
from kdzero_gp.engine.teacher import Teacher
from kdzero_gp.models.heads import ClassHead


class _Shadowed(Teacher):
    head: ClassHead

    def __init__(self, teacher: Teacher, head: ClassHead):
        super().__init__(teacher.distiller, teacher.family)
        self.teacher, self.head = teacher, head

    @property
    def trained(self) -> list[nn.Module]:
        return [*self.teacher.trained, self.head]

    def outputs(self, batch: Batch, images: Inputs, student: Outputs) -> Outputs:
        return self.teacher.outputs(batch, images, student)

    def targets(self, batch: Batch, images: Inputs, labels: Tensor, student: Outputs) -> Outputs:
        return self.teacher.targets(batch, images, labels, student)


class ShadowOnTeacher(_Shadowed):
    """A head on the frozen teacher's maps, trained beside the student: by the truth, by the teacher's logits t (mean
    squared difference) and by the student's s. With logits h of it the loss is

        (D(s, t) + D(s, h)) / 2 + own(h) + mimic(h, s) + mean (h − t)²

    D is the distiller, in which h takes the place of the teacher's logits, own and mimic are the family's. The last
    three train the head alone. SHAKE adds D(s, h) in full and normalises all logits; halves keep the meaning of the
    magnitudes.
    """

    def loss(self, student: Outputs, batch: Batch, images: Inputs, labels: Tensor) -> Tensor:
        """The whole as one number."""
        family, indexed = self.family, self.family.labels(labels)
        said = self.teacher.outputs(batch, images, student)
        shadow = self.head(said)
        with torch.no_grad():
            proxy = self.distiller.prepare({**said, "logits": shadow.detach()}, indexed)
        targets = self.teacher.targets(batch, images, indexed, student)
        taught = (self.distiller.loss(student, part, indexed) for part in (targets, proxy))
        still = {name: tensor.detach() for name, tensor in student.items()}
        learnt = family.own_loss({**still, "logits": shadow}, labels) + family.mimic(shadow, still["logits"])
        return 0.5 * sum(taught, torch.zeros((), device=shadow.device)) + learnt + F.mse_loss(shadow, said["logits"])


class ShadowOnStudent(_Shadowed):
    """A head on the student's maps: the distiller sees its logits, the truth the student's own. It begins as a copy of
    the student's head, so that magnitudes are measured at that."""

    def loss(self, student: Outputs, batch: Batch, images: Inputs, labels: Tensor) -> Tensor:
        """The distiller's loss."""
        return self.teacher.loss({**student, "logits": self.head(student)}, batch, images, labels)
