"""The pass `quantize`: static int8 as the target's kernels want it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.formats.affine import Array, Params
from lpcc.graph import clone, to_proto
from lpcc.passes.quantize import sixteen
from lpcc.passes.quantize.admission import note_batch_norms, refusal
from lpcc.passes.quantize.bits import Formats, WeightBits, Width, parse_bits, raised, with_weights
from lpcc.passes.quantize.effort import Effort
from lpcc.passes.quantize.emit import WeightScheme, Writer
from lpcc.passes.quantize.groups import Group
from lpcc.passes.quantize.lowering import lower
from lpcc.passes.quantize.operators import Role
from lpcc.passes.quantize.output_ranges import Choice
from lpcc.passes.quantize.placement import Placement
from lpcc.passes.quantize.placing import Wishes, place
from lpcc.passes.quantize.ranging import RangeOptions, Ranges, Ranging
from lpcc.passes.quantize.weight_ranges import WeightRanges, by_output_error, by_squared_error
from lpcc.pipeline import Changes, Context, Fidelity, Need, Pass, Range
from lpcc.pipeline.layers import matching

Scheme = tuple[np.dtype, WeightScheme]
"""Type of the activations, and how weights are quantised."""

_UNBOUNDED = (-np.inf, np.inf)
_OPSET_16 = 21
"""The first in which QuantizeLinear writes int16."""


@dataclass(frozen=True)
class Quantize(Pass):
    """Static int8: activations and weights as integers, scales in QuantizeLinear and DequantizeLinear nodes.

    A number x is kept as ``q = clip(round(x / scale) + zero_point)``: activations in 8 bits with a scale and a zero
    point per tensor, weights in symmetric int8 with a scale per output channel, biases in int32 with the product of the
    two scales. The Q/DQ nodes stand where onnxruntime takes them into its integer kernels: behind the activation of a
    convolution (whose clipping the range then does), around residual sums, pooling, concatenation and what only moves
    data, which shares the scale of its input. Activations that it has no Q/DQ form of are written on the integers
    themselves (`lpcc.passes.quantize.forms`, `lpcc.passes.quantize.lowering`). Jacob et al., Quantization and training
    of neural networks for efficient integer-arithmetic-only inference (2018).

    Ranges come from one streaming run over the calibration images (`lpcc.calibrate`): extremes (``minmax``), the moving
    average of those of each image (``average``), a share of the values (``percentile``), the least divergence
    (``entropy``), the least squared error (``mse``); from searches that start there and widen or narrow each range by
    what it does to the layers that read the tensor (``output``, see `lpcc.passes.quantize.output_ranges`), or to the
    network's outputs (``auto``, see `lpcc.passes.quantize.auto_ranges`).

    Weights of 4 and 2 bits (`weight_bits`, `bits`; their scales: `lpcc.formats.narrow`) are stored as int4 and int2
    behind a Cast to int8, for which the opset is raised to 21 and 25; kernels stay the same. `mixed-precision` chooses
    them.

    Left alone, each with its reason: layers named in `skip` or `keep`, or not in `only`; layers whose weights are not
    constant, not float32 or not finite; operators without an integer kernel (transposed and 3-D convolutions, Softmax
    in onnxruntime); what is not between integer kernels, and what the target's cost model finds faster in float, with
    the conversions that it would need (`lpcc.passes.quantize.pricing`); bodies of If, Loop and Scan. The whole model is
    left alone if its opset is below 13, if it is quantised already, in whole or in part, or if the target has no int8
    kernels.
    """

    name: ClassVar[str] = "quantize"
    fidelity: ClassVar[Fidelity] = Fidelity.APPROXIMATE
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CALIBRATION, Need.TARGET})

    scheme: Literal["target", "u8s8", "s8s8"] = "target"
    """Types of activations and weights; by default what the target's runtime is fast with."""
    ranges: Ranges = "auto"
    """How the range of an activation is chosen."""
    percentile: Annotated[float, Range(50, 100)] = 99.99
    """Share of the values, in percent, that lies below the upper end of a range (and above the lower)."""
    weight_ranges: WeightRanges = "minmax"
    """How the scales of 8-bit weights are chosen: by the largest, by least squared error, by the layer's output."""
    symmetric: bool = False
    """Whether activations have their zero point in the middle of the integers; without negative values u8 keeps 0."""
    per_channel: bool | None = None
    """Whether weights have a scale for each output channel; by default as the target says."""
    reduce_range: bool | None = None
    """Whether weights use 7 bits, so that 16-bit sums do not saturate; by default as the target says."""
    min_work: Annotated[float, Range(min=0)] | None = None
    """Multiply-accumulates for each value converted on its border that an integer region must at least do; 0 asks for
    all integer kernels that there are. By default the prices of the target's cost model decide for onnxruntime, whose
    float kernels are fast, and microcontrollers get all."""
    weight_bits: WeightBits = 8
    """Bits of a weight; with fewer than 8 the file is smaller, kernels stay those of int8."""
    bits: tuple[str, ...] = ()
    """Bits of single layers, as ``"conv1=4"``: 2, 4, 8, ``4+8:25%`` (a quarter of the output channels, those that lose
    most, keeps 8) or float. In names ``*`` stands for anything, and the last that fits counts. 16 asks for activations
    of 16 bits with weights of 8, for runtimes with kernels of known speed (CMSIS-NN); elsewhere such a layer stays in
    float."""
    skip: tuple[str, ...] = ()
    """Names of layers to be kept in float; ``*`` stands for anything. The guard adds those that it takes back."""
    keep: tuple[str, ...] = ()
    """Names of nodes to be kept in float, by the user; ``*`` stands for anything. A name that fits none is an error."""
    only: tuple[str, ...] = ()
    """Names of the only nodes that may be quantised, in the same way, whether that pays or not; by default all may."""

    def __post_init__(self) -> None:
        parse_bits(self.bits)

    def run(self, graph: gs.Graph, ctx: Context) -> Changes:
        """Quantise the main graph; see the class."""
        return self._quantize(graph, ctx, self._write)

    def sketch(self, graph: gs.Graph, ctx: Context) -> Changes:
        """Quantise the main graph with ranges made up, which no cost depends on."""

        def write(graph: gs.Graph, _: Context, placement: Placement, scheme: Scheme, __: Changes) -> None:
            groups = {
                key: Group(
                    tuple(t.name for t in tensors),
                    -1.0,
                    1.0,
                    placement.bounds.get(key, _UNBOUNDED),
                    sixteen.DTYPE if key in placement.wide else scheme[0],
                    is_symmetric=key in placement.wide,
                )
                for key, tensors in placement.measured.items()
            }
            _emit(graph, placement, scheme, groups)

        return self._quantize(graph, ctx, write)

    def _quantize(
        self, graph: gs.Graph, ctx: Context, write: Callable[[gs.Graph, Context, Placement, Scheme, Changes], None]
    ) -> Changes:
        changes = Changes()
        scheme = self._scheme(ctx)
        reason = refusal(graph) or (None if scheme else f"target `{_target(ctx)}` has no int8 kernels")
        if reason is not None or scheme is None:
            changes.refuse(graph.name or "graph", reason or "")
            return changes
        note_batch_norms(graph, changes)
        lower(graph, "onnxruntime" if ctx.target is None else ctx.target.runtime, changes)
        placement = self._place(graph, ctx, changes)
        if not placement.units:
            changes.refuse(graph.name or "graph", "no operator in it has an integer kernel")
            return changes
        placement = self._widen(graph, ctx, self._narrow(graph, ctx, placement, changes))
        for unit in placement.units:  # before the outputs change, after which unnamed nodes are called
            name, formats = edit.label(unit.node), placement.formats
            where = "on integers" if unit.role is Role.INTEGER else "in int16" if name in formats.wide else "in int8"
            if name not in formats.converts:
                changes.done(name, f"{edit.op(unit.node)} {where}{with_weights(placement.widths.get(name))}")
        ctx.unquantized = clone(graph)
        write(graph, ctx, placement, scheme, changes)
        return changes

    def _place(self, graph: gs.Graph, ctx: Context, changes: Changes, formats: Formats | None = None) -> Placement:
        widths = self._widths(graph)
        layers = {edit.label(node): node for node in graph.nodes if sixteen.is_layer(node)}
        asked = [name for name, width in widths.items() if width is not None and width.activations > 8]
        in_float = frozenset(name for name, width in widths.items() if width is None)
        if (reason := sixteen.refusal(ctx.target)) is not None:
            in_float |= {name for name in asked if name in layers}
            for name in asked:
                if name in layers:
                    changes.refuse(name, reason)
        wishes = Wishes(frozenset(self.skip) | in_float, self.keep, self.only, self.min_work)
        placement = place(graph, ctx, wishes, self._scheme(ctx), changes, formats)
        for unit in placement.units:
            name = edit.label(unit.node)
            width = widths.get(name) or Width(self.weight_bits)
            if unit.role is not Role.CONTRACT:
                continue
            if width.activations > 8 and (reason := sixteen.without_kernel(unit.node)) is not None:
                changes.refuse(name, reason)
            elif width.bits < 8 or width.activations > 8:
                placement.widths[name] = width
        return placement

    def _widen(self, graph: gs.Graph, ctx: Context, placement: Placement) -> Placement:
        """The placement in which what is asked for computes in 16 bits, with conversions put into the graph."""
        asked = {
            name: width
            for name, width in self._widths(graph).items()
            if width is None or width.activations == 8 or name in placement.widths or graph.opset >= _OPSET_16
        }
        wide = sixteen.choose(placement.units, asked, sixteen.operators(ctx.target))
        if not wide:
            return placement
        formats = sixteen.convert(graph, placement, wide)
        return replace(self._place(graph, ctx, Changes(), formats), widths=placement.widths)

    def _widths(self, graph: gs.Graph) -> dict[str, Width | None]:
        """What `bits` asks for, by name of a node. Raises UsageError for a name that fits none."""
        names = [edit.label(node) for node in graph.nodes]
        asked = parse_bits(self.bits)
        return {
            name: width for wish, width in asked.items() for name in sorted(matching(names, [wish], "quantize: bits"))
        }

    def _narrow(self, graph: gs.Graph, ctx: Context, placement: Placement, changes: Changes) -> Placement:
        """The placement, with the graph at an opset that can express its weights; where there is none, in 8 bits.

        Raising the opset may put other nodes in the place of those that were planned for.
        """
        widths, before = dict(placement.widths), graph.opset
        while (needed := max((width.opset for width in widths.values()), default=0)) > graph.opset:
            reason = raised(graph, needed, ctx)
            for name in [name for name, width in widths.items() if reason is not None and width.opset == needed]:
                changes.refuse(name, f"keeps 8 bits: {reason}")
                del widths[name]
        return replace(placement if graph.opset == before else self._place(graph, ctx, Changes()), widths=widths)

    def _scheme(self, ctx: Context) -> Scheme | None:
        """The scheme; None where the target has no integer kernels."""
        int8 = ctx.target.int8 if ctx.target is not None else None
        if int8 is None and self.scheme == "target":
            return None
        activations = self.scheme[:2] if self.scheme != "target" or int8 is None else int8.activations
        per_channel = self.per_channel if self.per_channel is not None else int8 is None or int8.per_channel
        reduce_range = self.reduce_range if self.reduce_range is not None else int8 is not None and int8.reduce_range
        kinds = {"u8": np.dtype(np.uint8), "s8": np.dtype(np.int8)}
        return kinds[activations], WeightScheme(64 if reduce_range else 127, per_channel)

    def _write(self, graph: gs.Graph, ctx: Context, placement: Placement, scheme: Scheme, changes: Changes) -> None:
        """Find the ranges and rewrite the graph.

        The statistics and the search are kept, for the same graph to be quantised again with other layers skipped.
        """
        data = ctx.calibration
        if data is None:
            return
        model = to_proto(graph)
        digest = hashlib.blake2b(model.SerializeToString(deterministic=True)).hexdigest()
        options = RangeOptions(self.ranges, self.percentile, self.symmetric)
        ranging = Ranging(model, digest, data, options, ctx)
        found = ranging.statistics(placement.tensors())
        means = {name: statistics.channel_means for name, statistics in found.items()}

        magnitudes = by_squared_error(placement, scheme[1]) if self.weight_ranges == "mse" else {}

        def emit(graph: gs.Graph, placement: Placement, choice: Choice) -> None:
            _emit(graph, placement, scheme, ranging.groups(placement, scheme[0]), choice, means, magnitudes)

        def attempt(choice: Choice) -> onnx.ModelProto:
            trial = clone(graph)
            placed = self._place(trial, ctx, Changes(), placement.formats)
            emit(trial, replace(placed, widths=placement.widths), choice)
            return to_proto(trial)

        effort = Effort.of(graph)
        if shortened := ranging.shortened(placement, scheme[0], effort):
            changes.refuse(graph.name or "graph", shortened)
        choice = ranging.search(placement, scheme[0], effort, attempt)
        if self.weight_ranges == "output":
            params = _params(ranging.groups(placement, scheme[0]), choice)
            magnitudes = ctx.keep(
                f"quantize: weights for {options} {scheme} {sorted(placement.formats.wide)} of {digest}",
                lambda: by_output_error(model, placement, scheme[1], params, ranging.few(effort)),
            )
        emit(graph, placement, choice)


def _emit(
    graph: gs.Graph,
    placement: Placement,
    scheme: Scheme,
    groups: Mapping[int, Group],
    choice: Choice | None = None,
    means: Mapping[str, Array] | None = None,
    magnitudes: Mapping[str, Array] | None = None,
) -> None:
    """Rewrite the graph with the ranges of `groups`, or those that `choice` has for them."""
    with edit.Edit(graph) as editing:
        Writer(editing, placement, _params(groups, choice or {}), scheme[1], means or {}, magnitudes).write()


def _params(groups: Mapping[int, Group], choice: Choice) -> dict[int, Params]:
    return {key: group.params(choice.get(group.tensors)) for key, group in groups.items()}


def _target(ctx: Context) -> str:
    return ctx.target.name if ctx.target is not None else "none"
