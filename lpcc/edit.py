"""The edits that passes use. Nodes and tensors go by identity, every edit is O(1), nothing is lost on the way.

onnx-graphsurgeon compares nodes by content and tensors by name, so its own list operations can remove a twin and take
quadratic time. Everything here goes by identity instead, and a round of edits rebuilds the node list once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from lpcc.errors import PassError

_STANDARD = (None, "", "ai.onnx")


def op(node: gs.Node) -> str:
    """Operator of a node: the bare type for ONNX's own operators, ``domain::Type`` for all others.

    A custom domain's ``Relu`` is not ONNX's, and neither is a local function of that name.
    """
    return str(node.op) if node.domain in _STANDARD else f"{node.domain}::{node.op}"


def label(node: gs.Node | str) -> str:
    """A name for messages: the node's own, else that of its first output, else its operator."""
    if isinstance(node, str):
        return node
    return str(node.name or next((t.name for t in node.outputs if t.name), "") or node.op)


def attr(node: gs.Node, name: str, default: Any = None) -> Any:
    """Attribute of a node, or `default` where it is absent."""
    return node.attrs.get(name, default)


def inp(node: gs.Node, index: int) -> gs.Tensor | None:
    """Input tensor of a node, None where it is omitted."""
    if index >= len(node.inputs) or node.inputs[index].name == "":
        return None
    return node.inputs[index]


def out(node: gs.Node, index: int = 0) -> gs.Tensor | None:
    """Output tensor of a node, None where it is omitted."""
    if index >= len(node.outputs) or node.outputs[index].name == "":
        return None
    return node.outputs[index]


def const(tensor: gs.Tensor | None) -> np.ndarray | None:
    """Values of a constant tensor; None for anything else. Never change the array: weights are shared."""
    return tensor.values if isinstance(tensor, gs.Constant) else None


def scalar(tensor: gs.Tensor | None) -> float | None:
    """Value of a numeric constant with exactly one element; None for anything else."""
    if not isinstance(tensor, gs.Constant) or int(np.prod(tensor.shape)) != 1:
        return None
    values = np.asarray(tensor.values)
    return None if values.dtype.kind in "Oc" else float(values.reshape(-1)[0].astype(np.float64))


def subgraphs(node: gs.Node) -> list[gs.Graph]:
    """The graphs among a node's attributes: the bodies of If, Loop, Scan and SequenceMap."""
    found: list[gs.Graph] = []
    for value in node.attrs.values():
        if isinstance(value, gs.Graph):
            found.append(value)
        elif isinstance(value, list) and value and isinstance(value[0], gs.Graph):
            found.extend(value)
    return found


def graphs(graph: gs.Graph) -> Iterator[gs.Graph]:
    """The graph and all graphs nested in it, outermost first."""
    yield graph
    for node in list(graph.nodes):
        for inner in subgraphs(node):
            yield from graphs(inner)


def nodes(graph: gs.Graph) -> Iterator[gs.Node]:
    """All nodes of the graph and of all graphs nested in it."""
    for scope in graphs(graph):
        yield from scope.nodes


def link(node: gs.Node, inputs: Sequence[gs.Tensor], outputs: Sequence[gs.Tensor]) -> gs.Node:
    """Attach tensors to a node that has none yet, past the synchronised lists, whose upkeep compares by content."""
    list.extend(node.inputs, inputs)
    list.extend(node.outputs, outputs)
    for tensor in inputs:
        list.append(tensor.outputs, node)
    for tensor in outputs:
        list.append(tensor.inputs, node)
    return node


def _drop_one(items: list[Any], item: object) -> None:
    """Remove one occurrence of `item`, by identity, looking from both ends: passes remove the oldest or newest user."""
    last = len(items) - 1
    for index in range(last // 2 + 1):
        for place in (last - index, index):
            if items[place] is item:
                list.__delitem__(items, place)
                return


class Edit:
    """One round of edits on one graph (not on its subgraphs), as a context manager.

    Reads (`users`, `producer`) see every edit at once. The node list is rebuilt when the block ends, in topological
    order, keeping the old order where it is legal. `nodes` is the list as it was at the start; skip those that are no
    longer `live`. Nothing is rebuilt if the block raises.
    """

    def __init__(self, graph: gs.Graph) -> None:
        self.graph = graph
        self.nodes: list[gs.Node] = list(graph.nodes)
        self._own = {id(node) for node in self.nodes}
        self._removed: dict[int, gs.Node] = {}  # holds the nodes, so that no id is given out twice within the round
        self._added: list[gs.Node] = []
        self._outputs = _returned(graph)
        self._rewired = False

    def __enter__(self) -> Edit:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is not None or not (self._removed or self._added or self._rewired):
            return
        kept = [node for node in self.nodes if id(node) not in self._removed]
        kept += [node for node in self._added if id(node) not in self._removed]
        self.graph.nodes[:] = kept
        sort(self.graph)

    def live(self, node: gs.Node) -> bool:
        """Whether the node was not removed in this round."""
        return id(node) not in self._removed

    def owns(self, node: gs.Node) -> bool:
        """Whether the node is, or was at the start, one of this graph and not of one around it or in it."""
        return id(node) in self._own

    def users(self, tensor: gs.Tensor) -> list[gs.Node]:
        """Consumers of a tensor, also those inside subgraphs; a node that reads it twice occurs twice."""
        return list(tensor.outputs)

    def producer(self, tensor: gs.Tensor | None) -> gs.Node | None:
        """The node that makes a tensor; None for graph inputs, constants and missing tensors."""
        if tensor is None or len(tensor.inputs) != 1:
            return None
        node: gs.Node = tensor.inputs[0]
        return node

    def is_output(self, tensor: gs.Tensor) -> bool:
        """Whether the tensor is an output of this graph or is returned by one nested in it."""
        return id(tensor) in self._outputs

    def only_user(self, tensor: gs.Tensor) -> gs.Node | None:
        """The one consumer of a tensor; None if it has none, several, or is a graph output."""
        if len(tensor.outputs) != 1 or self.is_output(tensor):
            return None
        node: gs.Node = tensor.outputs[0]
        return node

    def fresh(self, hint: str, dtype: Any = None, shape: Sequence[int | str | None] | None = None) -> gs.Variable:
        """A new variable with a name that is unique in the whole model, made from `hint`."""
        return gs.Variable(self._name(hint), dtype=dtype, shape=None if shape is None else list(shape))

    def constant(self, hint: str, values: np.ndarray) -> gs.Constant:
        """A new constant with a name that is unique in the whole model, made from `hint`."""
        return gs.Constant(self._name(hint), np.ascontiguousarray(values) if values.ndim else np.asarray(values))

    def add(
        self,
        op: str,
        inputs: Sequence[gs.Tensor],
        outputs: Sequence[gs.Tensor],
        attrs: dict[str, Any] | None = None,
        name: str = "",
        domain: str | None = None,
    ) -> gs.Node:
        """A new node. Its place in the node list follows from its inputs and outputs."""
        node = gs.Node(op=op, name=name, attrs=dict(attrs or {}), domain=domain)
        link(node, inputs, outputs)
        self._added.append(node)
        self._own.add(id(node))
        return node

    def adopt(self, node: gs.Node) -> None:
        """Take in a node of another graph, which must drop it, with its tensors."""
        self._added.append(node)
        self._own.add(id(node))

    def remove(self, node: gs.Node) -> None:
        """Detach a node from its tensors and drop it, with all that its subgraphs hold."""
        self._removed[id(node)] = node
        for body in subgraphs(node):
            for child in nodes(body):
                for tensor in child.inputs:
                    _drop_one(tensor.outputs, child)
        for tensor in node.inputs:
            _drop_one(tensor.outputs, node)
        for tensor in node.outputs:
            _drop_one(tensor.inputs, node)
        list.clear(node.inputs)
        list.clear(node.outputs)

    def replace_input(self, node: gs.Node, index: int, tensor: gs.Tensor) -> None:
        """Let input `index` of `node` read `tensor` instead; omitted inputs before it are filled with empty ones."""
        while len(node.inputs) <= index:
            empty = gs.Variable.empty()
            list.append(node.inputs, empty)
            list.append(empty.outputs, node)
        _drop_one(node.inputs[index].outputs, node)
        list.__setitem__(node.inputs, index, tensor)
        list.append(tensor.outputs, node)
        self._rewired = True

    def replace_output(self, node: gs.Node, index: int, tensor: gs.Tensor) -> None:
        """Let output `index` of `node` be `tensor`, which nothing else may write. Users of the old one stay with it."""
        self._retarget(node, node.outputs[index], tensor)

    def drop_inputs(self, node: gs.Node, first: int) -> None:
        """Cut the inputs of `node` from index `first` on."""
        for tensor in node.inputs[first:]:
            _drop_one(tensor.outputs, node)
        list.__delitem__(node.inputs, slice(first, None))

    def replace_uses(self, old: gs.Tensor, new: gs.Tensor) -> None:
        """Let every consumer of `old`, also those inside subgraphs, read `new`. Graph outputs stay what they are."""
        if old is new:
            return
        for node in old.outputs:
            for index, tensor in enumerate(node.inputs):
                if tensor is old:
                    list.__setitem__(node.inputs, index, new)
                    list.append(new.outputs, node)
        list.clear(old.outputs)
        self._rewired = True

    def bypass(self, node: gs.Node, index: int = 0) -> bool:
        """Drop a node whose first output equals its input `index`: its consumers read that input.

        A graph output keeps its name: then the producer of the input writes it directly. False, with nothing changed,
        where that cannot be: the input is itself a graph output, a graph input or a constant, or is made outside
        this graph; and where another output of the node is used.
        """
        source, target = node.inputs[index], node.outputs[0]
        if any(tensor.outputs or self.is_output(tensor) for tensor in node.outputs[1:]):
            return False
        if not self.is_output(target):
            self.replace_uses(target, source)
            self.remove(node)
            return True
        maker = self.producer(source)
        if maker is None or self.is_output(source) or id(maker) not in self._own:
            return False
        self.remove(node)
        self.replace_uses(source, target)
        self._retarget(maker, source, target)
        return True

    def redirect(self, old: gs.Tensor, new: gs.Node, index: int = 0) -> None:
        """Let output `index` of `new` take over `old`: its name, type and uses. The old producer is removed."""
        maker = self.producer(old)
        if maker is not None and maker is not new:
            self.remove(maker)
        placeholder = new.outputs[index]
        if placeholder is not old:
            self._retarget(new, placeholder, old)

    def settle(self, old: gs.Variable, values: Any) -> bool:
        """Let a constant of the same name take the place of `old`, also where the graph returns it.

        `values` is an array or values not yet read. The producer of `old` must be removed by the caller. False, with
        nothing changed, where a nested graph returns `old` itself, which ONNX has no way to say of a constant.
        """
        places = [index for index, tensor in enumerate(self.graph.outputs) if tensor is old]
        if self.is_output(old) and not places:
            return False
        new = gs.Constant(old.name, values)
        self.replace_uses(old, new)
        for index in places:
            new.carried = getattr(old, "carried", None)
            self.graph.outputs[index] = new
            self._outputs.add(id(new))
        return True

    def _retarget(self, node: gs.Node, old: gs.Tensor, new: gs.Tensor) -> None:
        """Let `node` write `new` where it wrote `old`."""
        for position, tensor in enumerate(node.outputs):
            if tensor is old:
                list.__setitem__(node.outputs, position, new)
                _drop_one(old.inputs, node)
                list.append(new.inputs, node)
                self._rewired = True
                return

    def _name(self, hint: str) -> str:
        return _names_of(self.graph).fresh(hint)


class _Names:
    """The tensor names of a whole model: inner graphs must not shadow outer ones."""

    def __init__(self, taken: set[str]) -> None:
        self._taken = taken
        self._next: dict[str, int] = {}

    def fresh(self, hint: str) -> str:
        name = hint
        while name in self._taken or not name:
            number = self._next.get(hint, 1)
            self._next[hint] = number + 1
            name = f"{hint}_{number}"
        self._taken.add(name)
        return name


def _names_of(graph: gs.Graph) -> _Names:
    names: _Names | None = graph.__dict__.get("_lpcc_names")
    if names is None:
        index_names(graph)
        names = graph.__dict__["_lpcc_names"]
    return names


def index_names(root: gs.Graph) -> None:
    """Note the names of a model's tensors, for `Edit.fresh`. The door does it for every model that passes it."""
    taken: set[str] = set()
    scopes = list(graphs(root))
    for scope in scopes:
        taken.update(t.name for t in [*scope.inputs, *scope.outputs, *scope.__dict__.get("loose", [])])
        for node in scope.nodes:
            taken.update(t.name for t in node.inputs)
            taken.update(t.name for t in node.outputs)
    names = _Names(taken)
    for scope in scopes:
        scope.__dict__["_lpcc_names"] = names


def _returned(graph: gs.Graph) -> set[int]:
    """Ids of the tensors that this graph returns, or that a graph nested in it returns without making them."""
    found = {id(tensor) for tensor in graph.outputs}
    for node in graph.nodes:
        for inner in subgraphs(node):
            found |= _returned(inner)
    return found


def captured(node: gs.Node) -> Iterator[gs.Tensor]:
    """Tensors that the subgraphs of a node read; among them those that it captures from the graphs around it."""
    for inner in subgraphs(node):
        yield from inner.outputs
        for child in inner.nodes:
            yield from child.inputs
            yield from captured(child)


def sort(graph: gs.Graph) -> None:
    """Bring the nodes of one graph into topological order, changing the order that they have as little as can be.

    A node that stands too late for one of its readers moves to just before the first of them. Linear in the size of
    the graph. Raises PassError if the graph has a cycle.
    """
    own = {id(node) for node in graph.nodes}
    done: set[int] = set()
    open_: set[int] = set()
    ordered: list[gs.Node] = []
    for root in graph.nodes:
        stack: list[tuple[gs.Node, Iterator[gs.Node]]] = []
        if id(root) not in done:
            stack.append((root, _makers(root)))
            open_.add(id(root))
        while stack:
            node, makers = stack[-1]
            for maker in makers:
                if id(maker) not in own or id(maker) in done:
                    continue
                if id(maker) in open_:
                    raise PassError(f"node `{label(maker)}` depends on its own output: the graph has a cycle")
                stack.append((maker, _makers(maker)))
                open_.add(id(maker))
                break
            else:
                stack.pop()
                open_.discard(id(node))
                done.add(id(node))
                ordered.append(node)
    graph.nodes[:] = ordered


def _makers(node: gs.Node) -> Iterator[gs.Node]:
    tensors: Iterable[gs.Tensor] = [*node.inputs, *captured(node)] if subgraphs(node) else node.inputs
    return (maker for tensor in tensors for maker in tensor.inputs)
