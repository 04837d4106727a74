"""Mean average precision of FastestDet's boxes on the COCO images of the zoo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

_CANDIDATE = 0.001
"""Confidence from which a box counts as found: low, as average precision asks for all that may be right."""
_SAME_OBJECT = 0.45
"""Overlap with a better box of its class from which a box goes."""
_RIGHT = 0.5
"""Overlap with a true box from which a box is right: mAP50."""


@dataclass(frozen=True)
class Truth:
    """True boxes of a number of images."""

    image: np.ndarray
    """Number of the image of each box (B,)."""
    label: np.ndarray
    box: np.ndarray
    """Left, top, right and bottom as shares of the image's width and height (B, 4)."""
    crowd: np.ndarray
    """Whether a box stands for many objects: then nothing found in it is wrong (B,)."""

    @classmethod
    def read(cls, path: Path) -> Truth:
        """From the zoo's file of images and boxes."""
        with np.load(path) as data:
            crowd = data["iscrowd"].astype(bool)
            return cls(data["box_image"], data["box_class"], data["box_xyxy"], crowd)


@dataclass(frozen=True)
class Found:
    """Boxes found in an image, best first."""

    label: np.ndarray
    box: np.ndarray
    confidence: np.ndarray


def fastestdet(output: np.ndarray) -> Found:
    """The boxes in an output (5 + classes, H, W) of FastestDet.

    A cell has the chance of an object, its box's offset from the cell and its size, and the chances of its classes.
    """
    _, height, width = output.shape
    cells = output.reshape(len(output), -1).T
    row, column = np.divmod(np.arange(len(cells)), width)
    classes = cells[:, 5:]
    best = np.clip(classes.max(axis=1), 0, None)
    confidence = np.clip(cells[:, 0], 0, None) ** 0.6 * best**0.4
    x, y = (np.tanh(cells[:, 1]) + column) / width, (np.tanh(cells[:, 2]) + row) / height
    w, h = (1 / (1 + np.exp(-cells[:, 3:5]))).T
    box = np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], axis=1)
    order = np.argsort(-confidence, kind="stable")
    order = order[confidence[order] > _CANDIDATE]
    label, box, confidence = classes.argmax(axis=1)[order], box[order], confidence[order]
    same = (overlap(box, box) > _SAME_OBJECT) & (label[:, None] == label)
    kept: list[int] = []
    for index in range(len(order)):
        if not same[index, kept].any():
            kept.append(index)
    return Found(label[kept], box[kept], confidence[kept])


def overlap(a: np.ndarray, b: np.ndarray, *, of_a: bool = False) -> np.ndarray:
    """Intersection over union of each of `a` (A, 4) with each of `b` (B, 4); with `of_a`, over the area of `a`."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=2)
    area_a, area_b = ((each[:, 2:] - each[:, :2]).prod(axis=1) for each in (a, b))
    whole = area_a[:, None] if of_a else area_a[:, None] + area_b[None, :] - common
    return common / np.maximum(whole, 1e-12)


def map50(found: list[Found], truth: Truth) -> float:
    """Mean over the classes of the average precision in percent, an image's boxes for each entry of `found`."""
    present = np.unique(truth.label[~truth.crowd])
    return 100 * float(np.mean([_average_precision(found, truth, label) for label in present]))


def _average_precision(found: list[Found], truth: Truth, label: int) -> float:
    """Mean of the best precision at 101 recalls or higher ones, as COCO defines it."""
    hits, confidences = [], []
    mine = truth.label == label
    for index, boxes in enumerate(found):
        here = boxes.label == label
        in_image = mine & (truth.image == index)
        real, crowds = truth.box[in_image & ~truth.crowd], truth.box[in_image & truth.crowd]
        right = overlap(boxes.box[here], real)
        ignored = overlap(boxes.box[here], crowds, of_a=True)
        free = np.ones(len(real), bool)
        for which, confidence in enumerate(boxes.confidence[here]):
            match = int(np.argmax(np.where(free, right[which], -1))) if free.any() else -1
            hit = match >= 0 and right[which, match] >= _RIGHT
            if hit:
                free[match] = False
            elif (ignored[which] >= _RIGHT).any():
                continue
            hits.append(hit)
            confidences.append(confidence)
    order = np.argsort(-np.array(confidences), kind="stable")
    right_so_far = np.cumsum(np.array(hits, float)[order])
    recall = right_so_far / (mine & ~truth.crowd).sum()
    precision = right_so_far / np.arange(1, len(order) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
    return float(np.mean(np.append(best_from_here, 0.0)[at]))
