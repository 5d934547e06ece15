"""``aiomutex emulator``: the local stand-in for the service, as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aiomutex.cli.common import fail

if TYPE_CHECKING:
    from aiomutex.emulator import MutexEmulator

__all__ = ["emulator"]


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes a free one.")
@click.option("--groups", type=click.IntRange(0), default=0, show_default=True, help="Groups there are at the start.")
@click.option("--key", help="The one API key that is accepted; any, unless given.")
@click.option("--no-limits", is_flag=True, help="Answer no 429: neither 100 a second nor 100,000 a day.")
@click.option("--used-today", type=click.IntRange(0), default=0, help="Requests of the day that are gone already.")
@click.option("--fault", "faults", multiple=True, metavar="KIND:PERCENT", help="Such as 'reset-after:2%' or '503:1%'.")
@click.option("--latency", default="0ms", show_default=True, metavar="TIME", help="Such as '80ms' or '80ms±40ms'.")
@click.option("--seed", type=int, default=0, show_default=True, help="Repeats the same faults and latencies.")
@click.option("--state", "state_file", type=click.Path(dir_okay=False), help="SQLite file that keeps the groups.")
@click.option("--dialect", type=click.Path(exists=True, dir_okay=False), help="JSON file: how the unknowns are read.")
@click.option("--cors", "cors_origin", metavar="ORIGIN", help="Let pages of this origin call it; * for any.")
@click.option("--quiet", is_flag=True, help="Log no requests.")
def emulator(groups: int, no_limits: bool, dialect: str | None, quiet: bool, **options: Any) -> None:
    """Serve a local stand-in for the service, with its rules and limits.

    Example: aiomutex emulator --groups 1000 --latency 80ms±40ms --fault 'reset-after:2%'

    Then, elsewhere: AIOMUTEX_BASE_URL=http://127.0.0.1:8080 AMPLITUDE_MANAGEMENT_API_KEY=any aiomutex groups list
    """
    from aiomutex.emulator import Dialect, MutexEmulator, serve

    logging.basicConfig(format="%(message)s", level=logging.WARNING if quiet else logging.INFO)
    try:
        made = MutexEmulator(
            groups=groups,
            limits=not no_limits,
            dialect=Dialect.from_json(Path(dialect).read_bytes()) if dialect else None,
            log=not quiet,
            **options,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None

    def ready(running: MutexEmulator) -> None:
        click.echo(f"The emulator listens on {running.url} (Ctrl-C ends it)")

    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # asyncio.run made one
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError):  # no signal handlers on Windows' loops
                asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await serve(made, on_ready=ready)

    try:
        asyncio.run(work())
    except KeyboardInterrupt:
        pass
    except ValueError as error:  # only the opened state file tells it
        fail(str(error), 2)
    except OSError as error:
        fail(f"cannot listen on {options['host']}:{options['port']}: {error.strerror}")
