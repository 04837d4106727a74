"""Which layers count as quantised, and what is read of them."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from lpcc.analysis.quantized import QuantizedLayer, quantized_layers
from lpcc.graph import from_proto


def layers(stored: np.ndarray, *, cast: bool, zero: int = 0, scales: int = 2) -> list[QuantizedLayer]:
    rows = {
        "w": stored,
        "w_scale": np.arange(1, scales + 1, dtype=np.float32) if scales > 1 else np.float32(0.5),
        "w_zero": np.full(scales, zero, dtype=np.int8) if scales > 1 else np.int8(zero),
        "x_scale": np.float32(0.25),
        "x_zero": np.uint8(3),
    }
    tensors = [numpy_helper.from_array(np.asarray(values), name) for name, values in rows.items()]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "x_scale", "x_zero"], ["d"]),
        *([helper.make_node("Cast", ["w"], ["w8"], to=TensorProto.INT8)] if cast else []),
        helper.make_node("DequantizeLinear", ["w8" if cast else "w", "w_scale", "w_zero"], ["wd"], axis=0),
        helper.make_node("Conv", ["d", "wd"], ["y"], name="conv"),
        helper.make_node("Conv", ["y", "plain"], ["z"], name="float"),
    ]
    tensors.append(numpy_helper.from_array(np.ones((1, 2, 1, 1), dtype=np.float32), "plain"))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 4, 4])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        tensors,
    )
    return quantized_layers(from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])))


@pytest.mark.parametrize(("dtype", "cast", "bits"), [(np.int8, False, 8), (ml_dtypes.int4, True, 4)])
def test_reads_integers_scales_and_the_input(dtype: type, cast: bool, bits: int) -> None:
    integers = np.arange(-3, 3).reshape(2, 3, 1, 1)
    (layer,) = layers(integers.astype(dtype), cast=cast)
    assert layer.node.name == "conv"
    assert layer.bits == bits
    assert layer.channel_axis == 0
    assert layer.weights.axis == 0
    np.testing.assert_array_equal(layer.weights.values, integers * np.array([1.0, 2.0]).reshape(2, 1, 1, 1))
    assert layer.input_params is not None
    assert (layer.input_params.scale, layer.input_params.zero_point) == (0.25, 3)
    assert layer.bias is None


def test_one_scale_has_no_axis() -> None:
    (layer,) = layers(np.ones((2, 3, 1, 1), dtype=np.int8), cast=False, scales=1)
    assert layer.weights.axis is None
    assert layer.weights.values.max() == 0.5


def test_a_zero_point_is_not_taken_for_symmetric() -> None:
    assert layers(np.ones((2, 3, 1, 1), dtype=np.int8), cast=False, zero=1) == []


def mixed(order: list[int] | None) -> list[QuantizedLayer]:
    """A layer of four channels, of which 1 and 3 lie in int8 and 0 and 2 in int4 if `order` sorts them."""
    rows = {
        "wide": np.array([[10, -127], [20, 30]], dtype=np.int8).reshape(2, 2, 1, 1),
        "few": np.array([[1, -8], [2, 7]]).reshape(2, 2, 1, 1).astype(ml_dtypes.int4),
        "scale": np.arange(1, 5, dtype=np.float32),
        "order": np.array(order or [0, 1, 2, 3]),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["few"], ["few8"], to=TensorProto.INT8),
            helper.make_node("Concat", ["wide", "few8"], ["joined"], axis=0),
            helper.make_node("Gather", ["joined", "order"], ["ordered"], axis=0),
            helper.make_node("DequantizeLinear", ["ordered", "scale"], ["w"], axis=0),
            helper.make_node("Conv", ["x", "w"], ["y"], name="conv"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(values, name) for name, values in rows.items()],
    )
    return quantized_layers(from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])))


def test_channels_of_several_widths_are_put_together() -> None:
    (layer,) = mixed([2, 0, 3, 1])
    assert layer.weights.integers.reshape(4, 2).tolist() == [[1, -8], [10, -127], [2, 7], [20, 30]]
    assert layer.weights.integers.dtype == np.int8
    assert layer.bits == 4
    assert layer.stored.name == "few"
    assert layer.wide.tolist() == [1, 3]
    low, high = layer.limits
    assert low.shape == (4, 1, 1, 1)
    assert low.ravel().tolist() == [-8, -127, -8, -127]
    assert high.ravel().tolist() == [7, 127, 7, 127]


def test_a_gather_that_repeats_channels_is_none() -> None:
    assert mixed([0, 0, 1, 2]) == []
