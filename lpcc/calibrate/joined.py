"""Exact extremes of many feature maps in two outputs of a model.

Each map is reduced to the maximum of each channel where it is made, and the maxima of all maps are put one behind the
other before they leave the runtime: an output for each map took half as long as the network itself, so it takes an
eighth. onnxruntime does that in the channel-blocked layout of its convolutions if the channels fill whole blocks; maps
whose channels do not are put together apart. It knows no minima in that layout: those are taken outside of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from lpcc.calibrate.histograms import Array

if TYPE_CHECKING:
    import onnx

_HIGHS, _LOWS = "lpcc_highs", "lpcc_lows"
_AXES = "lpcc_joined_axes"
_AXES_ARE_INPUTS = 18  # opset from which ReduceMin has its axes as an input
_BLOCK = 16
"""Channels of a block, on processors with the longest vectors."""


@dataclass
class Joined:
    """The maxima of feature maps (N, C, H, W), and the minima of some, over all images seen.

    `outputs` are to be asked of the model once `attach` has added what makes them.
    """

    channels: Mapping[str, int]
    """Channels of each map, by name."""
    lows: frozenset[str]
    """The maps whose minima are wanted."""
    outputs: dict[str, list[str]] = field(init=False)
    """By name of an output, the maps in it, in order."""
    _found: dict[str, Array] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        blocks = [name for name, channels in self.channels.items() if channels % _BLOCK == 0]
        rest = [name for name, channels in self.channels.items() if channels % _BLOCK]
        lows = [name for name in self.channels if name in self.lows]
        found = {_HIGHS: blocks, f"{_HIGHS}_rest": rest, _LOWS: lows}
        self.outputs = {output: names for output, names in found.items() if names}

    def attach(self, model: onnx.ModelProto) -> None:
        """Add the nodes that make the outputs to `model`, in place."""
        from onnx import helper, numpy_helper

        opset = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 1)
        axes = [] if opset < _AXES_ARE_INPUTS else [_AXES]
        given = {} if axes else {"axes": [2, 3]}
        if axes and self.lows:
            model.graph.initializer.append(numpy_helper.from_array(np.array([2, 3]), _AXES))
        nodes = model.graph.node
        for output, names in self.outputs.items():
            parts = [f"{name}/{output}" for name in names]
            for name, part in zip(names, parts, strict=True):
                if output == _LOWS:
                    node = helper.make_node("ReduceMin", [name, *axes], [part], keepdims=1)
                    node.attribute.extend(helper.make_attribute(key, value) for key, value in given.items())
                else:
                    node = helper.make_node("GlobalMaxPool", [name], [part])
                nodes.append(node)
            nodes.append(helper.make_node("Concat", parts, [output], axis=1))

    def add(self, values: Mapping[str, Array]) -> None:
        """Take in the outputs for some images. What is not finite does not count."""
        for output in self.outputs:
            rows = values[output].reshape(len(values[output]), -1)
            extreme, none = (np.minimum, np.inf) if output == _LOWS else (np.maximum, -np.inf)
            found = rows[0] if len(rows) == 1 else extreme.reduce(rows, axis=0)
            if not np.isfinite(found).all():
                found = extreme.reduce(np.where(np.isfinite(rows), rows, none), axis=0)
            if output in self._found:
                extreme(self._found[output], found, out=self._found[output])
            else:
                self._found[output] = found.copy()

    def extremes(self) -> Iterable[tuple[str, float, float]]:
        """Each map with its least value, infinite where that was not asked for, and its greatest."""
        lows: dict[str, float] = {}
        highs: dict[str, float] = {}
        for output, names in self.outputs.items():
            if output in self._found:
                starts = np.cumsum([0, *(self.channels[name] for name in names)])[:-1]
                least = output == _LOWS
                found = (np.minimum if least else np.maximum).reduceat(self._found[output], starts).tolist()
                (lows if least else highs).update(zip(names, found, strict=True))
        for name, high in highs.items():
            yield name, lows.get(name, math.inf), high
