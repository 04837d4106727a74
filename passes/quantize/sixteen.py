"""Activations of 16 bits: which operators compute in them, and conversions between them and those of 8.

Such kernels take int16 activations with zero point 0 and int8 weights with a scale for each channel (TensorFlow Lite's
16x8 scheme, which CMSIS-NN has kernels for). A layer computes in 16 bits where it is asked to. What stands between
layers goes on in 16 bits if all that it reads is made so, and where it is asked to itself.

A tensor has one format, that of the kernel that makes it. Readers of the other one read it through an Identity, which
`lpcc.passes.quantize.emit` turns into a requantisation: the DequantizeLinear of one format, the QuantizeLinear of the
other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.integer import is_plain
from lpcc.analysis.quantized import LAYERS
from lpcc.analysis.runtimes import runtime_of
from lpcc.passes.quantize.bits import Formats, Width
from lpcc.passes.quantize.operators import Role

if TYPE_CHECKING:
    from lpcc.passes.quantize.placement import Placement, Unit
    from lpcc.target import Target

DTYPE = np.dtype(np.int16)

_WHY = {
    "onnxruntime": "onnxruntime has no kernels for activations of 16 bits: it would run in float between conversions",
    "tflite": "TensorFlow Lite computes activations of 16 bits with its reference kernels, of unknown speed",
    "vela": "the cost model of Ethos-U knows activations of 8 bits alone",
}
_OTHERS = "no kernels for activations of 16 bits are known of its runtime"


def refusal(target: Target | None) -> str | None:
    """Why a target's layers cannot have activations of 16 bits; None where they can."""
    name = "onnxruntime" if target is None else target.runtime
    if operators(target):
        return None
    return f"{_WHY.get(name, _OTHERS)}: it stays in float"


def operators(target: Target | None) -> frozenset[str]:
    """The operators that a target's runtime has kernels in 16 bits for."""
    return frozenset() if target is None else runtime_of(target.runtime, target.isa).integer_rules().wide


def without_kernel(node: gs.Node) -> str | None:
    """Why a layer has no kernel in 16 bits though its operator has; None where it has."""
    if not is_plain(node):
        return "keeps activations of 8 bits: there is no kernel in 16 for grouped convolutions"
    return None


def choose(units: Sequence[Unit], asked: Mapping[str, Width | None], known: frozenset[str]) -> frozenset[str]:
    """Names of the nodes whose units compute in 16 bits, of those that `known` operators have kernels for."""
    chosen: set[str] = set()
    made: dict[int, str] = {id(tensor): edit.label(unit.node) for unit in units for tensor in unit.results}
    for unit in units:
        name, width = edit.label(unit.node), asked.get(edit.label(unit.node))
        if edit.op(unit.node) not in known or (unit.role is Role.CONTRACT and without_kernel(unit.node)):
            continue
        if width is not None:
            takes = width.activations == 16
        else:
            takes = unit.role is not Role.CONTRACT and all(made.get(id(t)) in chosen for t in unit.operands)
        if takes:
            chosen.add(name)
    return frozenset(chosen)


def convert(graph: gs.Graph, placement: Placement, wide: frozenset[str]) -> Formats:
    """Put an Identity wherever a tensor of one format is read in the other; every node keeps its name."""
    made = {id(tensor): edit.label(unit.node) in wide for unit in placement.units for tensor in unit.results}
    readers: dict[int, list[tuple[Unit, int]]] = {}
    tensors: dict[int, gs.Tensor] = {}
    for unit in placement.units:
        for index, tensor in zip(unit.operation.operands, unit.operands, strict=True):
            tensors[id(tensor)] = tensor
            readers.setdefault(id(tensor), []).append((unit, index))
    names, to_wide = set(), set()
    with edit.Edit(graph) as editing:
        for key, tensor in tensors.items():
            is_wide = made.get(key, any(edit.label(unit.node) in wide for unit, _ in readers[key]))
            others = [(unit, index) for unit, index in readers[key] if (edit.label(unit.node) in wide) != is_wide]
            if not others:
                continue
            result = editing.fresh(f"{tensor.name}_in_{8 if is_wide else 16}_bits", tensor.dtype, tensor.shape)
            editing.add("Identity", [tensor], [result], name=result.name)
            names.add(result.name)
            if not is_wide:
                to_wide.add(result.name)
            for unit, index in others:
                editing.replace_input(unit.node, index, result)
    return Formats(wide | to_wide, frozenset(names))


def is_layer(node: gs.Node) -> bool:
    """Whether a node is a layer with weights, for which bits are asked for by name."""
    return edit.op(node) in LAYERS
