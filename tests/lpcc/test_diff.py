from __future__ import annotations

import math

import numpy as np
import onnx
import pytest

from lpcc.diff import numbers, structure
from lpcc.errors import ModelError
from lpcc.graph import from_proto
from lpcc.testing.golden import read_model

A = """
<ir_version: 9, opset_import: ["": 17]>
g (float[2,4] x) => (float[2,3] y)
<float[4,3] w>
{
    [prod] m = MatMul(x, w)
    [act] r = LeakyRelu<alpha = 0.1>(m)
    [out] y = Identity(r)
}
"""


def models(*changes: tuple[str, str]) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    text = A
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return read_model(A), read_model(text)


def test_the_same() -> None:
    a, b = models()
    found = structure(from_proto(a), from_proto(b))
    assert found.same
    assert not found.nodes
    assert found.sizes == {"nodes": (3, 3), "parameters": (12, 12), "weight_bytes": (48, 48)}


@pytest.mark.parametrize(
    ("old", "new", "name", "what"),
    [
        ("alpha = 0.1", "alpha = 0.2", "act", "attribute alpha"),
        ("LeakyRelu<alpha = 0.1>(m)", "Relu(m)", "act", "was LeakyRelu and is Relu"),
        ("Identity(r)", "Identity(m)", "out", "inputs"),
    ],
)
def test_changed_nodes(old: str, new: str, name: str, what: str) -> None:
    a, b = models((old, new))
    found = structure(from_proto(a), from_proto(b))
    assert [(change.name, change.what) for change in found.nodes.changed] == [(name, what)]
    assert not found.same


def test_added_and_removed_nodes_and_operators() -> None:
    a, b = models(("[out] y = Identity(r)", "[neg] n = Neg(r)\n[abs] y = Abs(n)"))
    found = structure(from_proto(a), from_proto(b))
    assert (found.nodes.added, found.nodes.removed) == (("neg", "abs"), ("out",))
    assert found.ops == {"Abs": (0, 1), "Identity": (1, 0), "Neg": (0, 1)}


def test_weights() -> None:
    a, b = models(("float[4,3] w>", "float[4,3] v>"), ("MatMul(x, w)", "MatMul(x, v)"))
    found = structure(from_proto(a), from_proto(b))
    assert (found.weights.added, found.weights.removed) == (("v",), ("w",))
    b = read_model(A)
    values = onnx.numpy_helper.to_array(b.graph.initializer[0]).copy()
    values[0, 0] += 1
    b.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(values, "w"))
    (change,) = structure(from_proto(a), from_proto(b)).weights.changed
    assert (change.name, change.what) == ("w", "values")
    b.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float64), "w"))
    (change,) = structure(from_proto(a), from_proto(b)).weights.changed
    assert change.what == "was float[4,3] and is double[4,3]"


def test_interface_and_opset() -> None:
    a, b = models(("float[2,4] x", "float[N,4] x"), ('"": 17', '"": 18'))
    found = structure(from_proto(a), from_proto(b))
    assert found.interface == ("input `x` was float[2,4] and is float[N,4]",)
    assert found.opset == (17, 18)


def test_order_of_the_interface() -> None:
    text = '<ir_version: 9, opset_import: ["": 17]>\ng (float[2] a, float[2] b) => (float[2] c) { c = Sub(a, b) }'
    turned = text.replace("(float[2] a, float[2] b)", "(float[2] b, float[2] a)")
    found = structure(from_proto(read_model(text)), from_proto(read_model(turned)))
    assert found.interface == ("the inputs are in another order",)


def test_numbers() -> None:
    a, b = models(("alpha = 0.1", "alpha = 0.2"))
    x = np.array([[1.0, -2.0, 3.0, -4.0], [0.5, 0.25, -1.0, 2.0]], np.float32)
    (same,) = numbers(a, a, [{"x": x}])
    assert (same.name, same.relative, same.sqnr_db) == ("y", 0.0, None)
    (found,) = numbers(a, b, [{"x": x}, {"x": -x}])
    assert found.relative > 0
    w = onnx.numpy_helper.to_array(a.graph.initializer[0]).astype(np.float64)
    products = np.concatenate([x @ w, -x @ w])
    first, second = (np.where(products < 0, alpha * products, products) for alpha in (0.1, 0.2))
    expected = 10 * math.log10(np.square(first).sum() / np.square(first - second).sum())
    assert found.sqnr_db == pytest.approx(expected, abs=1e-3)


def test_numbers_of_models_without_a_common_output() -> None:
    a, b = models(("float[2,3] y", "float[2,3] z"), ("[out] y =", "[out] z ="))
    with pytest.raises(ModelError, match="no output in common"):
        numbers(a, b, [])


def test_other_shapes_cannot_be_compared() -> None:
    a, b = models(("float[2,3] y", "float[2,1] y"), ("Identity(r)", "ReduceMean<axes = [1]>(r)"))
    (found,) = numbers(a, b, [{"x": np.ones((2, 4), np.float32)}])
    assert (found.relative, found.sqnr_db) == (math.inf, None)
