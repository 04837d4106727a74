"""From counted instructions to cycles: one model for all measured boards and engines, fitted at once.

    cycles = scale(engine) x cycles_per_instruction(core) x waits(board) x sum over kernels of
             factor(engine's family, kind) x instructions(kernel) + cycles_per_weight_byte(board) x bytes of weights

CMSIS-NN's factors are 1: its instructions were counted. X-CUBE-AI and the engines of Plumerai, Bosch and ONNC are not
public; they share one set of factors, fitted to X-CUBE-AI 7.3, and differ by their scale. A weight is read from flash
once an inference; that matters where each is used once, as in fully connected layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from lpcc.cost.table import KernelTable
from lpcc.cost.terms import Term
from lpcc.targets.fit.cortex_m.measured import Row, network_kernels

GROUPS = ("conv", "copy", "pointwise", "depthwise", "wide depthwise", "gemm", "rest")
"""Parts of formulas that have a factor of their own: `copy` is what a convolution spends on its columns (im2col)."""

_START = {"m4": 1.3, "m33": 1.05, "m7": 0.7, "m85": 0.95}
_FACTOR = 0.75  # where factors are drawn to, as X-CUBE-AI runs networks some 25 % faster than CMSIS-NN
_ERROR = 0.1  # expected, of the logarithm of a measurement
_LOOSENESS = {"core": 1.0, "waits": 0.1, "flash": 1.0, "scale": 0.5, "factor": 0.5}
"""How far the logarithm of a parameter may go from its start at the same price."""


@dataclass(frozen=True)
class Rates:
    """The fitted parameters, by name; those that no row asked for have their start values."""

    core: Mapping[str, float]
    waits: Mapping[str, float]
    flash: Mapping[str, float]
    scale: Mapping[str, float]
    factor: Mapping[str, float]

    def cycles(self, row: Row) -> float:
        """Prediction for a measured row."""
        parts, weights = _parts(row.network, row.engine)
        if _counted(row.engine):
            executed = sum(parts.values())
        else:
            executed = sum(self.factor[group] * amount for group, amount in parts.items())
        core = self.core[row.board.core] * self.waits.get(row.board.name, 1.0)
        return self.scale.get(row.engine, 1.0) * core * executed + self._flash(row) * weights

    def _flash(self, row: Row) -> float:
        known = sorted(self.flash.values())
        return self.flash.get(row.board.name, known[len(known) // 2] if known else 0.5)


def fit(rows: Sequence[Row]) -> Rates:
    """Rates that meet measured rows, in least squares of logarithms, drawn to their start values."""
    from scipy.optimize import least_squares

    boards = sorted({row.board.name for row in rows})
    engines = sorted({row.engine for row in rows} - {"cmsis-nn", "x-cube-ai 7.3", "cmsis-nn mve"})
    start = {
        **{f"core {core}": value for core, value in _START.items()},
        **{f"waits {board}": 1.0 for board in boards},
        **{f"flash {board}": 0.5 for board in boards},
        **{f"scale {engine}": 1.0 for engine in engines},
        **{f"factor {group}": _FACTOR for group in GROUPS},
    }
    names, logs = list(start), np.log(list(start.values()))

    def unpack(values: NDArray[np.float64]) -> Rates:
        found: dict[str, dict[str, float]] = {"core": {}, "waits": {}, "flash": {}, "scale": {}, "factor": {}}
        for name, value in zip(names, values, strict=True):
            kind, _, key = name.partition(" ")
            found[kind][key] = math.exp(value)
        return Rates(**found)

    weights = _weights(rows)
    loose = np.array([_LOOSENESS[name.partition(" ")[0]] for name in names])

    def residuals(values: NDArray[np.float64]) -> NDArray[np.float64]:
        rates = unpack(values)
        errors = [w * math.log(rates.cycles(row) / row.cycles) / _ERROR for w, row in zip(weights, rows, strict=True)]
        return np.concatenate([np.array(errors), (values - logs) / loose])

    return unpack(least_squares(residuals, logs, xtol=1e-10, ftol=1e-10).x)


def _weights(rows: Sequence[Row]) -> list[float]:
    """Rows of the same engine, board and network count as one, however often somebody handed them in."""
    keys = [(row.engine, row.board.name, row.network) for row in rows]
    return [1 / math.sqrt(keys.count(key)) for key in keys]


def group_of(kind: str, term: str) -> str:
    """Which of `GROUPS` a term of a kind's formula belongs to."""
    if kind == "conv" or (kind == "pointwise" and "![sw=1]" in term):
        return "copy" if term.split("*[")[0].split("*![")[0] in _COPY else "conv"
    if kind == "depthwise":
        return "wide depthwise" if "![taps=9]" in term else "depthwise"
    return kind if kind in GROUPS else "rest"


_COPY = ("rows*depth", "rows*taps", "rows")


@cache
def _parts(network: str, engine: str) -> tuple[dict[str, float], int]:
    """Instructions of a network by group, and the bytes of its weights."""
    table = instruction_table("mve" if engine.endswith("mve") else "dsp")
    parts: dict[str, float] = {}
    weights = 0
    for kernel in network_kernels(network):
        weights += kernel.weight_bytes
        for terms in table.rows.get((kernel.kind, "int8"), {}).values():
            for term, coefficient in terms.items():
                group = group_of(kernel.kind, term)
                parts[group] = parts.get(group, 0.0) + coefficient * Term.parse(term)(kernel)
    return parts, weights


@cache
def instruction_table(instructions: str) -> KernelTable:
    """The table of instructions that targets use."""
    from importlib.resources import as_file, files

    name = {"dsp": "cmsis-nn.csv", "mve": "cmsis-nn-mve.csv"}[instructions]
    with as_file(files("lpcc.targets") / "tables" / name) as path:
        return KernelTable.read(path)


def _counted(engine: str) -> bool:
    return engine.startswith(("cmsis-nn", "microtvm"))
