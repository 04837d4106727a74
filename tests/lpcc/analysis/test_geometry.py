from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import numpy_helper

from lpcc.analysis.geometry import Geometry, geometry
from lpcc.analysis.kernels import kernels
from lpcc.analysis.macs import node_macs
from lpcc.analysis.shapes import bind
from lpcc.analysis.types import annotate
from lpcc.graph import from_proto


def parse(given: str, body: str, **weights: tuple[int, ...]) -> gs.Graph:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g ({given}) => (float[] y) {{ {body} }}')
    model.graph.output[0].type.tensor_type.ClearField("shape")
    model.graph.initializer.extend(
        numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in weights.items()
    )
    graph = from_proto(model)
    annotate(graph)
    return graph


def of(graph: gs.Graph) -> Geometry:
    return geometry(graph.nodes[-1], bind(graph))


CASES = {
    "conv": (
        parse(
            "float[2,6,9,8] x",
            "y = Conv<group=2, strides=[2,1], dilations=[1,2], pads=[1,0,1,0]>(x, w)",
            w=(8, 3, 3, 1),
        ),
        Geometry(2, 2, 3, 4, 3, 1, 2, 1, 1, 2, 9, 8, 5, 8),
    ),
    "depthwise": (
        parse("float[1,6,4,4] x", "y = Conv<group=6>(x, w)", w=(12, 1, 3, 3)),
        Geometry(1, 6, 1, 2, 3, 3, ih=4, iw=4, oh=2, ow=2),
    ),
    "line": (parse("float[1,4,10] x", "y = Conv(x, w)", w=(5, 4, 3)), Geometry(1, 1, 4, 5, 1, 3, iw=10, ow=8)),
    "volume": (
        parse("float[1,2,4,5,6] x", "y = Conv(x, w)", w=(3, 2, 1, 2, 3)),
        Geometry(1, 1, 2, 3, 2, 3, ih=20, iw=6, oh=16, ow=4),
    ),
    "transposed": (
        parse("float[1,6,4,4] x", "y = ConvTranspose<group=2, strides=[2,2]>(x, w)", w=(6, 5, 2, 2)),
        Geometry(1, 2, 3, 5, 2, 2, 2, 2, ih=4, iw=4, oh=8, ow=8),
    ),
    "gemm": (
        parse("float[7,4] x", "y = Gemm<transB=1>(x, w)", w=(5, 4)),
        Geometry(cin=4, cout=5, ih=7, oh=7),
    ),
    "tall product": (parse("float[2,7,4] x", "y = MatMul(x, w)", w=(4, 5)), Geometry(cin=4, cout=5, ih=14, oh=14)),
    "products": (
        parse("float[2,7,4] x, float[2,4,5] z", "y = MatMul(x, z)"),
        Geometry(batch=2, cin=4, cout=5, ih=7, oh=7),
    ),
    "pool": (
        parse("float[1,6,8,8] x", "y = MaxPool<kernel_shape=[3,2], strides=[2,2]>(x)"),
        Geometry(1, 6, 1, 1, 3, 2, 2, 2, ih=8, iw=8, oh=3, ow=4),
    ),
    "plain": (parse("float[2,6,8,4] x", "y = Relu(x)"), Geometry(2, 1, 6, 6, ih=8, iw=4, oh=8, ow=4)),
    "recurrent": (
        parse("float[7,2,4] x", "y = LSTM<hidden_size=3>(x, w, r)", w=(1, 12, 4), r=(1, 12, 3)),
        Geometry(batch=2, cin=7, cout=12, ih=7, oh=7),
    ),
    "channels last": (
        parse("float[1,6,8,4] x", "y = Transpose<perm=[0,2,3,1]>(x)"),
        Geometry(groups=192, cout=1, kh=1),
    ),
    "shuffle": (
        parse("float[1,2,6,8,4] x", "y = Transpose<perm=[0,2,1,3,4]>(x)"),
        Geometry(groups=12, cout=32, kh=1),
    ),
    "mirrored": (parse("float[2,3,4] x", "y = Transpose(x)"), Geometry(groups=24, cout=1, kh=2)),
    "untouched": (parse("float[1,6,1,4] x", "y = Transpose<perm=[2,1,0,3]>(x)"), Geometry(groups=1, cout=24, kh=1)),
    "bilinear": (
        parse("float[1,6,8,4] x", 's = Constant<value_floats=[1.0,1.0,1.0,1.0]>() y = Resize<mode="linear">(x, , s)'),
        Geometry(cin=6, cout=6, kh=2, kw=2, ih=8, iw=4, oh=8, ow=4),
    ),
    "per channel": (
        parse("float[1,6,8,4] x, float[6,1,1] s", "y = Mul(x, s)"),
        Geometry(groups=6, cin=6, cout=6, ih=8, iw=4, oh=8, ow=4),
    ),
    "per pixel": (
        parse("float[1,6,8,4] x, float[1,1,8,4] s", "y = Mul(x, s)"),
        Geometry(groups=6, cin=6, cout=6, ih=8, iw=4, oh=8, ow=4),
    ),
    "one number": (
        parse("float[1,6,8,4] x, float s", "y = Mul(x, s)"),
        Geometry(cin=6, cout=6, ih=8, iw=4, oh=8, ow=4),
    ),
    "vector": (parse("float[6] x", "y = Relu(x)"), Geometry(cin=6, cout=6)),
}


@pytest.mark.parametrize("case", CASES)
def test_loop_bounds(case: str) -> None:
    graph, wanted = CASES[case]
    assert of(graph) == wanted


@pytest.mark.parametrize(
    "case", [name for name in CASES if CASES[name][0].nodes[-1].op in ("Conv", "Gemm", "MatMul", "LSTM")]
)
def test_loop_bounds_multiply_to_the_work(case: str) -> None:
    graph, _ = CASES[case]
    found = of(graph)
    assert found.rows * found.groups * found.cout * found.depth == node_macs(graph.nodes[-1], bind(graph))


def test_kernels_bear_theirs() -> None:
    graph, wanted = CASES["gemm"]
    (kernel,) = kernels(graph)
    assert kernel.geometry == wanted


ENDS = "b = Constant<value_ints=[0]>() e = Constant<value_ints=[8]>() a = Constant<value_ints=[3]>() "


@pytest.mark.parametrize(("step", "runs"), [(1, 6 * 8), (2, 6 * 8 * 4)])
@pytest.mark.parametrize(
    "spelt",
    [
        "s = Constant<value_ints=[{}]>()",
        "n = Constant<value_int={}>() z = Constant<value_ints=[0]>() s = Unsqueeze(n, z)",
        "f = Constant<value_float={}.0>() n = Cast<to=7>(f) z = Constant<value_ints=[1]>() s = Reshape(n, z)",
    ],
)
def test_steps_count_however_they_are_spelt(step: int, runs: int, spelt: str) -> None:
    graph = parse("float[1,6,8,16] x", f"{ENDS}{spelt.format(step)} y = Slice(x, b, e, a, s)")
    shapes = bind(graph)
    found = geometry(graph.nodes[-1], shapes)
    assert found.groups == runs, "each row in one piece, or each number by itself"
    assert shapes.of(graph.outputs[0]) == (1, 6, 8, 8 // step)


def test_unknown_shapes_count_as_one() -> None:
    graph = parse("float[1,6,8,8] x, float w", "y = Conv(x, w)")
    assert of(graph) == Geometry()
