from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from lpcc.graph import from_proto, to_proto
from lpcc.pipeline import Context, Pipeline
from lpcc.pipeline.runner import run_pipeline
from lpcc.testing import assert_equivalent, golden_cases

CONSTANTS = (0.0, 1.0, 3.0, 6.0, 0.5, 1 / 6, 0.2, -1.0, 1.41421356, 0.044715)


@pytest.mark.parametrize("case", golden_cases("golden/recognise-activations"), ids=lambda path: path.stem)
def test_golden(case, golden):
    golden(case)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_any_arithmetic(data):
    """Random arithmetic on one tensor, much of it close to the formulas: the outputs stay, no node is added."""
    nodes, tensors, weights = [], ["x"], {}

    def constant() -> str:
        value = data.draw(st.sampled_from(CONSTANTS))
        weights[f"c{CONSTANTS.index(value)}"] = np.array(value, dtype=np.float32)
        return f"c{CONSTANTS.index(value)}"

    for index in range(data.draw(st.integers(1, 6))):
        here = tensors[-1] if data.draw(st.integers(0, 4)) else data.draw(st.sampled_from(tensors))
        kind = data.draw(st.sampled_from(("Add", "Mul", "Div", "Sub", "Clip", "Min", "Max", "Relu", "Neg", "Tanh")))
        other = data.draw(st.sampled_from(tensors)) if not data.draw(st.integers(0, 3)) else constant()
        if kind in ("Relu", "Neg", "Tanh"):
            inputs = [here]
        elif kind == "Clip":
            inputs = [here, *data.draw(st.sampled_from((("c0", "c3"), ("c0", "c1"), ("c0", ""), ("", "c3"))))]
            weights |= {"c0": np.array(0, np.float32), "c1": np.array(1, np.float32), "c3": np.array(6, np.float32)}
        else:
            inputs = [here, other if kind != "Div" or (other.startswith("c") and weights[other]) else "c3"]
            weights["c3"] = np.array(6, np.float32)
            if kind != "Div" and data.draw(st.booleans()):
                inputs.reverse()
        nodes.append(helper.make_node(kind, inputs, [f"t{index}"]))
        tensors.append(f"t{index}")
    check(nodes, tensors[-1], weights)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_hard_swish_in_any_order(data):
    """Every way of writing x clip(x + 3, 0, 6) / 6 is recognised."""
    nodes: list[onnx.NodeProto] = []
    weights = {f"c{i}": np.array(value, dtype=np.float32) for i, value in enumerate(CONSTANTS)}

    def node(kind: str, *inputs: str) -> str:
        if kind in ("Add", "Mul", "Min", "Max") and data.draw(st.booleans()):
            inputs = inputs[::-1]
        nodes.append(helper.make_node(kind, list(inputs), [f"t{len(nodes)}"]))
        return f"t{len(nodes) - 1}"

    def sixth(tensor: str) -> str:
        return node("Mul", tensor, "c5") if data.draw(st.booleans()) else node("Div", tensor, "c3")

    where = data.draw(st.sampled_from(("first", "gate", "product", "sum")))
    if where == "sum":  # the ramp already runs from 0 to 1
        high, gate = "c1", node("Add", sixth("x"), "c4")
    else:
        high, gate = "c3", node("Add", "x", "c2")
    form = data.draw(st.sampled_from(("clip", "min-max", "max-min", "relu")))
    if form == "clip":
        gate = node("Clip", gate, "c0", high)
    elif form == "relu":
        gate = node("Min", node("Relu", gate), high)
    else:
        first, second = (("Min", high), ("Max", "c0")) if form == "min-max" else (("Max", "c0"), ("Min", high))
        gate = node(second[0], node(first[0], gate, first[1]), second[1])
    result = node("Mul", sixth("x") if where == "first" else "x", sixth(gate) if where == "gate" else gate)
    result = sixth(result) if where == "product" else result
    assert check(nodes, result, weights) == ["HardSwish"]


def check(nodes: list[onnx.NodeProto], result: str, weights: dict[str, np.ndarray]) -> list[str]:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [64])
    y = helper.make_tensor_value_info(result, TensorProto.FLOAT, [64])
    arrays = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], arrays)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    rewritten = from_proto(model)
    run_pipeline(rewritten, Pipeline.parse("recognise-activations"), Context())
    assert len(rewritten.nodes) <= len(nodes)
    after = to_proto(rewritten)
    onnx.checker.check_model(after, full_check=True)
    feeds = {"x": np.linspace(-8, 8, 64, dtype=np.float32)}
    assert_equivalent(model, after, feeds)
    return [node.op_type for node in after.graph.node]
