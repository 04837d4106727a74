"""Bytes and bits of weights are those of the file."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from lpcc.analysis.storage import storage
from lpcc.analysis.types import annotate
from lpcc.graph import from_proto, load, to_proto
from lpcc.passes import QuantizeWeights
from lpcc.pipeline import Context, Pipeline
from lpcc.pipeline.runner import run_pipeline

INFO = helper.make_tensor_value_info


def graph_of(nodes, tensors, opset=25):
    made = helper.make_graph(
        nodes,
        "g",
        [INFO("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [INFO("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in tensors.items()],
    )
    graph = from_proto(helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)]))
    annotate(graph)
    return graph


def test_floats_take_32_bits_and_biases_are_no_weights():
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], name="conv")
    found = storage(graph_of([node], {"w": np.ones((4, 3, 1, 1), np.float32), "b": np.ones(4, np.float32)}))
    assert found.by_type == {"float32": 64}
    assert (found.weights, found.effective_bits, found.ideal_bits, found.bytes) == (12, 32, 32, 64)
    assert [layer.name for layer in found.layers] == ["conv"]


@pytest.mark.parametrize(
    ("dtype", "bits"), [(ml_dtypes.int2, 2), (ml_dtypes.uint4, 4), (ml_dtypes.int4, 4), (np.int8, 8), (np.int16, 16)]
)
def test_integers_are_packed_and_their_scales_count(dtype, bits):
    codes = np.arange(9).reshape(1, 3, 3, 1) % 2
    nodes = [
        helper.make_node("Cast", ["c"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "s"], ["w"]),
        helper.make_node("Conv", ["x", "w"], ["y"], name="conv"),
    ]
    found = storage(graph_of(nodes, {"c": codes.astype(dtype), "s": np.full((1, 1, 1, 1), 0.5, np.float32)}))
    name = np.dtype(dtype).name
    held = -(-9 * bits // 8)  # whole bytes
    assert found.by_type == {name: held, "float32": 4}
    (layer,) = found.layers
    assert (layer.name, layer.weights, layer.dtype) == ("conv", 9, name)
    assert layer.stored_bits == 8 * held + 32
    assert layer.ideal_bits == 9 + 32, "two different codes are told apart by one bit"


def test_what_two_layers_share_counts_once():
    nodes = [
        helper.make_node("Cast", ["c"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["x", "f"], ["a"]),
        helper.make_node("Conv", ["a", "f"], ["y"]),
    ]
    found = storage(graph_of(nodes, {"c": np.ones((3, 3, 1, 1), np.int8)}))
    assert (found.weights, len(found.layers), found.bytes) == (9, 1, 9)


def test_integers_that_two_layers_share_count_once():
    scaled = ["c", "s"]
    nodes = [
        helper.make_node("DequantizeLinear", scaled, ["f"]),
        helper.make_node("DequantizeLinear", scaled, ["g"]),
        helper.make_node("Conv", ["x", "f"], ["a"], name="first"),
        helper.make_node("Conv", ["a", "g"], ["y"], name="second"),
    ]
    found = storage(graph_of(nodes, {"c": np.ones((3, 3, 1, 1), np.int8), "s": np.float32(0.5)}))
    assert (found.weights, [layer.name for layer in found.layers], found.bytes) == (9, ["first"], 13)


def test_a_graph_without_weights():
    found = storage(graph_of([helper.make_node("Relu", ["x"], ["y"])], {}))
    assert (found.by_type, found.weights, found.effective_bits, found.ideal_bits) == ({}, 0, 0, 0)


EXPECTED = {
    "format=int8": (8, 8, "int8"),
    "format=int4": (4, 4, "int4"),
    "format=fixed bits=6": (8, 6, "int8"),  # there is no type of 6 bits
    "format=pow2": (4, 4, "uint4"),
    "format=flightnn": (6, 6, "uint4"),
    "format=pow2 k=2": (8, 8, "uint4"),
    "format=ternary ends=true": (2, 2, "int2"),
    "format=binary ends=true": (1, 1, "uint8"),
    "format=dorefa bits=3": (4, 3, "uint4"),
}


def test_bits_of_a_real_network(zoo):
    stored, sizes = {}, {}
    for options, (bits, ideal, dtype) in EXPECTED.items():
        graph = load(zoo.model("cifar10_resnet20_jpegft"))
        run_pipeline(graph, Pipeline.parse("exact,quantize-weights{" + options + "}"), Context())
        found = storage(graph)
        assert found.weights == 268336
        assert bits < found.effective_bits < bits + 0.4, "scales and tables come on top"
        assert ideal - 0.2 < found.ideal_bits < ideal + 0.4
        assert {layer.dtype for layer in found.layers} == {dtype}
        stored[options], sizes[options] = found.bytes, to_proto(graph).ByteSize()
    for sizes_of in (stored, sizes):
        assert sizes_of["format=pow2"] < sizes_of["format=flightnn"] < sizes_of["format=pow2 k=2"]


def test_by_type_is_the_file(zoo):
    graph = load(zoo.model("cifar10_resnet20_jpegft"))
    run_pipeline(graph, Pipeline.parse("exact"), Context())
    QuantizeWeights(format="int4").run(graph, Context())
    written = to_proto(graph).graph.initializer
    assert storage(graph).bytes == sum(len(tensor.raw_data) for tensor in written)
