"""``aiomutex slots``: edit one slot, or many from a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from aiomutex.cli.bulk import bulk
from aiomutex.cli.common import call, echo

if TYPE_CHECKING:
    from aiomutex import MutexSession


@click.group()
def slots() -> None:
    """Edit the slots of mutex groups."""


@slots.command()
@click.argument("group_id")
@click.argument("slot_index", type=int)
@click.option("--experiments", metavar="ID,…", help="Replace the experiments; '' for none.")
@click.option("--holdouts", metavar="ID,…", help="Replace the holdouts; '' for none.")
@click.option("--individuals", metavar="ID,…", help="Replace the user or device IDs; '' for none.")
@click.option("--verify", is_flag=True, help="Read the slot afterwards and fail if it differs.")
def edit(group_id: str, slot_index: int, verify: bool, **lists: str | None) -> None:
    """Edit one slot. Lists that are not given stay unchanged."""
    from aiomutex import SlotEdit

    given: dict[str, Any] = {
        name: _items(name, text, numbers=name != "individuals") for name, text in lists.items() if text is not None
    }

    async def work(session: MutexSession) -> None:
        if not verify:
            await session.edit_slot(group_id, slot_index, **given)
            return
        report = await session.edit_slots([SlotEdit(group_id, slot_index, **given)], verify=True)
        for outcome in report.outcomes:
            if outcome.error is not None:
                raise outcome.error

    call(work)
    echo(f"Edited slot {slot_index} of group {group_id}{' and verified it' if verify else ''}.")


def _items(name: str, text: str, *, numbers: bool) -> list[Any]:
    items = [item.strip() for item in text.split(",")] if text.strip() else []
    if not numbers:
        return items
    try:
        return [int(item) for item in items]
    except ValueError:
        raise click.UsageError(f"--{name} must be like 123,456 or empty, not {text!r}") from None


slots.add_command(bulk)
