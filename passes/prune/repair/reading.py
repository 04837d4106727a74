"""Layers that sum over channels, each as one matrix product, and what the rows that they read say in sum."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.groups import ChannelGroups, Layer
from lpcc.calibrate.gram import Gram
from lpcc.calibrate.patches import NoPatches, Patches, Reader, Window, read
from lpcc.data import Dataset
from lpcc.graph import to_proto
from lpcc.match import is_float
from lpcc.pipeline import Context

Array = np.ndarray[Any, Any]

_ROWS = 32
"""Rows for each number of a row: fewer do not tell what the weights of a layer are good for."""
_LEAST_ROWS = 32768
_PER_IMAGE = (8, 256)
RIDGE = 1e-3
"""Share of the mean square of what a layer reads by which sums are damped: where they say little, weights stay."""


@dataclass(frozen=True, eq=False)
class Reading:
    """A layer with constant weights as a product of rows with a matrix: (rows, depth) by (depth, outputs) per group."""

    node: gs.Node
    window: Window

    @classmethod
    def of(cls, node: gs.Node) -> Reading:
        """Read a Conv, Gemm or MatMul.

        Raises:
            NoPatches: weights or bias are not constants of a float type that this node alone reads, or the operator is
                another or has factors.
        """
        weight, bias = edit.inp(node, 1), edit.inp(node, 2)
        if not isinstance(weight, gs.Constant) or not is_float(weight.dtype) or isinstance(node.inputs[0], gs.Constant):
            raise NoPatches("its weights are not constant numbers")
        if len(weight.outputs) != 1:
            raise NoPatches("it shares its weights with another layer")
        if bias is not None and not isinstance(bias, gs.Constant):
            raise NoPatches("its bias is not constant")
        if edit.op(node) == "Gemm" and edit.attr(node, "alpha", 1.0) != 1.0:
            raise NoPatches("its product has a factor")
        return cls(node, Window.of(node, weight.shape))

    @property
    def name(self) -> str:
        """Of the layer."""
        return edit.label(self.node)

    @property
    def source(self) -> str:
        """Name of the tensor that it reads."""
        return str(self.node.inputs[0].name)

    @property
    def target(self) -> str:
        """Name of the tensor that it makes."""
        return str(self.node.outputs[0].name)

    @property
    def takes_bias(self) -> bool:
        """Whether it has a place for a number to add to each output: a MatMul has none."""
        return edit.op(self.node) != "MatMul"

    def matrix(self) -> Array:
        """Its weights, float64 (groups, depth, outputs)."""
        return self.window.matrix(np.asarray(self.node.inputs[1].values)).astype(np.float64)

    def bias(self) -> Array:
        """What it adds to each output, float64 (groups, outputs); zeros where it has none."""
        bias = edit.inp(self.node, 2)
        shape = (self.window.groups, self.window.outputs)
        if bias is None:
            return np.zeros(shape)
        factor = float(edit.attr(self.node, "beta", 1.0)) if edit.op(self.node) == "Gemm" else 1.0
        values = factor * np.asarray(bias.values, dtype=np.float64).reshape(-1)
        return np.array(np.broadcast_to(values, (shape[0] * shape[1],)).reshape(shape))

    def write(self, e: edit.Edit, matrix: Array, bias: Array | None) -> None:
        """Let the layer have other weights (groups, depth, outputs) and another bias (groups, outputs)."""
        node = self.node
        weight = node.inputs[1]
        values = self.window.weights(matrix, weight.shape).astype(weight.dtype)
        e.replace_input(node, 1, gs.Constant(weight.name, values))
        if bias is None or not self.takes_bias:
            return
        numbers = bias.reshape(-1).astype(weight.dtype)
        old = edit.inp(node, 2)
        if old is None and not numbers.any():
            return
        node.attrs.pop("beta", None)
        if old is not None and e.only_user(old) is not None:
            new = gs.Constant(old.name, numbers)
        else:
            new = e.constant(f"{weight.name}_bias", numbers)
        e.replace_input(node, 2, new)

    def channels(self, layer: Layer) -> Array | None:
        """Channel at each number of a row, (groups, depth); None where the layer does not sum over channels."""
        if layer.reads is None:
            return None
        each = self.window.depth * self.window.groups // len(layer.reads)
        return np.repeat(layer.reads.reshape(self.window.groups, -1), each, axis=1)


@dataclass(frozen=True, eq=False)
class Sums:
    """What a layer reads, in sum over rows of images: its second moments and means.

    `gram` is (groups, depth, depth): centred where the layer has a bias, which takes up the means. `mean` is
    (groups, depth).
    """

    gram: Array
    mean: Array

    def damped(self, ridge: float = RIDGE) -> Array:
        """The second moments with `ridge` times their mean added to the diagonal: they can be inverted."""
        depth = self.gram.shape[1]
        strength = ridge * np.trace(self.gram, axis1=1, axis2=2) / depth
        return np.asarray(self.gram + np.where(strength > 0, strength, 1.0)[:, None, None] * np.eye(depth))


def readings(graph: gs.Graph, found: ChannelGroups) -> dict[str, tuple[Reading, Array]]:
    """By name, the layers that sum over a channel that can go, and the channel at each number of a row.

    Layers that cannot be read as a product of rows are left out.
    """
    by_name = {edit.label(node): node for node in graph.nodes}
    result = {}
    for layer in found.layers:
        if layer.reads is None or not found.free[layer.reads].any():
            continue
        try:
            reading = Reading.of(by_name[layer.name])
        except NoPatches:
            continue
        channels = reading.channels(layer)
        if channels is not None and channels.shape == (reading.window.groups, reading.window.depth):
            result[layer.name] = reading, channels
    return result


def sums_of(graph: gs.Graph, layers: Sequence[Reading], data: Dataset, ctx: Context) -> Mapping[str, Sums]:
    """By name of a layer, what it reads on the images, in one run of the network; without those too wide to sum up.

    They are found once in a run of a pipeline, also where the guard or a measurement comes back to the same graph.
    """
    key = f"prune: sums {len(data)} {[layer.name for layer in layers]} {fingerprint(graph)}"
    return ctx.keep(key, lambda: _summed(graph, layers, data, ctx))


def fingerprint(graph: gs.Graph) -> str:
    """A text that differs where graphs do, their weights included."""
    return hashlib.blake2b(to_proto(graph).SerializeToString(deterministic=True), digest_size=16).hexdigest()


def _summed(graph: gs.Graph, layers: Sequence[Reading], data: Dataset, ctx: Context) -> Mapping[str, Sums]:
    grams: dict[str, Gram] = {}
    for layer in layers:
        try:
            grams[layer.name] = Gram(layer.window.groups, layer.window.depth)
        except NoPatches:
            continue
    read_layers = [layer for layer in layers if layer.name in grams]
    if not read_layers:
        return {}
    views = [Patches(layer.source, layer.window) for layer in read_layers]
    reader = Reader(to_proto(graph), views, [rows_per_image(layer.window, len(data)) for layer in read_layers])
    for numbers, rows in read(data, reader):
        ctx.progress("what layers read", numbers.stop, len(data))
        for layer, found in zip(read_layers, rows, strict=True):
            grams[layer.name].add(found)
    return {layer.name: _sums(layer, grams[layer.name]) for layer in read_layers}


def rows_per_image(window: Window, images: int) -> int:
    """How many rows of a layer each of so many images gives."""
    return int(np.clip(max(_LEAST_ROWS, _ROWS * window.depth) // max(images, 1), *_PER_IMAGE))


def _sums(layer: Reading, gram: Gram) -> Sums:
    return Sums(gram.centred() if layer.takes_bias else gram.mean_product, gram.means[0])
