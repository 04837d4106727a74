"""How two models differ: interface, nodes, weights, sizes, and the numbers that they compute."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit, equality
from lpcc.analysis.macs import parameters, weight_bytes
from lpcc.door.exporter import owned_constants
from lpcc.errors import ModelError

if TYPE_CHECKING:
    import onnx

    from lpcc.runtime import Array
    from lpcc.simulate import Kernels


@dataclass(frozen=True)
class Changed:
    """A node or a weight that both models have by this name, and what is different about it."""

    name: str
    what: str


@dataclass(frozen=True)
class Parts:
    """Things that only the second model has, that only the first one has, and that differ, by name."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[Changed, ...]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)


@dataclass(frozen=True)
class Structure:
    """How two graphs differ. `ops` counts the operators of which they have different numbers; `sizes` has all sizes."""

    interface: tuple[str, ...]
    opset: tuple[int, int]
    ops: Mapping[str, tuple[int, int]]
    nodes: Parts
    weights: Parts
    sizes: Mapping[str, tuple[int, int]]

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not (self.interface or self.ops or self.nodes or self.weights) and self.opset[0] == self.opset[1]


@dataclass(frozen=True)
class OutputDifference:
    """How far an output of the second model is from that of the first.

    `relative` is the largest difference over the largest magnitude, infinite where shapes, types or NaNs differ;
    `sqnr_db` the power of the first one's output over that of the difference, None where there is none.
    """

    name: str
    relative: float
    sqnr_db: float | None


def structure(a: gs.Graph, b: gs.Graph) -> Structure:
    """How graph `b` differs from graph `a`. Nodes and weights are matched by name."""
    ops = [Counter(edit.op(node) for node in edit.nodes(graph)) for graph in (a, b)]
    return Structure(
        interface=tuple(_interface(a, b)),
        opset=(a.opset, b.opset),
        ops={op: (ops[0][op], ops[1][op]) for op in sorted(ops[0] | ops[1]) if ops[0][op] != ops[1][op]},
        nodes=_nodes(a, b),
        weights=_weights(a, b),
        sizes={
            "nodes": (ops[0].total(), ops[1].total()),
            "parameters": (parameters(a), parameters(b)),
            "weight_bytes": (weight_bytes(a), weight_bytes(b)),
        },
    )


def numbers(
    a: onnx.ModelProto, b: onnx.ModelProto, feeds: Iterable[Mapping[str, Array]], kernels: Kernels | None = None
) -> tuple[OutputDifference, ...]:
    """How far the outputs that both models have are apart on `feeds`, run without onnxruntime's own optimisations.

    With `kernels`, `b` gives what those integer kernels make of it.

    Raises:
        ModelError: onnxruntime refuses a model, or cannot run it on the feeds.
    """
    from lpcc.runtime import Session
    from lpcc.simulate import kernels_here, stand_in

    first = Session(a, optimise=False)
    if kernels is None:
        second = Session(b, optimise=False)
    else:
        second = Session(stand_in(b, kernels, kernels_here()), signed=True)
    there = {spec.name for spec in second.outputs}
    shared = [spec.name for spec in first.outputs if spec.name in there]
    if not shared:
        raise ModelError("the models have no output in common")
    worst = dict.fromkeys(shared, 0.0)
    power: dict[str, list[float]] = {name: [0.0, 0.0] for name in shared}  # of the signal and of the difference
    for fed in feeds:
        expected, found = first.run(fed, shared), second.run(fed, shared)
        for name in shared:
            worst[name] = max(worst[name], equality.relative_difference(expected[name], found[name]))
            signal, noise = _powers(expected[name], found[name])
            power[name][0] += signal
            power[name][1] += noise
    return tuple(OutputDifference(name, worst[name], _decibels(*power[name])) for name in shared)


def _powers(expected: Any, found: Any) -> tuple[float, float]:
    """Sum of squares of a result and of its difference from another one; NaN where that has no meaning."""
    arrays = isinstance(expected, np.ndarray) and isinstance(found, np.ndarray)
    if not arrays or expected.shape != found.shape or expected.dtype.kind not in "biufV":
        return math.nan, math.nan
    signal, other = expected.astype(np.float64), found.astype(np.float64)
    return float(np.square(signal).sum()), float(np.square(signal - other).sum())


def _decibels(signal: float, noise: float) -> float | None:
    if not (signal > 0 and noise > 0 and math.isfinite(signal) and math.isfinite(noise)):
        return None
    return 10 * math.log10(signal / noise)


def _interface(a: gs.Graph, b: gs.Graph) -> Iterable[str]:
    for side in ("input", "output"):
        old = {str(t.name): _type(t) for t in getattr(a, f"{side}s")}
        new = {str(t.name): _type(t) for t in getattr(b, f"{side}s")}
        yield from (f"{side} `{name}` {kind} is gone" for name, kind in old.items() if name not in new)
        yield from (f"{side} `{name}` {kind} is new" for name, kind in new.items() if name not in old)
        both = [name for name in old if name in new]
        yield from (f"{side} `{n}` was {old[n]} and is {new[n]}" for n in both if old[n] != new[n])
        if both != [name for name in new if name in old]:
            yield f"the {side}s are in another order"


def _type(tensor: gs.Tensor) -> str:
    from lpcc.text import type_text

    return type_text(tensor.dtype, tensor.shape)


def _nodes(a: gs.Graph, b: gs.Graph) -> Parts:
    old = {edit.label(node): node for node in edit.nodes(a)}
    new = {edit.label(node): node for node in edit.nodes(b)}
    changes = ((name, _node_change(old[name], new[name])) for name in old if name in new)
    return _parts(old, new, changes)


def _node_change(a: gs.Node, b: gs.Node) -> str:
    if edit.op(a) != edit.op(b):
        return f"was {edit.op(a)} and is {edit.op(b)}"
    names = sorted({*a.attrs, *b.attrs})
    found = [f"attribute {n}" for n in names if not _same_attribute(a.attrs.get(n), b.attrs.get(n))]
    if [str(t.name) for t in a.inputs] != [str(t.name) for t in b.inputs]:
        found.append("inputs")
    if [str(t.name) for t in a.outputs] != [str(t.name) for t in b.outputs]:
        found.append("outputs")
    return ", ".join(found)


def _same_attribute(a: Any, b: Any) -> bool:
    if isinstance(a, gs.Constant) and isinstance(b, gs.Constant):
        return not _weight_change(a, b)
    if isinstance(a, gs.Graph) and isinstance(b, gs.Graph):  # their nodes are compared one by one
        return True
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_same_attribute(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and bool(a == b)


def _weights(a: gs.Graph, b: gs.Graph) -> Parts:
    old, new = _named_constants(a), _named_constants(b)
    changes = ((name, _weight_change(old[name], new[name])) for name in old if name in new)
    return _parts(old, new, changes)


def _named_constants(graph: gs.Graph) -> dict[str, gs.Constant]:
    return {str(c.name): c for constants in owned_constants(graph).values() for c in constants}


def _weight_change(a: gs.Constant, b: gs.Constant) -> str:
    if _type(a) != _type(b):
        return f"was {_type(a)} and is {_type(b)}"
    x, y = np.asarray(a.values), np.asarray(b.values)
    return "" if x is y or x.tobytes() == y.tobytes() else "values"


def _parts(old: Mapping[str, Any], new: Mapping[str, Any], changes: Iterable[tuple[str, str]]) -> Parts:
    return Parts(
        added=tuple(name for name in new if name not in old),
        removed=tuple(name for name in old if name not in new),
        changed=tuple(Changed(name, what) for name, what in changes if what),
    )
