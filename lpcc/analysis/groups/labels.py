"""Labels: which channel stands at each place along each axis of each tensor, and which channels are one.

A label is a number. Labels that can only be removed together are joined; those that cannot be removed are pinned, with
the reason. An axis either has a label for each of its places, or none at all: then its length stays what it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.shape_values import Dims, ShapeValues
from lpcc.match import NoMatch

Array = np.ndarray[Any, Any]
Axes: TypeAlias = tuple[Array | None, ...]
"""The labels along each axis of a tensor; None for an axis that has none."""


class Labels:
    """Union-find over labels, with the reason why a set of them is pinned."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._pinned: dict[int, str] = {}  # by root

    def __len__(self) -> int:
        return len(self._parent)

    def fresh(self, count: int) -> Array:
        """New labels, each for itself."""
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        return np.arange(first, first + count)

    def root(self, label: int) -> int:
        """The one label that stands for all that are joined with this one."""
        parent = self._parent
        while parent[label] != label:
            parent[label] = parent[parent[label]]
            label = parent[label]
        return label

    def roots(self, labels: Array) -> Array:
        """`root` of each."""
        unique, places = np.unique(labels, return_inverse=True)
        found = np.asarray([self.root(int(label)) for label in unique], dtype=np.intp)
        return np.asarray(found[places].reshape(labels.shape))

    def join(self, first: Array, second: Array) -> None:
        """Join labels place by place; what one of them is pinned for, both are."""
        if first is second:
            return
        pairs = np.unique(np.stack([first.reshape(-1), second.reshape(-1)]), axis=1)
        for a, b in pairs.T.tolist():
            x, y = self.root(a), self.root(b)
            if x == y:
                continue
            keep, gone = (x, y) if x < y else (y, x)
            self._parent[gone] = keep
            reason = self._pinned.pop(gone, None)
            if reason is not None and not self._pinned.get(keep):
                self._pinned[keep] = reason

    def join_rows(self, rows: Array) -> Array:
        """Join what stands at one place of each row of (rows, places); the labels of the first row."""
        if len(rows) > 1:
            self.join(np.broadcast_to(rows[0], rows.shape), rows)
        return np.asarray(rows[0])

    def pin(self, labels: Array | None, reason: str) -> None:
        """Let labels stay for good; the first reason that says something is kept."""
        for label in () if labels is None else np.unique(labels).tolist():
            root = self.root(label)
            self._pinned[root] = self._pinned.get(root) or reason

    def reason(self, label: int) -> str | None:
        """Why a label is pinned; None where it is not."""
        return self._pinned.get(self.root(label))

    def is_pinned(self, labels: Array) -> bool:
        """Whether all of them are pinned."""
        return all(self.reason(label) is not None for label in np.unique(labels).tolist())

    def numbered(self) -> tuple[Array, dict[int, str]]:
        """For each label the number of its set, from 0 in the order of their first labels; why sets are pinned."""
        roots = np.asarray([self.root(label) for label in range(len(self))], dtype=np.intp)
        distinct, numbers = np.unique(roots, return_inverse=True)
        return numbers, {int(np.searchsorted(distinct, root)): why for root, why in sorted(self._pinned.items())}


class Trace:
    """What is known while the nodes are gone through: labels of tensors, what layers make and read."""

    def __init__(self, shapes: ShapeValues, opset: int) -> None:
        self.shapes = shapes
        self.opset = opset
        self.labels = Labels()
        self.axes: dict[str, Axes] = {}
        self.constants: set[str] = set()
        self.layers: list[tuple[gs.Node, Array | None, Array | None]] = []  # node, what it sums over, what it makes
        self.entries: dict[str, tuple[int | None, ...]] = {}
        self.picked: dict[str, dict[int, Array]] = {}

    def dims(self, tensor: gs.Tensor | None) -> Dims:
        """Size of each dimension. Raises NoMatch where the rank is unknown."""
        found = self.shapes.dims(tensor)
        if found is None:
            raise NoMatch("the rank of what it reads or makes is unknown")
        return found

    def of(self, tensor: gs.Tensor | None) -> Axes:
        """Labels of a tensor; a constant gets its own, for each axis longer than 1, when it is first asked for."""
        if tensor is None:
            raise NoMatch("an input is missing")
        if tensor.name not in self.axes:
            dims = self.dims(tensor)
            if isinstance(tensor, gs.Constant):
                self.constants.add(tensor.name)
            self.axes[tensor.name] = tuple(
                self.labels.fresh(size) if isinstance(size, int) and size > 1 else None for size in dims
            )
        return self.axes[tensor.name]

    def note(self, tensor: gs.Tensor, axes: Sequence[Array | None]) -> None:
        """Note the labels of a node's result. Raises NoMatch where they do not fit its known shape."""
        dims = self.shapes.dims(tensor) or (None,) * len(axes)
        fits = len(dims) == len(axes) and all(
            axis is None or not isinstance(size, int) or len(axis) == size
            for axis, size in zip(axes, dims, strict=True)
        )
        if not fits:
            raise NoMatch(f"its result `{tensor.name}` has an unexpected shape")
        self.axes[tensor.name] = tuple(axes)

    def fixed(self, tensor: gs.Tensor, reason: str) -> None:
        """Pin all that a tensor holds. One without labels gets pinned ones, so that the reason is passed on."""
        if not tensor.name or (tensor.name not in self.axes and self.shapes.dims(tensor) is None):
            return
        for axis in self.of(tensor):
            self.labels.pin(axis, reason)

    def pinned(self, count: int, reason: str) -> Array:
        """New labels that are pinned."""
        made = self.labels.fresh(count)
        self.labels.pin(made, reason)
        return made

    def control(self, tensor: gs.Tensor | None) -> None:
        """A tensor that says a shape or a place is not changed itself."""
        if tensor is not None and not isinstance(tensor, gs.Constant) and tensor.name in self.axes:
            for axis in self.axes[tensor.name]:
                self.labels.pin(axis, "")

    def numbers(self, tensor: gs.Tensor | None) -> tuple[int | None, ...] | None:
        """Elements of an integer tensor that says a shape or a place, None for those not known; noted for removal."""
        if tensor is None:
            return None
        is_long = isinstance(tensor, gs.Constant) and tensor.dtype in (np.int32, np.int64)
        value = np.asarray(tensor.values) if is_long else self.shapes.value(tensor)
        if value is None:
            return None
        self.entries[tensor.name] = tuple(e if isinstance(e, int) else None for e in value.reshape(-1).tolist())
        return self.entries[tensor.name]

    def meet(self, first: Array | None, second: Array | None, reason: str) -> Array | None:
        """Two axes that have to stay equally long: joined, or pinned where one of them is fixed."""
        if first is not None and second is not None and len(first) == len(second):
            self.labels.join(first, second)
            return first
        self.labels.pin(first, reason)
        self.labels.pin(second, reason)
        return first if first is not None else second

    def spread(self, labels: Array, before: Sequence[int], axis: int, after: Sequence[int]) -> list[Array | None]:
        """Labels along one axis of a block of axes, after that block is reshaped.

        Removing labels must leave a block, so they vary along one axis only: where they vary along several, the
        longest has them (of equals the innermost), and what stands at one place of it along the others is joined.
        """
        shape = [1] * len(before)
        shape[axis] = -1
        whole = np.broadcast_to(labels.reshape(shape), before).reshape(after)
        roots = self.labels.roots(whole)
        varying = [at for at in range(len(after)) if np.any(roots != roots.take([0], at))]
        inner = max(varying or range(len(after)), key=lambda at: (after[at], at))
        line = whole[tuple(slice(None) if at == inner else 0 for at in range(len(after)))]
        if len(varying) > 1:
            shape = [1] * len(after)
            shape[inner] = -1
            self.labels.join(np.broadcast_to(line.reshape(shape), after), whole)
        return [line if at == inner else None for at in range(len(after))]


def ints(trace: Trace, node: gs.Node, name: str, index: int) -> list[int] | None:
    """Integers of attribute `name` or, in later opsets, of input `index`; None where absent or not all known."""
    if name in node.attrs:
        value = node.attrs[name]
        return [int(v) for v in value] if isinstance(value, (list, tuple)) else [int(value)]
    tensor = edit.inp(node, index)
    trace.control(tensor)
    known = trace.numbers(tensor)
    if known is None or any(number is None for number in known):
        return None
    return [number for number in known if number is not None]
