"""`equalize`: channels of a tensor get ranges that one scale suits, by weights before and after it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.macs import macs
from lpcc.analysis.shapes import bind
from lpcc.calibrate.channels import Channels, measure_channels
from lpcc.calibrate.holdout import BATCH, Feeds
from lpcc.graph import clone, to_proto
from lpcc.passes.equalize.scales import Equaliser, Room, magnitudes, room
from lpcc.passes.equalize.tied import Ties, read_depthwise, ties
from lpcc.passes.normalize.linear import Linear
from lpcc.passes.quantize import Quantize
from lpcc.pipeline import Changes, Context, Fidelity, Need, Pass
from lpcc.quality.noise import noise_parts

Array = np.ndarray[Any, Any]

_MEASURED = 64
_JUDGED = (16, 128)
_WORK = 40_000_000_000
"""Multiply-accumulates of the images that a choice is judged on, about: it decides how many there are."""
_ACTIVATIONS = frozenset({"Clip", "LeakyRelu", "PRelu", "Relu"})
_LEVELS = 255
_LARGEST = 127
_AS_IT_IS = "as it is"
_GAIN = 0.9
"""Share of the distance from the float outputs that may be left at most: less of a gain may be chance."""


@dataclass(frozen=True)
class Equalize(Pass):
    """Scale channels between layers so that rounding with one scale for all of them costs less.

    Between two layers with a homogeneous operator f, ``f(x / s) = f(x) / s`` for s > 0, channel i can be scaled:

        W2 f(W1 x + b1)  =  (W2 S) f(S^-1 W1 x + S^-1 b1),    S = diag(s)

    Nagel et al., Data-free quantization through weight equalization and bias correction (2019, arXiv 1906.04721,
    section 4.1). By ``weights``, s gives what writes a channel and what reads it one range, as there; that is for
    weights with one scale per layer. Weights with a scale for each output channel do not ask how rows differ: by
    ``noise``, s balances, as far as one can tell from the images, what rounding the activation adds and what rounding
    the columns that read it adds (`lpcc.passes.equalize.scales`). ``auto`` quantises the network each way and once as
    it is, and takes what comes closest to its outputs on the images, if that is by a tenth at least; without a target
    with int8 kernels, or without images, it goes by weights. Made-up images do not tell how loud single channels are:
    on them it tries weights only, and nothing where weights will have a scale per channel. By ``depthwise``, as by
    noise, but only channels that nothing but depthwise convolutions reads: where weights have a scale for each output
    channel, they make and read such a channel with scales of their own, which take s in. Rounded weights stay the same
    integers, and the activation is rounded as if it had a range for each channel.

    Scales pass ReLU, its leaky and parametric forms, pooling, Concat, Split, sums (whose operands and result are then
    scaled alike) and what moves values or channels (`lpcc.passes.equalize.tied`). Where no Clip stands between, the
    network's outputs stay equal within rounding. A Clip as of a ReLU6 stays as it is: a channel that comes near its
    limits on the images, or by six deviations might, is left alone, and a quieter one is scaled no further than that.

    Left alone, each with its reason: by ``depthwise`` the whole graph without images that are real, or where weights
    share a scale; channels that reach an input or output of the model, an operator that is not
    homogeneous, a constant summand, a layer whose weights are shared, not constant or not float; those behind a Clip
    where there are no images; a graph that is quantised already or below opset 7; bodies of If, Loop and Scan.
    """

    name: ClassVar[str] = "equalize"
    fidelity: ClassVar[Fidelity] = Fidelity.APPROXIMATE
    needs: ClassVar[frozenset[Need]] = frozenset()

    by: Literal["auto", "weights", "noise", "depthwise"] = "auto"
    """What scales are chosen by."""
    per_channel: bool | None = None
    """Whether weights will have a scale for each output channel; by default as the target says."""

    def run(self, graph: gs.Graph, ctx: Context) -> Changes:
        """Scale the channels of the main graph; see the class."""
        changes = Changes()
        if graph.opset < _OPSET or any(edit.op(node) in _QUANTIZED for node in graph.nodes):
            changes.refuse(graph.name or "graph", f"is quantised already, or of an opset below {_OPSET}")
            return changes
        tied = ties(graph)
        if self.by == "depthwise":
            if (reason := self._without_gain(ctx)) is not None:
                changes.refuse(graph.name or "graph", reason)
                return changes
            tied = read_depthwise(tied)
        found = self._measure(graph, tied, ctx)
        made_up = ctx.calibration is not None and ctx.calibration.is_synthetic
        allowed = room(tied, found, made_up=made_up)
        if allowed.free.any():
            digest = hashlib.blake2b(to_proto(graph).SerializeToString(deterministic=True)).hexdigest()
            scales = ctx.keep(f"{self}: scales of {digest}", lambda: self._choose(graph, tied, allowed, found, ctx))
            if scales is None:
                changes.refuse(graph.name or "graph", "int8 comes no closer to the float network by scaling channels")
            else:
                _apply(graph, tied, scales, changes)
                ctx.hints = _scaled_hints(ctx.hints, tied, scales)
        _refuse(tied, allowed, changes)
        return changes

    def _without_gain(self, ctx: Context) -> str | None:
        """Why nothing is known to be gained by ``depthwise``; None where something may be."""
        if not self._per_channel(ctx):
            return "weights that share a scale pay for what depthwise layers would gain"
        if ctx.calibration is None or ctx.calibration.is_synthetic:
            return "only real images tell how loud single channels are"
        return None

    def _measure(self, graph: gs.Graph, tied: Ties, ctx: Context) -> dict[str, Channels]:
        """What the scalable channels hold on the images; nothing without images."""
        if ctx.calibration is None or (self.by == "weights" and not tied.limits):
            return {}
        made = {t.name for node in graph.nodes for t in node.outputs}
        names = [name for name, sets in tied.tensors.items() if name in made and not tied.held[sets].all()]
        return measure_channels(to_proto(graph), names, ctx.calibration.head(_MEASURED))

    def _choose(
        self, graph: gs.Graph, tied: Ties, allowed: Room, found: Mapping[str, Channels], ctx: Context
    ) -> Array | None:
        """The scales (count,); None where the network is best left as it is."""
        made_up = ctx.calibration is not None and ctx.calibration.is_synthetic
        if made_up and self.by == "auto" and self._per_channel(ctx):
            return None
        equaliser = Equaliser(tied, allowed)
        rounded = {name: channels for name, channels in found.items() if name not in _unrounded(graph)}
        largest, square = magnitudes(tied, rounded)
        choices = {}
        if self.by != "noise":
            choices["weights"] = equaliser.by_weights()
        if self.by != "weights" and rounded and not (made_up and self.by == "auto"):
            choices["noise"] = equaliser.by_noise(largest, square, _LEVELS, _LARGEST)
        if self.by != "auto":
            return next(iter(choices.values()), None)
        trial = Quantize(ranges="mse", per_channel=self.per_channel)
        if ctx.target is None or ctx.target.int8 is None or ctx.calibration is None or graph.opset < _QUANTIZABLE:
            return choices.get("weights")
        work = sum(macs(graph, bind(graph)).values())
        images = ctx.calibration.head(int(np.clip(_WORK // max(work, 1), *_JUDGED)))
        judged = [batch.feeds for batch in images.batches(BATCH)]
        expected = _outputs(to_proto(graph), judged)
        distances = {}
        for done, (name, scales) in enumerate([(_AS_IT_IS, None), *choices.items()]):
            ctx.progress("equalize", done, len(choices) + 1)
            candidate = clone(graph)
            if scales is not None:
                _apply(candidate, ties(candidate), scales, Changes())
            trial.run(candidate, replace(ctx, unquantized=None))
            distances[name] = noise_parts(zip(expected, _outputs(to_proto(candidate), judged), strict=True))
        better = [name for name in choices if distances[name].beats(distances[_AS_IT_IS], _GAIN)]
        return choices[min(better, key=lambda name: distances[name].energy)] if better else None

    def _per_channel(self, ctx: Context) -> bool:
        """Whether weights will have a scale for each output channel."""
        if self.per_channel is not None:
            return self.per_channel
        return ctx.target is None or ctx.target.int8 is None or ctx.target.int8.per_channel


_OPSET = 7
_QUANTIZABLE = 13
_QUANTIZED = frozenset({"QuantizeLinear", "DequantizeLinear"})


def _unrounded(graph: gs.Graph) -> set[str]:
    """Tensors that only an activation reads, which integer kernels take in."""
    reader = edit.Edit(graph)
    outputs = (t for node in graph.nodes for t in node.outputs if t.name)
    return {t.name for t in outputs if (user := reader.only_user(t)) is not None and edit.op(user) in _ACTIVATIONS}


def _apply(graph: gs.Graph, tied: Ties, scales: Array, changes: Changes) -> None:
    """Write the scales into the weights."""
    with edit.Edit(graph) as e:
        for layer in tied.layers:
            if np.any(scales[layer.outputs] != 1):
                Linear.of(layer.node).scale_outputs(e, 1 / scales[layer.outputs], np.zeros(1))
                changes.done(layer.node, f"output channels of {edit.op(layer.node)} equalised")
            if np.any(scales[layer.inputs] != 1):
                Linear.of(layer.node).scale_inputs(e, scales[layer.inputs], np.zeros(1))


def _scaled_hints(
    hints: Mapping[str, tuple[Array, Array]], tied: Ties, scales: Array
) -> dict[str, tuple[Array, Array]]:
    """What batch norms remember of the scaled tensors. A new mapping: the old one is true of the old graph."""
    scaled = dict(hints)
    for name, (mean, std) in hints.items():
        sets = tied.tensors.get(name)
        if sets is not None and len(sets) == len(mean):
            scaled[name] = (mean / scales[sets], std / scales[sets])
    return scaled


def _outputs(model: onnx.ModelProto, feeds: Feeds) -> list[dict[str, Array]]:
    from lpcc.runtime import Session

    session = Session(model, threads=os.cpu_count() or 1)
    return [session.run(feed) for feed in feeds]


def _refuse(tied: Ties, allowed: Room, changes: Changes) -> None:
    """Say of each layer whose output channels all stay as they are why that is."""
    clipped = {int(number) for limit in tied.limits for number in limit.channels}
    for layer in tied.layers:
        if allowed.free[layer.outputs].any():
            continue
        first = int(layer.outputs[0])
        reason = tied.reasons.get(first)
        if reason is None:
            reason = "a Clip limits it, or nothing tells that it does not" if first in clipped else "no layer reads it"
        changes.refuse(layer.node, f"its channels keep their scale: {reason}")
    for node, reason in tied.others:
        changes.refuse(node, reason)
