"""The detection task with a plan of seconds, named on the command line as ``tiny_detection:TINY``; and a detector of a
user's own."""

from dataclasses import replace

import torch
from torch import nn

from kdzero_gp.tasks import TASKS
from kdzero_gp.tasks.plan import annealed

_DETECTION = TASKS["detection"]


def _recipe(epochs, rate, schedule="cosine"):
    return replace(annealed(epochs, rate, schedule), batch_size=4)


TINY = replace(
    _DETECTION,
    name="tiny",
    plan=replace(
        _DETECTION.plan, teacher="fcos_small_8", student="fcos_small_4", teacher_recipe=_recipe(4, 0.02),
        warm=_recipe(1, 0.02, "constant"), proxy=_recipe(0.5, 0.01, "linear"), race=_recipe(1, 0.02), race_top=1,
        race_seeds=2, race_zoo=1, zoo_heat=False, zoo_factors=(1.0,), baseline_seeds=2,
    ),
)  # fmt: skip


TINY_TWO_STAGES = replace(
    TINY, name="tiny-two-stages",
    plan=replace(TINY.plan, teacher="fasterrcnn_mobilenet_v2", student="fasterrcnn_small_4", race_zoo=0),
)  # fmt: skip


class Own(nn.Module):
    """One level at stride 8, three square anchors, by hand."""

    def __init__(self, classes=2, width=8):
        super().__init__()
        self.body = nn.Sequential(
            *(layer for a, b in ((3, width), (width, width), (width, width))
              for layer in (nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU()))
        )  # fmt: skip
        self.classes, self.scores, self.boxes = classes, nn.Conv2d(width, 3 * classes, 1), nn.Conv2d(width, 12, 1)
        nn.init.constant_(self.scores.bias, -4.0)

    def forward(self, images):
        level = self.body(images)
        rows, columns = level.shape[2:]
        y, x = torch.meshgrid(torch.arange(rows) * 8.0 + 4, torch.arange(columns) * 8.0 + 4, indexing="ij")
        x, y = (side.flatten().repeat(3) for side in (x, y))
        half = torch.tensor([8.0, 12.0, 20.0]).repeat_interleave(rows * columns)
        anchors = torch.stack([x - half, y - half, x + half, y + half]).to(level.device)
        scores, boxes = self.scores(level).unflatten(1, (3, -1)), self.boxes(level).unflatten(1, (3, 4))
        flat = [tensor.transpose(1, 2).flatten(2) for tensor in (scores.flatten(3), boxes.flatten(3))]
        return {"logits": flat[0], "deltas": flat[1], "anchors": anchors, "levels": [level]}
