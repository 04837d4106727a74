from __future__ import annotations

from math import prod

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


@pytest.mark.parametrize("case", golden_cases("golden/recognise-channel-shuffle"), ids=lambda path: path.stem)
def test_golden(case, golden):
    golden(case)


@st.composite
def shapes(draw, total):
    """A shape of some number of elements."""
    shape = []
    while total > 1 and len(shape) < 5:
        size = draw(st.sampled_from([d for d in range(1, total + 1) if total % d == 0]))
        shape.append(size)
        total //= size
    return [*shape, total]


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_any_reshapes_and_transposes(data):
    shape = data.draw(st.sampled_from(([1, 6, 2, 2], [2, 4, 1, 3], [2, 6, 2], [1, 8, 4, 1], [2, 4, 2, 2])))
    nodes, weights, here, rank = [], [], "x", len(shape)
    groups = data.draw(st.sampled_from([g for g in range(1, shape[1] + 1) if shape[1] % g == 0]))
    usual = [shape[0], groups, shape[1] // groups, *shape[2:]]
    steps = data.draw(st.sampled_from(("RTR", "RT", "RTRR", "TR", "R")))
    for position, step in enumerate(steps):
        last = position == len(steps) - 1
        name = "y" if last else f"t{position}"
        if step == "R":
            target = data.draw(shapes(prod(shape))) if data.draw(st.booleans()) else shape if position else usual
            rank = len(target)
            if data.draw(st.booleans()):
                target = list(target)
                target[data.draw(st.integers(0, rank - 1))] = -1
            weights.append(numpy_helper.from_array(np.array(target, dtype=np.int64), f"s{position}"))
            nodes.append(helper.make_node("Reshape", [here, f"s{position}"], [name]))
        else:
            order = data.draw(st.permutations(range(rank)))
            if rank == 5 and data.draw(st.booleans()):
                order = [0, 2, 1, 3, 4]
            nodes.append(helper.make_node("Transpose", [here], [name], perm=list(order)))
        here = name
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * rank)
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], weights), opset_imports=[helper.make_opsetid("", 17)], ir_version=10
    )
    graph = from_proto(model)
    run_pipeline(graph, Pipeline.parse("recognise-channel-shuffle"), Context())
    assert len(graph.nodes) <= len(nodes)
    after = to_proto(graph)
    onnx.checker.check_model(after, full_check=True)
    assert_equivalent(model, after, tolerance=0.0)
