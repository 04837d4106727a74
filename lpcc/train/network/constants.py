"""The constants of a graph by name, wherever it holds them, and new values for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.errors import ModelError

Array = np.ndarray[Any, Any]

_NUMBERS = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
"""Attributes in which a Constant node may hold its value other than as a tensor, and their types."""


@dataclass(frozen=True, eq=False)
class Place:
    """A constant where the graph holds it: an initialiser, the default of a graph input, or a Constant node."""

    tensor: gs.Tensor
    """What nodes read."""

    @property
    def node(self) -> gs.Node | None:
        """The Constant node that holds the value; None for the other two."""
        return self.tensor.inputs[0] if self.tensor.inputs else None

    @property
    def is_input(self) -> bool:
        """Whether callers may give another value."""
        return not isinstance(self.tensor, gs.Constant) and self.node is None

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type in which the value is stored. Does not read it."""
        held = self._held()
        return np.dtype(held.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the value. Does not read it."""
        return tuple(self._held().shape)

    @property
    def values(self) -> Array:
        """The value. Never change it: the array may be shared."""
        held = self._held()
        return np.asarray(held.values if isinstance(held, gs.Constant) else held)

    def _held(self) -> gs.Constant | Array:
        if isinstance(self.tensor, gs.Constant):
            return self.tensor
        node = self.node
        if node is None:
            return self.tensor.default
        held = node.attrs.get("value")
        if isinstance(held, gs.Constant | np.ndarray):
            return held
        for name, kind in _NUMBERS.items():
            if name in node.attrs:
                return np.asarray(node.attrs[name], dtype=kind)
        raise ModelError(
            f"the Constant node `{edit.label(node)}` holds no tensor of numbers, which training cannot read"
        )


def constants(graph: gs.Graph) -> dict[str, Place]:
    """All constants of a graph and of those nested in it, by the names of the tensors that nodes read.

    Where two branches use one name for different constants, a number is added to the later one's key.
    """
    found: dict[str, Place] = {}
    seen: set[int] = set()
    for tensor in _tensors(graph):
        if id(tensor) not in seen and tensor.name:
            seen.add(id(tensor))
            key, number = tensor.name, 1
            while key in found:
                number += 1
                key = f"{tensor.name}#{number}"
            found[key] = Place(tensor)
    return found


def _tensors(graph: gs.Graph) -> Iterator[gs.Tensor]:
    """The tensors that constants are read by, in an order that only the graph decides."""
    for scope in edit.graphs(graph):
        yield from (tensor for tensor in scope.inputs if getattr(tensor, "default", None) is not None)
        for node in scope.nodes:
            if edit.op(node) == "Constant" and not {"value_string", "value_strings", "sparse_value"} & set(node.attrs):
                yield node.outputs[0]
            yield from (tensor for tensor in node.inputs if isinstance(tensor, gs.Constant))
        yield from (tensor for tensor in scope.outputs if isinstance(tensor, gs.Constant))


def put(graph: gs.Graph, values: Mapping[str, Array]) -> list[str]:
    """Give constants new values, by the names of `constants`, in the types in which they are stored.

    Each gets a new gs.Constant, which takes the place of the old one with all its readers: what was shared stays so.
    Returns the names of those whose values changed.

    Raises:
        ModelError: the graph has no constant of a name, or one of another shape.
    """
    places = constants(graph)
    changed = []
    replaced: dict[int, gs.Constant] = {}
    with edit.Edit(graph) as e:
        for name, array in values.items():
            place = places.get(name)
            if place is None:
                raise ModelError(f"the graph has no constant `{name}` to write trained values into")
            if place.shape != array.shape:
                raise ModelError(
                    f"constant `{name}` has shape {list(place.shape)}, its trained values {list(array.shape)}"
                )
            new = np.ascontiguousarray(array, dtype=place.dtype).reshape(array.shape)
            if new.tobytes() == np.ascontiguousarray(place.values).tobytes():
                continue
            changed.append(name)
            _place(e, place, new, replaced)
    for scope in edit.graphs(graph) if replaced else ():
        for index, tensor in enumerate(scope.outputs):
            if id(tensor) in replaced:
                scope.outputs[index] = replaced[id(tensor)]
    return changed


def _place(e: edit.Edit, place: Place, values: Array, replaced: dict[int, gs.Constant]) -> None:
    old = place.tensor
    new = gs.Constant(old.name, values)
    node = place.node
    if isinstance(old, gs.Constant):
        if hasattr(old, "carried"):
            new.carried = old.carried
        e.replace_uses(old, new)
        replaced[id(old)] = new
    elif node is None:
        old.default = new
    else:
        node.attrs.clear()
        node.attrs["value"] = new


def readers(graph: gs.Graph, names: list[str]) -> list[str]:
    """Labels of the nodes that work with constants: those behind which their values mix with what is not constant."""
    places = constants(graph)
    fixed = {id(place.tensor) for place in places.values()}
    touched = {id(places[name].tensor) for name in names}
    found: dict[str, None] = {}
    for scope in edit.graphs(graph):
        for node in scope.nodes:
            is_touched = any(id(tensor) in touched for tensor in node.inputs)
            if node.inputs and all(id(tensor) in fixed for tensor in node.inputs if tensor.name):
                fixed.update(map(id, node.outputs))
                touched.update(map(id, node.outputs) if is_touched else ())
            elif is_touched:
                found[edit.label(node)] = None
    return list(found)
