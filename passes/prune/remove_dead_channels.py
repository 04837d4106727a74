"""`remove-dead-channels`: channels that say the same for every input go, and what they said goes into biases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.groups import ChannelGroups, Group, channel_groups
from lpcc.match import NoMatch
from lpcc.passes.normalize.linear import Linear, successor
from lpcc.passes.prune.constant_channels import Known, constant_channels
from lpcc.passes.prune.removal import remove
from lpcc.pipeline import Changes, Context, Fidelity, Pass

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class RemoveDeadChannels(Pass):
    """Remove channels that are constant, or that no layer gives any weight.

    A channel is constant where its filter is all zero (it is the bias then), where the scale of its batch norm is zero,
    as Network Slimming leaves it (Liu et al., 2017, arXiv:1708.06519), where Pad adds it, and where all that it is
    computed from is constant. With v its value behind all activations and W the weights of a layer that reads it:

        W x + b  =  W' x' + (b + W_dead v)

    where x' and W' lack the channel. A channel whose weights are zero in all layers that read it goes too, with its
    filter. All of a channel goes at once, through sums, Concat, depthwise convolutions, reshapes and shuffles.

    Left alone: channels of inputs and outputs, and others that are pinned (`lpcc inspect --groups` says why); constants
    that are not zero before a convolution that pads, as its padding is zero and the channel is not, and before a layer
    without a place for a bias; the last channel of a tensor; layers whose weights are computed; subgraphs.
    """

    name: ClassVar[str] = "remove-dead-channels"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT

    def run(self, graph: gs.Graph, ctx: Context) -> Changes:
        """Find the dead channels, remove them, and add what they said to the biases of the layers that read them."""
        changes = Changes()
        found = ctx.analysis(channel_groups, graph)
        known = constant_channels(graph, found)
        nodes = {node.outputs[0].name: node for node in graph.nodes if node.outputs}
        dead = np.ones(found.count, dtype=bool)
        reasons: dict[int, str] = {}
        shifts: dict[str, Array] = {}
        for layer in found.layers:
            if layer.reads is None:
                continue
            node = nodes[layer.output]
            stays, held, why = _needed(node, layer.reads, known)
            dead[layer.reads[stays]] = False
            reasons.update(dict.fromkeys(layer.reads[held].tolist(), why))
        constant = _held(found, known)
        chosen = _chosen(found, dead, reasons)
        for group in found.groups:
            _report(group, chosen, constant, reasons, changes)
        if not chosen.any():
            return changes
        for layer in found.layers:
            if layer.reads is not None and chosen[layer.reads].any():
                shift = _shift(nodes[layer.output], chosen[layer.reads], known)
                if shift is not None:
                    kept = np.ones(len(shift), dtype=bool) if layer.makes is None else ~chosen[layer.makes]
                    shifts[layer.output] = shift[kept]
        for name, shift in shifts.items():
            if not _fits(nodes[name], shift):
                changes = Changes()
                changes.refuse(nodes[name], "what dead channels say does not fit its bias")
                return changes
        remove(graph, found, np.flatnonzero(chosen))
        with edit.Edit(graph) as e:
            for name, shift in shifts.items():
                _add(e, nodes[name], shift)
        return changes


def _needed(node: gs.Node, reads: Array, known: dict[str, Known]) -> tuple[Array, Array, str]:
    """Which places of what a layer sums over it needs, which of them are constant, and why these cannot go."""
    values = _values(node, reads, known)
    nowhere = np.zeros(len(reads), dtype=bool)
    try:
        weights = _columns(node)
        takes, why = _takes(node)
    except NoMatch:
        return values != 0, nowhere, ""
    used = weights.any(axis=1) if len(weights) == len(reads) else ~nowhere
    held = nowhere if takes else used & ~np.isnan(values) & (values != 0)
    return held | (used & np.isnan(values)), held, why


def _values(node: gs.Node, reads: Array, known: dict[str, Known]) -> Array:
    """The constant at each place of what a layer sums over; NaN where there is none."""
    result = np.full(len(reads), np.nan)
    for place, tensor in reversed(list(enumerate(node.inputs[:2]))):
        item = known.get(tensor.name)
        if item is None or len(item.values) != len(reads) or item.axis != _summed(node, place, tensor):
            continue
        result = np.where(np.isnan(item.values), result, item.values)
        if isinstance(node.inputs[1 - place] if len(node.inputs) > 1 else None, gs.Variable):
            result = np.where(item.values == 0, 0.0, result)
    return result


def _summed(node: gs.Node, place: int, tensor: gs.Tensor) -> int | None:
    """The axis of an operand that is summed over."""
    op = edit.op(node)
    if op in ("Conv", "ConvTranspose"):
        return 1 if place == 0 else None
    rank = len(tensor.shape or ())
    if op == "Gemm":
        return int(bool(edit.attr(node, "transA" if place == 0 else "transB", 0)) != (place == 0))
    if op == "MatMul":
        return rank - 1 if place == 0 else rank - 2
    return None


def _columns(node: gs.Node) -> Array:
    """Weights for each input of a layer, (inputs, outputs of its group times positions). Raises NoMatch."""
    layer = Linear.of(node)
    if 0 in layer.weight.shape:
        raise NoMatch("it has no weights")
    weights = layer.unpack()
    return np.asarray(weights.transpose(0, 2, 1, 3).reshape(weights.shape[0] * weights.shape[2], -1))


def _takes(node: gs.Node) -> tuple[bool, str]:
    """Whether a layer can take a constant input that is not zero into its bias, else why not."""
    layer = Linear.of(node)
    what = f"{layer.kind} `{edit.label(node)}`"
    if layer.pads or layer.kind == "ConvTranspose":
        return False, f"{what} pads it with zeros"
    if edit.attr(node, "transA", 0) or (layer.kind == "MatMul" and layer.rank != 2):
        return False, f"{what} has no place for a bias"
    return True, ""


def _held(found: ChannelGroups, known: dict[str, Known]) -> Array:
    """Which channels are constant in some tensor, bool (channels,)."""
    constant = np.zeros(found.count, dtype=bool)
    for name, item in known.items():
        line = found.labels[name][item.axis]
        if line is not None:
            constant[line[~np.isnan(item.values)]] = True
    return constant


def _chosen(found: ChannelGroups, dead: Array, reasons: dict[int, str]) -> Array:
    """The channels to remove: dead ones that are free, so many that no tensor is left with nothing."""
    chosen = dead & found.free
    while names := found.emptied(np.flatnonzero(chosen)):
        for name in names:
            for line in found.labels[name]:
                if line is not None and chosen[line].all():
                    chosen[line[0]] = False
                    reasons[int(line[0])] = f"`{name}` would have none left"
    return chosen


def _report(group: Group, chosen: Array, constant: Array, reasons: dict[int, str], changes: Changes) -> None:
    """Say what goes of a group, and why what is constant stays."""
    layers = (*group.makers, *group.readers)
    members = (*group.tensors, *group.weights)
    name = layers[0].name if layers else members[0].name
    if chosen[group.channels].any():
        changes.done(name, "dead channels removed")
    left = group.channels[constant[group.channels] & ~chosen[group.channels]]
    for reason in _why(group, left.tolist(), reasons):
        changes.refuse(name, f"a constant channel stays: {reason}")


def _why(group: Group, left: list[int], reasons: dict[int, str]) -> Iterator[str]:
    """Why constant channels of a group stay, each reason once."""
    found = {reasons.get(channel) or group.pinned for channel in left}
    yield from sorted(reason for reason in found if reason)


def _shift(node: gs.Node, gone: Array, known: dict[str, Known]) -> Array | None:
    """What the removed inputs of a layer contribute to each of its outputs, (outputs,); None if that is nothing."""
    try:
        layer = Linear.of(node)
    except NoMatch:
        return None
    values = np.where(gone, np.nan_to_num(_values(node, gone, known)), 0.0)
    if not values.any():
        return None
    weights = layer.unpack().sum(axis=3)
    alpha = float(edit.attr(node, "alpha", 1.0)) if layer.kind == "Gemm" else 1.0
    shift = alpha * (weights * values.reshape(layer.groups, 1, -1)).sum(axis=2).reshape(-1)
    return shift if shift.any() else None


def _fits(node: gs.Node, shift: Array) -> bool:
    """Whether a shift and the bias, both as large as they may be, stay within the range of the weights' type."""
    layer = Linear.of(node)
    most = np.abs(shift).max(initial=0) + (0.0 if layer.bias is None else np.abs(layer.bias).max(initial=0))
    with np.errstate(over="ignore"):
        return bool(np.isfinite(np.asarray(most).astype(layer.weight.dtype).astype(np.float64)))


def _add(e: edit.Edit, node: gs.Node, shift: Array) -> None:
    """Add a constant to what a layer makes: to its bias, which it gets where it has none."""
    layer = Linear.of(node)
    bias = (np.zeros(len(shift)) if layer.bias is None else layer.bias) + shift
    if layer.kind == "MatMul":
        node.op = "Gemm"
    node.attrs.pop("beta", None)
    old, numbers = edit.inp(node, 2), bias.astype(layer.weight.dtype)
    new = (
        successor(e, old, numbers) if isinstance(old, gs.Constant) else e.constant(f"{layer.weight.name}_bias", numbers)
    )
    e.replace_input(node, 2, new)
