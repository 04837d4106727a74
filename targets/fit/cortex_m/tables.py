"""Writes the kernel tables of microcontrollers: counted instructions, and what other engines take in their place."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from lpcc.cost.table import COLUMNS
from lpcc.targets.fit.cortex_m.formulas import CLASSES, Activations, Formula, InstructionSet, formulas, newer
from lpcc.targets.fit.cortex_m.rates import group_of

Rows = dict[tuple[str, str, str, str], float]
"""Coefficient by kernel kind, format, class of instructions and term."""

_NOTES: Mapping[str, str] = {
    "cmsis-nn.csv": "Instructions of CMSIS-NN with the DSP extension (Cortex-M4, M7, M33). Formulas fitted to counts "
    "under an emulator (targets/fit/counts/cmsis-nn.csv, commit 3c835fc8 of 2022-03-10).",
    "cmsis-nn-mve.csv": "Instructions of CMSIS-NN with MVE (Cortex-M55, M85); mac are vector instructions. Formulas "
    "fitted to counts under an emulator (targets/fit/counts/cmsis-nn.csv, release 7.0.0).",
    "x-cube-ai.csv": "X-CUBE-AI 7.3 in instructions of CMSIS-NN: its formulas times a factor for each kind, fitted to "
    "latencies of MLPerf Tiny and ST's model zoo (targets/fit/cortex_m/rates.py).",
}
_ESTIMATES = (
    "Estimates, not counted: concat, copy, transpose, resize, reduce, norm, activation, quantize, dequantize, other, "
    "rnn."
)
_S16 = (
    "int16: kernels with activations of 16 bits and weights of 8, counted in release 7.0.0 "
    "(targets/fit/counts/cmsis-nn-s16.csv), times what int8 kernels take here over what they take in that release."
)
_FLOATS = "float32: scalar code with an FPU; per product {extra} instructions besides the multiplication, {source}."
_FLOAT_SOURCE = {
    "cmsis-nn.csv": "as X-CUBE-AI: CMSIS-NN has no float kernels, and TFLM's reference ones are slower still",
    "cmsis-nn-mve.csv": "as without MVE",
    "x-cube-ai.csv": "set to ST's MNIST network in float (STM32 model zoo)",
}


def write(folder: Path, factors: Mapping[str, float]) -> None:
    """Writes all tables; `factors` are those of X-CUBE-AI by group (`lpcc.targets.fit.cortex_m.rates.GROUPS`)."""
    dsp, mve = _counted("dsp"), _counted("mve")
    for name, rows, extra in (
        ("cmsis-nn.csv", {**dsp, **_counted("dsp", "int16"), **_floats(5.5)}, 5.5),
        ("cmsis-nn-mve.csv", {**mve, **_counted("mve", "int16"), **_floats(3.0)}, 3.0),
        ("x-cube-ai.csv", {**_scaled(dsp, factors), **_floats(5.5)}, 5.5),
    ):
        s16 = (_S16,) if any(key[1] == "int16" for key in rows) else ()
        notes = (_NOTES[name], _ESTIMATES, *s16, _FLOATS.format(extra=extra, source=_FLOAT_SOURCE[name]))
        with (folder / name).open("w", encoding="utf-8", newline="") as file:
            file.writelines(f"# {note}\n" for note in notes)
            table = csv.writer(file, lineterminator="\n")
            table.writerow(COLUMNS)
            table.writerows((*key, f"{value:.4g}") for key, value in rows.items() if value > 1e-4)


def _counted(instructions: InstructionSet, activations: Activations = "int8") -> Rows:
    """Formulas for integers: those of counted kernels, what follows from them, and estimates."""
    found = formulas(instructions, activations)
    if activations == "int16" and instructions == "dsp":
        found = {kind: _times(formula, newer()[kind]) for kind, formula in found.items()}
    rows: Rows = {}
    for kind in ("conv", "depthwise", "gemm", "pool", "softmax"):
        rows.update(_rows(kind, found[kind], activations))
    rows.update(_pointwise(found["pointwise"], found["conv"], activations))
    if activations == "int8":  # there are no others
        rows.update(_rows("grouped", {name: _each_group(found["conv"][name]) for name in CLASSES}))
    rows.update(_rows("matmul", {name: _batched(found["gemm"][name]) for name in CLASSES}, activations))
    rows.update(_elementwise(found["add"], found["mul"], activations))
    for kind, term, value in (
        ("concat", "output_bytes", 0.5),
        ("copy", "output_bytes", 1.0),
        ("transpose", "elements", 8.0),
        ("resize", "elements", 60.0),
        ("reduce", "elements", 8.0),
        ("norm", "elements", 40.0),
        ("activation", "elements", 100.0),
        ("quantize", "elements", 30.0),
        ("dequantize", "elements", 12.0),
        ("other", "elements", 30.0),
        ("rnn", "macs", 2.5),
    ):
        rows[kind, activations, "other", term] = value
        rows[kind, activations, "other", "one"] = 150.0
    return rows


def _times(formula: Formula, factor: float) -> Formula:
    return {name: {term: factor * value for term, value in terms.items()} for name, terms in formula.items()}


def _rows(kind: str, formula: Formula, activations: Activations = "int8") -> Rows:
    return {(kind, activations, name, term): value for name in CLASSES for term, value in formula[name].items()}


def _pointwise(plain: Formula, conv: Formula, activations: Activations) -> Rows:
    """A 1x1 convolution with steps runs as any other convolution."""
    one, other = _rows("pointwise", plain, activations), _rows("pointwise", conv, activations)
    rows = {(*key[:3], f"{key[3]}*[sw=1]"): value for key, value in one.items()}
    rows.update({(*key[:3], f"{key[3]}*![sw=1]"): value for key, value in other.items()})
    return rows


def _each_group(terms: Mapping[str, float]) -> dict[str, float]:
    """A grouped convolution is as many convolutions, in one call."""
    return {term if term == "one" else f"groups*{term}": value for term, value in terms.items()}


def _batched(terms: Mapping[str, float]) -> dict[str, float]:
    return {term if term in ("one", "macs") else f"batch*{term}": value for term, value in terms.items()}


def _elementwise(add: Formula, mul: Formula, activations: Activations) -> Rows:
    """Products are the plain case; a sum rescales both of its inputs on top."""
    rows = _rows("elementwise", mul, activations)
    for name in CLASSES:
        more = add[name].get("elements", 0.0) - mul[name].get("elements", 0.0)
        rows["elementwise", activations, name, "elements*is(Add)"] = max(0.0, more)
    return rows


def _scaled(rows: Rows, factors: Mapping[str, float]) -> Rows:
    """The same formulas with a factor for each part."""
    return {key: value * factors[group_of(key[0], key[3])] for key, value in rows.items()}


def _floats(extra: float) -> Rows:
    """Float kernels of scalar code: an estimate."""
    rows: Rows = {}
    for kind in ("conv", "pointwise", "depthwise", "grouped", "gemm", "matmul", "rnn"):
        more = 2 * extra if kind == "depthwise" else extra
        rows[kind, "float32", "mac", "macs"] = 1.0
        rows[kind, "float32", "other", "macs"] = more
        rows[kind, "float32", "other", "elements"] = 10.0
        rows[kind, "float32", "other", "one"] = 300.0
    for kind, value in (
        ("elementwise", 6.0),
        ("activation", 120.0),
        ("pool", 6.0),
        ("concat", 2.0),
        ("copy", 4.0),
        ("transpose", 8.0),
        ("resize", 30.0),
        ("reduce", 5.0),
        ("softmax", 120.0),
        ("norm", 10.0),
        ("other", 15.0),
    ):
        rows[kind, "float32", "other", "elements"] = value
        rows[kind, "float32", "other", "one"] = 150.0
    return rows
