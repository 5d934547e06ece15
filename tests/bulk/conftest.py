from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from bulk_support import left_over, session_for
from support import no_lag, until

from aiomutex.testing import MutexEmulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bulk_support import Editor
    from redis_server import RedisServer

    from aiomutex import MutexSession


@pytest.fixture(autouse=True)
def _reads_do_not_lag(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    """Runs do not wait ten seconds before they read an unexpected slot again."""
    no_lag(monkeypatch)


@pytest.fixture
async def emulator() -> AsyncIterator[MutexEmulator]:
    """A service in this event loop: 20 groups of 3 slots, no limits."""
    async with MutexEmulator(groups=20, limits=False, keep_requests=100_000) as emulator:
        yield emulator


@pytest.fixture
async def session(emulator: MutexEmulator) -> AsyncIterator[MutexSession]:
    """An open session that never waits for a permit. After the test, nothing of a run may be left."""
    async with session_for(emulator.url) as session:
        yield session
        assert not left_over(session)


@pytest.fixture(params=["session", pytest.param("fleet", marks=pytest.mark.redis)])
async def editor(request: pytest.FixtureRequest, emulator: MutexEmulator) -> AsyncIterator[Editor]:
    """What edits slots: a session, or a fleet with one worker in this process. Both keep the same promises."""
    if request.param == "session":
        async with session_for(emulator.url) as session:
            yield session
            assert not left_over(session)
        return
    from taskiq.api import run_receiver_task  # noqa: PLC0415  # only tests marked redis need taskiq

    from aiomutex.fleet import Fleet  # noqa: PLC0415

    server: RedisServer = request.getfixturevalue("redis_server")
    worker = Fleet(server.url, name="project-1", session=lambda: session_for(emulator.url))
    task = asyncio.create_task(run_receiver_task(worker.broker, run_startup=True))
    try:
        await until(lambda: hasattr(worker.broker.state, "session"))
        async with Fleet(server.url, name="project-1", batch_size=20, max_jobs=8) as fleet:
            yield fleet
            assert not left_over(fleet)
    finally:
        task.cancel()
        await asyncio.wait([task])
        await worker.broker.shutdown()
