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


@pytest.mark.parametrize("case", golden_cases("golden/merge-pad"), ids=lambda path: path.stem)
def test_golden(case, golden):
    golden(case)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_any_padding_before_any_window(data):
    rank = data.draw(st.integers(1, 2))
    kind = data.draw(st.sampled_from(("Conv", "AveragePool", "MaxPool")))
    before = data.draw(st.sampled_from(("Relu", "Sigmoid", "Tanh")))
    kernel = [data.draw(st.integers(1, 3)) for _ in range(rank)]
    widths = [0, 0] + [data.draw(st.integers(0, 2)) for _ in range(rank)]
    widths += [0, 0] + [data.draw(st.integers(0, 2)) for _ in range(rank)]
    attributes = {"kernel_shape": kernel, "strides": [data.draw(st.integers(1, min(2, size))) for size in kernel]}
    if data.draw(st.booleans()):
        attributes["pads"] = [data.draw(st.integers(0, size - 1)) for size in kernel + kernel]
    else:
        attributes["auto_pad"] = data.draw(st.sampled_from(("VALID", "SAME_UPPER")))
    weights = [numpy_helper.from_array(np.array(widths, dtype=np.int64), "widths")]
    if kind == "Conv":
        values = np.random.default_rng(0).standard_normal([2, 3, *kernel]).astype(np.float32)
        weights.append(numpy_helper.from_array(values, "w"))
    else:
        attributes["ceil_mode"] = data.draw(st.integers(0, 1)) if "pads" in attributes else 0
        if kind == "AveragePool":
            attributes["count_include_pad"] = data.draw(st.integers(0, 1))
    nodes = [
        helper.make_node(before, ["x"], ["a"]),
        helper.make_node("Pad", ["a", "widths"], ["p"]),
        helper.make_node(kind, ["p", "w"] if kind == "Conv" else ["p"], ["y"], **attributes),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3] + [5] * rank)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * (rank + 2))
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], weights), opset_imports=[helper.make_opsetid("", 17)], ir_version=10
    )
    graph = from_proto(model)
    run_pipeline(graph, Pipeline.parse("merge-pad"), Context())
    after = to_proto(graph)
    onnx.checker.check_model(after, full_check=True)
    assert_equivalent(model, after)
    merged = len(graph.nodes) == 2
    own = attributes.get("auto_pad") == "SAME_UPPER"
    assert not (merged and own)
    if kind == "Conv":
        assert merged or own
    assert not (merged and kind == "MaxPool" and before == "Tanh" and any(widths))
