"""Q/DQ groups: which nodes a runtime turns into integer kernels, and which tensors it holds as integers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis import rules
from lpcc.analysis.bounds import clip_bounds

if TYPE_CHECKING:
    from lpcc.analysis.runtimes.base import IntegerRules

_BYTES = ("int8", "uint8")
_WIDE = "int16"

Params = tuple[object, object]
"""Scale and zero point: their values where they are constants, else the identities of their tensors."""


@dataclass(frozen=True)
class Held:
    """A tensor as the runtime holds it: `dtype` is one of integers where the graph says float and Q/DQ were removed."""

    tensor: gs.Tensor
    dtype: np.dtype
    params: Params | None = None


@dataclass(frozen=True)
class Group:
    """The nodes of one integer kernel, what it reads and writes, its scheme (``u8s8``), the operator it amounts to."""

    nodes: tuple[gs.Node, ...]
    inputs: list[Held]
    outputs: list[Held]
    scheme: str
    op: str

    @property
    def format(self) -> str:
        """Number format that the kernel computes in: ``int8``, or ``int16`` where activations have 16 bits."""
        return _WIDE if self.scheme.startswith(("s16", _WIDE)) else "int8"


class Integers:
    """What is known during a walk over a graph about tensors that are held as integers."""

    def __init__(self, how: IntegerRules) -> None:
        self._how = how
        self._held: dict[int, Held] = {}  # float tensors of the graph, held as integers
        self._alias: dict[int, gs.Tensor] = {}  # what a free QuantizeLinear writes is there already
        self._weights: dict[int, gs.Node] = {}  # by output: DequantizeLinear of a constant
        self._makers: dict[int, gs.Node] = {}

    def held(self, tensor: gs.Tensor) -> Held | None:
        """How a tensor that the graph has in float is held as integers; None where it is not."""
        return self._held.get(id(tensor))

    def is_integer(self, tensor: gs.Tensor) -> bool:
        """Whether the tensor is of an integer type in the graph itself."""
        return rules.dtype_of(tensor).name in _BYTES

    def is_weight(self, tensor: gs.Tensor) -> bool:
        """Whether the tensor is a dequantised constant."""
        return id(tensor) in self._weights

    def holder(self, tensor: gs.Tensor) -> gs.Tensor:
        """The tensor whose buffer holds this one."""
        return self._alias.get(id(tensor), tensor)

    def pass_on(self, tensor: gs.Tensor, to: gs.Tensor) -> None:
        """Note that a node which is dropped would have passed one tensor on as another."""
        self._alias[id(to)] = self.holder(tensor)
        held = self._held.get(id(tensor))
        if held is not None:
            self._hold(to, held, self._makers[id(tensor)])

    def dequantizer(self, tensor: gs.Tensor) -> gs.Node:
        """The DequantizeLinear that makes a tensor which is held as integers, seen through what moves it."""
        return self._makers[id(tensor)]

    def weights_of(self, nodes: Iterable[gs.Node]) -> tuple[gs.Node, ...]:
        """The DequantizeLinear nodes of constants that these nodes read."""
        return tuple(self._weights[id(t)] for node in nodes for t in node.inputs if id(t) in self._weights)

    def note_dequantize(self, node: gs.Node, folded: set[int]) -> bool:
        """Note what a DequantizeLinear makes; False where it is just another kernel (not 8 bits, or per channel)."""
        source, out = node.inputs[0], node.outputs[0]
        if isinstance(source, gs.Constant) or id(source) in folded:
            self._weights[id(out)] = node
            return True
        params = _params(node)
        dtype = self._effective(source, rules.dtype_of(source))
        if params is None or not (dtype.name in _BYTES or (dtype.name == _WIDE and self._how.wide)):
            return False
        self._held[id(out)] = Held(self.holder(source), dtype, params)
        self._makers[id(out)] = node
        return True

    def free_quantize(self, node: gs.Node) -> bool:
        """Whether a QuantizeLinear costs nothing, as its input is held as just those integers."""
        held = self._held.get(id(node.inputs[0]))
        if held is None or held.params != _params(node) or held.dtype != self._written(node):
            return False
        self._alias[id(node.outputs[0])] = held.tensor
        return True

    def group(
        self, nodes: tuple[gs.Node, ...], op: str, constant: Callable[[gs.Tensor], bool], outputs: set[int]
    ) -> Group | None:
        """The integer kernel that nodes which amount to one operator become part of; None where they stay as they are.

        `nodes` are one, or a matrix product and the constant bias that is added to it.
        """
        node = nodes[0]
        if op in rules.QUANTIZE:
            return self._requantise(node, op)
        if op in self._how.moves:
            return self._move(node, op, outputs)
        listed = self._how.operators.get(op, self._how.otherwise)
        if listed is None:
            return None
        wanted = listed or tuple(range(len(node.inputs)))
        read = []
        formats = []
        for index in wanted:
            tensor = edit.inp(node, index)
            if tensor is None:
                return None
            held = self._held.get(id(tensor))
            if held is not None:
                read.append(held)
                formats.append(held.dtype)
            elif id(tensor) in self._weights:
                formats.append(rules.dtype_of(self._weights[id(tensor)].inputs[0]))
            else:
                return None
        is_wide = op in self._how.wide and bool(formats) and formats[0].name == _WIDE
        if is_wide and len(formats) > 1 and op in ("Conv", "Gemm", "MatMul"):
            is_wide = formats[1].name == "int8" and is_plain(node)
        elif is_wide:
            is_wide = len(set(formats)) == 1
        is_narrow = all(dtype.name in _BYTES for dtype in formats)  # int4 and the like are dequantised
        if not read or not (is_narrow or is_wide):
            return None
        bias = edit.inp(node, 2) if op in ("Conv", "Gemm") and len(nodes) == 1 else None
        if bias is not None and id(bias) not in self._weights and not constant(bias):
            return None
        if len(formats) == 2 and formats[0].kind == "i" and formats[1].kind == "u":
            return None  # rejected by onnxruntime
        contraction = op in ("Conv", "ConvTranspose", "Gemm", "MatMul")
        if not contraction and len(set(formats)) > 1:
            return None
        scheme = rules.scheme(formats[0], formats[1] if contraction else formats[0])
        return self._close(nodes, op, read, formats[0], scheme, outputs)

    def _requantise(self, node: gs.Node, op: str) -> Group | None:
        """The one kernel of a DequantizeLinear and this QuantizeLinear between 8 bits and 16."""
        held = self._held.get(id(node.inputs[0]))
        written = self._written(node)
        if held is None or not self._how.wide or _params(node) is None:
            return None
        if {held.dtype.name, written.name} not in ({"int8", _WIDE}, {"uint8", _WIDE}):
            return None
        return Group((node,), [held], [Held(node.outputs[0], written)], _WIDE, op)

    def _move(self, node: gs.Node, op: str, outputs: set[int]) -> Group | None:
        """The kernel of a node that only moves data, if it runs on integers: its outputs are held like its input."""
        held = self._held.get(id(node.inputs[0])) if node.inputs else None
        if held is None or edit.attr(node, "mode", "nearest") not in (b"nearest", "nearest"):
            return None
        if held.dtype.name == _WIDE and op not in self._how.wide:
            return None
        live = [tensor for tensor in node.outputs if tensor.name]
        if op in self._how.passes_on:
            if len(live) != 1:
                return None
        elif not all(self._quantized_alike(tensor, held, outputs) for tensor in live):
            return None
        results = [Held(tensor, held.dtype, held.params) for tensor in live]
        for result in results:
            self._hold(result.tensor, result, self._makers[id(node.inputs[0])])
        return Group((node,), [held], results, held.dtype.name, op)

    def _quantized_alike(self, tensor: gs.Tensor, held: Held, outputs: set[int]) -> bool:
        quantize = _only_reader(tensor, outputs)
        return quantize is not None and edit.op(quantize) in rules.QUANTIZE and _params(quantize) == held.params

    def _close(
        self, start: tuple[gs.Node, ...], op: str, read: list[Held], dtype: np.dtype, scheme: str, outputs: set[int]
    ) -> Group | None:
        """The group from the node to the QuantizeLinear that ends it, through an activation that this one contains."""
        nodes = list(start)
        out = nodes[-1].outputs[0]
        quantize = self._quantized_by(out, outputs)
        if quantize is None:
            activation = _only_reader(out, outputs)
            if activation is not None and edit.op(activation) in self._how.clamps:
                quantize = self._quantized_by(activation.outputs[0], outputs)
                if quantize is not None and self._how.clamps_contained and not contains(quantize, activation):
                    quantize = None
                nodes.append(activation)
                out = activation.outputs[0]
        if quantize is None or _params(quantize) is None:
            if op not in self._how.float_output:
                return None
            after = _only_reader(start[-1].outputs[0], outputs)
            whole = (*start, after) if after is not None and edit.op(after) in self._how.float_clamps else start
            return Group(whole, read, [Held(whole[-1].outputs[0], np.dtype(np.float32))], scheme, op)
        if self._written(quantize) != dtype or (dtype.kind == "i" and not self._how.s8_activations):
            return None
        if quantize.inputs[0] is out:
            nodes.append(quantize)
            return Group(tuple(nodes), read, [Held(quantize.outputs[0], dtype)], scheme, op)
        held = Held(out, dtype, _params(quantize))  # integers travel on through reshapes and the like
        self._hold(out, held, quantize)
        return Group(tuple(nodes), read, [held], scheme, op)

    def _quantized_by(self, tensor: gs.Tensor, outputs: set[int]) -> gs.Node | None:
        """The QuantizeLinear that is the one reader of a tensor, directly or behind nodes that only move data."""
        for _ in range(16):
            reader = _only_reader(tensor, outputs)
            if reader is None or reader.inputs[0] is not tensor:
                return None
            op = edit.op(reader)
            if op in rules.QUANTIZE:
                return reader
            if op not in self._how.passes_on or len([t for t in reader.outputs if t.name]) != 1:
                return None
            tensor = reader.outputs[0]
        return None

    def _written(self, quantize: gs.Node) -> np.dtype:
        return self._effective(quantize.outputs[0], _zero_dtype(quantize))

    def _effective(self, tensor: gs.Tensor, dtype: np.dtype) -> np.dtype:
        """Where there are no kernels for s8, onnxruntime turns Q/DQ pairs with one reader into u8."""
        if not self._how.s8_to_u8 or dtype.name != "int8" or len(tensor.outputs) != 1 or len(tensor.inputs) != 1:
            return dtype
        reader = tensor.outputs[0]
        if edit.op(tensor.inputs[0]) not in rules.QUANTIZE or edit.op(reader) not in rules.DEQUANTIZE:
            return dtype
        return np.dtype(np.uint8) if len(reader.outputs[0].outputs) <= 1 else dtype

    def _hold(self, tensor: gs.Tensor, held: Held, maker: gs.Node) -> None:
        self._held[id(tensor)] = held
        self._makers[id(tensor)] = maker


def _only_reader(tensor: gs.Tensor, outputs: set[int]) -> gs.Node | None:
    if len(tensor.outputs) != 1 or id(tensor) in outputs:
        return None
    reader: gs.Node = tensor.outputs[0]
    return reader


def is_plain(node: gs.Node) -> bool:
    """Whether a layer is none of those convolutions in groups, not depthwise, that have no kernels in 16 bits."""
    if edit.op(node) != "Conv" or edit.attr(node, "group", 1) == 1:
        return True
    shape = node.inputs[1].shape
    return shape is not None and len(shape) > 1 and shape[1] == 1


def contains(quantize: gs.Node, activation: gs.Node) -> bool:
    """Whether quantising clamps at least as hard as the activation before it, which then has no effect."""
    scale, zero = _params(quantize) or (None, None)
    if not isinstance(scale, float) or not isinstance(zero, int):
        return False
    info = np.iinfo(_zero_dtype(quantize))
    low, high = (int(info.min) - zero) * scale, (int(info.max) - zero) * scale
    if edit.op(activation) == "Relu":
        return low >= 0
    least, most = clip_bounds(activation)
    slack = 1e-6 * max(abs(low), abs(high))
    return least is not None and most is not None and least <= low + slack and most >= high - slack


def _params(node: gs.Node) -> Params | None:
    """Scale and zero point of a Q or DQ node; None where they differ by channel."""
    scale, zero = edit.inp(node, 1), edit.inp(node, 2)
    if scale is None:
        return None
    if isinstance(scale, gs.Constant) and int(np.prod(scale.shape)) != 1:
        return None
    scale_value = edit.scalar(scale)
    zero_value = 0.0 if zero is None else edit.scalar(zero)
    return (
        id(scale) if scale_value is None else scale_value,
        f"tensor {id(zero)}" if zero_value is None else int(zero_value),
    )


def _zero_dtype(quantize: gs.Node) -> np.dtype:
    """Integer type that a QuantizeLinear writes: that of its zero point, else of its output, else uint8."""
    zero = edit.inp(quantize, 2)
    tensor = zero if zero is not None and zero.dtype is not None else quantize.outputs[0]
    return np.dtype(np.uint8 if tensor.dtype is None else tensor.dtype)
