"""Writes a network as ONNX, operator by operator, with random weights: what cost models are fitted to and checked on.

Latency does not depend on what the weights are, so a published architecture is enough. Batch norm counts as folded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod, sqrt
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Activation = Literal["relu", "relu6", "sigmoid", "softmax", "hard_sigmoid", "hard_swish"]
Pair = int | tuple[int, int]
OPSET = 17


@dataclass(frozen=True)
class Tensor:
    """The name and shape of a tensor of the network that is being written."""

    name: str
    shape: tuple[int, ...]

    @property
    def channels(self) -> int:
        """Length of axis 1."""
        return self.shape[1]


class Builder:
    """One network that grows by a method call per layer; images are NCHW.

    `padding` is TensorFlow's: ``same`` (one more at the end where the sum is odd), ``valid``, or pixels on each side
    (top, left, bottom, right).
    """

    def __init__(self, name: str, seed: int = 0) -> None:
        self.name = name
        self._rng = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._inputs: list[Tensor] = []

    def input(self, *shape: int) -> Tensor:
        """A float input of the network."""
        tensor = Tensor(f"input{len(self._inputs)}" if self._inputs else "input", shape)
        self._inputs.append(tensor)
        return tensor

    def conv(
        self,
        x: Tensor,
        filters: int,
        kernel: Pair = 1,
        stride: Pair = 1,
        padding: str | tuple[int, int, int, int] = "same",
        activation: Activation | None = None,
        group: int = 1,
    ) -> Tensor:
        """Convolution with bias, then `activation`."""
        size, step = _pair(kernel), _pair(stride)
        pads = _pads(x.shape[2:], size, step, padding)
        out = (x.shape[0], filters, *_output(x.shape[2:], size, step, pads))
        weight = (filters, x.channels // group, *size)
        names = [x.name, self._weight(weight, prod(weight[1:])), self._bias(filters)]
        y = self._add("Conv", names, out, kernel_shape=size, strides=step, pads=pads, group=group)
        return self.activate(y, activation)

    def depthwise(
        self,
        x: Tensor,
        kernel: Pair = 3,
        stride: Pair = 1,
        padding: str | tuple[int, int, int, int] = "same",
        activation: Activation | None = None,
    ) -> Tensor:
        """Depthwise convolution with bias: one filter per channel."""
        return self.conv(x, x.channels, kernel, stride, padding, activation, group=x.channels)

    def dense(self, x: Tensor, units: int, activation: Activation | None = None) -> Tensor:
        """Fully connected layer on a matrix (rows, features)."""
        names = [x.name, self._weight((units, x.channels), x.channels), self._bias(units)]
        return self.activate(self._add("Gemm", names, (x.shape[0], units), transB=1), activation)

    def activate(self, x: Tensor, activation: Activation | None) -> Tensor:
        """An activation function; None leaves the tensor as it is."""
        if activation is None:
            return x
        if activation == "relu6":
            limits = [self._constant("low", np.float32(0)), self._constant("high", np.float32(6))]
            return self._add("Clip", [x.name, *limits], x.shape)
        if activation == "softmax":
            return self._add("Softmax", [x.name], x.shape, axis=-1)
        names = {"relu": "Relu", "sigmoid": "Sigmoid", "hard_sigmoid": "HardSigmoid", "hard_swish": "HardSwish"}
        return self._add(names[activation], [x.name], x.shape)

    def batch_norm(self, x: Tensor) -> Tensor:
        """Batch norm that no convolution before it can take in."""
        parameters = [self._constant("norm", np.ones(x.channels, np.float32)) for _ in range(4)]
        return self._add("BatchNormalization", [x.name, *parameters], x.shape)

    def scale(self, x: Tensor, factor: float) -> Tensor:
        """Product with a number."""
        return self._add("Mul", [x.name, self._constant("factor", np.float32(factor))], x.shape)

    def add(self, x: Tensor, y: Tensor, activation: Activation | None = None) -> Tensor:
        """Sum, with broadcasting."""
        return self.activate(self._add("Add", [x.name, y.name], np.broadcast_shapes(x.shape, y.shape)), activation)

    def mul(self, x: Tensor, y: Tensor) -> Tensor:
        """Product, with broadcasting."""
        return self._add("Mul", [x.name, y.name], np.broadcast_shapes(x.shape, y.shape))

    def pool(
        self,
        x: Tensor,
        kind: Literal["max", "average"],
        kernel: Pair,
        stride: Pair,
        padding: str | tuple[int, int, int, int] = "valid",
    ) -> Tensor:
        """Pooling; the average does not count padding."""
        size, step = _pair(kernel), _pair(stride)
        pads = _pads(x.shape[2:], size, step, padding)
        out = (*x.shape[:2], *_output(x.shape[2:], size, step, pads))
        op = "MaxPool" if kind == "max" else "AveragePool"
        return self._add(op, [x.name], out, kernel_shape=size, strides=step, pads=pads)

    def global_pool(self, x: Tensor, kind: Literal["max", "average"] = "average") -> Tensor:
        """Pooling over all pixels, which leaves one."""
        return self._add("GlobalMaxPool" if kind == "max" else "GlobalAveragePool", [x.name], (*x.shape[:2], 1, 1))

    def flatten(self, x: Tensor) -> Tensor:
        """All but the first axis in one."""
        return self._add("Flatten", [x.name], (x.shape[0], prod(x.shape[1:])), axis=1)

    def concat(self, tensors: Sequence[Tensor], axis: int = 1) -> Tensor:
        """Tensors one after the other along an axis."""
        shape = list(tensors[0].shape)
        shape[axis] = sum(t.shape[axis] for t in tensors)
        return self._add("Concat", [t.name for t in tensors], tuple(shape), axis=axis)

    def split(self, x: Tensor, parts: int) -> list[Tensor]:
        """The channels cut into equal parts."""
        names = [f"split{len(self._nodes)}_{part}" for part in range(parts)]
        sizes = self._constant("sizes", np.full(parts, x.channels // parts, np.int64))
        self._nodes.append(helper.make_node("Split", [x.name, sizes], names, name=names[0], axis=1))
        return [Tensor(name, (x.shape[0], x.channels // parts, *x.shape[2:])) for name in names]

    def transpose(self, x: Tensor, *order: int) -> Tensor:
        """Axes in another order."""
        return self._add("Transpose", [x.name], tuple(x.shape[i] for i in order), perm=order)

    def reshape(self, x: Tensor, *shape: int) -> Tensor:
        """The same elements in another shape."""
        return self._add("Reshape", [x.name, self._constant("shape", np.array(shape, np.int64))], shape)

    def resize(self, x: Tensor, factor: int) -> Tensor:
        """Bilinear enlargement of an image by a whole factor."""
        scales = self._constant("scales", np.array([1, 1, factor, factor], np.float32))
        shape = (*x.shape[:2], *(n * factor for n in x.shape[2:]))
        return self._add("Resize", [x.name, "", scales], shape, mode="linear")

    def model(self, *outputs: Tensor) -> onnx.ModelProto:
        """The network as a checked model."""
        graph = helper.make_graph(
            self._nodes,
            self.name,
            [helper.make_tensor_value_info(t.name, TensorProto.FLOAT, t.shape) for t in self._inputs],
            [helper.make_tensor_value_info(t.name, TensorProto.FLOAT, t.shape) for t in outputs],
            self._constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        return model

    def _add(self, op: str, inputs: list[str], shape: tuple[int, ...], **attributes: Any) -> Tensor:
        name = f"{op.lower()}{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return Tensor(name, tuple(shape))

    def _weight(self, shape: tuple[int, ...], fan_in: int) -> str:
        values = self._rng.standard_normal(shape, dtype=np.float32) * np.float32(sqrt(2 / fan_in))
        return self._constant("weight", values)

    def _bias(self, channels: int) -> str:
        return self._constant("bias", self._rng.standard_normal(channels, dtype=np.float32) * np.float32(0.1))

    def _constant(self, hint: str, values: npt.NDArray[Any] | np.generic) -> str:
        name = f"{hint}{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name


def _pair(size: Pair) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _pads(
    image: Sequence[int], kernel: tuple[int, int], stride: tuple[int, int], padding: str | tuple[int, int, int, int]
) -> tuple[int, int, int, int]:
    if not isinstance(padding, str):
        return padding
    if padding == "valid":
        return (0, 0, 0, 0)
    total = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(image, kernel, stride, strict=True)]
    first = [t // 2 for t in total]
    return (*first, *(t - f for t, f in zip(total, first, strict=True)))  # type: ignore[return-value]


def _output(
    image: Sequence[int], kernel: tuple[int, int], stride: tuple[int, int], pads: tuple[int, int, int, int]
) -> tuple[int, int]:
    height = (image[0] + pads[0] + pads[2] - kernel[0]) // stride[0] + 1
    width = (image[1] + pads[1] + pads[3] - kernel[1]) // stride[1] + 1
    return height, width
