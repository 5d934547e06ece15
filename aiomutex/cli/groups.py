"""``aiomutex groups``: list, get, create, edit, archive."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from aiomutex.cli.common import console, echo, fail, group_table, json_option, open_session, print_json, run

if TYPE_CHECKING:
    from aiomutex import MutexGroup, NewGroup, NewSlot

__all__ = ["groups"]

_MAX_GROUP = 16 * 2**20


@click.group()
def groups() -> None:
    """Read and change mutex groups."""


@groups.command("list")
@click.option("--page-size", type=click.IntRange(1, 1000), default=1000, show_default=True, help="Groups a request.")
@json_option
def list_(page_size: int, as_json: bool) -> None:
    """Show all groups of the project.

    Example: aiomutex groups list --json | jq '.[].key'
    """

    async def work() -> list[MutexGroup]:
        async with open_session() as session:
            return await session.list_groups(page_size=page_size).collect()

    found = run(work)
    if as_json:
        print_json(found)
    elif found:
        console().print(group_table(found))
    else:
        echo("The project has no mutex groups.")


@groups.command()
@click.argument("group_id")
@json_option
def get(group_id: str, as_json: bool) -> None:
    """Show one group.

    Example: aiomutex groups get 12345
    """

    async def work() -> MutexGroup:
        async with open_session() as session:
            return await session.get_group(group_id)

    found = run(work)
    if as_json:
        print_json(found)
        return
    console().print(group_table([found]))
    if found.description:
        echo(f"\n{found.description}")


@groups.command()
@click.option("--project", "project_id", help="The project's id.")
@click.option("--name", help="What people call it.")
@click.option(
    "--slot", "slots", multiple=True, metavar="PERCENT[:EXPERIMENT,…]", help="A slot, once for each, in order."
)
@click.option("--key", help="Unique in the project; made up if not given.")
@click.option("--description", help="What it is for.")
@click.option("--evaluation-mode", type=click.Choice(["local", "remote"]), help="remote unless given.")
@click.option("--bucketing-key", help="amplitude_id unless given.")
@click.option("--bucketing-salt", help="Random unless given.")
@click.option(
    "--from", "file", type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    help="Read the group from a JSON file instead, in the service's own names; - for standard input.",
)  # fmt: skip
@json_option
def create(file: str | None, as_json: bool, **fields: Any) -> None:
    """Create a group, once: a lost answer never leads to a second one.

    Percentages, number of slots, salt, bucketing key and mode cannot be changed later.

    Example: aiomutex groups create --project 1 --name Checkout --slot 40:123,456 --slot 60
    """
    from aiomutex import InvalidRequestError

    try:
        group = _from_file(file) if file else _from_options(fields)
    except (ValueError, RecursionError, InvalidRequestError) as error:
        raise click.UsageError(str(error)) from None

    async def work() -> Any:
        async with open_session() as session:
            return await session.create_group(group)

    created = run(work)
    if as_json:
        print_json(created)
    else:
        echo(f"Created group {created.id} with key {created.key}{f' ({created.url})' if created.url else ''}")


def _from_file(file: str) -> NewGroup:
    import msgspec

    from aiomutex import NewGroup

    with click.open_file(file, "rb") as opened:
        data = opened.read(_MAX_GROUP + 1)
    if len(data) > _MAX_GROUP:
        raise click.UsageError(f"{file} has more than {_MAX_GROUP:,} bytes; a group has fewer")
    return msgspec.json.decode(data, type=NewGroup)


def _from_options(fields: dict[str, Any]) -> NewGroup:
    from aiomutex import NewGroup

    for needed in ("project_id", "name", "slots"):
        if not fields[needed]:
            raise click.UsageError(f"--{needed.removesuffix('_id').removesuffix('s')} is missing (or give --from)")
    project = fields.pop("project_id")
    return NewGroup(
        project_id=int(project) if project.isdecimal() else project,
        slots=[_slot(text) for text in fields.pop("slots")],
        **{name: value for name, value in fields.items() if value is not None},
    )


def _slot(text: str) -> NewSlot:
    from aiomutex import UNSET, NewSlot

    share, _, experiments = text.partition(":")
    try:
        ids = [int(item) for item in experiments.split(",")] if experiments else UNSET
        return NewSlot(percentage=int(share), experiments=ids)
    except ValueError:
        raise click.UsageError(f"--slot {text!r} must look like 40 or 40:123,456") from None


@groups.command()
@click.argument("group_id")
@click.option("--name", help="The new name.")
@click.option("--description", help="The new description.")
@click.option("--no-description", is_flag=True, help="Take the description away (null).")
def edit(group_id: str, name: str | None, description: str | None, no_description: bool) -> None:
    """Change a group's name or description.

    Example: aiomutex groups edit 12345 --name 'Checkout tests'
    """
    from aiomutex import UNSET

    if description is not None and no_description:
        raise click.UsageError("--description and --no-description contradict each other")

    async def work() -> None:
        async with open_session() as session:
            await session.edit_group(
                group_id,
                name=UNSET if name is None else name,
                description=None if no_description else UNSET if description is None else description,
            )

    run(work)
    echo(f"Edited group {group_id}.")


@groups.command()
@click.argument("group_id")
@click.option("--undo", is_flag=True, help="Take the group out of the archive; its experiments stay detached.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def archive(group_id: str, undo: bool, yes: bool) -> None:
    """Archive a group: its experiments no longer depend on it, which damages those that run.

    Example: aiomutex groups archive 12345
    """
    if not undo and not yes:
        if not sys.stdin.isatty():
            fail("archiving detaches experiments for good; give --yes to do it without a terminal to ask on", 2)
        click.confirm(f"Archive group {group_id}? Its experiments are detached for good", abort=True)

    async def work() -> None:
        async with open_session() as session:
            await (session.unarchive_group(group_id) if undo else session.archive_group(group_id))

    run(work)
    echo(f"{'Unarchived' if undo else 'Archived'} group {group_id}.")
