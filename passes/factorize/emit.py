"""A layer in the graph replaced by those that its factors are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.passes.factorize.factors import Factors, Stage
from lpcc.passes.factorize.form import Declined, Form

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Norm:
    """Statistics of what the first of two layers makes, for a batch norm behind it that changes nothing.

    With mean m and variance v the batch norm has the scale ``s = sqrt(v + epsilon)`` and the shift m, so that
    ``s (z - m) / sqrt(v + epsilon) + m = z``, also where the second layer pads with zeros. Mean 0 and variance 1 stand
    for statistics that nobody measured.
    """

    mean: Array
    """Of each channel between the two layers, (channels,)."""
    variance: Array
    epsilon: float = 1e-5


def write(e: edit.Edit, node: gs.Node, form: Form, factors: Factors, norm: Norm | None = None) -> list[gs.Node]:
    """Put layers with the weights of `factors` in the place of `node`, whose form is `form`; returns them in order.

    The last one is `node` itself, with its name, its output and its bias (of a Gemm also alpha and beta); those before
    are `<name>/<method>0`, ... Each has the layer's strides, dilations and padding along its own axes. A layer of one
    pixel that does not move is a Conv also where `node` is a ConvTranspose: both are one matrix product, but
    onnxruntime has a kernel for the former alone and scatters what the latter makes. What is before the last layer of
    a Gemm is a MatMul: it needs no bias in any opset. Weights have the type of the old ones.

    `norm` adds a batch norm between two layers.

    Raises:
        Declined: a weight is too large for the type; a batch norm behind a MatMul whose input is not known to have two
            dimensions. Nothing has changed then.
        ValueError: `norm` has another number of channels than there are, or there are not two layers.
    """
    last = factors.stages[-1]
    weights = [_packed(node, form, stage, stage is last) for stage in factors.stages]
    if norm is not None:
        _check(node, form, factors, norm)
    name, source = edit.label(node), node.inputs[0]
    made: list[gs.Node] = []
    moved: list[int] = []
    for number, (stage, values) in enumerate(zip(factors.stages[:-1], weights, strict=False)):
        moved.extend(stage.axes)
        shape = _shape(node, form, moved, stage.groups * stage.tensor.shape[1])
        result = e.fresh(f"{name}/{factors.method}{number}", values.dtype, shape)
        inputs = [source, e.constant(f"{result.name}/weight", values)]
        made.append(e.add(_operator(form, stage) or "MatMul", inputs, [result], _attrs(form, stage), result.name))
        source = result
        if norm is not None:
            made.append(_normalised(e, source, norm))
            source = made[-1].outputs[0]
    e.replace_input(node, 0, source)
    e.replace_input(node, 1, e.constant(f"{name}/weight", weights[-1]))
    if form.kernel:
        node.op, node.attrs = _operator(form, last), _attrs(form, last)
    return [*made, node]


def _operator(form: Form, stage: Stage) -> str:
    """Conv or ConvTranspose; empty for a matrix product."""
    if not form.kernel:
        return ""
    rank = len(form.kernel)
    moves = any(
        form.kernel[axis] > 1
        or form.strides[axis] > 1
        or form.pads[axis]
        or form.pads[axis + rank]
        or form.output_padding[axis]  # smaller than the stride in onnxruntime, or than the dilation in ONNX
        for axis in stage.axes
    )
    return "ConvTranspose" if form.op == "ConvTranspose" and moves else "Conv"


def _attrs(form: Form, stage: Stage) -> dict[str, Any]:
    """Attributes of a convolution that moves as the layer does along the axes of a stage, and nowhere else."""
    if not form.kernel:
        return {}
    rank = len(form.kernel)

    def own(numbers: Iterable[int], other: int) -> list[int]:
        return [number if at % rank in stage.axes else other for at, number in enumerate(numbers)]

    attrs: dict[str, Any] = {
        "group": stage.groups,
        "kernel_shape": list(stage.tensor.shape[3:]),
        "strides": own(form.strides, 1),
        "dilations": own(form.dilations, 1),
    }
    if form.auto_pad == "NOTSET" or not stage.axes:
        attrs["pads"] = own(form.pads, 0)
    else:
        attrs["auto_pad"] = form.auto_pad
    if _operator(form, stage) == "ConvTranspose" and any(own(form.output_padding, 0)):
        attrs["output_padding"] = own(form.output_padding, 0)
    return attrs


def _packed(node: gs.Node, form: Form, stage: Stage, is_last: bool) -> Array:
    """Weights of a stage in the layout of its operator and in the type of the node's. Raises Declined: too large."""
    tensor = stage.tensor
    if not form.kernel:
        own = tensor[0] if is_last and form.op == "Gemm" and edit.attr(node, "transB", 0) else tensor[0].T
    else:
        own = tensor.swapaxes(1, 2) if _operator(form, stage) == "ConvTranspose" else tensor
        own = own.reshape(-1, *own.shape[2:])
    dtype = node.inputs[1].dtype
    with np.errstate(over="ignore", under="ignore"):
        values: Array = own.astype(dtype)
    if not np.isfinite(values.astype(np.float64)).all():
        raise Declined(f"a factor is too large for {np.dtype(dtype).name}")
    return values


def _shape(node: gs.Node, form: Form, moved: Iterable[int], channels: int) -> list[int | str | None] | None:
    """Shape of what stages that moved along some axes have made; None where it is not known."""
    before, after = node.inputs[0].shape, node.outputs[0].shape
    if before is None:
        return None
    if not form.kernel:
        return [*before[:-1], channels]
    sizes = list(before[2:])
    for axis in moved:
        sizes[axis] = None if after is None else after[2 + axis]
    return [before[0], channels, *sizes]


def _check(node: gs.Node, form: Form, factors: Factors, norm: Norm) -> None:
    """Raise as `write` does where `norm` fits nothing."""
    if len(factors.stages) != 2:
        raise ValueError(f"a batch norm goes between two layers, not {len(factors.stages)}")
    first = factors.stages[0]
    channels = first.groups * first.tensor.shape[1]
    if norm.mean.shape != (channels,) or norm.variance.shape != (channels,):
        raise ValueError(f"statistics of shape {norm.mean.shape} and {norm.variance.shape} for {channels} channels")
    shape = node.inputs[0].shape
    if form.op == "MatMul" and (shape is None or len(shape) != 2):
        raise Declined("a batch norm behind a MatMul has its channels on another axis than the second")


def _normalised(e: edit.Edit, source: gs.Variable, norm: Norm) -> gs.Node:
    """A batch norm behind a tensor that leaves it as it is."""
    result = e.fresh(f"{source.name}/norm", source.dtype, source.shape)
    dtype = np.dtype(source.dtype)
    mean, variance = norm.mean.astype(dtype), norm.variance.astype(dtype)
    scale = np.sqrt(variance.astype(np.float64) + norm.epsilon).astype(dtype)
    numbers = {"scale": scale, "shift": mean, "mean": mean, "variance": variance}
    inputs = [e.constant(f"{result.name}/{what}", values) for what, values in numbers.items()]
    attrs = {"epsilon": norm.epsilon}
    return e.add("BatchNormalization", [source, *inputs], [result], attrs, result.name)
