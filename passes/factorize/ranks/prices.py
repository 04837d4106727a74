"""What one layer costs on a target as it is and as factors, asked often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Final

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis import rules
from lpcc.analysis.kernels import Kernel
from lpcc.analysis.macs import weight_bytes
from lpcc.analysis.shapes import Shapes, bind, constant_of
from lpcc.cost import CostModel, Totals
from lpcc.cost.kinds import MAC_KINDS
from lpcc.cost.processor import Processor
from lpcc.cost.row_stationary import RowStationary
from lpcc.passes.factorize.emit import write
from lpcc.passes.factorize.factors import Factors, Rank
from lpcc.passes.factorize.form import Form
from lpcc.passes.factorize.ranks.skeleton import Work, skeleton
from lpcc.target import Target

Array = np.ndarray[Any, Any]


_CHANNELS: Final = 16
"""Of what a stand-in makes: a block of any processor."""


class Prices:
    """Prices of the layers of one annotated graph on a target: shares of what `CostModel.estimate` says of it.

    Each layer is priced in a little graph of its own, with the nodes that the runtime takes into its kernel (batch
    norm, sum, activation). Where the network's tensors are in blocks of channels, a layout of the runtime's own,
    pointwise convolutions stand in for the layers before and behind, so that a layer pays for a change of layout only
    where it causes one. The difference that factors make there is the one that they make in the network, but for this:
    the bytes of all weights together stay those of the graph as it is, while in the network, where they exceed the
    caches, every layer gets faster as they shrink. So the network is rather faster than the sum of the prices says.

    `sizes` are those of open dimensions (`lpcc.analysis.shapes.bind`). The graph is never changed, and may not change
    while it is asked about.
    """

    def __init__(self, graph: gs.Graph, target: Target, sizes: Mapping[str, int] | None = None) -> None:
        self.target = target
        self.shapes: Shapes = bind(graph, sizes)
        self._model = CostModel(target)
        self._resident = weight_bytes(graph)
        steps = self._model.kernels(graph, self.shapes)
        self.total: Totals = self._model.totals(steps, self._resident)
        """The whole graph, with what every inference costs whatever it computes."""
        self._kernels: dict[int, list[Kernel]] = {}  # by id of a node
        for step in steps:
            for node in step.nodes:
                self._kernels.setdefault(id(node), []).append(step)
        self._first = [step for step in steps if step.kind in MAC_KINDS][:1]
        self._blocked = {id(o.tensor) for step in steps if step.blocked and step.nodes for o in step.outputs}
        self._folded = rules.folded(graph)
        self._returned = {id(tensor) for tensor in graph.outputs}

    def layer(self, node: gs.Node, form: Form) -> LayerPrices:
        """Prices of a layer.

        Raises:
            Declined: the shape of what it reads or makes is not known.
        """
        return LayerPrices(self, node, form, Work.of(node, form, self.shapes))

    @property
    def reads_weights(self) -> bool:
        """Whether the target's hardware looks at the weights: at zeros, or at how many different ones there are."""
        return not isinstance(self.target.machine, Processor | RowStationary)

    def of_kernels(self, node: gs.Node) -> Totals:
        """The kernels that compute a node, in the network."""
        steps = self._kernels.get(id(node), [])
        own = _minus(self._model.totals(steps, self._resident), self._model.totals((), self._resident))
        weight = node.inputs[1]
        return replace(own, weight_bytes=self.shapes.nbytes(weight))

    def of_graph(self, little: gs.Graph, node: gs.Node) -> Totals:
        """What was cut out around a node as a part of the network, with what every inference costs.

        The first product of the network is priced too, as hardware may take the inputs of this one as special.
        """
        ahead = [step for step in self._first if step not in self._kernels.get(id(node), ())]
        steps = (*ahead, *self._model.kernels(little, bind(little)))
        return replace(self._model.totals(steps, self._resident), weight_bytes=weight_bytes(little))

    def cut_out(self, node: gs.Node) -> tuple[gs.Graph, gs.Node]:
        """A graph of the kernel of a node and stand-ins for its neighbours, and the copy of the node in it."""
        steps = self._kernels.get(id(node), [])
        members = list({id(member): member for step in steps for member in step.nodes}.values()) or [node]
        return _Cut(self.shapes, self._folded, self._blocked).graph(members, node, self._layouts_behind(members))

    def _layouts_behind(self, members: Sequence[gs.Node]) -> dict[int, tuple[bool, bool]]:
        """By the id of a tensor that is read behind these nodes: whether in blocks, and whether otherwise."""
        own = {id(member) for member in members}
        found: dict[int, tuple[bool, bool]] = {}
        for member in members:
            for tensor in member.outputs:
                readers = [reader for reader in tensor.outputs if id(reader) not in own]
                blocked = [any(step.blocked for step in self._kernels.get(id(reader), ())) for reader in readers]
                if blocked or id(tensor) in self._returned:
                    found[id(tensor)] = any(blocked), not all(blocked) or id(tensor) in self._returned
        return found


class LayerPrices:
    """Prices of one layer of a network: as it is, and as factors. Answers are kept."""

    def __init__(self, prices: Prices, node: gs.Node, form: Form, work: Work) -> None:
        self.form = form
        self.work = work
        self._prices = prices
        self._node = node
        self._known: dict[tuple[str, Rank], Totals] = {}

    @property
    def target(self) -> Target:
        """What they are prices on."""
        return self._prices.target

    @cached_property
    def before(self) -> Totals:
        """The layer as it is, with what runs in its kernel; of the bytes, those of its weights."""
        return self._prices.of_kernels(self._node)

    def after(self, method: str, rank: Rank) -> Totals:
        """The layer cut to a rank by a method.

        Raises:
            Declined: it cannot be written so.
        """
        if (method, rank) not in self._known:
            factors = skeleton(self.form, method, rank)
            self._known[method, rank] = self.of(_random(factors) if self._prices.reads_weights else factors)
        return self._known[method, rank]

    def of(self, factors: Factors) -> Totals:
        """The layer as these factors.

        Raises:
            Declined: it cannot be written so.
        """
        little, node = self._prices.cut_out(self._node)
        with edit.Edit(little) as e:
            write(e, node, self.form, factors)
        return _plus(self.before, _minus(self._prices.of_graph(little, self._node), self._alone))

    @cached_property
    def _alone(self) -> Totals:
        return self._prices.of_graph(self._prices.cut_out(self._node)[0], self._node)


class _Cut:
    """Some nodes of a graph copied into one of their own."""

    def __init__(self, shapes: Shapes, folded: set[int], blocked: set[int]) -> None:
        self._shapes = shapes
        self._folded = folded
        self._blocked = blocked
        self._tensors: dict[int, gs.Tensor] = {}
        self._inputs: list[gs.Tensor] = []
        self._nodes: list[gs.Node] = []

    def graph(
        self, members: Sequence[gs.Node], wanted: gs.Node, behind: dict[int, tuple[bool, bool]]
    ) -> tuple[gs.Graph, gs.Node]:
        """See `Prices.cut_out`."""
        made = {id(tensor) for member in members for tensor in member.outputs}
        copy = wanted
        outputs: list[gs.Tensor] = []
        for old in members:
            read = [self._tensor(tensor, is_read=id(tensor) not in made) for tensor in old.inputs]
            new = self._node_of(old, read, [self._tensor(tensor, is_read=False) for tensor in old.outputs])
            copy = new if old is wanted else copy
        for member in members:
            for tensor in member.outputs:
                in_blocks, otherwise = behind.get(id(tensor), (False, False))
                result = self._tensors.get(id(tensor))
                if result is not None and in_blocks:
                    outputs.append(self._reader(result))
                if result is not None and otherwise:
                    outputs.append(result)
        little = gs.Graph(nodes=self._nodes, inputs=self._inputs, outputs=outputs)
        edit.sort(little)
        return little, copy

    def _node_of(self, old: gs.Node, inputs: Sequence[gs.Tensor], outputs: Sequence[gs.Tensor]) -> gs.Node:
        new = gs.Node(op=old.op, name=old.name, attrs=dict(old.attrs), domain=old.domain)
        edit.link(new, inputs, outputs)
        self._nodes.append(new)
        return new

    def _tensor(self, old: gs.Tensor, *, is_read: bool) -> gs.Tensor:
        """The copy of a tensor; one that is read and not made here is an input or comes from a stand-in."""
        if not old.name:
            return gs.Variable.empty()
        if id(old) not in self._tensors:
            known, shape = constant_of(old), self._shapes.of(old)
            if known is not None:
                new = gs.Constant(old.name, known._values)
            elif id(old) in self._folded and shape is not None:
                new = gs.Constant(old.name, np.broadcast_to(np.asarray(1 / 3).astype(old.dtype), shape))
            else:
                new = gs.Variable(old.name, old.dtype, None if shape is None else list(shape))
                if is_read and id(old) in self._blocked and shape is not None and len(shape) == 4:
                    self._maker(new)
                elif is_read:
                    self._inputs.append(new)
            self._tensors[id(old)] = new
        return self._tensors[id(old)]

    def _maker(self, tensor: gs.Variable) -> None:
        """A convolution from one channel, with an activation, which leaves it nothing else to take in."""
        batch, channels, *sides = tensor.shape
        source = gs.Variable(f"{tensor.name}/source", tensor.dtype, [batch, 1, *sides])
        between = gs.Variable(f"{tensor.name}/linear", tensor.dtype, tensor.shape)
        self._inputs.append(source)
        self._convolution(source, between, channels)
        activation = gs.Node(op="Relu", name=f"{tensor.name}/maker")
        edit.link(activation, [between], [tensor])
        self._nodes.append(activation)

    def _reader(self, tensor: gs.Variable) -> gs.Variable:
        """What a convolution makes that reads a tensor."""
        batch, _, *sides = tensor.shape
        result = gs.Variable(f"{tensor.name}/read", tensor.dtype, [batch, _CHANNELS, *sides])
        self._convolution(tensor, result, _CHANNELS)
        return result

    def _convolution(self, source: gs.Variable, result: gs.Variable, channels: int) -> None:
        weight = np.broadcast_to(np.asarray(1 / 3, dtype=source.dtype), (channels, source.shape[1], 1, 1))
        node = gs.Node(op="Conv", name=f"{result.name}/conv", attrs={"kernel_shape": [1, 1]})
        edit.link(node, [source, gs.Constant(f"{result.name}/weight", weight)], [result])
        self._nodes.append(node)


def _minus(a: Totals, b: Totals) -> Totals:
    return Totals(
        a.latency_ms - b.latency_ms, a.energy_mj - b.energy_mj, a.weight_bytes - b.weight_bytes, a.macs - b.macs
    )


def _plus(a: Totals, b: Totals) -> Totals:
    return Totals(
        a.latency_ms + b.latency_ms, a.energy_mj + b.energy_mj, a.weight_bytes + b.weight_bytes, a.macs + b.macs
    )


def _random(factors: Factors) -> Factors:
    """Factors of the same shapes with weights that no hardware finds special."""
    rng = np.random.default_rng(0)
    stages = tuple(
        replace(stage, tensor=np.asarray(rng.standard_normal(stage.tensor.shape))) for stage in factors.stages
    )
    return replace(factors, stages=stages)
