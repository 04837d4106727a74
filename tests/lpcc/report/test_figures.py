from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lpcc.analysis.types import annotate
from lpcc.graph import from_proto, load
from lpcc.report.figures import figures, stored_bytes
from lpcc.target import Target


@pytest.fixture
def model() -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 32])
    weight = numpy_helper.from_array(np.ones((64, 32), np.float32), "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_figures(model: onnx.ModelProto) -> None:
    graph = from_proto(model)
    annotate(graph)
    found = figures(graph, Target.load("arm-cortex-a72"), 1234)
    assert (found.nodes, found.parameters, found.macs) == (1, 64 * 32, 64 * 32)
    assert (found.weight_bytes, found.file_bytes) == (64 * 32 * 4, 1234)
    assert found.peak_activation_bytes == (64 + 32) * 4
    assert found.latency_ms is not None
    assert found.latency_ms > 0


def test_stored_bytes_count_external_data(model: onnx.ModelProto, tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside.onnx", tmp_path / "outside.onnx"
    onnx.save(model, inside)
    onnx.save(model, outside, save_as_external_data=True, location="weights.bin", size_threshold=0)
    weights = 64 * 32 * 4
    assert stored_bytes(inside, weights) == inside.stat().st_size
    assert stored_bytes(outside, weights) == outside.stat().st_size + (tmp_path / "weights.bin").stat().st_size
    assert load(outside).nodes
