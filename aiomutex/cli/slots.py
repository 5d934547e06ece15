"""``aiomutex slots``: edit one, or many from a file."""

from __future__ import annotations

from typing import Any

import click

from aiomutex.cli.bulk import bulk
from aiomutex.cli.common import echo, open_session, run

__all__ = ["slots"]


@click.group()
def slots() -> None:
    """Write the slots of mutex groups."""


@slots.command()
@click.argument("group_id")
@click.argument("slot_index", type=int)
@click.option("--experiments", metavar="ID,…", help="Whole list of experiment ids; '' for none.")
@click.option("--holdouts", metavar="ID,…", help="Whole list of holdout ids; '' for none.")
@click.option("--individuals", metavar="ID,…", help="Whole list of user or device ids; '' for none.")
@click.option("--verify", is_flag=True, help="Read the slot back, and fail if it does not hold what was written.")
def edit(group_id: str, slot_index: int, verify: bool, **lists: str | None) -> None:
    """Write the lists of one slot; lists that are not given stay as they are.

    Example: aiomutex slots edit 12345 1 --experiments 123,456
    """
    from aiomutex import SlotEdit

    given: dict[str, Any] = {
        name: _items(name, text, numbers=name != "individuals") for name, text in lists.items() if text is not None
    }

    async def work() -> None:
        async with open_session() as session:
            if not verify:
                await session.edit_slot(group_id, slot_index, **given)
                return
            report = await session.edit_slots([SlotEdit(group_id, slot_index, **given)], verify=True)
            for outcome in report.outcomes:
                if outcome.error is not None:
                    raise outcome.error

    run(work)
    echo(f"Wrote slot {slot_index} of group {group_id}{' and read it back' if verify else ''}.")


def _items(name: str, text: str, *, numbers: bool) -> list[Any]:
    items = [item.strip() for item in text.split(",")] if text.strip() else []
    if not numbers:
        return items
    try:
        return [int(item) for item in items]
    except ValueError:
        raise click.UsageError(f"--{name} {text!r} must look like 123,456, or be empty") from None


slots.add_command(bulk)
