"""What the commands on groups as code share: their exit codes, their options, a session around their work."""

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
    """A command whose wrong usage exits with 1, because 2 means changes here."""

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        """Parse the arguments."""
        try:
            return super().make_context(*args, **options)
        except click.UsageError as error:
            error.show()
            raise click.exceptions.Exit(1) from None


def run_with_session(work: Callable[[MutexSession], Awaitable[T]]) -> T:
    """Do some work with a session; each of the library's errors ends in exit code 1."""
    from aiomutex.errors import MutexError

    async def main() -> T:
        try:
            async with open_session() as session:
                return await work(session)
        except MutexError as error:
            fail(str(error))

    return run(main)


def load(file: str) -> Desired:
    """The desired state a file holds; each of its faults ends in exit code 1."""
    from aiomutex.errors import MutexError
    from aiomutex.plan import load_desired

    try:
        return load_desired(file)
    except MutexError as error:
        fail(str(error))


async def live_groups(session: MutexSession) -> list[MutexGroup]:
    """All groups of the project, as they are now."""
    return await session.list_groups().collect()
