"""Layout operators with any arguments, against onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings

torch = pytest.importorskip("torch", reason="the training extra is not installed")

Compare = Callable[..., list[np.ndarray[Any, Any]]]
rounds = settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
shapes = st.lists(st.integers(1, 5), min_size=1, max_size=4)


def image(shape: list[int]) -> np.ndarray[Any, Any]:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@rounds
@given(data=st.data(), shape=shapes)
def test_slice(same: Compare, data: st.DataObject, shape: list[int]) -> None:
    axes = data.draw(st.lists(st.integers(0, len(shape) - 1), unique=True, min_size=1))
    bounds = st.lists(st.integers(-7, 7), min_size=len(axes), max_size=len(axes))
    starts, ends = data.draw(bounds), data.draw(bounds)
    steps = data.draw(st.lists(st.sampled_from([-3, -2, -1, 1, 2, 3]), min_size=len(axes), max_size=len(axes)))
    signed = [axis - len(shape) if data.draw(st.booleans()) else axis for axis in axes]
    same("Slice", [image(shape), *(np.array(each, np.int64) for each in (starts, ends, signed, steps))])


@rounds
@given(data=st.data(), shape=shapes, mode=st.sampled_from(["constant", "edge", "reflect", "wrap"]))
def test_pad(same: Compare, data: st.DataObject, shape: list[int], mode: str) -> None:
    least = 0 if mode == "wrap" else -1
    pads = [data.draw(st.integers(least, 4)) for _ in range(2 * len(shape))]
    for axis, size in enumerate(shape):
        before, after = pads[axis], pads[axis + len(shape)]
        assume(size + min(before, 0) + min(after, 0) >= 1)
        if mode == "reflect":
            assume(max(before, after) < size and min(before, after) >= 0)
        if mode == "wrap":
            assume(max(before, after) <= size)
        if mode == "edge":
            assume(min(before, after) >= 0)
    same("Pad", [image(shape), np.array(pads)], opset=19, mode=mode)


@rounds
@given(data=st.data(), shape=shapes, rank=st.integers(0, 2))
def test_gather(same: Compare, data: st.DataObject, shape: list[int], rank: int) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    size = shape[axis]
    indices = np.random.default_rng(0).integers(-size, size, size=(2, 3)[:rank])
    same("Gather", [image(shape), np.array(indices)], axis=axis)


@rounds
@given(shape=shapes, target=st.lists(st.sampled_from([1, 2]), min_size=1, max_size=5), ones=st.booleans())
def test_expand_and_tile(same: Compare, shape: list[int], target: list[int], ones: bool) -> None:
    x = image([1 if ones else size for size in shape])
    repeats = (target * 4)[: len(shape)]
    same("Tile", [x, np.array(repeats)])
    if ones:
        same("Expand", [x, np.array(target)])


@rounds
@given(data=st.data(), shape=shapes, parts=st.integers(1, 3))
def test_split_into_unequal_parts(same: Compare, data: st.DataObject, shape: list[int], parts: int) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    assume(shape[axis] >= parts)
    assume(-(-shape[axis] // parts) * (parts - 1) < shape[axis])
    same("Split", [image(shape)], opset=18, outputs=parts, axis=axis, num_outputs=parts)
