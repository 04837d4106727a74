"""Gates on the rank components of a network: which of them it can do without is learned together with its weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx_graphsurgeon as gs
import torch
from torch import nn

from lpcc import edit
from lpcc.analysis.types import annotate
from lpcc.data import Dataset
from lpcc.graph import clone
from lpcc.train.history import History
from lpcc.train.loop import fit
from lpcc.train.losses import Objective
from lpcc.train.network import Network
from lpcc.train.pairing.observing import observed
from lpcc.train.recipe import Recipe
from lpcc.train.tensors import tensor_of

Array = np.ndarray[Any, Any]
Tensor = Any
Progress = Callable[[str, int, int], None]
Cost = Callable[[Sequence[Any]], Any]
"""What is left of a network's work where such a share of each group of components is there."""

TEMPERATURE: Final = 2 / 3
LOW: Final = -0.1
HIGH: Final = 1.1
"""What the hard concrete distribution is stretched to before it is cut to [0, 1]; Louizos et al. use these numbers."""

_SHIFT: Final = TEMPERATURE * math.log(-LOW / HIGH)
_EARLY: Final = 0.98
"""Share of the work with which training begins: at 1 no gate could ever close."""
_DESCENT: Final = 0.6
"""Share of the training in which the work goes down to the goal; for the rest it is there."""
_TRAVEL: Final = 20.0
"""How far a gate's log-odds can go in the whole training: from surely open to surely closed, and half way back."""
_HALVINGS: Final = 40
"""Of an interval of some 60 log-odds: more than float32 can tell."""
_PRIOR: Final = 0.5
"""Log-odds with which a gate begins, for each factor of e in the energy of its component."""
_LEAST_ENERGY: Final = 1e-6
"""Share of its layer's mean that the energy of a component counts for at least."""
_SAMPLED: Final = 64
"""Samples by which gates begin, outputs are scaled and layers are paired."""


def probability(log_alpha: Tensor) -> Tensor:
    """How likely a hard concrete gate is not 0: ``sigmoid(log_alpha - beta log(-gamma / zeta))``."""
    return torch.sigmoid(log_alpha - _SHIFT)


def sampled(log_alpha: Tensor, uniform: Tensor) -> Tensor:
    """Gates from numbers u that are uniform between 0 and 1 (Louizos, Welling, Kingma 2018, arXiv 1712.01312, eq. 10).

    s = sigmoid((log u - log(1 - u) + log_alpha) / beta),    z = min(1, max(0, s (zeta - gamma) + gamma))
    """
    noise = uniform.log() - (-uniform).log1p()
    return _stretched(torch.sigmoid((noise + log_alpha) / TEMPERATURE))


def settled(log_alpha: Tensor) -> Tensor:
    """Gates without noise, for use: ``min(1, max(0, sigmoid(log_alpha) (zeta - gamma) + gamma))``."""
    return _stretched(torch.sigmoid(log_alpha))


def _stretched(share: Tensor) -> Tensor:
    return (share * (HIGH - LOW) + LOW).clamp(0.0, 1.0)


def level(log_alpha: Tensor, left: Callable[[Tensor], Tensor], goal: float) -> Tensor:
    """The number b with ``left(probability(log_alpha + b)) = goal``, differentiable in `log_alpha`.

    `left` grows in each probability. b is found by halving; its derivative is that of the equation which it solves.
    """
    still = log_alpha.detach()
    with torch.no_grad():
        low, high = -still.max() - 30.0, 30.0 - still.min()
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            over = left(probability(still + middle)) > goal
            low, high = torch.where(over, low, middle), torch.where(over, middle, high)
        found = (low + high) / 2
    if not (torch.is_grad_enabled() and log_alpha.requires_grad):
        return found
    shift = found.clone().requires_grad_()
    (slope,) = torch.autograd.grad(left(probability(still + shift)), shift)
    excess = left(probability(log_alpha + found))
    return found - (excess - excess.detach()) / slope.clamp_min(torch.finfo(slope.dtype).tiny)


@dataclass(frozen=True, eq=False)
class Gate:
    """Where gates are put: along one axis of a tensor that a layer reads."""

    tensor: str
    reader: str
    """What the layer makes that reads it."""
    rank: int
    """Of the tensor: how many axes."""
    axis: int
    places: Array
    """Number of the gate at each place of the axis, from 0."""
    strength: Array
    """Norm of the weights that the layer has for each place."""

    @property
    def count(self) -> int:
        """How many gates."""
        return int(self.places.max()) + 1


class Gated(nn.Module):
    """A network whose rank components pass gates, as many of them open as a share of the work allows.

    Each component k of a layer is multiplied with a gate of the hard concrete distribution (Louizos, Welling, Kingma
    2018, arXiv 1712.01312), which is exactly 0 with a probability that can be learned; in training every sample draws
    its own where the tensor's first axis is that of the samples, in evaluation there is no noise. Wang, Wohlwend and
    Lei (2020, arXiv 1910.04732) gate low-rank layers like this, and steer the expected size by an augmented Lagrangian.
    Here the constraint holds at each step instead: with w what is learned,

        log_alpha = w + b,    b such that  E[work] = cost(mean P(z_k > 0) of each layer) = the goal of the step

    The gradient that passes b is the projection of the loss's on the constraint: that of a Lagrangian whose multiplier
    is always the right one, ``-(sum_k dL/dw_k) / (sum_k dE/dw_k)``, with no rates or weights to be set for it. The goal
    falls from nearly all to `goal`, half a cosine over the first three fifths of the training, and stays.

    Satisfies the protocol of a student (`lpcc.train.loop`). Parameters are those of the network, and w.
    """

    seen: Tensor

    def __init__(
        self,
        graph: gs.Graph,
        gates: Sequence[Gate],
        cost: Cost,
        goal: float,
        *,
        start: Sequence[Array] | None = None,
        samples: int = 1,
        pace: float = 1.0,
        float_graph: gs.Graph | None = None,
    ) -> None:
        """`start` is w to begin with, 0 where not given; `samples` how many training will show, repeats included.

        `pace`: a step of Adam at a learning rate of 1 moves w by that.
        """
        super().__init__()
        self.gates, self.goal = tuple(gates), goal
        widened, self._inputs = _with_inputs(graph, self.gates)
        self.network = Network(widened, float_graph=float_graph)
        self._cost, self._samples, self._pace = cost, samples, pace
        counts = [gate.count for gate in self.gates]
        first = np.zeros(sum(counts)) if start is None else np.concatenate(start)
        self.raw = nn.Parameter(torch.tensor(first / pace, dtype=torch.float32))
        mean = np.zeros((len(counts), sum(counts)), np.float32)
        for at, stop in enumerate(np.cumsum(counts)):
            mean[at, stop - counts[at] : stop] = 1 / counts[at]
        self.register_buffer("_mean", torch.from_numpy(mean), persistent=False)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.eval()

    @property
    def weights(self) -> dict[str, Any]:
        """Parameters that decay: the network's."""
        return self.network.weights

    @property
    def others(self) -> dict[str, Any]:
        """Parameters that do not: the network's, and the gates."""
        return {**self.network.others, "gates": self.raw}

    def forward(self, feeds: Mapping[str, Tensor], taps: Sequence[str] = ()) -> dict[str, Tensor]:
        """As of the network; in training with noise, and the samples count towards the goal of the step."""
        rows = len(next(iter(feeds.values())))
        values = self._values(rows)
        if self.training:
            self.seen += rows
        found: dict[str, Tensor] = self.network({**feeds, **values}, taps)
        return found

    def _values(self, rows: int) -> dict[str, Tensor]:
        """What the gates are, by name of the input."""
        log_alpha = self.log_alpha()
        if self.training:
            uniform = torch.rand((rows, len(log_alpha)), device=log_alpha.device)
            least = torch.finfo(uniform.dtype).eps
            values = sampled(log_alpha, uniform.clamp(least, 1 - least))
        else:
            values = settled(log_alpha)[None]
        parts = self._split(values)
        found = {}
        for gate, given, part in zip(self.gates, self._inputs, parts, strict=True):
            own = part if given.by_sample else part[:1]
            shape = [1] * gate.rank
            shape[0], shape[gate.axis] = len(own), len(gate.places)
            places = torch.from_numpy(gate.places).to(own.device)
            found[given.name] = own[:, places].reshape(shape).to(given.dtype)
        return found

    def log_alpha(self) -> Tensor:
        """The parameter of every gate's distribution, one after the other, (gates,)."""
        raw = self.raw
        own = raw + (self._pace - 1) * raw.detach()  # w: `pace` times as large, with a gradient of the same size
        return own + level(own, self.left, self._now())

    def left(self, open_: Tensor) -> Tensor:
        """The share of the work that is expected for probabilities of being open."""
        return self._cost((self._mean @ open_).unbind())

    def _now(self) -> float:
        """The goal of this step."""
        done = min(1.0, float(self.seen) / (_DESCENT * self._samples))
        early = max(_EARLY, self.goal)
        return self.goal + (early - self.goal) * (1 + math.cos(math.pi * done)) / 2

    def scores(self) -> list[Array]:
        """The parameter of every gate's distribution, by group."""
        with torch.no_grad():
            return [part.cpu().numpy().astype(np.float64) for part in self._split(self.log_alpha())]

    def _split(self, whole: Tensor) -> list[Tensor]:
        """By group, numbers whose last axis is that of all gates."""
        return list(whole.split([gate.count for gate in self.gates], dim=-1))


def _with_inputs(graph: gs.Graph, gates: Sequence[Gate]) -> tuple[gs.Graph, tuple[_Input, ...]]:
    """A copy of a graph that multiplies each tensor that has gates with a further input."""
    copy = clone(graph)
    annotate(copy)
    found: list[_Input] = []
    batches = {tensor.shape[0] if tensor.shape else None for tensor in copy.inputs}
    readers = {node.outputs[0].name: node for node in copy.nodes if node.outputs}
    with edit.Edit(copy) as e:
        for gate in gates:
            reader = readers[gate.reader]
            at, tensor = next((i, t) for i, t in enumerate(reader.inputs) if t.name == gate.tensor)
            shape: list[int | str | None] = [1] * gate.rank
            shape[gate.axis] = len(gate.places)
            batch = tensor.shape[0] if tensor.shape and gate.axis else None
            by_sample = batch is not None and batches == {batch}
            shape[0] = batch if by_sample else shape[0]
            dtype = reader.inputs[1].dtype
            value = e.fresh(f"{gate.tensor}/gates", dtype, shape)
            copy.inputs.append(value)
            result = e.fresh(f"{gate.tensor}/gated", dtype, tensor.shape)
            e.add("Mul", [tensor, value], [result], name=result.name)
            e.replace_input(reader, at, result)
            found.append(_Input(value.name, tensor_of(np.zeros(0, dtype)).dtype, by_sample))
    return copy, tuple(found)


@dataclass(frozen=True)
class _Input:
    """The input of a graph through which gates come."""

    name: str
    dtype: Any
    by_sample: bool
    """Whether each sample may have gates of its own: the first axis of the tensor is that of the samples."""


def learn(
    graph: gs.Graph,
    teacher: gs.Graph,
    data: Dataset,
    gates: Sequence[Gate],
    cost: Cost,
    goal: float,
    losses: str,
    recipe: Recipe,
    *,
    float_graph: gs.Graph | None = None,
    progress: Progress = lambda _what, _done, _total: None,
) -> tuple[Gated, History]:
    """Train the weights of a graph and gates on it to do what `teacher` does, with `goal` of the work in the end.

    The graph is left as it is: what was learned is in the network that is returned. Gates begin in the order of the
    energy that their components have in what the layer makes of the first samples. The recipe states a learning rate,
    holds nothing out, and has Adam take the steps.

    Raises as `lpcc.train.transfer.transfer`.
    """
    sample = next(iter(data.batches(_SAMPLED)))
    feeds = {name: torch.tensor(value) for name, value in sample.feeds.items()}
    plain, master = Network(graph, float_graph=float_graph), Network(teacher, frozen=True)
    objective = Objective.of(losses, plain, master, feeds, labels=data.labelled)
    samples = len(data) * recipe.epochs
    steps = math.ceil(len(data) / recipe.batch) * recipe.epochs
    gated = Gated(
        graph,
        gates,
        cost,
        goal,
        start=prior(plain, gates, feeds),
        samples=samples,
        pace=_TRAVEL / (recipe.rate(None) * steps / 2),
        float_graph=float_graph,
    )
    return gated, fit(gated, master, objective, data, recipe, progress=progress)


def prior(network: Network, gates: Sequence[Gate], feeds: Mapping[str, Tensor]) -> list[Array]:
    """Where gates begin: half the logarithm of the energy of each component, against the mean of its layer."""
    seen = observed(network, feeds, [gate.tensor for gate in gates])
    found = []
    for gate in gates:
        values = seen[gate.tensor].double()
        others = [axis for axis in range(values.ndim) if axis != gate.axis]
        energy = values.square().mean(dim=others).cpu().numpy() * np.square(gate.strength)
        own = np.bincount(gate.places, energy, gate.count)
        found.append(_PRIOR * np.log(np.maximum(own / max(own.mean(), np.finfo(np.float64).tiny), _LEAST_ENERGY)))
    return found
