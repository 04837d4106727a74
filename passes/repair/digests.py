"""What a tensor depends on, as a digest: equal ones are made from equal numbers in the same way."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import onnx


def digests(model: onnx.ModelProto, marks: Mapping[str, str] | None = None) -> dict[str, bytes]:
    """A digest for each tensor of the main graph, of all nodes and constants that it is made from, with their names.

    A tensor in `marks` has its mark in its own digest and in those of all that depend on it.
    """
    marks = marks or {}
    found = {tensor.name: _digest(tensor.SerializeToString(deterministic=True)) for tensor in model.graph.initializer}
    found |= {info.name: _digest(info.SerializeToString(deterministic=True)) for info in model.graph.input}
    for node in model.graph.node:
        # a graph within a node may read any tensor
        encloses = any(attribute.type in _GRAPHS for attribute in node.attribute)
        read = (
            found.values() if encloses else [found.get(name, b"") for name in node.input]
        )  # inner graphs read anything
        own = _digest(node.SerializeToString(deterministic=True), *read)
        found.update((name, _digest(own, name.encode(), marks.get(name, "").encode())) for name in node.output if name)
    return found


_GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)


def _digest(*parts: bytes) -> bytes:
    made = hashlib.blake2b(digest_size=16)
    for part in parts:
        made.update(len(part).to_bytes(8, "little"))
        made.update(part)
    return made.digest()
