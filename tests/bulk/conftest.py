from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from bulk_support import left_over, session_for

from aiomutex.testing import MutexEmulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiomutex import MutexSession


@pytest.fixture
async def emulator() -> AsyncIterator[MutexEmulator]:
    """A service in this event loop: 20 groups of 3 slots, no limits."""
    async with MutexEmulator(groups=20, limits=False, keep_requests=100_000) as emulator:
        yield emulator


@pytest.fixture
async def session(emulator: MutexEmulator) -> AsyncIterator[MutexSession]:
    """An open session that is never held up. After the test nothing of a run may be left."""
    async with session_for(emulator.url) as session:
        yield session
        assert not left_over(session)
