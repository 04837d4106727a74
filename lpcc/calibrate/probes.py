"""Nodes added to a model that shrink its tensors where they are made, so that little has to leave the runtime.

Copying every tensor of a network out takes longer than the network itself. Feature maps (four dimensions) are therefore
reduced in the model: by a pooling with a window of one and a stride, which picks a grid of pixels, and where exact
extremes are wanted by a global max pooling and a minimum. onnxruntime runs the poolings in the channel-blocked layout
of its convolutions, so that the tensors need not even be converted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lpcc.calibrate.histograms import Array

if TYPE_CHECKING:
    import onnx

    from lpcc.calibrate.joined import Joined

_GRID = 3
"""Least number of rows and of columns of the grid: a single pixel would be a corner, where convolutions see padding."""

_FROM_ZERO = {"Relu", "Sigmoid", "HardSigmoid", "Softmax"}
_AXES_ARE_INPUTS = 18  # opset from which ReduceMin has its axes as an input


@dataclass(frozen=True)
class Probe:
    """The arrays that tell about one tensor, by name: the tensor itself, or what nodes of the model made of it."""

    sample: str
    """Its values, or some of them."""
    low: str | None
    """What has the least value of each image in it; None where that is zero."""
    high: str
    """What has the greatest value of each image in it."""
    steps: tuple[int, int] | None = None
    """Strides over height and width by which the sample is still to be taken, of the array `sample`."""

    @property
    def outputs(self) -> list[str]:
        """All of these names."""
        return [name for name in (self.sample, self.low, self.high) if name is not None]

    def taken(self, values: Array) -> Array:
        """The sample, from the array of that name; one of its own, that the whole need not stay in memory for it."""
        return values if self.steps is None else values[:, :, :: self.steps[0], :: self.steps[1]].copy()


def probes_of(
    model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]], wanted: int, *, exact_extremes: bool
) -> tuple[dict[str, Probe], dict[str, onnx.NodeProto]]:
    """Probes for the tensors in `shapes`, which are those of one image, and by output the nodes that these need.

    Of a feature map with more than `wanted` values about that many are left of each image. Its extremes are those of
    all its values if they are to be exact, which takes a good part of the time, else those of the values that are left.
    """
    from onnx import helper

    inputs = {info.name for info in model.graph.input}
    from_zero = tensors_from_zero(model)
    opset = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 1)
    probes: dict[str, Probe] = {}
    nodes: dict[str, onnx.NodeProto] = {}
    for name, shape in shapes.items():
        if len(shape) != 4 or int(np.prod(shape[1:])) <= wanted:
            probes[name] = Probe(name, name, name)
            continue
        steps = _steps(shape, wanted)
        if name in inputs:
            probes[name] = Probe(name, name, name, steps)
            continue
        sample, low, high = (f"{name}/{what}" for what in ("sample", "low", "high"))
        nodes[sample] = helper.make_node("MaxPool", [name], [sample], kernel_shape=[1, 1], strides=list(steps))
        if not exact_extremes:
            probes[name] = Probe(sample, sample, sample)
            continue
        nodes[high] = helper.make_node("GlobalMaxPool", [name], [high])
        if name in from_zero:
            probes[name] = Probe(sample, None, high)
            continue
        if opset >= _AXES_ARE_INPUTS:
            nodes[low] = helper.make_node("ReduceMin", [name, _AXES], [low], keepdims=0)
        else:
            nodes[low] = helper.make_node("ReduceMin", [name], [low], keepdims=0, axes=[1, 2, 3])
        probes[name] = Probe(sample, low, high)
    return probes, nodes


def attach(
    model: onnx.ModelProto, nodes: Mapping[str, onnx.NodeProto], outputs: Iterable[str], joined: Joined
) -> onnx.ModelProto:
    """A copy of `model` with those of the nodes that make `outputs`, and these as its outputs besides its own.

    What makes the outputs of `joined` is in it too. The other nodes are left out, as onnxruntime would run them though
    nobody asks for what they make.
    """
    from onnx import numpy_helper

    from lpcc.runtime import with_outputs

    outputs = list(outputs)
    copy = with_outputs(model, ())
    copy.graph.node.extend(nodes[name] for name in outputs if name in nodes)
    copy.graph.initializer.append(numpy_helper.from_array(np.array([1, 2, 3]), _AXES))
    joined.attach(copy)
    return with_outputs(copy, [*outputs, *joined.outputs])


_AXES = "lpcc_probe_axes"


def _steps(shape: tuple[int, ...], wanted: int) -> tuple[int, int]:
    """Strides over height and width that leave about `wanted` values, and `_GRID` in each direction where there are."""
    _, channels, height, width = shape
    share = (channels * height * width / wanted) ** 0.5
    return tuple(max(1, min(int(np.ceil(share)), (size - 1) // (_GRID - 1))) for size in (height, width))  # type: ignore[return-value]


def tensors_from_zero(model: onnx.ModelProto) -> set[str]:
    """The tensors of the main graph that whatever makes them keeps from being negative."""
    from onnx import numpy_helper

    zeros = {t.name for t in model.graph.initializer if not t.dims and not numpy_helper.to_array(t).any()}
    return {
        name
        for node in model.graph.node
        if node.domain in ("", "ai.onnx")
        and (node.op_type in _FROM_ZERO or (node.op_type == "Clip" and len(node.input) > 1 and node.input[1] in zeros))
        for name in node.output
    }
