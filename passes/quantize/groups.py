"""Tensors that share a scale, and a float network in which one such group is quantised, from some place of it on.

What lies before the group (`lpcc.calibrate.partial.Walk`) need not run again for each range that is tried for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from lpcc.calibrate.partial import Array, Feeds, part
from lpcc.formats.affine import Params, activation_params, symmetric_params

Interval = tuple[float, float]


@dataclass(frozen=True)
class Group:
    """Tensors that share a scale, by name, and the range for them, which keeps within `bounds`."""

    tensors: tuple[str, ...]
    """Those whose values decide the scale."""
    low: float
    high: float
    bounds: tuple[float, float]
    dtype: np.dtype[Any]
    followers: frozenset[str] = field(default=frozenset(), compare=False)
    """Tensors of the same scale that only have values of the others."""
    is_symmetric: bool = False
    """Whether the zero point is to be the middle of the integers, if they have one."""

    def params(self, interval: Interval | None = None) -> Params:
        """Scale and zero point for a range, by default its own."""
        least, most = self.bounds
        low, high = interval or (self.low, self.high)
        low, high = max(low, least), min(high, most)
        if self.is_symmetric and (low < 0 or self.dtype.kind == "i"):
            return symmetric_params(max(-low, high), self.dtype)
        return activation_params(low, high, self.dtype)


class Quantized:
    """A network from some values on, in which all readers of a group's tensors read them quantised."""

    def __init__(self, model: onnx.ModelProto, group: Group, held: Feeds, outputs: Sequence[str], threads: int) -> None:
        """`outputs` are what is asked for; a tensor of the group stands for what its readers get."""
        from lpcc.runtime import Session

        self._group = group
        self._held = held
        self._asked = {name: probed_name(name) if name in group.tensors else name for name in outputs}
        extra = _scale_inputs(group.params())
        probed = _probed(model, group.tensors, group.dtype)
        proto = part(probed, list(self._asked.values()), [{**values, **extra} for values in held])
        self._made = [info.name for info in proto.graph.output]
        self._session = Session(proto, threads=threads)
        self._names = [spec.name for spec in self._session.inputs if spec.name not in extra]

    def run(self, interval: Interval) -> Iterator[dict[str, Array]]:
        """The outputs, feed by feed, with the group's range at `interval`."""
        extra = _scale_inputs(self._group.params(interval))
        for held in self._held:
            found = self._session.run({**{name: held[name] for name in self._names}, **extra}, self._made)
            yield {name: found[made] if made in found else held[made] for name, made in self._asked.items()}


_SCALE, _ZERO = "lpcc_probe_scale", "lpcc_probe_zero_point"


def probed_name(tensor: str) -> str:
    """What a tensor is called once it was quantised and dequantised."""
    return f"{tensor}_lpcc_probed"


def _scale_inputs(params: Params) -> dict[str, Array]:
    return {
        _SCALE: np.asarray(params.scale, dtype=np.float32),
        _ZERO: np.asarray(params.zero_point, dtype=params.dtype),
    }


def _probed(model: onnx.ModelProto, tensors: Iterable[str], dtype: np.dtype[Any]) -> onnx.ModelProto:
    """The model in which all readers of `tensors` read them quantised and dequantised."""
    names = {name: probed_name(name) for name in tensors}
    graph = onnx.GraphProto(name=model.graph.name)
    for info in model.graph.input:
        if info.name in names:
            graph.node.extend(_pair(info.name, names[info.name]))
    for node in model.graph.node:
        copy = graph.node.add()
        copy.CopyFrom(node)
        for index, name in enumerate(copy.input):
            if name in names:
                copy.input[index] = names[name]
        for name in node.output:
            if name in names:
                graph.node.extend(_pair(name, names[name]))
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    graph.initializer.extend(model.graph.initializer)
    graph.sparse_initializer.extend(model.graph.sparse_initializer)
    graph.input.append(helper.make_tensor_value_info(_SCALE, TensorProto.FLOAT, []))
    graph.input.append(helper.make_tensor_value_info(_ZERO, helper.np_dtype_to_tensor_dtype(dtype), []))
    probed = onnx.ModelProto(ir_version=model.ir_version, graph=graph)
    probed.opset_import.extend(model.opset_import)
    probed.functions.extend(model.functions)
    return probed


def _pair(name: str, renamed: str) -> Iterator[onnx.NodeProto]:
    integers = f"{renamed}_integers"
    yield helper.make_node("QuantizeLinear", [name, _SCALE, _ZERO], [integers])
    yield helper.make_node("DequantizeLinear", [integers, _SCALE, _ZERO], [renamed])
