"""The pass `quantize`: static int8 as the target's kernels want it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.calibrate import Histogram, Method, choose, collect
from lpcc.graph import to_proto
from lpcc.passes.quantize.emit import Writer, WeightScheme
from lpcc.passes.quantize.numbers import Params, activation_params
from lpcc.passes.quantize.operators import Role
from lpcc.passes.quantize.placement import Placement, Planner
from lpcc.pipeline import Changes, Context, Fidelity, Need, Pass, Range

_OPSET = 13  # the first in which DequantizeLinear has an axis


@dataclass(frozen=True)
class Quantize(Pass):
    """Static int8: activations and weights as integers, scales in QuantizeLinear and DequantizeLinear nodes."""

    name: ClassVar[str] = "quantize"
    fidelity: ClassVar[Fidelity] = Fidelity.APPROXIMATE
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CALIBRATION, Need.TARGET})

    scheme: Literal["target", "u8s8", "s8s8"] = "target"
    ranges: Method = "mse"
    percentile: Annotated[float, Range(50, 100)] = 99.99
    per_channel: bool | None = None
    reduce_range: bool | None = None
    skip: tuple[str, ...] = ()

    def run(self, graph: gs.Graph, ctx: Context) -> Changes:
        """Quantise the main graph; see the class."""
        changes = Changes()
        scheme = self._scheme(ctx)
        reason = _refusal(graph) or (None if scheme else f"target `{_target(ctx)}` has no int8 kernels")
        if reason is not None or scheme is None:
            changes.refuse(graph.name or "graph", reason or "")
            return changes
        activations, weights = scheme
        placement = Planner(graph, frozenset(self.skip), changes).place()
        if not placement.units:
            changes.refuse(graph.name or "graph", "no operator in it has an integer kernel")
            return changes
        found = self._statistics(graph, ctx, placement)
        params = {}
        for key, group in placement.measured.items():
            low, high = self._range([found[t.name] for t in group if t.name in found])
            least, most = placement.bounds.get(key, (-np.inf, np.inf))
            params[key] = activation_params(max(low, least), min(high, most), activations)
        with edit.Edit(graph) as editing:
            Writer(editing, placement, params, weights).write()
        for unit in placement.units:
            word = (
                f"{edit.op(unit.node)} in int8"
                if unit.role is not Role.INTEGER
                else f"{edit.op(unit.node)} on integers"
            )
            changes.done(unit.node, word)
        return changes

    def _scheme(self, ctx: Context) -> tuple[np.dtype, WeightScheme] | None:
        """Type of the activations, and how weights are quantised; None where the target has no integer kernels."""
        int8 = ctx.target.int8 if ctx.target is not None else None
        if int8 is None and self.scheme == "target":
            return None
        activations = self.scheme[:2] if self.scheme != "target" or int8 is None else int8.activations
        per_channel = self.per_channel if self.per_channel is not None else int8 is None or int8.per_channel
        reduce_range = self.reduce_range if self.reduce_range is not None else int8 is not None and int8.reduce_range
        kinds = {"u8": np.dtype(np.uint8), "s8": np.dtype(np.int8)}
        return kinds[activations], WeightScheme(63 if reduce_range else 127, per_channel)

    def _statistics(self, graph: gs.Graph, ctx: Context, placement: Placement) -> dict[str, Histogram]:
        """What the tensors hold on the calibration images, from one run that serves every later call as well."""
        data = ctx.calibration
        model = to_proto(graph)
        key = hashlib.blake2b(model.SerializeToString(deterministic=True)).hexdigest()
        cache: dict[str, Histogram] = ctx.keep(f"quantize: histograms of {key}", dict)
        missing = [t.name for t in placement.tensors() if t.name not in cache]
        if missing and data is not None:
            cache.update(collect(model, missing, data, lambda done, total: ctx.progress("calibrate", done, total)))
        return cache

    def _range(self, histograms: list[Histogram]) -> tuple[float, float]:
        ranges = [choose(histogram, self.ranges, self.percentile) for histogram in histograms]
        return min((low for low, _ in ranges), default=0.0), max((high for _, high in ranges), default=0.0)


def _target(ctx: Context) -> str:
    return ctx.target.name if ctx.target is not None else "none"


def _refusal(graph: gs.Graph) -> str | None:
    """Why a model as a whole is left alone; None where it is not."""
    if graph.opset < _OPSET:
        return f"opset {graph.opset} is too old for int8 weights per channel: run `raise-opset` first"
    for node in graph.nodes:
        if edit.op(node).rpartition("::")[2] in ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger"):
            return "the model is quantised already"
    return None
