"""Fitted kernels: formulas with coefficients that take the place of a target's roofline, kernel kind by kernel kind."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lpcc.cost.kinds import ELEMENT_KINDS, FORMATS, MAC_KINDS, QUANTITIES
from lpcc.errors import UsageError
from lpcc.schema import unknown

if TYPE_CHECKING:
    from lpcc.analysis.kernels import Kernel

COLUMNS = ("kernel", "format", "quantity", "term", "coefficient")


@dataclass(frozen=True)
class KernelTable:
    """What a kernel takes, by kind and number format, as sums of coefficient x term.

        quantity = sum over its rows of coefficient x term(kernel)

    A quantity is time (``ns``, nanoseconds), clock ``cycles``, or executed instructions of a class (``mac``,
    ``other``); a kernel may have rows for several. The term is text, see `lpcc.cost.terms`.

    `rows` is keyed by (kind, format), then by quantity, then by term; the format is ``float32``, ``float16``, ``int8``
    or an int8 scheme like ``u8s8``.
    """

    rows: Mapping[tuple[str, str], Mapping[str, Mapping[str, float]]] = field(default_factory=dict)

    @staticmethod
    def read(path: Path) -> KernelTable:
        """The table in a CSV file with the columns kernel, format, quantity, term, coefficient; ``#`` starts a comment.

        Raises UsageError with file and line where it cannot be read.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise UsageError(f"{path}: is no text; a kernel table is CSV in UTF-8") from None
        except OSError as error:
            raise UsageError(f"{path}: cannot read the kernel table: {error.strerror}") from None
        found: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
        numbered = ((n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip() and line[0] != "#")
        for number, line in numbered:
            cells = tuple(cell.strip() for cell in next(csv.reader([line])))
            if cells == COLUMNS:
                continue
            where = f"{path}:{number}"
            if len(cells) != len(COLUMNS):
                raise UsageError(f"{where}: expected {','.join(COLUMNS)}, found {len(cells)} columns")
            kernel, dtype, quantity, term, value = cells
            _known(where, "kernel", kernel, (*MAC_KINDS, *ELEMENT_KINDS))
            _known(where, "format", dtype, FORMATS)
            _known(where, "quantity", quantity, QUANTITIES)
            terms = found.setdefault((kernel, dtype), {}).setdefault(quantity, {})
            if term in terms:
                raise UsageError(f"{where}: {kernel},{dtype},{quantity},{term} is stated twice")
            _check_term(where, term)
            terms[term] = _number(value, where)
        if not found:
            raise UsageError(f"{path}: holds no rows; expected the columns {','.join(COLUMNS)}")
        return KernelTable(found)

    def of(self, kernel: Kernel) -> Mapping[str, float] | None:
        """Amount of each quantity that a kernel takes; None where the table has no rows for it."""
        from lpcc.cost.terms import Term

        rows = self._rows(kernel)
        if rows is None:
            return None
        return {
            quantity: sum(value * Term.parse(term)(kernel) for term, value in terms.items())
            for quantity, terms in rows.items()
        }

    def fixed(self, kernel: Kernel) -> Mapping[str, float]:
        """The part of `of` that does not depend on the kernel's size: the cost of the call."""
        return {quantity: terms.get("one", 0.0) for quantity, terms in (self._rows(kernel) or {}).items()}

    def _rows(self, kernel: Kernel) -> Mapping[str, Mapping[str, float]] | None:
        return self.rows.get((kernel.kind, kernel.scheme)) or self.rows.get((kernel.kind, kernel.dtype))


def _known(where: str, what: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise UsageError(f"{where}: {what} `{name}`, {unknown(name, known, 'known')}")


def _check_term(where: str, term: str) -> None:
    from lpcc.cost.terms import Term

    try:
        Term.parse(term)
    except ValueError as error:
        raise UsageError(f"{where}: term `{term}`: {error}") from None


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (0 <= value < math.inf):
        raise UsageError(f"{where}: coefficient `{text}` is not a number of at least 0")
    return value
