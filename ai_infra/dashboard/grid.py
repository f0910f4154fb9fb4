"""A grid: columns that fit any width, because the less important ones go first. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ai_infra.dashboard.ink import Line, Style, ink

GAP = "  "


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column, and what becomes of it where room is short."""

    title: str
    cells: Sequence[Line]
    priority: int = 0  #: 0 stays; among the others the highest number goes first
    right: bool = False  #: aligned to the right: numbers
    shrink_to: int | None = None  #: may be cut down to so many cells before any column goes
    even_empty: bool = False  #: shown even where no cell says anything

    @property
    def natural(self) -> int:
        """Cells that it takes uncut."""
        return max([len(self.title), *(cell.width for cell in self.cells)])

    @property
    def least(self) -> int:
        """Cells that it takes at least."""
        return self.natural if self.shrink_to is None else min(self.natural, self.shrink_to)


def grid(columns: Sequence[Column], width: int) -> list[Line]:
    """A line of titles and one per row, none longer than `width`."""
    shown = [column for column in columns if column.even_empty or any(cell.plain for cell in column.cells)]
    while _least(shown) > width and any(column.priority for column in shown):
        shown.remove(max(shown, key=lambda column: column.priority))
    if not shown:
        return []
    widths = _widths(shown, width)
    head = _row([ink(column.title, Style.DIM) for column in shown], shown, widths, width)
    rows = zip(*(column.cells for column in shown), strict=True)
    return [head, *(_row(row, shown, widths, width) for row in rows)]


def _least(columns: Sequence[Column]) -> int:
    return sum(column.least for column in columns) + len(GAP) * (len(columns) - 1)


def _widths(columns: Sequence[Column], width: int) -> list[int]:
    """What is to spare goes to the columns that were cut, from left to right."""
    spare = max(0, width - _least(columns))
    widths = []
    for column in columns:
        more = min(spare, column.natural - column.least)
        spare -= more
        widths.append(column.least + more)
    return widths


def _row(row: Sequence[Line], columns: Sequence[Column], widths: Sequence[int], width: int) -> Line:
    line = Line()
    for i, (cell, column, room) in enumerate(zip(row, columns, widths, strict=True)):
        line = line + (ink(GAP) if i else Line()) + cell.pad(room, right=column.right)
    return line.cut(width)
