"""The root of the command line, and the list of what hangs on it."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

import click

from aiomutex.cli.common import INTERRUPTED, fail
from aiomutex.cli.demo import demo
from aiomutex.cli.emulator import emulator
from aiomutex.cli.groups import groups
from aiomutex.cli.plan import apply, lint, plan, pull
from aiomutex.cli.probe import probe
from aiomutex.cli.slots import slots
from aiomutex.cli.traffic import traffic

__all__ = ["root"]


class _Root(click.Group):
    """All commands; a file that cannot be used, and Ctrl-C, end each of them with one line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # click ends quietly
            fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        except (KeyboardInterrupt, asyncio.CancelledError):
            # A command that takes Ctrl-C into its own hands cancels its task.
            fail("interrupted", INTERRUPTED)


@click.group(
    cls=_Root,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done · 1 failed · 2 wrong usage · 130 interrupted; of plan and apply: 2 changes · 3 blocked.",
)
@click.version_option(package_name="aiomutex", message="%(prog)s %(version)s")
def root() -> None:
    """Mutex groups of Amplitude Experiment: read, edit, migrate, emulate.

    The API key comes from AMPLITUDE_MANAGEMENT_API_KEY, the region from AIOMUTEX_REGION (us or eu), another address
    of the service, such as an emulator's, from AIOMUTEX_BASE_URL.

    An independent project, not Amplitude's.
    """


for command in (demo, emulator, groups, slots, pull, plan, apply, lint, traffic, probe):
    root.add_command(command)
