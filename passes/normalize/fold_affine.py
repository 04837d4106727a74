"""`fold-affine`: Mul, Add, Sub, Div by constants and Neg go into the weights of the layer before or after them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.match import NoMatch, epsilon, is_float, sole_maker, sole_reader, with_constant
from lpcc.passes.normalize.linear import BROADCASTING, LINEAR, Linear, along_channels, successor
from lpcc.pipeline import Changes, Context, Fidelity, LocalPass

_AFFINE: Final = ("Mul", "Add", "Sub", "Div", "Neg")


@dataclass(frozen=True)
class FoldAffine(LocalPass):
    """Fold arithmetic with constants into the layers around it, and what is left into as few nodes as it takes.

    Mul, Add, Sub, Div and Neg with a constant are affine maps s x + t. One behind a Conv, ConvTranspose, Gemm or MatMul
    goes into its weights W and bias b, s (W x + b) + t = (s W) x + (s b + t), one before such a layer into
    W (s x + t) + b = (W s) x + (W t + b). A Mul behind MatMul and Add goes into both. Of those that stay, a chain
    becomes one Mul, one Add, or a Mul and an Add. A division becomes a multiplication by the reciprocal.

    Left alone: models below opset 7, whose operators broadcast in their own ways; integers; constants that vary
    along another axis than that of the channels (``[W]`` or ``[H,1]`` beside an image, whatever their length) or
    would enlarge the tensor; results that are read elsewhere too or are graph outputs; an Add before a layer that
    pads its input with zeros, which come after the Add; numbers so large that they may be there to round (x + 1.5 *
    2**23 - 1.5 * 2**23); what would leave the range of its type.
    """

    name: ClassVar[str] = "fold-affine"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT

    def rewrite(self, graph: gs.Graph, ctx: Context, changes: Changes) -> None:  # noqa: ARG002
        """Fold into the layers before, in order, then into those after, in reverse, then merge what is left."""
        refused: dict[int, str] = {}
        if graph.opset < BROADCASTING:
            return

        def attempt(fold: Callable[[edit.Edit, gs.Node, Changes], None], node: gs.Node) -> bool:
            try:
                fold(e, node, changes)
            except NoMatch as why:
                refused[id(node)] = refused.get(id(node)) or str(why)
                return False
            return True

        with edit.Edit(graph) as e:
            nodes = [node for node in e.nodes if edit.op(node) in _AFFINE]
            for node in nodes:
                if not attempt(_fold_back, node):
                    attempt(_fold_through_add, node)
            for node in reversed(nodes):
                if e.live(node):
                    attempt(_fold_forward, node)
            for node in nodes:
                if e.live(node):
                    attempt(_merge_chain, node)
            for node in nodes:
                if e.live(node) and refused.get(id(node)):
                    changes.refuse(node, refused[id(node)])


def _is_affine(node: gs.Node) -> bool:
    try:
        _Affine.of(node)
    except NoMatch:
        return False
    return True


@dataclass(frozen=True)
class _Affine:
    """What one node does to its variable operand: ``scale * x + shift``."""

    kind: str
    source: int
    """Index of the variable operand."""
    constant: gs.Constant | None

    @classmethod
    def of(cls, node: gs.Node) -> _Affine:
        """Read a node of `_AFFINE`. Raises NoMatch, without a reason, if it is none on floats with one constant."""
        kind = edit.op(node)
        if kind == "Neg" and is_float(node.outputs[0].dtype) and not isinstance(node.inputs[0], gs.Constant):
            return cls(kind, 0, None)
        found = with_constant(node) if kind in _AFFINE else None
        if found is None or not is_float(found[1].dtype) or (kind == "Div" and found[0] == 1):
            raise NoMatch("")
        return cls(kind, *found)

    def along(self, layer: Linear, channels: int) -> tuple[np.ndarray, np.ndarray]:
        """Scale and shift with one element, or one for each of the `channels` that a layer has on its axis."""
        values = np.array(0.0)
        if self.constant is not None:
            values = along_channels(self.constant, layer.rank, layer.axis, channels)
        scale, shift = self._map(values)
        _check_rounds(shift, layer.weight.dtype)
        return scale, shift

    def everywhere(self) -> tuple[np.ndarray, np.ndarray]:
        """Scale and shift in the shape of the constant."""
        return self._map(np.array(0.0) if self.constant is None else self.constant.values.astype(np.float64))

    def _map(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        one, zero = np.array(1.0), np.array(0.0)
        if self.kind == "Mul":
            return values, zero
        if self.kind == "Div":
            if np.any(values == 0):
                raise NoMatch("it divides by zero")
            return 1.0 / values, zero
        if self.kind == "Add":
            return one, values
        if self.kind == "Sub":
            return (one, -values) if self.source == 0 else (-one, values)
        return -one, zero


def _check_rounds(shift: np.ndarray, dtype: np.dtype) -> None:
    if np.any(np.abs(shift) > 1 / (16 * epsilon(dtype))):
        raise NoMatch("the constant is so large that it may be there to round")


def _fold_back(e: edit.Edit, node: gs.Node, changes: Changes) -> None:
    affine = _Affine.of(node)
    before = sole_maker(e, node.inputs[affine.source], *LINEAR)
    if before is None:
        raise NoMatch("")
    layer = Linear.of(before)
    layer.scale_outputs(e, *affine.along(layer, layer.outputs))
    changes.done(node, f"{edit.op(node)} folded into the {layer.kind} before it")
    e.bypass(node, affine.source)


def _fold_through_add(e: edit.Edit, node: gs.Node, changes: Changes) -> None:
    """Fold into MatMul and Add, s (W x + b) + t = (s W) x + (s b + t), where the MatMul cannot take b in."""
    affine = _Affine.of(node)
    add = sole_maker(e, node.inputs[affine.source], "Add")
    found = None if add is None else with_constant(add)
    if add is None or found is None:
        raise NoMatch("")
    before = sole_maker(e, add.inputs[found[0]], "MatMul")
    if before is None:
        raise NoMatch("")
    layer = Linear.of(before)
    scale, shift = affine.along(layer, layer.outputs)
    bias = along_channels(found[1], layer.rank, layer.axis, layer.outputs) * scale + shift
    constant = _narrowed(bias, found[1].dtype)
    layer.scale_outputs(e, scale, np.array(0.0))
    e.replace_input(add, 1 - found[0], successor(e, found[1], constant))
    changes.done(node, f"{edit.op(node)} folded into the MatMul and Add before it")
    e.bypass(node, affine.source)


def _fold_forward(e: edit.Edit, node: gs.Node, changes: Changes) -> None:
    affine = _Affine.of(node)
    after = sole_reader(e, node.outputs[0], *LINEAR)
    if after is None or after.inputs[0] is not node.outputs[0]:
        raise NoMatch("")
    layer = Linear.of(after)
    if _enlarges(affine, node):
        raise NoMatch("the constant would make the tensor larger")
    layer.scale_inputs(e, *affine.along(layer, layer.inputs))
    changes.done(node, f"{edit.op(node)} folded into the {layer.kind} after it")
    e.bypass(node, affine.source)


def _enlarges(affine: _Affine, node: gs.Node) -> bool:
    """Whether the node's result may be larger than its variable operand, channel by channel."""
    if affine.constant is None or not affine.constant.shape:
        return False
    shape, constant = node.inputs[affine.source].shape, affine.constant.shape
    if shape is None or len(constant) > len(shape):
        return True
    return any(
        size != 1 and dim != size for size, dim in zip(constant, shape[len(shape) - len(constant) :], strict=True)
    )


def _merge_chain(e: edit.Edit, last: gs.Node, changes: Changes) -> None:
    """Replace the chain of affine nodes that ends at `last` by fewer nodes, if that can be."""
    after = sole_reader(e, last.outputs[0])
    if not _is_affine(last) or (after is not None and _is_affine(after)):
        return
    chain = _chain(e, last)
    if len(chain) < 2:
        return
    source = chain[0].inputs[_Affine.of(chain[0]).source]
    scale, shift = _compose(chain, source)
    dtype = np.dtype(source.dtype if source.dtype is not None else last.outputs[0].dtype)
    steps = [
        (kind, _narrowed(values, dtype))
        for kind, values, nothing in (("Mul", scale, 1.0), ("Add", shift, 0.0))
        if np.any(values != nothing)
    ]
    if not 1 <= len(steps) < len(chain) or _spread(values for _, values in steps) != _spread(_constants(chain)):
        return
    target = last.outputs[0]
    changes.done(last, f"{len(chain)} nodes of arithmetic with constants merged into {len(steps)}")
    for node in chain:
        e.remove(node)
    for kind, values in steps:
        final = kind == steps[-1][0]
        result = target if final else e.fresh(f"{target.name}_scaled", target.dtype, target.shape)
        constant = e.constant(f"{target.name}_{'scale' if kind == 'Mul' else 'shift'}", values)
        e.add(kind, [source, constant], [result], name=last.name if final else "")
        source = result


def _constants(chain: list[gs.Node]) -> Iterator[gs.Constant]:
    return (constant for node in chain if (constant := _Affine.of(node).constant) is not None)


def _spread(constants: Iterable[gs.Constant | np.ndarray]) -> tuple[int, ...]:
    """The shape that constants together give a tensor with one element."""
    return np.broadcast_shapes(*(tuple(constant.shape) for constant in constants))


def _chain(e: edit.Edit, last: gs.Node) -> list[gs.Node]:
    """The affine nodes that end at `last`, each the only reader of the one before it, first one first."""
    chain = [last]
    while True:
        tensor = chain[-1].inputs[_Affine.of(chain[-1]).source]
        before = sole_maker(e, tensor, *_AFFINE)
        if before is None or not _is_affine(before):
            return chain[::-1]
        chain.append(before)


def _compose(chain: list[gs.Node], source: gs.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shift of a whole chain. Raises NoMatch if they are larger than the chain's own constants."""
    scale, shift = np.array(1.0), np.array(0.0)
    largest, dtype = 1, source.dtype if source.dtype is not None else chain[-1].outputs[0].dtype
    if dtype is None:
        raise NoMatch("")
    for node in chain:
        s, t = _Affine.of(node).everywhere()
        _check_rounds(t, dtype)
        scale, shift = scale * s, shift * s + t
        _check_rounds(shift, dtype)
        _narrowed(scale, dtype)
        largest = max(largest, s.size, t.size)
    if max(scale.size, shift.size) > largest:
        raise NoMatch("the merged constant would be larger than those that it stands for")
    return scale, shift


def _narrowed(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Values in a narrower type. Raises NoMatch if they overflow, or become zero, in it."""
    with np.errstate(over="ignore", under="ignore"):
        narrow = values.astype(dtype)
    wide = narrow.astype(np.float64)
    if not np.isfinite(wide).all() or np.any((wide == 0) & (values != 0)):
        raise NoMatch(f"the merged constants do not fit {np.dtype(dtype).name}")
    return narrow
