"""Sizes that are not known: polynomials with whole coefficients over unknown sizes, in one normal form.

Two sizes with one normal form are equal whatever the unknowns are; that is all that is ever concluded from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_LIMIT = 2**63


@dataclass(frozen=True)
class Size:
    """A polynomial that is no plain number. `terms` pairs a product of unknowns, as sorted numbers, with its factor."""

    terms: tuple[tuple[tuple[int, ...], int], ...]

    @property
    def is_nonnegative(self) -> bool:
        """Whether no factor is negative: as unknown sizes are not negative either, neither is the sum."""
        return all(factor >= 0 for _, factor in self.terms)


def unknown(number: int) -> Size:
    """The unknown size of that number."""
    return Size((((number,), 1),))


def _made(terms: Mapping[tuple[int, ...], int]) -> int | Size | None:
    kept = tuple(sorted((unknowns, factor) for unknowns, factor in terms.items() if factor))
    if any(abs(factor) >= _LIMIT for _, factor in kept):
        return None
    if not kept:
        return 0
    return kept[0][1] if kept[0][0] == () and len(kept) == 1 else Size(kept)


def _terms(value: int | Size) -> tuple[tuple[tuple[int, ...], int], ...]:
    return value.terms if isinstance(value, Size) else (((), value),)


def add(a: int | Size | None, b: int | Size | None) -> int | Size | None:
    """``a + b``; None where either is unknown."""
    if a is None or b is None:
        return None
    terms = dict(_terms(a))
    for unknowns, factor in _terms(b):
        terms[unknowns] = terms.get(unknowns, 0) + factor
    return _made(terms)


def multiply(a: int | Size | None, b: int | Size | None) -> int | Size | None:
    """``a * b``; None where either is unknown."""
    if a is None or b is None:
        return None
    terms: dict[tuple[int, ...], int] = {}
    for left, m in _terms(a):
        for right, n in _terms(b):
            unknowns = tuple(sorted(left + right))
            terms[unknowns] = terms.get(unknowns, 0) + m * n
    return _made(terms)


def negate(a: int | Size | None) -> int | Size | None:
    """``-a``."""
    return multiply(a, -1)


def divide(a: int | Size | None, b: int | Size | None) -> int | Size | None:
    """``a / b`` where it comes out even for all unknowns, or both are plain numbers (then cut off at the point)."""
    if a is None or b is None or b == 0:
        return None
    if isinstance(a, int) and isinstance(b, int):
        return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    divisor = _terms(b)
    if len(divisor) != 1:
        return 1 if a == b else None
    (unknowns, factor) = divisor[0]
    terms: dict[tuple[int, ...], int] = {}
    for product, m in _terms(a):
        left = list(product)
        for one in unknowns:
            if one not in left:
                return None
            left.remove(one)
        if m % factor:
            return None
        terms[tuple(left)] = m // factor
    return _made(terms)


def product(values: Iterable[int | Size | None]) -> int | Size | None:
    """Product of sizes; None where one is unknown."""
    total: int | Size | None = 1
    for value in values:
        total = multiply(total, value)
    return total
