"""Resize and Upsample, against onnxruntime: all modes, all ways to place the elements, sizes that do not divide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

torch = pytest.importorskip("torch", reason="the training extra is not installed")

Compare = Callable[..., list[np.ndarray[Any, Any]]]
rounds = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.filter_too_much]
)
TRANSFORMS = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]


def image(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@rounds
@given(
    mode=st.sampled_from(["nearest", "linear", "cubic"]),
    transform=st.sampled_from(TRANSFORMS),
    rounding=st.sampled_from(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]),
    sizes=st.tuples(*[st.integers(1, 9)] * 4),
    by_scale=st.booleans(),
    outside=st.booleans(),
)
def test_resize(
    same: Compare,
    mode: str,
    transform: str,
    rounding: str,
    sizes: tuple[int, ...],
    by_scale: bool,
    outside: bool,
) -> None:
    x = image(1, 2, *sizes[:2])
    attrs: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": transform}
    if mode == "nearest":
        attrs["nearest_mode"] = rounding
    if mode == "cubic":
        attrs |= {"exclude_outside": int(outside), "cubic_coeff_a": -0.5 if outside else -0.75}
    if by_scale:
        scales = np.array([1, 1, sizes[2] / sizes[0], sizes[3] / sizes[1]], np.float32)
        inputs = [x, None, scales]
    else:
        inputs = [x, None, None, np.array([1, 2, *sizes[2:]])]
    same("Resize", inputs, opset=13, tolerance=1e-4, **attrs)


@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil"])
@pytest.mark.parametrize(("size", "to"), [(7, 2), (14, 4), (30, 16), (38, 40), (30, 9), (26, 1), (28, 57)])
@pytest.mark.parametrize("transform", ["asymmetric", "half_pixel"])
def test_middles_of_two_pixels(same: Compare, rounding: str, size: int, to: int, transform: str) -> None:
    """Where single precision misses the middle by a hair; of some sizes by more, which counts."""
    attrs = {"nearest_mode": rounding, "coordinate_transformation_mode": transform, "mode": "nearest"}
    same("Resize", [image(1, 1, size, 1), None, None, np.array([1, 1, to, 1])], opset=13, **attrs)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("opset", [7, 9])
@pytest.mark.parametrize("scales", [[1.0, 1.0, 2.0, 3.0], [1.0, 1.0, 1.5, 2.5]])
def test_upsample(same: Compare, mode: str, opset: int, scales: list[float]) -> None:
    if opset < 9:
        same("Upsample", [image(1, 2, 4, 5)], opset=opset, mode=mode, scales=scales)
    else:
        same("Upsample", [image(1, 2, 4, 5), np.array(scales, np.float32)], opset=opset, mode=mode)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_resize_of_opset_10(same: Compare, mode: str) -> None:
    same("Resize", [image(1, 2, 5, 6), np.array([1, 1, 1.6, 0.5], np.float32)], opset=10, mode=mode)


def test_empty_roi_and_scales(same: Compare, ours: Compare) -> None:
    nothing, sizes = np.zeros(0, np.float32), np.array([1, 1, 8, 6])
    inputs = [image(1, 1, 4, 4), nothing, nothing, sizes]
    expected = same("Resize", inputs, opset=11, mode="linear")[0]
    for opset in (13, 18, 19):
        np.testing.assert_allclose(
            ours("Resize", inputs, opset=opset, mode="linear")[0], expected, rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("policy", ["not_larger", "not_smaller"])
def test_axes_and_aspect_ratio(same: Compare, policy: str) -> None:
    sizes = np.array([7, 8])
    same(
        "Resize", [image(1, 2, 4, 5), None, None, sizes], opset=18, mode="linear", axes=[2, 3],
        keep_aspect_ratio_policy=policy,
    )  # fmt: skip


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("sizes", [[3, 4], [5, 9], [20, 3]])
def test_antialias(same: Compare, mode: str, sizes: list[int]) -> None:
    inputs = [image(1, 2, 11, 13), None, None, np.array([1, 2, *sizes])]
    same("Resize", inputs, opset=18, mode=mode, antialias=1, tolerance=1e-4)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_crop_and_resize(same: Compare, mode: str) -> None:
    roi = np.array([0, 0, 0.3, -0.2, 1, 1, 0.8, 1.4], np.float32)
    inputs = [image(1, 2, 6, 7), roi, None, np.array([1, 2, 4, 5])]
    attrs = {"coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 7.0}
    same("Resize", inputs, opset=13, mode=mode, **attrs)


@pytest.mark.parametrize("rank", [3, 5])
def test_other_ranks(same: Compare, rank: int) -> None:
    shape, to = (1, 2, 4, 5, 3)[:rank], [1, 2, 7, 4, 6][:rank]
    same("Resize", [image(*shape), None, None, np.array(to)], opset=18, mode="linear", tolerance=1e-4)


def test_channels_can_be_resized(same: Compare) -> None:
    same("Resize", [image(1, 4, 5, 2), None, np.array([1, 2.0, 1.5, 1], np.float32)], opset=13, mode="linear")


def test_integers(ours: Callable[..., Any]) -> None:
    x = np.arange(4, dtype=np.int32).reshape(1, 1, 2, 2)
    found = ours("Resize", [x, None, None, np.array([1, 1, 4, 4])], opset=18, mode="nearest")[0]
    assert found.tolist() == x.repeat(2, 2).repeat(2, 3).tolist()


def test_unknown_modes_are_refused() -> None:
    from lpcc.train.operators import Call, Unsupported, lower

    with pytest.raises(Unsupported, match="mode=sharp is not known"):
        lower(Call("Resize", opset=18, attrs={"mode": "sharp"}))
