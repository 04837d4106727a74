"""What onnxruntime's integer kernels compute on x86 without VNNI, as a graph that computes the same here.

Each layer whose pairs of products may leave 16 bits (`lpcc.analysis.saturation`) is computed in exact integers, what
those pairs lose is added, and the result rounded as the kernel rounds it. Only the pairs that may saturate are looked
at, which are few: an image is taken apart into the values that they read, the sums are formed and cut, and what was
cut off is summed up by output channel. Everything else is computed as it is on this host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.quantized import QuantizedLayer, quantized_layers
from lpcc.analysis.saturation import HIGHEST, LOWEST, Pairs, risky_pairs
from lpcc.formats.affine import Params
from lpcc.simulate.results import EIGHT_BITS, quantized_result

Array = np.ndarray[Any, Any]

_VALUES = 1 << 22
"""Sums of one image that are formed at once."""
_CHANNELS, _PAIRS = 16, 256
"""Output channels, and pairs, whose losses are at least summed up at once."""
_ACTIVATION = 255
_EXACT = 1 << 24
"""Whole numbers below this are exact in a float."""
_FLOAT, _INT32 = 1, 6  # types of ONNX tensors, for Cast
_ALL = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Cut:
    """A layer whose kernel saturates, with the names of tensors of the rewritten graph."""

    layer: str
    sums: str
    """The exact sums of all products and the bias, int32."""
    lost: str
    """What saturation adds to them; float, by output channel."""
    excess: tuple[str, ...]
    """What each sum at risk is cut by, by pair; 0 for most."""
    scales: Array
    """What one integer of the sums is worth, (output channels,)."""
    pairs: int
    """All pair sums of an output position, over all channels."""
    tensor: str
    """The layer's result in the graph as it was."""
    rank: int
    """Its dimensions as far as channels go: 2 where they are the last, else with the pixels after them."""


def with_saturation(graph: gs.Graph) -> list[Cut]:
    """Rewrite a Q/DQ graph, in place, so that its layers lose what they lose on x86 without VNNI; those that may."""
    cuts = []
    with edit.Edit(graph) as editing:
        for layer in quantized_layers(graph):
            params = layer.input_params
            pairs = risky_pairs(layer) if _has_integer_kernel(editing, layer) else None
            if pairs is not None and len(pairs) and params is not None:
                cuts.append(_Layer(editing, layer, params, pairs).cut())
    return cuts


def _has_integer_kernel(editing: edit.Edit, layer: QuantizedLayer) -> bool:
    """Whether onnxruntime makes an integer kernel of a layer: all that it reads is in integers, and what it writes too.

    Products of matrices may write floats.
    """
    node, params, weights = layer.node, layer.input_params, layer.weights
    if params is None or params.dtype != np.uint8 or weights.axis not in (None, layer.channel_axis):
        return False
    if edit.inp(node, 2) is not None and layer.bias is None:
        return False
    if edit.op(node) != "Conv":
        return all(edit.attr(node, name, 1.0) == 1.0 for name in ("alpha", "beta"))
    return _pads(node, list(weights.integers.shape[2:])) is not None and quantized_result(editing, node) is not None


def _pads(conv: gs.Node, kernel: list[int]) -> list[int] | None:
    """Pixels that a convolution adds: before each axis, then after each; None where that depends on unknown sizes."""
    axes = len(kernel)
    mode = edit.attr(conv, "auto_pad", "NOTSET")
    if mode in ("NOTSET", "VALID"):
        stated = edit.attr(conv, "pads") if mode == "NOTSET" else None
        return list(stated) if stated is not None else [0] * (2 * axes)
    sizes = (conv.inputs[0].shape or [])[2:]
    if len(sizes) != axes or not all(isinstance(size, int) for size in sizes):
        return None
    before, after = [], []
    for size, step, taps, gap in zip(sizes, _steps(conv, axes), kernel, _gaps(conv, axes), strict=True):
        total = max(0, (-(-size // step) - 1) * step + (taps - 1) * gap + 1 - size)
        small = total // 2
        before.append(total - small if mode == "SAME_LOWER" else small)
        after.append(small if mode == "SAME_LOWER" else total - small)
    return before + after


def _steps(conv: gs.Node, axes: int) -> list[int]:
    return list(edit.attr(conv, "strides") or [1] * axes)


def _gaps(conv: gs.Node, axes: int) -> list[int]:
    return list(edit.attr(conv, "dilations") or [1] * axes)


def _small_parts(weights: Array) -> list[Array]:
    """Weights (outputs, inputs, ...) as a sum of such whose products with activations add up to what floats hold."""
    parts, rest = [], weights
    while True:
        size = _ACTIVATION * np.abs(rest).reshape(len(rest), rest.shape[1], -1).sum(axis=2).cumsum(axis=1).max(axis=0)
        fits = max(1, int(np.searchsorted(size, _EXACT)))
        parts.append(np.where(np.arange(rest.shape[1]).reshape(-1, *[1] * (rest.ndim - 2)) < fits, rest, 0))
        rest = rest - parts[-1]
        if not rest.any():
            return parts


class _Layer:
    """Writes the nodes that compute what one layer loses."""

    def __init__(self, editing: edit.Edit, layer: QuantizedLayer, params: Params, pairs: Pairs) -> None:
        self._edit = editing
        self._layer = layer
        self._params = params
        self._pairs = pairs
        self._node = layer.node
        self._name = layer.node.outputs[0].name
        self._is_conv = edit.op(layer.node) == "Conv"
        self._attrs = dict(layer.node.attrs) if self._is_conv else {}
        self._kernel = list(layer.weights.integers.shape[2:]) if self._is_conv else []

    def cut(self) -> Cut:
        """Compute the layer in integers, as its kernel does, less what the pairs lose."""
        raw = self._raw()
        values, places = self._values(raw)
        excess, lost = [], []
        for part in self._parts():
            excess.append(self._excess(values, places[part], self._pairs.weights[part]))
            lost.append(self._summed(excess[-1], self._pairs.outputs[part]))
        sums, total = self._sums(raw), self._by_channel(lost)
        whole = self._add("Cast", [total], to=_INT32)
        self._finish(self._add("Cast", [self._add("Add", [sums, whole])], to=_FLOAT))
        names = tuple(tensor.name for tensor in excess)
        return Cut(
            edit.label(self._node),
            sums.name,
            total.name,
            names,
            self._scales(),
            self._pairs.all,
            self._name,
            2 + len(self._kernel),
        )

    def _sums(self, raw: gs.Tensor) -> gs.Tensor:
        """The exact integer sums, with the bias.

        They are made of sums of floats that are whole numbers small enough to be exact, in whatever order they are
        added.
        """
        layer = self._layer
        weights = np.moveaxis(layer.weights.integers, layer.channel_axis, 0).astype(np.int64)
        attrs = {name: value for name, value in self._attrs.items() if name not in ("pads", "auto_pad")}
        parts = []
        for part in _small_parts(weights):
            values = (part if self._is_conv else part.T).astype(np.float32)
            operands = [raw, self._edit.constant(f"{self._name}_weights", values)]
            parts.append(
                self._add("Cast", [self._add("Conv" if self._is_conv else "MatMul", operands, attrs)], to=_INT32)
            )
        offset = -self._params.zero_point * weights.reshape(self._channels, -1).sum(axis=1)
        if layer.bias is not None:
            offset = offset + np.asarray(layer.bias.inputs[0].values).reshape(-1)
        constant = offset.astype(np.int32).reshape(-1, *[1] * len(self._kernel))
        total = self._edit.constant(f"{self._name}_bias", constant)
        for one in parts:
            total = self._add("Add", [one, total])
        return total

    def _finish(self, sums: gs.Tensor) -> None:
        """Let the sums, as floats, take the place of the layer: rounded as its kernel does, or scaled."""
        node, shape = self._node, (-1, *[1] * len(self._kernel))
        found = quantized_result(self._edit, node)
        if found is None:
            scales = self._edit.constant(f"{self._name}_scales", self._scales().astype(np.float32).reshape(shape))
            self._edit.redirect(node.outputs[0], self._edit.add("Mul", [sums, scales], [self._edit.fresh(self._name)]))
            return
        quantizer, result, tail = found
        x_scale, w_scales = np.float32(self._params.scale), self._layer.weights.scales.astype(np.float32)
        factors = np.broadcast_to(x_scale * w_scales / np.float32(result.scale), (self._channels,)).reshape(shape)
        scaled = self._add("Mul", [sums, self._edit.constant(f"{self._name}_scales", factors)])
        info = np.iinfo(result.dtype)
        ends = [self._number(end - result.zero_point) for end in (info.min, info.max)]
        rounded = self._add("Round", [self._add("Clip", [scaled, *ends])])
        raised = self._add("Add", [rounded, self._number(result.zero_point)])
        target = quantizer.outputs[0]
        for one in (quantizer, tail, node):
            if one is not None:
                self._edit.remove(one)
        self._edit.add("Cast", [raised], [target], {"to": EIGHT_BITS[result.dtype]}, name=target.name)

    def _scales(self) -> Array:
        scales = self._layer.weights.scales.astype(np.float64) * float(self._params.scale)
        return np.broadcast_to(scales, (self._channels,))

    @property
    def _channels(self) -> int:
        count: int = self._layer.weights.integers.shape[self._layer.channel_axis]
        return count

    def _parts(self) -> list[slice]:
        """The pairs, which are in the order of their output channels, in portions: few channels, and not too many."""
        sizes = (self._node.outputs[0].shape or [])[2:] if self._is_conv else []
        at_once = max(1, _VALUES // max(1, int(np.prod([size for size in sizes if isinstance(size, int)]))))
        parts, first, outputs = [], 0, self._pairs.outputs
        while first < len(outputs):
            last = int(np.searchsorted(outputs, outputs[first] + _CHANNELS))
            parts.append(slice(first, min(max(last, first + _PAIRS), first + at_once, len(outputs))))
            first = parts[-1].stop
        return parts

    def _values(self, integers: gs.Tensor) -> tuple[gs.Tensor, Array]:
        """The integers that the pairs read, on the axis of channels; and for each pair where its two are, (P, 2)."""
        taps = np.stack([self._pairs.positions, self._pairs.channels], axis=-1).reshape(-1, 2)
        wanted, places = np.unique(taps, axis=0, return_inverse=True)
        found = []
        for position in np.unique(wanted[:, 0]):
            channels = wanted[wanted[:, 0] == position, 1]
            seen = self._seen_from(integers, int(position)) if self._is_conv else integers
            found.append(self._gather(seen, channels))
        values = found[0] if len(found) == 1 else self._add("Concat", found, {"axis": 1})
        return values, places.reshape(-1, 2)

    def _raw(self) -> gs.Tensor:
        """The activations' integers in a float tensor, padded with their zero point."""
        source = self._node.inputs[0].inputs[0].inputs[0]
        raw = self._add("Cast", [source], to=_FLOAT)
        pads = _pads(self._node, self._kernel) if self._is_conv else None
        if pads and any(pads):
            axes = len(pads) // 2
            all_pads = np.asarray([0, 0, *pads[:axes], 0, 0, *pads[axes:]])
            raw = self._add("Pad", [raw, self._indices(all_pads), self._number(self._params.zero_point)])
        return raw

    def _seen_from(self, image: gs.Tensor, position: int) -> gs.Tensor:
        """The pixels that one position of the kernel meets."""
        axes = len(self._kernel)
        steps, gaps = _steps(self._node, axes), _gaps(self._node, axes)
        place = np.unravel_index(position, self._kernel)
        starts = [int(p) * gap for p, gap in zip(place, gaps, strict=True)]
        rests = [(size - 1 - int(p)) * gap for size, p, gap in zip(self._kernel, place, gaps, strict=True)]
        if not any([*starts, *rests]) and set(steps) == {1}:
            return image
        ends = [-rest if rest else _ALL for rest in rests]
        indices = [self._indices(np.asarray(a)) for a in (starts, ends, range(2, axes + 2), steps)]
        return self._add("Slice", [image, *indices])

    def _excess(self, values: gs.Tensor, places: Array, weights: Array) -> gs.Tensor:
        """What is left of each sum of two products once it is cut, less the sum."""
        products = []
        for side in range(2):
            factor = weights[:, side].astype(np.float32).reshape(-1, *[1] * len(self._kernel))
            constant = self._edit.constant(f"{self._name}_weights", factor)
            products.append(self._add("Mul", [self._gather(values, places[:, side]), constant]))
        sums = self._add("Add", products)  # exact: 17 bits
        return self._add("Sub", [self._add("Clip", [sums, self._number(LOWEST), self._number(HIGHEST)]), sums])

    def _summed(self, excess: gs.Tensor, outputs: Array) -> tuple[gs.Tensor, Array]:
        """The losses of some output channels, and which they are."""
        channels, place = np.unique(outputs, return_inverse=True)
        matrix = np.zeros((len(channels), len(outputs)), dtype=np.float32)
        matrix[place, np.arange(len(outputs))] = 1
        if self._is_conv:
            matrix = matrix.reshape(*matrix.shape, *[1] * len(self._kernel))
            return self._add("Conv", [excess, self._edit.constant(f"{self._name}_outputs", matrix)]), channels
        return self._add("MatMul", [excess, self._edit.constant(f"{self._name}_outputs", matrix.T)]), channels

    def _by_channel(self, parts: list[tuple[gs.Tensor, Array]]) -> gs.Tensor:
        """The losses of all output channels, from portions of which a channel may be in several."""
        axis = 1 if self._is_conv else -1
        joined = [tensor for tensor, _ in parts]
        found = np.concatenate([channels for _, channels in parts])
        layers = []  # of portions that have no channel in common
        joined.append(self._add("Mul", [self._gather(joined[0], np.zeros(1)), self._number(0)]))
        values = self._add("Concat", joined, {"axis": axis})
        rank = np.arange(len(found)) - np.searchsorted(found, found)
        for turn in range(int(rank.max()) + 1):
            places = np.full(self._channels, len(found))
            places[found[rank == turn]] = np.flatnonzero(rank == turn)
            layers.append(self._gather(values, places))
        return layers[0] if len(layers) == 1 else self._add("Sum", layers)

    def _gather(self, tensor: gs.Tensor, places: Array) -> gs.Tensor:
        return self._add("Gather", [tensor, self._indices(places)], {"axis": 1 if self._is_conv else -1})

    def _add(self, op: str, inputs: list[gs.Tensor], attrs: dict[str, Any] | None = None, **more: int) -> gs.Tensor:
        made = self._edit.fresh(f"{self._name}_saturation")
        self._edit.add(op, inputs, [made], {**(attrs or {}), **more}, name=made.name)
        return made

    def _indices(self, values: Array) -> gs.Constant:
        return self._edit.constant(f"{self._name}_indices", np.asarray(values, dtype=np.int64))

    def _number(self, value: float) -> gs.Constant:
        return self._edit.constant(f"{self._name}_number", np.asarray(value, dtype=np.float32))
