from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper

from lpcc.graph import from_proto, to_proto
from lpcc.passes import LiftConstants
from lpcc.pipeline import Context
from lpcc.runtime import Session
from lpcc.testing import golden_cases


@pytest.mark.parametrize("case", golden_cases("golden/lift-constants"), ids=lambda path: path.stem)
def test_golden(case, golden):
    golden(case)


def sparse(size):
    values = helper.make_tensor("v", TensorProto.FLOAT, [2], [5.0, 6.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [2], [1, 3])
    node = helper.make_node("Constant", [], ["k"], sparse_value=helper.make_sparse_tensor(values, indices, [size]))
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [size]) for name in "xy"]
    graph = helper.make_graph([node, helper.make_node("Add", ["x", "k"], ["y"])], "g", infos[:1], infos[1:])
    return from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def test_sparse_values_become_dense():
    graph = sparse(5)
    assert LiftConstants().run(graph, Context()).counts == {"Constant node made an initialiser": 1}
    assert np.array_equal(graph.nodes[0].inputs[1].values, [0, 5, 0, 6, 0])


def test_sparse_values_that_would_be_large_stay():
    graph = sparse(5)
    changes = LiftConstants(limit=19).run(graph, Context())
    assert changes.refused[0].reason == "its dense form takes 20 bytes"
    assert [node.op for node in graph.nodes] == ["Constant", "Add"]


def test_strings():
    text = '<ir_version: 8, opset_import: ["": 17]> g (int64 i) => (string y) {'
    text += ' k = Constant <value_strings = ["a", "b"]> () y = Gather (k, i) }'
    graph = from_proto(onnx.parser.parse_model(text))
    assert LiftConstants().run(graph, Context())
    after = to_proto(graph)
    onnx.checker.check_model(after, full_check=True)
    assert Session(after).run({"i": np.array(1)})["y"] == "b"
