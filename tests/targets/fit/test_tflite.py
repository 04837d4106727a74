from __future__ import annotations

from pathlib import Path

import pytest

from lpcc.targets.fit import tflite


@pytest.mark.slow
def test_networks_that_were_not_fitted(truth: Path) -> None:
    [points] = tflite.points(truth)
    assert points.target == "arm-cortex-a76/tflite"
    assert points.within(0.1) > 0.93
