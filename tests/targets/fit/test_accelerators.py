"""What is asked of the models of Ethos-U55 and Eyeriss, on all rows that there are; the coarse one of Jetson Nano."""

from __future__ import annotations

from pathlib import Path

import pytest

from lpcc.target import Target
from lpcc.targets.fit import ethos_u, eyeriss, jetson_nano


def test_ethos_u55(truth: Path) -> None:
    found = ethos_u.checks(truth)
    assert [check.met for check in found] == [True, True], found


def test_eyeriss(truth: Path) -> None:
    found = eyeriss.points(truth)[0]
    assert max(abs(error) for error in found.errors) < 1e-3, "exact, but for the rounding of the constant"
    rows = eyeriss._rows(truth)
    assert eyeriss.fit(rows[::50]) * 1e3 == pytest.approx(Target.load("eyeriss").overhead_us.inference, rel=1e-3)


def test_jetson_nano(truth: Path) -> None:
    found = jetson_nano.points(truth)[0]
    assert found.within(0.5) > 0.7
    table = {(row.split(",")[0], row.split(",")[3]): float(row.split(",")[4]) for row in _rows()}
    fitted = {(kind, term): value for kind, term, value in jetson_nano.table(truth)}
    assert fitted == pytest.approx(table, rel=1e-3)


def _rows() -> list[str]:
    import lpcc.targets

    path = Path(lpcc.targets.__file__).parent / "tables" / "jetson-nano.csv"
    return [line for line in path.read_text().splitlines() if not line.startswith(("#", "kernel,"))]
