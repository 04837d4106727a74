"""Terms of a cost formula, as text: products of factors like ``ceil(rows/4)*ceil(cout/16)*depth``.

A factor is one of

    q               a quantity of the kernel, see `QUANTITIES`
    ceil(q/8)       blocks of 8 that hold it, the last one perhaps not full
    floor(q/8)      full blocks of 8
    mod(q,8)        what is left over after the full blocks
    blocks(q,4)     blocks of 4, 2 and 1 that add up to q
    over(q,512)     by how much q exceeds 512, else 0
    [q=3] [q>3] [q<3] [q%8=0]   1 if so, else 0; several: [kw=3&sw=1]
    ![kw=3&sw=1]    0 if so, else 1
    is(Sigmoid)     1 if that is the kernel's main operator, else 0
    runs(Gelu)      1 if that is what the runtime calls the kernel, else 0
    has(Relu)       1 if the kernel takes in a node of that operator besides its main one, else 0
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING

from lpcc.schema import unknown

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from lpcc.analysis.kernels import Kernel

Factor = Callable[["Kernel"], float]

_BOUNDS = ("batch", "groups", "cin", "cout", "kh", "kw", "sh", "sw", "dh", "dw", "ih", "iw", "oh", "ow")
_DERIVED = ("taps", "depth", "pixels", "rows")


def _bound(name: str) -> Factor:
    read = operator.attrgetter(name)
    return lambda kernel: float(read(kernel.geometry))


QUANTITIES: Mapping[str, Factor] = MappingProxyType(
    {
        "one": lambda _: 1.0,
        "macs": lambda kernel: float(kernel.macs),
        "elements": lambda kernel: float(kernel.elements),
        "bytes": lambda kernel: float(kernel.bytes),
        "weight_bytes": lambda kernel: float(kernel.weight_bytes),
        "input_bytes": lambda kernel: float(sum(o.nbytes for o in kernel.inputs)),
        "output_bytes": lambda kernel: float(sum(o.nbytes for o in kernel.outputs)),
        "inputs": lambda kernel: float(len(kernel.inputs)),
        "outputs": lambda kernel: float(len(kernel.outputs)),
        "blocked": lambda kernel: float(kernel.blocked),
        **{name: _bound(name) for name in (*_BOUNDS, *_DERIVED)},
    }
)
"""Numbers of a kernel that a term may use: its work, its data, its `lpcc.analysis.geometry.Geometry`, and ``one``."""

_NAME = re.compile(r"[a-z_]+")
_BLOCK = re.compile(r"(ceil|floor)\(([a-z_]+)/([1-9][0-9]*)\)|(mod|blocks|over)\(([a-z_]+),([1-9][0-9]*)\)")
_CONDITION = re.compile(r"(!?)\[([^\[\]]+)\]")
_COMPARISON = re.compile(r"([a-z_]+)(?:%([1-9][0-9]*))?([=<>])([0-9]+)")
_OPERATOR = re.compile(r"(is|has|runs)\(([A-Za-z0-9_]+)\)")
_COMPARE = {"=": operator.eq, "<": operator.lt, ">": operator.gt}


@dataclass(frozen=True)
class Term:
    """A product of factors; call it with a kernel for its value."""

    text: str
    factors: tuple[Factor, ...]

    @staticmethod
    @cache
    def parse(text: str) -> Term:
        """The term that `text` writes down. Raises ValueError, saying what is wrong with which factor."""
        return Term(text, tuple(_factor(part.strip()) for part in text.split("*")))

    def __call__(self, kernel: Kernel) -> float:
        """Value of the term for a kernel."""
        value = 1.0
        for factor in self.factors:
            value *= factor(kernel)
            if not value:  # a condition that does not hold: the rest need not be looked at
                break
        return value

    def __str__(self) -> str:
        return self.text


def _factor(text: str) -> Factor:
    if _NAME.fullmatch(text):
        return _quantity(text)
    if match := _BLOCK.fullmatch(text):
        word, name, size = (match[i] or match[i + 3] for i in (1, 2, 3))
        return _block(word, _quantity(name), int(size))
    if match := _CONDITION.fullmatch(text):
        return _condition(match[2], negated=match[1] == "!")
    if match := _OPERATOR.fullmatch(text):
        return {"is": _is, "has": _has, "runs": _runs}[match[1]](match[2])
    known = (
        "q, ceil(q/8), floor(q/8), mod(q,8), blocks(q,4), over(q,8), [q=3], ![q<3], [q%8=0], is(Op), has(Op), runs(Op)"
    )
    raise ValueError(f"factor `{text}` is none of: {known}")


def _quantity(name: str) -> Factor:
    if name not in QUANTITIES:
        raise ValueError(f"quantity `{name}`, {unknown(name, QUANTITIES, 'known')}")
    return QUANTITIES[name]


def _block(word: str, quantity: Factor, size: int) -> Factor:
    if word == "ceil":
        return lambda kernel: float(-(-quantity(kernel) // size))
    if word == "floor":
        return lambda kernel: float(quantity(kernel) // size)
    if word == "blocks":
        return lambda kernel: float(quantity(kernel) // size + (int(quantity(kernel)) % size).bit_count())
    if word == "over":
        return lambda kernel: max(0.0, quantity(kernel) - size)
    return lambda kernel: float(quantity(kernel) % size)


def _condition(text: str, *, negated: bool) -> Factor:
    parts = [_comparison(part.strip()) for part in text.split("&")]
    return lambda kernel: float(all(part(kernel) for part in parts) != negated)


def _comparison(text: str) -> Callable[[Kernel], bool]:
    match = _COMPARISON.fullmatch(text)
    if not match:
        raise ValueError(f"condition `{text}` is none of: q=3, q>3, q<3, q%8=0")
    quantity, holds, limit = _quantity(match[1]), _COMPARE[match[3]], int(match[4])
    if match[2]:
        size = int(match[2])
        return lambda kernel: bool(holds(quantity(kernel) % size, limit))
    return lambda kernel: bool(holds(quantity(kernel), limit))


def _is(op: str) -> Factor:
    return lambda kernel: float(_name(kernel.node) == op)


def _runs(op: str) -> Factor:
    return lambda kernel: float(kernel.op.split("::")[-1] == op)


def _has(op: str) -> Factor:
    return lambda kernel: float(any(node is not kernel.node and _name(node) == op for node in kernel.nodes))


def _name(node: gs.Node) -> str:
    """An operator without its domain."""
    from lpcc import edit  # imports onnx_graphsurgeon, which reading a table must not

    return edit.op(node).split("::")[-1]
