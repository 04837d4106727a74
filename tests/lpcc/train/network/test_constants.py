"""Constants by name, wherever they are, and new values for them."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, helper, numpy_helper

from lpcc.errors import ModelError
from lpcc.graph import from_proto, to_proto
from lpcc.testing.golden import read_model

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from lpcc.train.network.constants import constants, put, readers  # noqa: E402

TEXT = """
<ir_version: 10, opset_import: ["": 17]>
g (float[2,2] x, bool flag) => (float[2,2] y, float[2,2] w) <float[2,2] w, int8[2] codes = {1, 2}, float scale = {0.5}>
{
    c = Constant<value_floats=[1.0, 2.0]>()
    d = DequantizeLinear(codes, scale)
    a = MatMul(x, w)
    b = Add(a, d)
    y = If(flag) <
        then_branch = g1 () => (float[2,2] t) <float[2,2] k = {1,2,3,4}> { t = MatMul(b, k) },
        else_branch = g2 () => (float[2,2] f) <float[2,2] k = {5,6,7,8}> { u = MatMul(b, w) e = Add(u, k) f=Add(e, c) }
    >
}
"""


def test_all_places():
    found = constants(from_proto(read_model(TEXT)))
    assert set(found) == {"w", "codes", "scale", "c", "k", "k#2"}
    assert found["codes"].dtype == np.int8
    assert found["c"].shape == (2,)
    np.testing.assert_array_equal(found["c"].values, np.array([1, 2], np.float32))
    np.testing.assert_array_equal(found["k"].values, [[1, 2], [3, 4]])
    np.testing.assert_array_equal(found["k#2"].values, [[5, 6], [7, 8]])


def test_new_values_reach_all_readers():
    graph = from_proto(read_model(TEXT))
    before = to_proto(graph).SerializeToString()
    new = np.full((2, 2), 7.0)
    ones = np.ones((2, 2), np.float32)
    changed = put(graph, {"w": new, "k#2": ones, "c": np.array([3.0, 4.0]), "scale": np.array(0.5)})
    assert changed == ["w", "k#2", "c"]
    found = constants(graph)
    np.testing.assert_array_equal(found["w"].values, new)
    assert found["w"].dtype == np.float32
    np.testing.assert_array_equal(found["k"].values, [[1, 2], [3, 4]])
    np.testing.assert_array_equal(found["k#2"].values, ones)
    np.testing.assert_array_equal(found["c"].values, [3, 4])
    assert graph.outputs[1] is found["w"].tensor
    assert readers(graph, changed) == ["a", "u", "e", "f"]
    again = from_proto(to_proto(graph))
    np.testing.assert_array_equal(constants(again)["w"].values, new)
    assert to_proto(graph).SerializeToString() != before


def test_readers_behind_what_decodes_a_constant():
    graph = from_proto(read_model(TEXT))
    assert put(graph, {"codes": np.array([3, 4])}) == ["codes"]
    assert readers(graph, ["codes"]) == ["b"]


def test_the_old_array_is_left_alone():
    graph = from_proto(read_model(TEXT))
    old = constants(graph)["w"]
    values = old.values.copy()
    put(graph, {"w": values + 1})
    np.testing.assert_array_equal(old.values, values)


def test_defaults_of_inputs():
    model = read_model(TEXT)
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [2, 2]))
    graph = from_proto(model)
    place = constants(graph)["w"]
    assert place.is_input
    put(graph, {"w": np.zeros((2, 2))})
    (written,) = [tensor for tensor in to_proto(graph).graph.initializer if tensor.name == "w"]
    np.testing.assert_array_equal(numpy_helper.to_array(written), np.zeros((2, 2)))


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16, ml_dtypes.int4])
def test_types_are_kept(kind):
    graph = from_proto(read_model(TEXT))
    node = graph.nodes[0]
    node.attrs.clear()
    node.attrs["value"] = gs.Constant("c", np.array([1, 2]).astype(kind))
    put(graph, {"c": np.array([3.0, -4.0])})
    again = constants(from_proto(to_proto(graph)))["c"]
    assert again.dtype == np.dtype(kind)
    np.testing.assert_array_equal(again.values.astype(np.float32), [3, -4])


def test_what_cannot_be_written():
    graph = from_proto(read_model(TEXT))
    with pytest.raises(ModelError, match="no constant `v`"):
        put(graph, {"v": np.zeros(1)})
    with pytest.raises(ModelError, match=r"`c` has shape \[2\], its trained values \[3\]"):
        put(graph, {"c": np.zeros(3)})
