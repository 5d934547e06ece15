"""A few promises of every layer over whatever aiohttp is installed. Prints the warnings of the import, one a line."""

from __future__ import annotations

import asyncio
import warnings
from typing import Any

import pytest

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from aiomutex import ConnectionFailedError, MutexSession, NewGroup, NewSlot

from support import ONCE, session_for, until

from aiomutex.emulator import MutexEmulator


async def run(emulator: MutexEmulator, session: MutexSession) -> None:
    limiter = session.rate_limiter
    transport: Any = session._transport  # pyright: ignore[reportPrivateUsage]

    # Reads and edits are sent again, a create is not, and each request has a permit.
    emulator.fail_next(1, status=503)
    await session.edit_slot("1", 1, experiments=[5])
    emulator.fail_next(1, kind="reset-before")
    assert (await session.get_group("1")).slots[0].experiments == [5]
    emulator.fail_next(1, after_commit=True)
    created = await session.create_group(NewGroup(project_id=1, name="n", slots=[NewSlot(percentage=100)]))
    assert [commit.method for commit in emulator.commits] == ["PATCH", "POST"]
    assert created.id in emulator.groups
    assert limiter.state().used_today == len(emulator.requests) == 6

    # aiohttp does not repeat a read by itself when a pooled connection is dead.
    once = session.with_options(retry=ONCE)
    emulator.fail_next(1, kind="reset-before")
    with pytest.raises(ConnectionFailedError):
        await once.get_group("1")
    assert limiter.state().used_today == len(emulator.requests) == 7

    # No permit is taken without a connection, and a cancelled call leaves nothing behind.
    emulator.fail_next(2, kind="stall")
    calls = [asyncio.ensure_future(session.get_group(str(number))) for number in range(1, 9)]
    await until(lambda: len(emulator.requests) == 9)
    assert limiter.state().used_today == 9
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert all(call.cancelled() for call in calls)
    assert (transport.in_flight, len(transport._timer), limiter.state().waiting) == (0, 0, 0)
    assert len(await asyncio.gather(*(session.get_group(str(number)) for number in range(1, 9)))) == 8


async def main() -> None:
    async with (
        MutexEmulator(groups=10, limits=False) as emulator,
        session_for(emulator.url, max_connections=2) as session,
    ):
        await run(emulator, session)


asyncio.run(main())
for warning in caught:
    print(f"{warning.category.__name__}: {warning.message}")
