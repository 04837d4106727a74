"""The layers that rounding can be repaired in: what each reads, what it should write, and what of it may change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.quantized import QuantizedLayer, quantized_layers
from lpcc.calibrate.patches import NoPatches, Patches, Results, Window
from lpcc.formats.affine import Weights, quantize_bias
from lpcc.passes.quantize.emit import contraction
from lpcc.passes.quantize.operators import Bounds, activation_bounds
from lpcc.pipeline import Changes

Array = np.ndarray[Any, Any]

UNBOUNDED: Bounds = (-np.inf, np.inf)
_LARGEST_BIAS = 3 * 2**29
"""Largest integer of a bias: a quarter of the range is left for the products that are added to it."""

ON_GRID = "its float weights lie on the grid already"
"""Why a pass that rounds leaves a layer alone."""
_ON_GRID = 0.02
"""Distance from an integer, in steps of the scale, within which a weight leaves nothing to be decided."""


@dataclass(frozen=True)
class Rounding:
    """A layer's weights and bias on their grid, as a matrix product.

    `integers` (groups, depth, outputs) and `scales` (groups, 1, outputs) make up the weights. `bias` is (groups,
    outputs), None where the layer has none and can have none.
    """

    integers: Array
    scales: Array
    bias: Array | None

    @property
    def weights(self) -> Array:
        """The weights, float64 (groups, depth, outputs)."""
        weights: Array = self.integers * self.scales.astype(np.float64)
        return weights

    def packed(self) -> Rounding:
        """The same with its integers in two bytes, to be kept."""
        return replace(self, integers=self.integers.astype(np.int16))

    def unpacked(self) -> Rounding:
        """The same with its integers as float64 again."""
        return replace(self, integers=self.integers.astype(np.float64))

    def same(self, other: Rounding) -> bool:
        """Whether two roundings of one layer are equal."""
        return (
            np.array_equal(self.integers, other.integers)
            and np.array_equal(self.scales, other.scales)
            and (self.bias is None or other.bias is None or np.array_equal(self.bias, other.bias))
        )


@dataclass(frozen=True, eq=False)
class Site:
    """A layer with integer weights, and the float layer that it should be as close to as can be."""

    layer: QuantizedLayer
    name: str
    """Name of the float layer: an unnamed one goes by its output, which `quantize` may call otherwise."""
    window: Window
    float_weights: Array
    """Float64 (groups, depth, outputs)."""
    bounds: Bounds
    """What the activation behind the layer limits its output to."""
    target: str
    """Name of the tensor that the layer writes in the float network."""
    low: Array
    """Least integer of each output channel, (groups, 1, outputs)."""
    high: Array
    """Greatest integer of each output channel, (groups, 1, outputs)."""

    @property
    def reads(self) -> Patches:
        """What the layer reads in the quantised network: the integers, as asking for more would undo its kernels."""
        tensor, params = self.layer.node.inputs[0], self.layer.input_params
        if params is None:
            return Patches(tensor.name, self.window)
        return Patches(tensor.inputs[0].inputs[0].name, self.window, params)

    @property
    def wanted(self) -> Results:
        """What the layer writes in the float network."""
        return Results(self.target, self.window)

    @property
    def has_bias(self) -> bool:
        """Whether the layer has a bias that may change, or may get one."""
        given = edit.inp(self.layer.node, 2)
        if edit.op(self.layer.node) == "MatMul":
            return False
        return given is None or self.layer.bias is not None or isinstance(given, gs.Constant)

    @property
    def current(self) -> Rounding:
        """The layer as the graph has it."""
        stored = self.layer.weights
        integers = self.window.matrix(np.asarray(stored.integers)).astype(np.float64)
        return Rounding(integers, self.window.per_channel(stored.scales), self._bias() if self.has_bias else None)

    def activated(self, outputs: Array) -> Array:
        """Outputs of the layer behind its activation."""
        return outputs if self.bounds == UNBOUNDED else np.clip(outputs, *self.bounds)

    def fits(self, bias: Array, scales: Array) -> Array:
        """Which biases fit into int32 with the scales (groups, 1, outputs): bool (groups, outputs)."""
        params = self.layer.input_params
        step = scales[:, 0].astype(np.float64) * (1.0 if params is None else float(params.scale))
        fits: Array = np.abs(bias) <= step * _LARGEST_BIAS
        return fits

    @property
    def is_on_grid(self) -> bool:
        """Whether the float weights are multiples of the scales already, so that rounding them loses nothing."""
        current = self.current
        ratio = np.clip(self.float_weights / current.scales, self.low, self.high)
        return bool(np.abs(ratio - np.rint(ratio)).max(initial=0.0) < _ON_GRID)

    def _bias(self) -> Array:
        node, shape = self.layer.node, (self.window.groups, self.window.outputs)
        if self.layer.bias is not None:
            integers, scales = (np.asarray(t.values, dtype=np.float64) for t in self.layer.bias.inputs[:2])
            return (integers * scales).reshape(shape)
        values = edit.const(edit.inp(node, 2))
        if values is None:
            return np.zeros(shape)
        full: Array = np.broadcast_to(values.reshape(-1).astype(np.float64), (shape[0] * shape[1],))
        return full.reshape(shape)

    def write(self, editing: edit.Edit, rounding: Rounding) -> Undo:
        """Put other integers, scales and another bias into the graph, under the names of the old ones.

        The graph must hold the layer as it was found; what is returned brings that back.
        """
        old, axis = self.layer.weights, self.layer.channel_axis
        integers = self.window.weights(rounding.integers, old.integers.shape).astype(np.int8)
        undo = Undo()
        for part in self.layer.parts:
            reader = part.stored.outputs[0]
            index = next(i for i, tensor in enumerate(reader.inputs) if tensor is part.stored)
            values = np.take(integers, part.places, axis).astype(part.stored.dtype)
            undo.replace(editing, reader, index, gs.Constant(part.stored.name, values))
        scales = old.scales
        if scales.ndim:  # a single scale never changes
            scales = rounding.scales.reshape(-1).astype(np.float32)
            if not np.array_equal(scales, old.scales):
                undo.replace(editing, self.layer.weight, 1, gs.Constant(self.layer.weight.inputs[1].name, scales))
        if rounding.bias is not None:
            self._write_bias(editing, rounding.bias.reshape(-1), Weights(integers, scales, old.axis), undo)
        return undo

    def _write_bias(self, editing: edit.Edit, bias: Array, weights: Weights, undo: Undo) -> None:
        node, params, given = self.layer.node, self.layer.input_params, edit.inp(self.layer.node, 2)
        if self.layer.bias is None and given is not None:
            undo.replace(editing, node, 2, gs.Constant(given.name, bias.astype(np.float32)))
            return
        hint = f"{self.layer.stored.name}_bias"
        if params is None:
            if self.layer.bias is None and bias.any():
                undo.replace(editing, node, 2, editing.constant(hint, bias.astype(np.float32)))
            return
        integers, scales = quantize_bias(bias, params.scale, weights)
        if self.layer.bias is not None:
            for index, values in enumerate((integers, scales)):
                name = self.layer.bias.inputs[index].name
                undo.replace(editing, self.layer.bias, index, gs.Constant(name, np.asarray(values)))
            return
        if not integers.any():
            return
        constants = [
            editing.constant(f"{hint}_quantized", integers),
            editing.constant(f"{hint}_scale", np.asarray(scales)),
        ]
        result = editing.fresh(f"{hint}_dequantized", np.dtype(np.float32), bias.shape)
        attrs = {} if weights.axis is None else {"axis": 0}
        undo.added.append(editing.add("DequantizeLinear", constants, [result], attrs, name=result.name))
        undo.replace(editing, node, 2, result)


@dataclass
class Undo:
    """Brings back what `Site.write` changed."""

    replaced: list[tuple[gs.Node, int, gs.Tensor | None]] = field(default_factory=list)
    added: list[gs.Node] = field(default_factory=list)

    def replace(self, editing: edit.Edit, node: gs.Node, index: int, tensor: gs.Tensor) -> None:
        """Let input `index` of `node` be `tensor`, and remember what it was."""
        self.replaced.append((node, index, edit.inp(node, index)))
        editing.replace_input(node, index, tensor)

    def __call__(self, editing: edit.Edit) -> None:
        """Bring it back."""
        for node, index, old in self.replaced:
            if old is None:
                editing.drop_inputs(node, index)
            else:
                editing.replace_input(node, index, old)
        for node in self.added:
            editing.remove(node)


def sites(graph: gs.Graph, unquantized: gs.Graph, skip: frozenset[str], changes: Changes) -> Iterator[Site]:
    """The layers of `graph` that can be repaired, in order; why the others cannot goes into `changes`."""
    layers = quantized_layers(graph)
    floats = _by_name(unquantized)
    full = _full_int8(layers)
    for layer in layers:
        twin = _twin(layer.node, floats)
        name = edit.label(layer.node if twin is None else twin)
        try:
            if name in skip:
                raise NoPatches("named in `skip`")
            if twin is None or not isinstance(twin.inputs[1], gs.Constant):
                raise NoPatches("no float layer of its name is known")
            yield _site(layer, twin, full, unquantized)
        except NoPatches as why:
            changes.refuse(name, str(why))


def _site(layer: QuantizedLayer, twin: gs.Node, full: int, unquantized: gs.Graph) -> Site:
    if not {part.bits for part in layer.parts} <= {2, 4, 8}:
        raise NoPatches("its weights have more than 8 bits")
    others = [edit.label(n) for n in _readers(layer) if n is not layer.node]
    if others:
        raise NoPatches(f"its weights are shared with `{others[0]}`")
    weights = layer.weights
    window = Window.of(layer.node, weights.integers.shape)
    if weights.axis not in (None, layer.channel_axis):
        raise NoPatches("the scales of its weights are not those of output channels")
    values, _, _ = contraction(twin)
    if values.shape != weights.integers.shape or not np.isfinite(values).all():
        raise NoPatches("its float weights are others, or not finite")
    low, high = (np.clip(ends, -full, full).astype(np.float64) for ends in layer.limits)
    return Site(
        layer=layer,
        name=edit.label(twin),
        window=window,
        float_weights=window.matrix(values.astype(np.float64)),
        bounds=_bounds(twin, unquantized),
        target=twin.outputs[0].name,
        low=window.per_channel(low),
        high=window.per_channel(high),
    )


def _readers(layer: QuantizedLayer) -> Iterator[gs.Node]:
    """The nodes that read a layer's weights, through any DequantizeLinear."""
    pending = [reader for part in layer.parts for reader in part.stored.outputs]
    while pending:
        node = pending.pop()
        if edit.op(node) in ("Cast", "Concat", "DequantizeLinear", "Gather"):
            pending += node.outputs[0].outputs
        else:
            yield node


def _full_int8(layers: list[QuantizedLayer]) -> int:
    """Greatest magnitude of int8 weights: 64 in a network in which none is greater, as some targets want it."""
    eight = [layer for layer in layers if layer.bits == 8]
    greatest = max((int(np.abs(layer.weights.integers).max(initial=0)) for layer in eight), default=127)
    return 64 if greatest <= 64 else 127


def _by_name(graph: gs.Graph) -> dict[str, gs.Node]:
    """The layers of a graph, by the name of what they write."""
    return {node.outputs[0].name: node for node in graph.nodes if edit.op(node) in ("Conv", "Gemm", "MatMul")}


def _twin(node: gs.Node, floats: dict[str, gs.Node]) -> gs.Node | None:
    """The float layer that a layer was: it writes a tensor of the same name, or of that of its dequantised output."""
    found = node.outputs[0]
    for _ in range(3):
        if found.name in floats:
            return floats[found.name]
        readers = [n for n in found.outputs if edit.op(n) in ("QuantizeLinear", "DequantizeLinear")]
        if not readers:
            return None
        found = readers[0].outputs[0]
    return None


def _bounds(twin: gs.Node, graph: gs.Graph) -> Bounds:
    result = twin.outputs[0]
    if len(result.outputs) != 1 or any(result is output for output in graph.outputs):
        return UNBOUNDED
    return activation_bounds(result.outputs[0]) or UNBOUNDED
