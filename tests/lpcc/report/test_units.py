from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpcc.report import units


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (1234.5, "1234"), (123.4, "123"), (12.34, "12.3"), (1.234, "1.23"), (0.1234, "0.123"),
        (0.001234, "0.00123"), (-1.234, "-1.23"), (1e-9, "0.000000"),
        (math.inf, "inf"), (math.nan, "nan"),
    ],
)  # fmt: skip
def test_digits(value: float, text: str) -> None:
    assert units.digits(value) == text


@given(st.floats(1e-4, 1e6))
def test_digits_keep_the_value(value: float) -> None:
    assert float(units.digits(value)) == pytest.approx(value, rel=0.006)


def test_sizes() -> None:
    assert [units.size(n) for n in (0, 1023, 1024, 1536, 10 * 2**20, 3 * 2**30)] == [
        "0 B", "1023 B", "1.00 KB", "1.50 KB", "10.0 MB", "3.00 GB",
    ]  # fmt: skip


def test_counts() -> None:
    assert [units.count(n) for n in (0, 9999, 10_000, 41_200_000, 5_000_000_000)] == [
        "0", "9999", "10.0 k", "41.2 M", "5.00 G",
    ]  # fmt: skip


def test_times_and_energies() -> None:
    assert (units.ms(1.5), units.ms(12_345.0), units.ms(None)) == ("1.50 ms", "12.3 s", "-")
    assert (units.mj(1.5), units.mj(12_345.0), units.mj(None)) == ("1.50 mJ", "12.3 J", "-")


def test_changes() -> None:
    assert units.change(100, 48) == "-52 %"
    assert units.change(100, 99) == "-1.0 %"
    assert units.change(100, 250) == "+150 %"
    assert units.change(7, 7) == "="
    assert units.change(0, 7) == units.change(None, 7) == units.change(7, None) == ""


def test_missing_numbers() -> None:
    assert {f(None) for f in (units.size, units.count, units.percent, units.decibels, units.number)} == {"-"}
