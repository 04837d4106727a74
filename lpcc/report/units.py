"""Numbers as people read them: three digits and a unit. 1 KB is 1024 bytes."""

from __future__ import annotations

import math
from collections.abc import Callable

Text = Callable[[float | None], str]

NONE = "-"
"""Stands for a number that there is not."""


def digits(value: float) -> str:
    """A number with three significant digits, without exponent: ``0.0123``, ``1.23``, ``123``, ``1234``."""
    if value == 0:
        return "0"
    if not math.isfinite(value):
        return str(value)
    places = 2 - math.floor(math.log10(abs(value)))
    return f"{value:.{min(max(places, 0), 6)}f}"


def ms(value: float | None) -> str:
    """Milliseconds; from ten seconds on, seconds."""
    if value is None:
        return NONE
    return f"{digits(value)} ms" if value < 1e4 else f"{digits(value / 1e3)} s"


def mj(value: float | None) -> str:
    """Millijoules; from ten joules on, joules."""
    if value is None:
        return NONE
    return f"{digits(value)} mJ" if value < 1e4 else f"{digits(value / 1e3)} J"


def size(value: int | None) -> str:
    """Bytes."""
    return NONE if value is None else _scaled(value, 1024, ("B", "KB", "MB", "GB", "TB"))


def count(value: int | None) -> str:
    """A number of things; from ten thousand on in thousands (k), millions (M), thousands of millions (G)."""
    if value is None:
        return NONE
    return str(value) if abs(value) < 10_000 else _scaled(value, 1000, ("", "k", "M", "G", "T"))


def number(value: float | None) -> str:
    """A number without a unit."""
    return NONE if value is None else digits(value)


def percent(value: float | None) -> str:
    """A percentage that is given as one: 12.3 is ``12.30 %``."""
    return NONE if value is None else f"{value:.2f} %"


def decibels(value: float | None) -> str:
    """A ratio in dB."""
    return NONE if value is None else f"{value:.1f} dB"


def change(before: float | None, after: float | None) -> str:
    """The change from `before` to `after` as a percentage of `before`: ``-52 %``."""
    if before is None or after is None or before == 0:
        return ""
    if before == after:
        return "="
    relative = 100 * (after - before) / before
    return f"{relative:+.1f} %" if abs(relative) < 9.95 else f"{relative:+.0f} %"


def _scaled(value: int, step: int, units: tuple[str, ...]) -> str:
    scaled, place = float(value), 0
    while abs(scaled) >= step and place < len(units) - 1:
        scaled, place = scaled / step, place + 1
    return f"{value if place == 0 else digits(scaled)} {units[place]}".rstrip()
