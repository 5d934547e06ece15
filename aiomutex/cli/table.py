"""Tables of text, quick enough for thousands of rows, that fit the terminal. A pipe gets every column in full."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING, NamedTuple

import click

from aiomutex.cli.common import encodable, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Column", "print_table"]


class Column(NamedTuple):
    """A column, and how it may give way on a narrow terminal."""

    title: str
    right: bool = False
    least: int | None = None
    """The width to which its cells may be shortened; ``None`` if never."""
    drop: int = 0
    """Its place in the order in which columns are left out, from 1; 0 if never. Empty columns go first."""


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under the titles of their columns."""
    titles = [column.title for column in columns]
    cells = [titles, *([printable(cell, keep="") for cell in row] for row in rows)]
    by_column = list(zip(*cells, strict=True))
    widths = [max(map(_width, column)) for column in by_column]
    shown = list(range(len(columns)))
    if sys.stdout.isatty():
        order = sorted((each for each in shown if columns[each].drop), key=lambda each: columns[each].drop)
        order.sort(key=lambda each: any(by_column[each][1:]))
        shown = _fit(columns, widths, order, shutil.get_terminal_size().columns)
    dots = encodable("…", "...")
    for number, row in enumerate(cells):
        line = "  ".join([_padded(row[each], widths[each], columns[each], dots) for each in shown]).rstrip()
        click.secho(line, bold=True) if number == 0 else click.echo(line)


def _fit(columns: Sequence[Column], widths: list[int], order: list[int], room: int) -> list[int]:
    """The columns to show within ``room``; drops them in ``order``, and reduces the widths of the others."""
    shown = list(range(len(columns)))
    least = [min(width, column.least or width) for width, column in zip(widths, columns, strict=True)]
    for each in order:
        if _total(least, shown) > room:
            shown.remove(each)
    while _total(widths, shown) > room and (wide := [each for each in shown if widths[each] > least[each]]):
        widths[max(wide, key=widths.__getitem__)] -= 1
    return shown


def _total(widths: list[int], shown: list[int]) -> int:
    return sum(widths[each] + 2 for each in shown) - 2


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _padded(text: str, width: int, column: Column, dots: str) -> str:
    length = _width(text)
    if length > width:
        from rich.cells import set_cell_size

        text = set_cell_size(text, width - len(dots))
        # A number is shown whole or not at all.
        text = (text[: text.rindex(", ") + 2] if ", " in text else text.rstrip()) + dots
        length = _width(text)
    return " " * (width - length) + text if column.right else text + " " * (width - length)
