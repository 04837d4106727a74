"""What each unit costs in float and on integers, by the target's cost model, and so which of them pay."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper

from lpcc import edit
from lpcc.analysis.shapes import Shapes, bind
from lpcc.analysis.types import annotate
from lpcc.cost import CostModel
from lpcc.cost.machine import Network
from lpcc.formats.affine import activation_params
from lpcc.graph import clone, from_proto
from lpcc.passes.quantize.emit import WeightScheme, Writer
from lpcc.passes.quantize.min_cut import Choice, Wire, cheapest
from lpcc.passes.quantize.placement import Placement, Unit

if TYPE_CHECKING:
    from lpcc.analysis.kernels import Kernel
    from lpcc.target import Target

_SIZES = ((16, 8), (64, 56))
"""Channels and pixels per side of the two feature maps that conversions are priced on."""

_MARGIN = 2.0
"""By what conversions are priced above the cost model. Changing form has to pay clearly: measured, conversions in the
middle of a network took 1.5 to 2 times what they take by themselves."""

_FORM_CHANGES = ("quantize", "dequantize", "transpose")
"""Kinds of kernels that only change the form of numbers or their layout."""

Plan = Callable[[gs.Graph, frozenset[str]], Placement]
"""Places units on a graph, without those of which it is given the names."""


@dataclass(frozen=True)
class Prices:
    """Prices of kernels on one target, in microseconds."""

    target: Target
    scheme: tuple[np.dtype, WeightScheme]
    sizes: Mapping[str, int]
    """Values of dimensions that the model leaves open, as `lpcc.analysis.shapes.bind` takes them."""

    def slower(self, graph: gs.Graph, plan: Plan) -> list[Unit]:
        """The units of `graph` that are better left in float."""
        units = plan(graph, frozenset()).units
        shapes = bind(graph, self.sizes)
        twin = clone(graph)
        placement = plan(twin, frozenset())
        if len(placement.units) != len(units) or not units:
            return []
        owners = _written(twin, placement, *self.scheme)
        in_float = self._spent(graph, _owners(units))
        on_integers = self._spent(twin, owners)
        choices = {i: Choice(in_float.get(i, 0.0), on_integers.get(i, 0.0)) for i in range(len(units))}
        wires = _wires(graph, units, shapes, self._conversion())
        kept = cheapest(choices, wires)
        left = {i for i in choices if i not in kept}
        return [units[i] for i in sorted(self._reconsidered(graph, units, left, wires, plan))]

    def _reconsidered(
        self, graph: gs.Graph, units: Sequence[Unit], left: set[int], wires: Sequence[Wire], plan: Plan
    ) -> set[int]:
        """What stays in float of `left` where the kernels of the whole network are priced, run by run of units.

        The cut knows conversions at the borders. That one float layer at the start of a residual network leaves a
        change of layout beside each of its sums, far from the border, only the whole tells.
        """
        if not left:
            return left
        total = self._total(graph, units, left, plan)
        for run in _runs(left, wires):
            fewer = left - run
            found = self._total(graph, units, fewer, plan)
            if found < total:
                left, total = fewer, found
        return left

    def _total(self, graph: gs.Graph, units: Sequence[Unit], left: set[int], plan: Plan) -> float:
        """Microseconds of the whole network with the units of `left` in float; changes of form at `_MARGIN`."""
        twin = clone(graph)
        _written(twin, plan(twin, frozenset(edit.label(units[i].node) for i in left)), *self.scheme)
        priced = self._priced(twin, bind(twin, self.sizes))
        return sum(cost * (_MARGIN if kernel.kind in _FORM_CHANGES else 1.0) for kernel, cost in priced)

    def _spent(self, graph: gs.Graph, owners: Mapping[int, int]) -> dict[int, float]:
        """Microseconds of the kernels by their owner's key; `owners` go by id of a node."""
        spent: dict[int, float] = {}
        for kernel, cost in self._priced(graph, bind(graph, self.sizes)):
            nodes = [kernel.node, *kernel.nodes]
            owner = next((owners[id(node)] for node in nodes if id(node) in owners), None)
            if owner is not None:
                spent[owner] = spent.get(owner, 0.0) + cost
        return spent

    def _priced(self, graph: gs.Graph, shapes: Shapes) -> list[tuple[Kernel, float]]:
        kernels = CostModel(self.target).kernels(graph, shapes)
        network = Network(kernels)
        machine = self.target.machine
        return [(kernel, machine.price(kernel, network, self.target).latency_us) for kernel in kernels]

    def _conversion(self) -> Callable[[int, bool, bool], float]:
        """Microseconds of a conversion of so many values, to integers or back, with what it does to the layout or not.

        Found by pricing a network of three convolutions of which the one in the middle is on integers; linear between
        two sizes.
        """
        points = []
        for channels, side in _SIZES:
            graph = _sandwich(channels, side, self.scheme[0])
            into, out, stage = [0.0, 0.0], [0.0, 0.0], 0
            for kernel, cost in self._priced(graph, bind(graph)):
                if kernel.macs:
                    stage += 1
                elif stage in (1, 2):
                    counted = into if stage == 1 else out
                    counted[0] += cost
                    counted[1] += cost if kernel.kind in ("quantize", "dequantize") else 0.0
            points.append((float(channels * side * side), (into, out)))
        (small, few), (large, many) = points

        def price(values: int, back: bool, bare: bool) -> float:
            a, b = few[back][bare], many[back][bare]
            slope = max(0.0, (b - a) / (large - small))
            return _MARGIN * (max(0.0, a - slope * small) + slope * values)

        return price


def _written(graph: gs.Graph, placement: Placement, activations: np.dtype, weights: WeightScheme) -> dict[int, int]:
    """Write a placement with ranges made up; by id of a node the place of the unit that it belongs to."""
    params = {}
    for key in placement.measured:
        least, most = placement.bounds.get(key, (-np.inf, np.inf))
        params[key] = activation_params(max(-1.0, least), min(1.0, most), activations)
    with edit.Edit(graph) as editing:
        writer = Writer(editing, placement, params, weights, {})
        writer.write()
    places = {id(unit): place for place, unit in enumerate(placement.units)}
    return _owners(placement.units) | {key: places[id(unit)] for key, unit in writer.made.items()}


def _owners(units: Sequence[Unit]) -> dict[int, int]:
    """By id of a node the place of the unit that it belongs to."""
    return {id(node): place for place, unit in enumerate(units) for node in (unit.node, unit.tail) if node is not None}


def _wires(
    graph: gs.Graph, units: Sequence[Unit], shapes: Shapes, price: Callable[[int, bool, bool], float]
) -> list[Wire]:
    """The tensors between the units, and between them and the rest of the graph."""
    makers = {id(t): i for i, unit in enumerate(units) for t in unit.results}
    readers: dict[int, list[int]] = {}
    tensors: dict[int, gs.Tensor] = {}
    for i, unit in enumerate(units):
        for tensor in [*unit.operands, *unit.results]:
            tensors[id(tensor)] = tensor
        for tensor in unit.operands:
            readers.setdefault(id(tensor), []).append(i)
    returned = {id(t) for t in graph.outputs}
    wires = []
    for key, tensor in tensors.items():
        inside: list[int | None] = list(readers.get(key, []))
        count = shapes.elements(tensor)
        is_given = len(tensor.inputs) == 0
        to_float = price(count, True, False)
        if key in makers and edit.op(units[makers[key]].node) in ("Gemm", "MatMul") and units[makers[key]].tail is None:
            to_float = 0.0  # these can write float themselves
        if key in returned or len(tensor.outputs) > len(inside):
            inside.append(None)
        wires.append(Wire(makers.get(key), inside, price(count, False, is_given), to_float))
    return wires


def _runs(left: set[int], wires: Sequence[Wire]) -> list[set[int]]:
    """The units of `left` in groups that tensors connect, in the order of their first."""
    run = {i: {i} for i in left}
    for wire in wires:
        near = sorted({i for i in (wire.maker, *wire.readers) if i in left})
        for other in near[1:]:
            joined = run[near[0]] | run[other]
            run.update(dict.fromkeys(joined, joined))
    return sorted({id(group): group for group in run.values()}.values(), key=min)


def _sandwich(channels: int, side: int, dtype: np.dtype) -> gs.Graph:
    """Three 1x1 convolutions of which the one in the middle is on integers."""
    shape = [1, channels, side, side]
    kind = TensorProto.INT8 if dtype == np.int8 else TensorProto.UINT8
    kernel = [channels, channels, 1, 1]
    constants = [
        helper.make_tensor("w", TensorProto.FLOAT, kernel, np.ones(channels * channels, np.float32)),
        helper.make_tensor("v", TensorProto.INT8, kernel, np.ones(channels * channels, np.int8)),
        helper.make_tensor("s", TensorProto.FLOAT, [], [1.0]),
        helper.make_tensor("z", kind, [], [0]),
        helper.make_tensor("u", TensorProto.INT8, [], [0]),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("QuantizeLinear", ["a", "s", "z"], ["b"]),
        helper.make_node("DequantizeLinear", ["b", "s", "z"], ["c"]),
        helper.make_node("DequantizeLinear", ["v", "s", "u"], ["k"]),
        helper.make_node("Conv", ["c", "k"], ["d"]),
        helper.make_node("QuantizeLinear", ["d", "s", "z"], ["e"]),
        helper.make_node("DequantizeLinear", ["e", "s", "z"], ["f"]),
        helper.make_node("Conv", ["f", "w"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    model = helper.make_model(
        helper.make_graph(nodes, "sandwich", ends[:1], ends[1:], constants),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    graph = from_proto(model)
    annotate(graph)
    return graph
