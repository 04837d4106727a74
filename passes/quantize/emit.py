"""Writing a placement into the graph as QuantizeLinear and DequantizeLinear nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.channels import keeps_channel_means
from lpcc.formats.affine import Array, Params, quantize_bias
from lpcc.passes.quantize.bits import Width
from lpcc.passes.quantize.forms import anchored, constant_operand, hard_swish, spell
from lpcc.passes.quantize.operators import Role
from lpcc.passes.quantize.placement import Placement, Unit
from lpcc.passes.quantize.weights import LayerWeights, layer_weights, stored_integers

_SHAPES = frozenset({"Flatten", "Identity", "Reshape", "Squeeze"})


@dataclass(frozen=True)
class WeightScheme:
    """How weights are quantised: the largest magnitude of an integer, and whether each channel has its scale."""

    largest: int
    per_channel: bool


class Writer:
    """Writes one placement: a QuantizeLinear per tensor, a DequantizeLinear per reader, integer weights.

    onnxruntime recognises an integer kernel by a DequantizeLinear of its own on each operand, so none is shared.
    Tensors keep their names: what a kernel's float form writes before it is quantised, and what float readers and the
    graph's outputs see after.
    """

    def __init__(
        self,
        editing: edit.Edit,
        placement: Placement,
        params: Mapping[int, Params],
        scheme: WeightScheme,
        means: Mapping[str, Array],
        magnitudes: Mapping[str, Array] | None = None,
    ) -> None:
        self._magnitudes = magnitudes or {}  # by name of 8-bit weights: what their greatest integers stand for
        self._edit = editing
        self._placement = placement
        self._params = {**params, **{key: _as(fixed, params[key].dtype) for key, fixed in placement.fixed.items()}}
        for key in placement.anchored:
            self._params[key] = anchored(params[key])
        self._scheme = scheme
        self._means = means  # by name of a measured tensor: mean of each channel
        widths = placement.widths
        self._widths = {id(unit.node): widths.get(edit.label(unit.node), Width()) for unit in placement.units}
        self._integers: dict[int, gs.Tensor] = {}  # by id of a tensor: its integers
        self._constants: dict[int, tuple[gs.Constant, gs.Constant]] = {}  # by id of a leader: scale and zero point
        self._weights: dict[tuple[int, bytes], tuple[gs.Constant, list[gs.Tensor]]] = {}
        self.made: dict[int, Unit] = {}
        """By id of a node that was added to one: its unit."""

    def write(self) -> None:
        """Rewrite the graph. Constants that nothing reads any more are gone from the model by themselves."""
        units = self._placement.units
        reads = [(unit, index, unit.node.inputs[index]) for unit in units for index in unit.operation.operands]
        means = {id(unit.node): self._input_means(unit) for unit in units if unit.role is Role.CONTRACT}
        own = {(id(unit.node), index) for unit, index, _ in reads}
        for unit in units:
            for index, tensor in enumerate((unit.tail or unit.node).outputs):
                if tensor.name and id(tensor) not in self._placement.float_results:
                    self._write_result(unit, index, tensor, self._has_float_reader(tensor, own))
        for unit, index, tensor in reads:
            if id(tensor) not in self._integers:
                self._integers[id(tensor)] = self._quantized(tensor, self._held_back(tensor))
            if unit.role is Role.INTEGER:
                self._edit.replace_input(unit.node, index, self._integers[id(tensor)])
                if index == 0:
                    spell(self._edit, unit.node, tensor, self._params_of(tensor))
            elif id(self._placement.leaders[id(tensor)]) in self._placement.anchored:
                integers, number = self._integers[id(tensor)], self._dequantized(tensor)
                clip = hard_swish(self._edit, unit.node, number, integers, self._params_of(tensor))
                if clip is not None:
                    self.made[id(clip)] = unit
            else:
                self._edit.replace_input(unit.node, index, self._dequantized(tensor))
            if unit.has_constant_operand:
                constant_operand(self._edit, unit.node, 1 - index, self._params_of(tensor).dtype)
            if unit.role is Role.CONTRACT:
                self._contract(unit.node, self._params_of(tensor), means[id(unit.node)])
        for unit in units:
            if edit.label(unit.node) in self._placement.formats.converts:
                self._requantise(unit.node)

    def _has_float_reader(self, tensor: gs.Tensor, own: set[tuple[int, int]]) -> bool:
        return self._edit.is_output(tensor) or any(
            read is tensor and (id(user), index) not in own
            for user in self._edit.users(tensor)
            for index, read in enumerate(user.inputs)
        )

    def _write_result(self, unit: Unit, index: int, tensor: gs.Tensor, has_float_reader: bool) -> None:
        """Quantise what a unit writes. Float readers get it dequantised, under its old name."""
        maker = unit.tail or unit.node
        if unit.role is Role.INTEGER:
            integers = self._edit.fresh(f"{tensor.name}_quantized", self._params_of(tensor).dtype, tensor.shape)
            self._edit.replace_output(maker, index, integers)
        elif has_float_reader:
            source = self._edit.fresh(f"{tensor.name}_float", tensor.dtype, tensor.shape)
            self._edit.replace_output(maker, index, source)
            integers = self._quantized(tensor, source)
        else:
            integers = self._quantized(tensor, tensor)
        self._integers[id(tensor)] = integers
        if has_float_reader:
            self._edit.add("DequantizeLinear", [integers, *self._scale(tensor)], [tensor], name=f"{tensor.name}_out")

    def _held_back(self, tensor: gs.Tensor) -> gs.Tensor:
        """What to quantise for a tensor that is made in float: itself, but for what onnxruntime would spoil.

        It moves a QuantizeLinear in front of a MaxPool, whose kernel for integers is some twenty times slower than that
        for floats unless it stands between integer convolutions. It does not move it past a Max; and a Max with the
        least number that the integers express changes nothing, as quantisation clips to that anyway.
        """
        maker = self._edit.producer(tensor)
        if maker is None or edit.op(maker) != "MaxPool":
            return tensor
        least = self._edit.constant(f"{tensor.name}_least", np.asarray(self._params_of(tensor).low, dtype=np.float32))
        result = self._edit.fresh(f"{tensor.name}_clipped", tensor.dtype, tensor.shape)
        self._edit.add("Max", [tensor, least], [result], name=result.name)
        return result

    def _quantized(self, tensor: gs.Tensor, source: gs.Tensor) -> gs.Tensor:
        """The integers of `source`, with the scale of `tensor`."""
        integers = self._edit.fresh(f"{tensor.name}_quantized", self._params_of(tensor).dtype, tensor.shape)
        self._edit.add("QuantizeLinear", [source, *self._scale(tensor)], [integers], name=integers.name)
        return integers

    def _dequantized(self, tensor: gs.Tensor) -> gs.Tensor:
        """The tensor as it comes back from its integers, for one reader."""
        result = self._edit.fresh(f"{tensor.name}_dequantized", tensor.dtype, tensor.shape)
        inputs = [self._integers[id(tensor)], *self._scale(tensor)]
        self._edit.add("DequantizeLinear", inputs, [result], name=result.name)
        return result

    def _requantise(self, node: gs.Node) -> None:
        """Let what quantises the result of an Identity between two formats read the numbers of the first one."""
        number, result = node.inputs[0], node.outputs[0]
        readers = list(result.outputs)
        if self._edit.is_output(result) or any(edit.op(reader) != "QuantizeLinear" for reader in readers):
            return
        for reader in readers:
            self._edit.replace_input(reader, 0, number)
        self._edit.remove(node)

    def _params_of(self, tensor: gs.Tensor) -> Params:
        return self._params[id(self._placement.leaders[id(tensor)])]

    def _scale(self, tensor: gs.Tensor) -> tuple[gs.Constant, gs.Constant]:
        """The constants that hold the scale and the zero point of a tensor and of all that share them."""
        leader = self._placement.leaders[id(tensor)]
        if id(leader) not in self._constants:
            params = self._params[id(leader)]
            self._constants[id(leader)] = (
                self._edit.constant(f"{leader.name}_scale", np.asarray(params.scale)),
                self._edit.constant(f"{leader.name}_zero_point", np.asarray(params.zero_point, dtype=params.dtype)),
            )
        return self._constants[id(leader)]

    def _contract(self, node: gs.Node, operand: Params, means: Array | None) -> None:
        """Give a Conv, Gemm or MatMul integer weights and an int32 bias."""
        weight = node.inputs[1]
        values, bias, axis = contraction(node)
        width, scheme = self._widths[id(node)], self._scheme
        magnitudes = self._magnitudes.get(weight.name)
        per_channel = scheme.per_channel or edit.attr(node, "group", 1) > 1  # whose channels differ by magnitudes
        found = layer_weights(values, axis, width, scheme.largest, per_channel, bias, float(operand.scale), magnitudes)
        quantized = found.weights
        attrs = {} if quantized.axis is None else {"axis": quantized.axis}
        result = self._edit.fresh(f"{weight.name}_dequantized", np.dtype(np.float32), weight.shape)
        self._edit.add("DequantizeLinear", self._weight_tensors(weight, found), [result], attrs, name=result.name)
        self._edit.replace_input(node, 1, result)
        for name in ("alpha", "beta"):
            node.attrs.pop(name, None)
        if means is not None and edit.op(node) != "MatMul":
            groups = int(edit.attr(node, "group", 1))
            error = np.moveaxis(quantized.values - values, axis, 0)
            bias = (0.0 if bias is None else bias) - mean_shift(error, means, groups)
        if bias is None:
            return
        integers, scales = quantize_bias(bias, operand.scale, quantized)
        old = edit.inp(node, 2)
        if old is None and not integers.any():
            return
        hint = f"{weight.name}_bias" if old is None else old.name
        constants = [self._edit.constant(f"{hint}_quantized", integers), self._edit.constant(f"{hint}_scale", scales)]
        result = self._edit.fresh(f"{hint}_dequantized", np.dtype(np.float32), bias.shape)
        attrs = {} if quantized.axis is None else {"axis": 0}
        self._edit.add("DequantizeLinear", constants, [result], attrs, name=result.name)
        self._edit.replace_input(node, 2, result)

    def _weight_tensors(self, weight: gs.Constant, found: LayerWeights) -> list[gs.Tensor]:
        """Integers, scales and zero points; one set for all nodes that share the weights and their scales."""
        scales = found.weights.scales
        key = (id(weight), bytes([found.bits]) + found.wide.tobytes() + scales.tobytes())
        if key not in self._weights:
            constants = [
                stored_integers(self._edit, f"{weight.name}_quantized", found),
                self._edit.constant(f"{weight.name}_scale", scales),
                self._edit.constant(f"{weight.name}_zero_point", np.zeros(scales.shape, dtype=np.int8)),
            ]
            self._weights[key] = (weight, constants)  # holds the weights, so that no id is given out twice
        return self._weights[key][1]

    def _input_means(self, unit: Unit) -> Array | None:
        """Mean of each channel that a contraction reads; None where that is unknown."""
        node = unit.node
        tensor = node.inputs[0]
        while tensor.name not in self._means:
            maker = self._edit.producer(tensor)
            if maker is None or edit.op(maker) not in _SHAPES or not keeps_channel_means(maker):
                return None
            tensor = maker.inputs[0]
        means = self._means[tensor.name]
        values, _, axis = contraction(node)
        channels = values.shape[1 - axis] * int(edit.attr(node, "group", 1))
        return means if len(means) == channels else None


def _as(params: Params, dtype: np.dtype) -> Params:
    """The same numbers in the other sign of integers."""
    return Params(params.scale, params.zero_point - int(np.iinfo(params.dtype).min) + int(np.iinfo(dtype).min), dtype)


def mean_shift(error: Array, means: Array, groups: int) -> Array:
    """How far an error of the weights moves the mean of each output channel: ``sum over inputs of error * mean``.

    `error` is (outputs, inputs per group, ...), `means` (inputs,). The border, where a convolution sees padding, is not
    taken into account. Analytic bias correction as in Nagel et al., Data-free quantization through weight equalization
    and bias correction (2019), section 4.2, for the part that the weights cause.
    """
    summed = error.reshape(groups, error.shape[0] // groups, error.shape[1], -1).sum(axis=3)
    shift: Array = np.einsum("goi,gi->go", summed, means.reshape(groups, -1)).reshape(-1)
    return shift


def contraction(node: gs.Node) -> tuple[Array, Array | None, int]:
    """Weights, bias and channel axis of a Conv, Gemm or MatMul, with alpha and beta of a Gemm multiplied in.

    The bias is float32 (channels,) or None.
    """
    op = edit.op(node)
    values = np.asarray(node.inputs[1].values, dtype=np.float32)
    bias = edit.const(edit.inp(node, 2))
    if op != "Gemm":
        return values, bias, 0 if op == "Conv" else 1
    axis = 0 if edit.attr(node, "transB", 0) else 1
    values = values * np.float32(edit.attr(node, "alpha", 1.0))
    if bias is not None:
        bias = np.broadcast_to(bias.reshape(-1), (values.shape[axis],)) * np.float32(edit.attr(node, "beta", 1.0))
    return values, bias, axis
