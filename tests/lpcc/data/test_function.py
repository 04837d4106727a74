from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpcc.data import Dataset, TensorSpec
from lpcc.data.source import Block, regroup
from lpcc.errors import DataError, LpccError, UsageError

INPUT = (TensorSpec("x", np.dtype(np.float32), ("batch", 2)),)

MODULE = """
import numpy as np
calls = 0
def good():
    for start, count in ((0, 3), (3, 1), (4, 4)):
        x = np.arange(start, start + count, dtype=np.float32)
        yield {"x": np.stack([x, x], 1), "labels": x.astype(int)}
def a_list():
    return [{"x": np.zeros((1, 2), np.float32)}] * 3
def empty():
    return []
def raises():
    yield {"x": np.zeros((1, 2), np.float32)}
    raise ValueError("disk on fire")
def leaves():
    raise SystemExit(0)
def no_dict():
    yield np.zeros((1, 2), np.float32)
def wrong_shape():
    yield {"x": np.zeros((1, 3), np.float32)}
def half_labelled():
    yield {"x": np.zeros((1, 2), np.float32), "labels": [1]}
    yield {"x": np.zeros((1, 2), np.float32)}
def shrinks():
    global calls
    calls += 1
    for _ in range(4 - calls):
        yield {"x": np.zeros((1, 2), np.float32)}
value = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "my_feeds.py").write_text(MODULE)
    (tmp_path / "my_broken.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    yield "my_feeds"
    assert sys.path == path
    sys.modules.pop("my_feeds", None)


def test_regroups_what_the_function_gives(module: str) -> None:
    data = Dataset.open(f"{module}:good", INPUT, labels_needed=True)
    for size in (1, 3, 5, 100):
        batches = list(data.batches(size))
        assert [b.count for b in batches[:-1]] == [size] * (len(batches) - 1)
        assert [int(v) for b in batches for v in b.feeds["x"][:, 1]] == list(range(8))
        assert [int(v) for b in batches if b.labels is not None for v in b.labels] == list(range(8))
    assert len(data) == 8
    assert data.description == "my_feeds:good"


def test_counts_without_a_pass(module: str) -> None:
    assert len(Dataset.open(f"{module}:a_list", INPUT)) == 3


@pytest.mark.parametrize(
    ("name", "error", "expected"),
    [
        ("my_feeds:empty", DataError, "no samples"),
        ("my_feeds:raises", DataError, "raised ValueError: disk on fire"),
        ("my_feeds:leaves", DataError, "raised SystemExit: 0"),
        ("my_feeds:no_dict", DataError, "item 0: is a ndarray, not a dict of arrays"),
        ("my_feeds:wrong_shape", DataError, "item 0: array `x` has samples of shape [3], the model takes [2]"),
        ("my_feeds:half_labelled", DataError, "item 1: `labels` must be in all items or in none"),
        ("my_feeds:missing", UsageError, "module `my_feeds` has no `missing`"),
        ("my_feeds:value", UsageError, "`value` is no function"),
        ("my_nothing:f", UsageError, "no module `my_nothing`; looked in"),
        ("my_broken:f", UsageError, "importing `my_broken` failed: ZeroDivisionError"),
        ("my_feeds", DataError, "no such file or folder"),
        ("my_feeds.py", DataError, "is no data that lpcc reads"),
    ],
)
def test_refuses_in_one_line(module: str, name: str, error: type[LpccError], expected: str) -> None:
    with pytest.raises(error) as caught:
        list(Dataset.open(name, INPUT).batches(1))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_notices_a_function_that_changes_its_mind(module: str) -> None:
    data = Dataset.open(f"{module}:shrinks", INPUT)
    assert len(data) == 2
    with pytest.raises(DataError, match="gave 2 samples at first and 1 now"):
        list(data.batches(8))


@given(st.lists(st.integers(1, 7), min_size=1, max_size=8), st.integers(1, 9))
def test_regroup_keeps_every_sample_in_order(counts: list[int], size: int) -> None:
    ends = np.cumsum(counts)
    blocks = [Block({"x": np.arange(e - c, e)}, np.arange(e - c, e) * 2) for c, e in zip(counts, ends, strict=True)]
    out = list(regroup(blocks, size))
    assert all(len(block) == size for block in out[:-1])
    assert 0 < len(out[-1]) <= size
    assert np.concatenate([b.arrays["x"] for b in out]).tolist() == list(range(sum(counts)))
    assert all((b.arrays["x"] * 2 == b.labels).all() for b in out)
