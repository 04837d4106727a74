"""`correct-bias`: the shift that quantisation gives the mean of each channel goes into the biases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.quantized import QuantizedLayer, quantized_layers
from lpcc.calibrate.channels import image_means
from lpcc.calibrate.holdout import used_and_apart
from lpcc.calibrate.partial import Feeds, Walk
from lpcc.graph import clone, to_proto
from lpcc.match import NoMatch
from lpcc.passes.normalize.linear import Linear
from lpcc.passes.repair.distances import TAKEN_BACK, distances
from lpcc.passes.repair.expected_means import expected_means
from lpcc.passes.repair.memory import images_held
from lpcc.pipeline import Changes, Context, Fidelity, Need, Pass

Array = np.ndarray[Any, Any]

_INT32 = 2**31 - 1
_IMAGES = 128
_JUDGED = 128


@dataclass(frozen=True)
class CorrectBias(Pass):
    """Move the bias of each quantised layer by what quantisation did to the mean of its output.

    Rounded weights and activations move the mean of a layer's output y, channel by channel, by E[y_q] - E[y]; the bias
    takes that back:

        b_q <- b_q - (E[y_q] - E[y])

    Nagel et al., Data-free quantization through weight equalization and bias correction (2019, arXiv 1906.04721,
    section 4.2). With images both means are measured (``measured``), layer after layer in the order of the graph, each
    with the layers before it corrected already: all images go through the quantised network once, and halt at each
    layer. A mean over few images is uncertain: with d the measured shift and e its standard error over the images,
    only the share ``max(0, 1 - e^2 / d^2)`` of it is taken. From batch norms alone (``norms``), with the mean of the
    layer's input x by their clipped normal distribution:

        b_q <- b - sum over inputs of (W_q - W) E[x]

    `quantize` does the like with measured means of x, for the weights' part, as that costs nothing. This pass looks at
    what is left, so nothing is corrected twice.

    The bias stays an int32 of its scale, and keeps off the ends of its range. A Conv or Gemm without bias gets one.
    The float network is the one that `quantize` left in the context, and its layers are known by name.

    Left alone: MatMul, which has no bias; layers that are not quantised; layers whose float form or whose statistics
    are not at hand. The pass takes itself back if the outputs on images that it did not use come no closer to those of
    the float network.
    """

    name: ClassVar[str] = "correct-bias"
    fidelity: ClassVar[Fidelity] = Fidelity.APPROXIMATE
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CALIBRATION})

    means: Literal["auto", "measured", "norms"] = "auto"
    """Where the means come from: images, or what batch norms remember; by default the images if they are real."""
    skip: tuple[str, ...] = ()
    """Names of layers to be left alone."""

    def run(self, graph: gs.Graph, ctx: Context) -> Changes:
        """Correct the biases of the main graph; see the class."""
        changes = Changes()
        layers = quantized_layers(graph)
        data, before = ctx.calibration, ctx.unquantized
        if not layers or before is None or data is None:
            changes.refuse(graph.name or "graph", "nothing in it was quantised by lpcc")
            return changes
        pairs = _pairs(layers, before, frozenset(self.skip), changes)
        used, judged = used_and_apart(data, images_held(before, _IMAGES), _JUDGED)
        norms = self.means == "norms" or (self.means == "auto" and data.is_synthetic and bool(ctx.hints))
        if norms:
            shifts = _expected_shifts(pairs, expected_means(before, ctx.hints), changes)
        else:
            shifts = _measured_shifts(graph, before, pairs, used, ctx)
        if not shifts:
            changes.refuse(graph.name or "graph", "no shift of a mean is known")
            return changes
        corrected = clone(graph)
        _shift_biases(corrected, shifts)
        old, new = distances(before, (graph, corrected), judged)
        if not new.beats(old):
            changes.refuse(graph.name or "graph", TAKEN_BACK)
            return changes
        _shift_biases(graph, shifts)
        for layer in shifts:
            changes.done(layer, "bias corrected by the shift of its mean")
        return changes


@dataclass(frozen=True, eq=False)
class _Pair:
    """A quantised layer and its float form."""

    layer: QuantizedLayer
    float_node: gs.Node

    @property
    def label(self) -> str:
        return edit.label(self.float_node)


def _pairs(
    layers: Sequence[QuantizedLayer], before: gs.Graph, skip: frozenset[str], changes: Changes
) -> dict[str, _Pair]:
    """By the name of a quantised layer's node: the layer and its float form."""
    floats = {edit.label(node): node for node in before.nodes}
    found = {}
    for layer in layers:
        label = edit.label(layer.node)
        float_node = floats.get(label) or floats.get(label.removesuffix("_float"))  # unnamed, called by its result
        if edit.op(layer.node) not in ("Conv", "Gemm"):
            changes.refuse(layer.node, f"{edit.op(layer.node)} has no bias")
        elif float_node is None or edit.op(float_node) not in ("Conv", "Gemm", "MatMul"):
            changes.refuse(layer.node, "its float form is not at hand")
        elif label in skip or edit.label(float_node) in skip:
            changes.refuse(layer.node, "named in `skip`")
        else:
            found[label] = _Pair(layer, float_node)
    return found


def _measured_shifts(
    graph: gs.Graph, before: gs.Graph, pairs: Mapping[str, _Pair], feeds: Feeds, ctx: Context
) -> dict[str, Array]:
    """By layer what its bias must lose (C,), layer after layer, each with those before it corrected."""
    outputs = {label: pair.float_node.outputs[0].name for label, pair in pairs.items()}
    expected = image_means(to_proto(before), outputs.values(), feeds)
    walk = Walk(to_proto(graph), feeds)
    shifts = {}
    for done, (label, pair) in enumerate(pairs.items()):
        ctx.progress("correct biases", done, len(pairs))
        name = pair.layer.node.outputs[0].name
        if outputs[label] not in expected:
            continue
        values = walk.values(name)
        means = np.concatenate([v.reshape(*v.shape[:2], -1).mean(axis=2, dtype=np.float64) for v in values])
        shift = _rounded(pair.layer, _certain(means - expected[outputs[label]]))
        if shift.any():
            shape = (1, -1, *[1] * (values[0].ndim - 2))
            walk.replace(name, [(v - shift.reshape(shape)).astype(v.dtype) for v in values])
            shifts[label] = shift
    return shifts


def _certain(differences: Array) -> Array:
    """The mean (C,) of differences (N, C) over images, less what may be chance."""
    mean: Array = differences.mean(axis=0)
    if len(differences) < 2:
        return mean
    square = np.square(differences.std(axis=0, ddof=1)) / len(differences)
    share = np.maximum(0.0, 1.0 - square / np.maximum(np.square(mean), 1e-300))
    result: Array = mean * share
    return result


def _expected_shifts(pairs: Mapping[str, _Pair], means: Mapping[str, Array], changes: Changes) -> dict[str, Array]:
    """By layer what its bias must lose (C,), by the means of its input that batch norms let expect."""
    shifts = {}
    for label, pair in pairs.items():
        mean = means.get(pair.float_node.inputs[0].name)
        try:
            layer = Linear.of(pair.float_node)
        except NoMatch as why:
            changes.refuse(label, str(why) or "its weights are not constant")
            continue
        if mean is None or len(mean) != layer.inputs:
            changes.refuse(label, "no batch norm tells the mean of its input")
            continue
        old = np.zeros(layer.outputs) if layer.bias is None else layer.bias
        bias = _bias(pair.layer)
        gain = float(edit.attr(pair.float_node, "alpha", 1.0)) if layer.kind == "Gemm" else 1.0
        error = _in_groups(pair.layer.weights.values, layer) - gain * layer.unpack()
        moved = np.einsum("gmck,gc->gm", error, mean.reshape(layer.groups, -1)).reshape(-1)
        shift = _rounded(pair.layer, bias - old + moved)
        if shift.any():
            shifts[label] = shift
    return shifts


def _in_groups(values: Array, layer: Linear) -> Array:
    """Weights of a quantised layer as (groups, outputs, inputs, positions)."""
    if layer.kind == "Conv":
        return values.reshape(layer.groups, -1, values.shape[1], int(np.prod(values.shape[2:])))
    transposed = bool(edit.attr(layer.node, "transB", 0)) if layer.kind == "Gemm" else False
    return (values if transposed else values.T)[None, :, :, None]


def _bias(layer: QuantizedLayer) -> Array:
    """The bias as it is now, float64 (C,); zeros where there is none."""
    constant = edit.const(edit.inp(layer.node, 2))
    if constant is not None:
        return np.broadcast_to(np.asarray(constant, np.float64).reshape(-1), (_channels(layer),))
    if layer.bias is None:
        return np.zeros(_channels(layer))
    integers, scales = (np.asarray(edit.const(t), np.float64) for t in layer.bias.inputs[:2])
    return np.broadcast_to(integers * scales, (_channels(layer),))


def _channels(layer: QuantizedLayer) -> int:
    return int(layer.stored.shape[layer.channel_axis])


def _scales(layer: QuantizedLayer) -> Array | None:
    """The scales of the layer's int32 bias, or of the one that it would get; None where its bias is in float."""
    if layer.bias is not None:
        return np.asarray(edit.const(layer.bias.inputs[1]), np.float64)
    params = layer.input_params
    if params is None or edit.inp(layer.node, 2) is not None:
        return None
    return (params.scale * layer.weights.scales).astype(np.float32).astype(np.float64)


def _rounded(layer: QuantizedLayer, shift: Array) -> Array:
    """What of a shift the layer's bias can take, in whole steps of its scale and within half of int32."""
    scales = _scales(layer)
    if scales is None:
        return np.where(np.isfinite(shift), shift, 0.0)
    old = np.rint(_bias(layer) / scales)
    steps = np.rint(np.nan_to_num(shift / scales, posinf=0.0, neginf=0.0))
    room = np.maximum(_INT32 // 2 - np.abs(old), 0)  # the products that are added to the bias need room too
    return np.asarray(np.clip(steps, -room, room) * scales)


def _shift_biases(graph: gs.Graph, shifts: Mapping[str, Array]) -> None:
    """Take shifts from the biases of layers."""
    with edit.Edit(graph) as e:
        for layer in quantized_layers(graph):
            shift = shifts.get(edit.label(layer.node))
            if shift is None:
                continue
            node, scales, bias = layer.node, _scales(layer), _bias(layer) - shift
            hint = node.inputs[2].name if edit.inp(node, 2) is not None else f"{layer.stored.name}_bias"
            if scales is None:
                e.replace_input(node, 2, e.constant(f"{hint}_corrected", bias.astype(np.float32)))
                continue
            integers = e.constant(f"{hint}_corrected", np.rint(bias / scales).astype(np.int32))
            scale = layer.bias.inputs[1] if layer.bias is not None else e.constant(f"{hint}_scale", scales.astype("f4"))
            result = e.fresh(f"{hint}_corrected_dequantized", np.dtype(np.float32), bias.shape)
            e.add("DequantizeLinear", [integers, scale], [result], {"axis": 0} if scales.ndim else {}, name=result.name)
            old = layer.bias
            e.replace_input(node, 2, result)
            if old is not None and not e.users(old.outputs[0]) and not e.is_output(old.outputs[0]):
                e.remove(old)
