"""Regions, boxes and samples of images, against onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

torch = pytest.importorskip("torch", reason="the training extra is not installed")

Compare = Callable[..., list[np.ndarray[Any, Any]]]
rounds = settings(max_examples=40, deadline=None, derandomize=True)


def real(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


@rounds
@given(
    mode=st.sampled_from(["avg", "max"]),
    ratio=st.integers(0, 3),
    half=st.sampled_from(["half_pixel", "output_half_pixel"]),
    seed=st.integers(0, 20),
)
def test_roi_align(same: Compare, mode: str, ratio: int, half: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(-3, 22, size=(5, 2, 2)), axis=1).reshape(5, 4).astype(np.float32)
    batch = rng.integers(0, 2, 5)
    attrs = {"output_height": 3, "output_width": 2, "sampling_ratio": ratio, "spatial_scale": 0.5, "mode": mode}
    x = np.abs(real(2, 3, 8, 9, seed=seed))
    same("RoiAlign", [x, corners, batch], opset=16, coordinate_transformation_mode=half, tolerance=1e-4, **attrs)


def test_roi_align_of_opset_10(same: Compare) -> None:
    rois = np.array([[1, 2, 6, 7], [0, 0, 3, 3]], np.float32)
    same("RoiAlign", [real(1, 2, 8, 9), rois, np.array([0, 0])], opset=10, output_height=2, output_width=2)


def test_max_roi_pool(same: Compare) -> None:
    rois = np.array([[0, 1, 2, 6, 7], [1, 0, 0, 3, 3], [0, 4, 4, 20, 11]], np.float32)
    same("MaxRoiPool", [real(2, 2, 8, 9), rois], pooled_shape=[2, 3], spatial_scale=0.8)


@rounds
@given(centred=st.booleans(), limit=st.integers(0, 6), least=st.booleans(), seed=st.integers(0, 30))
def test_non_max_suppression(same: Compare, centred: bool, limit: int, least: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    boxes = rng.uniform(0, 1, size=(2, 12, 4)).astype(np.float32)
    scores = rng.uniform(0, 1, size=(2, 3, 12)).astype(np.float32)
    inputs = [boxes, scores, np.array([limit]), np.array([0.3], np.float32)]
    inputs.append(np.array([0.4], np.float32) if least else None)
    same("NonMaxSuppression", inputs, opset=11, center_point_box=int(centred))


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("align", [0, 1])
def test_grid_sample(same: Compare, mode: str, padding: str, align: int) -> None:
    grid = np.random.default_rng(0).uniform(-1.3, 1.3, size=(2, 3, 4, 2)).astype(np.float32)
    attrs = {"mode": mode, "padding_mode": padding, "align_corners": align}
    same("GridSample", [real(2, 3, 5, 6), grid], opset=16, tolerance=1e-4, **attrs)


@pytest.mark.parametrize("activation", ["", "Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh"])
def test_fused_conv(same: Compare, activation: str) -> None:
    parameters = {"LeakyRelu": [0.2], "Clip": [-0.5, 0.5]}.get(activation)
    attrs: dict[str, Any] = {"activation": activation} if activation else {}
    attrs |= {"activation_params": parameters} if parameters else {}
    inputs = [real(1, 3, 6, 6), real(4, 3, 3, 3), real(4), real(1, 4, 6, 6)]
    same("FusedConv", inputs, domain="com.microsoft", pads=[1, 1, 1, 1], tolerance=1e-4, **attrs)


@pytest.mark.parametrize("op", ["Gelu", "QuickGelu", "FastGelu", "BiasGelu"])
def test_gelus_of_microsoft(same: Compare, op: str) -> None:
    inputs = [real(3, 4)] if op in ("Gelu", "QuickGelu") else [real(3, 4), real(4)]
    same(op, inputs, domain="com.microsoft", tolerance=1e-4)


def test_skip_layer_normalization(same: Compare) -> None:
    inputs = [real(2, 3, 4), real(2, 3, 4, seed=1), real(4), real(4, seed=1), real(4, seed=2)]
    same("SkipLayerNormalization", inputs, domain="com.microsoft", tolerance=1e-4)


@pytest.mark.parametrize("turns", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_fused_matmul(same: Compare, turns: tuple[int, int]) -> None:
    a = real(2, 4, 3) if turns[0] else real(2, 3, 4)
    b = real(2, 5, 4) if turns[1] else real(2, 4, 5)
    same("FusedMatMul", [a, b], domain="com.microsoft", transA=turns[0], transB=turns[1], alpha=0.5, tolerance=1e-4)


def test_fused_gemm(same: Compare) -> None:
    inputs = [real(2, 3), real(3, 4), real(4)]
    attrs = {"activation": "LeakyRelu", "activation_alpha": 0.3}
    same("FusedGemm", inputs, domain="com.microsoft", alpha=0.5, tolerance=1e-4, **attrs)
