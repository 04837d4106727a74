"""Integer regions: kernels that pass integers to each other, and what it costs to get into them and out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.macs import node_macs
from lpcc.analysis.shapes import Shapes, bind
from lpcc.passes.quantize.operators import Role

if TYPE_CHECKING:
    from lpcc.passes.quantize.placement import Unit


def idle_regions(graph: gs.Graph, units: Sequence[Unit], least: float) -> list[list[Unit]]:
    """The integer regions that do fewer than `least` multiply-accumulates for each value converted on their borders.

    Only those of convolutions without groups and of matrix products count: depthwise and grouped convolutions are no
    faster on integers. A region of unknown size is not idle.
    """
    shapes = bind(graph)
    made = {id(t): unit for unit in units for t in unit.results}
    kernels = {id(unit.node) for unit in units}
    returned = {id(t) for t in graph.outputs}
    found = []
    for region in _regions(units, made):
        work = sum(_work(unit, shapes) for unit in region)
        borders = {id(t): t for unit in region for t in unit.operands if id(t) not in made}
        for unit in region:
            for tensor in unit.results:
                inside = all(id(user) in kernels for user in tensor.outputs) and id(tensor) not in returned
                if not inside and edit.op(unit.node) not in ("Gemm", "MatMul"):  # these can write float themselves
                    borders[id(tensor)] = tensor
        if work < least * sum(shapes.elements(t) for t in borders.values()):
            found.append(region)
    return found


def _work(unit: Unit, shapes: Shapes) -> int:
    if unit.role is not Role.CONTRACT or edit.attr(unit.node, "group", 1) != 1:
        return 0
    return node_macs(unit.node, shapes)


def _regions(units: Sequence[Unit], made: dict[int, Unit]) -> list[list[Unit]]:
    """The units in groups that are connected by integer tensors, each in the order of `units`."""
    parent = {id(unit): id(unit) for unit in units}

    def root(key: int) -> int:
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for unit in units:
        for tensor in unit.operands:
            if id(tensor) in made:
                parent[root(id(unit))] = root(id(made[id(tensor)]))
    regions: dict[int, list[Unit]] = {}
    for unit in units:
        regions.setdefault(root(id(unit)), []).append(unit)
    return list(regions.values())
