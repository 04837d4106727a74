"""Quantising operators against onnxruntime."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from lpcc.train.operators import Call, Unsupported, lower  # noqa: E402
from lpcc.train.operators.quantised import integer_ends  # noqa: E402

RNG = np.random.default_rng(0)
X = (RNG.standard_normal((2, 4, 5)) * 20).astype(np.float32)


def scalar(value, dtype=np.float32):
    return np.asarray(value, dtype=dtype)


@pytest.mark.parametrize(
    ("dtype", "zero", "opset"),
    [
        (np.uint8, 0, 10),
        (np.uint8, 97, 13),
        (np.int8, -128, 13),
        (np.int8, 3, 19),
        (np.int16, 0, 21),
        (np.uint16, 30000, 21),
    ],
)
def test_integers_by_tensor(same, dtype, zero, opset):
    same("QuantizeLinear", [X, scalar(0.25), scalar(zero, dtype)], opset=opset)
    integers = RNG.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, (2, 4, 5)).astype(dtype)
    same("DequantizeLinear", [integers, scalar(0.25), scalar(zero, dtype)], opset=opset)


@pytest.mark.parametrize(("axis", "size"), [(0, 2), (1, 4), (-1, 5)])
def test_integers_by_channel(same, axis, size):
    scale = (RNG.random(size) + 0.1).astype(np.float32)
    zero = RNG.integers(-20, 20, size).astype(np.int8)
    expected = same("QuantizeLinear", [X, scale, zero], axis=axis)
    same("DequantizeLinear", [expected[0], scale, zero], axis=axis)


def test_integers_by_block(same):
    scale = (RNG.random((2, 2, 5)) + 0.1).astype(np.float32)
    zero = RNG.integers(0, 20, (2, 2, 5)).astype(np.uint8)
    expected = same("QuantizeLinear", [X, scale, zero], axis=1, block_size=2, opset=21)
    same("DequantizeLinear", [expected[0], scale, zero], axis=1, block_size=2, opset=21)


def test_without_a_zero_point(same):
    same("QuantizeLinear", [X, scalar(0.5)], opset=13)
    same("QuantizeLinear", [X, scalar(0.5)], opset=21, output_dtype=TensorProto.INT8)
    same("DequantizeLinear", [RNG.integers(-2000, 2000, (3, 4)).astype(np.int32), scalar(0.5)], opset=13)


def test_onnxruntimes_own_domain(same):
    same("QuantizeLinear", [X, scalar(0.01), scalar(0, np.int16)], domain="com.microsoft")
    integers = RNG.integers(-30000, 30000, (2, 4)).astype(np.int16)
    same("DequantizeLinear", [integers, scalar(0.01), scalar(0, np.int16)], domain="com.microsoft")


@pytest.mark.parametrize("x", [X, np.abs(X), -np.abs(X), np.zeros((2, 3), np.float32)], ids=["both", "+", "-", "zero"])
def test_dynamic(same, x):
    same("DynamicQuantizeLinear", [x], outputs=3)


def test_dynamic_quantisation_passes_gradients():
    x = torch.tensor([-1.0, 0.3, 2.0], requires_grad=True)
    y, scale, zero = lower(Call("DynamicQuantizeLinear", opset=17, inputs=1, outputs=3))(x)
    ((y - zero) * scale).sum().backward()
    torch.testing.assert_close(x.grad, torch.ones(3), rtol=0, atol=0.02)  # and the range moves by a step or two
    assert not zero.requires_grad


@pytest.mark.parametrize(
    ("name", "ends"), [("int4", (-8, 7)), ("uint4", (0, 15)), ("int2", (-2, 1)), ("uint2", (0, 3)), ("int16", None)]
)
def test_ends_of_small_types(name, ends):
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    assert integer_ends(dtype) == (ends or (-32768, 32767))


def test_what_is_not_known_is_said():
    with pytest.raises(Unsupported, match="float8_e4m3fn"):
        lower(Call("QuantizeLinear", opset=19, attrs={"output_dtype": TensorProto.FLOAT8E4M3FN}, inputs=2))
    with pytest.raises(Unsupported, match="type of its zero point is unknown"):
        lower(Call("QuantizeLinear", opset=19, inputs=3))
