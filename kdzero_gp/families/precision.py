"""Average precision of detections as COCO defines it, computed by faster-coco-eval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from kdzero_gp.data.boxes import FIRST_CROWD, NOTHING
from kdzero_gp.errors import ModelError

INSTALL = "pip install 'kdzero-gp[detection]'"


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
