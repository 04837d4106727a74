"""ResNet-20 for CIFAR-10 with half of its channels: a network that pruning without repair has broken."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.graph import load, to_proto
from lpcc.pipeline import Context, Pipeline
from lpcc.pipeline.runner import run_pipeline

READY = (
    "freeze-inputs,lift-constants,fold-constants,resolve-shapes,fold-constants,resolve-shapes,remove-noops,dce,cse,dce"
)
"""Shapes folded, batch norms not: they are of use in training."""


def halved(path: str) -> onnx.ModelProto:
    """The network with the half of each layer's channels that has the largest filters by the sum of magnitudes.

    Channels that residual sums add up go together, by the sum over all layers of the stage. The stages after the first
    keep the places of the earlier ones' channels, which the shortcuts put in the middle between zeros.
    """
    graph = load(path)
    run_pipeline(graph, Pipeline.parse(READY), Context())
    convolutions = {edit.label(node): node for node in graph.nodes if edit.op(node) == "Conv"}
    kept: dict[str, np.ndarray] = {"input": np.arange(3)}
    stream = _streams(convolutions)
    for name, node in convolutions.items():
        inside = name.endswith("/conv1/Conv") and name != "/conv1/Conv"
        kept[name] = _largest([node]) if inside else stream[_stage(name)]
    with edit.Edit(graph) as change:
        reads = kept["input"]
        for name, node in convolutions.items():
            inside = name.endswith("/conv1/Conv") and name != "/conv1/Conv"
            if inside:
                reads = stream[_stage(name) if not name.endswith(".0/conv1/Conv") else max(1, _stage(name) - 1)]
            weight = edit.const(node.inputs[1])
            assert weight is not None
            _put(change, node, 1, weight[kept[name]][:, reads])
            norm = change.only_user(node.outputs[0])
            assert norm is not None
            for place in range(1, 5):
                values = edit.const(norm.inputs[place])
                assert values is not None
                _put(change, norm, place, values[kept[name]])
            reads = kept[name]
        for node in graph.nodes:
            values = edit.const(node.inputs[1]) if edit.op(node) in ("Pad", "Gemm") else None
            if values is not None and edit.op(node) == "Pad":
                _put(change, node, 1, values // 2)
            elif values is not None:
                _put(change, node, 1, values[:, reads])
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Variable) and tensor not in graph.inputs:
            tensor.shape = None
    return to_proto(graph)


def _stage(name: str) -> int:
    return int(name[len("/layer")]) if name.startswith("/layer") else 1


def _streams(convolutions: dict[str, gs.Node]) -> dict[int, np.ndarray]:
    """Channels kept between the blocks of each stage."""
    found: dict[int, np.ndarray] = {}
    for stage in (1, 2, 3):
        writers = [
            node
            for name, node in convolutions.items()
            if _stage(name) == stage and (name.endswith("/conv2/Conv") or name == "/conv1/Conv")
        ]
        if stage == 1:
            found[stage] = _largest(writers)
            continue
        size = _sizes(writers)
        sides = len(size) // 4
        low = np.sort(np.argsort(-size[:sides], kind="stable")[: sides // 2])
        high = np.sort(np.argsort(-size[-sides:], kind="stable")[: sides // 2]) + 3 * sides
        found[stage] = np.concatenate([low, found[stage - 1] + sides, high])
    return found


def _sizes(nodes: Sequence[gs.Node]) -> np.ndarray:
    total: np.ndarray = sum(np.abs(np.asarray(edit.const(node.inputs[1]))).sum((1, 2, 3)) for node in nodes)  # type: ignore[assignment]
    return total


def _largest(nodes: Sequence[gs.Node]) -> np.ndarray:
    size = _sizes(nodes)
    return np.sort(np.argsort(-size, kind="stable")[: len(size) // 2])


def _put(change: edit.Edit, node: gs.Node, place: int, values: np.ndarray) -> None:
    change.replace_input(node, place, change.constant(node.inputs[place].name, np.ascontiguousarray(values)))
