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


def halved(path: str, *, streams: bool = True) -> onnx.ModelProto:
    """The network with the half of each layer's channels that has the largest filters by the sum of magnitudes.

    Channels that residual sums add up go together, by the sum over all layers of the stage. The stages after the first
    keep the places of the earlier ones' channels, which the shortcuts put in the middle between zeros. Without
    `streams` these stay whole, and only the channels within blocks are halved.
    """
    graph = load(path)
    run_pipeline(graph, Pipeline.parse(READY), Context())
    convolutions = {edit.label(node): node for node in graph.nodes if edit.op(node) == "Conv"}
    between = _streams(convolutions, streams)
    reads = np.arange(3)
    with edit.Edit(graph) as change:
        for name, node in convolutions.items():
            within = name.endswith("/conv1/Conv") and name != "/conv1/Conv"
            if within:
                reads = between[_stage(name) - name.endswith(".0/conv1/Conv") * (_stage(name) > 1)]
            writes = _largest([node]) if within else between[_stage(name)]
            _put(change, node, 1, _values(node, 1)[writes][:, reads])
            norm = change.only_user(node.outputs[0])
            assert norm is not None
            for place in range(1, 5):
                _put(change, norm, place, _values(norm, place)[writes])
            reads = writes
        for node in graph.nodes:
            if edit.op(node) == "Pad" and streams:
                _put(change, node, 1, _values(node, 1) // 2)
            elif edit.op(node) == "Gemm":
                _put(change, node, 1, _values(node, 1)[:, reads])
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Variable) and len(tensor.inputs) and len(tensor.outputs):
            tensor.shape = None
    return to_proto(graph)


def _stage(name: str) -> int:
    return int(name[len("/layer")]) if name.startswith("/layer") else 1


def _streams(convolutions: dict[str, gs.Node], halve: bool) -> dict[int, np.ndarray]:
    """Channels kept between the blocks of each stage."""
    found: dict[int, np.ndarray] = {}
    for stage in (1, 2, 3):
        if not halve:
            found[stage] = np.arange(8 << stage)
            continue
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
    return np.sum([np.abs(_values(node, 1)).sum((1, 2, 3)) for node in nodes], axis=0)


def _largest(nodes: Sequence[gs.Node]) -> np.ndarray:
    size = _sizes(nodes)
    return np.sort(np.argsort(-size, kind="stable")[: len(size) // 2])


def _values(node: gs.Node, place: int) -> np.ndarray:
    values = edit.const(node.inputs[place])
    assert values is not None
    return values


def _put(change: edit.Edit, node: gs.Node, place: int, values: np.ndarray) -> None:
    change.replace_input(node, place, change.constant(node.inputs[place].name, np.ascontiguousarray(values)))
