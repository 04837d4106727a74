from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from lpcc.runtime import TensorSpec

F32 = np.dtype(np.float32)


def test_reads_types_and_shapes() -> None:
    minus_one = helper.make_tensor_value_info("p", TensorProto.INT64, [None, "n", 4])
    minus_one.type.tensor_type.shape.dim[0].dim_value = -1
    graph = helper.make_graph(
        [],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", None, 4, 0]),
            minus_one,
            helper.make_tensor_value_info("u", TensorProto.FLOAT, None),
            helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [1]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.BOOL, [])],
        [numpy_helper.from_array(np.zeros(1, np.float32), "w")],
    )
    model = helper.make_model(graph)
    assert TensorSpec.inputs_of(model) == (
        TensorSpec("x", F32, ("n", None, 4, 0)),
        TensorSpec("p", np.dtype(np.int64), (None, "n", 4)),
        TensorSpec("u", F32, None),
        TensorSpec("s", None, None),
    )
    assert TensorSpec.outputs_of(model) == (TensorSpec("y", np.dtype(bool), ()),)
    assert [str(s) for s in TensorSpec.inputs_of(model)] == [
        "x: float32[n, ?, 4, 0]",
        "p: int64[?, n, 4]",
        "u: float32[...]",
        "s: ?[...]",
    ]
