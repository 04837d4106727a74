"""Integer weights of a layer in as many bits as it is given, and the nodes that bring them to int8.

Integer kernels take int8. Weights of fewer bits are constants of int4 or int2 behind a Cast, and where some output
channels keep 8 bits, behind a Concat and a Gather that brings the channels into order. onnxruntime computes all that
once, when it loads the model, and runs the kernel that it runs for int8; a DequantizeLinear that reads int4 itself
would leave the layer in float.
"""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.formats.affine import Array, Weights, quantize_weights
from lpcc.formats.narrow import narrow_weights
from lpcc.passes.quantize.bits import Width, wide_channels

_DTYPES = {8: np.dtype(np.int8), 4: np.dtype(ml_dtypes.int4), 2: np.dtype(ml_dtypes.int2)}


@dataclass(frozen=True)
class LayerWeights:
    """Integer weights in `bits`, but for the output channels `wide`, which have 8."""

    weights: Weights
    bits: int
    wide: Array


def layer_weights(
    values: Array,
    axis: int,
    width: Width,
    largest: int,
    per_channel: bool,
    bias: Array | None,
    input_scale: float,
    magnitudes: Array | None = None,
) -> LayerWeights:
    """Quantise weights whose output channels are counted by `axis`; 8-bit integers are within ``[-largest, largest]``.

    `magnitudes` are those that the greatest of them stand for where all weights have 8 bits; see `quantize_weights`.

    The channels that keep 8 bits are those whose weights lose most by fewer: the greatest sum of squared errors, the
    first of those that are equal. Layers with such channels have a scale for each channel in any case.
    """
    wide = wide_channels(width, values.shape[axis])
    scaled = axis if per_channel or wide else None
    if width.bits == 8:
        return LayerWeights(quantize_weights(values, scaled, largest, bias, input_scale, magnitudes), 8, _none())
    narrow = narrow_weights(values, scaled, width.bits, bias, input_scale)
    if not wide:
        return LayerWeights(narrow, width.bits, _none())
    full = quantize_weights(values, axis, largest, bias, input_scale)
    others = tuple(i for i in range(values.ndim) if i != axis)
    errors = np.square(narrow.values - values).sum(axis=others)
    chosen = np.sort(np.argsort(-errors, kind="stable")[:wide])
    spread = [slice(None)] * values.ndim
    spread[axis] = chosen  # type: ignore[call-overload]
    integers, scales = narrow.integers.copy(), narrow.scales.copy()
    integers[tuple(spread)] = full.integers[tuple(spread)]
    scales[chosen] = full.scales[chosen]
    return LayerWeights(Weights(integers, scales, axis), width.bits, chosen)


def stored_integers(editing: edit.Edit, name: str, found: LayerWeights) -> gs.Tensor:
    """The int8 weights as a tensor called after `name`: a constant, or what is computed from smaller ones."""
    integers, axis = found.weights.integers, found.weights.axis
    if found.bits == 8:
        return editing.constant(name, integers)
    if not len(found.wide) or axis is None:
        return _cast(editing, name, integers, found.bits)
    narrow = np.setdiff1d(np.arange(integers.shape[axis]), found.wide)
    whole = editing.constant(f"{name}_8", np.take(integers, found.wide, axis))
    if not len(narrow):
        return whole
    few = _cast(editing, f"{name}_{found.bits}", np.take(integers, narrow, axis), found.bits)
    joined = editing.fresh(f"{name}_joined", np.dtype(np.int8), list(integers.shape))
    editing.add("Concat", [whole, few], [joined], {"axis": axis}, name=joined.name)
    order = np.argsort(np.concatenate([found.wide, narrow])).astype(np.int32)
    if np.array_equal(order, np.arange(len(order))):
        return joined
    result = editing.fresh(f"{name}_ordered", np.dtype(np.int8), list(integers.shape))
    editing.add(
        "Gather", [joined, editing.constant(f"{name}_order", order)], [result], {"axis": axis}, name=result.name
    )
    return result


def _cast(editing: edit.Edit, name: str, integers: Array, bits: int) -> gs.Tensor:
    stored = editing.constant(name, integers.astype(_DTYPES[bits]))
    result = editing.fresh(f"{name}_int8", np.dtype(np.int8), list(integers.shape))
    editing.add("Cast", [stored], [result], {"to": int(onnx.TensorProto.INT8)}, name=result.name)
    return result


def _none() -> Array:
    return np.zeros(0, dtype=np.int64)
