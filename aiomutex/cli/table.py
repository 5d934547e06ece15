"""Tables of text, quick enough for thousands of rows, that fit the terminal. A pipe gets every column in full."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING, NamedTuple

import click

from aiomutex.cli.common import printable

if TYPE_CHECKING:
    from collections.abc import Sequence


class Column(NamedTuple):
    """A column, and how it may give way on a narrow terminal."""

    title: str
    right: bool = False
    least: int | None = None  # the width to which its cells may be shortened
    drop: int = 0  # its place in the order in which columns are left out, empty ones first; 0 if never


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under the titles of their columns."""
    from rich.cells import cell_len

    cells = [[column.title for column in columns], *([printable(cell, keep="") for cell in row] for row in rows)]
    by_column = list(zip(*cells, strict=True))
    widths = [max(map(cell_len, column)) for column in by_column]
    shown = list(range(len(columns)))
    if sys.stdout.isatty():
        room = shutil.get_terminal_size().columns
        least = [min(width, column.least or width) for width, column in zip(widths, columns, strict=True)]
        for each in sorted(shown, key=lambda each: (any(by_column[each][1:]), columns[each].drop)):
            if columns[each].drop and sum(least[other] + 2 for other in shown) > room + 2:
                shown.remove(each)
        while sum(widths[each] + 2 for each in shown) > room + 2 and any(widths[each] > least[each] for each in shown):
            widths[max(shown, key=lambda each: widths[each] * (widths[each] > least[each]))] -= 1
    for number, row in enumerate(cells):
        line = "  ".join([_fitted(row[each], widths[each], right=columns[each].right) for each in shown]).rstrip()
        click.secho(line, bold=True) if number == 0 else click.echo(line)


def _fitted(text: str, width: int, *, right: bool) -> str:
    from rich.cells import cell_len, set_cell_size

    if right:
        return " " * (width - cell_len(text)) + text
    if cell_len(text) > width:
        text = set_cell_size(text, width - 1)
        # A number is shown whole or not at all.
        text = (text[: text.rindex(", ") + 2] if ", " in text else text.rstrip()) + "…"
    return set_cell_size(text, width)
