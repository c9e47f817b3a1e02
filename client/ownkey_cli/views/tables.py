# SPDX-License-Identifier: Apache-2.0
"""The two shapes most views have: a table of many things, a grid of one thing's fields."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from client.ownkey_cli.texts import clean

Cell = str | Text

FOLDED_COLUMNS_MIN = 14
"""Width below which a text is not folded any further."""
FOLDED_LINES_MAX = 4
"""Lines that a text is folded into as long as spare columns can be left out instead."""
_GAP = 2


@dataclass(frozen=True, slots=True)
class _Column:
    """
    A column; `marks` before its heading say how it is laid out.

    Args:
        heading: What it holds.
        number: `>`: to the right, never folded.
        whole: `!`: never folded.
        spare: `?`: left out of a narrow terminal, the last such column first.
    """

    heading: str
    number: bool
    whole: bool
    spare: bool

    @classmethod
    def read(cls, text: str) -> _Column:
        heading = text.lstrip(">!?")
        marks = text[: len(text) - len(heading)]
        return cls(heading, ">" in marks, ">" in marks or "!" in marks, "?" in marks)


class _Fitting:
    """
    A table that fits its terminal: texts are folded, spare columns left out, numbers whole.

    Where even that is too wide, each row stands by itself, a line for each of its cells.
    """

    def __init__(self, columns: list[_Column], rows: list[list[Text]]) -> None:
        self._columns = columns
        self._rows = rows

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        shown = list(range(len(self._columns)))
        spare = [index for index in shown if self._columns[index].spare]
        while spare and self._total(shown, FOLDED_LINES_MAX) > options.max_width:
            shown.remove(spare.pop())
        if self._total(shown) > options.max_width:
            yield from self._one_by_one()
            return
        drawn = Table(
            box=box.SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
            padding=(0, _GAP - 1, 0, 0),
            header_style="bold",
        )
        for column in (self._columns[index] for index in shown):
            drawn.add_column(
                column.heading,
                justify="right" if column.number else "left",
                no_wrap=column.whole,
                overflow="fold",
            )
        for row in self._rows:
            drawn.add_row(*(row[index] for index in shown))
        yield drawn

    def _one_by_one(self) -> RenderResult:
        for number, row in enumerate(self._rows):
            if number:
                yield Text()
            cells = zip(self._columns, row, strict=True)
            yield grid((column.heading, cell) for column, cell in cells if cell.plain)

    def _total(self, shown: Sequence[int], lines_max: int | None = None) -> int:
        """Width of the columns that are shown, texts folded as far as they may be."""
        return sum(self._width(index, lines_max) + _GAP for index in shown) - _GAP

    def _width(self, index: int, lines_max: int | None) -> int:
        """Columns it takes at least, folded into so many lines or into any number."""
        column = self._columns[index]
        lines = [column.heading]
        for row in self._rows:
            lines += row[index].plain.split("\n")
        longest = max(cell_len(line) for line in lines)
        if column.whole:
            return longest
        folded = longest // lines_max if lines_max else 0
        return min(longest, max(folded, FOLDED_COLUMNS_MIN))


def table(columns: Sequence[str], rows: Iterable[Sequence[Cell]], *, empty: str) -> RenderableType:
    """
    A table, or the sentence `empty` for no rows.

    Args:
        columns: Headings, each with marks before it: `>` is a number, to the right; `!` is never
            folded; `?` is left out where the terminal is too narrow.
        rows: Cells; plain text of others is cleaned here.
        empty: What no rows mean.
    """
    cells = [[as_text(cell) for cell in row] for row in rows]
    if not cells:
        return Text(empty, style="dim")
    return _Fitting([_Column.read(column) for column in columns], cells)


def grid(fields: Iterable[tuple[str, Cell | RenderableType]]) -> Table:
    """Names of fields beside their values."""
    drawn = Table.grid(padding=(0, 2))
    drawn.add_column(style="dim", no_wrap=True)
    drawn.add_column(overflow="fold")
    for name, value in fields:
        drawn.add_row(name, as_text(value) if isinstance(value, str) else value)
    return drawn


def titled(title: str, body: RenderableType) -> Group:
    """A part of a longer view, under its title."""
    return Group(Text(), Text(title, style="bold"), body)


def as_text(cell: Cell) -> Text:
    """A cell's text; what others wrote cannot steer the terminal."""
    return cell if isinstance(cell, Text) else Text(clean(cell))
