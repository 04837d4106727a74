"""Which pairs of weights may leave 16 bits: by hand, and against all sums there are."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from lpcc.analysis.quantized import QuantizedLayer, quantized_layers
from lpcc.analysis.saturation import Pairs, risky_pairs
from lpcc.graph import from_proto

Array = np.ndarray[Any, Any]


def layer(weights: Array, op: str = "Conv", **attrs: int) -> QuantizedLayer:
    """A layer with these int8 weights on quantised activations."""
    f, d = onnx.TensorProto.FLOAT, [f"d{index}" for index in range(weights.ndim)]
    constants = {
        "scale": np.float32(0.5),
        "zero": np.uint8(3),
        "w": weights,
        "s": np.float32(0.1),
        "z": weights.dtype.type(0),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["x"]),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["v"]),
        helper.make_node(op, ["x", "v"], ["y"], **attrs),
    ]
    graph = from_proto(
        helper.make_model(
            helper.make_graph(
                nodes,
                "one",
                [helper.make_tensor_value_info("q", onnx.TensorProto.UINT8, d)],
                [helper.make_tensor_value_info("y", f, d)],
                [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
            ),
            opset_imports=[helper.make_opsetid("", 21)],
            ir_version=10,
        )
    )
    (found,) = quantized_layers(graph)
    return found


def pairs_of(weights: Array, op: str = "Conv", **attrs: int) -> Pairs:
    found = risky_pairs(layer(weights, op, **attrs))
    assert found is not None
    return found


def test_by_hand() -> None:
    """255 * (64 + 64) is 32,640 and fits into 16 bits; 255 * (65 + 64) does not; signs that differ always fit."""
    weights = np.array([[64, 64, 65, 64], [-64, -64, -65, -64], [127, -127, 127, 1], [127, 2, 0, 127]], dtype=np.int8)
    found = pairs_of(weights.reshape(4, 4, 1, 1))
    assert found.outputs.tolist() == [0, 1, 3]
    assert found.weights.tolist() == [[65, 64], [-65, -64], [127, 2]]
    assert found.channels.tolist() == [[2, 3], [2, 3], [0, 1]]
    assert found.all == 8


def test_neighbours_are_channels_of_one_kernel_position() -> None:
    weights = np.zeros((1, 4, 2, 2), dtype=np.int8)
    weights[0, 2:, 1, 0] = 100  # channels 2 and 3 at the third position
    weights[0, 0, 0, :] = 127  # neighbours in the file, which are none in the kernel
    found = pairs_of(weights)
    assert found.channels.tolist() == [[2, 3]]
    assert found.positions.tolist() == [[2, 2]]


def test_an_odd_number_of_channels_pairs_across_positions() -> None:
    weights = np.zeros((1, 3, 1, 2), dtype=np.int8)
    weights[0, 2, 0, 0] = weights[0, 0, 0, 1] = 90  # the last channel of one position, the first of the next
    found = pairs_of(weights)
    assert found.channels.tolist() == [[2, 0]]
    assert found.positions.tolist() == [[0, 1]]
    assert pairs_of(np.full((3, 1, 1, 1), 127, dtype=np.int8)).all == 3  # each alone


def test_groups_read_their_own_channels() -> None:
    weights = np.full((4, 2, 1, 1), 127, dtype=np.int8)
    found = pairs_of(weights, group=2)
    assert found.channels.tolist() == [[0, 1], [0, 1], [2, 3], [2, 3]]


def test_products_of_matrices() -> None:
    weights = np.array([[100, 0], [100, 100], [0, 100]], dtype=np.int8)
    assert pairs_of(weights, "MatMul").outputs.tolist() == [0]
    assert pairs_of(weights.T, "Gemm", transB=1).outputs.tolist() == [0]
    assert pairs_of(weights, "Gemm").channels.tolist() == [[0, 1]]


def test_depthwise_kernels_do_not_saturate() -> None:
    assert risky_pairs(layer(np.full((8, 1, 3, 3), 127, dtype=np.int8), group=8)) is None
    assert len(pairs_of(np.full((16, 1, 3, 3), 127, dtype=np.int8), group=8))  # two outputs a channel: another kernel


def test_seven_bits_do_not_saturate() -> None:
    assert len(pairs_of(np.full((8, 8, 3, 3), 64, dtype=np.int8))) == 0


@given(st.lists(st.integers(-128, 127), min_size=2, max_size=2))
def test_risk_is_what_some_activations_do(pair: list[int]) -> None:
    """The extremes of x0 w0 + x1 w1 are at the corners of the activations' range."""
    weights = np.array(pair, dtype=np.int8)
    sums = [x0 * int(weights[0]) + x1 * int(weights[1]) for x0 in (0, 255) for x1 in (0, 255)]
    leaves = max(sums) > 32767 or min(sums) < -32768
    assert (len(pairs_of(weights.reshape(1, 2, 1, 1))) == 1) == leaves


def test_wider_weights_have_other_kernels() -> None:
    assert risky_pairs(layer(np.full((8, 8, 1, 1), 127, dtype=np.int16))) is None
