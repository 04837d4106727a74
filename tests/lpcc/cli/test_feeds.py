from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from lpcc.cli.feeds import check_sizes, data_feeds, random_feeds
from lpcc.errors import DataError, UsageError
from lpcc.runtime import TensorSpec
from lpcc.testing.golden import read_model

TEXT = """
<ir_version: 9, opset_import: ["": 17]>
g (float[N,3,H,H] x, int64[N,?] k, float[2] w) => (float[N,3,H,H] y)
<float[2] w = {1.0, 2.0}>
{ y = Relu(x) }
"""


@pytest.fixture
def model() -> onnx.ModelProto:
    return read_model(TEXT)


def test_sizes_that_are_not_given(model: onnx.ModelProto) -> None:
    feeds = random_feeds(model, {}, 0)
    assert {name: array.shape for name, array in feeds.items()} == {"x": (1, 3, 224, 224), "k": (1, 224)}
    assert feeds["k"].dtype == np.int64


def test_sizes_by_name_and_place(model: onnx.ModelProto) -> None:
    feeds = random_feeds(model, {"N": 2, "x[2]": 8, "k[1]": 5}, 0)
    assert {name: array.shape for name, array in feeds.items()} == {"x": (2, 3, 8, 8), "k": (2, 5)}


def test_the_seed_decides(model: onnx.ModelProto) -> None:
    first, again, other = (random_feeds(model, {"H": 8}, seed)["x"] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_unknown_sizes() -> None:
    specs = [TensorSpec("x", None, ("N", 3, None)), TensorSpec("k", None, None)]
    check_sizes({"N": 1, "x[0]": 1, "x[2]": 4}, specs)
    for name in ("M", "x[1]", "x[3]", "k[0]"):
        with pytest.raises(UsageError, match=r"N, x\[0\], x\[2\]"):
            check_sizes({name: 1}, specs)
    with pytest.raises(UsageError, match="all are fixed"):
        check_sizes({"N": 1}, [TensorSpec("x", None, (1, 3))])


def test_data(tmp_path: Path) -> None:
    model = read_model('<ir_version: 9, opset_import: ["": 17]>\ng (float[N,2] x) => (float[N,2] y) { y = Relu(x) }')
    np.savez(tmp_path / "data.npz", x=np.arange(10, dtype=np.float32).reshape(5, 2))
    feeds = list(data_feeds(model, str(tmp_path / "data.npz"), None, 3))
    assert [fed["x"].tolist() for fed in feeds] == [[[0, 1]], [[2, 3]], [[4, 5]]]
    with pytest.raises(DataError):
        list(data_feeds(model, str(tmp_path / "none.npz"), None, 3))
