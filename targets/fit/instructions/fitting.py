"""Fits the formulas to counted kernels, and writes the result as a kernel table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lpcc.cost.terms import Term
from lpcc.targets.fit.instructions.counts import Row
from lpcc.targets.fit.instructions.formulas import FLOAT, INTEGER, Formula
from lpcc.targets.fit.least_squares import fit_relative

Fitted = Mapping[tuple[str, str], Mapping[str, Mapping[str, float]]]
"""Coefficients by (kind, format), class of instructions and term."""


def formulas(isa: str) -> Iterator[tuple[str, str, Formula]]:
    """Kind, format and formula of all kernels on an instruction set."""
    for kind, formula in FLOAT.items():
        yield kind, "float32", formula
    for (kind, name), formula in INTEGER[isa].items():
        yield kind, name, formula


def fit(rows: Sequence[Row], isa: str) -> Fitted:
    """Coefficients for one instruction set. Float kernels are counted once for all sets."""
    found: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for kind, name, formula in formulas(isa):
        chosen = [row for row in rows if row.kernel.kind == kind and name in (row.kernel.dtype, row.kernel.scheme)]
        counted = "armv8" if name == "float32" else isa
        found[kind, name] = {
            "other" if quantity == "total" else quantity: _coefficients(chosen, terms, quantity, counted)
            for quantity, terms in formula.items()
        }
    return found


def amount(row: Row, quantity: str, isa: str) -> float:
    """Counted instructions of a class; ``total``: of both."""
    if quantity == "total":
        return row.counts[isa, "mac"] + row.counts[isa, "other"]
    return row.counts[isa, quantity]


def _coefficients(rows: Sequence[Row], terms: Sequence[str], quantity: str, isa: str) -> dict[str, float]:
    """Least squares of errors relative to all instructions of each kernel."""
    features: NDArray[np.float64] = np.array([[Term.parse(term)(row.kernel) for term in terms] for row in rows])
    measured = np.maximum([amount(row, quantity, isa) for row in rows], 1.0)
    share = measured / np.array([amount(row, "total", isa) for row in rows])
    found = fit_relative(features, measured, weights=share**2)
    return {term: float(f"{value:.4g}") for term, value in zip(terms, found, strict=True) if value > 0}


def write(path: Path, fitted: Fitted, comment: str) -> None:
    """Writes a kernel table."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"# {line}\n" for line in comment.splitlines())
        file.write("kernel,format,quantity,term,coefficient\n")
        for (kind, name), classes in fitted.items():
            for quantity, terms in classes.items():
                for term, value in terms.items():
                    cell = f'"{term}"' if "," in term else term
                    file.write(f"{kind},{name},{quantity},{cell},{value:g}\n")
