from __future__ import annotations

import math

import onnx_graphsurgeon as gs
import pytest

from lpcc import edit
from lpcc.analysis.bounds import clip_bounds, is_never_negative
from lpcc.graph import from_proto
from lpcc.testing.golden import read_model


def node_of(call: str, opset: int = 17, kind: str = "float") -> gs.Node:
    graph = from_proto(
        read_model(
            f'<ir_version: 8, opset_import: ["": {opset}]>\n'
            f"g ({kind}[4] x, {kind} v) => ({kind}[4] y)\n"
            f"<float low = {{-1}}, float zero = {{0}}, float high = {{2}}> {{ y = {call} }}"
        )
    )
    return next(node for node in graph.nodes if edit.op(node) != "Constant")


@pytest.mark.parametrize(
    ("call", "opset", "expected"),
    [
        ("Clip<min = -1.0, max = 2.0>(x)", 10, (-1.0, 2.0)),
        ("Clip<max = 2.0>(x)", 10, (-math.inf, 2.0)),
        ("Clip(x, low, high)", 17, (-1.0, 2.0)),
        ('Clip(x, "", high)', 17, (-math.inf, 2.0)),
        ("Clip(x, v)", 17, (None, math.inf)),
    ],
)
def test_bounds_of_a_clip_in_every_opset(call, opset, expected):
    assert clip_bounds(node_of(call, opset)) == expected


@pytest.mark.parametrize(
    ("call", "kind", "expected"),
    [
        ("Relu(x)", "float", True),
        ("Abs(x)", "float", True),
        ("Abs(x)", "int8", False),
        ("Clip(x, zero, high)", "float", True),
        ("Clip(x, low, high)", "float", False),
        ("Clip(x, zero, low)", "float", False),
        ("Neg(x)", "float", False),
    ],
)
def test_what_is_never_negative(call, kind, expected):
    assert is_never_negative(node_of(call, kind=kind)) is expected
