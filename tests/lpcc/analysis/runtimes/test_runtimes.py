from __future__ import annotations

from typing import get_args

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from lpcc import edit
from lpcc.analysis.kernels import Kernel, kernels
from lpcc.analysis.runtimes import RUNTIMES, runtime_of
from lpcc.analysis.types import annotate
from lpcc.cost.kinds import ELEMENT_KINDS, MAC_KINDS
from lpcc.graph import from_proto
from lpcc.target import Runtime

BODY = """
    q0 = QuantizeLinear(x, s, z) a = DequantizeLinear(q0, s, z)
    k = DequantizeLinear(w8, s, z) c = Conv(a, k) r = Relu(c)
    q1 = QuantizeLinear(r, s, z) e = DequantizeLinear(q1, s, z) h = HardSwish(e)
    q2 = QuantizeLinear(h, s, z) y = DequantizeLinear(q2, s, z)
"""


def steps(body: str, runtime: str) -> tuple[Kernel, ...]:
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[1,8,8,8] x) => (float[1,8,8,8] y)
        <float s = {{0.1}}, int8 z = {{0}}> {{ {body} }}"""
    proto = onnx.parser.parse_model(text)
    for name, dtype in (("w", np.float32), ("w8", np.int8)):
        proto.graph.initializer.append(numpy_helper.from_array(np.ones((8, 8, 1, 1), dtype), name))
    graph = from_proto(proto)
    annotate(graph)
    return kernels(graph, runtime=runtime, isa=("aarch64",))


def test_targets_may_name_each_of_them() -> None:
    assert set(get_args(Runtime)) == set(RUNTIMES)
    with pytest.raises(KeyError):
        runtime_of("tensorrt")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_each_names_kinds_that_cost_models_know(runtime: str) -> None:
    found = steps("c = Conv(x, w) a = Add(c, x) r = Relu(a) g = GlobalAveragePool(r) y = Mul(g, r)", runtime)
    assert {kernel.kind for kernel in found} <= {"view", *MAC_KINDS, *ELEMENT_KINDS}
    assert sum(len(kernel.nodes) for kernel in found) == 5


def test_for_an_accelerator_conversions_are_views_and_a_sum_is_part_of_the_convolution() -> None:
    kinds = [(kernel.kind, kernel.dtype, [edit.op(node) for node in kernel.nodes]) for kernel in steps(BODY, "none")]
    assert [kind for kind, *_ in kinds] == ["view", "pointwise", "elementwise", "view"]
    assert all(dtype == "int8" for _, dtype, _ in kinds)
    assert kinds[1][2] == ["Conv", "Relu", "QuantizeLinear", "DequantizeLinear"]
    (conv,) = steps("c = Conv(x, w) a = Add(c, x) y = Relu(a)", "none")
    assert len(conv.nodes) == 3


def test_for_ncnn_a_batch_norm_that_no_convolution_takes_in_is_a_scale() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[1,8,8,8] x, float[8] s) => (float[1,8,8,8] y)'
        "{ y = BatchNormalization(x, s, s, s, s) }"
    )
    graph = from_proto(proto)
    annotate(graph)
    assert [kernel.kind for kernel in kernels(graph, runtime="ncnn")] == ["elementwise"]
