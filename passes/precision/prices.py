"""What each choice of bits for each layer costs: bytes of constants, and predicted milliseconds on the target."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.runtimes import runtime_of
from lpcc.analysis.types import annotate
from lpcc.cost import CostModel
from lpcc.formats.narrow import limits
from lpcc.graph import clone
from lpcc.passes.quantize import Quantize, sixteen
from lpcc.passes.quantize.bits import format_choices, parse_choice, wide_channels
from lpcc.passes.quantize.emit import contraction
from lpcc.passes.quantize.weights import layer_weights
from lpcc.pipeline import Context

_FLOAT_BYTES = 4
_INDEX_BYTES = 4
_SMALLEST = 1e-30


@dataclass(frozen=True)
class Prices:
    """Prices of one network for one target, in which `using` writes the integers. The graph is never changed."""

    graph: gs.Graph
    using: Quantize
    ctx: Context

    @cached_property
    def _nodes(self) -> dict[str, gs.Node]:
        contractions = ("Conv", "Gemm", "MatMul")
        return {edit.label(node): node for node in self.graph.nodes if edit.op(node) in contractions}

    def layers(self) -> list[str]:
        """The layers that become integer kernels with constant weights, in order."""
        trial = clone(self.graph)
        changes = self.using.sketch(trial, self._context())
        quantized = {rewrite.node for rewrite in changes.rewrites}
        return [layer for layer in self._nodes if layer in quantized]

    def others(self) -> list[str]:
        """The layers that stay in float whatever is chosen, in order."""
        chosen = set(self.layers())
        return [layer for layer in self._nodes if layer not in chosen]

    def sketched(self, assignment: Mapping[str, str]) -> gs.Graph:
        """The network with these choices, its ranges made up."""
        trial = clone(self.graph)
        replace(self.using, bits=format_choices(assignment)).sketch(trial, self._context())
        annotate(trial)
        return trial

    def bytes_of(self, layer: str, choice: str) -> int:
        """Bytes of a layer's weights: integers, and the order of the channels where it takes one."""
        values, _, axis = contraction(self._nodes[layer])
        width, channels = parse_choice(choice), int(values.shape[axis])
        if width is None or (width.activations > 8 and sixteen.refusal(self.ctx.target) is not None):
            return int(values.size) * _FLOAT_BYTES
        wide = wide_channels(width, channels)
        each = int(values.size) // max(channels, 1)
        order = _INDEX_BYTES * channels if 0 < wide < channels else 0
        return wide * each + -(-(channels - wide) * each * width.bits // 8) + order

    def weight_damage(self, layer: str, choice: str) -> float:
        """Energy of what a choice changes in a layer's weights, relative to theirs."""
        values, _, axis = contraction(self._nodes[layer])
        width = parse_choice(choice)
        if width is None:
            return 0.0
        found = layer_weights(values, axis, width, limits(8)[1], True, None, 1.0).weights.values
        return float(np.square(found - values).sum() / max(np.square(values).sum(), _SMALLEST))

    def milliseconds(self, assignment: Mapping[str, str]) -> float:
        """Predicted latency of the network with these choices."""
        return self.latency(self.sketched(assignment))

    def float_milliseconds(self) -> float:
        """Predicted latency of the network as it came."""
        trial = clone(self.graph)
        annotate(trial)
        return self.latency(trial)

    def added_milliseconds(self, layers: Sequence[str], choices: Iterable[str]) -> dict[tuple[str, str], float]:
        """By layer and choice: what changing this layer alone adds to the latency with all layers at 8 bits.

        For activations of 16 bits it is the mean of that and of what the layer adds as the last of all: alone among
        layers of 8 bits it would be charged with conversions that vanish next to others like it.
        """
        base = dict.fromkeys(layers, "8")
        start = self.milliseconds(base)
        target = self.ctx.target
        packed = target is not None and runtime_of(target.runtime, target.isa).keeps_packed()
        added = {}
        for choice in choices:
            width = parse_choice(choice)
            is_wide = width is not None and width.activations == 16
            last = self.milliseconds(dict.fromkeys(layers, choice)) if is_wide else 0.0
            same = choice == "8" or (width is not None and width.activations == 8 and not packed)
            for layer in layers:
                added[layer, choice] = 0.0 if same else self.milliseconds({**base, layer: choice}) - start
                if is_wide:
                    before = self.milliseconds({**dict.fromkeys(layers, choice), layer: "8"})
                    added[layer, choice] = (added[layer, choice] + last - before) / 2
        return added

    def latency(self, graph: gs.Graph) -> float:
        """Predicted milliseconds of an annotated graph."""
        target = self.ctx.target
        return 0.0 if target is None else CostModel(target).estimate(graph).latency_ms

    def _context(self) -> Context:
        return Context(target=self.ctx.target, seed=self.ctx.seed)
