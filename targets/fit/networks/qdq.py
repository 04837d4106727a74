"""Turns a float network into int8 with QuantizeLinear and DequantizeLinear around all operators, without data.

For predictions of latency and memory only the structure matters: scales are fixed, so what the network computes is of
no use.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Scale = NDArray[np.float32]

_PRODUCTS = ("Conv", "Gemm", "MatMul")
_CLAMPS = ("Relu", "Clip")
_POOLS = ("MaxPool", "GlobalMaxPool", "AveragePool", "GlobalAveragePool")
_MOVES = (*_POOLS, "Flatten", "Reshape", "Transpose", "Concat", "Split")
_PARAMETERS = {"signed": (1 / 32, 0), "positive": (6 / 255, -128), "probability": (1 / 256, -128)}
"""Scale and zero point of activations: `positive` is what a Relu or Clip leaves, so that requantisation clamps."""


def quantized(model: onnx.ModelProto) -> onnx.ModelProto:
    """The int8 form of a model with float inputs and outputs: signed activations, signed weights per output channel.

    Inputs and outputs become int8, as microcontrollers want them. Between a product or sum and its only reader Relu or
    Clip there is no conversion. Biases become int32.
    """
    return _Quantizer(model).run()


class _Quantizer:
    """One conversion: the graph as it is written anew."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.nodes: list[onnx.NodeProto] = []
        self.kept: dict[str, onnx.TensorProto] = {}
        readers = Counter(name for node in model.graph.node for name in node.input)
        following = {node.input[0]: node.op_type for node in model.graph.node}
        self.fused = {
            node.output[0]
            for node in model.graph.node
            if node.op_type in (*_PRODUCTS, "Add")
            and readers[node.output[0]] == 1
            and following.get(node.output[0]) in _CLAMPS
        }
        self.outputs = {tensor.name for tensor in model.graph.output}
        self.kinds: dict[str, str] = {}  # of activations, a key of _PARAMETERS

    def run(self) -> onnx.ModelProto:
        """The int8 model, checked."""
        graph = self.model.graph
        for tensor in graph.input:
            self.kinds[tensor.name] = "signed"
            self._dequantize(tensor.name)
        for node in graph.node:
            self._node(node)
        made = helper.make_graph(
            self.nodes,
            f"{graph.name}_int8",
            [_integer(tensor, f"{tensor.name}_q") for tensor in graph.input],
            [_integer(tensor, f"{tensor.name}_q") for tensor in graph.output],
            list(self.kept.values()),
        )
        model = helper.make_model(made, opset_imports=self.model.opset_import, ir_version=self.model.ir_version)
        onnx.checker.check_model(model, full_check=True)
        return model

    def _node(self, node: onnx.NodeProto) -> None:
        weighted = node.op_type in _PRODUCTS
        for place, name in enumerate(node.input):
            if name in self.constants and not (weighted and place):
                self.kept[name] = self.constants[name]
        if weighted:
            scale = self._weight(node)
            if len(node.input) > 2:
                self._bias(node.input[2], scale * _PARAMETERS[self.kinds[node.input[0]]][0])
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        self.nodes.append(copy)
        if node.output[0] in self.fused:
            return
        for place, result in enumerate(node.output):
            copy.output[place] = f"{result}_f"
            self.kinds[result] = self._kind(node)
            names = [copy.output[place], *self._parameters(result)]
            self.nodes.append(helper.make_node("QuantizeLinear", names, [f"{result}_q"], name=f"{result}_quantize"))
            if result not in self.outputs:
                self._dequantize(result)

    def _kind(self, node: onnx.NodeProto) -> str:
        if node.op_type in _MOVES:
            kinds = {self.kinds[name] for name in node.input if name in self.kinds}
            return kinds.pop() if len(kinds) == 1 else "signed"
        if node.op_type in _CLAMPS:
            return "positive"
        return "probability" if node.op_type in ("Softmax", "Sigmoid") else "signed"

    def _weight(self, node: onnx.NodeProto) -> Scale:
        """Stores the weights as int8; their scale per output channel."""
        name = node.input[1]
        values = numpy_helper.to_array(self.constants[name])
        scale: Scale = (np.abs(values).reshape(len(values), -1).max(axis=1) / 127).astype(np.float32)
        shaped = scale.reshape(-1, *[1] * (values.ndim - 1))
        self._constant(name, np.rint(values / shaped).astype(np.int8), scale)
        return scale

    def _bias(self, name: str, scale: Scale) -> None:
        values = numpy_helper.to_array(self.constants[name])
        self._constant(name, np.rint(values / scale).astype(np.int32), scale.astype(np.float32))

    def _constant(
        self,
        name: str,
        values: NDArray[np.int8] | NDArray[np.int32],
        scale: Scale,
    ) -> None:
        for suffix, array in (("q", values), ("scale", scale), ("zero", np.zeros(len(scale), values.dtype))):
            self.kept[f"{name}_{suffix}"] = numpy_helper.from_array(array, f"{name}_{suffix}")
        names = [f"{name}_q", f"{name}_scale", f"{name}_zero"]
        self.nodes.append(helper.make_node("DequantizeLinear", names, [name], name=f"{name}_dequantize", axis=0))

    def _dequantize(self, name: str) -> None:
        names = [f"{name}_q", *self._parameters(name)]
        self.nodes.append(helper.make_node("DequantizeLinear", names, [name], name=f"{name}_dequantize"))

    def _parameters(self, name: str) -> tuple[str, str]:
        kind = self.kinds[name]
        scale, zero = _PARAMETERS[kind]
        names = (f"{kind}_scale", f"{kind}_zero")
        self.kept[names[0]] = numpy_helper.from_array(np.array(scale, np.float32), names[0])
        self.kept[names[1]] = numpy_helper.from_array(np.array(zero, np.int8), names[1])
        return names


def _integer(tensor: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    shape = [dim.dim_value for dim in tensor.type.tensor_type.shape.dim]
    return helper.make_tensor_value_info(name, TensorProto.INT8, shape)
