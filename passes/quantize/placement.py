"""Which nodes become integer kernels and which tensors share a scale."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.quantized import LAYERS
from lpcc.formats.affine import Params
from lpcc.passes.quantize.bits import Formats, Width
from lpcc.passes.quantize.operators import (
    HARD_SWISH_LOW,
    ONNXRUNTIME,
    SHRINKS,
    Bounds,
    Operation,
    Role,
    Rules,
    activation_bounds,
    operation,
)
from lpcc.passes.quantize.regions import idle_regions
from lpcc.pipeline import Changes

SKIPPED = "named in `skip`"
KEPT = "named in `keep`"
_SLOWER = "is predicted to take longer on integers here, with the conversions that they need"
_PICKY = frozenset({"AveragePool", "MaxPool", "ReduceMax", "Resize"})
"""Operators whose integer kernels are slow on what no integer kernel made: then the layout is the wrong one."""


@dataclass(frozen=True, eq=False)
class Unit:
    """What becomes one integer kernel: a node, and the activation behind it, which quantisation makes superfluous."""

    node: gs.Node
    operation: Operation
    tail: gs.Node | None = None
    bounds: Bounds | None = None

    @property
    def role(self) -> Role:
        """The role of the node."""
        return self.operation.role

    @property
    def operands(self) -> list[gs.Tensor]:
        """The activations that it reads."""
        return [self.node.inputs[index] for index in self.operation.operands]

    @property
    def has_constant_operand(self) -> bool:
        """Whether it is a sum or product with a constant."""
        return edit.op(self.node) in ("Add", "Mul") and any(isinstance(t, gs.Constant) for t in self.node.inputs)

    @property
    def results(self) -> list[gs.Tensor]:
        """What it writes."""
        return [tensor for tensor in (self.tail or self.node).outputs if tensor.name]


@dataclass
class Placement:
    """The integer kernels of a graph, in the order of its nodes."""

    units: list[Unit]
    float_results: set[int] = field(default_factory=set)
    """Ids of results that their kernel writes as floats, unquantised."""
    leaders: dict[int, gs.Tensor] = field(default_factory=dict)
    """By id of a quantised tensor: the one that stands for all that share its scale."""
    measured: dict[int, list[gs.Tensor]] = field(default_factory=dict)
    """By id of a leader: the tensors whose values decide the scale."""
    bounds: dict[int, Bounds] = field(default_factory=dict)
    """By id of a leader: limits that the range must keep to."""
    fixed: dict[int, Params] = field(default_factory=dict)
    """By id of a leader: the scale and zero point that its kernel prescribes."""
    anchored: set[int] = field(default_factory=set)
    """Ids of leaders whose least integer stands for the lower end of a HardSwish."""
    widths: dict[str, Width] = field(default_factory=dict)
    """By name of a contraction: bits of its weights; 8 where it is not listed."""
    formats: Formats = field(default_factory=Formats)
    """What computes in 16 bits."""
    wide: set[int] = field(default_factory=set)
    """Ids of leaders whose integers have 16 bits."""

    def tensors(self) -> list[gs.Tensor]:
        """All tensors whose values decide a scale, each once."""
        found = {id(t): t for group in self.measured.values() for t in group}
        return list(found.values())


class Planner:
    """Chooses the integer kernels of one graph: as many as possible, less those that only convert back and forth."""

    def __init__(
        self,
        graph: gs.Graph,
        left: Mapping[str, str],
        changes: Changes,
        least_work: float = 0.0,
        rules: Rules = ONNXRUNTIME,
        formats: Formats | None = None,
    ) -> None:
        """`left` says by name of a node why it stays in float; `least_work` is that of `idle_regions`."""
        self._formats = formats or Formats()
        self._rules = rules
        self._graph = graph
        self._least_work = least_work
        self._changes = changes
        self._edit = edit.Edit(graph)  # to read from
        self._units: dict[int, Unit] = {}  # by id of the node, and of its tail
        self._reasons: dict[int, str] = {}  # by id of the node: why it is left alone
        for node in graph.nodes:
            self._consider(node, left)

    def place(self, slower: Callable[[Sequence[Unit]], Sequence[Unit]] | None = None) -> Placement:
        """The placement. Refusals go to the changes. `slower` says which of the units had better stay in float."""
        self._drop_islands()
        self._drop_idle_regions()
        if slower is not None:
            for loser in slower([unit for _, unit in self._each()]):
                self._drop(loser, _SLOWER)
            self._drop_picky()
        self._refuse()
        units = [unit for node in self._graph.nodes if (unit := self._units.get(id(node))) and unit.node is node]
        placement = Placement(units, formats=self._formats)
        for unit in units:
            writes_float = edit.op(unit.node) in self._rules.float_output and unit.tail is None
            if writes_float and not any(self._is_read_as_integer(t) for t in unit.results):
                placement.float_results.update(id(t) for t in unit.results)
        _Scales(placement, self._edit, self._rules).share()
        return placement

    def _consider(self, node: gs.Node, left: Mapping[str, str]) -> None:
        if id(node) in self._units:
            return  # the activation of a unit
        if edit.label(node) in self._formats.converts:
            self._units[id(node)] = Unit(node, Operation(Role.COMPUTE, (0,)))
            return
        found = operation(node, self._rules)
        if found is None:
            return
        if isinstance(found, str):
            self._reasons[id(node)] = found
            return
        if edit.label(node) in left:
            self._reasons[id(node)] = left[edit.label(node)]
            return
        maker = self._units.get(id(self._edit.producer(node.inputs[0])))
        if edit.op(node) == "HardSwish" and maker is not None and maker.role not in (Role.CONTRACT, Role.COMPUTE):
            self._reasons[id(node)] = "what it reads shares its scale with other tensors"
            return
        unit = Unit(node, found)
        after = self._edit.only_user(node.outputs[0])
        if after is not None and found.role in (Role.CONTRACT, Role.COMPUTE) and id(after) not in self._units:
            bounds = activation_bounds(after)
            if bounds is not None and after.inputs[0] is node.outputs[0] and len(after.outputs) == 1:
                unit = Unit(node, found, after, bounds)
                self._units[id(after)] = unit
        self._units[id(node)] = unit

    def _drop_islands(self) -> None:
        """Drop what does not contract and is not between integer kernels, until nothing changes.

        Each node is looked at again only when a neighbour was dropped, so the work is linear.
        """
        waiting = [unit for _, unit in self._each()]
        while waiting:
            unit = waiting.pop()
            if self._units.get(id(unit.node)) is not unit or self._pays(unit):
                continue
            self._drop(unit, "is not between integer kernels: converting would cost more than it saves")
            waiting += self._neighbours(unit)

    def _drop_idle_regions(self) -> None:
        """Drop the regions that do too little to pay for their conversions."""
        if self._least_work > 0:
            for region in idle_regions(self._graph, [unit for _, unit in self._each()], self._least_work):
                for unit in region:
                    self._drop(unit, "does too little between float operators to pay for converting to int8 and back")

    def _drop_picky(self) -> None:
        """Drop what is slow on integers that come from float operators, until nothing changes."""
        waiting = [unit for _, unit in self._each() if edit.op(unit.node) in _PICKY]
        while waiting:
            unit = waiting.pop()
            if self._units.get(id(unit.node)) is unit and not all(self._is_made_as_integer(t) for t in unit.operands):
                self._drop(unit, _SLOWER)
                waiting += [other for other in self._neighbours(unit) if edit.op(other.node) in _PICKY]

    def _drop(self, unit: Unit, reason: str) -> None:
        del self._units[id(unit.node)]
        if unit.tail is not None:
            del self._units[id(unit.tail)]
        self._reasons[id(unit.node)] = reason

    def _refuse(self) -> None:
        """Report what is left alone: layers with weights and those to be skipped, others if they read integers."""
        for node in self._graph.nodes:
            reason = self._reasons.get(id(node))
            is_asked = reason in (SKIPPED, KEPT) or edit.op(node) in LAYERS
            if reason is not None and (is_asked or any(self._is_made_as_integer(t) for t in node.inputs)):
                self._changes.refuse(node, reason)
            for body in edit.subgraphs(node):
                for inner in edit.nodes(body):
                    if edit.op(inner) in LAYERS:
                        self._changes.refuse(inner, f"stands in a body of {edit.op(node)}")

    def _each(self) -> Iterator[tuple[gs.Node, Unit]]:
        for node in self._graph.nodes:
            unit = self._units.get(id(node))
            if unit is not None and unit.node is node:
                yield node, unit

    def _neighbours(self, unit: Unit) -> list[Unit]:
        nodes = [self._edit.producer(t) for t in unit.operands]
        nodes += [user for t in unit.results for user in self._edit.users(t)]
        return [self._units[id(node)] for node in nodes if node is not None and id(node) in self._units]

    def _pays(self, unit: Unit) -> bool:
        if unit.role is Role.CONTRACT or edit.label(unit.node) in self._formats.converts:
            return True
        made = [self._is_made_as_integer(t) for t in unit.operands]
        read = [self._is_read_as_integer(t) for t in unit.results]
        if unit.role in (Role.MOVE, Role.INTEGER) and edit.op(unit.node) not in _PICKY | {"Clip", "Max", "Min", "Relu"}:
            # At the entry of a region integers are the cheaper ones to move.
            return any(read) and (all(made) or all(len(t.outputs) == 1 for t in unit.operands))
        if edit.op(unit.node) in SHRINKS and unit.role is Role.MOVE and all(made):
            return True
        return all(made) and (any(read) or self._rules.ends)

    def _is_made_as_integer(self, tensor: gs.Tensor) -> bool:
        producer = self._edit.producer(tensor)
        return producer is not None and id(producer) in self._units

    def _is_read_as_integer(self, tensor: gs.Tensor) -> bool:
        for user in self._edit.users(tensor):
            unit = self._units.get(id(user))
            if unit is not None and unit.node is user and any(t is tensor for t in unit.operands):
                return True
        return False


class _Scales:
    """Union-find over the quantised tensors of a placement: those that share a scale."""

    def __init__(self, placement: Placement, reader: edit.Edit, rules: Rules) -> None:
        self._rules = rules
        self._placement = placement
        self._edit = reader
        self._parent: dict[int, int] = {}
        self._tensors: dict[int, gs.Tensor] = {}
        self._limits: dict[
            int, Bounds | None
        ] = {}  # by root: what the activations that write the tensors limit them to
        self._made: dict[int, Unit] = {id(t): unit for unit in placement.units for t in unit.results}

    def share(self) -> None:
        """Fill in `leaders`, `measured` and `bounds` of the placement."""
        units = self._placement.units
        for unit in units:
            for tensor in [*unit.operands, *unit.results]:
                if id(tensor) not in self._placement.float_results and id(tensor) not in self._parent:
                    self._tensors[id(tensor)] = tensor
                    self._parent[id(tensor)] = id(tensor)
                    maker = self._made.get(id(tensor))
                    self._limits[id(tensor)] = None if maker is None else maker.bounds
        follows: set[int] = set()
        for unit in units:
            if unit.role in (Role.MOVE, Role.INTEGER) or (unit.role is Role.JOIN and self._joins(unit)):
                follows.update(id(tensor) for tensor in unit.results)
                theirs = {self._limits[self._find(id(tensor))] for tensor in unit.operands}
                for tensor in [*unit.operands, *unit.results]:
                    self._join(unit.operands[0], tensor)
                if len(theirs) > 1:  # only where kernels clamp by themselves
                    self._limits[self._find(id(unit.operands[0]))] = None
        for key, tensor in self._tensors.items():
            leader = self._find(key)
            self._placement.leaders[key] = self._tensors[leader]
            if key not in follows:
                self._placement.measured.setdefault(leader, []).extend(self._origins(tensor))
            limits = self._limits[leader]
            if limits is not None:
                self._placement.bounds[leader] = limits
        for unit in units:
            if edit.label(unit.node) in self._placement.formats.wide:
                self._placement.wide.update(self._find(id(tensor)) for tensor in unit.results)
            if edit.label(unit.node) in self._placement.formats.wide - self._placement.formats.converts:
                self._placement.wide.update(self._find(id(tensor)) for tensor in unit.operands)
        for unit in units:
            self._prescribe(unit)

    def _prescribe(self, unit: Unit) -> None:
        """Note what a unit's kernel asks of its scales."""
        op = edit.op(unit.node)
        if op in self._rules.fixed:
            scale, zero = self._rules.fixed[op]
            leader = self._find(id(unit.results[0]))
            if leader in self._placement.wide:
                self._placement.fixed[leader] = Params(np.float32(1 / 32768), 0, np.dtype(np.int16))
            else:
                self._placement.fixed[leader] = Params(np.float32(scale), zero, np.dtype(np.int8))
        if op == "HardSwish" and op in self._rules.spelt:
            leader = self._find(id(unit.operands[0]))
            self._placement.bounds[leader] = (HARD_SWISH_LOW, np.inf)
            self._placement.anchored.add(leader)

    def _origins(self, tensor: gs.Tensor) -> list[gs.Tensor]:
        """The tensors that this one's values come from, where operators in float only moved them.

        They are the ones that decide the scale if those operators run on integers, so that skipping a layer asks for no
        statistics that were not there before.
        """
        found: dict[int, gs.Tensor] = {}
        waiting = [tensor]
        while waiting:
            tensor = waiting.pop()
            maker = self._edit.producer(tensor)
            moved = None if maker is None or id(tensor) in self._made else operation(maker, self._rules)
            if isinstance(moved, Operation) and moved.role in (Role.MOVE, Role.JOIN) and maker is not None:
                waiting += [maker.inputs[index] for index in moved.operands]
            else:
                found[id(tensor)] = tensor
        return list(found.values())

    def _joins(self, unit: Unit) -> bool:
        """Whether a Concat and its operands should share one scale: then it only moves bytes.

        Not where an operand is read by others too, which would lose resolution for nothing, and not where activations
        limit some operands and not all: an activation is superfluous only if the range keeps to its limits.
        """
        if self._rules.joins:
            return True
        if any(self._edit.only_user(t) is None or self._edit.producer(t) is None for t in unit.operands):
            return False
        return len({self._limits[self._find(id(tensor))] for tensor in unit.operands}) == 1

    def _find(self, key: int) -> int:
        root = key
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[key] != root:
            self._parent[key], key = root, self._parent[key]
        return root

    def _join(self, a: gs.Tensor, b: gs.Tensor) -> None:
        self._parent[self._find(id(b))] = self._find(id(a))
