"""``aiomutex demo``: 1,500 slot edits over 500 groups through a real server on loopback, at the service's limit."""

from __future__ import annotations

import time
from typing import Any

import click

from aiomutex.cli.common import console, fail, json_option, print_json, run

__all__ = ["demo"]

_SLOTS = 3


@click.command()
@click.option("--groups", type=click.IntRange(1, 30_000), default=500, show_default=True, help="Groups to migrate.")
@json_option
def demo(groups: int, as_json: bool) -> None:
    """Watch a migration: three slots of each of 500 groups are rewritten at 100 requests a second.

    Everything stays on this machine: a local emulator stands in for the service and judges each request by the
    service's rules and limits. It takes about 16 seconds.
    """
    result = run(lambda: _migrate(groups))
    if as_json:
        print_json(result)
    else:
        _show(result)
    if result["wrong_slots"] or result["applied"] != result["edits"]:
        fail("not every slot holds what was expected for")


async def _migrate(groups: int) -> dict[str, Any]:
    from aiomutex import MutexSession, SlotEdit
    from aiomutex.cli.progress import RunProgress
    from aiomutex.emulator import MutexEmulator

    # In a thread of its own, so that the server's work is not on the client's event loop.
    with MutexEmulator(groups=groups, slots_per_group=_SLOTS) as emulator:
        click.echo(f"An emulator of the service listens on {emulator.url}, with {groups:,} groups.", err=True)
        expected = {(key, index): [1000 + index] for key in emulator.groups for index in range(1, _SLOTS + 1)}
        edits = [SlotEdit(group, index, experiments=ids) for (group, index), ids in expected.items()]
        async with MutexSession("demo-key", base_url=emulator.url) as session:
            started = time.perf_counter()
            with RunProgress(session.rate_limiter, len(edits)) as progress:
                async with session.stream_slot_edits(edits) as outcomes:
                    async for outcome in outcomes:
                        progress.advance(outcomes, failed=outcome.error is not None)
            seconds = time.perf_counter() - started
            requests = session.rate_limiter.state().used_today
            found = await session.list_groups().collect()
        wrong = sum(slot.experiments != expected[group.id, slot.index] for group in found for slot in group.slots)
        return {
            "edits": len(edits),
            "applied": outcomes.counts["applied"],
            "requests": requests,
            "answered_429": emulator.limits.rejected,
            "busiest_second": emulator.busiest_second(),
            "seconds": round(seconds, 2),
            # A hundred may leave at once, and then a hundred a second.
            "floor_seconds": max(0.0, (len(edits) - 100) / 100),
            "read_back_slots": sum(len(group.slots) for group in found),
            "wrong_slots": wrong,
        }


def _show(result: dict[str, Any]) -> None:
    right = result["read_back_slots"] - result["wrong_slots"]
    lines = [
        ("edits applied", f"{result['applied']:,} of {result['edits']:,}"),
        ("requests", f"{result['requests']:,}"),
        ("answered 429", f"{result['answered_429']:,}"),
        ("most in a sliding second", f"{result['busiest_second']} (the service allows 100)"),
        ("seconds", f"{result['seconds']:.1f} (the limit alone takes {result['floor_seconds']:.1f})"),
        ("read back as expected", f"{right:,} of {result['read_back_slots']:,} slots"),
    ]
    out = console()
    for name, value in lines:
        out.print(f"{name:>26}  {value}")
