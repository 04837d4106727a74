"""Convolutions and pools of any geometry, against onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings

torch = pytest.importorskip("torch", reason="the training extra is not installed")

Array = np.ndarray[Any, Any]
Compare = Callable[..., list[Array]]
rounds = settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.filter_too_much]
)


@st.composite
def geometry(draw: Any, *, least: int = 1, dilated: bool = True) -> dict[str, Any]:
    """Rank, size of the input and attributes of the windows; every window has room."""
    rank = draw(st.integers(least, 3))

    def each(low: int, high: int) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=rank, max_size=rank))

    kernel, strides = each(1, 3), each(1, 3)
    dilations = each(1, 2) if dilated else [1] * rank
    attrs: dict[str, Any] = {"kernel_shape": kernel, "strides": strides}
    auto = draw(st.sampled_from(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if auto.startswith("SAME"):
        dilations = [1] * rank  # onnxruntime takes no others with it, nor windows with gaps between them
        attrs["strides"] = [min(stride, k) for stride, k in zip(strides, kernel, strict=True)]
    if dilated:
        attrs["dilations"] = dilations
    if auto == "NOTSET":
        even = draw(st.booleans())
        before = each(0, 2)
        pads = before + (before if even else each(0, 2))
        attrs["pads"] = [min(pad, kernel[i % rank] - 1) for i, pad in enumerate(pads)]
    else:
        attrs["auto_pad"] = auto
    size = [(k - 1) * d + 1 + more for k, d, more in zip(kernel, dilations, each(0, 5), strict=True)]
    return {"size": size, "attrs": attrs}


@rounds
@given(geometry=geometry(), groups=st.integers(1, 2), bias=st.booleans(), seed=st.integers(0, 9))
def test_conv(same: Compare, geometry: dict[str, Any], groups: int, bias: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    size, attrs = geometry["size"], geometry["attrs"]
    x = rng.normal(size=(2, 2 * groups, *size)).astype(np.float32)
    w = rng.normal(size=(2 * groups, 2, *attrs["kernel_shape"])).astype(np.float32)
    inputs = [x, w, rng.normal(size=2 * groups).astype(np.float32)] if bias else [x, w]
    same("Conv", inputs, group=groups, tolerance=1e-4, **attrs)


@rounds
@given(geometry=geometry(), groups=st.integers(1, 2), more=st.booleans(), shaped=st.booleans(), seed=st.integers(0, 9))
def test_conv_transpose(
    same: Compare, geometry: dict[str, Any], groups: int, more: bool, shaped: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    size, attrs = geometry["size"], dict(geometry["attrs"])
    if attrs.get("auto_pad") == "VALID":
        del attrs["auto_pad"]
    x = rng.normal(size=(2, 2 * groups, *size)).astype(np.float32)
    w = rng.normal(size=(2 * groups, 3, *attrs["kernel_shape"])).astype(np.float32)
    b = rng.normal(size=3 * groups).astype(np.float32)
    if more:
        attrs["output_padding"] = [stride - 1 for stride in attrs["strides"]]
    if shaped:
        attrs.pop("pads", None)
        attrs["output_shape"] = [n * s for n, s in zip(size, attrs["strides"], strict=True)]
        reach = [
            (n - 1) * s + (k - 1) * d + 1 >= n * s
            for n, s, k, d in zip(size, attrs["strides"], attrs["kernel_shape"], attrs["dilations"], strict=True)
        ]
        assume(all(reach))
    same("ConvTranspose", [x, w, b], group=groups, tolerance=1e-4, **attrs)


@rounds
@given(geometry=geometry(), ceil=st.booleans(), indices=st.booleans(), columns=st.booleans(), seed=st.integers(0, 9))
def test_max_pool(same: Compare, geometry: dict[str, Any], ceil: bool, indices: bool, columns: bool, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(2, 2, *geometry["size"])).astype(np.float32)
    attrs = {"ceil_mode": int(ceil), "storage_order": int(columns and indices), **geometry["attrs"]}
    same("MaxPool", [x], outputs=1 + indices, **attrs)


@rounds
@given(geometry=geometry(), ceil=st.booleans(), count=st.booleans(), seed=st.integers(0, 9))
def test_average_pool(same: Compare, geometry: dict[str, Any], ceil: bool, count: bool, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(2, 2, *geometry["size"])).astype(np.float32)
    same("AveragePool", [x], opset=19, ceil_mode=int(ceil), count_include_pad=int(count), **geometry["attrs"])


@rounds
@given(geometry=geometry(dilated=False), p=st.integers(1, 3), seed=st.integers(0, 9))
def test_lp_pool(same: Compare, geometry: dict[str, Any], p: int, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(2, 2, *geometry["size"])).astype(np.float32)
    same("LpPool", [x], opset=17, p=p, tolerance=1e-4, **geometry["attrs"])


def test_symmetric_padding_goes_straight_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    from lpcc.train.operators import Call, convolution, lower

    def refuse(*_: Any) -> None:
        raise AssertionError("padded apart")

    monkeypatch.setattr(convolution.F, "pad", refuse)
    x, w = torch.ones(1, 1, 5, 5), torch.ones(1, 1, 3, 3)
    assert lower(Call("Conv", opset=17, attrs={"pads": [1, 1, 1, 1]}))(x, w).shape == (1, 1, 5, 5)
    with pytest.raises(AssertionError, match="apart"):
        lower(Call("Conv", opset=17, attrs={"pads": [0, 0, 1, 1]}))(x, w)


def test_conv_of_four_dimensions_is_refused() -> None:
    from lpcc.train.operators import Call, Unsupported, lower

    with pytest.raises(Unsupported, match="4 spatial dimensions"):
        lower(Call("Conv", opset=17))(torch.ones(1, 1, 2, 2, 2, 2), torch.ones(1, 1, 1, 1, 1, 1))
