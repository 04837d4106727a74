"""Scales of 8-bit weights: by their largest magnitude, by least squared error, by the error of the layer's output.

The last looks at what a layer gives for quantised activations, on some images, with the weights of all output channels
clipped at the same share of their largest magnitude; each channel then takes the share with which its output is
closest to that in float. As channels do not depend on each other's weights, one run serves all of them:

    error of channel c = Var over images and positions of (W_c x - Q(W_c) Q(x))

The mean of the error does not count, as it goes into the bias.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.calibrate.partial import Feeds, Walk, order
from lpcc.formats.affine import Array, Params, quantize, quantize_weights
from lpcc.formats.clipping import SHARES, best_magnitudes, largest_magnitudes, squared_error_magnitudes
from lpcc.passes.quantize.bits import Width
from lpcc.passes.quantize.emit import WeightScheme, contraction
from lpcc.passes.quantize.operators import Role
from lpcc.passes.quantize.placement import Placement, Unit

WeightRanges = Literal["minmax", "mse", "output"]


def by_squared_error(placement: Placement, scheme: WeightScheme) -> dict[str, Array]:
    """Magnitudes for the greatest integers of the weights, by name of the weights."""
    found: dict[str, Array] = {}
    for unit in _layers(placement):
        values, _, axis = contraction(unit.node)
        name = unit.node.inputs[1].name
        if name not in found:
            found[name] = squared_error_magnitudes(values, axis if scheme.per_channel else None, scheme.largest)
    return found


def by_output_error(
    model: onnx.ModelProto, placement: Placement, scheme: WeightScheme, params: Mapping[int, Params], feeds: Feeds
) -> dict[str, Array]:
    """Magnitudes for the greatest integers of the weights, by name of the weights.

    `model` is the float network, `params` how its activations are quantised, by id of a leader. Weights that several
    layers share are judged by the first of them.

    Raises:
        ModelError: onnxruntime cannot run the network.
    """
    walk, made = Walk(model, feeds), order(model)
    nodes = {output: node for node in model.graph.node for output in node.output}
    units = sorted(_layers(placement), key=lambda unit: made[unit.node.inputs[0].name])
    found: dict[str, Array] = {}
    for unit in units:
        operand, weight = unit.node.inputs[:2]
        if weight.name in found or isinstance(operand, gs.Constant):
            continue
        values = walk.values(operand.name)
        scale = {**params, **placement.fixed}[id(placement.leaders[id(operand)])]
        layer = _Layer(model, nodes[unit.node.outputs[0].name], operand.name, unit.node)
        found[weight.name] = layer.magnitudes(values, scale, scheme)
    return found


def _layers(placement: Placement) -> list[Unit]:
    """The layers whose weights all have 8 bits."""
    widths = placement.widths
    layers = [unit for unit in placement.units if unit.role is Role.CONTRACT]
    return [unit for unit in layers if widths.get(edit.label(unit.node), Width()).bits == 8]


class _Layer:
    """A Conv, Gemm or MatMul by itself, with weights that are an input, and without bias."""

    def __init__(self, model: onnx.ModelProto, node: onnx.NodeProto, operand: str, layer: gs.Node) -> None:
        from onnx import TensorProto, helper

        from lpcc.runtime import Session

        self._weights, _, self._axis = contraction(layer)
        self._operand, self._weight = operand, node.input[1]
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        del copy.input[2:]
        kept = [item for item in node.attribute if item.name not in ("alpha", "beta")]  # alpha is in the weights
        del copy.attribute[:]
        copy.attribute.extend(kept)
        inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in copy.input]
        outputs = [onnx.ValueInfoProto(name=copy.output[0])]
        proto = onnx.ModelProto(ir_version=model.ir_version, graph=helper.make_graph([copy], "layer", inputs, outputs))
        proto.opset_import.extend(model.opset_import)
        self._channels = 1 if edit.op(layer) == "Conv" else -1
        self._session = Session(proto)

    def magnitudes(self, values: Sequence[Array], scale: Params, scheme: WeightScheme) -> Array:
        """The magnitudes of least error for what the layer reads, an array for each feed."""
        axis = self._axis if scheme.per_channel else None
        rounded = [(quantize(array, scale).astype(np.float32) - scale.zero_point) * scale.scale for array in values]
        expected = [self._run(array, self._weights) for array in values]
        most = largest_magnitudes(self._weights, axis)
        errors = []
        for share in SHARES[::2]:
            weights = quantize_weights(self._weights, axis, scheme.largest, magnitudes=most * share)
            found = [self._run(array, weights.values.astype(np.float32)) for array in rounded]
            variance = np.concatenate([a - b for a, b in zip(found, expected, strict=True)]).var(0, dtype=np.float64)
            errors.append(variance if axis is not None else variance.sum())
        return best_magnitudes(most, np.repeat(np.stack(errors), 2, axis=0)[: len(SHARES)])

    def _run(self, array: Array, weights: Array) -> Array:
        """Outputs as rows (positions, channels)."""
        (result,) = self._session.run({self._operand: array, self._weight: weights}).values()
        moved = np.moveaxis(result, self._channels, -1)
        rows: Array = moved.reshape(-1, moved.shape[-1])
        return rows
