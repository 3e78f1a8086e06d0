"""Average precision of detections as COCO defines it, computed by faster-coco-eval; of an overlap of 0.5 alone, for
proxies, by few steps for all images at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from kdzero_gp.data.boxes import FIRST_CROWD, NOTHING
from kdzero_gp.errors import ModelError
from kdzero_gp.models.geometry import overlaps

INSTALL = "pip install 'kdzero-gp[detection]'"
OVERLAP, SUREST, RECALLS = 0.5, 100, 101
"""From this overlap on a box is found; so many of an image, the surest, count; precision is read at so many recalls."""


def evaluator() -> Any:
    """The library. Raises ModelError where it is not installed."""
    try:
        import faster_coco_eval
    except ImportError:
        raise ModelError(f"average precision needs faster-coco-eval; install it with: {INSTALL}") from None
    return faster_coco_eval


def average_precision(found: Sequence[Tensor], truth: Sequence[Tensor], classes: int) -> dict[str, float]:
    """``ap`` (mean over overlaps from 0.5 to 0.95), ``ap50``, and ``ap_K`` of each class that occurs.

    ``found``: for each image D×6 (left, top, right, bottom, score, class), ``truth`` G×5 (the same without scores, in
    the same units; crowds and rows without a box as in the targets). Without any object nothing is returned.
    """
    library = evaluator()
    images = [{"id": number + 1, "width": 1, "height": 1} for number in range(len(truth))]
    annotations = [one for number, rows in enumerate(truth) for one in _annotations(number + 1, rows)]
    if not any(not one["iscrowd"] for one in annotations):
        return {}
    for number, one in enumerate(annotations):
        one["id"] = number + 1
    categories = [{"id": number + 1, "name": str(number)} for number in range(classes)]
    given = [one for number, rows in enumerate(found) for one in _detections(number + 1, rows)]
    wanted = library.COCO({"images": images, "annotations": annotations, "categories": categories})
    judged = library.COCOeval_faster(wanted, wanted.loadRes(given) if given else library.COCO(
        {"images": images, "annotations": [], "categories": categories}), "bbox")  # fmt: skip
    judged.params.areaRng, judged.params.areaRngLbl = judged.params.areaRng[:1], judged.params.areaRngLbl[:1]
    judged.params.maxDets = [judged.params.maxDets[-1]]
    judged.evaluate()
    judged.accumulate()
    precision = np.asarray(judged.eval["precision"])[..., 0, 0]  # overlap × recall × class; −1 without an object
    occurring = [number for number in range(classes) if (precision[..., number] > -1).any()]
    each = {f"ap_{number}": float(precision[..., number].mean()) for number in occurring}
    return {"ap": float(np.mean(list(each.values()))), "ap50": float(precision[0][:, occurring].mean())} | each


def average_precision_50(found: Sequence[Tensor], truth: Sequence[Tensor], classes: int) -> dict[str, float]:
    """``ap50`` as ``average_precision`` has it, of the 100 surest boxes of an image; without any object nothing.

    From the surest on each box takes the object of its class that it overlaps most of those that are left; one that
    lies in a crowd of its class by half counts neither way.
    """
    given = [rows[rows[:, 4].argsort(descending=True, stable=True)][:SUREST] for rows in found]
    boxes = pad_sequence(given, batch_first=True, padding_value=NOTHING)
    wanted = pad_sequence(list(truth), batch_first=True, padding_value=NOTHING)
    number = wanted[..., 4]
    real, crowd = number >= 0, number <= FIRST_CROWD
    if not real.any():
        return {}
    union, share = overlaps(wanted[..., :4].transpose(1, 2), boxes[..., :4].transpose(1, 2))
    kind = torch.where(crowd, FIRST_CROWD - number, number)
    same = kind[:, :, None] == boxes[:, None, :, 5]
    union = union * (same & real[:, :, None])
    free, images, hits = torch.ones_like(number), torch.arange(len(boxes)), []
    for one in union.permute(2, 0, 1).contiguous():  # each a box of all images
        best, at = (one * free).max(dim=1)
        hits.append(best >= OVERLAP)
        free[images, at] *= ~hits[-1]
    right = torch.stack(hits, dim=1) if hits else boxes[..., 0].bool()
    ignored = ~right & (same & crowd[:, :, None] & (share >= OVERLAP)).any(dim=1)
    counted = (boxes[..., 5] >= 0) & ~ignored
    each = []
    for k in range(classes):
        part, objects = counted & (boxes[..., 5] == k), int((number == k).sum())
        if objects:
            each.append(_precision(boxes[..., 4][part], right[part], objects))
    return {"ap50": sum(each) / len(each)}


def _precision(scores: Tensor, right: Tensor, objects: int) -> float:
    """The mean over recalls from 0 to 1 of the best precision from that recall on."""
    hits = right[scores.argsort(descending=True, stable=True)].double().cumsum(0)
    precision = (hits / torch.arange(1, len(hits) + 1)).flip(0).cummax(0).values.flip(0) if len(hits) else hits
    at = torch.searchsorted(hits / objects, torch.linspace(0, 1, RECALLS, dtype=torch.float64))
    return float(torch.cat([precision, precision.new_zeros(1)])[at].mean())


def _annotations(image: int, rows: Tensor) -> list[dict[str, Any]]:
    annotations = []
    for left, top, right, bottom, number in rows.tolist():
        if number == NOTHING:
            continue
        crowd = number <= FIRST_CROWD
        category = int(FIRST_CROWD - number if crowd else number) + 1
        width, height = right - left, bottom - top
        annotations.append({
            "image_id": image, "category_id": category, "bbox": [left, top, width, height], "area": width * height,
            "iscrowd": int(crowd),
        })  # fmt: skip
    return annotations


def _detections(image: int, rows: Tensor) -> list[dict[str, Any]]:
    return [
        {"image_id": image, "category_id": int(number) + 1, "bbox": [left, top, right - left, bottom - top],
         "score": score}
        for left, top, right, bottom, score, number in rows.tolist()
    ]  # fmt: skip
