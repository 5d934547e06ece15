from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from aiomutex.emulator import MutexEmulator

from .helpers import Api

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Start(Protocol):
    async def __call__(self, **options: Any) -> Api: ...


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """A function that starts an emulator with the given options; it stops after the test."""
    async with AsyncExitStack() as stack:

        async def start(*, ssl: Any = True, **options: Any) -> Api:
            return await stack.enter_async_context(Api(MutexEmulator(**options), ssl=ssl))

        yield start


@pytest.fixture
async def api(start: Start) -> Api:
    """An emulator with three generated groups and the default dialect, and a client for it."""
    return await start(groups=3)
