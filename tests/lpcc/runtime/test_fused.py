from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lpcc.errors import ModelError
from lpcc.runtime import KernelCount, count_kernels, optimised


def quantised_conv() -> onnx.ModelProto:
    """Conv between Q/DQ pairs: onnxruntime makes QLinearConv of it."""
    rng = np.random.default_rng(0)
    tensors = {
        "s": np.float32(0.1),
        "z": np.uint8(128),
        "w": rng.integers(-127, 128, (4, 3, 3, 3), dtype=np.int8),
        "ws": np.float32(0.01),
        "wz": np.int8(0),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"]),
        helper.make_node("Conv", ["xd", "wd"], ["c"], kernel_shape=[3, 3]),
        helper.make_node("QuantizeLinear", ["c", "s", "z"], ["cq"]),
        helper.make_node("DequantizeLinear", ["cq", "s", "z"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 6, 6])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_counts_what_is_there() -> None:
    count = count_kernels(quantised_conv())
    assert count == KernelCount(
        nodes=6,
        integer=0,
        integer_convolutions=0,
        quantize=2,
        dequantize=3,
        float_convolutions=1,
        float_products=0,
        by_op={"Conv": 1, "DequantizeLinear": 3, "QuantizeLinear": 2},
    )
    assert count.to_json()["by_op"] == count.by_op


@pytest.mark.parametrize("level", ["extended", "all"])
def test_counts_what_onnxruntime_runs(level: Any) -> None:
    count = count_kernels(optimised(quantised_conv(), level))
    assert (count.quantize, count.dequantize) == (1, 1)  # at the model's input and output
    assert (count.integer, count.integer_convolutions, count.float_convolutions) == (1, 1, 0)


def test_counts_within_subgraphs() -> None:
    def branch(op: str) -> onnx.GraphProto:
        return helper.make_graph(
            [helper.make_node(op, ["x", "x"], ["z"])],
            op,
            [],
            [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        )

    node = helper.make_node("If", ["c"], ["y"], then_branch=branch("MatMul"), else_branch=branch("Add"))
    graph = helper.make_graph([node], "g", [], [])
    count = count_kernels(helper.make_model(graph))
    assert count.by_op == {"Add": 1, "If": 1, "MatMul": 1}
    assert (count.nodes, count.float_products) == (3, 1)


def test_operators_of_other_domains_keep_their_domain() -> None:
    nodes = [
        helper.make_node("QLinearAdd", ["a"], ["b"], domain="com.microsoft"),
        helper.make_node("Relu", ["b"], ["c"], domain="mine"),
        helper.make_node("Conv", ["b"], ["d"], domain="com.microsoft.nchwc"),
        helper.make_node("Relu", ["b"], ["e"], domain="ai.onnx"),
    ]
    count = count_kernels(helper.make_model(helper.make_graph(nodes, "g", [], [])))
    assert list(count.by_op) == ["Relu", "com.microsoft.nchwc::Conv", "com.microsoft::QLinearAdd", "mine::Relu"]
    assert (count.integer, count.float_convolutions) == (1, 1)


def test_weights_survive_the_way_through_the_file() -> None:
    model = quantised_conv()
    model.graph.initializer.append(numpy_helper.from_array(np.ones((600, 600), np.float32), "big"))
    model.graph.node.append(helper.make_node("MatMul", ["m", "big"], ["p"]))
    model.graph.input.append(helper.make_tensor_value_info("m", TensorProto.FLOAT, [1, 600]))
    model.graph.output.append(helper.make_tensor_value_info("p", TensorProto.FLOAT, [1, 600]))
    out = optimised(model)
    big = next(t for t in out.graph.initializer if list(t.dims) == [600, 600])
    assert numpy_helper.to_array(big).sum() == 360_000


def test_refuses_what_onnxruntime_refuses() -> None:
    with pytest.raises(ModelError, match="onnxruntime refuses the model"):
        optimised(b"no model")


def test_zoo_convolutions_fuse_with_their_activations(zoo: Any) -> None:
    for name in zoo.names:
        model = onnx.load(zoo.model(name))
        before, after = count_kernels(model), count_kernels(optimised(model, "extended"))
        assert after.nodes <= before.nodes
        assert after.float_convolutions == before.float_convolutions
