"""A graph as a torch module: its nodes run by torch, its weights are parameters, what they become is written back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import torch
from torch import nn

from lpcc import edit
from lpcc.analysis.types import annotate
from lpcc.errors import DataError, ModelError
from lpcc.graph import clone
from lpcc.train.latents import latents_of
from lpcc.train.latents.latent import Latent
from lpcc.train.network.constants import Place, constants, put, readers
from lpcc.train.network.plan import Plan
from lpcc.train.network.planner import BUFFER, FEED, LATENT, PARAMETER, Planner
from lpcc.train.network.trainable import weights
from lpcc.train.operators import Mode
from lpcc.train.tensors import array_of, is_narrow, tensor_of

Array = np.ndarray[Any, Any]
Tensor = Any


class Network(nn.Module):
    """A graph as a torch module: its nodes run by torch, its weights are parameters.

    ``network.eval()`` (how it begins) gives what onnxruntime gives. ``network.train()``: batch norm uses the statistics
    of the batch and updates its running ones, Dropout drops. The graph itself is not changed until `write`.

    Which constants are trained: see `lpcc.train.network.trainable`; weights in integers and low-bit formats are trained
    through the latents of `lpcc.train.latents`, which start at the weights of `float_graph` where one is given. A
    `frozen` network has no parameters, and stays in the mode of evaluation: a teacher. `outputs` are the outputs that
    matter, all when None: nodes that only others depend on are not run.

    Operators that torch cannot run go through onnxruntime, where no gradient has to pass them.

    Raises:
        ModelError: a node can neither be run in torch nor be left to onnxruntime; the message names it.
    """

    weights: dict[str, Any]
    """Parameters by name of their tensor: filters and matrices, to which weight decay applies."""

    others: dict[str, Any]
    """All other parameters: biases, scales and offsets of norms, slopes, steps of quantisers."""

    def __init__(
        self,
        graph: gs.Graph,
        *,
        frozen: bool = False,
        float_graph: gs.Graph | None = None,
        outputs: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.frozen = frozen
        self.mode = Mode()
        self._graph = clone(graph)
        annotate(self._graph)
        self._outputs = _chosen(self._graph, outputs)
        self._places = constants(self._graph)
        self._latents: dict[str, Latent] = {} if frozen else latents_of(self._graph, float_graph)
        self._device: list[Any] = [torch.device("cpu")]
        self._held = nn.Module()  # a child of its own: tensors may be called `forward`
        # One latent may stand behind several tensors, as a scale does that was written more than once.
        self._latent_modules = nn.ModuleList({id(latent): latent for latent in self._latents.values()}.values())
        self._homes: dict[tuple[str, str], str] = {}
        self._host: dict[str, Tensor] = {}
        self._plans: dict[tuple[str, ...], _Ready] = {}
        self._hold_weights()
        self._statistics = {} if frozen else _statistics(self._graph, self._places)
        self._planner = Planner(
            self._graph,
            self._places,
            trained=self._parameters_by_name,
            statistics=self._statistics,
            latents=self._latents,
            mode=self.mode,
            device=self._device,
        )
        for name, place in self._statistics.items():
            self._hold(BUFFER, name, tensor_of(place.values), persistent=True)
        self.register_buffer("_where", torch.zeros(0), persistent=False)
        self._ready(())
        self.eval()

    @property
    def graph(self) -> gs.Graph:
        """The graph as it came, with the types of its tensors; not to be changed."""
        return self._graph

    # Running

    def forward(self, feeds: Mapping[str, Tensor], taps: Sequence[str] = ()) -> dict[str, Tensor]:
        """The graph outputs by name, and the hidden tensors named in `taps`.

        Raises:
            DataError: an input has no value.
            ModelError: a tap is no tensor of the graph; a node cannot run on what it is given.
        """
        ready = self._plans.get(tuple(taps)) or self._ready(tuple(taps))
        return dict(zip(ready.names, ready.plan.run(self._given(ready, feeds)), strict=True))

    def _given(self, ready: _Ready, feeds: Mapping[str, Tensor]) -> list[Any]:
        """Values that a plan starts from."""
        given: list[Any] = []
        computed: dict[int, Tensor] = {}
        for kind, name, home, dtype in ready.sources:
            if kind == PARAMETER:
                value = self._held._parameters[home]
                given.append(value if dtype is None else value.to(dtype))
            elif kind == BUFFER:
                given.append(self._held._buffers[home])
            elif kind == FEED:
                given.append(self._feed(name, home, feeds))
            elif kind == LATENT:
                latent = self._latents[name]
                if id(latent) not in computed:
                    computed[id(latent)] = latent()
                given.append(computed[id(latent)])
            else:
                given.append(self._host[home])
        return given

    def _feed(self, name: str, home: str, feeds: Mapping[str, Tensor]) -> Tensor:
        value = feeds.get(name)
        if value is None:
            value = self._held._buffers.get(home)
            if value is None:
                raise DataError(f"no values for input `{name}`")
        return value.float() if value.dtype in _NARROW else value

    def _ready(self, taps: tuple[str, ...]) -> _Ready:
        """The plan for the outputs and some taps, made at its first use."""
        named = {tensor.name: tensor for tensor in self._outputs}
        hidden = {t.name: t for node in self._graph.nodes for t in node.outputs if t.name} if taps else {}
        hidden.update({tensor.name: tensor for tensor in self._graph.inputs} if taps else {})
        for name in taps:
            if name not in named and name not in hidden:
                raise ModelError(f"the graph has no hidden tensor `{name}`")
            named.setdefault(name, hidden.get(name))
        plan, keys = self._planner.plan(list(named.values()))
        sources = []
        for kind, name in keys:
            if (kind, name) not in self._homes and (kind, name) in self._planner.folded:
                self._hold(kind, name, self._planner.folded[kind, name].to(self._device_of(kind)), persistent=False)
            dtype = None
            if kind == PARAMETER:
                stored = tensor_of(np.zeros(0, self._places[name].dtype)).dtype
                dtype = stored if stored != self._parameters_by_name[name].dtype else None
            sources.append((kind, name, self._homes.get((kind, name), ""), dtype))
        self._plans[taps] = _Ready(plan, tuple(named), tuple(sources))
        return self._plans[taps]

    # Holding

    def _hold_weights(self) -> None:
        """Make parameters of the trained constants."""
        self._decays: dict[str, bool] = {}
        found = {} if self.frozen else weights(self._graph, self._places, self._latents)
        for name, weight in found.items():
            start = tensor_of(weight.place.values)
            # The steps of training are too small for 16 bits: what is trained has 32, and is rounded where it is used.
            parameter = nn.Parameter(start if start.dtype.itemsize > 2 else start.float())
            self._homes[PARAMETER, name] = home = f"p{len(self._homes)}:{name.replace('.', '/')}"
            self._held.register_parameter(home, parameter)
            self._decays[name] = weight.decays
        self._collect()

    def _collect(self) -> None:
        """Name the parameters, those of the latents among them."""
        parameters = {name: self._held._parameters[self._homes[PARAMETER, name]] for name in self._decays}
        self._parameters_by_name = parameters
        self.weights = {name: parameter for name, parameter in parameters.items() if self._decays[name]}
        self.others = {name: parameter for name, parameter in parameters.items() if not self._decays[name]}
        for latent in self._latents.values():
            self.weights.update(latent.weights)
            self.others.update(latent.others)

    def _hold(self, kind: str, name: str, value: Tensor, *, persistent: bool) -> None:
        home = f"{kind[0]}{len(self._homes)}:{name.replace('.', '/')}"
        self._homes[kind, name] = home
        if kind in (BUFFER, FEED):
            self._held.register_buffer(home, value, persistent=persistent)
        else:
            self._host[home] = value

    def _device_of(self, kind: str) -> Any:
        return self._device[0] if kind in (BUFFER, FEED) else torch.device("cpu")

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        applied = super()._apply(fn, recurse)
        self._device[0] = self._where.device
        self._collect()  # torch makes new parameters for some devices
        return applied

    def __deepcopy__(self, memo: dict[int, Any]) -> Network:
        """A network of its own in the same state: kernels cannot be copied, so its plan is made anew."""
        copied = Network(self._graph, frozen=self.frozen, outputs=[tensor.name for tensor in self._outputs])
        copied.to(self._device[0])
        copied.load_state_dict(self.state_dict())
        copied.train(self.training)
        memo[id(self)] = copied
        return copied

    def train(self, mode: bool = True) -> Any:
        """Training or evaluation; a frozen network only knows the latter."""
        mode = mode and not self.frozen
        self.mode.training = mode
        return super().train(mode)

    # Writing back

    def store(self) -> dict[str, Array]:
        """New values of the graph's constants by name, in the types in which they are stored."""
        found: dict[str, Array] = {}
        for name, parameter in self._parameters_by_name.items():
            found[name] = array_of(parameter, self._places[name].dtype)
        for name, place in self._statistics.items():
            found[name] = array_of(self._held._buffers[self._homes[BUFFER, name]], place.dtype)
        for latent in self._latents.values():
            found.update(latent.stored())
        return found

    def write(self, graph: gs.Graph) -> list[str]:
        """Put the trained values into a graph with the same names; shared weights stay shared.

        Returns the names of the nodes whose weights changed.

        Raises:
            ModelError: the graph has no such constants.
        """
        return readers(graph, put(graph, self.store()))


@dataclass(frozen=True)
class _Ready:
    """A plan with where its values come from."""

    plan: Plan
    names: tuple[str, ...]
    """Of its results."""

    sources: tuple[tuple[str, str, str, Any], ...]
    """Kind and name of each value, the name under which the network holds it, and the type to cast it to, or None."""


_NARROW = frozenset((torch.int8, torch.uint8, torch.int16, torch.uint16))


def _chosen(graph: gs.Graph, names: Sequence[str] | None) -> list[gs.Tensor]:
    if names is None:
        return list(graph.outputs)
    found = {tensor.name: tensor for tensor in graph.outputs}
    for name in names:
        if name not in found:
            raise ModelError(f"the graph has no output `{name}`; it has {', '.join(f'`{known}`' for known in found)}")
    return [found[name] for name in names]


def _statistics(graph: gs.Graph, places: Mapping[str, Place]) -> dict[str, Place]:
    """The running means and variances of batch norms, which training updates in place.

    Raises:
        ModelError: a batch norm computes them from others.
    """
    names = {id(place.tensor): name for name, place in places.items()}
    found: dict[str, Place] = {}
    for node in edit.nodes(graph):
        if edit.op(node) != "BatchNormalization" or edit.attr(node, "training_mode", 0):
            continue
        for tensor in node.inputs[3:5]:
            origin = tensor
            while len(origin.inputs) == 1 and edit.op(origin.inputs[0]) == "Identity":
                origin = origin.inputs[0].inputs[0]
            name = names.get(id(origin))
            if name is None or is_narrow(places[name].dtype):
                raise ModelError(
                    f"node `{edit.label(node)}` (BatchNormalization) reads a running statistic that is no constant, so"
                    " training cannot update it: run the exact passes first"
                )
            found[name] = places[name]
    return found
