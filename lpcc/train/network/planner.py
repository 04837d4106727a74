"""From a graph to a plan: dead nodes dropped, constants folded, a kernel for each node, each value freed in time.

Tensors lie on one of two sides. Those from which shapes, axes and conditions are computed stay on the CPU; all others
are where the network is. Which is which follows from the operators alone, so moves between the two are steps of the
plan, and on a CPU cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx.defs
import onnx_graphsurgeon as gs
import torch

from lpcc import edit
from lpcc.analysis.purity import is_pure
from lpcc.errors import ModelError
from lpcc.train.network.constants import Place
from lpcc.train.network.control import Body, lower_if, lower_loop, lower_scan, nothing
from lpcc.train.network.islands import island, to_device, to_host
from lpcc.train.network.plan import Plan, Step, with_dead
from lpcc.train.operators import Call, Kernel, Mode, Unsupported, lower
from lpcc.train.tensors import array_of, tensor_of

Tensor = Any
Key = Hashable

HOST_INPUTS: Mapping[str, tuple[int, ...]] = {
    "AffineGrid": (1,),
    "CenterCropPad": (1,),
    "Col2Im": (1, 2),
    "ConstantOfShape": (0,),
    "CumSum": (1,),
    "DFT": (1, 2),
    "Dropout": (1, 2),
    "Expand": (1,),
    "If": (0,),
    "Loop": (0, 1),
    "MaxUnpool": (2,),
    "NonMaxSuppression": (2, 3, 4),
    "OneHot": (1,),
    "Pad": (1, 2, 3),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "SequenceAt": (1,),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "SplitToSequence": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Trilu": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
    **dict.fromkeys(("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2"), (1,)),
    **dict.fromkeys(("ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"), (1,)),
}
"""Inputs that are sizes, axes, counts and conditions rather than data."""

_SCALARS: Mapping[str, tuple[int, ...]] = {"Clip": (1, 2), "Gather": (1,), "Pow": (1,)}
"""Inputs that are better given as numbers than as tensors where they are constants of one number."""

_HOST_RESULTS = frozenset(("Shape", "Size"))

_NO_GRADIENT = frozenset(
    {"And", "ArgMax", "ArgMin", "Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual"}
    | {"NonMaxSuppression", "NonZero", "Not", "Or", "Shape", "Size", "Xor"}
)
_WHOLE = ("int32", "int64", "uint32", "uint64", "bool")
"""Types of results through which no gradient passes. Those of fewer bits carry one, as rounded activations do."""

_LARGEST_FOLDED = 1 << 24  # elements of a result; a larger one is computed anew rather than kept

PARAMETER, BUFFER, HOST, LATENT, FEED = "parameter", "buffer", "host", "latent", "feed"
"""Where a value that a plan starts from comes from; the first half of its key."""


@dataclass
class _Known:
    """What is known of a tensor before it is computed."""

    constant: Tensor = None
    key: Key = None
    """Key of the value where it comes from outside all plans."""

    trained: bool = False
    host: bool = False


@dataclass
class _Scope:
    """One plan in the making."""

    slots: dict[Key, int] = field(default_factory=dict)
    outside: list[Key] = field(default_factory=list)
    """Keys of what the plan takes from around it, in the order of its given slots."""

    own: set[Key] = field(default_factory=set)
    steps: list[Step] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    size: int = 1

    def slot(self) -> int:
        self.size += 1
        return self.size - 1

    def make(self, key: Key) -> int:
        """A slot for what a step of this plan, or an input of it, gives."""
        self.slots[key] = self.slot()
        self.own.add(key)
        return self.slots[key]

    def take(self, key: Key) -> int:
        """The slot of a value that this plan has or takes from outside."""
        if key not in self.slots:
            self.slots[key] = self.slot()
            self.outside.append(key)
        return self.slots[key]

    def add(self, label: str, kernel: Kernel, inputs: Sequence[int], outputs: int | tuple[int, ...]) -> None:
        self.steps.append(Step(kernel, tuple(inputs), outputs, ()))
        self.labels.append(label)

    def finish(self, first: Sequence[int], results: Sequence[int]) -> Plan:
        given = (*first, *[self.slots[key] for key in self.outside])
        return Plan(self.size, given, with_dead(self.steps, results), tuple(results), tuple(self.labels))


class Planner:
    """Makes plans of one graph; kernels, folded constants and sessions are made once and serve all of them.

    `trained` are the names of trained constants, `statistics` of those that batch norm updates, `latents` of tensors
    whose values are computed from parameters; `device` holds the device of the network as its one element.
    """

    def __init__(
        self,
        graph: gs.Graph,
        places: Mapping[str, Place],
        *,
        trained: Container[str],
        statistics: Container[str],
        latents: Container[str],
        mode: Mode,
        device: Sequence[Any],
    ) -> None:
        self.graph = graph
        self.mode = mode
        self.latents = latents
        self.folded: dict[Key, Tensor] = {}
        """Constants that plans take, by their keys."""

        self._places = {id(place.tensor): (name, place) for name, place in places.items()}
        self._trained, self._statistics = trained, statistics
        self._known: dict[int, _Known] = {}
        self._alias: dict[int, gs.Tensor] = {}
        self._kernels: dict[int, Kernel] = {}
        self._arrays: dict[int, Any] = {}
        self._to_device = to_device(device)
        domains = {imported.domain: int(imported.version) for imported in graph.import_domains or ()}
        self._opsets = {**domains, "": int(graph.opset), "ai.onnx": int(graph.opset)}

    def plan(self, wanted: Sequence[gs.Tensor]) -> tuple[Plan, list[tuple[str, str]]]:
        """A plan for some tensors of the main graph, and the keys of what it is given.

        Raises:
            ModelError: a node cannot be run: the message names it, its operator, and what can be done.
        """
        for tensor in self.graph.inputs:
            if id(tensor) not in self._places:
                self._known[id(tensor)] = _Known(key=(FEED, tensor.name))
        scope = _Scope()
        self._nodes(self.graph, wanted, scope)
        results = [self._operand(tensor, None, scope) for tensor in wanted]
        keys = [key for key in scope.outside if isinstance(key, tuple)]
        if len(keys) != len(scope.outside):
            raise ModelError("the nodes of the graph are not in order: one reads what a later one gives")
        return scope.finish((), results), keys

    def _nodes(self, graph: gs.Graph, wanted: Iterable[gs.Tensor], scope: _Scope) -> None:
        for node in self._needed(graph, wanted):
            self._node(node, scope)

    def _needed(self, graph: gs.Graph, wanted: Iterable[gs.Tensor]) -> list[gs.Node]:
        """The nodes of one graph that some tensors depend on, in order."""
        read = {id(tensor) for tensor in wanted}
        kept = []
        for node in reversed(graph.nodes):
            if any(id(t) in read and t.name and t.name not in self.latents for t in node.outputs):
                kept.append(node)
                read.update(map(id, node.inputs))
                read.update(map(id, edit.captured(node)))
        return kept[::-1]

    # What is known of tensors

    def _real(self, tensor: gs.Tensor) -> gs.Tensor:
        while id(tensor) in self._alias:
            tensor = self._alias[id(tensor)]
        return tensor

    def _of(self, tensor: gs.Tensor) -> _Known:
        """What is known of a tensor, constants among them."""
        tensor = self._real(tensor)
        found = self._known.get(id(tensor))
        if found is None:
            found = self._known[id(tensor)] = self._first_seen(tensor)
        return found

    def _first_seen(self, tensor: gs.Tensor) -> _Known:
        if tensor.name in self.latents:
            return _Known(key=(LATENT, tensor.name), trained=True)
        if id(tensor) not in self._places:
            raise ModelError(f"nothing gives tensor `{tensor.name}` a value")
        name, place = self._places[id(tensor)]
        if name in self._trained:
            return _Known(key=(PARAMETER, name), trained=True)
        if name in self._statistics:
            return _Known(key=(BUFFER, name))
        try:
            constant = tensor_of(place.values)
        except TypeError:
            raise ModelError(f"constant `{name}` holds {place.dtype}, which cannot be run in torch") from None
        if place.is_input:  # callers may give another value: nothing is folded with this one
            self.folded[FEED, tensor.name] = constant
            return _Known(key=(FEED, tensor.name))
        return _Known(constant=constant)

    def _is_constant(self, tensor: gs.Tensor) -> bool:
        """Whether a tensor has a value already, in a Constant node or as what was folded before."""
        known = self._known.get(id(tensor))
        return id(tensor) in self._places or (known is not None and known.constant is not None)

    def _is_scalar(self, tensor: gs.Tensor) -> bool:
        constant = self._of(tensor).constant
        return constant is not None and constant.dim() == 0

    # Steps

    def _operand(self, tensor: gs.Tensor, host: bool | None, scope: _Scope) -> int:
        """Slot of a tensor on the side that is asked for; on its own where that is None."""
        if not tensor.name:
            return 0
        tensor, known = self._real(tensor), self._of(tensor)
        if known.constant is not None:
            key = (HOST if host else BUFFER, tensor.name)
            if self.folded.setdefault(key, known.constant) is not known.constant:  # two branches may share a name
                key = (key[0], f"{tensor.name}#{id(tensor)}")
                self.folded[key] = known.constant
            return scope.take(key)
        own: Key = known.key or id(tensor)
        if host is None or host == known.host:
            return scope.take(own)
        moved = (id(tensor), host)
        if moved not in scope.slots:
            slot = scope.take(own)
            scope.add(f"tensor `{tensor.name}`", to_host if host else self._to_device, (slot,), scope.make(moved))
        return scope.slots[moved]

    def _node(self, node: gs.Node, scope: _Scope) -> None:
        op = edit.op(node)
        if all(self._is_constant(tensor) for tensor in node.outputs):
            return
        if op == "Identity":
            self._alias[id(node.outputs[0])] = self._real(node.inputs[0])
            return
        knowns = [self._of(tensor) for tensor in node.inputs if tensor.name]
        if edit.subgraphs(node):
            self._control(node, knowns, scope)
            return
        trained = any(known.trained for known in knowns)
        kernel = self._kernels.get(id(node))
        if kernel is None:
            kernel = self._kernels[id(node)] = self._lower(node, trained=trained)
        constant = all(known.constant is not None for known in knowns) and is_pure(node, int(self.graph.opset))
        if constant and self._fold(node, kernel):
            return
        sizes = HOST_INPUTS.get(op, ())
        data = [i for i, tensor in enumerate(node.inputs) if tensor.name and i not in sizes]
        host = all(self._of(node.inputs[i]).host or self._of(node.inputs[i]).constant is not None for i in data)
        sizes = (*sizes, *(i for i in _SCALARS.get(op, ()) if i in data and self._is_scalar(node.inputs[i])))
        inputs = [self._operand(tensor, host or i in sizes, scope) for i, tensor in enumerate(node.inputs)]
        self._write(node, kernel, inputs, scope, trained=trained, host=host or op in _HOST_RESULTS)

    def _write(
        self, node: gs.Node, kernel: Kernel, inputs: Sequence[int], scope: _Scope, *, trained: bool, host: bool
    ) -> None:
        """Add the step of a node."""
        passes = trained and edit.op(node) not in _NO_GRADIENT
        for tensor in node.outputs:
            self._known[id(tensor)] = _Known(trained=passes and _carries(tensor), host=host)
        named = [scope.make(id(tensor)) if tensor.name else -1 for tensor in node.outputs]
        scope.add(_named(node), kernel, inputs, named[0] if len(named) == 1 else tuple(named))

    def _fold(self, node: gs.Node, kernel: Kernel) -> bool:
        """Compute a node of constants once; False where its results are too large to be kept."""
        try:
            with torch.no_grad():
                found = kernel(*[self._of(t).constant if t.name else None for t in node.inputs])
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise ModelError(f"{_named(node)} cannot run: {' '.join(str(error).split())[:400]}") from error
        results = found if isinstance(found, tuple | list) and len(node.outputs) > 1 else (found,)
        if not all(isinstance(value, torch.Tensor) and value.numel() <= _LARGEST_FOLDED for value in results):
            return False
        for tensor, value in zip(node.outputs, results, strict=False):
            self._known[id(tensor)] = _Known(constant=value)
        return True

    def _lower(self, node: gs.Node, *, trained: bool) -> Kernel:
        call = self._call(node)
        try:
            kernel = lower(call)
            return _first(kernel) if len(node.outputs) == 1 and _may_give_several(call) else kernel
        except Unsupported as why:
            if trained and edit.op(node) not in _NO_GRADIENT and any(map(_carries, node.outputs)):
                raise ModelError(
                    f"{_named(node)} cannot be trained through: {why}. Weights before it would get no gradient: replace"
                    " the node, or train without the outputs that depend on it"
                ) from None
            return island(node, self.graph, [self._array(tensor) for tensor in node.inputs])

    def _call(self, node: gs.Node) -> Call:
        domain = "" if node.domain in (None, "", "ai.onnx") else str(node.domain)
        return Call(
            op=str(node.op),
            domain=domain,
            opset=self._opsets.get(domain, 1),
            attrs=node.attrs,
            inputs=len(node.inputs),
            outputs=len(node.outputs),
            name=edit.label(node),
            mode=self.mode,
            types=tuple(np.dtype(t.dtype) if t.name and t.dtype is not None else None for t in node.inputs),
        )

    def _array(self, tensor: gs.Tensor) -> Any:
        """Value of a constant in its ONNX type; None for all others."""
        if not tensor.name or self._of(tensor).constant is None:
            return None
        found = self._places.get(id(self._real(tensor)))
        if found is not None:
            return found[1].values
        constant = self._of(tensor).constant
        return array_of(constant, tensor.dtype) if tensor.dtype is not None else constant.numpy()

    # Control flow

    def _control(self, node: gs.Node, knowns: Sequence[_Known], scope: _Scope) -> None:
        op = edit.op(node)
        captured = [self._of(t) for t in edit.captured(node) if t.name and self._is_outside(t)]
        trained = any(known.trained for known in (*knowns, *captured))
        extra: list[Key] = []
        call = self._call(node)
        try:
            kernel = self._lower_control(op, call, node, lambda body, first: self._body(body, first, trained, extra))
        except Unsupported as why:
            raise ModelError(f"{_named(node)} cannot be run in torch: {why}") from None
        sizes = HOST_INPUTS.get(op, ())
        inputs = [self._operand(tensor, i in sizes, scope) for i, tensor in enumerate(node.inputs)]
        self._write(node, kernel, [*inputs, *map(scope.take, extra)], scope, trained=trained, host=False)

    def _is_outside(self, tensor: gs.Tensor) -> bool:
        """Whether a tensor that a body reads is known already: a constant, or made before the body."""
        real = self._real(tensor)
        return id(real) in self._known or id(real) in self._places or real.name in self.latents

    def _lower_control(
        self, op: str, call: Call, node: gs.Node, body: Callable[[gs.Graph, Sequence[int]], Body]
    ) -> Kernel:
        if op == "If":
            return lower_if(body(node.attrs["then_branch"], ()), body(node.attrs["else_branch"], ()))
        if op == "Loop":
            return lower_loop(body(node.attrs["body"], (0, 1)), call.inputs)
        if op == "Scan":
            return lower_scan(call, body(node.attrs["body"], ()))
        raise Unsupported("of the operators with subgraphs only If, Loop and Scan are known")

    def _body(self, graph: gs.Graph, host_inputs: Sequence[int], trained: bool, extra: list[Key]) -> Body:
        """The plan of a subgraph; `extra` gains the keys of what it takes from outside."""
        scope = _Scope()
        first = []
        for index, tensor in enumerate(graph.inputs):
            host = index in host_inputs
            self._known[id(tensor)] = _Known(trained=trained and not host and _carries(tensor), host=host)
            first.append(scope.make(id(tensor)))
        self._nodes(graph, graph.outputs, scope)
        results = [self._operand(t, bool(host_inputs) and i == 0, scope) for i, t in enumerate(graph.outputs)]
        outer = []
        for key in scope.outside:
            if key not in extra:
                extra.append(key)
            outer.append(extra.index(key))
        empty = tuple(nothing(None if t.dtype is None else np.dtype(t.dtype), t.shape) for t in graph.outputs)
        return Body(scope.finish(first, results), tuple(outer), empty)


def _may_give_several(call: Call) -> bool:
    """Whether an operator has results that this node does not ask for."""
    try:
        return bool(onnx.defs.get_schema(call.op, call.opset, call.domain).max_output > 1)
    except onnx.defs.SchemaError:
        return False


def _first(kernel: Kernel) -> Kernel:
    """The kernel, giving its first result where it gives several."""

    def first(*inputs: Any) -> Any:
        result = kernel(*inputs)
        return result[0] if isinstance(result, tuple) else result

    return first


def _named(node: gs.Node) -> str:
    return f"node `{edit.label(node)}` ({edit.op(node)})"


def _carries(tensor: gs.Tensor) -> bool:
    """Whether a gradient can pass through a tensor, as far as its type says."""
    return tensor.dtype is None or np.dtype(tensor.dtype).name not in _WHOLE
