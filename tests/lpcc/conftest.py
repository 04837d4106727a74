"""What the tests of the door share."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import onnx.inliner
import pytest

Canonical = Callable[[onnx.ModelProto], onnx.ModelProto]


@pytest.fixture(scope="session")
def canonical() -> Canonical:
    """Function that brings what has no meaning in a model into one order, and inlines its functions."""
    return _canonical


def _canonical(model: onnx.ModelProto) -> onnx.ModelProto:
    found = onnx.ModelProto()
    found.CopyFrom(model)
    if found.functions:
        found = onnx.inliner.inline_local_functions(found)
    _reorder(found.graph)
    opsets = sorted(found.opset_import, key=lambda opset: opset.domain)
    _replace(found.opset_import, opsets)
    return found


def _reorder(graph: onnx.GraphProto) -> None:
    for field in (graph.initializer, graph.value_info):
        _replace(field, sorted(field, key=lambda item: item.name))
    for node in graph.node:
        _replace(node.attribute, sorted(node.attribute, key=lambda item: item.name))
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _reorder(attribute.g)
            for inner in attribute.graphs:
                _reorder(inner)


def _replace(field, items) -> None:  # type: ignore[no-untyped-def]
    copies = [item.SerializeToString() for item in items]
    del field[:]
    for copy in copies:
        field.add().ParseFromString(copy)
