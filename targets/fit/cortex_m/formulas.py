"""Formulas for the instructions that CMSIS-NN's kernels execute, for int8 and int16 activations, fitted to counts.

The terms follow the loops of the library's source. With the DSP extension a convolution copies two windows (im2col),
widens them to 16 bits, and multiplies 2 columns x 2 channels x 4 values by 8 SMLAD; a 1x1 convolution works on 2 x 2
values in place. With MVE both multiply 4 rows by 16 values at a time.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lpcc.analysis.geometry import Geometry
from lpcc.cost.terms import Term
from lpcc.targets.fit.least_squares import fit_relative

InstructionSet = Literal["dsp", "mve"]
Activations = Literal["int8", "int16"]
Formula = Mapping[str, Mapping[str, float]]
"""Coefficients by term, by class of instructions: ``mac`` and ``other``."""

CLASSES = ("mac", "other")
_COUNTS: Mapping[Activations, str] = {"int8": "cmsis-nn.csv", "int16": "cmsis-nn-s16.csv"}

TERMS: Mapping[InstructionSet, Mapping[str, Sequence[str]]] = {
    "dsp": {
        "conv": (
            "ceil(rows/2)*ceil(cout/2)*floor(depth/4)",
            "ceil(rows/2)*ceil(cout/2)*mod(depth,4)",
            "rows*cout",
            "rows*depth",
            "rows*taps",
            "rows",
            "one",
        ),
        "pointwise": ("macs", "rows*cout", "cin*cout", "cout", "ceil(rows/2)*cout", "one"),
        "depthwise": (
            "elements*[taps=9]",
            "rows*[taps=9]",
            "macs*![taps=9]",
            "elements*![taps=9]",
            "rows*taps*![taps=9]",
            "one",
        ),
        "gemm": ("macs", "rows*cout", "one"),
        "pool": ("elements", "rows*groups", "rows*taps", "rows", "one"),
        "add": ("elements", "one"),
        "mul": ("elements", "one"),
        "softmax": ("elements", "rows", "one"),
    },
    "mve": {
        "conv": (
            "ceil(rows/4)*cout*ceil(depth/16)",
            "ceil(rows/4)*cout",
            "rows*cout",
            "rows*taps*ceil(cin/16)",
            "rows*taps",
            "one",
        ),
        "pointwise": ("ceil(rows/4)*cout*ceil(cin/16)", "ceil(rows/4)*cout", "rows*cout", "rows", "one"),
        "depthwise": ("rows*taps*ceil(groups/16)", "rows*ceil(groups/4)", "macs", "rows*taps", "rows", "one"),
        "gemm": ("ceil(cin/16)*rows*cout", "rows*cout", "one"),
        "pool": ("rows*taps*ceil(groups/16)", "rows*ceil(groups/16)", "rows*taps", "rows", "one"),
        "add": ("elements", "one"),
        "mul": ("elements", "one"),
        "softmax": ("elements", "rows", "one"),
    },
}

TERMS_S16: Mapping[InstructionSet, Mapping[str, Sequence[str]]] = {
    "dsp": {
        "conv": (*TERMS["dsp"]["conv"], "ceil(rows/2)*ceil(cout/2)*over(depth,512)"),
        "pointwise": (
            "ceil(rows/2)*ceil(cout/2)*floor(cin/4)",
            "rows*cout",
            "ceil(rows/2)*cout",
            "rows*cin",
            "rows",
            "one",
        ),
    },
    "mve": {
        "conv": (*TERMS["mve"]["conv"], "ceil(rows/4)*cout*over(depth,512)", "rows*cout*over(depth,512)"),
        "gemm": ("ceil(cin/8)*rows*cout", "rows*cout", "rows*cout*over(cin,512)", "one"),
        "pool": (*TERMS["mve"]["pool"], "elements", "rows*groups"),
    },
}
"""Where kernels of int16 activations go through their data in other ways: int32 sums hold 512 products, the rest of a
window is added in 64 bits, one by one."""


@dataclass(frozen=True)
class Count:
    """One call of a kernel, and the instructions that it executed."""

    kind: str
    kernel: Any  # as much of an lpcc.analysis.kernels.Kernel as terms ask for
    mac: int
    other: int

    @property
    def total(self) -> int:
        """All instructions."""
        return self.mac + self.other


def counts(instructions: InstructionSet, activations: Activations = "int8") -> list[Count]:
    """The counts that are kept in the repository."""
    return [_count(row) for row in _read(_COUNTS[activations], instructions)]


def newer() -> dict[str, float]:
    """By kind: instructions of the int8 kernels that tables of the DSP extension state, over those of release 7.0.0.

    The median over all calls. Kernels for int16 are of that release: times this they compare with those for int8.
    """
    old = {_key(row): row for row in _read("cmsis-nn.csv", "dsp")}
    ratios: dict[str, list[float]] = defaultdict(list)
    for row in _read("cmsis-nn-s16.csv", "dsp-s8"):
        ratios[_count(row).kind].append(_count(old[_key(row)]).total / _count(row).total)
    return {kind: float(np.median(values)) for kind, values in ratios.items()}


def _key(row: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(value for name, value in row.items() if name not in ("set", "mac", "other"))


def _read(name: str, instructions: str) -> list[dict[str, str]]:
    text = (files("lpcc.targets.fit") / "counts" / name).read_text(encoding="utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return [row for row in rows if row["set"] == instructions]


def _count(row: dict[str, str]) -> Count:
    kernel = row["kernel"]
    ih, iw, cin, cout, kh, kw, stride, oh, ow = (
        int(row[name]) for name in ("ih", "iw", "cin", "cout", "kh", "kw", "stride", "oh", "ow")
    )
    macs, elements, kind = 0, ih * iw * cin, kernel
    if kernel == "conv":
        shape = Geometry(1, 1, cin, cout, kh, kw, stride, stride, 1, 1, ih, iw, oh, ow)
        macs, elements = shape.rows * cout * shape.depth, shape.rows * cout
        kind = "pointwise" if kh == kw == stride == 1 else "conv"
    elif kernel in ("depthwise", "average", "maximum"):
        shape = Geometry(1, cout, 1, 1, kh, kw, stride, stride, 1, 1, ih, iw, oh, ow)
        elements = shape.rows * cout
        if kernel == "depthwise":
            macs = elements * shape.taps
        else:
            elements, kind = elements * shape.taps, "pool"
    elif kernel == "gemm":
        shape = Geometry(cin=cin, cout=cout)
        macs, elements = cin * cout, cout
    else:  # softmax has its rows in the height
        shape = Geometry(cin=cin, cout=cin, ih=ih, oh=ih)
    given = SimpleNamespace(
        geometry=shape, macs=macs, elements=elements, weight_bytes=0, bytes=0, inputs=(), outputs=()
    )
    return Count(kind, given, int(row["mac"]), int(row["other"]))


def features(terms: Sequence[str], kernels: Sequence[Any]) -> NDArray[np.float64]:
    """Values of terms: [kernels, terms]."""
    return np.array([[Term.parse(term)(kernel) for term in terms] for kernel in kernels])


def formulas(instructions: InstructionSet, activations: Activations = "int8") -> dict[str, Formula]:
    """The fitted formula of each kind of kernel. Errors count relative to all instructions of a call."""
    calls: dict[str, list[Count]] = defaultdict(list)
    for count in counts(instructions, activations):
        calls[count.kind].append(count)
    terms = TERMS[instructions] if activations == "int8" else {**TERMS[instructions], **TERMS_S16[instructions]}
    return {kind: _fit(terms[kind], calls[kind]) for kind in terms}


def _fit(terms: Sequence[str], calls: Sequence[Count]) -> Formula:
    values = features(terms, [call.kernel for call in calls])
    total = np.array([call.total for call in calls], dtype=np.float64)
    fitted = {}
    for name in CLASSES:
        executed = np.array([max(1, getattr(call, name)) for call in calls], dtype=np.float64)
        found = fit_relative(values, executed, weights=(executed / total) ** 2)
        fitted[name] = {term: float(value) for term, value in zip(terms, found, strict=True) if value > 0}
    return fitted


def predicted(formula: Formula, kernel: Any) -> float:
    """All instructions of a call by its formula."""
    return sum(value * Term.parse(term)(kernel) for terms in formula.values() for term, value in terms.items())
