"""The metric of boxes: against numbers worked out by hand, and what the zoo says of its detector."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def detection(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`benchmarks/detection.py`, imported as it is when it runs as a script."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    for name in ("detection", "zoo"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("detection")


def test_overlap(detection):
    boxes = np.array([[0, 0, 2, 2], [1, 1, 3, 3], [5, 5, 6, 6]], float)
    np.testing.assert_allclose(detection.overlap(boxes[0], boxes), [1, 1 / 7, 0])


@pytest.mark.parametrize(
    ("found", "truths", "expected"),
    [
        ([(0.9, True), (0.8, True)], 2, 1.0),
        ([], 3, 0.0),
        ([(0.9, True)], 2, 51 / 101),  # recalls up to one half
        ([(0.9, False), (0.8, True)], 1, 0.5),
        ([(0.9, True), (0.8, False), (0.7, True)], 2, (51 + 50 * 2 / 3) / 101),
    ],
)
def test_average_precision(detection, found, truths, expected):
    assert detection.average_precision(found, truths) == pytest.approx(expected)


def test_detections_are_decoded_and_suppressed_by_class(detection):
    grid = np.full((85, 4, 4), 0.0)
    grid[3:5] = -9.0  # boxes without extent
    for row, column, kind in ((1, 2, 7), (1, 3, 7), (2, 2, 9)):
        grid[0, row, column] = 1.0
        grid[1:5, row, column] = [0, 0, 0, 0]  # at the cell's corner, half the image wide
        grid[5 + kind, row, column] = 0.5 + 0.1 * column
    grid[1, 1, 2] = np.arctanh(0.8)  # moves this one nearly onto its neighbour of the same class
    found = detection.detections(grid)
    assert found[:, 5].tolist() == [7, 9]
    np.testing.assert_allclose(found[0], [0.5, 0.0, 1.0, 0.5, 0.8**0.4, 7], atol=1e-6)
    np.testing.assert_allclose(found[1], [0.25, 0.25, 0.75, 0.75, 0.7**0.4, 9], atol=1e-6)


@pytest.mark.slow
def test_the_zoos_detector_has_the_precision_that_the_zoo_states(zoo, detection, monkeypatch):
    from lpcc.runtime import Session

    monkeypatch.setattr(detection.zoo, "ROOT", zoo.root)
    session, metric = Session(zoo.model("fastestdet_coco")), detection.MeanAveragePrecision()
    feeds = detection.samples()
    for image in range(128):
        metric.add(session.run({name: value[image : image + 1] for name, value in feeds.items()}), np.array([image]))
    assert metric.value() == pytest.approx(30.7, abs=0.05)
