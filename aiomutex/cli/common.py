"""What all commands share: a session from the environment, exit codes, and output as text, tables or JSON.

Colours appear only on a terminal; a pipe gets plain text.
"""

from __future__ import annotations

import asyncio
import io
import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from rich.console import Console

    from aiomutex import MutexGroup, MutexSession

__all__ = [
    "INTERRUPTED",
    "call",
    "console",
    "echo",
    "fail",
    "group_table",
    "json_option",
    "open_session",
    "prepare_streams",
    "print_json",
    "printable",
    "run",
]

INTERRUPTED = 130
"""The exit code after Ctrl-C."""
_BAR = 20
_MAX_IDS = 6

T = TypeVar("T")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def prepare_streams() -> None:
    """Let the standard streams take any text: they escape what their encoding lacks, and closed ones lead nowhere."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            # This also takes the free descriptor, which the next file to be opened would get otherwise.
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123
        elif mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def open_session() -> MutexSession:
    """Return a session configured by the environment, for use with ``async with``."""
    from aiomutex import MutexSession

    return MutexSession()


def printable(text: str, *, keep: str = "\n") -> str:
    """Return ``text`` with control characters escaped, because names and server responses may contain them."""
    return "".join(
        character if character.isprintable() or character in keep else f"\\x{ord(character):02x}" for character in text
    )


def echo(text: str, *, err: bool = False) -> None:
    """Print ``text`` with control characters escaped."""
    click.echo(printable(text), err=err)


def fail(message: str, code: int = 1) -> NoReturn:
    """Print an error to standard error and exit with ``code``."""
    echo(f"aiomutex: {message}", err=True)
    raise click.exceptions.Exit(code)


def run(work: Callable[[], Awaitable[T]]) -> T:
    """Run ``work`` in an event loop and turn errors of the library into one line on standard error.

    The exit code is 2 for an invalid argument or setting and 1 for any other error.
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


def call(work: Callable[[MutexSession], Awaitable[T]]) -> T:
    """Run ``work`` with an open session, like ``run``."""

    async def main() -> T:
        async with open_session() as session:
            return await work(session)

    return run(main)


def print_json(value: Any) -> None:
    """Print a value as JSON, with the field names of the service."""
    import msgspec

    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
    sys.stdout.flush()


def console(*, err: bool = False) -> Console:
    """Return a console that writes plain text unless its output is a terminal."""
    from rich.console import Console

    # Names and errors may contain text that rich would read as markup or emoji.
    console = Console(stderr=err, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        # Without a terminal rich assumes 80 columns and would wrap wide tables.
        console.width = 160
    return console


def _bar(percentage: float) -> str:
    full = round(max(0, min(percentage, 100)) / 100 * _BAR)
    marks = "█░" if sys.stdout.encoding.lower().startswith("utf") else "#."
    return marks[0] * full + marks[1] * (_BAR - full)


def _ids(items: Sequence[object]) -> str:
    shown = ", ".join(str(item) for item in items[:_MAX_IDS])
    return f"{shown}, … ({len(items):,} in all)" if len(items) > _MAX_IDS else shown


def group_table(groups: Sequence[MutexGroup]) -> Any:
    """Return a table of groups and their slots, with a bar for each slot's percentage of users."""
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
