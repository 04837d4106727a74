"""The criterion that asks what a channel means for the outputs of the whole network, by weights alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Final

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.groups import ChannelGroups, Layer
from lpcc.passes.prune.criteria.base import Criterion, averaged, relative, said
from lpcc.passes.prune.criteria.weights import channel_line, unpacked
from lpcc.pipeline import Context

Array = np.ndarray[Any, Any]

_LARGEST: Final = 1e100  # beyond this, importance is scaled down: it grows with every layer


class Propagated(Criterion):
    """How much of the outputs goes through a channel, by the magnitudes of all weights behind it.

        s_in  =  |W|^T s_out      from the outputs, of importance 1 each, back through every layer
        s_c   =  mean over the layers that make c of  s_out_c / (mean of s_out over the layer)

    where s_out is that behind the batch norm of a layer, so that it is the same once `fold-bn` has folded that.

    Yu et al., NISP: Pruning networks using neuron importance score propagation (2018, arXiv 1711.05908), who rank the
    responses of the last layer but one by their data; here these have what the last layer's weights give them. |W| is
    summed over the positions of the kernel. Activations and poolings hand all importance on, as most stretch nothing,
    a batch norm ``|gamma| / sqrt(var + eps)`` of it; what several layers read, as a residual stream, gathers it
    from all of them. A depthwise convolution scales it channel by channel.

    Where weights are not float constants (behind DequantizeLinear, products of two activations), and where an operator
    mixes channels otherwise, all that is read is of equal importance. NaN for channels that no layer makes, or that
    nothing leads to the outputs from. Needs no images.

    Raises UsageError where all that could be removed is such.
    """

    name: ClassVar[str] = "nisp"

    def scores(self, graph: gs.Graph, found: ChannelGroups, ctx: Context) -> Array:  # noqa: ARG002
        """A score for each channel, float64 (found.count,), in units of the average channel of its layers."""
        return said(
            averaged(_Propagation(graph, found).run(), found),
            found,
            "criterion `nisp` finds no way from channels that can be removed to an output",
        )


class _Propagation:
    """One way back through a graph, with the importance of each channel in each tensor that is still to be made.

    Of a tensor that is an array (count + 1,). Where it holds no channels, as what a layer with a single output makes,
    the last element is the importance of all of it.
    """

    def __init__(self, graph: gs.Graph, found: ChannelGroups) -> None:
        self._graph = graph
        self._found = found
        self._layers = {layer.output: layer for layer in found.layers}
        self._touched = np.zeros(found.count + 1, dtype=bool)
        for layer in found.layers:
            for line in (layer.reads, layer.makes):
                if line is not None:
                    self._touched[line] = True
        self._importance: dict[str, Array] = {}

    def run(self) -> list[tuple[Array, Array]]:
        """For each layer the channels that it makes, and their importance in units of the mean."""
        parts = []
        behind: dict[str, Array] = {}  # a batch norm, by what it alone reads
        for tensor in self._graph.outputs:
            self._add(tensor, self._held(tensor).astype(np.float64))
        for node in reversed(self._graph.nodes):
            importance = self._taken(node.outputs)
            if importance is None:
                continue
            if edit.op(node) == "BatchNormalization" and len(node.inputs[0].outputs) == 1:
                behind[node.inputs[0].name] = importance
            layer = self._layers.get(node.outputs[0].name)
            if layer is not None and layer.makes is not None:
                made = behind.pop(layer.output, importance)[layer.makes]
                if made.any():
                    parts.append((layer.makes, relative(made)))
            if not self._through_weights(node, layer, importance):
                self._handed_on(node, layer, importance)
        return parts

    def _taken(self, tensors: Iterable[gs.Tensor]) -> Array | None:
        """The importance of what a node makes, which is not needed any more; None where it has none."""
        parts = [self._importance.pop(tensor.name) for tensor in tensors if tensor.name in self._importance]
        if not parts:
            return None
        total = np.sum(parts, axis=0)
        largest = float(total.max())
        if largest > _LARGEST:
            total /= largest
            for name in self._importance:
                self._importance[name] /= largest
        return np.asarray(total)

    def _through_weights(self, node: gs.Node, layer: Layer | None, importance: Array) -> bool:
        """Go back through a layer whose weights are known; False for any other node."""
        weights = None if layer is None else unpacked(node)
        if layer is None or weights is None:
            return False
        groups, outputs, inputs = weights.shape[:3]
        made = layer.makes
        read = layer.reads if layer.reads is not None else channel_line(self._found, node.inputs[0].name)
        if read is None:
            read = np.full(groups * inputs, self._found.count)
        if len(read) != groups * inputs or (made is not None and len(made) != groups * outputs):
            return False
        if made is None:
            each = np.full((groups, outputs), importance.sum() / (groups * outputs))
        else:  # a channel of several places: an equal part for each
            each = (importance / np.maximum(np.bincount(made, minlength=len(importance)), 1))[made].reshape(groups, -1)
        found = np.einsum("gmc,gm->gc", np.abs(weights).sum(axis=3), each) * abs(float(edit.attr(node, "alpha", 1.0)))
        self._add(node.inputs[0], np.bincount(read, found.reshape(-1), len(importance)))
        return True

    def _handed_on(self, node: gs.Node, layer: Layer | None, importance: Array) -> None:
        """Give all that a node reads the importance of what it makes of it, and what it mixes an equal part each."""
        importance = importance * self._gain(node)
        total = float(importance.sum())
        summed = np.zeros(self._found.count + 1, dtype=bool)
        if layer is not None and layer.reads is not None:
            summed[layer.reads] = True
        made = np.any([self._held(tensor) for tensor in node.outputs], axis=0)
        tensors = {tensor.name: tensor for tensor in (*node.inputs, *edit.captured(node))}
        for tensor in tensors.values():
            held = self._held(tensor)
            given = np.where(held, importance, 0.0)
            mixed = held & summed if (held & made).any() else held
            given[mixed] = total / max(1, int(mixed.sum()))
            self._add(tensor, given)

    def _gain(self, node: gs.Node) -> Array:
        """By what a batch norm multiplies each channel; 1 for all others and for other nodes."""
        gain = np.ones(self._found.count + 1)
        if edit.op(node) == "BatchNormalization":
            line = channel_line(self._found, node.outputs[0].name)
            gamma, variance = (edit.const(edit.inp(node, place)) for place in (1, 4))
            if line is not None and gamma is not None and variance is not None and len(line) == len(gamma):
                epsilon = float(edit.attr(node, "epsilon", 1e-5))
                gains = np.abs(gamma.astype(np.float64)) / np.sqrt(variance.astype(np.float64) + epsilon)
                gain[line] = np.bincount(line, gains, len(gain))[line] / np.bincount(line)[line]
        return gain

    def _held(self, tensor: gs.Tensor) -> Array:
        """Which channels stand in a tensor, bool (count + 1,); the last element is true where there is none."""
        held = np.zeros(self._found.count + 1, dtype=bool)
        for line in self._found.labels.get(tensor.name, ()):
            if line is not None:
                held[line] = True
        held &= self._touched
        held[-1] = not held.any()
        return held

    def _add(self, tensor: gs.Tensor, importance: Array) -> None:
        if tensor.name and not isinstance(tensor, gs.Constant):
            known = self._importance.get(tensor.name)
            self._importance[tensor.name] = importance if known is None else known + importance
