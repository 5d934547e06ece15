"""``aiomutex probe``: find out how the live service behaves where its documentation is silent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

import aiomutex
from aiomutex._util.files import open_private
from aiomutex._util.wording import counted
from aiomutex.cli.common import FilePath, call, confirm

if TYPE_CHECKING:
    import aiomutex.probe


@click.command()
@click.option("--out", type=FilePath(), help="Write the report to this file.")
@click.option(
    "--write-scratch", metavar="PROJECT_ID", help="Also create a group in this project, write to it and archive it."
)
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def probe(out: str | None, write_scratch: str | None, yes: bool) -> None:
    """Test how the service behaves where its documentation is silent."""
    if write_scratch is not None:
        confirm(f"Create a group in project {write_scratch}, write to it and archive it?", yes=yes)
    report = call(lambda session: aiomutex.probe.probe(session, write_scratch=write_scratch))
    if out is None:
        click.echo(report.to_json())
        return
    with open_private(out) as file:
        file.write(report.to_json() + "\n")
    knobs = counted(len(report.dialect) + len(report.undetermined), "dialect setting")
    click.echo(f"Wrote {out}: {len(report.dialect)} of {knobs} determined with {counted(report.requests, 'request')}")
