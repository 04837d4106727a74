"""Whether int8 pays on a target, by its cost model, before anyone has images: layer by layer and for the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from lpcc.analysis.types import annotate
from lpcc.cost import Cost, CostModel
from lpcc.graph import clone
from lpcc.pipeline.context import Context
from lpcc.pipeline.syntax import Pipeline
from lpcc.target import Target


@dataclass(frozen=True)
class Verdict:
    """How much faster a network is in int8: above 1 faster, below 1 slower.

    `speedup` is of the whole network, with all conversions between float and integers, which take `conversions_ms`.
    `layers` has those layers that become integer kernels, by name. `float_ms` and `int8_ms` are predicted latencies,
    `int8_warnings` says why the network does not fit the target in int8 either, if so.
    """

    float_ms: float
    int8_ms: float
    conversions_ms: float
    layers: Mapping[str, float]
    int8_warnings: tuple[str, ...] = ()

    @property
    def speedup(self) -> float:
        """Latency in float over latency in int8."""
        return self.float_ms / self.int8_ms

    def __str__(self) -> str:
        if self.speedup >= 1:
            return f"int8 is {self.speedup:.2f} times faster here"
        return f"int8 is {1 / self.speedup:.2f} times slower here"


def int8_verdict(graph: gs.Graph, target: Target, sizes: Mapping[str, int] | None = None) -> Verdict | None:
    """Predicted latency of an annotated float graph against that of its int8 version, both after the exact passes.

    None where nothing of it can become int8: the target has no such kernels, or the network has no such layers, or is
    quantised already, or takes no time at all. Where nothing of it pays, the price is that of all that can be int8. The
    graph is not changed.
    """
    ctx = Context(target=target)
    *exact, quantize, everything = Pipeline.parse("exact,quantize,quantize{min-work=0}").passes
    work = clone(graph)
    annotate(work)
    for item in exact:
        if item.run(work, ctx):
            ctx.invalidate()
    model = CostModel(target)
    before = model.estimate(work, sizes)
    if not (quantize.sketch(work, ctx) or everything.sketch(work, ctx)):
        return None
    annotate(work)
    after = model.estimate(work, sizes)
    if before.latency_ms <= 0 or after.latency_ms <= 0:
        return None
    return Verdict(before.latency_ms, after.latency_ms, _conversions(after), _gains(before, after), after.warnings)


def _conversions(cost: Cost) -> float:
    return sum(layer.latency_ms for layer in cost.layers if layer.kernel in ("quantize", "dequantize"))


def _gains(before: Cost, after: Cost) -> dict[str, float]:
    """Latency in float over latency in int8 of the kernels that took over a layer's nodes."""
    home = {node: layer.name for layer in before.layers for node in layer.nodes}
    taken: dict[str, float] = {}
    integer = set()
    for layer in after.layers:
        name = next((home[node] for node in (layer.name, *layer.nodes) if node in home), None)
        if name is not None:
            taken[name] = taken.get(name, 0.0) + layer.latency_ms
            if layer.dtype.endswith("8"):
                integer.add(name)
    return {
        layer.name: layer.latency_ms / taken[layer.name]
        for layer in before.layers
        if layer.name in integer and taken[layer.name] > 0
    }
