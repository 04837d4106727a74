from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from lpcc.analysis.macs import macs, parameters, weight_bytes
from lpcc.analysis.types import annotate
from lpcc.graph import from_proto


def parse(body: str, *, inputs: str, outputs: str, weights: dict[str, np.ndarray], opset: int = 17) -> gs.Graph:
    text = (
        f'<ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1]> g ({inputs}) => ({outputs}) {{ {body} }}'
    )
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    graph = from_proto(model)
    annotate(graph)
    return graph


def one_node(op: str, shapes: dict[str, tuple[int, ...]], weights: dict[str, tuple[int, ...]], **attrs) -> gs.Graph:
    node = helper.make_node(op, [*shapes, *weights], ["y"], **attrs)
    model = helper.make_model(
        helper.make_graph(
            [node],
            "g",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
    )
    graph = from_proto(model)
    annotate(graph)
    return graph


def total(graph: gs.Graph) -> int:
    return sum(macs(graph).values())


def test_convolutions_by_hand() -> None:
    x = {"x": (2, 8, 10, 12)}
    assert total(one_node("Conv", x, {"w": (16, 8, 3, 3)}, pads=[1] * 4)) == 2 * 16 * 10 * 12 * 8 * 9
    assert total(one_node("Conv", x, {"w": (16, 4, 3, 3)}, group=2)) == 2 * 16 * 8 * 10 * 4 * 9
    assert total(one_node("Conv", x, {"w": (8, 1, 5, 5)}, group=8, strides=[2, 2])) == 2 * 8 * 3 * 4 * 25
    assert total(one_node("Conv", {"x": (1, 3, 9)}, {"w": (4, 3, 3)})) == 4 * 7 * 3 * 3
    assert total(one_node("Conv", {"x": (1, 2, 4, 5, 6)}, {"w": (3, 2, 2, 2, 2)})) == 3 * 3 * 4 * 5 * 2 * 8
    assert total(one_node("ConvTranspose", x, {"w": (8, 6, 2, 2)}, strides=[2, 2])) == 2 * 8 * 10 * 12 * 6 * 4


def test_products_by_hand() -> None:
    assert total(one_node("Gemm", {"a": (5, 7)}, {"b": (7, 3)})) == 5 * 7 * 3
    assert total(one_node("Gemm", {"a": (7, 5)}, {"b": (3, 7)}, transA=1, transB=1)) == 5 * 7 * 3
    assert total(one_node("MatMul", {"a": (4, 2, 5, 7)}, {"b": (7, 3)})) == 4 * 2 * 5 * 7 * 3
    assert total(one_node("MatMul", {"a": (7,)}, {"b": (7, 3)})) == 7 * 3
    assert total(one_node("Relu", {"a": (7, 3)}, {})) == 0


def test_integer_operators_and_qdq_count_like_float_ones() -> None:
    u8, s8, f32 = np.uint8, np.int8, np.float32
    scales = {"s": f32(0.1), "z": u8(0), "sw": f32(0.1), "zw": s8(0)}
    weights = {key: np.asarray(value) for key, value in scales.items()} | {"w": np.ones((4, 3, 3, 3), s8)}
    shape = {"inputs": "uint8[1,3,8,8] x", "outputs": "uint8[1,4,6,6] y"}
    qlinear = parse("y = QLinearConv(x, s, z, w, sw, zw, s, z)", weights=weights, **shape)
    qdq = parse(
        "a = DequantizeLinear(x, s, z) b = DequantizeLinear(w, sw, zw) c = Conv(a, b) y = QuantizeLinear(c, s, z)",
        weights=weights,
        **shape,
    )
    integer = parse(
        "y = ConvInteger(x, w, z, zw)", inputs="uint8[1,3,8,8] x", outputs="int32[1,4,6,6] y", weights=weights
    )
    assert total(qlinear) == total(qdq) == total(integer) == 4 * 36 * 27
    assert parameters(qlinear) == parameters(qdq) == parameters(integer) == 4 * 27


def test_a_fused_convolution_of_onnxruntime_counts() -> None:
    graph = parse(
        'y = com.microsoft.FusedConv <activation = "Relu"> (x, w)',
        inputs="float[1,3,8,8] x",
        outputs="float[1,4,6,6] y",
        weights={"w": np.ones((4, 3, 3, 3), np.float32)},
    )
    assert total(graph) == 4 * 36 * 27


@settings(max_examples=60, deadline=None)
@given(
    group=st.integers(1, 3),
    per_group=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    size=st.lists(st.integers(3, 7), min_size=1, max_size=2),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    pad=st.integers(0, 1),
    batch=st.integers(1, 2),
)
def test_convolution_against_counting(
    group: int, per_group: tuple[int, int], size: list[int], kernel: int, stride: int, pad: int, batch: int
) -> None:
    inner, outer = per_group
    dims = len(size)
    graph = one_node(
        "Conv",
        {"x": (batch, group * inner, *size)},
        {"w": (group * outer, inner, *[kernel] * dims)},
        group=group,
        strides=[stride] * dims,
        pads=[pad] * 2 * dims,
    )
    places = [range(-pad, edge + pad - kernel + 1, stride) for edge in size]
    count = 0
    for _ in itertools.product(range(batch), range(group * outer), *places):
        for _ in itertools.product(range(inner), *[range(kernel)] * dims):
            count += 1
    assert total(graph) == count


def test_parameters_leave_out_what_is_not_trained_and_count_shared_weights_once() -> None:
    graph = parse(
        """a = Conv(x, w, b) c = Conv(a, w, b)
           d = Reshape(c, shape) e = Clip(d, low, high) y = Resize(e, , scales)""",
        inputs="float[1,3,4,4] x",
        outputs="float[1,3,8,8] y",
        weights={
            "w": np.ones((3, 3, 1, 1), np.float32),
            "b": np.ones(3, np.float32),
            "shape": np.array([1, 3, 4, 4]),
            "low": np.float32(0).reshape(()),
            "high": np.float32(6).reshape(()),
            "scales": np.array([1, 1, 2, 2], np.float32),
        },
    )
    assert parameters(graph) == 9 + 3
    assert weight_bytes(graph) == 4 * (9 + 3 + 2 + 4) + 8 * 4


@pytest.mark.parametrize(
    ("name", "millions", "trained"),
    [
        ("cifar10_resnet20_jpegft", 40.551, 271_098),
        ("mlperf_resnet8_cifar10", 12.502, 78_666),
        ("mobilenetv2_imagenet", 300.774, 3_487_816),
    ],
)
def test_real_networks(zoo, name: str, millions: float, trained: int) -> None:
    from lpcc.graph import load

    graph = load(zoo.model(name))
    annotate(graph)
    assert total(graph) / 1e6 == pytest.approx(millions, abs=1e-3)
    assert parameters(graph) == trained


def test_recurrent_layers_by_hand() -> None:
    x = {"x": (7, 2, 8)}
    lstm = one_node("LSTM", x, {"w": (1, 64, 8), "r": (1, 64, 16)}, hidden_size=16)
    assert total(lstm) == 7 * 2 * 4 * 16 * (8 + 16)
    gru = one_node("GRU", x, {"w": (2, 48, 8), "r": (2, 48, 16)}, hidden_size=16, direction="bidirectional")
    assert total(gru) == 2 * 7 * 2 * 3 * 16 * (8 + 16)
    assert total(one_node("RNN", x, {"w": (1, 16, 8), "r": (1, 16, 16)}, hidden_size=16)) == 7 * 2 * 16 * (8 + 16)


def test_einsum_by_hand() -> None:
    two = {"x": (2, 4, 8), "z": (2, 8, 16)}
    assert total(one_node("Einsum", two, {}, equation="bij,bjk->bik")) == 2 * 4 * 8 * 16
    assert total(one_node("Einsum", {"x": (3, 5)}, {"w": (7, 5)}, equation="ij, kj -> ik")) == 3 * 5 * 7
    assert total(one_node("Einsum", {"x": (3, 5)}, {}, equation="ij->ji")) == 0


def test_attention_by_hand() -> None:
    graph = parse(
        "y = com.microsoft.MultiHeadAttention <num_heads = 4> (q, k, v)",
        inputs="float[2,6,32] q, float[2,10,32] k, float[2,10,16] v",
        outputs="float[2,6,16] y",
        weights={},
    )
    assert total(graph) == 2 * 6 * 10 * (32 + 16)


def test_what_is_computed_from_weights_counts_by_its_result() -> None:
    graph = parse(
        "t = Transpose <perm = [1, 0]> (w) h = Slice(t, first, last) y = MatMul(x, h)",
        inputs="float[2,8] x",
        outputs="float[2,16] y",
        weights={"w": np.ones((16, 20), np.float32), "first": np.array([0]), "last": np.array([8])},
    )
    assert weight_bytes(graph) == 4 * 8 * 16
