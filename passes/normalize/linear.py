"""Layers that are linear maps with constant weights, and affine maps of their outputs and inputs folded into them.

Conv, ConvTranspose, Gemm and MatMul keep their weights in different layouts. Here they have one, (G, M, C, K): groups,
outputs per group, inputs per group, and the positions of the kernel. With W the weights, b the bias, s a scale and
t a shift for each channel:

    s * (W x + b) + t = (s W) x + (s b + t)        of the outputs
    W (s x + t) + b   = (W s) x + (W t + b)        of the inputs, where no padding comes between

Arithmetic is in double precision; the results have the types that the weights had.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.match import NoMatch, is_float, smallest_normal

LINEAR: Final = ("Conv", "ConvTranspose", "Gemm", "MatMul")
BROADCASTING: Final = 7
"""The opset from which operators broadcast as NumPy does. What is here is for models from there on."""


@dataclass(frozen=True)
class Linear:
    """A node of `LINEAR` whose weights and bias are constants."""

    node: gs.Node
    kind: str
    weight: gs.Constant
    bias: np.ndarray | None
    """Bias for each output channel in double precision, already times `beta` of a Gemm; None if there is none."""
    groups: int

    @classmethod
    def of(cls, node: gs.Node) -> Linear:
        """Read a node of `LINEAR`. Raises NoMatch if its weights or its bias are no constants of a float type."""
        kind = edit.op(node)
        weight = edit.inp(node, 1)
        if not isinstance(weight, gs.Constant):
            raise NoMatch(f"the weights of {kind} `{edit.label(node)}` are not constant")
        if not is_float(weight.dtype) or isinstance(node.inputs[0], gs.Constant):
            raise NoMatch("")
        if kind == "MatMul" and len(weight.shape) != 2:
            raise NoMatch(f"the weights of MatMul `{edit.label(node)}` are not a matrix")
        groups = int(edit.attr(node, "group", 1)) if kind in ("Conv", "ConvTranspose") else 1
        layer = cls(node, kind, weight, None, groups)
        return replace(layer, bias=_bias(layer))

    @property
    def rank(self) -> int | None:
        """Rank of the layer's input and output; None where it is not known."""
        if self.kind == "MatMul":
            shape = self.node.inputs[0].shape
            return None if shape is None else len(shape)
        return len(self.weight.shape)

    @property
    def axis(self) -> int:
        """The axis of the output that holds its channels."""
        return -1 if self.kind == "MatMul" else 1

    @property
    def outputs(self) -> int:
        """Number of output channels."""
        return int(self._axes[0] * self._axes[1])

    @property
    def inputs(self) -> int:
        """Number of input channels."""
        return int(self._axes[0] * self._axes[2])

    @property
    def _axes(self) -> tuple[int, int, int]:
        """Groups, outputs per group, inputs per group."""
        first, second = (int(size) for size in self.weight.shape[:2])
        if self.kind == "Conv":
            return self.groups, first // self.groups, second
        if self.kind == "ConvTranspose":
            return self.groups, second, first // self.groups
        return (1, first, second) if edit.attr(self.node, "transB", 0) else (1, second, first)

    @property
    def pads(self) -> bool:
        """Whether zeros may be added around the layer's input."""
        if self.kind not in ("Conv", "ConvTranspose"):
            return False
        if edit.attr(self.node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            return True
        return edit.attr(self.node, "auto_pad", "NOTSET") == "NOTSET" and any(edit.attr(self.node, "pads", []))

    def unpack(self) -> np.ndarray:
        """The weights as (G, M, C, K) in double precision."""
        values: np.ndarray = _wide(self.weight.values)
        groups, outputs, inputs = self._axes
        if self.kind == "Conv":
            return values.reshape(groups, outputs, inputs, -1)
        if self.kind == "ConvTranspose":
            return values.reshape(groups, inputs, outputs, -1).swapaxes(1, 2)
        return (values if edit.attr(self.node, "transB", 0) else values.T)[None, :, :, None]

    def _pack(self, values: np.ndarray) -> np.ndarray:
        """Weights from (G, M, C, K) back into the layout and type of the layer."""
        if self.kind == "ConvTranspose":
            values = values.swapaxes(1, 2)
        elif self.kind != "Conv":
            values = values[0, :, :, 0] if edit.attr(self.node, "transB", 0) else values[0, :, :, 0].T
        return np.ascontiguousarray(_narrow(values.reshape(self.weight.shape), self.weight.dtype))

    def scale_outputs(self, e: edit.Edit, scale: np.ndarray, shift: np.ndarray) -> None:
        """Let the layer give ``scale * y + shift`` instead of y; both have one element, or one for each channel.

        Raises NoMatch, with nothing changed, if the weights would leave the range of their type, or the layer has no
        place for a shift.
        """
        factor = np.broadcast_to(scale, (self.outputs,)).reshape(self.groups, -1, 1, 1)
        weights = self.unpack()
        scaled = weights * factor
        self._check_range(weights, scaled, factor, axes=(2, 3))
        bias = self.bias
        if bias is not None or np.any(shift):
            old = np.zeros(self.outputs) if bias is None else bias
            bias = np.broadcast_to(old * scale + shift, (self.outputs,))
        self._write(e, None if np.all(scale == 1) else scaled, bias)

    def scale_inputs(self, e: edit.Edit, scale: np.ndarray, shift: np.ndarray) -> None:
        """Let the layer take x where it took ``scale * x + shift``; both have one element, or one for each channel.

        Raises NoMatch, with nothing changed, if the layer pads its input and the shift is not zero, if the weights
        would leave the range of their type, or the layer has no place for a shift.
        """
        node = self.node
        if edit.attr(node, "transA", 0):
            raise NoMatch(f"Gemm `{edit.label(node)}` transposes its input")
        factor = np.broadcast_to(scale, (self.inputs,)).reshape(self.groups, 1, -1, 1)
        weights = self.unpack()
        scaled = weights * factor
        self._check_range(weights, scaled, factor, axes=(1, 3))
        bias = self.bias
        if np.any(shift):
            if self.pads or self.kind == "ConvTranspose":
                raise NoMatch(f"{self.kind} `{edit.label(node)}` pads its input with zeros after the shift")
            added = np.broadcast_to(shift, (self.inputs,)).reshape(self.groups, 1, -1, 1)
            old = np.zeros(self.outputs) if bias is None else bias
            bias = old + float(edit.attr(node, "alpha", 1.0)) * (weights * added).sum(axis=(2, 3)).reshape(-1)
        self._write(e, None if np.all(scale == 1) else scaled, bias)

    def permute_inputs(self, e: edit.Edit, channels: np.ndarray) -> None:
        """Let the layer, of one group, take x where it took the channels `channels` of x, a permutation of them."""
        old = self.unpack()
        new = np.empty_like(old)
        new[:, :, channels] = old
        self._write(e, new, self.bias)

    def permute_groups(self, e: edit.Edit, channels: np.ndarray) -> None:
        """Let the layer, of as many groups as channels, take and give x where that was the channels `channels` of x."""
        old = self.unpack()
        new = np.empty_like(old)
        new[channels] = old
        bias = None
        if self.bias is not None:
            bias = np.empty_like(self.bias)
            bias[channels] = self.bias
        self._write(e, new, bias)

    def _check_range(self, before: np.ndarray, after: np.ndarray, factor: np.ndarray, axes: tuple[int, ...]) -> None:
        """Raise NoMatch if whole channels of the weights would fall below the normal numbers of their type."""
        tiny = smallest_normal(self.weight.dtype)
        if before.size == 0:
            raise NoMatch("the layer has no weights")
        if not np.isfinite(factor).all():
            raise NoMatch("the scale is not finite")
        low = np.abs(after).max(axis=axes, keepdims=True) < tiny
        if np.any(low & (np.abs(before).max(axis=axes, keepdims=True) >= tiny) & (factor != 0)):
            raise NoMatch(f"the weights would be too small for {np.dtype(self.weight.dtype).name}")

    def _write(self, e: edit.Edit, weights: np.ndarray | None, bias: np.ndarray | None) -> None:
        node = self.node
        packed = None if weights is None else self._pack(weights)
        narrow = None if bias is None else _narrow(bias, self.weight.dtype)
        bias_changes = bias is not None and (self.bias is None or not np.array_equal(bias, self.bias))
        if bias_changes and self.kind == "MatMul" and self.rank != 2:
            raise NoMatch(f"MatMul `{edit.label(node)}` has no bias, and Gemm takes two dimensions only")
        if packed is not None:
            e.replace_input(node, 1, successor(e, self.weight, packed))
        if bias_changes and narrow is not None:
            if self.kind == "MatMul":
                node.op = "Gemm"
            node.attrs.pop("beta", None)
            old = edit.inp(node, 2)
            if isinstance(old, gs.Constant):
                e.replace_input(node, 2, successor(e, old, narrow))
            else:
                e.replace_input(node, 2, e.constant(f"{self.weight.name}_bias", narrow))


def successor(e: edit.Edit, old: gs.Constant, values: np.ndarray) -> gs.Constant:
    """A constant to take the place of `old` in one of its readers; if that is the only one, it takes over the name."""
    if e.only_user(old) is None:
        return e.constant(old.name, values)
    new = gs.Constant(old.name, values)
    if hasattr(old, "carried") and tuple(old.shape) == values.shape:
        new.carried = old.carried
    return new


def _bias(layer: Linear) -> np.ndarray | None:
    node = layer.node
    bias = edit.inp(node, 2)
    if bias is None or layer.kind == "MatMul":
        return None
    if not isinstance(bias, gs.Constant):
        raise NoMatch(f"the bias of {layer.kind} `{edit.label(node)}` is not constant")
    if len(bias.shape) > 1 and int(bias.shape[0]) != 1:
        raise NoMatch(f"the bias of Gemm `{edit.label(node)}` differs from row to row")
    values = _wide(bias.values).reshape(-1)
    if layer.kind == "Gemm":
        values = values * float(edit.attr(node, "beta", 1.0))
    return np.broadcast_to(values, (layer.outputs,))


def _wide(values: np.ndarray) -> np.ndarray:
    """Values in double precision, without a warning where one is a signalling NaN."""
    with np.errstate(invalid="ignore"):
        return values.astype(np.float64)


def _narrow(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Values in the type of the weights. Raises NoMatch if they do not fit."""
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = values.astype(dtype)
    if not np.isfinite(narrow.astype(np.float64)).all():
        raise NoMatch(f"the folded weights do not fit {np.dtype(dtype).name}")
    return narrow


def along_channels(constant: gs.Constant, layer_rank: int | None, axis: int, channels: int) -> np.ndarray:
    """Values of a constant that is added to, or multiplied with, a tensor, as one number or one for each channel.

    `layer_rank` is the tensor's rank, `axis` the one of its channels. Raises NoMatch if the constant varies along any
    other axis, or would make the tensor larger: equal length is not enough.
    """
    shape = [int(size) for size in constant.shape]
    rank = max(len(shape), 1) if layer_rank is None else layer_rank
    if len(shape) > rank or (layer_rank is None and len(shape) > 1):
        raise NoMatch(f"the constant of shape {shape} has more dimensions than the tensor")
    padded = [1] * (rank - len(shape)) + shape
    length = padded.pop(axis)
    if any(size != 1 for size in padded) or length not in (1, channels):
        raise NoMatch(f"the constant of shape {shape} does not run along the channels")
    values = _wide(constant.values)
    return values.reshape(-1)
