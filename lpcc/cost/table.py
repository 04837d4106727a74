"""Fitted kernels: coefficients that take the place of a target's roofline, kernel kind by kernel kind."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lpcc.cost.kinds import ELEMENT_KINDS, FORMATS, MAC_KINDS
from lpcc.errors import UsageError
from lpcc.schema import unknown

TERMS = ("call", "macs", "padded_macs", "elements", "bytes", "weight_bytes")
"""What a coefficient multiplies; see `KernelTable`."""


@dataclass(frozen=True)
class KernelTable:
    """Latency in microseconds of a kernel kind and number format, as a sum of coefficient x quantity.

    The term ``call`` is microseconds per call; every other one is microseconds per million: of multiply-accumulates
    (``macs``; ``padded_macs`` with channels rounded up to what the kernel computes on), of output elements
    (``elements``), of bytes read and written (``bytes``) and of bytes of weights among them (``weight_bytes``).

    `coefficients` is keyed by (kind, format); the format is ``float32``, ``int8`` or an int8 scheme like ``u8s8``.
    """

    coefficients: Mapping[tuple[str, str], Mapping[str, float]] = field(default_factory=dict)

    @staticmethod
    def read(path: Path) -> KernelTable:
        """The table in a CSV file with the columns kernel, dtype, term, coefficient; ``#`` starts a comment line.

        Raises UsageError with file and line where it cannot be read.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: cannot read the kernel table: {error}") from None
        found: dict[tuple[str, str], dict[str, float]] = {}
        numbered = ((n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip() and line[0] != "#")
        for number, line in numbered:
            row = [cell.strip() for cell in next(csv.reader([line]))]
            if row == ["kernel", "dtype", "term", "coefficient"]:
                continue
            if len(row) != 4:
                raise UsageError(f"{path}:{number}: expected kernel,dtype,term,coefficient, found {len(row)} columns")
            kernel, dtype, term, value = row
            for what, name, known in (
                ("kernel", kernel, (*MAC_KINDS, *ELEMENT_KINDS)),
                ("format", dtype, FORMATS),
                ("term", term, TERMS),
            ):
                if name not in known:
                    raise UsageError(f"{path}:{number}: {what} `{name}`, {unknown(name, known, 'known')}")
            terms = found.setdefault((kernel, dtype), {})
            if term in terms:
                raise UsageError(f"{path}:{number}: {kernel},{dtype},{term} is stated twice")
            terms[term] = _number(value, f"{path}:{number}")
        return KernelTable(found)


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (0 <= value < math.inf):
        raise UsageError(f"{where}: coefficient `{text}` is not a number of at least 0")
    return value
