"""Tables as lines of text that fit a width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_GAP = "  "
_NARROWEST = 8


@dataclass(frozen=True)
class Column:
    """A column: numbers stand right. One that is `elastic` gives way first where the table is too wide, and is cut.

    Columns with `drop` above 0 then go one by one, those with the highest number first.
    """

    title: str
    right: bool = False
    elastic: bool = False
    tail: bool = False
    """Cut an elastic cell at its front: of a path the end tells most."""
    drop: int = 0


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Title line and a line per row, none longer than `width` unless the fixed columns are.

    Columns that no row fills are left out.
    """
    natural = [max([len(column.title), *(len(row[place]) for row in rows)]) for place, column in enumerate(columns)]
    places = [place for place in range(len(columns)) if any(row[place] for row in rows)]
    while _least(columns, natural, places) > width:
        optional = [place for place in places if columns[place].drop]
        if not optional:
            break
        places.remove(max(optional, key=lambda place: columns[place].drop))
    widths = _widths(columns, natural, places, width)
    lines: list[Sequence[str]] = [[column.title for column in columns], *rows]
    return [_GAP.join(_cell(line[place], columns[place], widths[place]) for place in places).rstrip() for line in lines]


def _least(columns: Sequence[Column], natural: Sequence[int], places: Sequence[int]) -> int:
    fixed = sum(min(natural[p], 2 * _NARROWEST) if columns[p].elastic else natural[p] for p in places)
    return fixed + len(_GAP) * (len(places) - 1)


def _widths(columns: Sequence[Column], natural: Sequence[int], places: Sequence[int], width: int) -> dict[int, int]:
    """Widths of the columns at `places`; what is too much is taken from the widest elastic column, unit by unit."""
    widths = {place: natural[place] for place in places}
    excess = sum(widths.values()) + len(_GAP) * (len(places) - 1) - width
    while excess > 0:
        elastic = [p for p in places if columns[p].elastic and widths[p] > _NARROWEST]
        if not elastic:
            break
        widths[max(elastic, key=lambda p: widths[p])] -= 1
        excess -= 1
    return widths


def _cell(text: str, column: Column, width: int) -> str:
    if len(text) > width:
        text = f"...{text[len(text) - width + 3 :]}" if column.tail else f"{text[: width - 3]}..."
    return text.rjust(width) if column.right else text.ljust(width)
