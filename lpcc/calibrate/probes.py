"""Nodes added to a model that shrink its tensors where they are made, so that little has to leave the runtime.

Copying every tensor of a network out takes longer than the network itself. Feature maps (four dimensions) are therefore
reduced in the model: by a pooling with a window of one and a stride, which picks a grid of pixels, and where exact
extremes are wanted by a global max pooling and a minimum. onnxruntime runs the poolings in the channel-blocked layout
of its convolutions, so that the tensors need not even be converted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lpcc.calibrate.histograms import Array

if TYPE_CHECKING:
    import onnx

_GRID = 3
"""Least number of rows and of columns of the grid: a single pixel would be a corner, where convolutions see padding."""

_ZERO = np.zeros(1, dtype=np.float32)
_FROM_ZERO = {"Relu", "Sigmoid", "HardSigmoid", "Softmax"}


@dataclass(frozen=True)
class Probe:
    """The outputs that tell about one tensor: its values or some of them, and where there are more, its extremes."""

    sample: str
    low: str | None = None
    """Output with the minimum."""
    high: str | None = None
    """Output with maxima, the greatest of which is the tensor's."""

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs."""
        return [name for name in (self.sample, self.low, self.high) if name is not None]

    def read(self, values: Mapping[str, Array]) -> tuple[Array, Array, Array]:
        """The sample, and arrays with the least and with the greatest value of the tensor in them.

        The least is taken to be zero where there is no output for it: that is what the tensor's maker limits it to.
        """
        sample = values[self.sample]
        if self.high is None:
            return sample, sample, sample
        low = _ZERO if self.low is None else values[self.low]
        return sample, low, values[self.high]


def attach(
    model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]], wanted: int, *, exact_extremes: bool
) -> dict[str, Probe]:
    """Add probes to the main graph of `model` for the tensors in `shapes`, which are those of one image.

    Of a feature map with more than `wanted` values about that many are left of each image. Its extremes are those of
    all its values if they are to be exact, which takes a good part of the time, else those of the values that are left.
    """
    from onnx import helper

    makers = {name: node for node in model.graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    probes = {}
    for name, shape in shapes.items():
        if len(shape) != 4 or int(np.prod(shape[1:])) <= wanted:
            probes[name] = Probe(name)
            continue
        steps = _steps(shape, wanted)
        probe = Probe(
            sample=f"{name}/sample",
            low=f"{name}/low" if exact_extremes and not _is_from_zero(makers.get(name), constants) else None,
            high=f"{name}/high" if exact_extremes else None,
        )
        model.graph.node.append(
            helper.make_node("MaxPool", [name], [probe.sample], kernel_shape=[1, 1], strides=list(steps))
        )
        if probe.high is not None:
            model.graph.node.append(helper.make_node("GlobalMaxPool", [name], [probe.high]))
        if probe.low is not None:
            model.graph.node.append(helper.make_node("ReduceMin", [name], [probe.low], keepdims=0))
        probes[name] = probe
    return probes


def _steps(shape: tuple[int, ...], wanted: int) -> tuple[int, int]:
    """Strides over height and width that leave about `wanted` values, and `_GRID` in each direction where there are."""
    _, channels, height, width = shape
    share = (channels * height * width / wanted) ** 0.5
    return tuple(max(1, min(int(np.ceil(share)), (size - 1) // (_GRID - 1))) for size in (height, width))  # type: ignore[return-value]


def _is_from_zero(node: onnx.NodeProto | None, constants: Mapping[str, onnx.TensorProto]) -> bool:
    from onnx import numpy_helper

    if node is None or node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type != "Clip":
        return node.op_type in _FROM_ZERO
    if len(node.input) < 2 or node.input[1] not in constants:
        return False
    return bool(numpy_helper.to_array(constants[node.input[1]]) == 0)
