"""Which number format a graph's weights are in, by the operators that decode them.

What `quantize-weights` writes (`lpcc.passes.low_bit.decoders` has the table) tells the format by itself:

| operators behind the codes | format |
|---|---|
| Cast, Mul | integers; of two bits: ternary; by scales that are all powers of two: fixed point |
| Cast, Sub, Mul | integers with a zero point; DoReFa where what is subtracted lies halfway between two integers |
| Cast, Max and Min, a Mul of each, Add | ternary with two scales |
| Cast, Gather in a table of powers of two, Add of several, Mul | sums of powers of two |
| Cast, Gather in the table of the signs of a byte, Reshape, Cast, Mul | binary |

Integers of two bits without a zero point and ternary weights have the same codes, -1, 0 and 1; trained is ternary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis import rules
from lpcc.analysis.decoding import decoded
from lpcc.analysis.packed import Part
from lpcc.formats.format import Codes, Format, Layout, Scales
from lpcc.formats.integer import DorefaWeights
from lpcc.formats.powers import PowerOfTwo, PowerScales
from lpcc.formats.signs import Binary, Ternary, TernaryScales, TwoScaleTernary
from lpcc.train.latents.integer_weights import Integers, IntegerWeight
from lpcc.train.latents.latent import Array, Latent
from lpcc.train.latents.low_bit import Constants, Decoder, format_weight
from lpcc.train.latents.scale import Scale


class Unknown(Exception):  # noqa: N818 - not an error: such weights are left alone
    """A decoder was not recognised; the message is the reason."""


@dataclass(frozen=True, eq=False)
class Coded:
    """Weights whose format was recognised."""

    values: Array
    scales: tuple[gs.Constant, ...]
    """The constants of its scales that can be trained; none where they follow from the weights or stay."""
    greatest: float
    """The greatest code that multiplies a scale: Q of the gradient scale."""
    build: Callable[[str, Array | None, Sequence[Scale]], Latent]
    """The latent, from a name, weights before rounding and trained scales."""


def recognise(tensor: gs.Tensor) -> Coded:
    """How a tensor that is computed from constants decodes weights.

    Raises:
        Unknown: in no way that is known, or it shares constants with others.
    """
    values = decoded(tensor)
    if values is None or values.dtype != np.float32:
        raise Unknown("its weights are computed in a way that is not known")
    last = tensor.inputs[0]
    if edit.op(last) == "Add":
        return _two_scales(last, values)
    inner, scale = _operands(last, "Mul")
    maker = _maker(inner)
    op = edit.op(maker)
    if op == "Sub":
        return _offset(maker, scale, values)
    if op == "Cast" and isinstance(maker.inputs[0], gs.Constant):
        return _plain(_own(maker.inputs[0]), scale, np.zeros((), np.float32), values)
    if op == "Cast":
        return _binary(maker, scale, values)
    return _powers(inner, scale, values)


def _plain(codes: gs.Constant, scale: gs.Constant, offset: Array, values: Array) -> Coded:
    layout = _layout(scale, values)
    stored = Part(codes, np.arange(values.shape[0]))
    found = np.asarray(codes.values).astype(np.int64)
    name = np.dtype(codes.dtype).name
    if name == "int2" and not offset.any():
        kind = Ternary()
        return Coded(values, (), 1.0, _formatted(kind, layout, values, _signs(codes, (scale,))))
    greatest = 2**stored.bits - 1 if name.startswith("u") else 2 ** (stored.bits - 1) - 1
    low = 0 if name.startswith("u") else -greatest
    is_fixed = bool((np.frexp(np.asarray(scale.values))[0] == 0.5).all()) and not offset.any()
    if is_fixed:
        width = next(bits for bits in range(2, 33) if _fits(found, bits))
        low, greatest = -(2 ** (width - 1)), 2 ** (width - 1) - 1
    one = np.ones([1] * values.ndim)
    integers = Integers((stored,), 0, found, low * one, greatest * one, np.asarray(offset, np.float32), 0, 0)

    def build(name: str, start: Array | None, scales: Sequence[Scale]) -> Latent:
        kept = scales[0] if scales else Scale([str(scale.name)], np.asarray(scale.values), 1, 1, trained=False)
        return IntegerWeight(name, integers, kept, start)

    return Coded(values, () if is_fixed else (scale,), float(greatest), build)


def _offset(sub: gs.Node, scale: gs.Constant, values: Array) -> Coded:
    cast, offset = _operands(sub, "Sub")
    found = np.asarray(offset.values)
    codes = _codes(_maker(cast))
    if np.array_equal(found, np.rint(found)):
        return _plain(codes, scale, found, values)
    levels = 2 * float(found.reshape(-1)[0]) + 1
    width = int(np.log2(levels))
    if found.size != 1 or levels != 2**width:
        raise Unknown("its weights have an offset that no known format has")

    def constants(found: Codes, scales: Scales) -> dict[str, Array]:
        return {**_held(codes, found[0]), **_held(scale, scales.scale)}

    kind = DorefaWeights(width, rescaled=True)
    layout = _layout(scale, values)
    return Coded(values, (scale,), levels / 2, _formatted(kind, layout, values, constants))


def _two_scales(add: gs.Node, values: Array) -> Coded:
    found: dict[str, gs.Constant] = {}
    codes = None
    for part in add.inputs:
        inner, factor = _operands(_maker(part), "Mul")
        side = _maker(inner)
        if edit.op(side) in ("Max", "Min") and edit.scalar(side.inputs[1]) == 0.0:
            found[edit.op(side)] = factor
            codes = _maker(side.inputs[0])
    if len(found) != 2 or codes is None:
        raise Unknown("its weights are a sum that no known format has")
    scales = found["Max"], found["Min"]
    own = _codes(codes)
    build = _formatted(TwoScaleTernary(), _layout(scales[0], values), values, _signs(own, scales))
    return Coded(values, scales, 1.0, build)


def _powers(total: gs.Tensor, scale: gs.Constant, values: Array) -> Coded:
    layout = _layout(scale, values)
    terms: list[gs.Tensor] = []
    while edit.op(_maker(total)) == "Add":
        total, last = _maker(total).inputs
        terms.insert(0, last)
    places = [_term(term, layout) for term in (total, *terms)]
    table = places[0].table
    width = int(np.log2(len(table))) if len(table) else 0
    kind = PowerOfTwo(len(places), width) if 2 <= width <= 5 and len(places) <= 4 else None
    if kind is None or not all(np.array_equal(place.table, kind.table) for place in places):
        raise Unknown("its weights are looked up in a table that no known format has")
    rows = len(layout.rows(values))
    has = np.stack([place.has(layout, rows) for place in places])
    steps = np.asarray(scale.values).reshape(-1)
    is_kept = bool((np.frexp(steps)[0] == 0.5).all())
    fixed = PowerScales(layout, steps, np.where(has.any(axis=0), len(places) - has[::-1].argmax(axis=0), 0))

    def constants(found: Codes, scales: Scales) -> dict[str, Array]:
        stored = _held(scale, scales.scale)
        for place, code in zip(places, found, strict=True):
            stored.update(place.stored(code, layout))
        return stored

    build = _formatted(kind, layout, values, constants, fixed)
    return Coded(values, () if is_kept else (scale,), float(len(places)), build)


@dataclass(frozen=True, eq=False)
class _Term:
    """One of the powers of two of a sum: its codes, and the rows that have it where not all are stored."""

    table: Array
    codes: gs.Constant
    rows: Array | None

    def has(self, layout: Layout, rows: int) -> Array:
        """Which rows have it."""
        if self.rows is not None:
            found = np.zeros(rows, dtype=bool)
            found[self.rows] = True
            return found
        return np.asarray(layout.rows(self.table[np.asarray(self.codes.values).astype(np.int64)]).any(axis=1))

    def stored(self, code: Array, layout: Layout) -> dict[str, Array]:
        """The constant that holds these codes."""
        if self.rows is None or layout.axis is None:
            return _held(self.codes, code)
        kept = np.take(code, self.rows, layout.axis)
        empty = np.zeros([1 if i == layout.axis else size for i, size in enumerate(kept.shape)], dtype=kept.dtype)
        return _held(self.codes, np.concatenate([kept, empty], axis=layout.axis))


def _term(tensor: gs.Tensor, layout: Layout) -> _Term:
    node = _maker(tensor)
    rows = None
    if edit.op(node) == "Gather" and not isinstance(node.inputs[0], gs.Constant):
        order = edit.const(node.inputs[1])
        if order is None or edit.attr(node, "axis", 0) != layout.axis:
            raise Unknown("its weights are gathered in a way that no known format has")
        count = int(order.max(initial=0))
        rows = np.argsort(np.where(order == count, len(order), order), kind="stable")[:count]
        node = _maker(node.inputs[0])
    table = edit.const(node.inputs[0]) if edit.op(node) == "Gather" else None
    if table is None or table.ndim != 1 or table.dtype != np.float32:
        raise Unknown("its weights are computed in a way that is not known")
    return _Term(table, _codes(_maker(node.inputs[1])), rows)


def _binary(cast: gs.Node, scale: gs.Constant, values: Array) -> Coded:
    node = _maker(cast.inputs[0])
    while edit.op(node) in ("Reshape", "Slice"):
        node = _maker(node.inputs[0])
    table = edit.const(node.inputs[0]) if edit.op(node) == "Gather" else None
    signs = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(np.int8) * 2 - 1
    if table is None or not np.array_equal(table, signs):
        raise Unknown("its weights are computed in a way that is not known")
    codes = _codes(_maker(node.inputs[1]))
    if 8 * prod(codes.shape) < values.size:
        raise Unknown("its weights are signs that are used more than once")

    def constants(found: Codes, scales: Scales) -> dict[str, Array]:
        return {str(codes.name): np.packbits(found[0].astype(bool).reshape(-1)), **_held(scale, scales.scale)}

    return Coded(values, (), 1.0, _formatted(Binary(), _layout(scale, values), values, constants))


def _formatted(
    kind: Format[Any], layout: Layout, values: Array, constants: Constants, fixed: PowerScales | None = None
) -> Callable[[str, Array | None, Sequence[Scale]], Latent]:
    decoder = Decoder(kind, layout, values, constants, fixed)
    return lambda name, start, scales: format_weight(name, decoder, start, scales)


def _signs(codes: gs.Constant, scales: tuple[gs.Constant, ...]) -> Constants:
    """Ternary codes, with their scale, or that of the positive and that of the negative ones."""

    def constants(found: Codes, of: Scales) -> dict[str, Array]:
        both = (of.scale, of.negative) if isinstance(of, TernaryScales) else (of.scale,)
        stored = _held(codes, found[0])
        for constant, values in zip(scales, both, strict=False):
            stored.update(_held(constant, values))
        return stored

    return constants


def _held(constant: gs.Constant, values: Array) -> dict[str, Array]:
    return {str(constant.name): values.astype(np.dtype(constant.dtype)).reshape(constant.shape)}


def _fits(codes: Array, bits: int) -> bool:
    return bool(codes.min(initial=0) >= -(2 ** (bits - 1)) and codes.max(initial=0) < 2 ** (bits - 1))


def _layout(scale: gs.Constant, values: Array) -> Layout:
    """Which weights share a scale, by the shape of the constant, which broadcasts against them."""
    shape = tuple(scale.shape)
    wide = [i for i, size in enumerate(shape) if size != 1]
    if len(wide) > 1 or (shape and len(shape) != values.ndim) or (wide and shape[wide[0]] != values.shape[wide[0]]):
        raise Unknown("its weights have scales in a shape that no known format has")
    if scale.dtype != np.float32:
        raise Unknown("its scales are not float32")
    return Layout(wide[0]) if wide else Layout()


def _operands(node: gs.Node, op: str) -> tuple[gs.Tensor, gs.Constant]:
    """What an operator computes from, and its constant."""
    if edit.op(node) != op or not isinstance(node.inputs[1], gs.Constant):
        raise Unknown("its weights are computed in a way that is not known")
    return node.inputs[0], _own(node.inputs[1])


def _codes(cast: gs.Node) -> gs.Constant:
    """The constant of integers behind a Cast."""
    codes = cast.inputs[0]
    if edit.op(cast) != "Cast" or not isinstance(codes, gs.Constant) or "int" not in rules.dtype_of(codes).name:
        raise Unknown("its weights are computed in a way that is not known")
    return _own(codes)


def _own(constant: gs.Constant) -> gs.Constant:
    if len(constant.outputs) != 1:
        raise Unknown(f"its constant `{constant.name}` is used elsewhere, too")
    return constant


def _maker(tensor: gs.Tensor) -> gs.Node:
    if len(tensor.inputs) != 1:
        raise Unknown("its weights are computed in a way that is not known")
    node: gs.Node = tensor.inputs[0]
    return node
