"""What the commands for groups as code share: reading the file, a session, and exit code 1 for wrong usage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click

from aiomutex.cli.common import fail, open_session, run

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiomutex import MutexGroup, MutexSession
    from aiomutex.plan import Desired

__all__ = ["ExitOneCommand", "live_groups", "load", "run_with_session"]

T = TypeVar("T")


class ExitOneCommand(click.Command):
    """A command that exits with 1 on wrong usage, because 2 means changes here."""

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        """Parse the arguments."""
        try:
            return super().make_context(*args, **options)
        except click.UsageError as error:
            error.show()
            raise click.exceptions.Exit(1) from None


def run_with_session(work: Callable[[MutexSession], Awaitable[T]]) -> T:
    """Return the result of ``work(session)``; an error of this library ends the program with exit code 1."""
    from aiomutex.errors import MutexError

    async def main() -> T:
        try:
            async with open_session() as session:
                return await work(session)
        except MutexError as error:
            fail(str(error))

    return run(main)


def load(file: str) -> Desired:
    """Read a desired state; if the file is not valid, the program ends with exit code 1."""
    from aiomutex.errors import MutexError
    from aiomutex.plan import load_desired

    try:
        return load_desired(file)
    except MutexError as error:
        fail(str(error))


async def live_groups(session: MutexSession) -> list[MutexGroup]:
    """Return all groups of the project."""
    return await session.list_groups().collect()
