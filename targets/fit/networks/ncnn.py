"""Networks of ncnn's benchmark as ONNX models, from a list of their layers with shapes.

The list tells shapes, not which blob a layer reads. A layer takes the newest blob of its input's shape that nobody has
read yet: the kernels and their sizes come out right, though branches of equal shape may be swapped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import permutations
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Shape = tuple[int, ...]
Layer = dict[str, Any]

_UNARY = {"ReLU": "Relu", "Sigmoid": "Sigmoid", "HardSwish": "HardSwish", "HardSigmoid": "HardSigmoid"}
_DOMAIN = "ncnn"


def networks(truth: Path) -> dict[str, onnx.ModelProto]:
    """All networks of ``ncnn_networks.json`` whose shapes are known, by name."""
    listed = json.loads((truth / "ncnn_networks.json").read_text(encoding="utf-8"))
    return {name: network(name, entry["layers"]) for name, entry in listed.items() if entry["ok"]}


def network(name: str, layers: Sequence[Layer]) -> onnx.ModelProto:
    """One network; convolutions and products that are marked as int8 stand between Q and DQ."""
    return _Writer(name).model(layers)


class _Writer:
    """A model that grows by a layer at a time; `live` are blobs that wait for their reader, oldest first."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.live: list[tuple[str, Shape]] = []

    def model(self, layers: Sequence[Layer]) -> onnx.ModelProto:
        for layer in layers:
            read = [self._take(tuple(shape)) for shape in layer["inp"]]
            written = [tuple(shape) for shape in layer["out"] if shape is not None]
            self.live += self._layer(layer, read, written)
        outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n, _ in self.live if self._made(n)]
        graph = helper.make_graph(self.nodes, self.name, self.inputs, outputs, self.constants)
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid(_DOMAIN, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)

    def _made(self, name: str) -> bool:
        return any(name in node.output for node in self.nodes)

    def _take(self, shape: Shape) -> tuple[str, Shape]:
        for index in reversed(range(len(self.live))):
            if self.live[index][1] == shape:
                return self.live.pop(index)
        raise ValueError(f"{self.name}: no blob of shape {shape} is left")

    def _layer(self, layer: Layer, read: list[tuple[str, Shape]], out: list[Shape]) -> Iterator[tuple[str, Shape]]:
        op = layer["op"]
        if op == "Input":
            self.inputs.append(helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, *out[0]]))
            return iter([("input", out[0])])
        if op == "Noop":
            return iter(read)
        if op in ("MemoryData", "PriorBox"):
            return iter([(self._constant(np.ones((1, *out[0]), np.float32)), out[0])])
        names = [name for name, _ in read]
        shapes = [shape for _, shape in read]
        if op == "Split":
            return iter([(names[0], shape) for shape in out])
        if op == "Slice":
            axis = next(i for i in range(len(out[0])) if sum(shape[i] for shape in out) == shapes[0][i])
            sizes = self._constant(np.array([shape[axis] for shape in out], np.int64))
            return iter(list(zip(self._node("Split", [names[0], sizes], len(out), axis=axis + 1), out, strict=True)))
        made = self._one(layer, op, names, shapes, out[0] if out else ())
        return iter([(made, out[0] if out else ())])

    def _one(self, layer: Layer, op: str, names: list[str], shapes: list[Shape], out: Shape) -> str:
        if op in ("Convolution", "ConvolutionDepthWise", "DeconvolutionDepthWise"):
            return self._conv(layer, op, names[0], shapes[0], out)
        if op == "InnerProduct":
            return self._dense(layer, names[0], shapes[0], out)
        if op == "Pooling":
            return self._pool(layer, names[0], shapes[0], out)
        if op in ("Eltwise", "BinaryOp"):
            rank = max(len(shape) for shape in shapes)
            padded = [self._ranked(n, s, rank) for n, s in zip(names, shapes, strict=True)]
            return self._node("Mul" if shapes[0] != shapes[-1] else "Add", padded * (1 if len(padded) > 1 else 2))[0]
        if op == "Swish":
            return self._node("Mul", [names[0], self._node("Sigmoid", names)[0]])[0]
        if op in _UNARY:
            return self._node(_UNARY[op], names)[0]
        if op == "LRN":
            return self._node("LRN", names, size=5)[0]
        if op == "BatchNorm":
            scale = self._constant(np.ones((1, out[0], 1, 1), np.float32))
            return self._node("Mul", [names[0], scale])[0]
        if op == "Softmax":
            return self._node("Softmax", names, axis=1)[0]
        if op == "Concat":
            axis = next((i for i in range(len(out)) if sum(shape[i] for shape in shapes) == out[i]), 0)
            return self._node("Concat", names, axis=axis + 1)[0]
        if op == "Crop":
            bounds = [self._constant(np.array(v, np.int64)) for v in ([0] * len(out), out, range(1, len(out) + 1))]
            return self._node("Slice", [names[0], *bounds])[0]
        if op == "ShuffleChannel":
            folded = self._reshape(names[0], (2, out[0] // 2, *out[1:]))
            return self._reshape(self._node("Transpose", [folded], perm=[0, 2, 1, 3, 4])[0], out)
        if op == "Permute":
            order = next(p for p in permutations(range(len(out))) if p != tuple(range(len(out)))
                         and tuple(shapes[0][i] for i in p) == out)  # fmt: skip
            return self._node("Transpose", names, perm=[0, *(i + 1 for i in order)])[0]
        if op == "Reduction":
            return self._reshape(self._node("ReduceMean", names, axes=[2, 3])[0], out)
        if op == "Interp":
            sizes = self._constant(np.array([1, *out], np.int64))
            return self._node("Resize", [names[0], "", "", sizes], mode="linear")[0]
        if op in ("Flatten", "Reshape"):
            return self._reshape(names[0], out)
        if op in ("DetectionOutput", "Yolov3DetectionOutput"):
            return self._node(op, names, domain=_DOMAIN)[0]
        raise ValueError(f"{self.name}: layer `{op}` is not known")

    def _conv(self, layer: Layer, op: str, name: str, shape: Shape, out: Shape) -> str:
        image, wanted = (*shape, 1, 1)[:3], (*out, 1, 1)[:3]
        kernel, step, group = (layer["kh"], layer["k"]), (layer["s"], layer["s"]), layer["g"]
        x = self._reshape(name, image) if image != shape else name
        if op.startswith("De"):
            extra = [(i - 1) * s + k - o for i, o, k, s in zip(image[1:], wanted[1:], kernel, step, strict=True)]
            weights = (layer["ci"], layer["co"] // group, *kernel)
        else:
            extra = [(o - 1) * s + k - i for i, o, k, s in zip(image[1:], wanted[1:], kernel, step, strict=True)]
            weights = (layer["co"], layer["ci"] // group, *kernel)
        pads = [max(e, 0) // 2 for e in extra] + [max(e, 0) - max(e, 0) // 2 for e in extra]
        inputs = self._operands(layer, x, weights)
        kind = "ConvTranspose" if op.startswith("De") else "Conv"
        made = self._node(kind, inputs, kernel_shape=kernel, strides=step, pads=pads, group=group)[0]
        made = self._node("Relu", [made])[0] if layer.get("act") else made
        return self._reshape(made, out) if wanted != out else made

    def _dense(self, layer: Layer, name: str, shape: Shape, out: Shape) -> str:
        x = self._reshape(name, (prod(shape),))
        made = self._node("Gemm", self._operands(layer, x, (prod(out), prod(shape))), transB=1)[0]
        made = self._node("Relu", [made])[0] if layer.get("act") else made
        return self._reshape(made, out) if len(out) != 1 else made

    def _operands(self, layer: Layer, x: str, weights: Shape) -> list[str]:
        """Input, weights and bias, in int8 where the layer is."""
        bias = self._constant(np.zeros(weights[0], np.float32))
        if not (self.name.endswith("_int8") and layer.get("int8")):
            return [x, self._constant(np.zeros(weights, np.float32)), bias]
        scale, zero = self._constant(np.array(1 / 32, np.float32)), self._constant(np.array(0, np.int8))
        stored = self._constant(np.zeros(weights, np.int8))
        held = self._node("QuantizeLinear", [x, scale, zero])[0]
        return [self._node("DequantizeLinear", [t, scale, zero])[0] for t in (held, stored)] + [bias]

    def _pool(self, layer: Layer, name: str, shape: Shape, out: Shape) -> str:
        average = layer["ptype"] == 1
        if layer["glob"]:
            made = self._node("GlobalAveragePool" if average else "GlobalMaxPool", [name])[0]
            return self._reshape(made, out)
        k, s = layer["k"], layer["s"]
        extra = [max((o - 1) * s + k - i, 0) for i, o in zip(shape[1:], out[1:], strict=True)]
        pads = [e // 2 for e in extra] + [e - e // 2 for e in extra]
        op = "AveragePool" if average else "MaxPool"
        return self._node(op, [name], kernel_shape=[k, k], strides=[s, s], pads=pads)[0]

    def _ranked(self, name: str, shape: Shape, rank: int) -> str:
        return name if len(shape) == rank else self._reshape(name, (*shape, *[1] * (rank - len(shape))))

    def _reshape(self, name: str, shape: Shape) -> str:
        return self._node("Reshape", [name, self._constant(np.array([1, *shape], np.int64))])[0]

    def _node(self, op: str, inputs: Sequence[str], outputs: int = 1, domain: str = "", **attributes: Any) -> list[str]:
        number = len(self.nodes)
        names = [f"t{number}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, name=f"{op}_{number}", domain=domain, **attributes))
        return names

    def _constant(self, values: np.ndarray[Any, Any]) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name
