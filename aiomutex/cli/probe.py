"""``aiomutex probe``: which reading of the documentation holds, asked of the real service."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aiomutex.cli.common import fail, open_session, run

if TYPE_CHECKING:
    from aiomutex.probe import ProbeReport

__all__ = ["probe"]


@click.command()
@click.option("--out", type=click.Path(dir_okay=False, writable=True), help="Write the report to this file.")
@click.option(
    "--write-scratch", metavar="PROJECT_ID", help="Also create a group in this project, write to it and archive it."
)
@click.option("--yes", is_flag=True, help="Do not ask before writing.")
def probe(out: str | None, write_scratch: str | None, yes: bool) -> None:
    """Learn how the service behaves where its documentation is silent.

    At most 10 requests, which only read; with --write-scratch about 20 more, which touch no group but their own. The
    report holds no name, key, id or salt: attach it to an issue, or give it to the emulator.

    Example: aiomutex probe --out probe.json && aiomutex emulator --dialect probe.json
    """
    if write_scratch is not None and not yes:
        if not sys.stdin.isatty():
            fail("--write-scratch creates a group; give --yes to do it without a terminal to ask on", 2)
        click.confirm(f"Create a group in project {write_scratch}, write to it and archive it?", abort=True)

    async def work() -> ProbeReport:
        from aiomutex.probe import probe as ask

        async with open_session() as session:
            return await ask(session, write_scratch=write_scratch)

    report = run(work)
    text = report.to_json() + "\n"
    if out is None:
        click.echo(text, nl=False)
        return
    Path(out).write_text(text, encoding="utf-8")
    known, unread = len(report.dialect), len(report.unread)
    click.echo(f"{known} readings told, {unread} not, with {report.requests} requests: {out}")
