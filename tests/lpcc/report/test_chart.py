from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lpcc.report.chart import bar, chart


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


def test_a_bar_is_as_long_as_its_share() -> None:
    assert [bar(share, 4) for share in (0, 0.5, 1, 0.625, 1 / 32)] == ["", "██", "████", "██▌", "▏"]


@given(st.floats(0, 1), st.integers(1, 20))
def test_what_is_above_zero_is_seen(share: float, width: int) -> None:
    assert (len(bar(share, width)) > 0) == (share > 0)
    assert len(bar(share, width)) <= width
