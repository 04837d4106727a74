from __future__ import annotations

from pathlib import Path

import pytest

from lpcc.targets.fit.check import Points
from lpcc.targets.fit.plots import draw

POINTS = Points("arm/ncnn", "latency, ms", ("a", "b", "c"), (1.0, 2.0, 30.0), (1.05, 1.7, 33.0))


def test_errors() -> None:
    assert POINTS.errors == pytest.approx((0.05, -0.15, 0.1))
    assert POINTS.within(0.12) == pytest.approx(2 / 3)


def test_a_plot_for_each_target_with_the_same_bytes_every_time(tmp_path: Path) -> None:
    energy = Points("arm/ncnn", "energy, mJ", ("a",), (1.0,), (2.0,))
    other = Points("m4", "RAM, KiB", ("a",), (1.0,), (2.0,))
    written = draw([POINTS, energy, other], tmp_path / "new")
    assert [path.name for path in written] == ["arm-ncnn.svg", "m4.svg"]
    first = [path.read_bytes() for path in written]
    assert b"energy, mJ" in first[0]
    assert [path.read_bytes() for path in draw([POINTS, energy, other], tmp_path)] == first
