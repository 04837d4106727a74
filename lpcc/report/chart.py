"""Numbers as block characters: a series as a few lines, one number as a bar."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

_EIGHTHS = " ▁▂▃▄▅▆▇█"
_PARTS = " ▏▎▍▌▋▊▉█"


def chart(values: Sequence[int], width: int, height: int = 4) -> list[str]:
    """`height` lines of at most `width` columns; the largest value reaches the top.

    Where there are more values than columns a column shows the largest of those that share it: no peak gets lost.
    Empty for no values or nothing above 0.
    """
    top = max(values, default=0)
    if top <= 0:
        return []
    count = min(len(values), width)
    edges = [place * len(values) // count for place in range(count + 1)]
    columns = [max(values[start:stop]) for start, stop in pairwise(edges)]
    eighths = [-(-8 * height * value // top) for value in columns]
    return [
        "".join(_EIGHTHS[min(8, max(0, level - 8 * (height - 1 - row)))] for level in eighths).rstrip()
        for row in range(height)
    ]


def bar(share: float, width: int) -> str:
    """A bar as long as `share`, from 0 to 1, of `width` columns; what is above 0 is seen."""
    eighths = min(8 * width, max(round(8 * width * share), 1)) if share > 0 else 0
    return _PARTS[8] * (eighths // 8) + (_PARTS[eighths % 8] if eighths % 8 else "")
