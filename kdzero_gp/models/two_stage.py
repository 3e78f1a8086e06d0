"""Detectors in two stages, Faster R-CNN (Ren et al. 2015, arXiv:1506.01497), as one function of images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kdzero_gp.models.geometry import SCALES, corner_scale, decode_deltas
from kdzero_gp.models.levels import Outputs, completed, named_levels

PROPOSALS = 256
"""Regions of an image that the second stage looks at, in training and evaluation. torchvision draws 512 out of 2,000
for training; so many fit a CPU and need no draw."""


class TwoStageDetector(nn.Module):
    """torchvision's Faster R-CNN, with its parts under their own names, so that weights fit both.

    Images N×3×H×W to ``fpnK``, ``objectness`` N×1×M of all anchors, ``deltas``, ``anchors``, ``boxes`` and ``grid``
    N×4×M of the first stage, ``proposals`` N×4×P as shares of the image (rows of zeros where there are fewer),
    ``regions`` N×C×P (what the second stage makes of them), ``region_logits`` N×(1+K)×P, the background first,
    ``region_deltas`` N×4K×P, and ``size``. Proposals are the network's alone: true boxes are not added to them in
    training, since what a network says must not depend on targets. A teacher is asked about the student's
    ``proposals``.
    """

    names_outputs = True

    def __init__(self, network: Any):
        super().__init__()
        self.backbone: Any = network.backbone
        self.rpn: Any = network.rpn
        self.roi_heads: Any = network.roi_heads

    def forward(self, images: Tensor, proposals: Tensor | None = None) -> Outputs:
        """All that the detector says of images; of these ``proposals`` in place of its own where there are some."""
        from torchvision.models.detection.image_list import ImageList
        from torchvision.models.detection.rpn import concat_box_prediction_layers

        maps = self.backbone(images)
        maps = {"0": maps} if isinstance(maps, Tensor) else maps
        levels = list(maps.values())
        sizes = [(images.shape[2], images.shape[3])] * len(images)
        scored, moved = self.rpn.head(levels)
        counts = [scores[0].numel() for scores in scored]
        anchors = torch.stack(self.rpn.anchor_generator(ImageList(images, sizes), levels)).float().transpose(1, 2)
        objectness, deltas = (flat.float() for flat in concat_box_prediction_layers(scored, moved))
        objectness = objectness.view(len(images), 1, -1)
        deltas = deltas.view(len(images), -1, 4).transpose(1, 2)
        outputs = completed(
            named_levels(images, levels) | {"objectness": objectness, "deltas": deltas, "anchors": anchors}, images
        )
        corners = corner_scale(outputs["size"])
        if proposals is None:
            with torch.no_grad():
                boxes = decode_deltas(deltas, anchors).transpose(1, 2)
                found, _ = self.rpn.filter_proposals(boxes, objectness[:, 0], sizes, counts)
            proposals = (torch.stack([_exactly(one, PROPOSALS) for one in found]) / corners).transpose(1, 2)
        return outputs | {"proposals": proposals} | self._of_regions(maps, proposals, corners, sizes)

    def _of_regions(self, maps: Outputs, proposals: Tensor, corners: Tensor, sizes: list[tuple[int, int]]) -> Outputs:
        """What the second stage says of proposals."""
        asked = list(proposals.transpose(1, 2) * corners)
        features = self.roi_heads.box_head(self.roi_heads.box_roi_pool(maps, asked, sizes))
        logits, deltas = (given.float() for given in self.roi_heads.box_predictor(features))
        count, places = len(proposals), proposals.shape[2]
        deltas = deltas.view(count, places, -1, 4)[:, :, 1:].flatten(2).transpose(1, 2)
        scale = torch.tensor(SCALES, device=deltas.device).repeat(deltas.shape[1] // 4)
        return {
            "regions": features.float().view(count, places, -1).transpose(1, 2),
            "region_logits": logits.view(count, places, -1).transpose(1, 2),
            "region_deltas": deltas / scale[:, None],
        }


def _exactly(boxes: Tensor, count: int) -> Tensor:
    """The first boxes of M×4, or rows of zeros behind them."""
    return torch.cat([boxes[:count], boxes.new_zeros(max(0, count - len(boxes)), 4)])
