"""Channels removed for good: smaller constants, and whatever else a graph says of how many there are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.groups import ChannelGroups
from lpcc.errors import UsageError

Array = np.ndarray[Any, Any]

_TO_THE_END: Final = 2**31 - 1


def remove(graph: gs.Graph, found: ChannelGroups, channels: Collection[int] | Array) -> None:
    """Remove channels from a graph, in place. It then computes what `lpcc.passes.prune.zeroed` says.

    `found` was made of this graph or of the one that it is a clone of. Names, types and order of inputs and outputs
    stay. Shared weights shrink once. What says a shape or a place in numbers says the new ones; what computes it from
    the shape of another tensor keeps computing the old ones, to which the difference is added.

    Raises:
        UsageError: a channel is pinned, or a tensor would have nothing left; the graph is as it was.
    """
    chosen = np.unique(np.asarray(list(channels), dtype=np.intp))
    held = [channel for channel in chosen.tolist() if channel in found.reasons]
    if held:
        raise UsageError(f"channel {held[0]} cannot be removed: {found.reasons[held[0]]}")
    empty = found.emptied(chosen)
    if empty:
        raise UsageError(f"`{empty[0]}` would have no channels left; leave at least one of each")
    with edit.Edit(graph) as e:
        _Removal(e, found, chosen).run()


class _Removal:
    """One removal: which places of each axis are kept, by name of the tensor."""

    def __init__(self, e: edit.Edit, found: ChannelGroups, channels: Array) -> None:
        self.e = e
        self.found = found
        self.kept = found.kept(channels)

    def run(self) -> None:
        """Rewrite every node that reads or makes one of the tensors, then the tensors themselves."""
        tensors: dict[int, gs.Tensor] = {}
        for node in self.e.nodes:
            for tensor in (*node.inputs, *node.outputs):
                if tensor.name in self.kept:
                    tensors[id(tensor)] = tensor
            if any(tensor.name in self.kept for tensor in (*node.inputs, *node.outputs)):
                rewrite = _REWRITES.get(edit.op(node))
                if rewrite is not None:
                    rewrite(self, node)
        for tensor in tensors.values():
            self._shrink(tensor)

    def of(self, tensor: gs.Tensor) -> Mapping[int, Array]:
        """Which places are kept along the axes that shrink, by axis."""
        return self.kept.get(tensor.name, {})

    def _shrink(self, tensor: gs.Tensor) -> None:
        kept = self.of(tensor)
        if isinstance(tensor, gs.Constant):
            self.e.replace_uses(tensor, gs.Constant(tensor.name, _cut(tensor.values, kept)))
        elif tensor.shape is not None:
            shape = list(tensor.shape)
            for axis, places in kept.items():
                shape[axis] = int(places.sum())
            tensor.shape = shape

    def constant(self, node: gs.Node) -> None:
        """The tensor of a Constant node."""
        value = node.attrs["value"]
        node.attrs["value"] = gs.Constant(value.name, _cut(value.values, self.of(node.outputs[0])))

    def convolution(self, node: gs.Node) -> None:
        """A depthwise convolution has as many groups as channels; any other keeps its groups."""
        weight = self.found.labels.get(node.inputs[1].name, ())
        kept = self.of(node.inputs[0]).get(1)
        groups = int(edit.attr(node, "group", 1))
        if kept is not None and groups > 1 and len(kept) == groups and len(weight) > 1:
            node.attrs["group"] = int(kept.sum())

    def target(self, node: gs.Node, place: int, fallback: gs.Tensor | None = None) -> None:
        """An input that says the sizes of the result, those that copy (0) or follow from the others (-1) among them."""
        y = node.outputs[0]
        said = node.inputs[place]
        entries = self.found.entries.get(said.name, ())
        rank = len(self.found.labels.get(y.name, ()))
        changed: dict[int, int] = {}
        copied = self.of(fallback) if fallback is not None else {}
        for axis in {*self.of(y), *copied}:
            entry = axis - (rank - len(entries)) if rank else axis
            old = entries[entry] if 0 <= entry < len(entries) else -1
            kept = self.of(y).get(axis)
            if old in (None, -1) or (old == 0 and fallback is None):
                continue
            new = int(kept.sum()) if kept is not None else len(copied[axis])
            if old == 0 and kept is not None and axis in copied and int(copied[axis].sum()) == new:
                continue
            if kept is None and old != 0:
                continue
            changed[entry] = new
        self.say(node, place, changed)

    def say(self, node: gs.Node, place: int, changed: Mapping[int, int]) -> None:
        """Let the integer input at `place` have other elements, by their index."""
        if not changed:
            return
        said = node.inputs[place]
        entries = self.found.entries[said.name]
        if isinstance(said, gs.Constant) or None not in entries:
            values = np.asarray([changed.get(at, entry) for at, entry in enumerate(entries)])
            self.put(node, place, values)
            return
        added = np.asarray([changed[at] - (entries[at] or 0) if at in changed else 0 for at in range(len(entries))])
        total = self.e.fresh(f"{said.name}_pruned", said.dtype, said.shape)
        self.e.add("Add", [said, self.e.constant(f"{said.name}_removed", added.astype(said.dtype))], [total])
        self.e.replace_input(node, place, total)

    def put(self, node: gs.Node, place: int, values: Array) -> None:
        """Let input `place` be a constant; what computed it before goes, if nobody else reads it."""
        old = edit.inp(node, place)
        dtype = np.dtype(np.int64) if old is None or old.dtype is None else np.dtype(old.dtype)
        shape = (-1,) if old is None or old.shape is None or len(old.shape) else ()
        hint = f"{node.outputs[0].name}_{place}" if old is None else old.name
        alone = isinstance(old, gs.Constant) and self.e.only_user(old) is not None
        made = np.asarray(values).astype(dtype).reshape(shape)
        new = gs.Constant(hint, made) if alone else self.e.constant(hint, made)
        self.e.replace_input(node, place, new)
        if old is not None:
            self.sweep(old)

    def sweep(self, tensor: gs.Tensor) -> None:
        """Remove what computes a tensor that nobody reads any more."""
        open_ = [tensor]
        while open_:
            maker = self.e.producer(open_.pop())
            if maker is None or not self.e.owns(maker) or edit.subgraphs(maker):
                continue
            if any(t.outputs or self.e.is_output(t) for t in maker.outputs):
                continue
            sources = list(maker.inputs)
            self.e.remove(maker)
            open_.extend(sources)

    def ints(self, node: gs.Node, name: str, index: int) -> list[int] | None:
        """Integers of an attribute or an input; None where there is neither."""
        if name in node.attrs:
            return [int(value) for value in node.attrs[name]]
        tensor = edit.inp(node, index)
        return None if tensor is None else [int(entry or 0) for entry in self.found.entries[tensor.name]]

    def set_ints(self, node: gs.Node, name: str, index: int, values: list[int]) -> None:
        """Say other integers, by the attribute or the input that said them before."""
        if name in node.attrs:
            node.attrs[name] = values
        else:
            self.put(node, index, np.asarray(values))

    def split(self, node: gs.Node) -> None:
        """The sizes of the parts, which are written where they were not."""
        axis = int(edit.attr(node, "axis", 0)) % len(self.found.labels[node.inputs[0].name])
        if axis not in self.of(node.inputs[0]):
            return
        parts = [self.found.labels[tensor.name][axis] for tensor in node.outputs]
        lines = [len(part) if part is not None else 0 for part in parts]
        sizes = [
            int(self.of(tensor)[axis].sum()) if axis in self.of(tensor) else line
            for tensor, line in zip(node.outputs, lines, strict=True)
        ]
        node.attrs.pop("num_outputs", None)
        if int(self.e.graph.opset) < 13:
            node.attrs["split"] = sizes
        else:
            self.put(node, 1, np.asarray(sizes))

    def slice_(self, node: gs.Node) -> None:
        """Where it cuts; where what is left lies at uneven steps, a Gather picks it instead."""
        y = node.outputs[0]
        moved = self.moved(node)
        starts, ends = self.ints(node, "starts", 1), self.ints(node, "ends", 2)
        if not moved or starts is None or ends is None:
            return
        rank = len(self.found.labels[y.name]) if y.name in self.found.labels else len(y.shape)
        named = [axis % rank for axis in self.ints(node, "axes", 3) or range(len(starts))]
        steps = self.ints(node, "steps", 4) or [1] * len(starts)
        uneven: dict[int, Array] = {}
        for axis, places in moved.items():
            at = named.index(axis)
            strides = np.unique(np.diff(places))
            if len(strides) > 1 or (len(strides) == 1 and strides[0] == 0):
                uneven[axis] = places
                starts[at], ends[at], steps[at] = 0, _TO_THE_END, 1
                continue
            steps[at] = int(strides[0]) if len(strides) else 1
            starts[at], last = int(places[0]), int(places[-1])
            ends[at] = last + 1 if steps[at] > 0 else last - 1 if last else -_TO_THE_END
        self.set_ints(node, "starts", 1, starts)
        self.set_ints(node, "ends", 2, ends)
        if "steps" in node.attrs or edit.inp(node, 4) is not None:
            self.set_ints(node, "steps", 4, steps)
        elif any(step != 1 for step in steps):
            if edit.inp(node, 3) is None:
                self.put(node, 3, np.asarray(named))
            self.put(node, 4, np.asarray(steps))
        for axis, places in uneven.items():
            between = self.e.fresh(f"{y.name}_whole", y.dtype)
            self.e.replace_output(node, 0, between)
            self.e.add("Gather", [between, self.e.constant(f"{y.name}_places", places)], [y], {"axis": axis})
            node = y.inputs[0]

    def moved(self, node: gs.Node) -> dict[int, Array]:
        """For each axis that a Slice or Gather cuts and that shrinks: the places that it picks now."""
        x, y = node.inputs[0], node.outputs[0]
        found = {}
        for axis, places in self.found.picked.get(y.name, {}).items():
            kept = self.of(x).get(axis)
            if kept is not None:
                new = np.cumsum(kept) - 1
                found[axis] = new[places[kept[places]]]
        return found

    def gather(self, node: gs.Node) -> None:
        """The places that it picks."""
        for places in self.moved(node).values():
            self.put(node, 1, places)

    def pad(self, node: gs.Node) -> None:
        """How much it adds."""
        y = node.outputs[0]
        pads = self.ints(node, "pads", 1) or []
        rank = len(self.found.labels.get(y.name, ()))
        listed = [axis % rank for axis in self.ints(node, "axes", 3) or range(rank)] if rank else []
        half = len(pads) // 2
        changed: dict[int, int] = {}
        for axis, kept in self.of(y).items():
            at = listed.index(axis) if axis in listed else None
            if at is not None and (pads[at] or pads[at + half]):
                changed[at] = int(kept[: pads[at]].sum())
                changed[at + half] = int(kept[len(kept) - pads[at + half] :].sum())
        if changed:
            self.set_ints(node, "pads", 1, [changed.get(at, amount) for at, amount in enumerate(pads)])

    def reshape(self, node: gs.Node) -> None:
        """The sizes that it says."""
        self.target(node, 1, fallback=None if edit.attr(node, "allowzero", 0) else node.inputs[0])

    def resize(self, node: gs.Node) -> None:
        """The sizes that it says, of the axes that it names."""
        sizes = edit.inp(node, 3)
        if sizes is None:
            return
        rank = len(self.found.labels[node.outputs[0].name]) if self.of(node.outputs[0]) else 0
        listed = [int(axis) % rank for axis in edit.attr(node, "axes", range(rank))] if rank else []
        self.say(node, 3, {listed.index(a): int(k.sum()) for a, k in self.of(node.outputs[0]).items() if a in listed})

    def shape(self, node: gs.Node) -> None:
        """What it says is what it said before."""
        kept = self.of(node.inputs[0])
        gone = np.zeros(len(self.found.labels[node.inputs[0].name]), dtype=np.int64)
        for axis, places in kept.items():
            gone[axis] = int((~places).sum())
        gone = gone[slice(edit.attr(node, "start", 0), edit.attr(node, "end", None))]
        y = node.outputs[0]
        if gone.any() and (y.outputs or self.e.is_output(y)):
            now = self.e.fresh(f"{y.name}_now", y.dtype, y.shape)
            self.e.replace_output(node, 0, now)
            self.e.add("Add", [now, self.e.constant(f"{y.name}_removed", gone)], [y])


def _cut(values: Array, kept: Mapping[int, Array]) -> Array:
    for axis, places in kept.items():
        values = np.compress(places, values, axis)
    return np.ascontiguousarray(values)


_REWRITES: Final[dict[str, Callable[[_Removal, gs.Node], None]]] = {
    "Constant": _Removal.constant,
    "Conv": _Removal.convolution,
    "ConvTranspose": _Removal.convolution,
    "ConstantOfShape": lambda removal, node: removal.target(node, 0),
    "Expand": lambda removal, node: removal.target(node, 1),
    "Gather": _Removal.gather,
    "Pad": _Removal.pad,
    "Reshape": _Removal.reshape,
    "Resize": _Removal.resize,
    "Shape": _Removal.shape,
    "Slice": _Removal.slice_,
    "Split": _Removal.split,
}
"""How a node changes when what it reads or makes shrinks; what is not here says nothing of sizes."""
