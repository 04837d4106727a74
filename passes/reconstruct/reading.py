"""Layers that sum over channels, each as one matrix product, and what the rows that they read say in sum."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.calibrate.gram import Gram
from lpcc.calibrate.patches import NoPatches, Patches, Reader, Window
from lpcc.data import Dataset
from lpcc.graph import to_proto
from lpcc.match import is_float
from lpcc.passes.normalize.linear import successor
from lpcc.pipeline import Context

Array = np.ndarray[Any, Any]

_BATCH = 8
_ROWS = 32
"""Rows for each number of a row: fewer do not tell what the weights of a layer are good for."""
_LEAST_ROWS = 32768
_PER_IMAGE = (8, 256)
RIDGE = 1e-3
"""Share of the mean square of what a layer reads by which sums are damped: where they say little, weights stay."""
_ROUNDING = 1e-5
"""Share of the squares of means by which centred sums of float32 products may be off, and a little more."""


@dataclass(frozen=True, eq=False)
class Reading:
    """A layer with constant weights as a product of rows with a matrix: (rows, depth) by (depth, outputs) per group."""

    node: gs.Node
    window: Window

    @classmethod
    def of(cls, node: gs.Node) -> Reading:
        """Read a Conv, Gemm or MatMul.

        Raises:
            NoPatches: weights or bias are not finite constants of a float type, other nodes read the weights too, or
                the operator is another, has factors, or a bias that differs from row to row.
        """
        weight, bias = edit.inp(node, 1), edit.inp(node, 2)
        if not isinstance(weight, gs.Constant) or not is_float(weight.dtype) or isinstance(node.inputs[0], gs.Constant):
            raise NoPatches("its weights are not constant numbers")
        if len(weight.outputs) != 1:
            raise NoPatches("it shares its weights with another layer")
        if bias is not None and not isinstance(bias, gs.Constant):
            raise NoPatches("its bias is not constant")
        if bias is not None and len(bias.shape) > 1 and bias.shape[0] != 1:
            raise NoPatches("its bias differs from row to row")
        if edit.op(node) == "Gemm" and edit.attr(node, "alpha", 1.0) != 1.0:
            raise NoPatches("its product has a factor")
        window = Window.of(node, weight.shape)
        if not all(np.isfinite(tensor.values).all() for tensor in (weight, bias) if tensor is not None):
            raise NoPatches("its weights are not finite")
        return cls(node, window)

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
        """Let the layer have other weights (groups, depth, outputs) and another bias (groups, outputs).

        Raises NoPatches, with nothing changed: they are too large for the type of the weights, or not finite.
        """
        node = self.node
        weight, old = node.inputs[1], edit.inp(node, 2)
        values = _narrow(self.window.weights(matrix, weight.shape), weight.dtype)
        numbers = None if bias is None or not self.takes_bias else _narrow(bias.reshape(-1), weight.dtype)
        e.replace_input(node, 1, successor(e, weight, values))
        if numbers is None or (old is None and not numbers.any()):
            return
        node.attrs.pop("beta", None)
        new = e.constant(f"{weight.name}_bias", numbers) if old is None else successor(e, old, numbers)
        e.replace_input(node, 2, new)


@dataclass(frozen=True, eq=False)
class Sums:
    """What a layer reads, in sum over rows of images: its second moments and means.

    `gram` is (groups, depth, depth): centred where the layer has a bias, which takes up the means. `mean` is
    (groups, depth).
    """

    gram: Array
    mean: Array

    @property
    def finite(self) -> bool:
        """Whether all that was read was finite."""
        return bool(np.isfinite(self.gram).all() and np.isfinite(self.mean).all())

    def damped(self, ridge: float = RIDGE) -> Array:
        """The second moments with `ridge` times their mean added to the diagonal, or more: they can be inverted.

        Where what is read hardly varies around its means, rounding would else be taken for what varies.
        """
        result: Array = self.gram.astype(np.float64)
        squares = np.trace(result, axis1=1, axis2=2) / result.shape[1]
        strength = ridge * np.maximum(squares, 0.0) + _ROUNDING * np.square(self.mean).mean(axis=1)
        diagonal = np.arange(result.shape[1])
        result[:, diagonal, diagonal] += np.where(strength > 0, strength, 1.0)[:, None]
        return result


def by_result(graph: gs.Graph) -> dict[str, gs.Node]:
    """The nodes of the main graph by the name of their first output."""
    return {str(node.outputs[0].name): node for node in graph.nodes if node.outputs}


def solved(left: Array, right: Array) -> Array:
    """``left^-1 right``, (..., n, n) and (..., n, m). Raises NoPatches where that is no finite matrix."""
    try:
        with np.errstate(invalid="ignore", over="ignore"):
            result = np.asarray(np.linalg.solve(left, right))
    except np.linalg.LinAlgError as error:
        raise NoPatches("what it reads has no least squares fit") from error
    if not np.isfinite(result).all():
        raise NoPatches("what it reads has no finite least squares fit")
    return result


def sums_of(graph: gs.Graph, layers: Sequence[Reading], data: Dataset, ctx: Context) -> Mapping[str, Sums]:
    """By the tensor that a layer makes, what it reads on the images, in one run of the network.

    Without the layers that are too wide to sum up, that read numbers that are not finite, or a tensor whose first axis
    does not count the images. They are found once in a run of a pipeline, also where the guard or a measurement comes
    back to the same graph.
    """
    targets = [layer.target for layer in layers]
    key = f"reconstruct: sums {len(data)} of {data.description} {targets} {fingerprint(graph)}"
    return ctx.keep(key, lambda: _summed(graph, layers, data, ctx))


def fingerprint(graph: gs.Graph) -> str:
    """A text that differs where graphs do, their weights included."""
    return hashlib.blake2b(to_proto(graph).SerializeToString(deterministic=True), digest_size=16).hexdigest()


def _summed(graph: gs.Graph, layers: Sequence[Reading], data: Dataset, ctx: Context) -> Mapping[str, Sums]:
    grams: dict[str, Gram] = {}
    for layer in layers:
        with suppress(NoPatches):
            grams[layer.target] = Gram(layer.window.groups, layer.window.depth)
    summed = [layer for layer in layers if layer.target in grams]
    if not summed:
        return {}
    views = [Patches(layer.source, layer.window) for layer in summed]
    reader = Reader(to_proto(graph), views, 1)
    first = 0
    for batch in data.batches(_BATCH):
        values = reader.values(batch)
        for layer, view in zip(summed, views, strict=True):
            if layer.target in grams:
                limit = rows_per_image(layer.window, len(data))
                try:
                    with np.errstate(invalid="ignore", over="ignore"):
                        grams[layer.target].add(view.rows(values[layer.source], batch, first, limit))
                except NoPatches:
                    del grams[layer.target]
        first += batch.count
        ctx.progress("what layers read", first, len(data))
    with np.errstate(invalid="ignore", over="ignore"):
        found = {layer.target: _sums(layer, grams.pop(layer.target)) for layer in summed if layer.target in grams}
    return {name: sums for name, sums in found.items() if sums.finite}


def rows_per_image(window: Window, images: int) -> int:
    """How many rows of a layer each of so many images gives."""
    return int(np.clip(max(_LEAST_ROWS, _ROWS * window.depth) // max(images, 1), *_PER_IMAGE))


def _sums(layer: Reading, gram: Gram) -> Sums:
    """In float32, as the products were formed: half the memory, and far below the ridge."""
    product = gram.centred() if layer.takes_bias else gram.mean_product
    return Sums(product.astype(np.float32), gram.means[0])


def _narrow(values: Array, dtype: Any) -> Array:
    """Values in the type of the weights. Raises NoPatches if they do not fit."""
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = values.astype(dtype)
    if not np.isfinite(narrow).all():
        raise NoPatches(f"the weights that fit are too large for {np.dtype(dtype).name}")
    return narrow
