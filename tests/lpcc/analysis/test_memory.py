from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import numpy_helper

from lpcc.analysis.kernels import kernels
from lpcc.analysis.memory import Memory, memory
from lpcc.analysis.runtimes import runtime_of
from lpcc.analysis.types import annotate
from lpcc.graph import from_proto

K = 1024  # a tensor float[1,4,8,8] takes 1 KiB


def graph(body: str, outputs: str = "float[a,b,c,d] y", inputs: str = "float[1,4,8,8] x") -> gs.Graph:
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => ({outputs}) {{ {body} }}'
    )
    constants = {
        "w": np.ones((4, 4, 1, 1), np.float32),
        "wide": np.ones((16, 4, 1, 1), np.float32),
        "flat": np.array([1, 256]),
        "back": np.array([1, 4, 8, 8]),
        "s": np.asarray(np.float32(0.1)),
        "z": np.asarray(np.uint8(128)),
        "w8": np.ones((4, 4, 1, 1), np.int8),
        "zw": np.asarray(np.int8(0)),
        "m": np.ones((256, 256), np.float32),
        "row": np.ones(256, np.float32),
    }
    read = {name for node in proto.graph.node for name in node.input}
    proto.graph.initializer.extend(numpy_helper.from_array(v, name) for name, v in constants.items() if name in read)
    loaded = from_proto(proto)
    annotate(loaded)
    return loaded


def test_a_chain_needs_two_tensors() -> None:
    found = memory(graph("a = Conv(x, w) b = Conv(a, w) y = Conv(b, w)"))
    assert found.peak_bytes == 2 * K
    assert found.series == (2 * K, 2 * K, 2 * K)


def test_the_peak_is_where_the_widest_tensor_is_made() -> None:
    found = memory(graph("a = Conv(x, w) b = Conv(a, wide) c = MaxPool <kernel_shape = [8, 8]> (b) y = Exp(c)"))
    assert found.peak_bytes == 1 * K + 4 * K
    assert found.peak is not None
    assert found.peak.node.outputs[0].name == "b"


def test_a_residual_is_kept_until_it_is_added() -> None:
    found = memory(graph("a = Conv(x, w) b = Conv(a, w) c = Exp(b) d = Conv(c, w) e = Conv(d, w) y = Mul(a, e)"))
    assert found.series == (2 * K, 2 * K, 2 * K, 3 * K, 3 * K, 2 * K)


def test_element_wise_kernels_work_in_place_but_not_on_the_input_of_the_network() -> None:
    assert memory(graph("a = Conv(x, w) y = Exp(a)")).series == (2 * K, 1 * K)
    assert memory(graph("a = Exp(x) y = Conv(a, w)")).series == (2 * K, 2 * K)
    assert memory(graph("a = Conv(x, w) b = Exp(a) y = Conv(a, w)", "float[a,b,c,d] y, float[e,f,g,h] b")).series == (
        2 * K,
        2 * K,
        3 * K,
    ), "`a` is read once more"


def test_views_share_memory() -> None:
    viewed = graph("a = Conv(x, w) r = Reshape(a, flat) q = Reshape(r, back) y = Conv(q, w)")
    found = memory(viewed, steps=kernels(viewed, runtime="tflite"))
    assert found.series == (2 * K, 1 * K, 1 * K, 2 * K)


def test_outputs_stay_to_the_end() -> None:
    found = memory(graph("a = Conv(x, w) b = Conv(a, w) y = Conv(b, w)", "float[a,b,c,d] y, float[e,f,g,h] a"))
    assert found.series == (2 * K, 2 * K, 3 * K)


def test_integers_take_a_quarter() -> None:
    found = memory(
        graph(
            """q = QuantizeLinear(x, s, z) a = DequantizeLinear(q, s, z) k = DequantizeLinear(w8, s, zw)
               c = Conv(a, k) p = QuantizeLinear(c, s, z) d = DequantizeLinear(p, s, z)
               e = Conv(d, k) r = QuantizeLinear(e, s, z) y = DequantizeLinear(r, s, z)"""
        )
    )
    assert found.series == (K + K // 4, K // 2, K // 2, K // 2, K // 2, K + K // 4), (
        "with a change of layout at each end"
    )


def test_bodies_count_what_they_capture_and_what_they_return() -> None:
    then = onnx.parser.parse_graph("g () => (float[1,4,8,8] t) { i = Conv(a, w) t = Conv(i, w) }")
    other = onnx.parser.parse_graph("g () => (float[1,4,8,8] t) { t = Conv(a, w) }")
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1,4,8,8] x, bool c) => (float[1,4,8,8] y) { a = Conv(x, w) }'
    )
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((4, 4, 1, 1), np.float32), "w"))
    proto.graph.node.append(onnx.helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other))
    loaded = from_proto(proto)
    annotate(loaded)
    found = memory(loaded)
    assert found.series[0] == 2 * K + 1, "`x`, `a` and the condition"
    assert found.series[1:4] == tuple(s * K + 1 for s in (2, 3, 3)), (
        "`a` lives for both, the first result until the end"
    )
    assert found.series[4] == 3 * K + 1, "both results and `y`"


def test_an_empty_graph_holds_its_inputs() -> None:
    loaded = graph("y = Identity(x)")
    list.clear(loaded.nodes)
    assert memory(loaded).peak_bytes == K


def integers(body: str, **shapes: tuple[int, ...]) -> gs.Graph:
    """A network on int8 with convolutions of constant weights, whose Q/DQ are spelt ``name -> name_d``."""
    constants = {name: np.ones(shape, np.int8) for name, shape in shapes.items()}
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (int8[1,4,16,16] x) => (int8[a,b,c,d] y) {{ {body} }}'
    )
    scales = {"s": np.asarray(np.float32(0.1)), "z": np.asarray(np.int8(0))}
    proto.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in (constants | scales).items())
    loaded = from_proto(proto)
    annotate(loaded)
    return loaded


def conv(source: str, weight: str, result: str, attributes: str = "") -> str:
    return (
        f"{source}_d = DequantizeLinear({source}, s, z) {weight}_d = DequantizeLinear({weight}, s, z)"
        f"{result}_f = Conv {attributes} ({source}_d, {weight}_d) {result} = QuantizeLinear({result}_f, s, z) "
    )


@pytest.mark.parametrize(("wide", "together"), [(8, 8 * K // 4), (16, 16 * K // 4), (20, 24 * K // 4)])
def test_x_cube_ai_writes_a_convolution_over_its_input_unless_it_widens_too_much(wide: int, together: int) -> None:
    found = memory_of("x-cube-ai", integers(conv("x", "w", "y"), w=(wide, 4, 1, 1)))
    assert found.peak_bytes == together
    assert found.arena.size == together
    assert memory_of("cmsis-nn", integers(conv("x", "w", "y"), w=(wide, 4, 1, 1))).peak_bytes == (4 + wide) * K // 4


def test_x_cube_ai_pools_while_it_convolves() -> None:
    body = conv("x", "w", "a", "<pads = [1, 1, 1, 1]>") + (
        "a_d = DequantizeLinear(a, s, z) p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a_d) "
        "y = QuantizeLinear(p, s, z)"
    )
    graph = integers(body, w=(64, 4, 3, 3))
    assert memory_of("cmsis-nn", graph).peak_bytes == (64 + 16) * K // 4
    assert memory_of("x-cube-ai", graph).peak_bytes < 64 * K // 4


def memory_of(runtime: str, graph: gs.Graph) -> Memory:
    return memory(graph, None, kernels(graph, None, runtime), runtime_of(runtime))


def test_reshapes_that_the_runtime_puts_in_take_no_memory() -> None:
    found = memory(graph("a = MatMul(x, m) y = Add(a, row)", "float[1,64,256] y", "float[1,64,256] x"))
    assert [step.kind for step in found.steps] == ["view", "gemm", "view"]
    assert found.series == (64 * K, 128 * K, 64 * K)


def test_what_is_pooled_as_a_whole_is_there_as_a_whole() -> None:
    def peak(pool: str) -> int:
        return memory_of("x-cube-ai", graph(f"a = Conv(x, wide) y = {pool}")).peak_bytes

    assert peak("MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a)") < 4 * K
    assert peak("GlobalAveragePool (a)") >= 4 * K
