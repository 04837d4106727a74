"""Networks written in code, in float or as int8 Q/DQ, with random weights from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lpcc.target import Int8

_OPSET = 17
_SCALE = 0.05
"""Of all integer activations: values are random, only their types and sizes matter."""
_FUSED = frozenset({"Relu", "Clip"})
"""Activations that quantisation makes superfluous, as the range of the integers holds them."""


class Net:
    """A network in the making: each method adds a layer and returns the name of its output.

    With an `int8` scheme results are quantised, and every reader has a DequantizeLinear of its own, as `lpcc optimize`
    writes it. Images are NCHW with a batch of 1.
    """

    def __init__(self, int8: Int8 | None = None, seed: int = 0) -> None:
        self.int8 = int8
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._rng = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._integers: dict[str, str] = {}  # by name of a float tensor: its integers
        self._count = 0

    def input(self, *shape: int) -> str:
        """A float input; quantised at once where the network is int8."""
        name = f"x{len(self._inputs)}"
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        self.shapes[name] = shape
        return self.quantised(name)

    def conv(
        self,
        x: str,
        cout: int,
        kernel: int | tuple[int, int] = 3,
        stride: int = 1,
        groups: int = 1,
        act: str | None = "Relu",
        dilation: int = 1,
    ) -> str:
        """A convolution with bias, padded to keep the size but for the stride, and the activation `act`."""
        kh, kw = (kernel, kernel) if isinstance(kernel, int) else kernel
        _, cin, height, width = self.shapes[x]
        pads = [dilation * (kh // 2), dilation * (kw // 2)] * 2
        w = self._weight((cout, cin // groups, kh, kw), cin // groups * kh * kw)
        out = (1, cout, -(-height // stride), -(-width // stride))
        y = self._add(
            "Conv",
            [x, w, self._bias(cout, cin // groups * kh * kw)],
            out,
            kernel_shape=[kh, kw],
            pads=pads,
            strides=[stride, stride],
            dilations=[dilation, dilation],
            group=groups,
        )
        return self._activated(y, act)

    def gemm(self, x: str, cout: int, act: str | None = "Relu") -> str:
        """A fully connected layer."""
        rows, cin = self.shapes[x]
        y = self._add("Gemm", [x, self._weight((cout, cin), cin), self._bias(cout, cin)], (rows, cout), transB=1)
        return self._activated(y, act)

    def project(self, x: str, cout: int) -> str:
        """A product of the last axis with a matrix of weights."""
        *lead, cin = self.shapes[x]
        w = self._weight((cin, cout), cin, axis=1)
        return self.quantised(self._add("MatMul", [x, w], (*lead, cout)))

    def matmul(self, x: str, y: str) -> str:
        """A product of two activations."""
        *lead, rows, _ = self.shapes[x]
        return self.quantised(self._add("MatMul", [x, y], (*lead, rows, self.shapes[y][-1])))

    def op(
        self,
        kind: str,
        *xs: str,
        shape: Sequence[int] | None = None,
        constants: Sequence[np.ndarray] = (),
        quantised: bool = True,
        **attrs: Any,
    ) -> str:
        """Any other operator of one output; its shape is that of its largest input where not stated."""
        found = tuple(shape) if shape is not None else max((self.shapes[x] for x in xs), key=prod)
        y = self._add(kind, [*xs, *map(self.constant, constants)], found, **attrs)
        return self.quantised(y) if quantised else y

    def split(self, x: str, parts: int) -> list[str]:
        """Equal parts along the channels."""
        batch, channels, *rest = self.shapes[x]
        size = channels // parts
        sizes = self.constant(np.array([size] * parts, np.int64))
        names = [self._fresh("split") for _ in range(parts)]
        self._nodes.append(helper.make_node("Split", [self._read(x), sizes], names, name=names[0], axis=1))
        self.shapes.update((name, (batch, size, *rest)) for name in names)
        return [self.quantised(name) for name in names]

    def lstm(self, x: str, hidden: int) -> str:
        """An LSTM over [steps, 1, features]; never in int8."""
        steps, batch, features = self.shapes[x]
        w = self.constant(self._random((1, 4 * hidden, features)) / np.float32(features**0.5))
        r = self.constant(self._random((1, 4 * hidden, hidden)) / np.float32(hidden**0.5))
        return self._add("LSTM", [x, w, r], (steps, 1, batch, hidden), hidden_size=hidden)

    def constant(self, values: np.ndarray) -> str:
        """A known tensor."""
        name = self._fresh("w")
        self._weights.append(numpy_helper.from_array(values, name))
        return name

    def random(self, *shape: int) -> np.ndarray:
        """Normal random values of float32."""
        return self._random(shape)

    def quantised(self, x: str) -> str:
        """`x`, which readers get from its integers from now on where the network is int8."""
        if self.int8 is not None:
            integers = self._fresh("integers")
            self._nodes.append(helper.make_node("QuantizeLinear", [x, *self._params()], [integers], name=integers))
            self._integers[x] = integers
        return x

    def model(self, *outputs: str) -> onnx.ModelProto:
        """The network that computes `outputs`."""
        outputs = tuple(map(self._read, outputs))
        results = [helper.make_tensor_value_info(y, TensorProto.FLOAT, self.shapes[y]) for y in outputs]
        graph = helper.make_graph(self._nodes, "net", self._inputs, results, self._weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)

    def _activated(self, x: str, act: str | None) -> str:
        if act is None or (self.int8 is not None and act in _FUSED):
            return self.quantised(x)
        if act == "Clip":
            limits = [self.constant(np.array(limit, np.float32)) for limit in (0, 6)]
            return self.quantised(self._add("Clip", [x, *limits], self.shapes[x]))
        if act in ("Relu", "LeakyRelu"):
            return self.quantised(self._add(act, [x], self.shapes[x]))
        x = self.quantised(x)
        if act == "Silu":
            gate = self.quantised(self._add("Sigmoid", [x], self.shapes[x]))
            return self.quantised(self._add("Mul", [x, gate], self.shapes[x]))
        return self.quantised(self._add(act, [x], self.shapes[x]))

    def _weight(self, shape: tuple[int, ...], fan: int, axis: int = 0) -> str:
        if self.int8 is None:
            return self.constant(self._random(shape) * np.float32((2 / fan) ** 0.5))
        limit = 63 if self.int8.reduce_range else 127
        values = self._rng.integers(-limit, limit + 1, shape)
        signed = self.int8.weights == "s8"
        kind = np.int8 if signed else np.uint8
        integers = self.constant((values if signed else values + 128).astype(kind))
        size = self._channels(shape[axis])
        zero = np.full(size, 0 if signed else 128, kind)
        return self._dequantized(integers, np.full(size, _weight_scale(fan), np.float32), zero, shape, axis)

    def _bias(self, size: int, fan: int) -> str:
        values = self._random((size,))
        if self.int8 is None:
            return self.constant(values)
        channels = self._channels(size)
        scale = np.full(channels, _SCALE * _weight_scale(fan), np.float32)
        integers = self.constant((values / scale).astype(np.int32))
        return self._dequantized(integers, scale, np.zeros(channels, np.int32), (size,), 0)

    def _channels(self, size: int) -> tuple[int, ...]:
        return (size,) if self.int8 is not None and self.int8.per_channel else ()

    def _dequantized(
        self, integers: str, scale: np.ndarray, zero: np.ndarray, shape: tuple[int, ...], axis: int
    ) -> str:
        attrs: dict[str, Any] = {"axis": axis} if scale.shape else {}
        name = self._fresh("weights")
        inputs = [integers, self.constant(scale), self.constant(zero)]
        self._nodes.append(helper.make_node("DequantizeLinear", inputs, [name], name=name, **attrs))
        self.shapes[name] = shape
        return name

    def _params(self) -> list[str]:
        """Scale and zero point of all activations."""
        signed = self.int8 is not None and self.int8.activations == "s8"
        return [
            self.constant(np.array(_SCALE, np.float32)),
            self.constant(np.array(0, np.int8) if signed else np.array(128, np.uint8)),
        ]

    def _read(self, x: str) -> str:
        """What one reader reads of `x`."""
        if x not in self._integers:
            return x
        name = self._fresh("read")
        inputs = [self._integers[x], *self._params()]
        self._nodes.append(helper.make_node("DequantizeLinear", inputs, [name], name=name))
        self.shapes[name] = self.shapes[x]
        return name

    def _random(self, shape: tuple[int, ...]) -> np.ndarray:
        return self._rng.standard_normal(shape, np.float32)

    def _add(self, op: str, inputs: list[str], shape: tuple[int, ...], **attrs: Any) -> str:
        name = self._fresh(op.lower())
        inputs = [self._read(tensor) for tensor in inputs]
        self._nodes.append(helper.make_node(op, inputs, [name], name=name, **attrs))
        self.shapes[name] = shape
        return name

    def _fresh(self, hint: str) -> str:
        self._count += 1
        return f"{hint}_{self._count}"


def _weight_scale(fan: int) -> float:
    """Keeps results as large as what goes in."""
    return float(1 / (64 * fan**0.5))
