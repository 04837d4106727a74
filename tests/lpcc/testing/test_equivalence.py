"""Numeric equality, and what counts as it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from lpcc.equality import relative_difference
from lpcc.testing import assert_equivalent, random_feeds


def model(body: str, outputs: str = "float[N] y") -> onnx.ModelProto:
    return onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => ({outputs}) {{ {body} }}'
    )


def test_equal_models() -> None:
    assert_equivalent(model("y = Relu(x)"), model("a = Relu(x) y = Relu(a)"))


def test_another_result() -> None:
    with pytest.raises(AssertionError, match="output `y` differs"):
        assert_equivalent(model("y = Relu(x)"), model("y = Neg(x)"))


@pytest.mark.parametrize("outputs", ["float[M] y", "float[N] z", "float[N] y, float[N] x2"])
def test_another_interface(outputs: str) -> None:
    name = "z" if " z" in outputs else "y"
    body = f"{name} = Relu(x)" + (" x2 = Relu(x)" if "x2" in outputs else "")
    with pytest.raises(AssertionError, match="the output `"):
        assert_equivalent(model("y = Relu(x)"), model(body, outputs))


def test_random_feeds() -> None:
    made = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g '
        "(float[N,M,3] a, int64[2] b, bool[4] c, string s, float16[2] h, double d) => (float[N,M,3] y) { y = Relu(a) }"
    )
    feeds = random_feeds(made, dims={"N": 5})
    assert {name: (value.shape, value.dtype.kind) for name, value in feeds.items()} == {
        "a": ((5, 2, 3), "f"),
        "b": ((2,), "i"),
        "c": ((4,), "b"),
        "s": ((), "O"),
        "h": ((2,), "f"),
        "d": ((), "f"),
    }
    for name, value in random_feeds(made, dims={"N": 5}).items():
        np.testing.assert_array_equal(value, feeds[name])
    assert not np.array_equal(random_feeds(made, seed=1, dims={"N": 5})["a"], feeds["a"])


NAN, INF = np.nan, np.inf


@pytest.mark.parametrize(
    ("expected", "found", "difference"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0),
        ([1.0, 2.0], [1.0, 2.2], 0.1),
        ([NAN, 2.0], [NAN, 2.0], 0),
        ([NAN, 2.0], [1.0, 2.0], INF),
        ([1.0, 2.0], [NAN, 2.0], INF),
        ([INF, 2.0], [INF, 2.0], 0),
        ([INF, 2.0], [-INF, 2.0], INF),
        ([NAN, NAN], [NAN, NAN], 0),
        ([0.0, 0.0], [0.0, 1.0], 1e6),
        ([], [], 0),
        ([1.0], [1.0, 1.0], INF),
    ],
)
def test_relative_difference(expected: Any, found: Any, difference: float) -> None:
    a, b = np.array(expected, np.float32), np.array(found, np.float32)
    assert relative_difference(a, b) == pytest.approx(difference, rel=1e-5)
    assert relative_difference([a], [b]) == pytest.approx(difference, rel=1e-5)


@pytest.mark.parametrize(
    ("expected", "found", "same"),
    [
        (np.array(["a"], object), np.array(["a"], object), True),
        (np.array(["a"], object), np.array(["b"], object), False),
        (np.ones(2, np.int64), np.ones(2, np.int32), False),
        (np.array([True]), np.array([False]), False),
        (np.array([1 + 1j]), np.array([1 + 2j]), False),
        ([np.ones(1)], [np.ones(1), np.ones(1)], False),
        ([np.ones(1)], np.ones(1), False),
        ([], [], True),
        (None, None, True),
        ({"a": 1.0}, {"a": 1.0}, True),
        ({"a": 1.0}, {"a": 2.0}, False),
    ],
)
def test_other_results(expected: Any, found: Any, same: bool) -> None:
    assert (relative_difference(expected, found) <= 1e-4) is same
