"""The segmentation task with a plan of seconds, named on the command line as ``tiny_segmentation:TINY``; and a
segmenter of a user's own."""

from dataclasses import replace

from torch import nn

from kdzero_gp.tasks import TASKS
from kdzero_gp.tasks.plan import annealed

_SEGMENTATION = TASKS["segmentation"]


def _recipe(epochs, rate, schedule="cosine"):
    return replace(annealed(epochs, rate, schedule), batch_size=8)


TINY = replace(
    _SEGMENTATION,
    name="tiny",
    plan=replace(
        _SEGMENTATION.plan, teacher="segmenter_8", student="segmenter_4", teacher_recipe=_recipe(8, 0.1),
        warm=_recipe(2, 0.05, "constant"), proxy=_recipe(1, 0.05, "linear"), race=_recipe(2, 0.05), race_top=1,
        race_seeds=2, race_zoo=1, zoo_heat=False, zoo_factors=(1.0,), baseline_seeds=2, crop=24,
    ),
)  # fmt: skip


class Own(nn.Module):
    """A user's segmenter, whose last layer enlarges."""

    def __init__(self, classes):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Sequential(nn.Conv2d(8, classes, 1), nn.Upsample(scale_factor=2, mode="bilinear"))

    def forward(self, images):
        return self.head(self.body(images))
