r"""Boxes after quantisation: mAP50 of FastestDet on the 128 images of coco128, as a metric of lpcc's own command.

    python benchmarks/detection.py write OUT_DIR             # calib.npz, and eval.npz whose labels are image numbers
    cd benchmarks && lpcc optimize FASTESTDET.onnx --calib OUT_DIR/calib.npz --eval OUT_DIR/eval.npz \
        --metric detection:MeanAveragePrecision --max-drop 1
    python benchmarks/detection.py score MODEL.onnx [MODEL.onnx ...]

The output (1, 85, H, W) of FastestDet has for each cell of a grid: whether there is an object, the box (centre by tanh,
size by sigmoid) and the probabilities of 80 classes. Boxes of a score of at least 0.001 go through non-maximum
suppression by class at an overlap of 0.45; precision is averaged over 101 recalls and the classes that occur, at an
overlap of 0.5, with at most 100 boxes an image, and crowds count neither way (as pycocotools does).
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import zoo

_SCORE, _SUPPRESSED, _MATCHED = 0.001, 0.45, 0.5
_BOXES = 100


class MeanAveragePrecision:
    """mAP50 in percent; labels are the images' places in the zoo's coco128."""

    def __init__(self) -> None:
        with np.load(zoo.ROOT / "data" / "coco128.npz", allow_pickle=False) as data:
            self._image = data["box_image"].astype(int)
            self._class = data["box_class"].astype(int)
            self._box = data["box_xyxy"]
            self._crowd = data["iscrowd"].astype(bool)
        self._found: dict[int, list[tuple[float, bool]]] = defaultdict(list)  # by class: score, and whether it is one
        self._truths: dict[int, int] = defaultdict(int)

    def add(self, outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> None:
        """Take in the network's output for some images."""
        (grids,) = outputs.values()
        for grid, image in zip(grids, labels, strict=True):
            self._match(detections(grid), int(image))

    def value(self) -> float:
        """The mean over the classes that occur, in percent."""
        found = [average_precision(self._found[kind], count) for kind, count in self._truths.items()]
        return 100 * float(np.mean(found)) if found else float("nan")

    def _match(self, found: np.ndarray, image: int) -> None:
        mine = self._image == image
        for kind in set(self._class[mine & ~self._crowd]):
            self._truths[kind] += int((mine & ~self._crowd & (self._class == kind)).sum())
        for kind in set(found[:, 5].astype(int)):
            of_kind = mine & (self._class == kind)
            boxes, crowd = self._box[of_kind], self._crowd[of_kind]
            free = np.ones(len(boxes), bool)
            for row in found[found[:, 5] == kind]:
                shared = overlap(row[:4], boxes)
                open_ = np.where(free & ~crowd & (shared >= _MATCHED), shared, -1.0)
                if len(boxes) and open_.max() >= 0:
                    free[int(open_.argmax())] = False
                    self._found[kind].append((float(row[4]), True))
                elif not (crowd.any() and _inside(row[:4], boxes[crowd]) >= _MATCHED):
                    self._found[kind].append((float(row[4]), False))


def detections(grid: np.ndarray) -> np.ndarray:
    """Boxes (N, 6) of one output (85, H, W): corners as shares of the image, score and class, best first."""
    _, height, width = grid.shape
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    objects, box, classes = grid[0], grid[1:5].astype(np.float64), grid[5:]
    best = np.maximum(classes.max(axis=0), 0)
    score = np.maximum(objects, 0) ** 0.6 * best**0.4
    x, y = (np.tanh(box[0]) + columns) / width, (np.tanh(box[1]) + rows) / height
    w, h = 1 / (1 + np.exp(-box[2])), 1 / (1 + np.exp(-box[3]))
    parts = [x - w / 2, y - h / 2, x + w / 2, y + h / 2, score, classes.argmax(axis=0)]
    found = np.stack([part.ravel() for part in parts], axis=1)
    found = found[found[:, 4] > _SCORE]
    found = found[np.argsort(-found[:, 4], kind="stable")]
    kept = []
    while len(found):
        kept.append(found[0])
        same = found[:, 5] == found[0, 5]
        found = found[~(same & (overlap(found[0, :4], found[:, :4]) > _SUPPRESSED))]
    return np.array(kept[:_BOXES]).reshape(-1, 6)


def overlap(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Intersection over union of a box (4,) with boxes (N, 4)."""
    both = _common(box, boxes)
    return both / np.maximum(_area(box) + _area(boxes) - both, 1e-12)


def average_precision(found: list[tuple[float, bool]], truths: int) -> float:
    """Mean of the precision at 101 recalls; between two, that of the better one."""
    if not found:
        return 0.0
    hits = np.array([hit for _, hit in sorted(found, key=lambda pair: -pair[0])])
    right = np.cumsum(hits)
    precision = right / np.arange(1, len(hits) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(right / truths, np.linspace(0, 1, 101), side="left")
    return float(np.append(precision, 0.0)[places].mean())


def _common(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    return np.prod(np.maximum(high - low, 0), axis=1)


def _inside(box: np.ndarray, boxes: np.ndarray) -> float:
    """The greatest share of a box that lies in one of `boxes`."""
    return float((_common(box, boxes) / max(_area(box), 1e-12)).max())


def _area(box: np.ndarray) -> np.ndarray:
    area: np.ndarray = np.prod(np.maximum(box[..., 2:] - box[..., :2], 0), axis=-1)
    return area


def samples() -> dict[str, np.ndarray]:
    """All images of coco128, as the network takes them."""
    module = zoo.load()
    parts = [module.feeds("fastestdet_coco", split)[0] for split in ("calib", "eval")]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def main() -> None:
    """Write the images, or score models on them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("write").add_argument("folder", type=Path)
    commands.add_parser("score").add_argument("models", type=Path, nargs="+")
    arguments = parser.parse_args()
    feeds = samples()
    count = len(next(iter(feeds.values())))
    if arguments.command == "write":
        arguments.folder.mkdir(parents=True, exist_ok=True)
        np.savez(arguments.folder / "calib.npz", **{name: value[: count // 2] for name, value in feeds.items()})
        np.savez(arguments.folder / "eval.npz", **feeds, labels=np.arange(count))
        return
    from lpcc.runtime import Session

    for path in arguments.models:
        session, metric = Session(path), MeanAveragePrecision()
        for image in range(count):
            metric.add(session.run({n: v[image : image + 1] for n, v in feeds.items()}), np.array([image]))
        print(f"{path}: mAP50 {metric.value():.2f} %")


if __name__ == "__main__":
    main()
