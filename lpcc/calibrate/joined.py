"""Exact extremes of many feature maps in two outputs of a model.

Each map is reduced to the maximum of each channel where it is made, and the maxima of all maps are put one behind the
other before they leave the runtime: an output for each map took half as long as the network itself, so it takes an
eighth. onnxruntime does all that in the channel-blocked layout of its convolutions if the channels fill whole blocks;
maps whose channels do not are put together apart. Minima are maxima of the negated map, which a depthwise
convolution makes in that layout.
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
    """By name of an output, the maps or negated maps in it, in order."""
    _greatest: dict[str, Array] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.outputs = {}
        for kind, names in (("high", self.channels), ("low", [n for n in self.channels if n in self.lows])):
            for filled in (True, False):
                chosen = [name for name in names if (self.channels[name] % _BLOCK == 0) == filled]
                if chosen:
                    self.outputs[f"lpcc_{kind}_{'blocks' if filled else 'rest'}"] = chosen

    def attach(self, model: onnx.ModelProto) -> None:
        """Add the nodes that make the outputs to `model`, in place."""
        from onnx import helper, numpy_helper

        nodes = model.graph.node
        for output, names in self.outputs.items():
            parts = []
            for name in names:
                source = name
                if "_low_" in output:
                    source, weights = f"{name}/negated", f"{name}/minus_one"
                    channels = self.channels[name]
                    ones = np.full((channels, 1, 1, 1), -1, dtype=np.float32)
                    model.graph.initializer.append(numpy_helper.from_array(ones, weights))
                    nodes.append(helper.make_node("Conv", [name, weights], [source], group=channels))
                parts.append(f"{source}/greatest")
                nodes.append(helper.make_node("GlobalMaxPool", [source], [parts[-1]]))
            nodes.append(helper.make_node("Concat", parts, [output], axis=1))

    def add(self, values: Mapping[str, Array]) -> None:
        """Take in the outputs for some images. What is not finite does not count."""
        for output in self.outputs:
            rows = values[output].reshape(len(values[output]), -1)
            most = np.where(np.isfinite(rows), rows, -np.inf).max(axis=0)
            before = self._greatest.get(output)
            self._greatest[output] = most if before is None else np.maximum(before, most)

    def extremes(self) -> Iterable[tuple[str, float, float]]:
        """Each map with its least value, infinite where that was not asked for, and its greatest."""
        found: dict[str, dict[str, float]] = {"low": {}, "high": {}}
        for output, names in self.outputs.items():
            if output in self._greatest:
                starts = np.cumsum([0, *(self.channels[name] for name in names)])[:-1]
                most = np.maximum.reduceat(self._greatest[output], starts)
                kind = "low" if "_low_" in output else "high"
                found[kind].update(zip(names, (float(value) for value in most), strict=True))
        for name, high in found["high"].items():
            yield name, -found["low"].get(name, -math.inf), high
