from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lpcc.analysis.types import annotate
from lpcc.cost import CostModel
from lpcc.graph import from_proto
from lpcc.target import Physics, Target
from lpcc.testing.golden import read_model

NETWORK = """
<ir_version: 9, opset_import: ["": 17]>
net (float[1,8,16,16] x) => (float[1,8,16,16] y)
<float[8,8,3,3] w>
{
    c = Conv <pads = [1,1,1,1]> (x, w)
    y = Sigmoid (c)
}
"""


def latencies(**physics: Any) -> dict[str, float]:
    """Milliseconds by kind of kernel on a target without a kernel table."""
    graph = from_proto(read_model(NETWORK.replace("Sigmoid", "Erf")))
    annotate(graph)
    plain = Target.load("arm-cortex-m7")
    target = replace(plain, runtime="onnxruntime", physics=Physics(**physics))
    return {layer.kernel: layer.latency_ms for layer in CostModel(target).estimate(graph).layers}


def test_measurements_scale_every_kernel() -> None:
    plain, scaled = latencies(), latencies(scale=2.0)
    assert {"conv", "activation"} <= set(plain)
    assert scaled == pytest.approx({kind: 2 * value for kind, value in plain.items()})


def test_and_single_kinds_and_formats() -> None:
    plain, scaled = latencies(), latencies(scale=2.0, factors={"activation": 3.0, "float32": 0.5, "int8": 9.0})
    assert scaled["conv"] == pytest.approx(plain["conv"])
    assert scaled["activation"] == pytest.approx(3 * plain["activation"])
