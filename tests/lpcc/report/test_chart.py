from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lpcc.report.chart import chart


def test_bars_in_eighths() -> None:
    assert chart([8, 16, 4, 0, 1], 80, 2) == [" █", "██▄ ▁"]


def test_many_values_share_columns_and_no_peak_is_lost() -> None:
    lines = chart([1] * 500 + [100] + [1] * 499, 10, 1)
    assert lines == ["▁▁▁▁▁█▁▁▁▁"]


def test_nothing_to_show() -> None:
    assert chart([], 10) == chart([0, 0], 10) == []


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=300), st.integers(1, 100), st.integers(1, 5))
def test_it_fits_and_only_what_is_0_is_empty(values: list[int], width: int, height: int) -> None:
    lines = chart(values, width, height)
    assert all(len(line) <= width for line in lines)
    if max(values):
        assert len(lines) == height
        assert "█" in lines[0]
    if len(values) <= width and min(values) > 0:
        assert len(lines[-1]) == len(values)
