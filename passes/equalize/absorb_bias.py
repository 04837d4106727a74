"""`absorb-bias`: what a channel always holds at least goes into the bias of the next layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.bounds import clip_bounds
from lpcc.calibrate.channels import Channels, measure_channels
from lpcc.calibrate.holdout import BATCH, Feeds, used_and_apart
from lpcc.graph import to_proto
from lpcc.match import NoMatch, is_float, maker, sole_reader
from lpcc.passes.normalize.linear import LINEAR, Linear
from lpcc.pipeline import Changes, Context, Fidelity, Pass, Range

Array = np.ndarray[Any, Any]

_IMAGES = 96
_APART = 3
"""One image in so many is kept apart."""
_LOST = 1e-4
"""Share of a channel's variance that may be lost, before the offset is lowered to where nothing is: 40 dB below it."""


@dataclass(frozen=True)
class AbsorbBias(Pass):
    """Move a high bias through a ReLU into the layer behind it, so that the activation between has a smaller range.

    A channel whose values before the ReLU f stay above c > 0 could be lower by c, as ``f(x - c) = f(x) - c`` there:

        W2 f(W1 x + b1) + b2  =  W2 f(W1 x + b1 - c) + (b2 + W2 c)

    Nagel et al., Data-free quantization through weight equalization and bias correction (2019, arXiv 1906.04721,
    section 4.1.3), where ``c = max(0, beta - 3 gamma)``, with beta the mean and gamma the standard deviation of the
    values: less than 0.14 % of a normal distribution lies below. Here they are those that a batch norm remembers, or
    those measured on images. With images c is no more than their least value either, so on them nothing changes. A
    third of the images is kept apart to judge by. There is no rounded network yet, so it is judged what the pass
    promises, that no value is lost: channels that would lose more than 0.0001 of their variance on these images are
    left alone, others get the c with which they lose nothing. A Clip stands for a ReLU if its lower end is 0 and its
    upper end stays out of reach, by as many deviations, of values that are no longer lower by c.

    Left alone, each with its reason: a layer behind that pads with zeros, which would have to be -c; results of the
    first layer or the ReLU that are read elsewhere too; layers whose weights are shared or not constant; biases that
    would not fit their type; and, without batch norms and images, all.
    Channels whose c is 0 are not mentioned.
    """

    name: ClassVar[str] = "absorb-bias"
    fidelity: ClassVar[Fidelity] = Fidelity.APPROXIMATE

    deviations: Annotated[float, Range(min=0)] = 3.0
    """How many standard deviations below the mean c lies."""

    def run(self, graph: gs.Graph, ctx: Context) -> Changes:
        """Move biases of the main graph; see the class."""
        changes = Changes()
        places = []
        with edit.Edit(graph) as e:
            for node in e.nodes:
                try:
                    places += _place(e, node)
                except NoMatch as why:
                    if str(why):
                        changes.refuse(node, str(why))
            hints = dict(ctx.hints)
            offsets = self._offsets(graph, places, ctx)
            for before, active, after, _ in places:
                name = before.outputs[0].name
                offset = offsets.get(name)
                first, second = Linear.of(before), Linear.of(after)
                if offset is None:
                    changes.refuse(before, "neither a batch norm nor images tell what it holds")
                elif (reason := _obstacle(first, second, offset)) is not None:
                    changes.refuse(before, reason)
                elif offset.any():
                    second.scale_inputs(e, np.ones(1), offset)
                    first.scale_outputs(e, np.ones(1), -offset)
                    changes.done(before, f"high bias absorbed behind {edit.op(active)}")
                    if name in hints:
                        hints[name] = (hints[name][0] - offset, hints[name][1])
        ctx.hints = hints
        return changes

    def _offsets(self, graph: gs.Graph, places: Sequence[Place], ctx: Context) -> dict[str, Array]:
        """By how much each channel (C,) of what layers write can be lower; not of those of which nothing is known."""
        names = [before.outputs[0].name for before, _, _, _ in places]
        found: dict[str, Channels] = {}
        apart: Feeds = []
        if ctx.calibration is not None and names:
            data = ctx.calibration.head(_IMAGES)
            used = len(data) - len(data) // _APART
            used -= used % BATCH if used > BATCH else 0  # so that no batch has images of both
            found = measure_channels(to_proto(graph), names, data.head(used))
            _, apart = used_and_apart(data, used, len(data) - used)
        offsets = {}
        for name, (_, _, _, most) in zip(names, places, strict=True):
            offset = self._offset(found.get(name), ctx.hints.get(name), most)
            if offset is not None:
                offsets[name] = offset
        return offsets | _holding(to_proto(graph), {name: offsets[name] for name in found}, found, apart)

    def _offset(self, found: Channels | None, hint: tuple[Array, Array] | None, most: float) -> Array | None:
        """By how much each channel can be lower (C,); None where nothing is known of it."""
        if found is None and hint is None:
            return None
        offsets, reaches = [], []
        if hint is not None:
            offsets.append(hint[0] - self.deviations * hint[1])
            reaches.append(hint[0] + 2 * self.deviations * hint[1])
        if found is not None:
            spread = self.deviations * np.sqrt(found.variance)
            offsets += [found.low, found.mean - spread] if hint is None else [found.low]
            reaches += [found.high, found.mean + 2 * spread]
        offset = np.maximum(np.min(offsets, axis=0), 0.0)
        result: Array = np.where(np.max(reaches, axis=0) < most, offset, 0.0)
        return result


def _holding(
    model: onnx.ModelProto, offsets: Mapping[str, Array], found: Mapping[str, Channels], apart: Feeds
) -> dict[str, Array]:
    """What of the offsets (C,) holds on images that did not choose them: no more than the channels' least value there.

    None at all of channels that would lose more than a little of what they hold.
    """
    from lpcc.runtime import Session, with_outputs

    if not offsets:
        return {}
    session = Session(with_outputs(model, list(offsets)))
    least = {name: np.full(offset.shape, np.inf) for name, offset in offsets.items()}
    lost = {name: np.zeros(offset.shape) for name, offset in offsets.items()}
    places = dict.fromkeys(offsets, 0)
    for feed in apart:
        for name, values in session.run(feed, list(offsets)).items():
            rows = np.moveaxis(values, 1, 0).reshape(values.shape[1], -1).astype(np.float64)
            least[name] = np.minimum(least[name], rows.min(axis=1, initial=np.inf))
            lost[name] += np.square(np.maximum(offsets[name][:, None] - rows, 0.0)).sum(axis=1)
            places[name] += rows.shape[1]
    holding = {}
    for name, offset in offsets.items():
        held = lost[name] <= _LOST * found[name].variance * places[name]
        holding[name] = np.where(held, np.clip(least[name], 0.0, offset), 0.0)
    return holding


def _obstacle(first: Linear, second: Linear, offset: Array) -> str | None:
    """Why biases cannot move by `offset` from one layer into another; None where both new ones fit their types."""
    taken = (second.unpack() * offset.reshape(second.groups, 1, -1, 1)).sum(axis=(2, 3)).reshape(-1)
    moves = ((first, -offset), (second, float(edit.attr(second.node, "alpha", 1.0)) * taken))
    for layer, move in moves:
        dtype = np.dtype(layer.weight.dtype)
        bias = (0.0 if layer.bias is None else layer.bias) + move
        with np.errstate(over="ignore", invalid="ignore"):
            fits = np.isfinite(bias.astype(dtype).astype(np.float64)).all()
        if not fits:
            return f"the bias of {layer.kind} `{edit.label(layer.node)}` would not fit {dtype.name}"
    return None


Place = tuple[gs.Node, gs.Node, gs.Node, float]
"""A layer, the activation behind it, the layer that reads that, and the upper end of the activation."""


def _place(e: edit.Edit, active: gs.Node) -> list[Place]:
    """The place of a ReLU or Clip between two layers, if it has one. Raises NoMatch with the reason."""
    op = edit.op(active)
    if op not in ("Relu", "Clip") or not is_float(active.outputs[0].dtype):
        return []
    before, after = maker(e, active.inputs[0], *LINEAR), sole_reader(e, active.outputs[0], *LINEAR)
    if before is None:
        return []
    if e.only_user(active.inputs[0]) is None:
        raise NoMatch("its input is read elsewhere too")
    if after is None or after.inputs[0] is not active.outputs[0]:
        raise NoMatch("not one layer alone reads its result")
    low, high = (0.0, np.inf) if op == "Relu" else clip_bounds(active)
    if low != 0.0 or high is None or not high > 0:
        raise NoMatch("Clip is no ReLU")
    first, second = Linear.of(before), Linear.of(after)
    for layer in (first, second):
        if len(layer.weight.outputs) != 1:
            raise NoMatch(f"the weights of {layer.kind} `{edit.label(layer.node)}` are shared")
        if layer.kind == "MatMul" or (layer.kind == "Gemm" and edit.attr(layer.node, "transA", 0)):
            raise NoMatch(f"{layer.kind} `{edit.label(layer.node)}` takes no bias")
        if layer.weight.values.size == 0:
            raise NoMatch(f"{layer.kind} `{edit.label(layer.node)}` has no weights")
    if second.pads or second.kind == "ConvTranspose":
        raise NoMatch(f"{second.kind} `{edit.label(after)}` pads its input with zeros")
    return [(before, active, after, float(high))] if first.outputs == second.inputs else []
