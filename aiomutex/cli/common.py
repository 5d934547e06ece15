"""What the commands share: a session from the environment, a run that ends in an exit code, output for two readers.

People get tables and colours on a terminal; machines get JSON, or plain text through a pipe.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from rich.console import Console

    from aiomutex import MutexGroup, MutexSession

__all__ = [
    "INTERRUPTED",
    "console",
    "echo",
    "fail",
    "group_table",
    "json_option",
    "open_session",
    "print_json",
    "printable",
    "run",
]

INTERRUPTED = 130

T = TypeVar("T")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")


def open_session() -> MutexSession:
    """A session from the environment, to be used with ``async with``."""
    from aiomutex import MutexSession

    return MutexSession()


def printable(text: str, *, keep: str = "\n") -> str:
    """The text with its control characters shown, not obeyed: names may hold them, and a server's answers, too."""
    return "".join(
        character if character.isprintable() or character in keep else f"\\x{ord(character):02x}" for character in text
    )


def echo(text: str, *, err: bool = False) -> None:
    """Print lines for people."""
    click.echo(printable(text), err=err)


def fail(message: str, code: int = 1) -> NoReturn:
    """Say what went wrong on standard error, and leave with ``code``."""
    echo(f"aiomutex: {message}", err=True)
    raise click.exceptions.Exit(code)


def run(work: Callable[[], Awaitable[T]]) -> T:
    """Run ``work`` in an event loop; the library's errors become one line on standard error.

    A wrong argument or setting leaves with code 2, any other error with 1.
    """
    from aiomutex.errors import ConfigurationError, InvalidRequestError, JournalError, MutexError

    async def main() -> T:
        return await work()

    try:
        return asyncio.run(main())
    except (ConfigurationError, InvalidRequestError, JournalError) as error:
        fail(str(error), 2)
    except MutexError as error:
        fail(str(error))


def print_json(value: Any) -> None:
    """Print a value of the library as JSON, in the service's own names."""
    import msgspec

    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
    sys.stdout.flush()


def console(*, err: bool = False) -> Console:
    """A console that writes plain text where its output is no terminal."""
    from rich.console import Console

    # Names and errors hold what rich takes for markup, emoji and numbers to colour.
    made = Console(stderr=err, highlight=False, markup=False, emoji=False)
    if not made.is_terminal:
        # No terminal has a width; a table through a pipe shall not be cut to a guess of one.
        made.width = 160
    return made


_BAR = 20


def _bar(percentage: float) -> str:
    full = round(max(0, min(percentage, 100)) / 100 * _BAR)
    return "█" * full + "░" * (_BAR - full)


def _ids(items: Sequence[object]) -> str:
    most = 6
    shown = ", ".join(str(item) for item in items[:most])
    return f"{shown}, … ({len(items)})" if len(items) > most else shown


def group_table(groups: Sequence[MutexGroup]) -> Any:
    """A table of groups and their slots, with a bar for each slot's share of the users."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("ID", "KEY", "NAME", "MODE", "SLOT", "SHARE", "", "EXPERIMENTS", "HOLDOUTS", "INDIVIDUALS"):
        table.add_column(column, justify="right" if column in ("SLOT", "SHARE") else "left", overflow="fold")
    for group in groups:
        head = [group.id, group.key, group.name + (" (archived)" if group.deleted else ""), group.evaluation_mode]
        for slot in group.slots:
            cells = [
                *head,
                str(slot.index),
                f"{slot.percentage:g} %",
                _bar(slot.percentage),
                _ids(slot.experiments),
                _ids(slot.holdouts),
                _ids(slot.individuals),
            ]
            table.add_row(*(Text(printable(cell, keep="")) for cell in cells))
            head = [""] * len(head)
    return table
