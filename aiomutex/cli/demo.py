"""``aiomutex demo``: edit 1,500 slots of 500 groups over HTTP on loopback, at the rate limit of the service."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import click

from aiomutex._util.wording import counted
from aiomutex.cli.common import echo, fail, json_option, print_json


@click.command()
@click.option("--groups", type=click.IntRange(1, 30_000), default=500, show_default=True, help="Groups to edit.")
@json_option
def demo(groups: int, as_json: bool) -> None:
    """Edit 1,500 slots of a local emulator at the rate limit of the service."""
    result = asyncio.run(_migrate(groups))
    if as_json:
        print_json(result)
    for name, value in () if as_json else result.items():
        echo(f"{name.replace('_', ' '):>22}  {value:,}")
    if result["wrong_slots"] or result["applied"] != result["edits"]:
        fail("some slots do not hold what was written")


async def _migrate(groups: int) -> dict[str, Any]:
    from aiomutex import MutexSession, SlotEdit
    from aiomutex.cli.run import Run
    from aiomutex.emulator import MutexEmulator

    # With a plain ``with``, the emulator runs in its own thread and does not slow down the event loop of the client.
    with MutexEmulator(groups=groups, slots_per_group=3) as emulator:
        click.echo(f"The emulator listens on {emulator.url} with {counted(groups, 'group')}.", err=True)
        expected = {(key, index): [1000 + index] for key in emulator.groups for index in (1, 2, 3)}
        edits = [SlotEdit(group, index, experiments=ids) for (group, index), ids in expected.items()]
        async with MutexSession("demo-key", base_url=emulator.url) as session:
            started = time.perf_counter()
            run = Run("edits", len(edits)).watch(session.rate_limiter)
            with run.bar:
                await session.edit_slots(edits, on_outcome=lambda outcome: run.count(outcome.status))
            seconds = time.perf_counter() - started
            requests, busiest_second = emulator.limits.accepted, emulator.busiest_second()
            actual = await session.list_groups().collect()
        wrong = sum(slot.experiments != expected[group.id, slot.index] for group in actual for slot in group.slots)
        return {
            "edits": len(edits),
            "applied": run.counts["applied"],
            "requests": requests,
            "answered_429": emulator.limits.rejected,
            "busiest_second": busiest_second,
            "seconds": round(seconds, 2),
            "read_back_slots": sum(len(group.slots) for group in actual),
            "wrong_slots": wrong,
        }
