"""One node, run in torch and in onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

Array = np.ndarray[Any, Any]
Compare = Callable[..., list[Array]]


@pytest.fixture(scope="session")
def ours() -> Callable[..., list[Array]]:
    """The outputs of a node by its lowering, in double precision where asked for, as arrays."""
    return _ours


@pytest.fixture(scope="session")
def theirs() -> Callable[..., list[Array]]:
    """The outputs of a node by onnxruntime."""
    return _theirs


@pytest.fixture(scope="session")
def same() -> Compare:
    """Assert that a node gives in torch what it gives in onnxruntime; returns that."""

    def compare(op: str, inputs: Sequence[Array | None], *, tolerance: float = 1e-5, **given: Any) -> list[Array]:
        expected = _theirs(op, inputs, **given)
        found = _ours(op, inputs, **given)
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            assert a.shape == b.shape
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
        return expected

    return compare


def _ours(
    op: str, inputs: Sequence[Array | None], *, opset: int = 17, outputs: int = 1, domain: str = "", **attrs: Any
) -> list[Array]:
    import torch

    from lpcc.train.operators import Call, lower
    from lpcc.train.operators.shapes import tensor_of

    types = tuple(None if each is None else each.dtype for each in inputs)
    call = Call(op, domain, opset, attrs, len(inputs), outputs, types=types)
    with torch.no_grad():
        found = lower(call)(*[None if each is None else tensor_of(each) for each in inputs])
    return [each.numpy() for each in (found if isinstance(found, tuple) else (found,))]


def _theirs(
    op: str, inputs: Sequence[Array | None], *, opset: int = 17, outputs: int = 1, domain: str = "", **attrs: Any
) -> list[Array]:
    import onnxruntime as ort

    names = [f"x{i}" if each is not None else "" for i, each in enumerate(inputs)]
    results = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op, names, results, domain=domain, **attrs)
    fed = {name: each for name, each in zip(names, inputs, strict=True) if each is not None}
    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(each.dtype), each.shape)
        for name, each in fed.items()
    ]
    graph = helper.make_graph([node], "g", infos, [onnx.ValueInfoProto(name=name) for name in results])
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, ir_version=8, opset_imports=opsets)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: list[Array] = session.run(None, fed)
    return found
