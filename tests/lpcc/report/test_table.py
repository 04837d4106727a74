from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lpcc.report.table import Column, table

COLUMNS = [
    Column("name", elastic=True, tail=True),
    Column("n", right=True),
    Column("what", elastic=True, drop=1),
    Column("more", drop=2),
]
ROWS = [["/features/conv1/Conv", "12", "a convolution", "xx"], ["y", "3", "", ""]]


def test_wide() -> None:
    assert table(COLUMNS, ROWS, 80) == [
        "name                   n  what           more",
        "/features/conv1/Conv  12  a convolution  xx",
        "y                      3",
    ]


def test_elastic_columns_give_way_and_show_what_tells_most() -> None:
    assert table(COLUMNS[:3], ROWS, 36) == [
        "name                n  what",
        "...res/conv1/Conv  12  a convolution",
        "y                   3",
    ]
    assert table([Column("what", elastic=True)], [["a convolution"]], 10) == ["what", "a convo..."]


def test_columns_are_dropped_in_order() -> None:
    (head, *_) = table(COLUMNS, ROWS, 40)
    assert head.split() == ["name", "n", "what"]
    (head, *_) = table(COLUMNS, ROWS, 22)
    assert head.split() == ["name", "n"]


def test_empty_columns_are_left_out() -> None:
    assert table([Column("a"), Column("b"), Column("c")], [["1", "", "3"]], 80) == ["a  c", "1  3"]


words = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=60)


@given(st.lists(st.tuples(words, words), min_size=1, max_size=5), st.integers(40, 200))
def test_fits_whatever_comes(rows: list[tuple[str, str]], width: int) -> None:
    lines = table([Column("a", elastic=True), Column("b", elastic=True, tail=True)], rows, width)
    assert len(lines) == len(rows) + 1
    assert max(map(len, lines)) <= width
