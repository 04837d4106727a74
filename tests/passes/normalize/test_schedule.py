from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from lpcc.analysis.kernels import kernels
from lpcc.analysis.memory import memory
from lpcc.analysis.runtimes import runtime_of
from lpcc.analysis.types import annotate
from lpcc.graph import from_proto, to_proto
from lpcc.pipeline import Context, Pipeline
from lpcc.pipeline.runner import run_pipeline
from lpcc.target import Target
from lpcc.testing import assert_equivalent, golden_cases


@pytest.mark.parametrize("case", golden_cases("golden/schedule"), ids=lambda path: path.stem)
def test_golden(case, golden):
    golden(case)


def branches(count: int, mixed: bool) -> onnx.ModelProto:
    """Branches that widen and narrow, each step of all of them before the next; `mixed`: some read one another."""
    rng = np.random.default_rng(0)
    nodes, weights = [], {}
    ends = ["x"] * count
    for step, width in enumerate((24, 12, 2)):
        for branch in range(count):
            read = ends[branch]
            name = f"t{step}_{branch}"
            if mixed and step == 1 and branch % 2:
                nodes.append(helper.make_node("Add", [ends[branch], f"t0_{branch - 1}"], [f"{name}_sum"]))
                read = f"{name}_sum"
            inputs = {0: 2, 1: 24, 2: 12}[step]
            weights[f"{name}_w"] = rng.normal(size=(width, inputs, 1, 1)).astype(np.float32)
            nodes.append(helper.make_node("Conv", [read, f"{name}_w"], [name], name=name))
            ends[branch] = name
    nodes.append(helper.make_node("Concat", ends, ["y"], axis=1))
    graph = helper.make_graph(
        nodes,
        "branches",
        [helper.make_tensor_value_info("x", 1, [1, 2, 8, 8])],
        [helper.make_tensor_value_info("y", 1, [1, 2 * count, 8, 8])],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def peak(model: onnx.ModelProto, target: Target) -> int:
    graph = from_proto(model)
    annotate(graph)
    return memory(graph, None, kernels(graph, None, target.runtime), runtime_of(target.runtime)).peak_bytes


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("count", [2, 5])
def test_less_memory_and_the_same_results(count: int, mixed: bool) -> None:
    model, target = branches(count, mixed), Target.load("arm-cortex-m7")
    graph = from_proto(model)
    (record,) = run_pipeline(graph, Pipeline.parse("schedule"), Context(target=target))
    after = to_proto(graph)
    assert record.changes
    assert peak(after, target) < peak(model, target)
    assert_equivalent(model, after)
    assert not any(r.changes for r in run_pipeline(graph, Pipeline.parse("schedule"), Context(target=target)))


def test_no_effort_no_change() -> None:
    graph = from_proto(branches(40, mixed=True))
    (record,) = run_pipeline(graph, Pipeline.parse("schedule{effort=0}"), Context())
    assert not record.changes
